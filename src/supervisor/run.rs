//! Carries out what the agent wants, one run at a time, and tells everyone who wants to know.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::approval::{self, Approver};
use super::broker::{Broker, Executed, Grant};
use super::net::{Backend, Recorder};
use super::record::Record;
use super::rules_file;
use crate::agent::{
    Agent, AgentEvent, Effect, Event, Note, Outcome, STOPPED, Settings, ToolResult, ToolStatus,
    Verdict,
};
use crate::model::tape::Exchange;
use crate::model::{
    Answer, Attachment, Message, ModelError, Request, StreamEvent, ToolCall, Usage,
};
use crate::policy::{Decision, Subject};
use crate::session::Entry;
use crate::tools::{Kind, TaskArguments};

/// How the model is told of a command of the user's.
const RAN: &str = "I ran this command:\n";
const PRINTED: &str = "\n\nIt printed:\n";

/// The command and the output, if a message is about a command of the user's.
pub fn ran_by_user(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix(RAN)?.split_once(PRINTED)
}

/// Most lines of a file that the user adds to a prompt.
const ATTACHED_LINES: usize = 5_000;
/// Most model requests of one sub-agent.
const TASK_TURNS: usize = 50;
const TASK_PROMPT: &str = include_str!("../../prompts/task.md");

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
    /// What the person who was asked has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A call and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct CallRecord {
    pub id: String,
    pub name: String,
    pub arguments: Value,
    pub status: ToolStatus,
    pub output: String,
    /// How long it took, without questions. No part of the record: the same run twice is the same.
    #[serde(skip)]
    pub milliseconds: u64,
    /// Why it was let through, or was not; empty where nothing was decided.
    pub because: String,
    /// Images and documents that came with it: kind and size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
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
    pub earlier: RefCell<Vec<Message>>,
    /// Who answers questions; without one, what would be asked is denied.
    pub approver: Option<Approver>,
    /// Where rules go that are to hold in every session.
    pub rules_file: Option<PathBuf>,
    /// Calls that were denied during this run: they are not asked about again.
    pub refused: RefCell<HashSet<(String, String)>>,
    /// How often in this run another try was refused: then it is not asked for any more.
    pub tries_refused: Cell<u32>,
    /// Room for sub-agents that run at once.
    pub tasks: Semaphore,
}

/// After so many refusals of another try none is asked for in a run.
const MOST_TRIES_REFUSED: u32 = 3;

/// Most sub-agents that run at once.
pub const TASKS_AT_ONCE: usize = 8;

/// A run's way to tell what happens.
pub type Tell<'a> = &'a dyn Fn(AgentEvent);

/// A future that ends the run when it completes.
type Cancel<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// Which conversation of a session something belongs to: the call that started the sub-agent, or none
/// for the session's own.
type Scope<'a> = Option<&'a str>;

/// How a call ended, ready to be told to the agent.
struct Ended {
    call: ToolCall,
    result: ToolResult,
    denials: Vec<Denial>,
    /// Why it was let through, or was not.
    because: String,
    /// How long it ran: nobody's thinking about a question is in it.
    took: Duration,
}

