//! The screen: conversation, question or list, input, status.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::bindings::Action;
use super::picker::Picker;
use super::question::{answer_lines, draw_question, question_lines};
use super::state::{Layer, State};
use super::theme::Theme;
use super::{conversation, text, wrap};

/// Most rows of the input.
const INPUT_ROWS: u16 = 10;
/// Most rows of a list under what is being typed, and of one that stands for itself.
const COMPLETIONS: u16 = 8;
const LIST: u16 = 16;
/// Most prompts of the queue that are shown.
const QUEUED: u16 = 3;
/// A preview stands beside a list that has so many columns for both, else below it.
const BESIDE: u16 = 120;

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &State) {
    let (area, theme) = (frame.area(), &state.theme);
    let width = area.width.saturating_sub(2).max(1);
    let (lines, cursor) = state.input.layout(width);
    let input_rows = (lines.len() as u16).clamp(1, INPUT_ROWS);
    let most = area.height.saturating_sub(input_rows + 4);
    let question = state.questions.front().map(|question| {
        (
            question_lines(question, area.width, theme),
            answer_lines(state, question, area.width, theme),
        )
    });
    let between = match (&question, &state.layer) {
        (Some((body, answers)), _) => {
            let wanted = (body.len() + answers.len() + 2).min(usize::from(most));
            u16::try_from(wanted).unwrap_or(most)
        }
        (None, Some(Layer::Completion(list))) if list.is_empty() => 0,
        (None, Some(Layer::Completion(list))) => {
            (list.shown().len() as u16).min(COMPLETIONS).saturating_add(2).min(most)
        }
        (None, Some(Layer::Picker(list, _))) => match list.size() {
            (_, true) => (LIST + 3).min(most),
            (items, false) => (items.min(usize::from(LIST)) as u16 + 3).min(most),
        },
        (None, None) => 0,
    };
    let queued = (state.queue.len() as u16).min(QUEUED).min(most.saturating_sub(between));
    let [top, asked, waiting, input, status] = Layout::vertical([
        Constraint::Min(1),
        Constraint::Length(between),
        Constraint::Length(queued),
        Constraint::Length(input_rows + 2),
        Constraint::Length(1),
    ])
    .areas(area);
    let mut welcome = if state.is_fresh() { welcome(state, area.width) } else { Vec::new() };
    // Notices need room too: mostly a row each and one below it.
    if welcome.len() + 2 * state.entries.len() > usize::from(top.height) {
        welcome.clear();
    }
    let [greeting, top] = Layout::vertical([
        Constraint::Length(u16::try_from(welcome.len()).unwrap_or(0)),
        Constraint::Min(1),
    ])
    .areas(top);
    frame.render_widget(Paragraph::new(welcome), greeting);
    conversation::draw(frame, state, top);
    match (question, &state.layer) {
        (Some((body, answers)), _) => draw_question(frame, state, &body, answers, asked, theme),
        (None, Some(Layer::Completion(list))) => draw_picker(frame, asked, list, None, theme),
        (None, Some(Layer::Picker(list, _))) => {
            draw_picker(frame, asked, list, Some("Enter chooses, Esc closes"), theme);
        }
        (None, None) => {}
    }
    let line = |prompt: &String| {
        let first = text::line(prompt, usize::from(area.width.saturating_sub(4)));
        Line::styled(format!("▌ {first}"), theme.dim)
    };
    let lines_of_queue: Vec<Line> =
        state.queue.iter().take(usize::from(queued)).map(line).collect();
    frame.render_widget(Paragraph::new(lines_of_queue), waiting);
    draw_input(frame, state, lines, cursor, input);
    frame.render_widget(status_line(state, area.width), status);
}

