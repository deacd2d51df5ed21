//! Carries out what the agent wants, one run at a time, and tells everyone who wants to know.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::Value;

use super::broker::{Broker, Grant};
use super::net::{Backend, Recorder};
use crate::agent::{Agent, Effect, Event, Note, Outcome, Settings, ToolResult, ToolStatus};
use crate::model::tape::Exchange;
use crate::model::{ModelError, StreamEvent, ToolCall, Usage};
use crate::policy::Decision;

/// What happens in a run, for every front end.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    Text { text: String },
    Reasoning { text: String },
    ToolCall { id: String, name: String, arguments: Value },
    ToolResult { id: String, name: String, status: ToolStatus, output: String },
    Notice { text: String },
}

/// A call that was not carried out.
#[derive(Debug, Clone, Serialize)]
pub struct Denial {
    pub tool: String,
    pub reason: String,
    /// A yes would have let it through, and nobody was there to give it.
    #[serde(skip)]
    pub unasked: bool,
}

/// A call and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct CallRecord {
    pub id: String,
    pub name: String,
    pub arguments: Value,
    pub status: ToolStatus,
    pub output: String,
}

/// A finished run.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub outcome: Outcome,
    pub turns: usize,
    pub usage: Usage,
    pub calls: Vec<CallRecord>,
    pub denials: Vec<Denial>,
}

/// One conversation with everything it needs.
#[derive(Debug)]
pub struct Session {
    pub broker: Broker,
    pub backend: Backend,
    pub recorder: Option<Recorder>,
    pub settings: Settings,
}

/// A run's way to tell what happens.
pub type Tell<'a> = &'a mut dyn FnMut(AgentEvent);

impl Session {
    /// Runs one prompt to its end. When `cancel` completes, everything that runs is killed.
    pub async fn run(
        &mut self,
        prompt: String,
        tell: Tell<'_>,
        mut cancel: Pin<&mut dyn Future<Output = ()>>,
    ) -> RunResult {
        let Session { broker, backend, recorder, settings } = self;
        let mut agent = Agent::new(settings.clone());
        let mut effects = VecDeque::from(agent.on(Event::Prompt(prompt)));
        let mut running = FuturesUnordered::new();
        let (mut calls, mut denials) = (Vec::new(), Vec::new());
        let outcome = loop {
            match effects.pop_front() {
                Some(Effect::CallModel(request)) => {
                    let mut streamed = |event| stream_event(event, tell);
                    let answer = tokio::select! {
                        answer = backend.answer(&request, &mut streamed) => answer,
                        () = &mut cancel => {
                            effects = agent.on(Event::Cancelled).into();
                            continue;
                        }
                    };
                    let answer = record(recorder.as_mut(), request, answer);
                    effects.extend(agent.on(Event::Answered(answer)));
                }
                Some(Effect::RunTool { call, repeated }) => {
                    tell(AgentEvent::ToolCall {
                        id: call.id.clone(),
                        name: call.name.clone(),
                        arguments: arguments(&call),
                    });
                    running.push(run_tool(broker, call, repeated));
                }
                Some(Effect::Refuse { call, text }) => {
                    let result = ToolResult { status: ToolStatus::Error, text };
                    calls.push(ended(&call, &result, tell));
                    effects.extend(agent.on(Event::ToolEnded { id: call.id, result }));
                }
                Some(Effect::Tell(note)) => tell(AgentEvent::Notice { text: note_text(&note) }),
                Some(Effect::Finish(outcome)) => break outcome,
                None => tokio::select! {
                    Some((call, result, denial)) = running.next() => {
                        calls.push(ended(&call, &result, tell));
                        denials.extend(denial);
                        effects.extend(agent.on(Event::ToolEnded { id: call.id, result }));
                    }
                    () = &mut cancel => {
                        running.clear();
                        effects = agent.on(Event::Cancelled).into();
                    }
                },
            }
        };
        RunResult { outcome, turns: agent.turns(), usage: agent.usage(), calls, denials }
    }
}

/// Tells and records the end of a call.
fn ended(call: &ToolCall, result: &ToolResult, tell: Tell<'_>) -> CallRecord {
    let (id, name, output) = (call.id.clone(), call.name.clone(), result.text.clone());
    tell(AgentEvent::ToolResult {
        id: id.clone(),
        name: name.clone(),
        status: result.status,
        output: output.clone(),
    });
    CallRecord { id, name, arguments: arguments(call), status: result.status, output }
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::String(call.arguments.clone()))
}

fn stream_event(event: StreamEvent, tell: Tell<'_>) {
    match event {
        StreamEvent::Text(text) => tell(AgentEvent::Text { text }),
        StreamEvent::Reasoning(text) => tell(AgentEvent::Reasoning { text }),
    }
}

fn note_text(note: &Note) -> String {
    match note {
        Note::Repeated { tool, times } => {
            format!("the model has made the same call of {tool} {times} times")
        }
        Note::AnswerCut => "the answer was cut off at the token limit".into(),
    }
}

/// A recording that cannot be written ends the run: it would be believed.
fn record(
    recorder: Option<&mut Recorder>,
    request: crate::model::Request,
    answer: Result<crate::model::Answer, ModelError>,
) -> Result<crate::model::Answer, ModelError> {
    let Some(recorder) = recorder else { return answer };
    let exchange = Exchange { request, answer };
    match recorder.add(&exchange) {
        Ok(()) => exchange.answer,
        Err(error) => Err(ModelError::Tape(format!("the recording cannot be written: {error}"))),
    }
}

/// Decides and runs one call. Without a terminal a question is a denial.
async fn run_tool(
    broker: &Broker,
    call: ToolCall,
    repeated: bool,
) -> (ToolCall, ToolResult, Option<Denial>) {
    let subject = match broker.look_at(&call) {
        Ok(subject) => subject,
        Err(text) => return (call, ToolResult { status: ToolStatus::Error, text }, None),
    };
    let decision = match broker.decide(&call, &subject) {
        deny @ Decision::Deny { .. } => deny,
        _ if repeated => {
            Decision::Ask { reason: "The same call was made too often; it needs a yes now.".into() }
        }
        decision => decision,
    };
    let denied = |reason: String, unasked: bool| {
        let mode = broker.policy().name;
        let who = if unasked { " There was nobody to ask." } else { "" };
        let text = format!("denied in {mode} mode: {reason}{who} Do not try to get around it.");
        let denial = Denial { tool: call.name.clone(), reason, unasked };
        (ToolResult { status: ToolStatus::Denied, text }, Some(denial))
    };
    let (result, denial) = match decision {
        Decision::Allow { .. } => (broker.execute(&call, &subject, Grant::Unasked).await, None),
        Decision::Grant { .. } => (broker.execute(&call, &subject, Grant::This).await, None),
        Decision::Ask { reason } => denied(reason, true),
        Decision::Deny { reason } => denied(reason, false),
    };
    (call, result, denial)
}
