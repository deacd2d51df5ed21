//! `zerostack sessions`: looking at saved sessions and taking changes back.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use zerostack_sandbox::Launcher;

use super::{resume, start};
use crate::cli::{ModeFlags, RuleFlags, SessionsCommand};
use crate::report::Report;
use crate::session::{self, Change, Entry, Format, Journal, Loaded, Summary, Turn};
use crate::supervisor::{Broker, Cells, Host, Options, Session};
use crate::ui::text;

pub fn run(
    launcher: impl FnOnce() -> Result<Launcher, Report>,
    command: Option<SessionsCommand>,
) -> Result<u8, Report> {
    let command = command.unwrap_or(SessionsCommand::List { here: false, json: false });
    // No workspace is needed to look at sessions; only undo works in one.
    let sessions = Host::sessions_of(std::env::vars_os()).map_err(Report::error)?;
    let find = |name: &str| {
        session::find(&sessions, name)
            .map_err(|error| Report::usage(error).hint("`zerostack sessions` lists them"))
    };
    match command {
        SessionsCommand::List { here, json } => list(&sessions, here, json),
        SessionsCommand::Search { text: wanted } => {
            for (summary, line) in session::search(&sessions, &wanted).map_err(Report::error)? {
                say!("{}", row(&summary));
                say!("    {}", text::line(&line, 140));
            }
            Ok(0)
        }
        SessionsCommand::Show { session } => {
            let shown = session::export(&find(&session)?.path, Format::Markdown);
            say!("{}", text::clean(shown.map_err(Report::error)?.trim_end()));
            Ok(0)
        }
        SessionsCommand::Rename { session, name } => {
            let summary = find(&session)?;
            let mut journal = Journal::open(&summary.path).map_err(Report::error)?;
            let state = session::State { name: Some(name), ..summary.state };
            journal.add(Entry::State(state)).map_err(Report::error)?;
            Ok(0)
        }
        SessionsCommand::Delete { session } => {
            session::delete(&find(&session)?).map_err(Report::error)?;
            Ok(0)
        }
        SessionsCommand::Export { session, format, output } => {
            export(&find(&session)?, format, output.as_deref())
        }
        SessionsCommand::Import { file } => {
            let here = std::env::current_dir().map_err(Report::error)?;
            let (id, damaged) = session::import(&sessions, &file, &here).map_err(Report::error)?;
            if damaged > 0 {
                eprintln!("warning: {damaged} unreadable lines were left out");
            }
            say!("{id}");
            Ok(0)
        }
        SessionsCommand::Undo { session, turns, force } => undo(launcher()?, session, turns, force),
    }
}

/// A list, one session a line.
pub fn list(sessions: &Path, here: bool, json: bool) -> Result<u8, Report> {
    let mut all = session::list(sessions).map_err(Report::error)?;
    if here {
        let here = std::env::current_dir().map_err(Report::error)?;
        all.retain(|summary| summary.directory == here);
    }
    if json {
        say!("{}", text::json(&serde_json::to_string_pretty(&all).unwrap_or_default()));
    } else if all.is_empty() {
        eprintln!("there are no sessions");
    } else {
        all.iter().for_each(|summary| say!("{}", row(summary)));
    }
    Ok(0)
}

/// How long ago something was last said.
pub fn age(summary: &Summary) -> String {
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|now| now.as_secs().saturating_sub(summary.updated))
        .unwrap_or_default();
    match age {
        0..60 => format!("{age} s"),
        60..3600 => format!("{} min", age / 60),
        3600..86_400 => format!("{} h", age / 3600),
        _ => format!("{} d", age / 86_400),
    }
}

/// A session in one line.
pub fn row(summary: &Summary) -> String {
    let age = age(summary);
    let directory = text::line(&summary.directory.display().to_string(), 60);
    let (turns, mode) = (summary.state.turns, text::line(&summary.state.mode, 12));
    format!(
        "{}  {age:>6}  {turns:>3} turns  {mode:<11}  {}  ({directory})",
        text::line(&summary.id, 40),
        text::line(summary.label(), 60)
    )
}

/// Writes a session to a new file, in the form that its name ends with.
pub fn export_to(session: Option<PathBuf>, file: &str) -> Result<(), Report> {
    let session = session.ok_or_else(|| Report::error("this session is not saved"))?;
    if file.is_empty() {
        return Err(Report::usage("/export FILE"));
    }
    let format = match Path::new(file).extension().and_then(|kind| kind.to_str()) {
        Some("html") => Format::Html,
        Some("jsonl") => Format::Jsonl,
        _ => Format::Markdown,
    };
    let text = session::export(&session, format).map_err(Report::error)?;
    write_new(Path::new(file), &text)
}

/// Writes a file that was not there, readable by the user alone.
pub fn write_new(path: &Path, text: &str) -> Result<(), Report> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        Report::error(format!("cannot write {}: {error}", path.display()))
            .hint("an existing file is not replaced")
    })
}

/// What was taken back in a session that is open, to be brought back.
#[derive(Debug)]
pub struct TakenBack {
    turns: usize,
    changes: Vec<Change>,
}

/// The session of an open one as its file has it.
pub fn loaded(open: &Session) -> Result<Loaded, Report> {
    let path = open.record.path().ok_or_else(|| Report::error("this session is not saved"))?;
    session::load(&path).map_err(Report::error)
}