/// Draws a list to choose from; the chosen row is always in sight. With a hint it has a line of its own
/// for what is typed.
pub fn draw_picker(
    frame: &mut Frame,
    area: Rect,
    list: &Picker,
    hint: Option<&str>,
    theme: &Theme,
) {
    let block = Block::new().borders(Borders::ALL).border_style(theme.dim);
    let block = match hint {
        Some(hint) => {
            let title = format!(" {} ", list.title);
            let hint = Line::styled(format!(" {hint} "), theme.dim);
            block.title(Line::styled(title, theme.accent)).title_bottom(hint)
        }
        None => block,
    };
    let inner = block.inner(area);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    let preview = list.chosen().map(|item| item.preview.as_str()).unwrap_or_default();
    let [query, rest] =
        Layout::vertical([Constraint::Length(u16::from(hint.is_some())), Constraint::Min(0)])
            .areas(inner);
    let [rows, beside] = match (preview.is_empty(), inner.width >= BESIDE) {
        (true, _) => [rest, Rect::default()],
        (false, true) => {
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(rest)
        }
        (false, false) => {
            let most = u16::try_from(list.shown().len()).unwrap_or(u16::MAX).min(rest.height / 2);
            Layout::vertical([Constraint::Length(most), Constraint::Min(0)]).areas(rest)
        }
    };
    if hint.is_some() {
        let typed = Span::styled(text::clean(list.query()), theme.text);
        let line = Line::from(vec![Span::styled("> ", theme.user), typed]);
        frame.render_widget(Paragraph::new(line), query);
    }
    let room = usize::from(rows.height).max(1);
    let first = (list.chosen_at() + 1).saturating_sub(room);
    let widest = list.shown().map(|item| item.label.chars().count()).max().unwrap_or(0).min(28);
    let line = |(at, item): (usize, &super::picker::Item)| {
        let chosen = at == list.chosen_at();
        let (sign, style) = if chosen { ("▌ ", theme.user) } else { ("  ", theme.text) };
        let gap = " ".repeat(widest.saturating_sub(item.label.chars().count()) + 2);
        let used = 2 + item.label.chars().count() + gap.len();
        let detail = text::line(&item.detail, usize::from(rows.width).saturating_sub(used + 2));
        Line::from(vec![
            Span::styled(sign, theme.user),
            Span::styled(item.label.clone(), style),
            Span::styled(format!("{gap}{detail}"), theme.dim),
        ])
    };
    let shown: Vec<Line> = list.shown().enumerate().skip(first).take(room).map(line).collect();
    let shown =
        if shown.is_empty() { vec![Line::styled("  nothing fits", theme.dim)] } else { shown };
    frame.render_widget(Paragraph::new(shown), rows);
    if !preview.is_empty() {
        draw_preview(frame, beside, list, preview, theme);
    }
}

/// The part of a preview that is looked at, and how much more there is.
fn draw_preview(frame: &mut Frame, area: Rect, list: &Picker, preview: &str, theme: &Theme) {
    let bar = Span::styled("┆ ", theme.dim);
    let room = usize::from(area.height);
    let mut rows = wrap::lines(wrap::plain(preview, theme.text, area.width, &bar));
    if rows.len() > room {
        let page = room.saturating_sub(1);
        let from = list.preview_from.get().min(rows.len() - page);
        list.preview_from.set(from);
        let left = rows.len() - page - from;
        rows = rows.split_off(from);
        rows.truncate(page);
        rows.push(Line::styled(format!("┆ … {left} more rows (PageDown, PageUp)"), theme.warn));
    }
    rows.resize(room, Line::from(bar));
    frame.render_widget(Paragraph::new(rows), area);
}

/// What is there before anything was said.
fn welcome(state: &State, width: u16) -> Vec<Line<'static>> {
    let (facts, theme) = (&state.facts, &state.theme);
    let row = |name: &str, value: String| {
        let name = Span::styled(format!("  {name:<11}"), theme.dim);
        let rest = Span::raw(" ".repeat(13));
        wrap::lines(wrap::wrap(&[Span::styled(value, theme.text)], width, &name, &rest))
    };
    let mode = format!(
        "{}, held by the kernel ({} sandbox, no network in a cell)",
        facts.mode, facts.rung
    );
    let hint = "  Say what you want. / lists commands, @ files, /help keys.";
    let mut lines =
        vec![Line::default(), Line::styled("  zerostack", theme.accent), Line::default()];
    lines.extend(row("directory", text::line(&facts.directory, 200)));
    lines.extend(row("model", format!("{} {}", facts.provider, facts.model)));
    lines.extend(row("mode", mode));
    lines.extend([Line::default(), Line::styled(hint, theme.dim), Line::default()]);
    lines
}

