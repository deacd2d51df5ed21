//! Reading a session back to the state it was left in.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::{Change, Entry, Header, Line, SessionError, State, TaskMessage, VERSION};
use crate::model::{Message, ToolCall};

/// What a model is told about a call that was running when the session ended.
const INTERRUPTED: &str = "(interrupted: the session ended before this call did)";

/// A session as it was left.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub header: Header,
    pub state: State,
    /// The conversation as it goes on, without the system prompt; each call has its result.
    pub messages: Vec<Message>,
    /// Everything that was said, also what a summary stands for by now.
    pub all: Vec<Message>,
    /// What sub-agents said, by the call that started them.
    pub tasks: Vec<TaskMessage>,
    /// The user's prompts, in order.
    pub turns: Vec<Turn>,
    /// Hashes of files as tools last saw them.
    pub seen: HashMap<PathBuf, String>,
    /// Lines that could not be read.
    pub damaged: usize,
}

/// One prompt and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    pub changes: Vec<Change>,
    /// Where it begins in all that was said.
    begins: usize,
    /// What was summarised at that time.
    summarised: Summarised,
}

/// The part of a conversation that a summary stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Summarised {
    /// How many of all messages.
    messages: usize,
    summary: Option<String>,
}

impl Loaded {
    /// What the user said in a turn.
    pub fn prompt_of(&self, turn: &Turn) -> &str {
        match self.all.get(turn.begins) {
            Some(Message::User { text, .. }) => text,
            _ => "",
        }
    }
}

/// Reads the session in a file.
pub fn load(path: &Path) -> Result<Loaded, SessionError> {
    let file = std::fs::File::open(path).map_err(SessionError::os("open", path))?;
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    let mut loading: Option<Loading> = None;
    let mut damaged = 0;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(SessionError::os("read", path))?;
        if length == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match (Line::parse(&line), &mut loading) {
            (Some(Entry::Header(header)), None) => {
                if header.version > VERSION {
                    let (path, version) = (path.to_owned(), header.version);
                    return Err(SessionError::Newer { path, version });
                }
                loading = Some(Loading::new(header));
            }
            (Some(entry), Some(loading)) => loading.take(entry),
            _ => damaged += 1,
        }
    }
    let loading = loading.ok_or_else(|| SessionError::NotASession(path.to_owned()))?;
    Ok(loading.finish(damaged))
}

#[derive(Debug)]
struct Loading {
    loaded: Loaded,
    partial: String,
    summarised: Summarised,
    /// What was taken back and can hold again, until something new is said.
    taken: Vec<Taken>,
}

#[derive(Debug)]
struct Taken {
    turn: Turn,
    messages: Vec<Message>,
    summarised: Summarised,
}

impl Loading {
    fn new(header: Header) -> Loading {
        let loaded = Loaded {
            header,
            state: State::default(),
            messages: Vec::new(),
            all: Vec::new(),
            tasks: Vec::new(),
            turns: Vec::new(),
            seen: HashMap::new(),
            damaged: 0,
        };
        let summarised = Summarised::default();
        Loading { loaded, partial: String::new(), summarised, taken: Vec::new() }
    }

    fn take(&mut self, entry: Entry) {
        let loaded = &mut self.loaded;
        match entry {
            Entry::Header(_) => {}
            Entry::Task(message) => loaded.tasks.push(message),
            Entry::State(state) => loaded.state = state,
            Entry::Partial(text) => self.partial.push_str(&text),
            Entry::Turn(_) => {
                self.settle();
                self.taken.clear();
                self.loaded.turns.push(Turn {
                    changes: Vec::new(),
                    begins: self.loaded.all.len(),
                    summarised: self.summarised.clone(),
                });
            }
            // What a model is told by the program is made anew each time.
            Entry::Message(Message::System { .. }) => {}
            Entry::Message(message) => {
                match &message {
                    Message::Tool { .. } => {}
                    Message::Assistant { .. } => {
                        self.partial.clear();
                        self.settle();
                    }
                    _ => self.settle(),
                }
                self.loaded.all.push(message);
            }
            Entry::Change(change) => {
                if let Some(turn) = loaded.turns.last_mut() {
                    turn.changes.push(change);
                }
            }
            Entry::Seen(path, hash) => {
                loaded.seen.insert(path, hash);
            }
            Entry::Compaction(compaction) => {
                // An answer that broke off because it was too long is asked for again.
                self.partial.clear();
                self.settle();
                self.summarised = Summarised {
                    messages: self.loaded.all.len().saturating_sub(compaction.kept),
                    summary: Some(compaction.summary),
                };
            }
            Entry::Undone(turns) => {
                self.settle();
                self.take_back(turns);
            }
            Entry::Redone(turns) => self.bring_back(turns),
        }
    }

