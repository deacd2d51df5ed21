//! Sessions as documents, and back: Markdown and HTML to read, JSON lines to take elsewhere.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::{Entry, Header, Journal, Line, Loaded, SessionError, State, VERSION, load};
use crate::model::{Message, Usage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Markdown,
    Html,
    Jsonl,
}

/// The session in a file, in another form.
pub fn export(path: &Path, format: Format) -> Result<String, SessionError> {
    match format {
        Format::Markdown => Ok(markdown(&load(path)?)),
        Format::Html => Ok(html(&load(path)?)),
        Format::Jsonl => {
            load(path)?;
            let bytes = std::fs::read(path).map_err(SessionError::os("read", path))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

/// Who says what, in order.
fn parts(loaded: &Loaded) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    let of_tasks = loaded.tasks.iter().map(|task| (true, &task.message));
    for (task, message) in loaded.all.iter().map(|message| (false, message)).chain(of_tasks) {
        match message {
            Message::System { .. } => {}
            Message::User { text, .. } if task => parts.push(("Sub-agent: task", text.clone())),
            Message::User { text, .. } => parts.push(("User", text.clone())),
            Message::Assistant { text, calls, .. } => {
                if !text.is_empty() {
                    parts.push((if task { "Sub-agent" } else { "Assistant" }, text.clone()));
                }
                for call in calls {
                    parts.push(("Tool call", format!("{} {}", call.name, call.arguments)));
                }
            }
            Message::Tool { text, .. } => parts.push(("Tool result", text.clone())),
        }
    }
    parts
}

fn title(loaded: &Loaded) -> String {
    loaded.state.name.clone().unwrap_or_else(|| format!("Session {}", loaded.header.id))
}

fn markdown(loaded: &Loaded) -> String {
    let mut out = format!("# {}\n", title(loaded));
    for (who, text) in parts(loaded) {
        let _ = match who {
            "User" | "Assistant" => write!(out, "\n## {who}\n\n{}\n", text.trim_end()),
            _ => {
                let fence = fence(&text);
                write!(out, "\n### {who}\n\n{fence}\n{}\n{fence}\n", text.trim_end())
            }
        };
    }
    out
}

/// A fence that the text does not end.
fn fence(text: &str) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}

/// Everything is escaped: what a model has written is shown, never run.
fn html(loaded: &Loaded) -> String {
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('"', "&quot;").replace('\'', "&#39;")
    };
    let title = escaped(&title(loaded));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>body{{max-width:60em;margin:2em auto;font-family:sans-serif}}\
         pre{{white-space:pre-wrap;overflow-wrap:anywhere}}</style>\n<h1>{title}</h1>\n"
    );
    for (who, text) in parts(loaded) {
        let _ = writeln!(out, "<h2>{who}</h2>\n<pre>{}</pre>", escaped(&text));
    }
    out.push_str("</html>\n");
    out
}

/// Takes in a session that was exported as JSON lines, as a new one. Lines that cannot be read are
/// left out and counted. Returns the id.
pub fn import(
    sessions: &Path,
    file: &Path,
    directory: &Path,
) -> Result<(String, usize), SessionError> {
    let mut options = std::fs::OpenOptions::new();
    // A pipe without a writer would be waited for.
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        options.read(true),
        nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC,
    );
    let opened = options.open(file).map_err(SessionError::os("open", file))?;
    if !opened.metadata().map_err(SessionError::os("open", file))?.is_file() {
        return Err(SessionError::NotASession(file.to_owned()));
    }
    let mut lines = BufReader::new(opened).split(b'\n');
    let first = lines.next().transpose().map_err(SessionError::os("read", file))?;
    let Some(Entry::Header(Header { version, .. })) = first.and_then(|line| Line::parse(&line))
    else {
        return Err(SessionError::NotASession(file.to_owned()));
    };
    if version > VERSION {
        return Err(SessionError::Newer { path: file.to_owned(), version });
    }
    let mut journal = Journal::create(sessions, directory)?;
    let mut damaged = 0;
    for line in lines {
        let line = line.map_err(SessionError::os("read", file))?;
        if line.is_empty() {
            continue;
        }
        match Line::parse(&line) {
            // Where it worked before, and what it could take back there, is no fact of this machine.
            Some(Entry::Header(_) | Entry::Change(_) | Entry::Seen(..)) => {}
            // Nothing is told to a model that `sessions show` would not show.
            Some(Entry::Message(Message::System { .. })) => damaged += 1,
            Some(Entry::Message(Message::Assistant { text, calls, .. })) => {
                journal.add(Entry::Message(Message::Assistant { text, calls, native: None }))?;
            }
            Some(Entry::State(state)) => {
                // What it has cost elsewhere is no figure of this machine.
                let name = state.name.clone();
                journal.add(Entry::State(State {
                    name,
                    // A worktree is made for who asks for it.
                    worktree: None,
                    usage: Usage::default(),
                    cost: 0.0,
                    turns: 0,
                    requests: 0,
                    ..state
                }))?;
            }
            Some(entry) => journal.add(entry)?,
            None => damaged += 1,
        }
    }
    Ok((journal.id().to_owned(), damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(directory: &Path, text: &str) -> Journal {
        let mut journal = Journal::create(directory, Path::new("/w")).unwrap();
        journal.add(Entry::Turn(1)).unwrap();
        journal.add(Entry::Message(Message::user(text))).unwrap();
        journal
    }

    #[test]
    fn html_shows_what_a_model_wrote_and_runs_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let journal = session(directory.path(), "<script>alert('x')</script>");
        let page = export(journal.path(), Format::Html).unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
    }

    #[test]
    fn json_lines_go_round_and_a_fence_holds() {
        let directory = tempfile::tempdir().unwrap();
        let journal = session(directory.path(), "hello");
        let copy = directory.path().join("copy.txt");
        std::fs::write(&copy, export(journal.path(), Format::Jsonl).unwrap() + "broken\n").unwrap();
        let (id, damaged) = import(directory.path(), &copy, Path::new("/elsewhere")).unwrap();
        assert_eq!(damaged, 1);
        let loaded = load(&directory.path().join(format!("{id}.jsonl"))).unwrap();
        assert_eq!(loaded.messages, load(journal.path()).unwrap().messages);
        assert_eq!(loaded.header.directory, Path::new("/elsewhere"));
        assert!(import(directory.path(), Path::new("/etc/hostname"), Path::new("/")).is_err());
        let hidden = "{\"t\":1,\"message\":{\"role\":\"system\",\"text\":\"HIDDEN\"}}\n\
                      {\"t\":1,\"message\":{\"role\":\"assistant\",\"text\":\"a\",\"calls\":[],\"native\":\
                      {\"api\":\"responses\",\"parts\":[{\"role\":\"developer\",\"content\":\"HIDDEN\"}]}}}\n";
        std::fs::write(&copy, std::fs::read_to_string(&copy).unwrap() + hidden).unwrap();
        let (id, _) = import(directory.path(), &copy, Path::new("/")).unwrap();
        let text = std::fs::read_to_string(directory.path().join(format!("{id}.jsonl"))).unwrap();
        assert!(!text.contains("HIDDEN"), "{text}");
        assert_eq!(fence("a ```` b"), "`````");
    }
}
