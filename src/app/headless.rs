//! `zerostack -p`: one prompt, its answer on standard output, everything else on standard error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, poll};

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use zerostack_sandbox::Launcher;

use super::findings;
use super::model::Model;
use super::resume::{self, Resumed};
use super::start::{self, Project};
use crate::agent::{Outcome, Settings, ToolStatus};
use crate::cli::{OutputFormat, RunFlags};
use crate::config::{Config, EditSystem, Origin};
use crate::model::providers::DEMO;
use crate::model::{Message, ToolSchema, demo};
use crate::policy::{Action, Call, Decision, Judge, Mode, Place, Rule, Subject};
use crate::prompt::{self, ContextFile, Prompt, Surroundings};
use crate::report::{ExitKind, Report};
use crate::session::{Journal, Loaded, State};
use crate::supervisor::{
    AgentEvent, Broker, Cells, Host, Options, Outputs, Record, Recorder, RunResult, Session,
    TASKS_AT_ONCE,
};
use crate::tools::{Definition, Kind, definitions};
use crate::ui::text;
use crate::wire::Takes;

/// Most piped input that becomes part of the prompt, bytes.
const INPUT_LIMIT: u64 = 10 * 1024 * 1024;
/// How long the first byte of piped input is waited for if there is a prompt without it, milliseconds.
const INPUT_WAIT: u16 = 3_000;
/// Most tokens of an answer that are asked for where the user has said nothing.
const MOST_TOKENS: u64 = 32_000;

pub fn run(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let runtime = start::runtime()?;
    let code = runtime.block_on(headless(launcher, flags));
    // A blocked thread of the runtime must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn headless(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let command = typed_command(&flags.message);
    let prompt_text = match command {
        Some(_) => String::new(),
        None => prompt_text(&flags.message)?,
    };
    let (mut host, resumed) = resume::place(&flags)?;
    let cells = Cells::new(launcher);
    let layer = resumed.as_ref().map(Resumed::layer);
    let project = start::project(&cells, &mut host, &flags, layer).await?;
    for warning in &project.resolved.warnings {
        eprintln!("warning: {}", text::clean(warning));
    }
    start::warn_incomplete(&host);
    let session = prepare(cells, host, &flags, &project, resumed, command.is_some()).await?;
    let facts = Facts {
        provider: session.provider,
        model: session.inner.settings.model.clone(),
        mode: session.inner.broker.policy().name.name(),
        session: session.inner.record.id(),
        format: flags.output_format,
    };
    if let Some(command) = command {
        return Ok(shell(&session.inner, &command).await);
    }
    facts.begin();
    for file in &session.context {
        let trust = if file.trusted { "trusted" } else { "not trusted" };
        let path = text::line(&file.path.display().to_string(), 200);
        eprintln!("zerostack: told the model {path} ({trust})");
    }
    let mut interrupted = std::pin::pin!(interrupted()?);
    let tell = |event: AgentEvent| facts.show(&event);
    let result = session.inner.run(prompt_text, Vec::new(), &tell, interrupted.as_mut()).await;
    Ok(facts.end(&result))
}

/// The command of a typed `!command`. What is piped in is no part of it.
fn typed_command(message: &[String]) -> Option<String> {
    message.join(" ").strip_prefix('!').map(|command| command.trim().to_owned())
}

/// Runs a command of the user's in a cell; exits with 1 if it failed.
async fn shell(session: &Session, command: &str) -> u8 {
    let result = session.shell(command).await;
    if result.status == ToolStatus::Denied {
        eprintln!("denied: {}", text::clean(&result.text));
        return ExitKind::Denied.code();
    }
    say!("{}", text::clean(&result.text));
    u8::from(result.status != ToolStatus::Ok)
}

/// A session, and the name of its provider.
struct Prepared {
    inner: Session,
    provider: String,
    /// What the model was told of the project.
    context: Vec<ContextFile>,
}

