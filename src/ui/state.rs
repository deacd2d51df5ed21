//! What is on the screen, and what events and keys make of it. No terminal, no supervisor, no clock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use ratatui::text::Line;

use super::commands::{self, Command};
use super::input::Input;
use super::text;
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
    /// Files whose path has this in it are wanted.
    Complete(String),
    /// End the run and everything it has started.
    Cancel,
    Answer(Verdict),
    Quit,
}

/// What the status line says.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub mode: String,
    pub rung: String,
    pub provider: String,
    pub model: String,
    pub prompt: String,
    pub directory: String,
    /// Part of the model's window that is used, percent.
    pub context: Option<u64>,
    pub cost: Option<f64>,
}

/// One thing in the conversation. All texts are cleaned.
#[derive(Debug)]
pub struct Entry {
    pub kind: Kind,
    /// The lines of the last drawing, for a width.
    pub(super) drawn: RefCell<Option<(u16, Vec<Line<'static>>)>>,
}

#[derive(Debug)]
pub enum Kind {
    User(String),
    Answer(String),
    Reasoning(String),
    Tool(Tool),
    Notice(String),
    /// Text that the program has to show: help, lists.
    Page(String),
}

#[derive(Debug)]
pub struct Tool {
    pub id: String,
    /// The call of the sub-agent that made it, if one did.
    pub task: Option<String>,
    pub name: String,
    pub what: String,
    /// `None` while it runs.
    pub status: Option<ToolStatus>,
    pub output: String,
    pub open: bool,
}

impl Entry {
    fn new(kind: Kind) -> Entry {
        Entry { kind, drawn: RefCell::default() }
    }

    fn changed(&mut self) -> &mut Kind {
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
    /// How long the run has been going, if one is.
    pub running: Option<Duration>,
    /// Lines between the end of the conversation and the lower edge of the screen.
    pub scroll: Cell<usize>,
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
    /// A key that is meant twice was pressed once.
    pub armed_quit: bool,
}

impl State {
    fn push(&mut self, kind: Kind) {
        self.entries.push(Entry::new(kind));
    }

    pub fn notice(&mut self, words: &str) {
        self.push(Kind::Notice(text::clean(words)));
    }

    pub fn page(&mut self, words: &str) {
        self.push(Kind::Page(text::clean(words)));
    }

    pub fn said(&mut self, words: &str) {
        self.push(Kind::User(text::clean(words)));
        self.scroll.set(0);
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.scroll.set(0);
    }

    /// The last thing the user said.
    pub fn last_prompt(&self) -> Option<&str> {
        self.entries.iter().rev().find_map(|entry| match &entry.kind {
            Kind::User(words) => Some(words.as_str()),
            _ => None,
        })
    }

    pub fn last_answer(&self) -> Option<&str> {
        self.entries.iter().rev().find_map(|entry| match &entry.kind {
            Kind::Answer(words) => Some(words.as_str()),
            _ => None,
        })
    }

    /// Opens or closes the last tool call that has an output.
    pub fn toggle_last_tool(&mut self) {
        let with_output =
            |entry: &&mut Entry| matches!(&entry.kind, Kind::Tool(tool) if !tool.output.is_empty());
        if let Some(entry) = self.entries.iter_mut().rev().find(with_output)
            && let Kind::Tool(tool) = entry.changed()
        {
            tool.open = !tool.open;
        }
    }

