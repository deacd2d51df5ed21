//! `zerostack -r`: choosing a session from a list.

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;

use super::interactive::ended;
use super::sessions::row;
use crate::report::Report;
use crate::session::{self, Summary};
use crate::supervisor::Host;
use crate::ui::term::Screen;
use crate::ui::{Theme, draw_list};

/// The id of the chosen session. Those of this directory come first.
pub async fn session(host: &Host, no_color: bool) -> Result<Option<String>, Report> {
    let mut all = session::list(&host.sessions()).map_err(Report::error)?;
    // Stable: the newest first in each of the two groups.
    all.sort_by_key(|summary| summary.directory != host.workspace);
    if all.is_empty() {
        return Err(Report::usage("there are no sessions to go on with"));
    }
    let failed = |error: std::io::Error| Report::error(format!("cannot use the terminal: {error}"));
    choose(&all, &Theme::choose(no_color)).await.map_err(failed)
}

async fn choose(all: &[Summary], theme: &Theme) -> std::io::Result<Option<String>> {
    let mut end = std::pin::pin!(ended()?);
    let mut screen = Screen::take()?;
    let mut keys = EventStream::new();
    let (mut wanted, mut chosen) = (String::new(), 0_usize);
    loop {
        let fits =
            |summary: &&Summary| row(summary).to_lowercase().contains(&wanted.to_lowercase());
        let shown: Vec<&Summary> = all.iter().filter(fits).collect();
        chosen = chosen.min(shown.len().saturating_sub(1));
        let rows: Vec<String> = shown.iter().map(|summary| row(summary)).collect();
        let title = format!("Go on with which session? {wanted}");
        let hint = "type to search, Enter to choose, Esc to leave";
        screen.terminal.draw(|frame| draw_list(frame, &title, &rows, chosen, hint, theme))?;
        let event = tokio::select! {
            event = keys.next() => event,
            () = &mut end => None,
        };
        let Some(event) = event else { return Ok(None) };
        let Event::Key(key) = event? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Esc => return Ok(None),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Ok(None);
            }
            KeyCode::Enter => return Ok(shown.get(chosen).map(|summary| summary.id.clone())),
            KeyCode::Up => chosen = chosen.saturating_sub(1),
            KeyCode::Down => chosen += 1,
            KeyCode::Backspace => drop(wanted.pop()),
            KeyCode::Char(letter) if !key.modifiers.contains(KeyModifiers::CONTROL) => {
                wanted.push(letter);
                chosen = 0;
            }
            _ => {}
        }
    }
}