/// Puts everything together that a run needs.
async fn prepare(
    cells: Cells,
    host: Host,
    flags: &RunFlags,
    project: &Project,
    resumed: Option<Resumed>,
    only_command: bool,
) -> Result<Prepared, Report> {
    let config = &project.resolved.config;
    let prompt = chosen_prompt(config, &host, project)?;
    let users_mode = config.mode.unwrap_or(Mode::Standard);
    let mode = prompt.mode_under(users_mode);
    let (groups, policy) = start::policy(mode, &host)?;
    let mut rules = start::rules(&config.allow, &config.ask, &config.deny, &host.workspace)?;
    let model = match &flags.replay {
        Some(path) => Model::replayed(path, config)?,
        // A command of the user's needs no model.
        None if only_command => Model::scripted(),
        None => Model::choose(&with_prompts_model(config, &prompt), &host, flags.api_key.clone())?,
    };
    if let Some(resumed) = resumed.as_ref().filter(|_| !only_command) {
        resumed.check_place(&model.base_url, flags)?;
    }
    if config.max_cost.is_some() && model.facts.price.is_none() {
        eprintln!(
            "warning: the price of {} is not known: --max-cost cannot hold",
            text::line(&model.name, 80)
        );
    }
    if model.provider == DEMO && !only_command {
        for probe in demo::PROBES {
            let rule = Rule::parse(Action::Allow, &format!("bash({probe})"), &host.workspace);
            rules.push(rule.map_err(Report::error)?);
        }
    }
    let recorder = match &flags.record {
        Some(path) => Some(RefCell::new(Recorder::create(path).map_err(|error| {
            Report::error(format!("cannot record to {}: {error}", path.display()))
        })?)),
        None => None,
    };
    let hashed = config.edit_system == Some(EditSystem::Hashedit);
    let mut tools = offered(flags, config, &prompt, hashed)?;
    if prompt.only_looks(mode) {
        tools.retain(|tool| !matches!(tool.kind, Kind::Changes | Kind::Command));
    }
    let Saved { journal, state, earlier, seen } = saved(config, flags, &host, resumed)?;
    let outputs = journal.as_ref().map(|journal| journal.path().with_extension("outputs"));
    let takes = Takes {
        images: model.facts.images == Some(true),
        documents: model.facts.documents == Some(true),
    };
    let options = Options { takes, hashed, outputs: Outputs::new(outputs), seen };
    let judge = Judge::new(policy, groups, rules);
    let context = readable(&project.context, &judge, &host);
    let broker = Broker::start(cells, judge, host, options)
        .await
        .map_err(|error| start::start_report(&error))?;
    let record = Record::new(journal, state, model.facts.price);
    record.set(|state| {
        if !only_command || state.provider.is_empty() {
            state.provider = model.provider.clone();
            state.base_url = model.base_url.clone();
            state.model = model.name.clone();
        }
        // The prompt's own limits come back with the prompt.
        state.mode = users_mode.name().into();
        state.prompt = prompt.name.clone();
        if flags.name.is_some() {
            state.name = flags.name.clone();
        }
    });
    let settings = Settings {
        system_prompt: system_prompt(&prompt, &broker, &context),
        model: model.name,
        tools: tools.into_iter().map(schema).collect(),
        max_turns: usize::try_from(config.max_turns.unwrap_or(200)).unwrap_or(usize::MAX),
        max_tokens: config.max_tokens.or(model.facts.output.map(|most| most.min(MOST_TOKENS))),
        temperature: config.temperature,
        thinking: config.thinking.unwrap_or_default(),
        ability: model.facts.ability(),
        window: model.facts.window,
        compact: config.compact != Some(false),
        reserve: config.reserve_tokens.unwrap_or_default(),
        keep_recent: config.keep_recent_tokens.unwrap_or_default(),
        cache_key: record.id(),
    };
    let (backend, max_cost) = (model.backend, config.max_cost);
    let inner = Session {
        broker,
        backend,
        recorder,
        settings,
        record,
        max_cost,
        earlier: RefCell::new(earlier),
        approver: None,
        rules_file: None,
        refused: RefCell::default(),
        tasks: Semaphore::new(TASKS_AT_ONCE),
    };
    Ok(Prepared { inner, provider: model.provider, context })
}