impl Ended {
    fn new(call: ToolCall, result: ToolResult) -> Ended {
        let (denials, because, took) = Default::default();
        Ended { call, result, denials, because, took }
    }
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
        self.record.begin_turn();
        self.refused.borrow_mut().clear();
        self.tries_refused.set(0);
        let earlier = self.earlier.take();
        let mut agent = Agent::new(self.settings.clone(), earlier);
        let first = Event::Prompt { text: prompt, attachments };
        let result = self.drive(&mut agent, first, None, tell, cancel).await;
        self.finished(agent, result, tell)
    }

    /// Summarises what was said so far.
    pub async fn shorten(&self, tell: Tell<'_>, cancel: Cancel<'_>) -> RunResult {
        // No turn of its own: there is nothing in it to undo.
        self.record.begin_run();
        let mut agent = Agent::new(self.settings.clone(), self.earlier.take());
        let result = self.drive(&mut agent, Event::Shorten, None, tell, cancel).await;
        self.finished(agent, result, tell)
    }

    fn finished(&self, agent: Agent, mut result: RunResult, tell: Tell<'_>) -> RunResult {
        self.earlier.replace(agent.into_messages());
        self.record.end_turn();
        if let Some(failure) = self.record.failure() {
            tell(AgentEvent::Notice { text: failure });
        }
        let spent = self.record.spent();
        result.usage = spent.usage;
        result.cost = self.record.knows_prices().then_some(spent.cost);
        result
    }

    /// Runs a command that the user typed, in a cell: that is the yes, but no rule of theirs is
    /// broken for it. The model is told of it with the next prompt.
    pub async fn shell(&self, command: &str) -> ToolResult {
        let arguments = serde_json::json!({"command": command}).to_string();
        let call = ToolCall { id: "shell".into(), name: "bash".into(), arguments };
        let subject = Subject::Command(command.to_owned());
        if let Decision::Deny { reason } = self.broker.decide(&call, &subject) {
            return ToolResult::new(ToolStatus::Denied, reason);
        }
        let result = self.broker.execute(&call, &subject, Grant::This, "").await.result;
        self.record.begin_turn();
        let text = format!("{RAN}{command}{PRINTED}{}", result.text);
        let message = Message::user(text);
        self.record.add(Entry::Message(message.clone()));
        self.earlier.borrow_mut().push(message);
        self.record.end_turn();
        result
    }

    /// A question aside, about the conversation as it is now: no tool runs, and neither the question nor
    /// the answer becomes part of it.
    pub async fn aside(&self, question: &str) -> Result<String, String> {
        // While a run goes on, the session's file knows more than anybody else.
        let saved = self.record.path().and_then(|path| crate::session::load(&path).ok());
        let messages = saved.map_or_else(|| self.earlier.borrow().clone(), |it| it.messages);
        let mut settings = self.settings.clone();
        settings.compact = false;
        let mut agent = Agent::new(settings, messages);
        let text = format!(
            "{question}\n\n(A question aside: answer from what you know by now, without any tool, in a few \
             sentences. The work goes on afterwards as if it had not been asked.)"
        );
        let mut effects = agent.on(Event::Prompt { text, attachments: Vec::new() });
        let Some(Effect::CallModel(request)) = effects.pop() else {
            return Err("the conversation has no room for a question".into());
        };
        let answer = self.backend.answer(&request, &mut |_| {}).await;
        let answer = self.recorded(request, answer).map_err(|error| error.to_string())?;
        self.record.count_aside(answer.usage);
        match answer.text.trim() {
            "" => Err("the model said nothing".into()),
            text => Ok(text.to_owned()),
        }
    }

    /// Reads a file that the user wants the model to have. Naming it is the yes, but no rule of theirs is
    /// broken for it.
    pub async fn attach(&self, path: &str) -> Result<(String, Vec<Attachment>), String> {
        let arguments = serde_json::json!({"path": path, "limit": ATTACHED_LINES}).to_string();
        let call = ToolCall { id: "attach".into(), name: "read".into(), arguments };
        let subject = self.broker.look_at(&call)?;
        let grant = match self.broker.decide(&call, &subject) {
            Decision::Deny { reason } => return Err(format!("{path}: {reason}")),
            Decision::Allow { .. } => Grant::Unasked,
            Decision::Grant { .. } => Grant::This,
            Decision::Ask { .. } => match &subject {
                // The name that was given is not what would be read.
                Subject::Path(place) if place.path != self.broker.host().written(path) => {
                    let leads = place.path.display();
                    return Err(format!("{path} leads to {leads}; add that if you mean it"));
                }
                _ => Grant::This,
            },
        };
        let Executed { result, seen, .. } = self.broker.execute(&call, &subject, grant, "").await;
        if result.status != ToolStatus::Ok {
            return Err(result.text);
        }
        if let Some((path, hash)) = seen {
            self.record.add(Entry::Seen(path, hash));
        }
        Ok((result.text, result.attachments))
    }

    async fn drive(
        &self,
        agent: &mut Agent,
        first: Event,
        scope: Scope<'_>,
        tell: Tell<'_>,
        mut cancel: Cancel<'_>,
    ) -> RunResult {
        let mut effects = VecDeque::from(self.on(agent, first, scope));
        let mut running = FuturesUnordered::new();
        let (mut calls, mut denials) = (Vec::new(), Vec::new());
        // Calls that have not ended yet.
        let mut open: Vec<ToolCall> = Vec::new();
        let outcome = loop {
            match effects.pop_front() {
                Some(effect @ (Effect::CallModel(_) | Effect::Compact(_))) => {
                    let answered = match self.over_limit() {
                        Some(limit) => limit,
                        None => tokio::select! {
                            answered = self.ask(effect, scope, tell) => answered,
                            () = &mut cancel => Event::Cancelled,
                        },
                    };
                    effects.extend(self.on(agent, answered, scope));
                }
                Some(Effect::RunTool { call, repeated }) => {
                    tell_call(&call, tell);
                    open.push(call.clone());
                    running.push(self.run_tool(call, repeated, scope, tell));
                }
                Some(Effect::Refuse { call, text }) => {
                    tell_call(&call, tell);
                    let result = ToolResult::new(ToolStatus::Error, text);
                    let record = CallRecord::new(&call, &result, Duration::ZERO, String::new());
                    effects.extend(self.on(agent, Event::ToolEnded { id: call.id, result }, scope));
                    record.tell(tell);
                    calls.push(record);
                }
                Some(Effect::Tell(note)) => tell(AgentEvent::Notice { text: note_text(&note) }),
                // Written down by `on` already.
                Some(Effect::Keep(_)) => {}
                Some(Effect::Finish(outcome)) => break outcome,
                None => tokio::select! {
                    Some(Ended { call, result, denials: new, because, took }) = running.next() => {
                        open.retain(|other| other.id != call.id);
                        let record = CallRecord::new(&call, &result, took, because);
                        denials.extend(new);
                        effects.extend(self.on(agent, Event::ToolEnded { id: call.id, result }, scope));
                        record.tell(tell);
                        calls.push(record);
                    }
                    () = &mut cancel => {
                        running.clear();
                        effects = self.on(agent, Event::Cancelled, scope).into();
                        for call in open.drain(..) {
                            let result = ToolResult::new(ToolStatus::Error, "(cancelled by the user)");
                            let record = CallRecord::new(&call, &result, Duration::ZERO, String::new());
                            record.tell(tell);
                            calls.push(record);
                        }
                    }
                },
            }
            if let Some(failure) = self.record.failure() {
                tell(AgentEvent::Notice { text: failure });
            }
        };
        let (turns, usage) = (agent.turns(), Usage::default());
        RunResult { outcome, turns, usage, cost: None, calls, denials }
    }

    /// Whether the run, with all its sub-agents, has used what it may use.
    fn over_limit(&self) -> Option<Event> {
        let spent = self.record.spent();
        if self.max_cost.is_some_and(|most| spent.cost >= most) {
            return Some(Event::OutOfBudget);
        }
        let turns = usize::try_from(spent.requests).unwrap_or(usize::MAX);
        (turns >= self.settings.max_turns).then_some(Event::OutOfTurns)
    }

    /// Hands an event to the agent and writes down at once what it wants kept.
    fn on(&self, agent: &mut Agent, event: Event, scope: Scope<'_>) -> Vec<Effect> {
        let mut effects = agent.on(event);
        effects.retain_mut(|effect| match effect {
            Effect::Keep(kept) => {
                self.record.keep(kept.clone(), scope);
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
                if scope.is_none() {
                    self.record.add(Entry::Partial(text.clone()));
                }
                tell(AgentEvent::Text { text });
            }
            StreamEvent::Reasoning(text) => tell(AgentEvent::Reasoning { text }),
            StreamEvent::Waiting(text) => tell(AgentEvent::Notice { text }),
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
        let done = Ended::new;
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
        let (grant, because) = match decision {
            Decision::Allow { reason } => (Grant::Unasked, format!("let through: {reason}")),
            Decision::Grant { rule } => (Grant::This, format!("let through by the rule {rule}")),
            Decision::Ask { reason } => {
                match self.approve(&call, &subject, &reason, repeated, scope).await {
                    Ok(()) => (Grant::This, format!("you said yes; asked by: {reason}")),
                    Err(denial) => return denied(broker, call, denial),
                }
            }
            Decision::Deny { reason } => {
                let denial = Denial::new(broker, &call, &subject, &reason);
                return denied(broker, call, denial);
            }
        };
        if broker.kind(&call.name) == Some(Kind::Task) {
            let begun = Instant::now();
            let ended = self.task(call, tell).await;
            return Ended { because, took: begun.elapsed(), ..ended };
        }
        let conversation = scope.unwrap_or_default();
        let begun = Instant::now();
        let executed = broker.execute(&call, &subject, grant, conversation).await;
        let mut took = begun.elapsed();
        let (executed, because) =
            self.tried_again(executed, because, &call, &subject, scope, &mut took).await;
        let Executed { result, change, seen, .. } = executed;
        if let Some(change) = change {
            self.record.add(Entry::Change(change));
        }
        if let Some((path, hash)) = seen.filter(|_| scope.is_none()) {
            self.record.add(Entry::Seen(path, hash));
        }
        Ended { because, took, ..Ended::new(call, result) }
    }

    /// A command that the sandbox stopped is run once more, with the rights of a yes, if somebody is
    /// there to give it.
    async fn tried_again(
        &self,
        executed: Executed,
        because: String,
        call: &ToolCall,
        subject: &Subject,
        scope: Scope<'_>,
        took: &mut Duration,
    ) -> (Executed, String) {
        let Some(stopped) = executed.stopped else { return (executed, because) };
        let told = format!("{STOPPED}: {}", stopped.why);
        let tired = self.tries_refused.get() >= MOST_TRIES_REFUSED;
        if !stopped.may_be_granted || self.approver.is_none() || tired {
            return (executed, told);
        }
        let reason = format!(
            "It ran without a yes and failed, and its output says that the sandbox stopped it: {}. A yes \
             runs it again with the right to change the workspace.",
            stopped.why
        );
        // Only this once: what an output says is no reason for a rule.
        match self.approve(call, subject, &reason, true, scope).await {
            Ok(()) => {
                let (conversation, begun) = (scope.unwrap_or_default(), Instant::now());
                let again = self.broker.execute(call, subject, Grant::This, conversation).await;
                *took += begun.elapsed();
                (again, format!("{told}; you said yes to another try"))
            }
            Err(denial) => {
                self.tries_refused.set(self.tries_refused.get() + 1);
                let mut executed = executed;
                let answer = denial.answer.unwrap_or_default();
                executed.result.text.push_str(&format!("\n(Run again with that right? {answer})"));
                (executed, format!("{told}; not run again"))
            }
        }
    }

    /// Asks for a yes. The error is the denial.
    async fn approve(
        &self,
        call: &ToolCall,
        subject: &Subject,
        reason: &str,
        repeated: bool,
        scope: Scope<'_>,
    ) -> Result<(), Denial> {
        let mut denial = Denial::new(&self.broker, call, subject, reason);
        let Some(approver) = &self.approver else {
            denial.unasked = true;
            denial.grant = self.broker.exact_rule(call, subject).filter(|_| !repeated);
            return Err(denial);
        };
        let key = (call.name.clone(), call.arguments.clone());
        if self.refused.borrow().contains(&key) {
            denial.answer = Some("It was already denied.".into());
            return Err(denial);
        }
        let mut question = self.broker.question(call, subject, reason.to_owned()).await;
        question.of_sub_agent = scope.is_some();
        if repeated {
            // A yes to a loop is a yes to one more round.
            question.offers.clear();
        }
        let offers = question.offers.clone();
        let stored = match approval::ask(approver, question).await {
            Verdict::Once => return Ok(()),
            Verdict::Session(rule) if offers.contains(&rule) => self.broker.grant(&rule).is_ok(),
            Verdict::Always(rule) if offers.contains(&rule) => {
                self.remember_rule(&rule) && self.broker.grant(&rule).is_ok()
            }
            // A rule that was not offered was not looked at by anybody.
            Verdict::Session(_) | Verdict::Always(_) => false,
            Verdict::No(why) => {
                self.refused.borrow_mut().insert(key);
                denial.answer = Some(match why {
                    Some(why) => format!("The user says no: {why}"),
                    None => "The user says no.".into(),
                });
                return Err(denial);
            }
        };
        if stored {
            return Ok(());
        }
        denial.answer = Some("The rule could not be stored.".into());
        Err(denial)
    }

    /// Takes a rule back that was given with an answer, in this session or for all: it is asked about
    /// again. Says whether there was such a rule.
    pub fn withdraw(&self, rule: &str) -> std::io::Result<bool> {
        let stored = match &self.rules_file {
            Some(file) => rules_file::remove(file, rule)?,
            None => false,
        };
        let known = stored || self.broker.grants().iter().any(|given| given == rule);
        if known {
            self.broker.withdraw(rule);
        }
        Ok(known)
    }

    fn remember_rule(&self, rule: &str) -> bool {
        self.rules_file.as_ref().is_some_and(|file| rules_file::add(file, rule).is_ok())
    }

    /// Runs a sub-agent: the same policy, the same workers, its own conversation.
    async fn task(&self, call: ToolCall, tell: Tell<'_>) -> Ended {
        let wanted: TaskArguments = match serde_json::from_str(&call.arguments) {
            Ok(wanted) => wanted,
            Err(error) => {
                let text = format!("the arguments of task are wrong: {error}");
                return Ended::new(call, ToolResult::new(ToolStatus::Error, text));
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
        let mut agent = Agent::new(settings, Vec::new());
        let never = std::pin::pin!(std::future::pending());
        let run: Pin<Box<dyn Future<Output = RunResult> + '_>> =
            Box::pin(self.drive(&mut agent, first, Some(&call.id), &inner, never));
        // Each holds a conversation and asks the model: not all of a hundred at once.
        let _turn = self.tasks.acquire().await;
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
        Ended { denials, ..Ended::new(call, result) }
    }
}

impl Denial {
    fn new(broker: &Broker, call: &ToolCall, subject: &Subject, reason: &str) -> Denial {
        Denial {
            tool: call.name.clone(),
            what: subject.to_string(),
            directory: broker.host().workspace.display().to_string(),
            reason: reason.to_owned(),
            grant: None,
            unasked: false,
            answer: None,
        }
    }
}

fn denied(broker: &Broker, call: ToolCall, denial: Denial) -> Ended {
    let mode = broker.policy().name;
    let who = match &denial.answer {
        Some(answer) => format!(" {}.", answer.trim_end_matches('.')),
        None if denial.unasked => " There was nobody to ask.".into(),
        None => String::new(),
    };
    let allow = match &denial.grant {
        Some(rule) => format!(" The user can allow exactly this with the rule {rule}"),
        None => String::new(),
    };
    let reason = &denial.reason;
    let text = format!("denied in {mode} mode: {reason}{who} Do not try to get around it.{allow}");
    let because = format!("denied: {reason}");
    let result = ToolResult::new(ToolStatus::Denied, text);
    Ended { because, denials: vec![denial], ..Ended::new(call, result) }
}

impl CallRecord {
    fn new(call: &ToolCall, result: &ToolResult, took: Duration, because: String) -> CallRecord {
        CallRecord {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: arguments(call),
            status: result.status,
            output: result.text.clone(),
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            because,
            attached: result.attachments.iter().map(attached).collect(),
        }
    }

    fn tell(&self, tell: Tell<'_>) {
        tell(AgentEvent::ToolResult {
            id: self.id.clone(),
            name: self.name.clone(),
            status: self.status,
            output: self.output.clone(),
            milliseconds: self.milliseconds,
            because: self.because.clone(),
            attached: self.attached.clone(),
        });
    }
}

fn attached(attachment: &Attachment) -> String {
    // Base64 makes four letters of three bytes.
    let kib = (attachment.data.len() / 4 * 3).div_ceil(1024);
    format!("{}, {kib} KiB", attachment.media_type)
}

fn tell_call(call: &ToolCall, tell: Tell<'_>) {
    let (id, name) = (call.id.clone(), call.name.clone());
    tell(AgentEvent::ToolCall { id, name, arguments: arguments(call) });
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::String(call.arguments.clone()))
}

fn note_text(note: &Note) -> String {
    match note {
        Note::Repeated { tool, times } => {
            let tool: String = tool.chars().take(40).collect();
            format!("the model has made the same call of {tool} {times} times").replace('\n', " ")
        }
        Note::AnswerCut => "the answer was cut off at the token limit".into(),
        Note::Compacted { before, after } => {
            format!("the conversation was summarised: {before} tokens became {after}")
        }
    }
}