    fn take_back(&mut self, turns: u64) {
        for _ in 0..turns {
            let Some(turn) = self.loaded.turns.pop() else { return };
            let messages = self.loaded.all.split_off(turn.begins.min(self.loaded.all.len()));
            let summarised = std::mem::replace(&mut self.summarised, turn.summarised.clone());
            self.taken.push(Taken { turn, messages, summarised });
        }
    }

    fn bring_back(&mut self, turns: u64) {
        for _ in 0..turns {
            let Some(Taken { turn, messages, summarised }) = self.taken.pop() else { return };
            self.loaded.turns.push(turn);
            self.loaded.all.extend(messages);
            self.summarised = summarised;
        }
    }

    /// Ends what was going on when the session broke off: a shown piece of an answer becomes the
    /// answer, a call without a result gets one that says so.
    fn settle(&mut self) {
        pair(&mut self.loaded.all);
        let text = std::mem::take(&mut self.partial);
        if !text.is_empty() {
            let calls = Vec::new();
            self.loaded.all.push(Message::Assistant { text, calls, native: None });
        }
    }

    fn finish(mut self, damaged: usize) -> Loaded {
        self.settle();
        let Summarised { messages, summary } = self.summarised;
        let rest = self.loaded.all[messages.min(self.loaded.all.len())..].iter();
        // Where lines were damaged, the rest may begin with results whose calls are gone.
        let rest = rest.skip_while(|message| matches!(message, Message::Tool { .. }));
        self.loaded.messages =
            summary.map(Message::user).into_iter().chain(rest.cloned()).collect();
        self.loaded.damaged = damaged;
        self.loaded
    }
}

/// Puts the results behind the last answer into the order of its calls, one for each.
fn pair(messages: &mut Vec<Message>) {
    let is_tool = |message: &Message| matches!(message, Message::Tool { .. });
    let end = messages.iter().rposition(|message| !is_tool(message));
    let Some(end) = end else {
        messages.clear();
        return;
    };
    let mut results = messages.split_off(end + 1);
    let calls: &[ToolCall] = match &messages[end] {
        Message::Assistant { calls, .. } => calls,
        _ => &[],
    };
    let mut ordered = Vec::with_capacity(calls.len());
    for call in calls {
        let of_call = |message: &Message| matches!(message, Message::Tool { call_id, .. } if *call_id == call.id);
        ordered.push(match results.iter().position(of_call) {
            Some(at) => results.swap_remove(at),
            None => Message::Tool {
                call_id: call.id.clone(),
                text: INTERRUPTED.into(),
                attachments: Vec::new(),
                failed: true,
            },
        });
    }
    messages.extend(ordered);
}