/// The session to write to, and what it holds so far.
#[derive(Default)]
struct Saved {
    journal: Option<Journal>,
    state: State,
    earlier: Vec<Message>,
    seen: HashMap<PathBuf, String>,
}

fn saved(
    config: &Config,
    flags: &RunFlags,
    host: &Host,
    resumed: Option<Resumed>,
) -> Result<Saved, Report> {
    if let Some(Resumed { loaded, journal }) = resumed {
        if loaded.damaged > 0 {
            eprintln!("warning: {} unreadable lines of the session are left out", loaded.damaged);
        }
        let Loaded { state, messages: earlier, seen, .. } = loaded;
        return Ok(Saved { journal: Some(journal), state, earlier, seen });
    }
    let mut saved = Saved::default();
    if config.save_sessions != Some(false) {
        match Journal::create(&host.sessions(), &host.workspace) {
            Ok(journal) => saved.journal = Some(journal),
            Err(error) if flags.name.is_some() => return Err(Report::error(error)),
            // A home that cannot be written is no reason not to work.
            Err(error) => eprintln!("warning: the session is not saved: {error}"),
        }
    }
    Ok(saved)
}

/// Arguments, or standard input, or both.
fn prompt_text(message: &[String]) -> Result<String, Report> {
    let mut prompt = message.join(" ");
    let input = std::io::stdin();
    if !input.is_terminal() && (prompt.is_empty() || something_comes(&input)) {
        let mut bytes = Vec::new();
        let read = input.lock().take(INPUT_LIMIT + 1).read_to_end(&mut bytes);
        // A closed standard input is an empty one.
        match read {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBADF as i32) => {}
            Err(error) => {
                return Err(Report::error(format!("cannot read standard input: {error}")));
            }
            Ok(_) => {}
        }
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

/// Whether anything, or an end, comes on standard input. With a prompt in the arguments, a pipe that
/// nobody writes to must not hold up the run.
fn something_comes(input: &std::io::Stdin) -> bool {
    let mut waiting = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let comes = poll(&mut waiting, INPUT_WAIT).is_ok_and(|ready| ready > 0);
    if !comes {
        eprintln!("zerostack: nothing came on standard input; going on without it");
    }
    comes
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

/// All prompts by name: built in, then the user's own, which may replace one, then those of a trusted
/// project. One with an error only matters to who wants it.
fn prompts(host: &Host, project: &Project) -> Vec<(String, Result<Prompt, String>)> {
    let built_in = prompt::built_in().into_iter();
    let mut all: Vec<_> = built_in.map(|prompt| (prompt.name.clone(), Ok(prompt))).collect();
    let directory = host.configuration().join("prompts");
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|it| it.path()).collect();
    files.sort();
    for path in files.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let own =
            read.and_then(|text| Prompt::parse(&name, &text).map_err(|error| error.to_string()));
        all.retain(|(known, _)| *known != name);
        all.push((name, own));
    }
    for (name, text) in &project.prompts {
        if !all.iter().any(|(known, _)| known == name) {
            let own = Prompt::parse(name, text).map_err(|error| error.to_string());
            all.push((name.clone(), own));
        }
    }
    all
}

