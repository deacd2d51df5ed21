//! Finding sessions without reading them whole: the beginning says what a session is, the last state
//! near its end how it was left.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::{Entry, Header, Journal, Line, SessionError, State, TaskMessage};
use crate::model::Message;
use crate::nearest::nearest;

/// How much of the beginning is looked at, bytes.
const HEAD: u64 = 64 * 1024;
/// How much is looked at in one step backwards from the end, bytes.
const STEP: u64 = 64 * 1024;
/// How far back the last state is looked for, bytes.
const REACH: u64 = 64 * 1024 * 1024;

/// What a list shows of a session.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub id: String,
    pub directory: PathBuf,
    #[serde(skip)]
    pub path: PathBuf,
    /// Unix time of the last line, seconds.
    pub updated: u64,
    #[serde(skip)]
    modified: SystemTime,
    pub bytes: u64,
    /// The beginning of the first prompt.
    pub title: String,
    #[serde(flatten)]
    pub state: State,
}

impl Summary {
    /// The name, or else the first prompt.
    pub fn label(&self) -> &str {
        self.state.name.as_deref().unwrap_or(&self.title)
    }
}

/// All sessions, the newest first. What is no session is passed over.
pub fn list(sessions: &Path) -> Result<Vec<Summary>, SessionError> {
    let entries = match std::fs::read_dir(sessions) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SessionError::os("read", sessions)(error)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<Summary> = paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .filter_map(|path| summary(&path).ok().flatten())
        .collect();
    found.sort_by(|one, other| (other.modified, &other.id).cmp(&(one.modified, &one.id)));
    Ok(found)
}

fn summary(path: &Path) -> std::io::Result<Option<Summary>> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    let Some((header, title)) = head(&file)? else { return Ok(None) };
    let modified = facts.modified()?;
    let updated = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(Some(Summary {
        id: header.id,
        directory: header.directory,
        path: path.to_owned(),
        updated,
        modified,
        bytes: facts.len(),
        title,
        state: last_state(&file, facts.len())?.unwrap_or_default(),
    }))
}

/// The header and the beginning of the first prompt.
fn head(mut file: &File) -> std::io::Result<Option<(Header, String)>> {
    file.seek(SeekFrom::Start(0))?;
    let mut lines = BufReader::new(file.take(HEAD)).split(b'\n');
    let Some(Entry::Header(header)) = lines.next().transpose()?.and_then(|line| Line::parse(&line))
    else {
        return Ok(None);
    };
    let mut title = String::new();
    for line in lines {
        if let Some(Entry::Message(Message::User { text, .. })) = Line::parse(&line?) {
            let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            title = first.trim().chars().take(120).collect();
            break;
        }
    }
    Ok(Some((header, title)))
}

/// The last state in the file, looked for from its end.
fn last_state(file: &File, length: u64) -> std::io::Result<Option<State>> {
    let mark = b"\"state\":{";
    let mut end = length;
    let mut step = STEP;
    // What belongs to the line that the last step began in the middle of.
    let mut rest: Vec<u8> = Vec::new();
    while end > 0 && length - end < REACH {
        let begin = end.saturating_sub(step);
        // Larger each time, so that one very long line is not copied again and again.
        step *= 2;
        let mut bytes = vec![0; (end - begin) as usize];
        file.read_exact_at(&mut bytes, begin)?;
        bytes.extend_from_slice(&rest);
        let first = if begin == 0 {
            0
        } else {
            bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
        };
        for line in bytes[first..].split(|byte| *byte == b'\n').rev() {
            // A state begins its line; a message that quotes one does not.
            let is_state = line
                .get(..64.min(line.len()))
                .is_some_and(|start| start.windows(mark.len()).any(|part| part == mark));
            if is_state && let Some(Entry::State(state)) = Line::parse(line) {
                return Ok(Some(state));
            }
        }
        bytes.truncate(first);
        rest = bytes;
        end = begin;
    }
    Ok(None)
}