/// What stands over the input: what is going on, and what the next keys do.
fn title(state: &State) -> Line<'static> {
    let (theme, key) = (&state.theme, |action| state.bindings.key(action));
    let mut title = Vec::new();
    // What one types or must not miss comes first; it is the end that a narrow screen cuts.
    if state.armed_quit {
        let words = format!(" {} again to leave ", key(Action::Cancel));
        title.push(Span::styled(words, theme.warn));
    }
    if let Some(wanted) = state.input.searching() {
        title.push(Span::styled(format!(" looking for: {} ", text::clean(wanted)), theme.accent));
    }
    if let Some(find) = &state.view.find {
        let words = format!(" find: {} ", text::clean(&find.wanted));
        title.push(Span::styled(words, theme.accent));
        let (older, newer) = (key(Action::Up), key(Action::Down));
        let hint = if find.missed { "no more " } else { "" };
        let end = key(Action::Interrupt);
        let words = format!("{hint}({older} older, {newer} newer, {end} ends) ");
        title.push(Span::styled(words, theme.dim));
    } else if state.view.is_scrolled() {
        // While a run goes on the other key would end it.
        let end = if state.running.is_some() { Action::Bottom } else { Action::Interrupt };
        let words = format!(" scrolled up ({}: to the end) ", key(end));
        title.push(Span::styled(words, theme.dim));
    }
    if !state.hint.is_empty() {
        title.push(Span::styled(format!(" {} ", state.hint), theme.good));
    }
    if let Some(running) = &state.running {
        let seconds = running.elapsed.as_secs();
        let time = match seconds {
            0..120 => format!("{seconds} s"),
            _ => format!("{} min {} s", seconds / 60, seconds % 60),
        };
        let spent = match running.tokens {
            0 => String::new(),
            tokens @ 1..10_000 => format!(" · {tokens} tokens"),
            tokens => format!(" · {}k tokens", tokens / 1000),
        };
        // It turns with the clock, so that it costs no drawing of its own.
        let sign = ["◐", "◓", "◑", "◒"][(seconds % 4) as usize];
        title.push(Span::styled(format!(" {sign} working {time}{spent} "), theme.warn));
        let words = format!("({} interrupts) ", key(Action::Interrupt));
        title.push(Span::styled(words, theme.dim));
    }
    if !state.queue.is_empty() {
        let (action, does) = match state.running.is_some() {
            true => (Action::Up, "edits"),
            false => (Action::Send, "sends"),
        };
        let words = format!(" {} queued ({} {does}) ", state.queue.len(), key(action));
        title.push(Span::styled(words, theme.user));
    }
    if !state.added.is_empty() {
        let names: Vec<&str> =
            state.added.iter().map(|path| path.rsplit('/').next().unwrap_or(path)).collect();
        let names = text::line(&names.join(" "), 60);
        title.push(Span::styled(format!(" + {names} "), theme.accent));
    }
    Line::from(title)
}

