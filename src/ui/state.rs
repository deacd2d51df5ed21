//! What is on the screen, and what events and keys make of it. No terminal, no supervisor, no clock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use super::bindings::Bindings;
use super::commands::{self, Command};
use super::conversation::{Drawn, Viewport};
use super::input::Input;
use super::picker::{Item, Picker};
use super::text;
use super::theme::Theme;
use crate::agent::{AgentEvent, Approval, ToolStatus, Verdict, about};

/// What the user wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    Prompt(String),
    /// A command of the user's own.
    Shell(String),
    Command(Command, String),
    /// Summarise the conversation.
    Shorten,
    /// Write the text of the input in an editor.
    Edit,
    /// Files whose path has these letters in it are wanted.
    Files(String),
    /// This goes on the clipboard.
    Copy(String),
    /// To the shell.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// End the run and every call that it waits for.
    Cancel,
    Answer(Verdict),
    /// Another of the waiting questions is to be answered first.
    NextQuestion,
    Quit,
}

/// What the status line says.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub mode: String,
    pub rung: String,
    /// The prompts there are.
    pub prompts: Vec<String>,
    pub provider: String,
    pub model: String,
    pub prompt: String,
    pub directory: String,
    pub thinking: String,
    /// Of the repository, if there is one.
    pub branch: String,
    /// Of a loop, while it goes.
    pub round: String,
    /// Part of the model's window that is used, percent.
    pub context: Option<u64>,
    pub cost: Option<f64>,
}

/// A run that goes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Running {
    pub elapsed: Duration,
    /// What it has used so far.
    pub tokens: u64,
}

/// What lies over the conversation and has the keys, or some of them.
#[derive(Debug)]
pub enum Layer {
    /// A list; choosing is the command with the value.
    Picker(Picker, Command),
    /// What the word that is being typed can become.
    Completion(Picker),
}

/// One thing in the conversation. All texts are cleaned.
#[derive(Debug)]
pub struct Entry {
    pub kind: Kind,
    pub(super) drawn: RefCell<Option<Drawn>>,
}

#[derive(Debug)]
pub enum Kind {
    User(String),
    Answer(String),
    Reasoning(String),
    /// An answer that is no part of the conversation.
    Aside(String),
    Tool(Tool),
    Notice(String),
    /// Text that the program has to show: help, lists.
    Page(String),
}

#[derive(Debug, Default)]
pub struct Tool {
    pub id: String,
    /// The call of the sub-agent that made it, if one did.
    pub task: Option<String>,
    pub name: String,
    pub what: String,
    /// `None` while it runs.
    pub status: Option<ToolStatus>,
    pub output: String,
    pub milliseconds: u64,
    /// Why it was let through, or was not.
    pub because: String,
    /// Images and documents that came with it.
    pub attached: Vec<String>,
    pub open: bool,
}

impl Kind {
    /// Whether words, in small letters, may be somewhere in it.
    pub(super) fn mentions(&self, wanted: &str) -> bool {
        // Between words there may be a line end, or signs that are not shown: each counts by itself.
        let has = |text: &str| {
            let text = text.to_ascii_lowercase();
            let mut words = wanted.split(|sign: char| !sign.is_alphanumeric());
            words.all(|word| text.contains(word))
        };
        match self {
            Kind::User(text) | Kind::Answer(text) | Kind::Reasoning(text) => has(text),
            Kind::Aside(text) | Kind::Notice(text) | Kind::Page(text) => has(text),
            // What is told of an open one is not only its texts.
            Kind::Tool(tool) => {
                tool.open || has(&format!("{} {} {}", tool.name, tool.what, tool.output))
            }
        }
    }
}

impl Entry {
    fn new(kind: Kind) -> Entry {
        Entry { kind, drawn: RefCell::default() }
    }

    pub(super) fn changed(&mut self) -> &mut Kind {
        self.drawn.take();
        &mut self.kind
    }
}