/// The session that an id, its beginning, or a name means.
pub fn find(sessions: &Path, wanted: &str) -> Result<Summary, SessionError> {
    let all = list(sessions)?;
    let named = |summary: &&Summary| {
        summary.state.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(wanted))
    };
    let mut fits: Vec<&Summary> = all.iter().filter(|summary| summary.id == wanted).collect();
    if fits.is_empty() {
        fits = all.iter().filter(named).collect();
    }
    if fits.is_empty() && !wanted.is_empty() {
        fits = all.iter().filter(|summary| summary.id.starts_with(wanted)).collect();
    }
    match fits[..] {
        [one] => Ok(one.clone()),
        [] => {
            let near = nearest(wanted, all.iter().map(Summary::label));
            let near = near.and_then(|label| all.iter().find(|summary| summary.label() == label));
            let near = near.map(|it| format!("; the nearest is {} {:?}", it.id, it.label()));
            Err(SessionError::Unknown(wanted.into(), near.unwrap_or_default()))
        }
        _ => {
            let ids: Vec<&str> = fits.iter().map(|summary| summary.id.as_str()).collect();
            Err(SessionError::Ambiguous(wanted.into(), ids.join(", ")))
        }
    }
}

/// Removes a session that nobody is using.
pub fn delete(summary: &Summary) -> Result<(), SessionError> {
    let journal = Journal::open(&summary.path)?;
    std::fs::remove_file(journal.path()).map_err(SessionError::os("remove", &summary.path))?;
    let outputs = summary.path.with_extension("outputs");
    match std::fs::remove_dir_all(&outputs) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SessionError::os("remove", outputs)(error))
        }
        _ => Ok(()),
    }
}

/// How much of the end of a file a look at it reads, bytes, and how many lines of each message it shows.
const TAIL: u64 = 64 * 1024;
const TAIL_LINES: usize = 6;

/// The end of a session's conversation, to recognise it by. What cannot be read is left out.
pub fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let (sign, text) = match Line::parse(line) {
            Some(Entry::Message(Message::User { text, .. })) => ("> ", text),
            Some(Entry::Message(Message::Assistant { text, .. })) => ("  ", text),
            _ => continue,
        };
        let lines: Vec<&str> = text.trim().lines().take(TAIL_LINES).collect();
        if !lines.is_empty() {
            parts.push(format!("{sign}{}", lines.join("\n  ")));
        }
    }
    parts[parts.len().saturating_sub(6)..].join("\n\n")
}

/// Sessions with a message that has this text in it, letters of any case, each with the line around it.
pub fn search(sessions: &Path, wanted: &str) -> Result<Vec<(Summary, String)>, SessionError> {
    let wanted = wanted.to_lowercase();
    let mut found = Vec::new();
    for summary in list(sessions)? {
        let file = File::open(&summary.path).map_err(SessionError::os("open", &summary.path))?;
        let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        let message = |entry| match entry {
            Entry::Message(message) | Entry::Task(TaskMessage { message, .. }) => Some(message),
            _ => None,
        };
        let messages = lines.filter_map(|line| Line::parse(&line)).filter_map(message);
        let hit = { messages }.find_map(|message| match message {
            Message::System { .. } => None,
            Message::User { text, .. }
            | Message::Assistant { text, .. }
            | Message::Tool { text, .. } => {
                text.lines().find(|line| line.to_lowercase().contains(&wanted)).map(str::to_owned)
            }
        });
        if let Some(line) = hit {
            found.push((summary, line.trim().to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_is_found_behind_long_lines_and_not_in_a_quotation() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), Path::new("/w")).unwrap();
        let state = State { name: Some("Tidy up".into()), turns: 3, ..State::default() };
        journal.add(Entry::Message(Message::user("first prompt\nmore"))).unwrap();
        journal.add(Entry::State(State::default())).unwrap();
        journal.add(Entry::State(state.clone())).unwrap();
        let quoted = format!("{{\"t\":1,\"state\":{{}}}}\n{}", "x".repeat(300_000));
        journal.add(Entry::Message(Message::user(quoted))).unwrap();
        let all = list(directory.path()).unwrap();
        assert_eq!((all.len(), &all[0].state), (1, &state));
        assert_eq!((all[0].title.as_str(), all[0].label()), ("first prompt", "Tidy up"));
        assert_eq!(find(directory.path(), "tidy UP").unwrap().id, journal.id());
        assert_eq!(find(directory.path(), &journal.id()[..10]).unwrap().id, journal.id());
        let error = find(directory.path(), "tidy op").unwrap_err().to_string();
        assert!(error.contains("Tidy up"), "{error}");
        assert_eq!(search(directory.path(), "MORE").unwrap()[0].1, "more");
        assert!(matches!(delete(&all[0]), Err(SessionError::InUse(_))));
        drop(journal);
        delete(&all[0]).unwrap();
        assert!(list(directory.path()).unwrap().is_empty());
    }
}
