//! From settings to a session that can run: the same for every front end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;
use zerostack_sandbox::Launcher;

use super::model::Model;
use super::resume::{self, Resumed};
use super::start::{self, Project};
use super::{mcp, worktree};
use crate::agent::Settings;
use crate::cli::RunFlags;
use crate::config::{Config, EditSystem, Layer, Origin};
use crate::memory::Memory;
use crate::model::providers::DEMO;
use crate::model::{Message, ToolSchema, demo};
use crate::policy::{Action, Call, Decision, Judge, Mode, Place, Rule, Subject};
use crate::prompt::{self, ContextFile, Prompt, Standing, Surroundings};
use crate::report::Report;
use crate::session::{Journal, Loaded, State};
use crate::supervisor::{
    Broker, Cells, Host, Named, Options, Outputs, PREFIX, Record, Recorder, Servers, Session,
    TASKS_AT_ONCE,
};
use crate::tools::{Definition, Kind, definitions};
use crate::ui::text;
use crate::wire::Takes;

/// Most tokens of an answer that are asked for where the user has said nothing.
const MOST_TOKENS: u64 = 32_000;
/// The only rung there is so far; a machine that cannot hold it does not get here.
pub const RUNG: &str = "native";

/// A session, and the name of its provider.
pub struct Prepared {
    pub inner: Session,
    pub provider: String,
    /// What the model was told of the project.
    pub context: Vec<ContextFile>,
    /// The prompts there are: name and description.
    pub prompts: Vec<(String, String)>,
    /// What the user should know of its servers.
    pub told: Vec<String>,
    /// What is merged is pushed.
    pub push: bool,
}

/// A session on its way: where it works, and what is known of the project.
pub struct Opening {
    pub host: Host,
    pub project: Project,
    cells: Cells,
    resumed: Option<Resumed>,
}

impl Opening {
    pub async fn begin(launcher: Launcher, flags: &RunFlags) -> Result<Opening, Report> {
        let (mut host, resumed) = resume::place(flags)?;
        let cells = Cells::new(launcher);
        let state = resumed.as_ref().map(|resumed| &resumed.loaded.state);
        if let Some((branch, base)) = worktree::wanted(&flags.worktree, state) {
            host = worktree::enter(&cells, &host, &branch, base.as_deref()).await?;
            std::env::set_current_dir(&host.workspace).map_err(Report::error)?;
            let directory = host.workspace.display().to_string();
            eprintln!("zerostack: works in the worktree {}", text::clean(&directory));
        }
        let project = start::project(&cells, &mut host, flags, layer(&resumed)).await?;
        Ok(Opening { host, project, cells, resumed })
    }

    /// Looks at the project and the settings once more, after something was decided.
    pub async fn again(&mut self, flags: &RunFlags) -> Result<(), Report> {
        let layer = layer(&self.resumed);
        self.project = start::project(&self.cells, &mut self.host, flags, layer).await?;
        Ok(())
    }

    /// The session, and what the user should know besides the warnings of the settings.
    pub async fn session(
        self,
        flags: &RunFlags,
        only_command: bool,
    ) -> Result<(Prepared, Vec<String>), Report> {
        let Opening { host, project, cells, resumed } = self;
        let state = resumed.as_ref().map(|resumed| &resumed.loaded.state);
        let plan = Plan::make(flags, &host, &project, state, only_command)?;
        let saved = Saved::open(flags, &host, &project, resumed)?;
        let mut warnings: Vec<String> =
            plan.warnings.iter().chain(&saved.warning).cloned().collect();
        for name in plan.servers.fresh_names() {
            eprintln!("zerostack: starting the MCP server {name} …");
        }
        let prepared = plan.carry_out(cells, host, saved).await?;
        warnings.extend(prepared.told.iter().cloned());
        Ok((prepared, warnings))
    }
}

/// What a resumed session brings.
fn layer(resumed: &Option<Resumed>) -> Option<Layer> {
    resumed.as_ref().map(|resumed| resume::layer(&resumed.loaded.state))
}

/// Everything that a session needs and that can be wrong, found out before anything is started.
pub struct Plan {
    judge: Judge,
    prompt: Prompt,
    prompts: Vec<(String, String)>,
    /// The user's mode, before the prompt tightened it.
    users_mode: Mode,
    model: Model,
    recorder: Option<RefCell<Recorder>>,
    tools: Vec<Definition>,
    memory: Option<Memory>,
    pub servers: Servers,
    /// Lists of the only tools there are, each of which must have one.
    only: Vec<Vec<String>>,
    hashed: bool,
    context: Vec<ContextFile>,
    config: Config,
    name: Option<String>,
    only_command: bool,
    attended: bool,
    /// What the user should know before it starts.
    pub warnings: Vec<String>,
}

