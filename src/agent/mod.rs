//! The agent loop as a state machine: events in, effects out. No I/O, no clock, no process.

mod compaction;
mod event;
mod repeats;

use std::collections::{HashSet, VecDeque};

use serde_json::Value;

use crate::model::{
    Ability, Answer, Attachment, Message, ModelError, Request, Stop, Thinking, ToolCall, ToolSchema,
};
pub use compaction::is_summary;
pub use event::{AgentEvent, Approval, STOPPED, Verdict, about};
use repeats::{Repeats, Verdict as Loop};

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    Prompt {
        text: String,
        attachments: Vec<Attachment>,
    },
    /// Summarise what was said so far, whether it is long or not, and nothing else.
    Shorten,
    Answered(Result<Answer, ModelError>),
    /// The summary that [`Effect::Compact`] asked for.
    Compacted(Result<Answer, ModelError>),
    ToolEnded {
        id: String,
        result: ToolResult,
    },
    /// The run has cost what it may cost.
    OutOfBudget,
    /// The run, with its sub-agents, has asked as often as it may.
    OutOfTurns,
    Cancelled,
}

/// What the loop wants done.
#[derive(Debug, Clone)]
pub enum Effect {
    CallModel(Request),
    /// Ask the model for a summary; nothing of its answer is shown.
    Compact(Request),
    /// Write this down before anything else is done.
    Keep(Kept),
    /// Run this call; several may be asked for at once and may run at the same time. `repeated` calls
    /// are those that need a yes even where the mode would not ask.
    RunTool {
        call: ToolCall,
        repeated: bool,
    },
    /// A call that cannot even be tried, with what the model is told.
    Refuse {
        call: ToolCall,
        text: String,
    },
    Tell(Note),
    Finish(Outcome),
}

/// What a session has to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    Message(Message),
    /// All but the newest `kept` messages are this summary from now on. Sizes are tokens.
    Compaction {
        summary: String,
        kept: usize,
        before: u64,
        after: u64,
    },
}

/// Something a person should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Repeated {
        tool: String,
        times: usize,
    },
    AnswerCut,
    /// Tokens before and after.
    Compacted {
        before: u64,
        after: u64,
    },
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    pub status: ToolStatus,
    pub text: String,
    pub attachments: Vec<Attachment>,
}

impl ToolResult {
    pub fn new(status: ToolStatus, text: impl Into<String>) -> ToolResult {
        ToolResult { status, text: text.into(), attachments: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolStatus {
    Ok,
    Error,
    Denied,
}

/// How the run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done {
        answer: String,
    },
    /// The model, or its provider's filter, would not answer.
    Refused {
        answer: String,
    },
    TurnLimit {
        turns: usize,
    },
    CostLimit,
    ModelFailed(ModelError),
    Cancelled,
}

/// What stays the same through a run.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model: String,
    pub system_prompt: String,
    pub tools: Vec<ToolSchema>,
    pub max_turns: usize,
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub thinking: Thinking,
    pub ability: Ability,
    /// Tokens that the model takes, if known.
    pub window: Option<u64>,
    /// Whether a conversation that gets too long is summarised.
    pub compact: bool,
    /// Tokens kept free for an answer.
    pub reserve: u64,
    /// Tokens of the newest messages that a summary leaves alone.
    pub keep_recent: u64,
    pub cache_key: Option<String>,
}

/// A call that has been asked for, and what has come of it.
#[derive(Debug)]
struct Pending {
    call: ToolCall,
    message: Option<Message>,
    warning: Option<String>,
}

/// The state of one conversation.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    messages: Vec<Message>,
    /// Calls of the last answer, in order, with the results that have come.
    pending: VecDeque<Pending>,
    repeats: Repeats,
    turns: usize,
    /// What the user wants, until the run ends: no summary may lose it.
    prompt: String,
    /// Every id a call has had: results find their call by it.
    ids: HashSet<String>,
    /// Tokens of the first so many messages, as the provider counted them.
    counted: Option<(u64, usize)>,
    /// The first message that the summary under way leaves alone.
    compacting: Option<usize>,
    /// A summary was made for this request; another one would not help.
    compacted: bool,
    /// The summary is all that is wanted.
    only_shorten: bool,
}