/// The whole state of the screen.
#[derive(Debug, Default)]
pub struct State {
    pub facts: Facts,
    pub entries: Vec<Entry>,
    pub input: Input,
    /// Prompts that wait for the run to end.
    pub queue: VecDeque<String>,
    /// Questions that wait for an answer, the first one shown.
    pub questions: VecDeque<Approval>,
    pub running: Option<Running>,
    /// Files that go with the next prompt.
    pub added: Vec<String>,
    pub theme: Theme,
    pub bindings: Bindings,
    pub layer: Option<Layer>,
    pub(super) view: Viewport,
    pub hide_reasoning: bool,
    /// The question in front has been on the screen for a while without a key: keys are meant for it.
    pub settled: bool,
    /// An answer that stores a rule, until Enter confirms it.
    pub chosen: Option<Verdict>,
    /// All of the question can be, or has been, seen; and there is room for its answers.
    pub seen_whole: Cell<bool>,
    /// At a width of the window, how many rows of the question have been on the screen without a gap.
    pub seen_rows: Cell<(u16, usize)>,
    /// How many of its rows fit.
    pub question_rows: Cell<usize>,
    pub has_room: Cell<bool>,
    /// How far the question is scrolled.
    pub question_scroll: Cell<usize>,
    /// The reason of a denial is being typed.
    pub denying: bool,
    /// What was being written before that.
    pub(super) stash: String,
    /// The entry that is being written.
    pub(super) growing: Option<usize>,
    /// A few words that the next key takes away.
    pub(super) hint: String,
    /// A key that is meant twice was pressed once.
    pub armed_quit: bool,
}

impl State {
    pub fn new(theme: Theme, bindings: Bindings) -> State {
        State { theme, bindings, ..State::default() }
    }

    fn push(&mut self, kind: Kind) {
        self.entries.push(Entry::new(kind));
    }

    pub fn notice(&mut self, words: &str) {
        self.push(Kind::Notice(text::clean(words)));
    }