    pub fn toggle_reasoning(&mut self) {
        self.hide_reasoning = !self.hide_reasoning;
        for entry in &mut self.entries {
            entry.changed();
        }
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
                self.push(Kind::Tool(Tool {
                    id,
                    task: task.map(str::to_owned),
                    name: text::line(&name, 40),
                    what: text::line(&about(&arguments).replace('\n', " ⏎ "), 400),
                    status: None,
                    output: String::new(),
                    open: false,
                }));
            }
            AgentEvent::ToolResult { id, status, output, .. } => {
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
                }
            }
            AgentEvent::Notice { text: words } => self.notice(&words),
            AgentEvent::Task { id, event } => self.on_of(*event, Some(&id)),
        }
    }

    /// Adds to the answer, or to the thinking, that is being written.
    fn grow(&mut self, words: &str, reasoning: bool) {
        let words = text::clean(words);
        match self.entries.last_mut().map(|entry| (&entry.kind, reasoning)) {
            Some((Kind::Answer(_), false) | (Kind::Reasoning(_), true)) => {
                if let Some(Kind::Answer(text) | Kind::Reasoning(text)) =
                    self.entries.last_mut().map(Entry::changed)
                {
                    text.push_str(&words);
                }
            }
            _ if reasoning => self.push(Kind::Reasoning(words)),
            _ => self.push(Kind::Answer(words)),
        }
    }

    /// A question comes; if it is the one in front, nothing typed before is its answer.
    pub fn ask(&mut self, question: Approval) {
        if self.questions.is_empty() {
            self.unsettle();
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

    /// Scrolls up, or down if it is negative.
    pub fn scroll_by(&self, lines: isize) {
        self.scroll.set(self.scroll.get().saturating_add_signed(lines));
    }

    /// Files that a beginning can become: one takes its place, several are shown.
    pub fn complete_file(&mut self, found: &[String]) {
        match found {
            [] => self.notice("there is no such file"),
            [one] => self.input.replace_word(&format!("@{} ", text::line(one, 1000))),
            several => {
                let names: Vec<&str> = several.iter().take(12).map(String::as_str).collect();
                self.notice(&names.join("  "));
            }
        }
    }

    /// What a finished line means; commands with an error are answered here.
    pub(super) fn submit(&mut self) -> Option<Intent> {
        let line = self.input.text().trim().to_owned();
        if line.is_empty() {
            // What was held back when a run did not go well.
            let held = self.running.is_none().then(|| self.queue.pop_front()).flatten();
            return held.map(Intent::Prompt);
        }
        // Only what was typed is a command of the user's: not a paste, and not the image of a document.
        let command = line.starts_with('!')
            && !line.starts_with("![")
            && !line.contains('\n')
            && !self.input.has_pastes();
        // `.name` is short for `/prompt name`.
        let name = line.strip_prefix('.').filter(|name| {
            !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '-')
        });
        let line = name.map_or(line.clone(), |name| format!("/prompt {name}"));
        if line.starts_with('/') && !line.contains('\n') {
            return match commands::parse(&line) {
                Err(error) => {
                    self.notice(&error);
                    None
                }
                Ok((row, _)) if self.running.is_some() && !row.any_time => {
                    self.notice("not while the agent runs: Ctrl-C ends the run");
                    None
                }
                Ok((row, arguments)) => {
                    self.input.take();
                    match row.command {
                        Command::Help => self.page(&commands::help()),
                        Command::Reasoning => self.toggle_reasoning(),
                        Command::Queue => self.on_queue(&arguments),
                        Command::Retry => self.retry(),
                        Command::Diff => self.show_changes(),
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
                Some(last) => self.input.set(last),
                None => self.notice("the queue is empty"),
            },
            _ if self.queue.is_empty() => self.notice("the queue is empty"),
            _ => {
                let lines: Vec<String> = self.queue.iter().map(|it| format!("• {it}")).collect();
                self.page(&lines.join("\n"));
            }
        }
    }

    /// What edits did, as far as it is on the screen.
    fn show_changes(&mut self) {
        let changes = self.entries.iter().filter_map(|entry| match &entry.kind {
            Kind::Tool(tool) if tool.output.starts_with("--- a/") => Some(tool.output.as_str()),
            Kind::Tool(tool) if tool.name == "write" && tool.status == Some(ToolStatus::Ok) => {
                Some(tool.output.as_str())
            }
            _ => None,
        });
        let changes: Vec<&str> = changes.collect();
        match changes.is_empty() {
            true => self.notice("no tool has changed a file"),
            false => self.page(&changes.join("\n")),
        }
    }

    fn retry(&mut self) {
        match self.last_prompt().map(str::to_owned) {
            Some(prompt) => self.input.set(prompt),
            None => self.notice("nothing was said yet"),
        }
    }
}