fn chosen_prompt(config: &Config, host: &Host, project: &Project) -> Result<Prompt, Report> {
    let wanted = config.prompt.as_deref().unwrap_or("code");
    let all = prompts(host, project);
    match all.iter().find(|(name, _)| name == wanted) {
        Some((_, Ok(prompt))) => Ok(prompt.clone()),
        Some((_, Err(error))) => Err(Report::error(error)),
        // A project cannot keep its users from starting.
        None if matches!(project.resolved.values.get("prompt"), Some((_, Origin::Project(_)))) => {
            eprintln!(
                "warning: the project wants the prompt {}, which there is not",
                text::line(wanted, 60)
            );
            Ok(prompt::built_in().swap_remove(0))
        }
        None => {
            let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            Err(Report::usage(format!("there is no prompt {wanted:?}"))
                .hint(format!("the prompts are {}", names.join(", "))))
        }
    }
}

/// A prompt's own model counts unless the user has chosen one.
fn with_prompts_model(config: &Config, prompt: &Prompt) -> Config {
    let mut config = config.clone();
    config.model = config.model.or(prompt.model.clone());
    config
}

/// The tools offered to the model: those of the flags, the settings and the prompt, all of them agreed.
fn offered(
    flags: &RunFlags,
    config: &Config,
    prompt: &Prompt,
    hashed: bool,
) -> Result<Vec<Definition>, Report> {
    let mut tools = definitions(hashed);
    for names in [&config.tools, &prompt.tools].into_iter().flatten() {
        for name in names {
            if !definitions(hashed).iter().any(|tool| tool.name == name) {
                let known: Vec<&str> = definitions(hashed).iter().map(|tool| tool.name).collect();
                let message = format!("there is no tool {name:?}; there are {}", known.join(", "));
                return Err(Report::usage(message));
            }
        }
        tools.retain(|tool| names.iter().any(|name| name == tool.name));
    }
    if flags.no_tools {
        tools.clear();
    }
    Ok(tools)
}

fn schema(tool: Definition) -> ToolSchema {
    ToolSchema {
        name: tool.name.to_owned(),
        description: tool.description.to_owned(),
        parameters: tool.schema,
    }
}

/// The context files that may be read without a question, and the user's own.
fn readable(files: &[ContextFile], judge: &Judge, host: &Host) -> Vec<ContextFile> {
    let may = |file: &&ContextFile| {
        let place = host.resolve(&file.path.display().to_string());
        // Those above the workspace are the repository's too.
        let inside = place.inside.or_else(|| file.path.file_name().map(PathBuf::from));
        let subject = Subject::Path(Place { path: place.path, inside });
        let call = Call { tool: "read".into(), subject };
        file.path.starts_with(host.configuration())
            || matches!(judge.decide(&call), Decision::Allow { .. })
    };
    files.iter().filter(may).cloned().collect()
}

fn system_prompt(prompt: &Prompt, broker: &Broker, context: &[ContextFile]) -> String {
    let policy = broker.policy();
    let workspace = &broker.host().workspace;
    let around = Surroundings {
        workspace: text::line(&workspace.display().to_string(), 4096),
        mode: policy.name,
        policy: &policy.summary,
        attended: false,
        context,
    };
    prompt::system(prompt, &around)
}

/// What the output says about the run, and in which form.
struct Facts {
    provider: String,
    model: String,
    mode: &'static str,
    session: Option<String>,
    format: OutputFormat,
}

/// The only rung there is so far; a machine that cannot hold it does not get here.
const RUNG: &str = "native";

impl Facts {
    fn begin(&self) {
        match self.format {
            OutputFormat::Text | OutputFormat::Sarif => {
                let (mode, provider) = (self.mode, text::line(&self.provider, 60));
                let model = text::line(&self.model, 100);
                eprintln!("zerostack: {mode} mode, {RUNG} sandbox, {provider} {model}");
            }
            OutputFormat::StreamJson => {
                let (provider, model) = (&self.provider, &self.model);
                say!(
                    "{}",
                    json!({"type": "start", "mode": self.mode, "rung": RUNG, "provider": provider,
                        "model": model, "session": self.session})
                );
            }
            OutputFormat::Json => {}
        }
    }