    /// Nothing was said so far.
    pub(super) fn is_fresh(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.kind, Kind::Notice(_)))
    }

    /// A few words that the next key takes away.
    pub fn hint(&mut self, words: &str) {
        self.hint = text::line(words, 80);
    }

    /// A file goes with the next prompt.
    pub fn add(&mut self, file: &str) {
        let file = text::line(file.trim(), 4096);
        if !file.is_empty() && !self.added.contains(&file) {
            self.added.push(file);
        }
    }

    /// Pasted text is typed, but is no key: it answers and runs nothing.
    pub fn paste(&mut self, pasted: &str) {
        let line = text::line(pasted, 200);
        if let Some(Layer::Picker(list, _)) = &mut self.layer {
            let query = format!("{}{line}", list.query());
            list.look_for(&query);
        } else if self.view.find.is_some() {
            self.find_words(|words| words.push_str(&line));
        } else if let Some(image) = image_path(pasted) {
            // What terminals give for an image that is dropped on them, or copied in a file manager.
            self.add(&image);
            self.hint("it goes with the prompt; /drop leaves it out");
        } else {
            self.input.paste(pasted);
        }
    }

    /// An answer that is no part of the conversation.
    pub fn aside(&mut self, words: &str) {
        self.push(Kind::Aside(text::clean(words)));
        self.notice("that was aside: it is no part of the conversation");
    }

    /// What was changed, as a unified diff of one file.
    pub fn changed(&mut self, path: &str, diff: &str) {
        self.push(Kind::Tool(Tool {
            name: "changed".into(),
            what: text::line(path, 400),
            status: Some(ToolStatus::Ok),
            output: text::clean(diff),
            open: true,
            ..Tool::default()
        }));
    }

    /// What a command of the user's has printed.
    pub fn ran(&mut self, status: ToolStatus, output: &str) {
        self.push(Kind::Tool(Tool {
            name: "it printed".into(),
            status: Some(status),
            output: text::clean(output),
            open: true,
            ..Tool::default()
        }));
    }

    pub fn page(&mut self, words: &str) {
        self.push(Kind::Page(text::clean(words)));
        self.show_from(self.entries.len() - 1);
    }

    pub fn said(&mut self, words: &str) {
        self.push(Kind::User(text::clean(words)));
        self.growing = None;
        self.view.to_end();
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.growing = None;
        self.view.reset();
    }

    /// The window has another size: what was marked is elsewhere.
    pub fn resized(&mut self) {
        self.view.unmark();
    }

    /// Shows everything in other colours.
    pub fn set_theme(&mut self, theme: Theme) {
        self.theme = theme;
        self.forget_rows();
    }

    /// Opens a list; choosing is the command with the value.
    pub fn pick(&mut self, list: Picker, command: Command) {
        // It would have the keys that the question on the screen asks for.
        if !self.questions.is_empty() {
            return self.notice("answer the question first");
        }
        self.layer = Some(Layer::Picker(list, command));
    }

    /// The list that has the keys.
    pub(super) fn list(&mut self) -> Option<&mut Picker> {
        match &mut self.layer {
            Some(Layer::Picker(list, _) | Layer::Completion(list)) => Some(list),
            None => None,
        }
    }

    /// The last thing the user said.
    pub(super) fn last_prompt(&self) -> Option<&str> {
        self.entries.iter().rev().find_map(|entry| match &entry.kind {
            Kind::User(words) => Some(words.as_str()),
            _ => None,
        })
    }

    /// The last answer, all parts of it.
    pub fn last_answer(&self) -> Option<String> {
        let text = |entry: &Entry| match &entry.kind {
            Kind::Answer(words) => Some(words.clone()),
            _ => None,
        };
        let entries = self.entries.iter().rev().skip_while(|entry| text(entry).is_none());
        let mut parts: Vec<String> = entries.map_while(text).collect();
        parts.reverse();
        (!parts.is_empty()).then(|| parts.concat())
    }

    /// Opens or closes the last tool call that has an output.
    pub(super) fn toggle_last_tool(&mut self) {
        let with_output =
            |entry: &&mut Entry| matches!(&entry.kind, Kind::Tool(tool) if !tool.output.is_empty());
        if let Some(entry) = self.entries.iter_mut().rev().find(with_output)
            && let Kind::Tool(tool) = entry.changed()
        {
            tool.open = !tool.open;
        }
    }

    pub(super) fn toggle_tool(&mut self, at: usize) {
        let Some(entry) = self.entries.get_mut(at) else { return };
        if matches!(entry.kind, Kind::Tool(_))
            && let Kind::Tool(tool) = entry.changed()
        {
            tool.open = !tool.open;
        }
    }

    pub(super) fn toggle_reasoning(&mut self) {
        self.hide_reasoning = !self.hide_reasoning;
        self.forget_rows();
    }

    /// Takes what happens in a run.
    pub fn on(&mut self, event: AgentEvent) {
        self.on_of(event, None);
    }

    fn on_of(&mut self, event: AgentEvent, task: Option<&str>) {
        match event {
            // What sub-agents say on the way nobody reads; what they do is shown.
            AgentEvent::Text { .. } | AgentEvent::Reasoning { .. } if task.is_some() => {}
            AgentEvent::Text { text: words } => self.grow(&words, false),
            AgentEvent::Reasoning { text: words } => self.grow(&words, true),
            AgentEvent::ToolCall { id, name, arguments } => {
                if task.is_none() {
                    self.growing = None;
                }
                self.push(Kind::Tool(Tool {
                    id,
                    task: task.map(str::to_owned),
                    name: text::line(&name, 40),
                    what: text::line(&text::exact(&about(&arguments)).replace('\n', " ⏎ "), 400),
                    ..Tool::default()
                }));
            }
            AgentEvent::ToolResult {
                id, status, output, milliseconds, because, attached, ..
            } => {
                let same = |entry: &&mut Entry| match &entry.kind {
                    Kind::Tool(tool) => {
                        tool.id == id && tool.task.as_deref() == task && tool.status.is_none()
                    }
                    _ => false,
                };
                if let Some(entry) = self.entries.iter_mut().rev().find(same)
                    && let Kind::Tool(tool) = entry.changed()
                {
                    tool.status = Some(status);
                    tool.output = text::clean(&output);
                    tool.milliseconds = milliseconds;
                    tool.because = text::clean(&because);
                    tool.attached = attached.iter().map(|it| text::line(it, 80)).collect();
                }
            }
            AgentEvent::Notice { text: words } => self.notice(&words),
            AgentEvent::Round { number } => {
                self.facts.round = format!("round {number}");
                self.notice(&self.facts.round.clone());
            }
            AgentEvent::Task { id, event } => self.on_of(*event, Some(&id)),
        }
    }

    /// Adds to the answer, or to the thinking, that is being written; what was shown meanwhile stays
    /// below it.
    fn grow(&mut self, words: &str, reasoning: bool) {
        let words = text::clean(words);
        let growing = self.growing.filter(|at| match self.entries[*at].kind {
            Kind::Answer(_) => !reasoning,
            Kind::Reasoning(_) => reasoning,
            _ => false,
        });
        match growing {
            Some(at) => {
                if let Kind::Answer(text) | Kind::Reasoning(text) = self.entries[at].changed() {
                    text.push_str(&words);
                }
            }
            // Blanks are the beginning of nothing.
            None if words.trim().is_empty() => return,
            None => {
                let words = words.clone();
                self.push(if reasoning { Kind::Reasoning(words) } else { Kind::Answer(words) });
                self.growing = Some(self.entries.len() - 1);
            }
        }
        self.part(words.len());
    }

    /// What is written is laid out anew each time: a long answer goes on in another entry.
    fn part(&mut self, added: usize) {
        while self.growing == Some(self.entries.len() - 1)
            && let Some(Kind::Answer(text)) = self.entries.last_mut().map(|entry| &mut entry.kind)
            // Not looked at for every word.
            && text.len() / 4096 != text.len().saturating_sub(added) / 4096
            && let Some(at) = parting(text)
        {
            let rest = text.split_off(at);
            self.entries.last_mut().map(Entry::changed);
            self.push(Kind::Answer(rest));
            self.growing = Some(self.entries.len() - 1);
        }
    }

    /// A question comes; if it is the one in front, nothing typed before is its answer.
    pub fn ask(&mut self, question: Approval) {
        if self.questions.is_empty() {
            self.unsettle();
            // What was being chosen or looked for can be again.
            self.layer = None;
            self.view.find = None;
            self.input.leave_search();
        }
        self.questions.push_back(question);
    }

    /// Another question is in front now.
    pub(super) fn unsettle(&mut self) {
        self.settled = false;
        self.chosen = None;
        self.seen_whole.set(false);
        self.seen_rows.set((0, 0));
        self.question_scroll.set(0);
    }

    /// The input is for the reason of a denial, for a while.
    pub(super) fn begin_denying(&mut self) {
        self.denying = true;
        self.stash = self.input.text().to_owned();
        self.input.set("");
    }

    pub(super) fn end_denying(&mut self) {
        self.denying = false;
        let stash = std::mem::take(&mut self.stash);
        self.input.set(stash);
    }

    /// A run has ended: what still runs on the screen has ended too.
    pub fn run_ended(&mut self) {
        self.running = None;
        self.growing = None;
        self.facts.round.clear();
        self.questions.clear();
        if self.denying {
            self.end_denying();
        }
        self.unsettle();
        for entry in &mut self.entries {
            if let Kind::Tool(tool) = &entry.kind
                && tool.status.is_none()
                && let Kind::Tool(tool) = entry.changed()
            {
                tool.status = Some(ToolStatus::Error);
            }
        }
    }

    /// Shows what the word that is being typed can become.
    pub fn complete_with(&mut self, files: &[String]) {
        let Some(part) = self.input.word().strip_prefix('@').map(str::to_owned) else { return };
        let items = files.iter().map(|file| Item::new(file, "")).collect();
        let mut list = match self.layer.take() {
            Some(Layer::Completion(list)) => list,
            _ => Picker::default(),
        };
        list.look_for(&part);
        list.replace(items);
        self.layer = (!list.is_empty()).then_some(Layer::Completion(list));
    }

    /// What a finished line means; commands with an error are answered here.
    pub(super) fn submit(&mut self) -> Option<Intent> {
        // Whoever sends something wants to see what comes of it.
        self.view.to_end();
        let line = self.input.text().trim().to_owned();
        if line.is_empty() {
            // What was held back when a run did not go well.
            let held = self.running.is_none().then(|| self.queue.pop_front()).flatten();
            return held.map(Intent::Prompt);
        }
        // Only what was typed is a command of the user's: not a paste, and not the image of a document.
        let typed = !self.input.is_brought();
        let command = typed
            && line.starts_with('!')
            && !line.starts_with("![")
            && !line.contains('\n')
            && !self.input.has_pastes();
        // `.name` is short for `/prompt name`, and with a text for asking once under it.
        let named = line.strip_prefix('.').filter(|_| typed).filter(|rest| {
            let name = rest.split_whitespace().next().unwrap_or_default();
            let letters = |letter: char| letter.is_alphanumeric() || letter == '-';
            // With more behind it, it may be about a file such as .gitignore.
            let known = *rest == name || self.facts.prompts.iter().any(|known| known == name);
            known && rest.starts_with(name) && !name.is_empty() && name.chars().all(letters)
        });
        let line = named.map_or(line.clone(), |rest| format!("/prompt {rest}"));
        if typed && line.starts_with('/') && (named.is_some() || !line.contains('\n')) {
            return match commands::parse(&line) {
                Err(error) => {
                    self.notice(&error);
                    None
                }
                Ok((row, _)) if self.running.is_some() && !row.any_time => {
                    self.notice("not while the agent runs: Ctrl-C ends the run");
                    None
                }
                Ok((row, mut arguments)) => {
                    let whole = self.input.take();
                    // What was folded is meant whole.
                    if whole.trim().len() > line.len() {
                        let rest = whole.trim().trim_start_matches(['/', '.']);
                        let rest = if named.is_some() { rest } else { after_word(rest) };
                        rest.clone_into(&mut arguments);
                    }
                    match row.command {
                        Command::Help => self.page(&commands::help(&self.bindings)),
                        Command::Reasoning => self.toggle_reasoning(),
                        Command::Queue => self.on_queue(&arguments),
                        Command::Retry => self.retry(),
                        Command::Find => self.find(&arguments),
                        Command::Compact => return Some(Intent::Shorten),
                        Command::Quit => return Some(Intent::Quit),
                        command => return Some(Intent::Command(command, arguments)),
                    }
                    None
                }
            };
        }
        let whole = self.input.take();
        if self.running.is_some() {
            if command {
                self.notice("not while the agent runs: Ctrl-C ends the run");
                self.input.set(whole);
                return None;
            }
            self.queue.push_back(whole);
            return None;
        }
        match whole.trim().strip_prefix('!').filter(|_| command) {
            Some(command) => Some(Intent::Shell(command.trim().to_owned())),
            None => Some(Intent::Prompt(whole)),
        }
    }

    fn on_queue(&mut self, arguments: &str) {
        match arguments {
            "clear" => self.queue.clear(),
            "pop" => match self.queue.pop_back() {
                Some(last) => self.input.bring_back(last),
                None => self.notice("the queue is empty"),
            },
            _ if self.queue.is_empty() => self.notice("the queue is empty"),
            _ => {
                let lines: Vec<String> = self.queue.iter().map(|it| format!("• {it}")).collect();
                self.page(&lines.join("\n"));
            }
        }
    }

    fn retry(&mut self) {
        match self.last_prompt().map(str::to_owned) {
            Some(prompt) => self.input.bring_back(prompt),
            None => self.notice("nothing was said yet"),
        }
    }
}

