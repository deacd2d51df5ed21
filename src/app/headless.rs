//! `zerostack -p`: one prompt, its answer on standard output, everything else on standard error.

use std::future::Future;
use std::io::{IsTerminal, Read};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use zerostack_sandbox::Launcher;

use super::start;
use crate::agent::{Outcome, Settings, ToolStatus};
use crate::cli::{OutputFormat, RunFlags};
use crate::model::ToolSchema;
use crate::model::demo;
use crate::model::providers::{self, DEMO, PROVIDERS};
use crate::model::tape::Tape;
use crate::policy::{Action, Judge, Rule};
use crate::report::{ExitKind, Report};
use crate::supervisor::{
    AgentEvent, Backend, Broker, Cells, Host, Network, Recorder, RunResult, Session, Vault,
};
use crate::tools::{Definition, definitions};
use crate::ui::text;

/// Most piped input that becomes part of the prompt, bytes.
const INPUT_LIMIT: u64 = 10 * 1024 * 1024;

pub fn run(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let runtime = start::runtime()?;
    let code = runtime.block_on(headless(launcher, flags));
    // A blocked thread of the runtime must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn headless(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let prompt = prompt(&flags.message)?;
    let host = start::host(&flags.scope.add_dir)?;
    let (groups, policy) = start::policy(flags.mode.mode(), &host)?;
    let mut rules = start::rules(&flags, &host.workspace)?;
    let model = Model::choose(&flags, &host)?;
    if model.provider == DEMO {
        for probe in demo::PROBES {
            let rule = Rule::parse(Action::Allow, &format!("bash({probe})"), &host.workspace);
            rules.push(rule.map_err(Report::error)?);
        }
    }
    let recorder = match &flags.record {
        Some(path) => Some(Recorder::create(path).map_err(|error| {
            Report::error(format!("cannot record to {}: {error}", path.display()))
        })?),
        None => None,
    };
    let tools = offered(&flags)?;
    let broker = Broker::start(Cells::new(launcher), Judge::new(policy, groups, rules), host)
        .await
        .map_err(|error| start::start_report(&error))?;
    start::warn_incomplete(broker.host());
    let settings = Settings {
        model: model.name.clone(),
        system_prompt: system_prompt(&broker),
        tools,
        max_turns: usize::try_from(flags.max_turns).unwrap_or(usize::MAX),
        max_tokens: flags.max_tokens,
        temperature: flags.temperature,
    };
    let facts = Facts {
        provider: model.provider,
        model: model.name,
        mode: broker.policy().name.name(),
        format: flags.output_format,
    };
    let mut session = Session { broker, backend: model.backend, recorder, settings };
    facts.begin();
    let mut interrupted = std::pin::pin!(interrupted()?);
    let result = session.run(prompt, &mut |event| facts.show(&event), interrupted.as_mut()).await;
    Ok(facts.end(&result))
}

/// Arguments, or standard input, or both.
fn prompt(message: &[String]) -> Result<String, Report> {
    let mut prompt = message.join(" ");
    let input = std::io::stdin();
    if !input.is_terminal() {
        let mut bytes = Vec::new();
        let read = input.lock().take(INPUT_LIMIT + 1).read_to_end(&mut bytes);
        read.map_err(|error| Report::error(format!("cannot read standard input: {error}")))?;
        if bytes.len() as u64 > INPUT_LIMIT {
            return Err(Report::usage("standard input is larger than 10 MiB"));
        }
        let piped = String::from_utf8_lossy(&bytes);
        if !piped.trim().is_empty() {
            let gap = if prompt.is_empty() { "" } else { "\n\n" };
            prompt = format!("{prompt}{gap}{piped}");
        }
    }
    if prompt.trim().is_empty() {
        return Err(Report::usage("there is no prompt").hint("zerostack -p \"your prompt\""));
    }
    Ok(prompt)
}

