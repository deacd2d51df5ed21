//! Carries out what the agent wants, one run at a time, and tells everyone who wants to know.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::Value;

use super::broker::{Broker, Executed, Grant};
use super::net::{Backend, Recorder};
use super::record::Record;
use crate::agent::{Agent, Effect, Event, Note, Outcome, Settings, ToolResult, ToolStatus};
use crate::model::tape::Exchange;
use crate::model::{
    Answer, Attachment, Message, ModelError, Request, StreamEvent, ToolCall, Usage,
};
use crate::policy::Decision;
use crate::session::Entry;
use crate::tools::{Kind, TaskArguments};

/// Most model requests of one sub-agent.
const TASK_TURNS: usize = 50;
const TASK_PROMPT: &str = include_str!("../../prompts/task.md");

/// What happens in a run, for every front end.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    Text {
        text: String,
    },
    Reasoning {
        text: String,
    },
    ToolCall {
        id: String,
        name: String,
        arguments: Value,
    },
    ToolResult {
        id: String,
        name: String,
        status: ToolStatus,
        output: String,
    },
    Notice {
        text: String,
    },
    /// Something that a sub-agent does; `id` is the call that started it.
    Task {
        id: String,
        event: Box<AgentEvent>,
    },
}

/// A call that was not carried out: what was to happen, why it did not, and what would allow it.
#[derive(Debug, Clone, Serialize)]
pub struct Denial {
    pub tool: String,
    /// The command or the path, in full.
    pub what: String,
    pub directory: String,
    pub reason: String,
    /// The rule that would let exactly this through; `None` if no rule can.
    pub grant: Option<String>,
    /// A yes would have let it through, and nobody was there to give it.
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
    /// Sub-agents included.
    pub usage: Usage,
    /// US dollars, where prices are known.
    pub cost: Option<f64>,
    pub calls: Vec<CallRecord>,
    pub denials: Vec<Denial>,
}

/// One conversation with everything it needs.
#[derive(Debug)]
pub struct Session {
    pub broker: Broker,
    pub backend: Backend,
    pub recorder: Option<RefCell<Recorder>>,
    pub settings: Settings,
    pub record: Record,
    /// Most US dollars for one run.
    pub max_cost: Option<f64>,
    /// What was said before, without the system prompt.
    pub earlier: Vec<Message>,
}

/// A run's way to tell what happens.
pub type Tell<'a> = &'a dyn Fn(AgentEvent);

/// A future that ends the run when it completes.
type Cancel<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// Which conversation of a session something belongs to.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// The call that started the sub-agent; `None` for the session's own conversation.
    task: Option<&'a str>,
    /// Cost at the start of the run.
    cost_before: f64,
}

/// How a call ended, ready to be told to the agent.
struct Ended {
    call: ToolCall,
    result: ToolResult,
    denials: Vec<Denial>,
}

impl Session {
    /// Runs one prompt to its end. When `cancel` completes, everything that runs is killed.
    pub async fn run(
        &self,
        prompt: String,
        attachments: Vec<Attachment>,
        tell: Tell<'_>,
        cancel: Cancel<'_>,
    ) -> RunResult {
        let before = self.record.state();
        self.record.begin_turn();
        let agent = Agent::new(self.settings.clone(), self.earlier.clone());
        let first = Event::Prompt { text: prompt, attachments };
        let scope = Scope { task: None, cost_before: before.cost };
        let mut result = self.drive(agent, first, scope, tell, cancel).await;
        self.record.end_turn();
        if let Some(failure) = self.record.failure() {
            tell(AgentEvent::Notice { text: failure });
        }
        let now = self.record.state();
        result.usage = Usage {
            input: now.usage.input - before.usage.input,
            output: now.usage.output - before.usage.output,
            cached: now.usage.cached - before.usage.cached,
            cache_written: now.usage.cache_written - before.usage.cache_written,
        };
        result.cost = self.record.cost().map(|cost| cost - before.cost);
        result
    }

    /// Runs a command that the user typed, in a cell: that is the yes, but no rule of theirs is
    /// broken for it. The model is told of it with the next prompt.
    pub async fn shell(&self, command: &str) -> ToolResult {
        let arguments = serde_json::json!({"command": command}).to_string();
        let call = ToolCall { id: "shell".into(), name: "bash".into(), arguments };
        let subject = crate::policy::Subject::Command(command.to_owned());
        if let Decision::Deny { reason } = self.broker.decide(&call, &subject) {
            return ToolResult::new(ToolStatus::Denied, reason);
        }
        let result = self.broker.execute(&call, &subject, Grant::This).await.result;
        self.record.begin_turn();
        let text = format!("I ran this command:\n{command}\n\nIt printed:\n{}", result.text);
        self.record.add(Entry::Message(Message::user(text)));
        self.record.end_turn();
        result
    }