impl Agent {
    /// A conversation that goes on after `earlier` messages.
    pub fn new(settings: Settings, earlier: Vec<Message>) -> Agent {
        let ids = earlier.iter().flat_map(|message| match message {
            Message::Assistant { calls, .. } => calls.as_slice(),
            _ => &[],
        });
        let ids = ids.map(|call| call.id.clone()).collect();
        let system = Message::System { text: settings.system_prompt.clone() };
        Agent {
            settings,
            messages: std::iter::once(system).chain(earlier).collect(),
            pending: VecDeque::new(),
            repeats: Repeats::default(),
            turns: 0,
            prompt: String::new(),
            ids,
            counted: None,
            compacting: None,
            compacted: false,
            only_shorten: false,
        }
    }

    /// The conversation, without the system prompt.
    pub fn into_messages(mut self) -> Vec<Message> {
        self.messages.remove(0);
        self.messages
    }

    /// Model requests so far.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// Takes one event and says what to do next.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Prompt { text, attachments } => {
                self.prompt.clone_from(&text);
                let kept = self.keep(Message::User { text, attachments });
                std::iter::once(kept).chain(self.call_model()).collect()
            }
            Event::Shorten if self.messages.len() > 2 => {
                self.only_shorten = true;
                vec![self.compact()]
            }
            Event::Shorten => vec![Effect::Finish(Outcome::Done { answer: String::new() })],
            Event::Answered(Err(ModelError::TooLong(_)))
                if self.settings.compact && !self.compacted && self.messages.len() > 2 =>
            {
                vec![self.compact()]
            }
            Event::Answered(Err(error)) => vec![Effect::Finish(Outcome::ModelFailed(error))],
            Event::Answered(Ok(answer)) => self.answered(answer),
            Event::Compacted(Err(error)) => vec![Effect::Finish(Outcome::ModelFailed(error))],
            Event::Compacted(Ok(answer)) => self.summarised(&answer),
            Event::ToolEnded { id, result } => self.tool_ended(&id, result),
            Event::OutOfTurns => {
                let outcome = Outcome::TurnLimit { turns: self.turns };
                self.end("(not run: the turn limit is reached)", outcome)
            }
            Event::OutOfBudget => {
                self.end("(not run: the cost limit is reached)", Outcome::CostLimit)
            }
            Event::Cancelled => self.end("(cancelled by the user)", Outcome::Cancelled),
        }
    }

    /// Adds a message to the conversation.
    fn keep(&mut self, message: Message) -> Effect {
        self.messages.push(message.clone());
        Effect::Keep(Kept::Message(message))
    }

    fn call_model(&mut self) -> Vec<Effect> {
        if self.turns >= self.settings.max_turns {
            return vec![Effect::Finish(Outcome::TurnLimit { turns: self.turns })];
        }
        // Of a small window no more than a quarter is kept free.
        let full = |window: u64| {
            self.size().saturating_add(self.settings.reserve.min(window / 4)) > window
        };
        if self.settings.compact
            && !self.compacted
            && self.messages.len() > 2
            && self.settings.window.is_some_and(full)
        {
            return vec![self.compact()];
        }
        self.turns += 1;
        vec![Effect::CallModel(Request {
            model: self.settings.model.clone(),
            messages: self.messages.clone(),
            tools: self.settings.tools.clone(),
            max_tokens: self.settings.max_tokens,
            temperature: self.settings.temperature,
            thinking: self.settings.thinking,
            ability: self.settings.ability,
            window: self.settings.window,
            cache_key: self.settings.cache_key.clone(),
        })]
    }

    /// Tokens of the conversation: as the provider has counted, and estimated from there on.
    fn size(&self) -> u64 {
        let (counted, so_far) = self.counted.unwrap_or_else(|| {
            let tools = self.settings.tools.iter().map(|tool| {
                compaction::estimate(&tool.parameters.to_string())
                    + compaction::estimate(&tool.description)
            });
            (tools.sum(), 0)
        });
        let more = self.messages[so_far..].iter().map(compaction::size).sum::<u64>();
        counted.saturating_add(more)
    }

    fn compact(&mut self) -> Effect {
        let cut = 1 + compaction::cut(&self.messages[1..], self.settings.keep_recent);
        self.compacting = Some(cut);
        Effect::Compact(compaction::request(&self.settings, &self.messages[1..cut]))
    }

    fn summarised(&mut self, answer: &Answer) -> Vec<Effect> {
        let Some(cut) = self.compacting.take() else { return Vec::new() };
        if answer.text.trim().is_empty() || answer.stop == Stop::Refused {
            let error = "the model gave no summary of a conversation that is too long".to_owned();
            return vec![Effect::Finish(Outcome::ModelFailed(ModelError::TooLong(error)))];
        }
        let before = self.size();
        let kept = self.messages.split_off(cut);
        let summary = compaction::summary(&answer.text, &self.messages[1..], &kept, &self.prompt);
        self.messages.truncate(1);
        self.messages.push(Message::user(summary.clone()));
        let number = kept.len();
        self.messages.extend(kept);
        self.counted = None;
        self.compacted = true;
        let after = self.size();
        let mut effects = vec![
            Effect::Keep(Kept::Compaction { summary, kept: number, before, after }),
            Effect::Tell(Note::Compacted { before, after }),
        ];
        match self.only_shorten {
            true => effects.push(Effect::Finish(Outcome::Done { answer: String::new() })),
            false => effects.extend(self.call_model()),
        }
        effects
    }

    fn answered(&mut self, answer: Answer) -> Vec<Effect> {
        self.compacted = false;
        let Answer { text, calls, stop, usage, native } = answer;
        let (calls, renamed) = self.unique_ids(calls);
        // Told apart by ids that the protocol does not know, the answer is its text and its calls.
        let native = native.filter(|_| !renamed);
        let said = Message::Assistant { text: text.clone(), calls: calls.clone(), native };
        let mut effects = vec![self.keep(said)];
        if usage.input > 0 {
            let counted = usage.input.saturating_add(usage.output);
            self.counted = Some((counted, self.messages.len()));
        }
        match stop {
            Stop::Length if calls.is_empty() && text.trim().is_empty() => {
                let why = "it reached the token limit before anything was said (--max-tokens)";
                effects.push(Effect::Finish(Outcome::ModelFailed(ModelError::Broken(why.into()))));
                return effects;
            }
            Stop::Length => effects.push(Effect::Tell(Note::AnswerCut)),
            Stop::Refused if calls.is_empty() => {
                effects.push(Effect::Finish(Outcome::Refused { answer: text }));
                return effects;
            }
            Stop::Done | Stop::Refused => {}
        }
        if calls.is_empty() {
            effects.push(Effect::Finish(Outcome::Done { answer: text }));
            return effects;
        }
        for call in calls {
            let (verdict, times) = self.repeats.see(&call);
            let warning = (verdict != Loop::Fresh).then(|| {
                effects.push(Effect::Tell(Note::Repeated { tool: call.name.clone(), times }));
                format!("(You have made this same call {times} times. Try something else.)")
            });
            self.pending.push_back(Pending { call: call.clone(), message: None, warning });
            match self.refusal(&call) {
                Some(text) => effects.push(Effect::Refuse { call, text }),
                None => {
                    let repeated = verdict == Loop::Stop;
                    effects.push(Effect::RunTool { call, repeated });
                }
            }
        }
        effects
    }

    /// Why a call cannot even be tried.
    fn refusal(&self, call: &ToolCall) -> Option<String> {
        if !self.settings.tools.iter().any(|tool| tool.name == call.name) {
            let names: Vec<&str> =
                self.settings.tools.iter().map(|tool| tool.name.as_str()).collect();
            return Some(format!(
                "There is no tool {:?}; there are {}.",
                call.name,
                names.join(", ")
            ));
        }
        if call.arguments.trim().is_empty() {
            return None;
        }
        match serde_json::from_str::<Value>(&call.arguments) {
            Ok(Value::Object(_)) => None,
            Ok(_) => Some("The arguments must be a JSON object.".into()),
            Err(error) => Some(format!("The arguments are no valid JSON: {error}.")),
        }
    }

    fn tool_ended(&mut self, id: &str, result: ToolResult) -> Vec<Effect> {
        let waiting = |entry: &&mut Pending| entry.call.id == id && entry.message.is_none();
        let Some(entry) = self.pending.iter_mut().find(waiting) else { return Vec::new() };
        let ToolResult { status, mut text, attachments } = result;
        let failed = status != ToolStatus::Ok;
        let warning = entry.warning.take().or(self.repeats.ended(&entry.call, failed, &text));
        if let Some(warning) = warning {
            text = format!("{warning}\n{text}");
        }
        let message = Message::Tool { call_id: id.to_owned(), text, attachments, failed };
        entry.message = Some(message.clone());
        let mut effects = vec![Effect::Keep(Kept::Message(message))];
        if self.pending.iter().all(|entry| entry.message.is_some()) {
            let results = std::mem::take(&mut self.pending);
            self.messages.extend(results.into_iter().filter_map(|entry| entry.message));
            effects.extend(self.call_model());
        }
        effects
    }

    /// Ends the run early. Every call gets a result, so that the conversation can go on later.
    fn end(&mut self, instead: &str, outcome: Outcome) -> Vec<Effect> {
        let mut effects = Vec::new();
        for entry in std::mem::take(&mut self.pending) {
            let message = entry.message.unwrap_or_else(|| {
                let message = Message::Tool {
                    call_id: entry.call.id,
                    text: instead.into(),
                    attachments: Vec::new(),
                    failed: true,
                };
                effects.push(Effect::Keep(Kept::Message(message.clone())));
                message
            });
            self.messages.push(message);
        }
        effects.push(Effect::Finish(outcome));
        effects
    }

    /// Gives a call a new id if another one has had it, and says whether it had to.
    fn unique_ids(&mut self, mut calls: Vec<ToolCall>) -> (Vec<ToolCall>, bool) {
        let mut renamed = false;
        for call in &mut calls {
            let given = call.id.clone();
            let mut number = 1;
            while !self.ids.insert(call.id.clone()) {
                number += 1;
                renamed = true;
                call.id = format!("{given}_{number}");
            }
        }
        (calls, renamed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(max_turns: usize) -> Agent {
        let tool = ToolSchema {
            name: "read".into(),
            description: String::new(),
            parameters: Value::Object(Default::default()),
        };
        let settings = Settings {
            model: "m".into(),
            system_prompt: "s".into(),
            tools: vec![tool],
            max_turns,
            max_tokens: None,
            temperature: None,
            thinking: Thinking::Auto,
            ability: Ability::default(),
            window: Some(10_000),
            compact: true,
            reserve: 1_000,
            keep_recent: 500,
            cache_key: None,
        };
        Agent::new(settings, Vec::new())
    }

    fn prompt() -> Event {
        Event::Prompt { text: "p".into(), attachments: Vec::new() }
    }

    fn asks(calls: &[(&str, &str, &str)]) -> Event {
        let call = |(id, name, arguments): &(&str, &str, &str)| ToolCall {
            id: (*id).into(),
            name: (*name).into(),
            arguments: (*arguments).into(),
        };
        Event::Answered(Ok(Answer { calls: calls.iter().map(call).collect(), ..Answer::default() }))
    }

    fn ended(id: &str) -> Event {
        let result = ToolResult::new(ToolStatus::Ok, format!("result {id}"));
        Event::ToolEnded { id: id.into(), result }
    }

    fn request(effects: &[Effect]) -> &Request {
        let Some(Effect::CallModel(request)) = effects.last() else { panic!("{effects:?}") };
        request
    }

    #[test]
    fn results_go_back_in_the_order_of_the_calls_once_all_are_there() {
        let mut agent = agent(9);
        agent.on(prompt());
        let effects = agent.on(asks(&[("a", "read", "{}"), ("b", "read", "{\"x\":1}")]));
        assert_eq!(effects.len(), 3);
        assert_eq!(agent.on(ended("b")).len(), 1);
        let effects = agent.on(ended("a"));
        let ids: Vec<_> = request(&effects)
            .messages
            .iter()
            .filter_map(|message| match message {
                Message::Tool { call_id, .. } => Some(call_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn unknown_tools_and_broken_arguments_are_answered_without_running() {
        let mut agent = agent(9);
        agent.on(prompt());
        let effects =
            agent.on(asks(&[("a", "reed", "{}"), ("b", "read", "{\"x"), ("c", "read", "[]")]));
        let refused = |effect: &&Effect| matches!(effect, Effect::Refuse { .. });
        assert_eq!(effects.iter().filter(refused).count(), 3);
    }

    #[test]
    fn calls_that_share_an_id_both_get_a_result() {
        let mut agent = agent(9);
        agent.on(prompt());
        let effects = agent.on(asks(&[("a", "read", "{}"), ("a", "read", "{\"x\":1}")]));
        for effect in effects {
            if let Effect::RunTool { call, .. } = effect {
                agent.on(ended(&call.id));
            }
        }
        assert_eq!(agent.turns(), 2);
    }

    #[test]
    fn the_turn_limit_ends_the_run() {
        let mut agent = agent(1);
        agent.on(prompt());
        agent.on(asks(&[("a", "read", "{}")]));
        let effects = agent.on(ended("a"));
        assert!(matches!(effects.last(), Some(Effect::Finish(Outcome::TurnLimit { turns: 1 }))));
    }

    #[test]
    fn a_cancelled_run_leaves_no_call_without_a_result() {
        let mut agent = agent(9);
        agent.on(prompt());
        agent.on(asks(&[("a", "read", "{}"), ("b", "read", "{\"x\":1}")]));
        agent.on(ended("b"));
        agent.on(Event::Cancelled);
        let tools = agent.messages.iter().filter(|m| matches!(m, Message::Tool { .. })).count();
        assert_eq!(tools, 2);
    }

    fn long(agent: &mut Agent) -> Vec<Effect> {
        agent.on(prompt());
        agent.on(asks(&[
            ("a", "read", "{\"path\":\"big.rs\"}"),
            ("b", "read", "{\"path\":\"c.rs\"}"),
        ]));
        agent.on(ended("b"));
        let result = ToolResult::new(ToolStatus::Ok, "x".repeat(60_000));
        agent.on(Event::ToolEnded { id: "a".into(), result })
    }

    #[test]
    fn a_conversation_that_gets_too_long_is_summarised_inside_a_turn() {
        let mut agent = agent(9);
        let effects = long(&mut agent);
        let Some(Effect::Compact(request)) = effects.last() else { panic!("{effects:?}") };
        assert!(request.tools.is_empty() && request.messages.len() == 2);
        let summary = Answer { text: "did things".into(), ..Answer::default() };
        let effects = agent.on(Event::Compacted(Ok(summary)));
        let Effect::Keep(Kept::Compaction { summary, kept: 0, before, after }) = &effects[0] else {
            panic!("{effects:?}")
        };
        assert!(before > after && *after < 1_000, "{before} {after}");
        assert!(summary.contains("did things") && summary.contains("big.rs, c.rs"), "{summary}");
        assert!(summary.contains("present request, go on with it:\np"), "{summary}");
        assert_eq!(request_messages(&effects), 2);
    }

    fn request_messages(effects: &[Effect]) -> usize {
        request(effects).messages.len()
    }

    #[test]
    fn an_overflow_is_summarised_once_and_then_is_an_error() {
        let mut agent = agent(9);
        agent.on(prompt());
        agent.on(asks(&[("a", "read", "{}")]));
        agent.on(ended("a"));
        let too_long = || Event::Answered(Err(ModelError::TooLong("no".into())));
        assert!(matches!(agent.on(too_long())[..], [Effect::Compact(_)]));
        let summary = Answer { text: "s".into(), ..Answer::default() };
        agent.on(Event::Compacted(Ok(summary)));
        assert!(matches!(agent.on(too_long())[..], [Effect::Finish(Outcome::ModelFailed(_))]));
    }

    #[test]
    fn a_result_never_stays_without_its_call() {
        let mut agent = agent(9);
        agent.on(prompt());
        for id in ["a", "b", "c", "d"] {
            agent.on(asks(&[(id, "read", &format!("{{\"x\":\"{id}\"}}"))]));
            agent.on(ended(id));
        }
        let mut cuts = HashSet::new();
        for keep in 0..200 {
            let cut = 1 + compaction::cut(&agent.messages[1..], keep);
            assert!(!matches!(agent.messages.get(cut), Some(Message::Tool { .. })), "{keep}");
            cuts.insert(cut);
        }
        assert!(cuts.len() > 2, "{cuts:?}");
    }

    #[test]
    fn the_same_error_again_and_again_is_a_loop_too() {
        let mut agent = agent(30);
        agent.on(prompt());
        let mut repeated = Vec::new();
        for number in 0..5 {
            let id = format!("c{number}");
            let effects = agent.on(asks(&[(&id, "read", &format!("{{\"x\":{number}}}"))]));
            repeated.extend(effects.iter().filter_map(|effect| match effect {
                Effect::RunTool { repeated, .. } => Some(*repeated),
                _ => None,
            }));
            let result = ToolResult::new(ToolStatus::Error, "no such file");
            agent.on(Event::ToolEnded { id, result });
        }
        assert_eq!(repeated, [false, false, false, true, true]);
    }

    #[test]
    fn two_summaries_of_one_turn_keep_the_request_the_files_and_each_other() {
        let mut agent = agent(30);
        long(&mut agent);
        agent.on(Event::Compacted(Ok(Answer { text: "first part".into(), ..Answer::default() })));
        agent.on(asks(&[("c", "edit", "{\"path\":\"d.rs\"}")]));
        let result = ToolResult::new(ToolStatus::Ok, "y".repeat(60_000));
        let effects = agent.on(Event::ToolEnded { id: "c".into(), result });
        let Some(Effect::Compact(asked)) = effects.last() else { panic!("{effects:?}") };
        let Message::User { text, .. } = &asked.messages[1] else { panic!("{asked:?}") };
        assert!(text.contains("first part"), "{text}");
        let answer = Answer { text: "both parts".into(), ..Answer::default() };
        let effects = agent.on(Event::Compacted(Ok(answer)));
        let Effect::Keep(Kept::Compaction { summary, .. }) = &effects[0] else {
            panic!("{effects:?}")
        };
        assert!(summary.contains("big.rs, c.rs, d.rs"), "{summary}");
        assert_eq!(summary.matches("present request").count(), 1, "{summary}");
        assert!(summary.trim_end().ends_with("go on with it:\np"), "{summary}");
    }

    #[test]
    fn a_refused_summary_replaces_nothing() {
        let mut agent = agent(9);
        long(&mut agent);
        let refused =
            Answer { text: "I will not.".into(), stop: Stop::Refused, ..Answer::default() };
        let effects = agent.on(Event::Compacted(Ok(refused)));
        assert!(matches!(effects[..], [Effect::Finish(Outcome::ModelFailed(_))]), "{effects:?}");
    }
}