#[cfg(test)]
mod tests {
    use super::super::{Compaction, Journal};
    use super::*;
    use proptest::prelude::*;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.into(), name: "read".into(), arguments: "{}".into() }
    }

    fn result(id: &str) -> Entry {
        Entry::Message(Message::Tool {
            call_id: id.into(),
            text: format!("result {id}"),
            attachments: Vec::new(),
            failed: false,
        })
    }

    fn answer(text: &str, calls: &[&str]) -> Entry {
        let calls = calls.iter().map(|id| call(id)).collect();
        Entry::Message(Message::Assistant { text: text.into(), calls, native: None })
    }

    fn written(entries: Vec<Entry>) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), Path::new("/w")).unwrap();
        entries.into_iter().for_each(|entry| journal.add(entry).unwrap());
        let path = journal.path().to_owned();
        (directory, path)
    }

    fn conversation() -> Vec<Entry> {
        vec![
            Entry::Turn(1),
            Entry::Message(Message::user("one")),
            answer("", &["a", "b"]),
            result("b"),
            result("a"),
            Entry::Partial("do".into()),
            Entry::Partial("ne".into()),
            answer("done", &[]),
            Entry::Turn(2),
            Entry::Message(Message::user("two")),
            answer("", &["c"]),
        ]
    }

    /// What every server asks of a conversation.
    fn is_sound(messages: &[Message]) -> bool {
        let mut open: Vec<String> = Vec::new();
        for message in messages {
            match message {
                Message::Tool { call_id, .. } => {
                    let Some(at) = open.iter().position(|id| id == call_id) else { return false };
                    open.remove(at);
                }
                _ if !open.is_empty() => return false,
                Message::Assistant { calls, .. } => {
                    open = calls.iter().map(|call| call.id.clone()).collect();
                }
                _ => {}
            }
        }
        open.is_empty()
    }

    #[test]
    fn results_are_put_in_order_and_open_calls_are_ended() {
        let (_keep, path) = written(conversation());
        let loaded = load(&path).unwrap();
        assert!(is_sound(&loaded.messages), "{:?}", loaded.messages);
        assert_eq!((loaded.messages.len(), loaded.turns.len(), loaded.damaged), (8, 2, 0));
        assert!(matches!(&loaded.messages[2], Message::Tool { call_id, .. } if call_id == "a"));
        assert!(matches!(&loaded.messages[7], Message::Tool { text, .. } if text == INTERRUPTED));
    }

    #[test]
    fn what_was_shown_of_a_broken_answer_is_kept() {
        let mut entries = conversation();
        entries.truncate(7);
        let (_keep, path) = written(entries);
        let loaded = load(&path).unwrap();
        assert!(
            matches!(loaded.messages.last(), Some(Message::Assistant { text, .. }) if text == "done")
        );
    }

    #[test]
    fn turns_can_be_taken_back_and_summaries_replace() {
        let mut entries = conversation();
        entries.push(result("c"));
        entries.push(Entry::Undone(1));
        let (_keep, path) = written(entries.clone());
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.messages.len(), loaded.turns.len()), (5, 1));

        let compaction = Compaction { summary: "s".into(), kept: 1, before: 9, after: 1 };
        entries.push(Entry::Compaction(compaction));
        let (_keep, path) = written(entries);
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.messages.len(), 2);
        assert_eq!(loaded.messages[0], Message::user("s"));
        assert_eq!((loaded.turns.len(), loaded.all.len()), (1, 5));
    }

    #[test]
    fn a_turn_that_was_summarised_is_taken_back_to_what_was_before_it() {
        let mut entries = conversation();
        entries.push(result("c"));
        let compaction = Compaction { summary: "s".into(), kept: 0, before: 9, after: 1 };
        entries.push(Entry::Compaction(compaction));
        entries.push(answer("two is done", &[]));
        let (_keep, path) = written(entries.clone());
        assert_eq!(load(&path).unwrap().messages.len(), 2);
        entries.push(Entry::Undone(1));
        let (_keep, path) = written(entries);
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.messages.len(), loaded.turns.len()), (5, 1));
        assert_eq!(loaded.messages[0], Message::user("one"));
    }

    #[test]
    fn a_second_writer_is_refused_and_another_format_is_not_guessed() {
        let (_keep, path) = written(conversation());
        let journal = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(SessionError::InUse(_))));
        drop(journal);
        std::fs::write(
            &path,
            "{\"t\":1,\"session\":{\"version\":9,\"id\":\"x\",\"directory\":\"/\"}}\n",
        )
        .unwrap();
        assert!(matches!(load(&path), Err(SessionError::Newer { version: 9, .. })));
        std::fs::write(&path, "hello\n").unwrap();
        assert!(matches!(load(&path), Err(SessionError::NotASession(_))));
    }

    proptest! {
        /// Cut anywhere behind the first line, damaged anywhere: it loads, the conversation is sound,
        /// and after one more line that line is there.
        #[test]
        fn a_file_that_is_cut_or_damaged_anywhere_loads(
            cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            damage in any::<bool>(),
        ) {
            let mut entries = conversation();
            let compaction = Compaction { summary: "s".into(), kept: 3, before: 9, after: 1 };
            entries.insert(8, Entry::Compaction(compaction));
            let (_keep, path) = written(entries);
            let mut bytes = std::fs::read(&path).unwrap();
            let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            if damage {
                let at = first + at.index(bytes.len() - first);
                bytes[at] = byte;
            }
            bytes.truncate(first + cut.index(bytes.len() - first + 1));
            std::fs::write(&path, &bytes).unwrap();
            let before = load(&path).unwrap();
            prop_assert!(is_sound(&before.messages));
            let mut journal = Journal::open(&path).unwrap();
            journal.add(Entry::Turn(9)).unwrap();
            journal.add(Entry::Message(Message::user("more"))).unwrap();
            let after = load(&path).unwrap();
            prop_assert!(is_sound(&after.messages));
            prop_assert_eq!(after.messages.len(), before.messages.len() + 1);
        }
    }
}