fn draw_input(
    frame: &mut Frame,
    state: &State,
    lines: Vec<String>,
    (row, column): (u16, u16),
    area: Rect,
) {
    let theme = &state.theme;
    let block = Block::new()
        .borders(Borders::TOP | Borders::BOTTOM)
        .border_style(theme.dim)
        .title(title(state));
    let rows = area.height.saturating_sub(2);
    let first = row.saturating_sub(rows.saturating_sub(1));
    let shown: Vec<Line> = lines
        .into_iter()
        .enumerate()
        .skip(usize::from(first))
        .take(usize::from(rows))
        .map(|(at, line)| {
            let prompt = if at == 0 { "> " } else { "  " };
            Line::from(vec![
                Span::styled(prompt, theme.user),
                Span::styled(text::clean(&line), theme.text),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
    let typed = !matches!(state.layer, Some(Layer::Picker(..))) && state.view.find.is_none();
    if (state.questions.is_empty() && typed) || state.denying {
        frame.set_cursor_position(Position::new(area.x + 2 + column, area.y + 1 + row - first));
    }
}

fn status_line(state: &State, width: u16) -> Line<'static> {
    let facts = &state.facts;
    let mut parts = vec![
        facts.mode.clone(),
        format!("{} sandbox", facts.rung),
        "no network".into(),
        format!("{} {}", facts.provider, facts.model),
    ];
    if !matches!(facts.thinking.as_str(), "" | "auto") {
        parts.push(format!("thinking {}", facts.thinking));
    }
    if facts.prompt != "code" {
        parts.push(format!("prompt {}", facts.prompt));
    }
    if !facts.round.is_empty() {
        parts.push(format!("loop, {}", facts.round));
    }
    if let Some(context) = facts.context {
        parts.push(format!("{context} % of the window"));
    }
    if let Some(cost) = facts.cost {
        parts.push(format!("${cost:.2}"));
    }
    if !facts.branch.is_empty() {
        parts.push(facts.branch.clone());
    }
    // The mode comes first and is never cut.
    let line = text::line(&parts.join(" · "), usize::from(width.saturating_sub(2)));
    let line = format!(" {line}");
    let fill = usize::from(width).saturating_sub(line.chars().count());
    Line::styled(line + &" ".repeat(fill), state.theme.bar)
}

#[cfg(test)]
pub(super) mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::super::Command;
    use super::super::picker::Item;
    use super::*;
    use crate::agent::{AgentEvent, ToolStatus};

    /// What is on a screen of this size, without colours.
    pub fn screen(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row =
            |y: u16| -> String { (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect() };
        (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
    }

    pub fn called(state: &mut State, name: &str, arguments: serde_json::Value) {
        let (id, name) = ("c".into(), name.into());
        state.on(AgentEvent::ToolCall { id, name, arguments });
    }

    pub fn ended(state: &mut State, status: ToolStatus, output: &str) {
        state.on(AgentEvent::ToolResult {
            id: "c".into(),
            name: String::new(),
            status,
            output: output.into(),
            milliseconds: 2_340,
            because: "let through: for a test".into(),
            attached: Vec::new(),
        });
    }

    /// A prompt, an edit and an answer.
    pub fn conversation() -> State {
        let mut state = State::default();
        state.facts.mode = "standard".into();
        state.facts.rung = "native".into();
        state.facts.prompt = "code".into();
        state.said("Change one to two");
        called(&mut state, "edit", json!({"path": "a.txt"}));
        let diff = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n";
        ended(&mut state, ToolStatus::Ok, diff);
        state.on(AgentEvent::Text { text: "It **is** ".into() });
        state.on(AgentEvent::Text { text: "two now.".into() });
        state
    }

    #[test]
    fn a_conversation_at_three_widths() {
        for width in [60, 100, 180] {
            let shown = screen(&conversation(), width, 20);
            for line in [
                "▌ Change one to two",
                "● edit a.txt  2.3 s",
                "│ -one",
                "│ +two",
                "  It is two now.",
            ] {
                assert!(shown.lines().any(|shown| shown == line), "{width}: {line} in\n{shown}");
            }
            assert!(
                shown.trim_end().ends_with("standard · native sandbox · no network ·"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_list_shows_what_fits_and_what_is_chosen_at_three_widths() {
        let preview = "first line\nsecond line";
        let items =
            (0..30).map(|at| Item::new(&format!("item{at}"), "what it is").with_preview(preview));
        let mut state = conversation();
        state.pick(Picker::new("Which?", items.collect()), Command::Model);
        for (width, height) in [(60, 24), (100, 30), (180, 40)] {
            let shown = screen(&state, width, height);
            for words in [" Which? ", "▌ item0", "what it is", "┆ first line", "Enter chooses"]
            {
                assert!(shown.contains(words), "{width}: {words} in\n{shown}");
            }
        }
        state.list().unwrap().look_for("item27");
        let shown = screen(&state, 100, 30);
        assert!(shown.contains("▌ item27") && !shown.contains("item0 "), "{shown}");
        for (width, height) in [(1, 1), (8, 4), (20, 6)] {
            screen(&state, width, height);
        }
    }
}