    async fn drive(
        &self,
        mut agent: Agent,
        first: Event,
        scope: Scope<'_>,
        tell: Tell<'_>,
        mut cancel: Cancel<'_>,
    ) -> RunResult {
        let mut effects = VecDeque::from(self.on(&mut agent, first, scope));
        let mut running = FuturesUnordered::new();
        let (mut calls, mut denials) = (Vec::new(), Vec::new());
        let outcome = loop {
            match effects.pop_front() {
                Some(effect @ (Effect::CallModel(_) | Effect::Compact(_))) => {
                    let answered = tokio::select! {
                        answered = self.ask(effect, scope, tell) => answered,
                        () = &mut cancel => Event::Cancelled,
                    };
                    effects.extend(self.on(&mut agent, answered, scope));
                    let spent = self.record.state().cost - scope.cost_before;
                    if self.max_cost.is_some_and(|most| spent >= most) && !is_over(&effects) {
                        effects = self.on(&mut agent, Event::OutOfBudget, scope).into();
                    }
                }
                Some(Effect::RunTool { call, repeated }) => {
                    tell(AgentEvent::ToolCall {
                        id: call.id.clone(),
                        name: call.name.clone(),
                        arguments: arguments(&call),
                    });
                    running.push(self.run_tool(call, repeated, scope, tell));
                }
                Some(Effect::Refuse { call, text }) => {
                    let result = ToolResult::new(ToolStatus::Error, text);
                    let record = CallRecord::new(&call, &result);
                    effects.extend(self.on(
                        &mut agent,
                        Event::ToolEnded { id: call.id, result },
                        scope,
                    ));
                    record.tell(tell);
                    calls.push(record);
                }
                Some(Effect::Tell(note)) => tell(AgentEvent::Notice { text: note_text(&note) }),
                Some(Effect::Keep(kept)) => self.record.keep(kept, scope.task),
                Some(Effect::Finish(outcome)) => break outcome,
                None => tokio::select! {
                    Some(Ended { call, result, denials: new }) = running.next() => {
                        let record = CallRecord::new(&call, &result);
                        denials.extend(new);
                        effects.extend(self.on(&mut agent, Event::ToolEnded { id: call.id, result }, scope));
                        record.tell(tell);
                        calls.push(record);
                    }
                    () = &mut cancel => {
                        running.clear();
                        effects = self.on(&mut agent, Event::Cancelled, scope).into();
                    }
                },
            }
            if let Some(failure) = self.record.failure() {
                tell(AgentEvent::Notice { text: failure });
            }
        };
        let (turns, usage) = (agent.turns(), agent.usage());
        RunResult { outcome, turns, usage, cost: None, calls, denials }
    }

    /// Hands an event to the agent and writes down at once what it wants kept.
    fn on(&self, agent: &mut Agent, event: Event, scope: Scope<'_>) -> Vec<Effect> {
        let mut effects = agent.on(event);
        effects.retain_mut(|effect| match effect {
            Effect::Keep(kept) => {
                self.record.keep(kept.clone(), scope.task);
                false
            }
            _ => true,
        });
        effects
    }

    /// Asks the model, for an answer or for a summary.
    async fn ask(&self, effect: Effect, scope: Scope<'_>, tell: Tell<'_>) -> Event {
        let (request, shown) = match effect {
            Effect::Compact(request) => (request, false),
            Effect::CallModel(request) => (request, true),
            _ => return Event::Cancelled,
        };
        let mut streamed = |event| {
            if shown {
                self.stream_event(event, scope, tell);
            }
        };
        let answer = self.backend.answer(&request, &mut streamed).await;
        let answer = self.recorded(request, answer);
        if let Ok(answer) = &answer {
            self.record.count(answer.usage);
        }
        if shown { Event::Answered(answer) } else { Event::Compacted(answer) }
    }

    fn stream_event(&self, event: StreamEvent, scope: Scope<'_>, tell: Tell<'_>) {
        match event {
            StreamEvent::Text(text) => {
                if scope.task.is_none() {
                    self.record.add(Entry::Partial(text.clone()));
                }
                tell(AgentEvent::Text { text });
            }
            StreamEvent::Reasoning(text) => tell(AgentEvent::Reasoning { text }),
        }
    }

    /// A recording that cannot be written ends the run: it would be believed.
    fn recorded(
        &self,
        request: Request,
        answer: Result<Answer, ModelError>,
    ) -> Result<Answer, ModelError> {
        let Some(recorder) = &self.recorder else { return answer };
        let exchange = Exchange { request, answer };
        match recorder.borrow_mut().add(&exchange) {
            Ok(()) => exchange.answer,
            Err(error) => {
                Err(ModelError::Tape(format!("the recording cannot be written: {error}")))
            }
        }
    }