/// Takes back the last prompts of a session that is open: the files first, then what was said. Says what
/// was done, and gives what would undo that.
pub async fn take_back(open: &Session, turns: usize) -> Result<(String, TakenBack), Report> {
    let loaded = loaded(open)?;
    match loaded.turns.len() {
        0 => return Err(Report::error("there is no prompt to take back")),
        most if turns > most => {
            return Err(Report::error(format!("there are {most} prompts to take back")));
        }
        _ => {}
    }
    let (words, changes) = restored(open, &net_changes(&loaded.turns, turns), "taken back").await?;
    open.record.take_back(turns as u64);
    let what = if turns == 1 { "the last prompt".into() } else { format!("{turns} prompts") };
    let words = format!("took back {what}; what commands changed is not undone{words}");
    Ok((words, TakenBack { turns, changes }))
}

/// Brings back what was taken back.
pub async fn bring_back(open: &Session, taken: &TakenBack) -> Result<String, Report> {
    let (words, _) = restored(open, &taken.changes, "brought back").await?;
    open.record.bring_back(taken.turns as u64);
    Ok(format!("what was taken back holds again{words}"))
}

/// Restores files, all or, as far as can be told before, none of them; what was done, and what undoes it.
async fn restored(
    open: &Session,
    changes: &[Change],
    doing: &str,
) -> Result<(String, Vec<Change>), Report> {
    let nothing = |why: String| Report::error(format!("{why}; nothing was {doing}"));
    if !changes.is_empty() {
        open.broker.may_restore().map_err(nothing)?;
    }
    for change in changes {
        open.broker.restore(change, true).await.map_err(nothing)?;
    }
    let (mut words, mut back) = (String::new(), Vec::new());
    for change in changes {
        let restored = open.broker.restore(change, false).await;
        let restored = restored.map_err(|why| {
            Report::error(format!("{why}{words}\nthe conversation stays as it is"))
        })?;
        words.push_str(&format!("\nrestored {}", change.path.display()));
        back.push(restored.back);
    }
    Ok((words, back))
}

fn export(summary: &Summary, format: Format, output: Option<&Path>) -> Result<u8, Report> {
    let exported = session::export(&summary.path, format).map_err(Report::error)?;
    let Some(path) = output else {
        if std::io::stdout().is_terminal() {
            let shown = match format {
                Format::Jsonl => text::json(&exported),
                Format::Markdown | Format::Html => text::clean(&exported),
            };
            say!("{shown}");
            return Ok(0);
        }
        let written = std::io::stdout().write_all(exported.as_bytes());
        return written.map(|()| 0).map_err(Report::error);
    };
    write_new(path, &exported)?;
    Ok(0)
}

/// Takes back the last prompts: the files first, and only then what was said.
fn undo(launcher: Launcher, wanted: Option<String>, turns: u64, force: bool) -> Result<u8, Report> {
    let mut host = start::host(&[])?;
    let summary = match wanted {
        Some(name) => session::find(&host.sessions(), &name).map_err(Report::usage)?,
        None => resume::newest(&host)?,
    };
    if summary.directory != host.workspace {
        let directory = summary.directory.display();
        return Err(Report::usage(format!("session {} works in {directory}", summary.id))
            .hint(format!("cd {directory}")));
    }
    let mut journal = Journal::open(&summary.path).map_err(Report::error)?;
    let loaded = session::load(&summary.path).map_err(Report::error)?;
    let available = loaded.turns.len() as u64;
    if turns > available {
        return Err(Report::usage(format!("the session has {available} prompts to take back")));
    }
    let cells = Cells::new(launcher);
    // With the rights of the user's own settings, below the administrator's ceiling.
    let judge = start::judge(&host, &ModeFlags::default(), &RuleFlags::default())?;
    start::scan(&cells, &judge, &mut host)?;
    let runtime = start::runtime()?;
    let broker = runtime
        .block_on(Broker::start(cells, judge, host, Options::default()))
        .map_err(|error| start::start_report(&error))?;
    let mut possible = Vec::new();
    let mut left = 0;
    let changes = net_changes(&loaded.turns, turns as usize);
    if !changes.is_empty() {
        broker
            .may_restore()
            .map_err(|why| Report::error(format!("{why}; nothing was taken back")))?;
    }
    for change in changes {
        match runtime.block_on(broker.restore(&change, true)) {
            Ok(_) => possible.push(change),
            Err(why) => {
                left += 1;
                eprintln!("cannot be restored: {}", text::clean(&why));
            }
        }
    }
    if left > 0 && !force {
        return Err(Report::error("nothing was taken back")
            .hint("--force takes back the rest and leaves those files as they are"));
    }
    for change in possible {
        let name = text::clean(&change.path.display().to_string());
        match runtime.block_on(broker.restore(&change, false)) {
            Ok(_) => say!("restored {name}"),
            Err(why) => {
                left += 1;
                eprintln!("not restored: {}", text::clean(&why));
            }
        }
    }
    journal.add(Entry::Undone(turns)).map_err(Report::error)?;
    say!("took back {turns} of {available} prompts; what commands changed is not undone");
    Ok(u8::from(left > 0))
}

/// What the last turns did to each file together: from what it was before the first change to what the
/// last one made of it.
pub fn net_changes(turns: &[Turn], last: usize) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let begin = turns.len().saturating_sub(last);
    for change in turns[begin..].iter().flat_map(|turn| &turn.changes) {
        match changes.iter_mut().find(|known| known.path == change.path) {
            Some(known) => known.after.clone_from(&change.after),
            None => changes.push(change.clone()),
        }
    }
    changes
}