    fn show(&self, event: &AgentEvent) {
        match self.format {
            OutputFormat::Json => {}
            OutputFormat::StreamJson => {
                say!("{}", text::json(&serde_json::to_string(event).unwrap_or_default()));
            }
            OutputFormat::Text | OutputFormat::Sarif => show_line(event, "  "),
        }
    }

    fn end(&self, result: &RunResult) -> u8 {
        let (mut kind, mut error) = ending(result);
        let answer = match &result.outcome {
            Outcome::Done { answer } | Outcome::Refused { answer } => answer.as_str(),
            _ => "",
        };
        if self.format == OutputFormat::Sarif && error.is_none() {
            match findings::parse(answer) {
                Ok(found) => say!("{}", text::json(&format!("{:#}", findings::sarif(&found)))),
                Err(why) => (kind, error) = (ExitKind::Error, Some(why)),
            }
        }
        if matches!(self.format, OutputFormat::Text | OutputFormat::Sarif) {
            if !answer.is_empty() && self.format == OutputFormat::Text {
                let shown = findings::in_words(answer);
                say!("{}", text::clean(&shown).trim_end());
            }
            for denial in &result.denials {
                eprintln!("denied: {}: {}", denial.tool, text::clean(&denial.reason));
                if let Some(rule) = &denial.grant {
                    eprintln!("        to allow exactly this: --allow {}", quoted(rule));
                }
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
            "session": self.session,
            "turns": result.turns,
            "usage": result.usage,
            "cost_usd": result.cost,
            "tool_calls": result.calls,
            "denials": result.denials,
            "provider": self.provider,
            "model": self.model,
            "mode": self.mode,
            "rung": RUNG,
            "error": error,
        });
        say!("{}", text::json(&value.to_string()));
        kind.code()
    }
}

/// As a word of a shell's command line.
fn quoted(rule: &str) -> String {
    format!("'{}'", text::clean(rule).replace('\'', "'\\''"))
}

fn ending(result: &RunResult) -> (ExitKind, Option<String>) {
    match &result.outcome {
        Outcome::ModelFailed(error) => (ExitKind::Model, Some(error.to_string())),
        Outcome::Refused { .. } => {
            (ExitKind::Model, Some("the model, or its provider, refused to answer".into()))
        }
        Outcome::Cancelled => (ExitKind::Interrupted, Some("interrupted".into())),
        Outcome::TurnLimit { turns } => {
            (ExitKind::Limit, Some(format!("the limit of {turns} turns is reached (--max-turns)")))
        }
        Outcome::CostLimit => {
            (ExitKind::Limit, Some("the cost limit is reached (--max-cost)".into()))
        }
        Outcome::Done { .. } if result.denials.iter().any(|denial| denial.unasked) => {
            (ExitKind::Denied, None)
        }
        Outcome::Done { .. } => (ExitKind::Done, None),
    }
}

fn show_line(event: &AgentEvent, indent: &str) {
    match event {
        AgentEvent::ToolCall { name, arguments, .. } => {
            let key = ["command", "path", "pattern", "prompt"];
            let what = key.iter().find_map(|key| arguments.get(key)).and_then(Value::as_str);
            let what = text::line(what.unwrap_or_default(), 100);
            eprintln!("{indent}• {} {what}", text::line(name, 40));
        }
        AgentEvent::ToolResult { name, status, output, .. } if *status != ToolStatus::Ok => {
            let word = if *status == ToolStatus::Denied { "denied" } else { "failed" };
            let first = output.lines().next().unwrap_or_default();
            eprintln!("{indent}  {} {word}: {}", text::line(name, 40), text::line(first, 140));
        }
        AgentEvent::Notice { text: notice } => eprintln!("{indent}! {}", text::line(notice, 140)),
        AgentEvent::Task { event, .. } => show_line(event, "      "),
        AgentEvent::Text { .. } | AgentEvent::Reasoning { .. } | AgentEvent::ToolResult { .. } => {}
    }
}