/// What stands behind the first word.
fn after_word(text: &str) -> &str {
    text.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim())
}

/// An answer of more bytes is parted where a block ends, and one of many more anywhere.
const PART: usize = 16 * 1024;
const MOST_OF_A_PART: usize = 128 * 1024;

/// Where a text is long enough to be parted: behind an empty line that is not inside of code.
fn parting(text: &str) -> Option<usize> {
    if text.len() <= PART {
        return None;
    }
    let (mut at, mut in_code, mut parting) = (0, false, None);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        in_code ^= bare.starts_with("```") || bare.starts_with("~~~");
        at += line.len();
        // What is indented belongs to the block before.
        let goes_on = text[at..].starts_with([' ', '\t']) || at == text.len();
        if bare.is_empty() && !in_code && !goes_on && at > PART / 2 {
            parting = Some(at);
        }
        if at > MOST_OF_A_PART || (at > PART && parting.is_some()) {
            break;
        }
    }
    let forced = (text.len() > MOST_OF_A_PART).then(|| text.floor_char_boundary(MOST_OF_A_PART));
    parting.filter(|at| *at <= MOST_OF_A_PART).or(forced)
}

/// The path of an image, if that is all that was pasted.
fn image_path(pasted: &str) -> Option<String> {
    let path = pasted.trim().trim_matches(['\'', '"']);
    let path = path.strip_prefix("file://").unwrap_or(path).replace("\\ ", " ");
    let name = path.to_ascii_lowercase();
    let is_image = [".png", ".jpg", ".jpeg", ".gif", ".webp"].iter().any(|end| name.ends_with(end));
    (is_image && path.starts_with('/') && !path.contains('\n')).then_some(path)
}