impl Plan {
    /// With `only_command` no model is asked.
    pub fn make(
        flags: &RunFlags,
        host: &Host,
        project: &Project,
        resumed: Option<&State>,
        only_command: bool,
    ) -> Result<Plan, Report> {
        let config = project.resolved.config.clone();
        let mut warnings = Vec::new();
        let all = prompts(host, project);
        let prompt = chosen_prompt(&config, project, &all, &mut warnings)?;
        let described = |(name, prompt): (String, Result<Prompt, String>)| match prompt {
            Ok(prompt) => (name, prompt.description),
            Err(error) => (name, error),
        };
        let prompts = all.into_iter().map(described).collect();
        let users_mode = config.mode.unwrap_or(Mode::Standard);
        let mode = prompt.mode_under(users_mode);
        let (groups, policy) = start::policy(mode, host)?;
        let mut rules = start::rules_of(&config, host)?;
        let model = match &flags.replay {
            Some(path) => Model::replayed(path, &config)?,
            // A command of the user's needs no model.
            None if only_command => Model::scripted(),
            None => {
                Model::choose(&with_prompts_model(&config, &prompt), host, flags.api_key.clone())?
            }
        };
        if let Some(state) = resumed.filter(|_| !only_command) {
            resume::check_place(state, &model.base_url, flags)?;
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
        let mut tools = offered(flags, &config, &prompt, hashed)?;
        if prompt.only_looks(mode) {
            tools.retain(|tool| !matches!(tool.kind, Kind::Changes | Kind::Command));
        }
        let judge = Judge::new(policy, groups, rules);
        let memory =
            (cfg!(feature = "memory") && config.memory != Some(false)).then(|| host.memory());
        if memory.is_none() {
            tools.retain(|tool| tool.kind != Kind::Memory);
        }
        let only: Vec<Vec<String>> =
            [&config.tools, &prompt.tools].into_iter().flatten().cloned().collect();
        let mut servers = mcp::usable(mcp::named(&config, host)?, &judge);
        let wanted = |named: &Named| {
            let begin = format!("{PREFIX}{}__", named.name);
            only.iter().all(|names| names.iter().any(|name| name.starts_with(&begin)))
        };
        servers.retain(wanted);
        if flags.no_tools || only_command || prompt.only_looks(mode) {
            servers.clear();
        }
        let servers = Servers::new(host.mcp_file(), servers);
        warnings.extend(mcp::unknown_rules(&config));
        let mut context = remembered(memory.as_ref(), &judge);
        context.extend(readable(&project.context, &judge, host));
        let (name, attended) = (flags.name.clone(), !flags.print && !flags.loop_);
        if config.max_cost.is_some() && model.facts.price.is_none() {
            let name = text::line(&model.name, 80);
            warnings.push(format!("the price of {name} is not known: --max-cost cannot hold"));
        }
        warnings.extend(start::incomplete(host));
        Ok(Plan {
            judge,
            prompt,
            prompts,
            users_mode,
            model,
            recorder,
            tools,
            memory,
            servers,
            only,
            hashed,
            context,
            config,
            name,
            only_command,
            attended,
            warnings,
        })
    }

    /// Starts the workers.
    pub async fn carry_out(
        self,
        cells: Cells,
        host: Host,
        saved: Saved,
    ) -> Result<Prepared, Report> {
        let Plan { judge, prompt, model, config, .. } = self;
        let Saved { journal, state, earlier, seen, .. } = saved;
        let outputs = journal.as_ref().map(|journal| journal.path().with_extension("outputs"));
        let takes = Takes {
            images: model.facts.images == Some(true),
            documents: model.facts.documents == Some(true),
        };
        let rules_file = Some(start::rules_file(&host));
        let outputs = Outputs::new(outputs);
        let (hashed, memory, servers) = (self.hashed, self.memory, self.servers);
        let options = Options { takes, hashed, outputs, seen, memory, servers };
        let mut broker = Broker::start(cells, judge, host, options)
            .await
            .map_err(|error| start::start_report(&error))?;
        let told = broker.meet_servers().await;
        let only = |tool: &&Definition| {
            self.only.iter().all(|names| names.iter().any(|name| *name == tool.name))
        };
        let mut tools = self.tools;
        tools.extend(broker.server_tools().filter(only).cloned());
        let record = Record::new(journal, state, model.facts.price);
        let linked = broker.host().linked.as_ref();
        let worktree = linked.map(|linked| (linked.branch.clone(), linked.path.clone()));
        record.set(|state| {
            if !self.only_command || state.provider.is_empty() {
                state.provider = model.provider.clone();
                state.base_url = model.base_url.clone();
                state.model = model.name.clone();
            }
            // The prompt's own limits come back with the prompt.
            state.mode = self.users_mode.name().into();
            state.prompt = prompt.name.clone();
            state.worktree = worktree;
            if self.name.is_some() {
                state.name = self.name.clone();
            }
        });
        let settings = Settings {
            system_prompt: system_prompt(&prompt, &broker, &self.context, self.attended),
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
        let inner = Session {
            broker,
            backend: model.backend,
            recorder: self.recorder,
            settings,
            record,
            max_cost: config.max_cost,
            earlier: RefCell::new(earlier),
            approver: None,
            rules_file,
            refused: RefCell::default(),
            tries_refused: Default::default(),
            tasks: Semaphore::new(TASKS_AT_ONCE),
        };
        let (provider, context) = (model.provider, self.context);
        Ok(Prepared {
            inner,
            provider,
            context,
            prompts: self.prompts,
            told,
            push: config.push == Some(true),
        })
    }
}

/// The session to write to, and what it holds so far.
#[derive(Default)]
pub struct Saved {
    pub journal: Option<Journal>,
    pub state: State,
    pub earlier: Vec<Message>,
    pub seen: HashMap<PathBuf, String>,
    /// What is not as it should be.
    pub warning: Option<String>,
}

impl Saved {
    /// Opens what goes on, or begins anew.
    pub fn open(
        flags: &RunFlags,
        host: &Host,
        project: &Project,
        resumed: Option<Resumed>,
    ) -> Result<Saved, Report> {
        let config = &project.resolved.config;
        if let Some(Resumed { loaded, journal }) = resumed {
            let damaged = loaded.damaged;
            let warning = (damaged > 0)
                .then(|| format!("{damaged} unreadable lines of the session are left out"));
            let Loaded { state, messages: earlier, seen, .. } = loaded;
            return Ok(Saved { journal: Some(journal), state, earlier, seen, warning });
        }
        let mut saved = Saved::default();
        if config.save_sessions != Some(false) {
            match Journal::create(&host.sessions(), host.origin()) {
                Ok(journal) => saved.journal = Some(journal),
                Err(error) if flags.name.is_some() => return Err(Report::error(error)),
                // A home that cannot be written is no reason not to work.
                Err(error) => saved.warning = Some(format!("the session is not saved: {error}")),
            }
        }
        Ok(saved)
    }
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
    // A name is a word: what is chosen is never read as more than that.
    all.retain(|(name, _)| name.chars().all(|it| it.is_alphanumeric() || "-_".contains(it)));
    all
}

fn chosen_prompt(
    config: &Config,
    project: &Project,
    all: &[(String, Result<Prompt, String>)],
    warnings: &mut Vec<String>,
) -> Result<Prompt, Report> {
    let wanted = config.prompt.as_deref().unwrap_or("code");
    match all.iter().find(|(name, _)| name == wanted) {
        Some((_, Ok(prompt))) => Ok(prompt.clone()),
        Some((_, Err(error))) => Err(Report::error(error)),
        // A project cannot keep its users from starting.
        None if matches!(project.resolved.values.get("prompt"), Some((_, Origin::Project(_)))) => {
            let wanted = text::line(wanted, 60);
            warnings.push(format!("the project wants the prompt {wanted}, which there is not"));
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
        for name in names.iter().filter(|name| !name.starts_with(PREFIX)) {
            if !definitions(hashed).iter().any(|tool| tool.name == **name) {
                let all = definitions(hashed);
                let known: Vec<&str> = all.iter().map(|tool| &*tool.name).collect();
                let message = format!("there is no tool {name:?}; there are {}", known.join(", "));
                return Err(Report::usage(message));
            }
        }
        tools.retain(|tool| names.iter().any(|name| *name == tool.name));
    }
    if flags.no_tools {
        tools.clear();
    }
    Ok(tools)
}

fn schema(tool: Definition) -> ToolSchema {
    ToolSchema {
        name: tool.name.into_owned(),
        description: tool.description.into_owned(),
        parameters: tool.schema,
    }
}

/// What of the memory the model is told, where it may look without a question.
fn remembered(memory: Option<&Memory>, judge: &Judge) -> Vec<ContextFile> {
    let Some(memory) = memory else { return Vec::new() };
    let may = |name: &str| {
        let subject = Subject::Name(name.to_owned());
        let call = Call { tool: "memory_read".into(), subject };
        matches!(judge.decide(&call), Decision::Allow { .. })
    };
    let file = |(name, text)| {
        let path = Path::new("memory").join::<String>(name);
        ContextFile { path, text, standing: Standing::Memory }
    };
    memory.told(may).into_iter().map(file).collect()
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

fn system_prompt(
    prompt: &Prompt,
    broker: &Broker,
    context: &[ContextFile],
    attended: bool,
) -> String {
    let policy = broker.policy();
    let workspace = &broker.host().workspace;
    let around = Surroundings {
        workspace: text::line(&workspace.display().to_string(), 4096),
        mode: policy.name,
        policy: &policy.summary,
        attended,
        context,
    };
    prompt::system(prompt, &around)
}
