//! The agent loop as a state machine: events in, effects out. No I/O, no clock, no process.

mod repeats;

use std::collections::VecDeque;

use serde_json::Value;

use crate::model::{Answer, Message, ModelError, Request, ToolCall, ToolSchema, Usage};
use repeats::{Repeats, Verdict};

/// What the loop is told.
#[derive(Debug)]
pub enum Event {
    Prompt(String),
    Answered(Result<Answer, ModelError>),
    ToolEnded { id: String, result: ToolResult },
    Cancelled,
}

/// What the loop wants done.
#[derive(Debug, Clone)]
pub enum Effect {
    CallModel(Request),
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

/// Something a person should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Repeated { tool: String, times: usize },
    AnswerCut,
}

/// How a tool call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    pub status: ToolStatus,
    pub text: String,
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
    Done { answer: String },
    TurnLimit { turns: usize },
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
}

/// The state of one conversation.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    messages: Vec<Message>,
    /// Calls of the last answer, in order, with the results that have come.
    pending: VecDeque<(ToolCall, Option<ToolResult>, Option<String>)>,
    repeats: Repeats,
    turns: usize,
    usage: Usage,
}

impl Agent {
    pub fn new(settings: Settings) -> Agent {
        let system = Message::System { text: settings.system_prompt.clone() };
        Agent {
            settings,
            messages: vec![system],
            pending: VecDeque::new(),
            repeats: Repeats::default(),
            turns: 0,
            usage: Usage::default(),
        }
    }

    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Model requests so far.
    pub fn turns(&self) -> usize {
        self.turns
    }

    /// Takes one event and says what to do next.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Prompt(text) => {
                self.messages.push(Message::User { text });
                self.call_model()
            }
            Event::Answered(Err(error)) => vec![Effect::Finish(Outcome::ModelFailed(error))],
            Event::Answered(Ok(answer)) => self.answered(answer),
            Event::ToolEnded { id, result } => self.tool_ended(&id, result),
            Event::Cancelled => self.cancelled(),
        }
    }

    fn call_model(&mut self) -> Vec<Effect> {
        if self.turns >= self.settings.max_turns {
            return vec![Effect::Finish(Outcome::TurnLimit { turns: self.turns })];
        }
        self.turns += 1;
        vec![Effect::CallModel(Request {
            model: self.settings.model.clone(),
            messages: self.messages.clone(),
            tools: self.settings.tools.clone(),
            max_tokens: self.settings.max_tokens,
            temperature: self.settings.temperature,
        })]
    }

    fn answered(&mut self, answer: Answer) -> Vec<Effect> {
        self.usage += answer.usage;
        let Answer { text, calls, cut, .. } = answer;
        let calls = unique_ids(calls);
        self.messages.push(Message::Assistant { text: text.clone(), calls: calls.clone() });
        let mut effects = Vec::new();
        if cut {
            effects.push(Effect::Tell(Note::AnswerCut));
        }
        if calls.is_empty() {
            effects.push(Effect::Finish(Outcome::Done { answer: text }));
            return effects;
        }
        for call in calls {
            let (verdict, times) = self.repeats.see(&call);
            let warning = (verdict != Verdict::Fresh).then(|| {
                effects.push(Effect::Tell(Note::Repeated { tool: call.name.clone(), times }));
                format!("(You have made this same call {times} times. Try something else.)")
            });
            self.pending.push_back((call.clone(), None, warning));
            match self.refusal(&call) {
                Some(text) => effects.push(Effect::Refuse { call, text }),
                None => {
                    let repeated = verdict == Verdict::Stop;
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
        let waiting = |entry: &&mut (ToolCall, Option<ToolResult>, Option<String>)| {
            entry.0.id == id && entry.1.is_none()
        };
        let Some(entry) = self.pending.iter_mut().find(waiting) else { return Vec::new() };
        entry.1 = Some(result);
        if self.pending.iter().any(|(_, result, _)| result.is_none()) {
            return Vec::new();
        }
        for (call, result, warning) in std::mem::take(&mut self.pending) {
            let mut text = result.map(|result| result.text).unwrap_or_default();
            if let Some(warning) = warning {
                text = format!("{warning}\n{text}");
            }
            self.messages.push(Message::Tool { call_id: call.id, text });
        }
        self.call_model()
    }

    /// Every call gets a result, so that the conversation can go on later.
    fn cancelled(&mut self) -> Vec<Effect> {
        for (call, result, _) in std::mem::take(&mut self.pending) {
            let text =
                result.map_or_else(|| "(cancelled by the user)".into(), |result| result.text);
            self.messages.push(Message::Tool { call_id: call.id, text });
        }
        vec![Effect::Finish(Outcome::Cancelled)]
    }
}

/// Results find their call by id, so two calls of one answer may not share one.
fn unique_ids(mut calls: Vec<ToolCall>) -> Vec<ToolCall> {
    for later in 1..calls.len() {
        if calls[..later].iter().any(|call| call.id == calls[later].id) {
            calls[later].id = format!("{}_{later}", calls[later].id);
        }
    }
    calls
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
        Agent::new(Settings {
            model: "m".into(),
            system_prompt: "s".into(),
            tools: vec![tool],
            max_turns,
            max_tokens: None,
            temperature: None,
        })
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
        let result = ToolResult { status: ToolStatus::Ok, text: format!("result {id}") };
        Event::ToolEnded { id: id.into(), result }
    }

    fn request(effects: &[Effect]) -> &Request {
        let Some(Effect::CallModel(request)) = effects.last() else { panic!("{effects:?}") };
        request
    }

    #[test]
    fn results_go_back_in_the_order_of_the_calls_once_all_are_there() {
        let mut agent = agent(9);
        agent.on(Event::Prompt("p".into()));
        let effects = agent.on(asks(&[("a", "read", "{}"), ("b", "read", "{\"x\":1}")]));
        assert_eq!(effects.len(), 2);
        assert!(agent.on(ended("b")).is_empty());
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
        agent.on(Event::Prompt("p".into()));
        let effects =
            agent.on(asks(&[("a", "reed", "{}"), ("b", "read", "{\"x"), ("c", "read", "[]")]));
        assert!(effects.iter().all(|effect| matches!(effect, Effect::Refuse { .. })));
        assert_eq!(effects.len(), 3);
    }

    #[test]
    fn calls_that_share_an_id_both_get_a_result() {
        let mut agent = agent(9);
        agent.on(Event::Prompt("p".into()));
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
        agent.on(Event::Prompt("p".into()));
        agent.on(asks(&[("a", "read", "{}")]));
        let effects = agent.on(ended("a"));
        assert!(matches!(effects[..], [Effect::Finish(Outcome::TurnLimit { turns: 1 })]));
    }

    #[test]
    fn a_cancelled_run_leaves_no_call_without_a_result() {
        let mut agent = agent(9);
        agent.on(Event::Prompt("p".into()));
        agent.on(asks(&[("a", "read", "{}"), ("b", "read", "{\"x\":1}")]));
        agent.on(ended("b"));
        agent.on(Event::Cancelled);
        let tools = agent.messages.iter().filter(|m| matches!(m, Message::Tool { .. })).count();
        assert_eq!(tools, 2);
    }
}
