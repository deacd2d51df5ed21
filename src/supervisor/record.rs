//! What a run leaves behind: the session's file, and the sums that go into it.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::agent::Kept;
use crate::model::catalog::Price;
use crate::model::{Message, Usage};
use crate::session::{Compaction, Entry, Journal, State, TaskMessage};

/// What a run has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub requests: u64,
    pub usage: Usage,
    pub cost: f64,
}

/// The record of a session. Everything is written before it is shown.
#[derive(Debug)]
pub struct Record {
    inner: RefCell<Inner>,
    price: Option<Price>,
}

#[derive(Debug)]
struct Inner {
    journal: Option<Journal>,
    state: State,
    /// What this run alone, with its sub-agents, has used.
    run: Spent,
    /// Tokens of the conversation at the last request.
    filled: Option<u64>,
    /// Why nothing is written any more, until it has been told.
    failure: Option<String>,
}

impl Record {
    /// Goes on from `state`. Without a journal only the sums are kept.
    pub fn new(journal: Option<Journal>, state: State, price: Option<Price>) -> Record {
        Record {
            inner: RefCell::new(Inner {
                journal,
                state,
                run: Spent::default(),
                filled: None,
                failure: None,
            }),
            price,
        }
    }

    /// The file, to go on with it under other settings.
    pub fn into_journal(self) -> Option<Journal> {
        self.inner.into_inner().journal
    }

    pub fn id(&self) -> Option<String> {
        self.inner.borrow().journal.as_ref().map(|journal| journal.id().to_owned())
    }

    pub fn state(&self) -> State {
        self.inner.borrow().state.clone()
    }

    /// Tokens of the conversation, as the provider last counted them.
    pub fn filled(&self) -> Option<u64> {
        self.inner.borrow().filled
    }

    /// The session's file, if it is saved.
    pub fn path(&self) -> Option<PathBuf> {
        self.inner.borrow().journal.as_ref().map(|journal| journal.path().to_owned())
    }

    /// Writes down that the last turns were taken back.
    pub fn take_back(&self, turns: u64) {
        self.add(Entry::Undone(turns));
    }

    /// Writes down that turns that were taken back hold again.
    pub fn bring_back(&self, turns: u64) {
        self.add(Entry::Redone(turns));
    }

    pub fn knows_prices(&self) -> bool {
        self.price.is_some()
    }

    /// What the run has used so far.
    pub fn spent(&self) -> Spent {
        self.inner.borrow().run
    }

    /// Adds a line. A disk that is full costs the rest of the record, not the run; it is said once.
    pub(super) fn add(&self, entry: Entry) {
        let mut inner = self.inner.borrow_mut();
        let Some(journal) = &mut inner.journal else { return };
        if let Err(error) = journal.add(entry) {
            inner.journal = None;
            inner.failure = Some(format!("the session is not saved from here on: {error}"));
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.inner.borrow_mut().failure.take()
    }

    /// From here on, what is spent counts towards the limits of a new run.
    pub(super) fn begin_run(&self) {
        self.inner.borrow_mut().run = Spent::default();
    }

    pub(super) fn begin_turn(&self) {
        self.begin_run();
        let number = {
            let mut inner = self.inner.borrow_mut();
            inner.state.turns = inner.state.turns.saturating_add(1);
            inner.state.turns
        };
        self.add(Entry::Turn(number));
    }

    /// Writes down what the agent wants kept; `task` is the call of the sub-agent that it is from.
    pub(super) fn keep(&self, kept: Kept, task: Option<&str>) {
        match (kept, task) {
            (Kept::Message(message), Some(call)) => self.task(call, message),
            (Kept::Message(message), None) => self.add(Entry::Message(message)),
            (Kept::Compaction { summary, .. }, Some(call)) => {
                self.task(call, Message::user(summary));
            }
            (Kept::Compaction { summary, kept, before, after }, None) => {
                self.add(Entry::Compaction(Compaction { summary, kept, before, after }));
            }
        }
    }

    fn task(&self, call: &str, message: Message) {
        self.add(Entry::Task(TaskMessage { call: call.to_owned(), message }));
    }

    /// Counts an answer that is no part of the conversation.
    pub(super) fn count_aside(&self, usage: Usage) {
        let filled = self.filled();
        self.count(usage);
        self.inner.borrow_mut().filled = filled;
    }

    /// Counts one answer.
    pub(super) fn count(&self, usage: Usage) {
        let mut inner = self.inner.borrow_mut();
        let cost = self.price.map_or(0.0, |price| price.of(usage));
        inner.state.requests = inner.state.requests.saturating_add(1);
        inner.state.usage += usage;
        inner.state.cost += cost;
        inner.filled = Some(usage.input.saturating_add(usage.output));
        inner.run.requests += 1;
        inner.run.usage += usage;
        inner.run.cost += cost;
    }

    pub(super) fn end_turn(&self) {
        let state = self.state();
        self.add(Entry::State(state));
    }

    /// Changes what the next start begins with, and writes it down.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.inner.borrow_mut().state);
        self.end_turn();
    }
}