    /// Decides and runs one call. Without somebody to ask, a question is a denial.
    async fn run_tool(
        &self,
        call: ToolCall,
        repeated: bool,
        scope: Scope<'_>,
        tell: Tell<'_>,
    ) -> Ended {
        let broker = &self.broker;
        let done = |call, result| Ended { call, result, denials: Vec::new() };
        if let Some(result) = broker.kept_output(&call) {
            return done(call, result);
        }
        let subject = match broker.look_at(&call) {
            Ok(subject) => subject,
            Err(text) => return done(call, ToolResult::new(ToolStatus::Error, text)),
        };
        let decision = match broker.decide(&call, &subject) {
            deny @ Decision::Deny { .. } => deny,
            _ if repeated => Decision::Ask {
                reason: "The same call was made too often; it needs a yes now.".into(),
            },
            decision => decision,
        };
        let grant = match decision {
            Decision::Allow { .. } => Grant::Unasked,
            Decision::Grant { .. } => Grant::This,
            Decision::Ask { reason } => {
                let grant = broker.exact_rule(&call, &subject).filter(|_| !repeated);
                return denied(broker, call, &subject, reason, grant, true);
            }
            Decision::Deny { reason } => {
                return denied(broker, call, &subject, reason, None, false);
            }
        };
        if broker.kind(&call.name) == Some(Kind::Task) {
            return self.task(call, scope, tell).await;
        }
        let Executed { result, change, seen } = broker.execute(&call, &subject, grant).await;
        if let Some(change) = change {
            self.record.add(Entry::Change(change));
        }
        if let Some((path, hash)) = seen {
            self.record.add(Entry::Seen(path, hash));
        }
        done(call, result)
    }

    /// Runs a sub-agent: the same policy, the same workers, its own conversation.
    async fn task(&self, call: ToolCall, scope: Scope<'_>, tell: Tell<'_>) -> Ended {
        let wanted: TaskArguments = match serde_json::from_str(&call.arguments) {
            Ok(wanted) => wanted,
            Err(error) => {
                let text = format!("the arguments of task are wrong: {error}");
                let result = ToolResult::new(ToolStatus::Error, text);
                return Ended { call, result, denials: Vec::new() };
            }
        };
        let mut settings = self.settings.clone();
        settings.max_turns = settings.max_turns.min(TASK_TURNS);
        settings.system_prompt = format!("{TASK_PROMPT}\n{}", settings.system_prompt);
        settings.tools.retain(|tool| {
            let kind = self.broker.kind(&tool.name);
            let reads = matches!(kind, Some(Kind::Reads | Kind::Walks));
            kind != Some(Kind::Task) && (wanted.full || reads)
        });
        let id = call.id.clone();
        let inner =
            |event: AgentEvent| tell(AgentEvent::Task { id: id.clone(), event: Box::new(event) });
        let first = Event::Prompt { text: wanted.prompt, attachments: Vec::new() };
        let agent = Agent::new(settings, Vec::new());
        let never = std::pin::pin!(std::future::pending());
        let scope = Scope { task: Some(&call.id), ..scope };
        let run: Pin<Box<dyn Future<Output = RunResult> + '_>> =
            Box::pin(self.drive(agent, first, scope, &inner, never));
        let RunResult { outcome, denials, .. } = run.await;
        let result = match outcome {
            Outcome::Done { answer } => ToolResult::new(ToolStatus::Ok, answer),
            Outcome::Refused { answer } => {
                ToolResult::new(ToolStatus::Error, format!("The sub-agent refused: {answer}"))
            }
            Outcome::TurnLimit { turns } => {
                let text = format!("The sub-agent did not come to an end in {turns} turns.");
                ToolResult::new(ToolStatus::Error, text)
            }
            Outcome::CostLimit => ToolResult::new(ToolStatus::Error, "The cost limit is reached."),
            Outcome::ModelFailed(error) => {
                ToolResult::new(ToolStatus::Error, format!("The sub-agent failed: {error}"))
            }
            Outcome::Cancelled => ToolResult::new(ToolStatus::Error, "cancelled"),
        };
        Ended { call, result, denials }
    }
}

fn is_over(effects: &VecDeque<Effect>) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Finish(_)))
}

fn denied(
    broker: &Broker,
    call: ToolCall,
    subject: &crate::policy::Subject,
    reason: String,
    grant: Option<String>,
    unasked: bool,
) -> Ended {
    let mode = broker.policy().name;
    let who = if unasked { " There was nobody to ask." } else { "" };
    let allow = match &grant {
        Some(rule) => format!(" The user can allow exactly this with the rule {rule}"),
        None => String::new(),
    };
    let text = format!("denied in {mode} mode: {reason}{who} Do not try to get around it.{allow}");
    let denial = Denial {
        tool: call.name.clone(),
        what: subject.to_string(),
        directory: broker.host().workspace.display().to_string(),
        reason,
        grant,
        unasked,
    };
    Ended { call, result: ToolResult::new(ToolStatus::Denied, text), denials: vec![denial] }
}

impl CallRecord {
    fn new(call: &ToolCall, result: &ToolResult) -> CallRecord {
        CallRecord {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: arguments(call),
            status: result.status,
            output: result.text.clone(),
        }
    }

    fn tell(&self, tell: Tell<'_>) {
        tell(AgentEvent::ToolResult {
            id: self.id.clone(),
            name: self.name.clone(),
            status: self.status,
            output: self.output.clone(),
        });
    }
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::String(call.arguments.clone()))
}

fn note_text(note: &Note) -> String {
    match note {
        Note::Repeated { tool, times } => {
            format!("the model has made the same call of {tool} {times} times")
        }
        Note::AnswerCut => "the answer was cut off at the token limit".into(),
        Note::Compacted { before, after } => {
            format!("the conversation was summarised: {before} tokens became {after}")
        }
    }
}