/// Completes at SIGINT or SIGTERM.
fn interrupted() -> Result<impl Future<Output = ()>, Report> {
    let listen = |kind| {
        signal(kind).map_err(|error| Report::error(format!("cannot listen for signals: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The tools offered to the model.
fn offered(flags: &RunFlags) -> Result<Vec<ToolSchema>, Report> {
    let mut tools = definitions();
    if let Some(names) = &flags.tools {
        for name in names {
            if !tools.iter().any(|tool| tool.name == name) {
                let known: Vec<&str> = tools.iter().map(|tool| tool.name).collect();
                let message = format!("there is no tool {name:?}; there are {}", known.join(", "));
                return Err(Report::usage(message));
            }
        }
        tools.retain(|tool| names.iter().any(|name| name == tool.name));
    }
    if flags.no_tools {
        tools.clear();
    }
    let schema = |tool: Definition| ToolSchema {
        name: tool.name.to_owned(),
        description: tool.description.to_owned(),
        parameters: tool.schema,
    };
    Ok(tools.into_iter().map(schema).collect())
}

fn system_prompt(broker: &Broker) -> String {
    let policy = broker.policy();
    format!(
        "{}\nWorkspace: {}\nPermission mode {}: {} The kernel enforces it; a refusal is final, so do not try \
         to get around it. Nobody can answer a question during this run.\n",
        include_str!("../../prompts/code.md"),
        broker.host().workspace.display(),
        policy.name,
        policy.summary,
    )
}

/// The chosen provider, ready to answer.
struct Model {
    provider: String,
    name: String,
    backend: Backend,
}

impl Model {
    fn choose(flags: &RunFlags, host: &Host) -> Result<Model, Report> {
        if let Some(path) = &flags.replay {
            let failed = |error: &dyn std::fmt::Display| {
                Report::error(format!("cannot replay {}: {error}", path.display()))
            };
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            let tape = Tape::parse(&text).map_err(|error| failed(&error))?;
            let name = flags.model.clone().unwrap_or_else(|| "recorded".into());
            return Ok(Model { provider: "replay".into(), name, backend: Backend::Replay(tape) });
        }
        let wanted = flags.provider.as_deref().unwrap_or(PROVIDERS[0].name);
        if wanted == DEMO {
            return Ok(Model {
                provider: DEMO.into(),
                name: "script".into(),
                backend: Backend::Demo,
            });
        }
        let provider = providers::by_name(wanted).ok_or_else(|| {
            let names: Vec<&str> = PROVIDERS.iter().map(|provider| provider.name).collect();
            Report::usage(format!("there is no provider {wanted:?}")).hint(format!(
                "the providers are {}, {DEMO}; any other server that speaks chat completions: \
                 --provider openai --base-url URL",
                names.join(", ")
            ))
        })?;
        let base_url = flags.base_url.as_deref().unwrap_or(provider.base_url);
        let vault = Vault::new(&host.environment, flags.api_key.clone());
        let key = vault.key(provider, base_url).map_err(|variable| {
            Report::error(format!("{} needs a key in {variable}", provider.name)).hint(format!(
                "get one at {} and run: export {variable}=…\n      without a key: --provider ollama (local \
                 models) or --provider demo (a built-in tour)",
                provider.key_page
            ))
        })?;
        let network = Network::new(base_url, key, provider.key_variable)
            .map_err(|error| Report::new(ExitKind::Model, error))?;
        Ok(Model {
            provider: provider.name.into(),
            name: flags.model.clone().unwrap_or_else(|| provider.default_model.into()),
            backend: Backend::Http(network),
        })
    }
}

/// What the output says about the run, and in which form.
struct Facts {
    provider: String,
    model: String,
    mode: &'static str,
    format: OutputFormat,
}

/// The only rung there is so far; a machine that cannot hold it does not get here.
const RUNG: &str = "native";

impl Facts {
    fn begin(&self) {
        match self.format {
            OutputFormat::Text => {
                let (mode, provider) = (self.mode, &self.provider);
                let model = text::line(&self.model, 100);
                eprintln!("zerostack: {mode} mode, {RUNG} sandbox, {provider} {model}");
            }
            OutputFormat::StreamJson => {
                let (provider, model) = (&self.provider, &self.model);
                say!(
                    "{}",
                    json!({"type": "start", "mode": self.mode, "rung": RUNG, "provider": provider,
                        "model": model})
                );
            }
            OutputFormat::Json => {}
        }
    }

    fn show(&self, event: &AgentEvent) {
        match self.format {
            OutputFormat::Json => {}
            OutputFormat::StreamJson => {
                say!("{}", serde_json::to_string(event).unwrap_or_default());
            }
            OutputFormat::Text => show_line(event),
        }
    }

    fn end(&self, result: &RunResult) -> u8 {
        let (kind, error) = ending(result);
        let answer = match &result.outcome {
            Outcome::Done { answer } => answer.as_str(),
            _ => "",
        };
        if self.format == OutputFormat::Text {
            if !answer.is_empty() {
                say!("{}", text::clean(answer).trim_end());
            }
            for denial in &result.denials {
                eprintln!("denied: {}: {}", denial.tool, text::clean(&denial.reason));
            }
            if let Some(error) = &error {
                eprintln!("error: {}", text::clean(error));
            }
            return kind.code();
        }
        let value: Value = json!({
            "type": "result",
            "status": kind.status(),
            "exit_code": kind.code(),
            "answer": answer,
            "turns": result.turns,
            "usage": result.usage,
            "tool_calls": result.calls,
            "denials": result.denials,
            "provider": self.provider,
            "model": self.model,
            "mode": self.mode,
            "rung": RUNG,
            "error": error,
        });
        say!("{value}");
        kind.code()
    }
}

fn ending(result: &RunResult) -> (ExitKind, Option<String>) {
    match &result.outcome {
        Outcome::ModelFailed(error) => (ExitKind::Model, Some(error.to_string())),
        Outcome::Cancelled => (ExitKind::Interrupted, Some("interrupted".into())),
        Outcome::TurnLimit { turns } => {
            (ExitKind::Limit, Some(format!("the limit of {turns} turns is reached (--max-turns)")))
        }
        Outcome::Done { .. } if result.denials.iter().any(|denial| denial.unasked) => {
            (ExitKind::Denied, None)
        }
        Outcome::Done { .. } => (ExitKind::Done, None),
    }
}

fn show_line(event: &AgentEvent) {
    match event {
        AgentEvent::ToolCall { name, arguments, .. } => {
            let key = ["command", "path", "pattern"].iter().find_map(|key| arguments.get(key));
            let what = key.and_then(Value::as_str).unwrap_or_default();
            eprintln!("  • {} {}", text::line(name, 40), text::line(what, 100));
        }
        AgentEvent::ToolResult { name, status, output, .. } if *status != ToolStatus::Ok => {
            let word = if *status == ToolStatus::Denied { "denied" } else { "failed" };
            let last = output.lines().next().unwrap_or_default();
            eprintln!("    {} {word}: {}", text::line(name, 40), text::line(last, 140));
        }
        AgentEvent::Notice { text: notice } => eprintln!("  ! {}", text::line(notice, 140)),
        AgentEvent::Text { .. } | AgentEvent::Reasoning { .. } | AgentEvent::ToolResult { .. } => {}
    }
}
