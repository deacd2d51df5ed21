//! Saved sessions: one append-only file of JSON lines each. What has been written is readable after a
//! kill at any byte; what cannot be read is skipped and counted, never removed.

mod export;
mod journal;
mod list;
mod load;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Message, Usage};

pub use export::{Format, export, import};
pub use journal::{Journal, fresh_id};
pub use list::{Summary, delete, find, list, search, tail};
pub use load::{Loaded, Turn, load};

/// Version of the lines.
const VERSION: u32 = 1;

/// First line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub version: u32,
    pub id: String,
    /// The directory the session works in.
    pub directory: PathBuf,
}

/// What a resumed session starts from; the last one in the file counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    pub name: Option<String>,
    pub provider: String,
    /// Where the provider was: to notice that a conversation would go elsewhere, never to go there.
    pub base_url: String,
    pub model: String,
    pub mode: String,
    pub prompt: String,
    /// The worktree that it works in, if it does: branch and directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worktree: Option<(String, PathBuf)>,
    /// Prompts so far.
    pub turns: u64,
    /// Model requests so far.
    pub requests: u64,
    pub usage: Usage,
    /// US dollars, as far as prices are known.
    pub cost: f64,
}

/// A file that a tool has changed, with what it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub path: PathBuf,
    /// The text before; `None` if there was no file.
    pub before: Option<String>,
    /// Hash of the text after; empty if there is no file.
    pub after: String,
}

/// Earlier messages were replaced by a summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    pub summary: String,
    /// How many of the newest messages stayed.
    pub kept: usize,
    /// Tokens before and after.
    pub before: u64,
    pub after: u64,
}

/// A message of a sub-agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskMessage {
    /// The call that started it.
    pub call: String,
    pub message: Message,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Header(Header),
    State(State),
    /// A prompt of the user follows.
    Turn(u64),
    Message(Message),
    /// A piece of an answer that was shown before the answer was whole.
    Partial(String),
    Compaction(Compaction),
    Change(Change),
    /// What a file was when a tool had last seen it: path and hash.
    Seen(PathBuf, String),
    /// So many of the last turns were taken back.
    Undone(u64),
    /// So many of the turns that were taken back last hold again.
    Redone(u64),
    Task(TaskMessage),
}

/// A line as it stands in the file: the time and one of the fields.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    /// Unix time, seconds.
    t: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compaction: Option<Compaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<(PathBuf, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undone: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redone: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<TaskMessage>,
}

impl Line {
    fn new(t: u64, entry: Entry) -> Line {
        let mut line = Line { t, ..Line::default() };
        match entry {
            Entry::Header(header) => line.session = Some(header),
            Entry::State(state) => line.state = Some(state),
            Entry::Turn(number) => line.turn = Some(number),
            Entry::Message(message) => line.message = Some(message),
            Entry::Partial(text) => line.partial = Some(text),
            Entry::Compaction(compaction) => line.compaction = Some(compaction),
            Entry::Change(change) => line.change = Some(change),
            Entry::Seen(path, hash) => line.seen = Some((path, hash)),
            Entry::Undone(turns) => line.undone = Some(turns),
            Entry::Redone(turns) => line.redone = Some(turns),
            Entry::Task(message) => line.task = Some(message),
        }
        line
    }

    fn entry(self) -> Option<Entry> {
        None.or(self.session.map(Entry::Header))
            .or(self.state.map(Entry::State))
            .or(self.turn.map(Entry::Turn))
            .or(self.message.map(Entry::Message))
            .or(self.partial.map(Entry::Partial))
            .or(self.compaction.map(Entry::Compaction))
            .or(self.change.map(Entry::Change))
            .or(self.seen.map(|(path, hash)| Entry::Seen(path, hash)))
            .or(self.undone.map(Entry::Undone))
            .or(self.redone.map(Entry::Redone))
            .or(self.task.map(Entry::Task))
    }

    /// `None` for a line that cannot be read or says nothing that is known.
    fn parse(bytes: &[u8]) -> Option<Entry> {
        serde_json::from_slice::<Line>(bytes).ok()?.entry()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot {doing} {path}: {error}")]
    Os { doing: &'static str, path: PathBuf, error: std::io::Error },
    #[error("session {0} is in use by another zerostack")]
    InUse(String),
    #[error("{0} is no session: its first line does not say what it is")]
    NotASession(PathBuf),
    #[error("{path} was written by a newer zerostack (version {version} of the format)")]
    Newer { path: PathBuf, version: u32 },
    #[error("there is no session {0:?}{1}")]
    Unknown(String, String),
    #[error("{0:?} means more than one session: {1}")]
    Ambiguous(String, String),
    #[error("{0}")]
    Import(String),
}

impl SessionError {
    fn os(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> SessionError {
        let path = path.into();
        move |error| SessionError::Os { doing, path, error }
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}
