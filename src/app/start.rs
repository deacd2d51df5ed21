//! What every front end needs before it can start: the host, the settings, the policy, the rules.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};
use zerostack_sandbox::{Failure, StartError};

use crate::cli::{ModeFlags, RuleFlags, RunFlags};
use crate::config::{self, Ceiling, Config, ConfigError, Layer, Origin, Resolved, Trust};
use crate::nearest::nearest;
use crate::policy::{Action, Groups, Judge, Mode, Policy, Rule};
use crate::prompt::{ContextFile, Standing};
use crate::report::{ExitKind, Report};
use crate::supervisor::{self, Cells, Collected, Host, HostError};
use crate::tools::definitions;

/// What an administrator allows at most.
const CEILING: &str = "/etc/zerostack/policy.toml";
/// Where a project can say what it wants.
pub const PROJECT_CONFIG: &str = ".zerostack/config.toml";
const PROJECT_PROMPTS: &str = ".zerostack/prompts/*.md";
const CONTEXT_FILES: [&str; 3] = ["AGENTS.md", "CLAUDE.md", "ARCHITECTURE.md"];

/// Facts of the host, or why this place is no workspace.
pub fn host(add_dir: &[String]) -> Result<Host, Report> {
    Host::find(std::env::vars_os(), add_dir).map_err(host_report)
}

pub fn host_report(error: HostError) -> Report {
    match error {
        HostError::TooWide(_) | HostError::NotText(_) | HostError::AddedDirectory(..) => {
            Report::usage(error)
        }
        HostError::NoHome | HostError::NoDirectory(_) | HostError::NotInBranch(..) => {
            Report::error(error)
        }
    }
}

/// The groups and one policy: the user's own file for the mode if there is one, the built-in one
/// otherwise. A policy that does not load ends the program.
pub fn policy(mode: Mode, host: &Host) -> Result<(Groups, Policy), Report> {
    let groups = Groups::load().map_err(Report::error)?;
    let file = host.configuration().join("policies").join(format!("{mode}.toml"));
    let name = file.display().to_string();
    // Under a ceiling a mode is what it says it is.
    let own = if ceiling()?.is_some() { None } else { own_file(&file)? };
    let policy = match own {
        Some(text) => Policy::parse(&name, &text, &groups),
        None => Policy::load(mode, &groups),
    };
    let policy = policy.map_err(|error| {
        Report::error(error)
            .hint("`zerostack policy show` prints the policies; a file with an error is never used")
    })?;
    if policy.name != mode {
        return Err(Report::error(format!("{name} says that it is mode {}", policy.name)));
    }
    Ok((groups, policy))
}

/// A file of the user's own that decides what is allowed; `None` if there is none. It must be out of
/// the reach of cells and of other users.
fn own_file(file: &Path) -> Result<Option<String>, Report> {
    use std::os::unix::fs::MetadataExt;
    let name = file.display();
    let unreadable = |error: std::io::Error| Report::error(format!("cannot read {name}: {error}"));
    match std::fs::symlink_metadata(file) {
        // A link could lead into a workspace, where a command may write.
        Ok(facts) if !facts.is_file() => {
            Err(Report::error(format!("{name} must be a regular file, not a link")))
        }
        Ok(facts) if facts.mode() & 0o022 != 0 => {
            Err(Report::error(format!("{name} can be changed by other users"))
                .hint(format!("chmod go-w {name}")))
        }
        Ok(_) => std::fs::read_to_string(file).map(Some).map_err(unreadable),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// The files of the user's settings, in the order in which they count. The last one holds the rules
/// that were given with the answer "always".
pub fn config_files(host: &Host) -> [PathBuf; 3] {
    ["config.json", "config.toml", RULES].map(|name| host.configuration().join(name))
}

/// Where rules go that were given with the answer "always".
pub fn rules_file(host: &Host) -> PathBuf {
    host.configuration().join(RULES)
}

/// Its name.
const RULES: &str = "rules.toml";

/// The user's layer.
fn user_layers(host: &Host) -> Result<(Vec<Layer>, Vec<String>), Report> {
    let (mut layers, mut warnings) = (Vec::new(), Vec::new());
    for file in config_files(host) {
        let name = file.display().to_string();
        let Some(text) = own_file(&file)? else { continue };
        let json = file.extension().is_some_and(|kind| kind == "json");
        let parse = if json { config::parse_json } else { config::parse_toml };
        let (table, unknown) = parse(&name, &text).map_err(config_report)?;
        warnings.extend(unknown);
        layers.push(Layer { origin: Origin::User(name), table });
    }
    Ok((layers, warnings))
}

/// The layer of a project's file, if the user trusts it as it is.
fn project_layer(
    host: &Host,
    collected: &Collected,
    trust: &Trust,
    warnings: &mut Vec<String>,
) -> Option<Layer> {
    let file = host.workspace.join(PROJECT_CONFIG);
    let (_, text) = collected.iter().find(|(path, _)| *path == file)?;
    let known = host.in_main(&file);
    if !trust.holds(&known, text) {
        if trust.declined(&known, text) {
            return None;
        }
        warnings.push(format!(
            "{PROJECT_CONFIG} of this project is not used: look at it, then run `zerostack trust`"
        ));
        return None;
    }
    match config::parse_toml(PROJECT_CONFIG, text) {
        Ok((table, unknown)) => {
            warnings.extend(unknown);
            if let Err(report) = usable(&table, host) {
                warnings.push(format!("{PROJECT_CONFIG} is not used: {}", report.message));
                return None;
            }
            Some(Layer { origin: Origin::Project(PROJECT_CONFIG.into()), table })
        }
        // A project cannot keep its users from starting.
        Err(error) => {
            warnings.push(format!("{error}"));
            None
        }
    }
}

/// Whether a project's settings can be put into force; with a mistake in them nobody could start.
fn usable(table: &Table, host: &Host) -> Result<(), Report> {
    let config = Config::deserialize(table.clone()).map_err(Report::error)?;
    rules(&[], &config.ask, &config.deny, &host.workspace)?;
    let known = definitions(false);
    let of_server = |name: &&String| name.starts_with(supervisor::PREFIX);
    let mut names = config.tools.iter().flatten().filter(|name| !of_server(name));
    match names.find(|name| !known.iter().any(|tool| tool.name == **name)) {
        Some(name) => Err(Report::error(format!("there is no tool {name:?}"))),
        None => Ok(()),
    }
}

fn environment_layer(host: &Host) -> Layer {
    let mut table = Table::new();
    for (variable, key) in [("ZS_PROVIDER", "provider"), ("ZS_MODEL", "model")] {
        let found = host.environment.iter().find(|(name, _)| name == variable);
        if let Some((_, value)) = found.filter(|(_, value)| !value.is_empty()) {
            table.insert(key.into(), value.as_str().into());
        }
    }
    Layer { origin: Origin::Environment, table }
}

fn command_line(flags: &RunFlags) -> Layer {
    let mut table = Table::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            table.insert(key.into(), value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let number =
        |number: Option<u64>| number.and_then(|it| i64::try_from(it).ok()).map(Value::from);
    let list = |list: &Vec<String>| (!list.is_empty()).then(|| Value::from(list.clone()));
    // A short name replaces both parts.
    set("provider", text(&flags.provider));
    set("model", text(&flags.model).or(text(&flags.quick_model)));
    set("base_url", text(&flags.base_url));
    set("api", flags.api_style.and_then(|api| Value::try_from(api).ok()));
    set("max_tokens", number(flags.max_tokens));
    set("temperature", flags.temperature.map(Value::from));
    set("thinking", flags.thinking.and_then(|level| Value::try_from(level).ok()));
    set("max_turns", number(flags.max_turns));
    set("max_cost", flags.max_cost.map(Value::from));
    set("mode", flags.mode.typed().map(|mode| mode.name().into()));
    set("tools", flags.tools.clone().map(Value::from));
    set("edit_system", flags.edit_system.and_then(|system| Value::try_from(system).ok()));
    set("prompt", text(&flags.load_prompt));
    set("context_files", flags.no_context_files.then_some(Value::Boolean(false)));
    set("save_sessions", flags.no_session.then_some(Value::Boolean(false)));
    set("allow", list(&flags.rules.allow));
    set("ask", list(&flags.rules.ask));
    set("deny", list(&flags.rules.deny));
    set("add_dirs", list(&flags.scope.add_dir));
    Layer { origin: Origin::CommandLine, table }
}

fn ceiling() -> Result<Option<(String, Ceiling)>, Report> {
    let text = match std::fs::read_to_string(CEILING) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // A ceiling that cannot be read is not the absence of one.
        Err(error) => return Err(Report::error(format!("cannot read {CEILING}: {error}"))),
    };
    let parsed =
        toml::from_str(&text).map_err(|error| Report::error(format!("{CEILING}: {error}")))?;
    Ok(Some((CEILING.to_owned(), parsed)))
}

pub fn config_report(error: ConfigError) -> Report {
    let report = match &error {
        ConfigError::Ceiling(_) => return Report::usage(error),
        _ => Report::error(error),
    };
    report.hint("`zerostack config schema` lists every key with its type")
}

/// The host of a run, with the directories that the settings and the flags add.
pub fn host_of(flags: &RunFlags) -> Result<Host, Report> {
    let plain = host(&[])?;
    let added = resolve(&plain, Some(flags), None, None)?.config.add_dirs;
    if added.is_empty() { Ok(plain) } else { host(&added) }
}

/// The user's settings alone, below the ceiling: for commands that are no run.
pub fn user_settings(host: &Host) -> Result<Resolved, Report> {
    resolve(host, None, None, None)
}

fn resolve(
    host: &Host,
    flags: Option<&RunFlags>,
    project: Option<(&Collected, &Trust)>,
    session: Option<Layer>,
) -> Result<Resolved, Report> {
    let (mut layers, mut warnings) = user_layers(host)?;
    if let Some((collected, trust)) = project {
        layers.extend(project_layer(host, collected, trust, &mut warnings));
    }
    layers.extend(session);
    layers.push(environment_layer(host));
    layers.extend(flags.map(command_line));
    if let Some(file) = flags.and_then(|flags| flags.mcp_config.as_ref()) {
        let table = super::mcp::from_file(file)?;
        layers.push(Layer { origin: Origin::CommandLine, table });
    }
    let mut resolved = config::resolve(layers, ceiling()?).map_err(config_report)?;
    if let Some(quick) = flags.and_then(|flags| flags.quick_model.as_ref())
        && !resolved.config.quick_models.contains_key(quick)
    {
        let names: Vec<&str> = resolved.config.quick_models.keys().map(String::as_str).collect();
        let near = nearest(quick, names.iter().copied());
        let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        return Err(Report::usage(format!("there is no quick model {quick:?}{near}"))
            .hint(format!("your settings have: {}", names.join(", "))));
    }
    warnings.append(&mut resolved.warnings);
    resolved.warnings = warnings;
    Ok(resolved)
}

/// A run's settings with all layers, and what the project says about itself.
pub struct Project {
    pub resolved: Resolved,
    pub context: Vec<ContextFile>,
    /// Trusted prompts of the project: name and text.
    pub prompts: Vec<(String, String)>,
    /// Its files that nobody has decided about as they are now.
    pub undecided: Collected,
}

/// Looks through the workspace for names to protect and files to read, then resolves the settings.
/// `session` is what a resumed session brings.
pub async fn project(
    cells: &Cells,
    host: &mut Host,
    flags: &RunFlags,
    session: Option<Layer>,
) -> Result<Project, Report> {
    let first = resolve(host, Some(flags), None, session.clone())?.config;
    let (groups, policy) = policy(first.mode.unwrap_or(Mode::Standard), host)?;
    let denied = |config: &Config, host: &Host| {
        let rules = rules_of(config, host)?;
        Ok(Judge::new(policy.clone(), groups.clone(), rules).denied_globs("read"))
    };
    let before = denied(&first, host)?;
    let failed = |error: StartError| start_report(&error);
    let collected =
        supervisor::scan(cells, &policy, &groups, before.clone(), host, &wanted()).await;
    let collected = collected.map_err(failed)?;
    let trust = Trust::load(host.trust_file());
    let resolved = resolve(host, Some(flags), Some((&collected, &trust)), session)?;
    // What the project denies is covered too.
    let after = denied(&resolved.config, host)?;
    if after != before {
        supervisor::scan(cells, &policy, &groups, after, host, &[]).await.map_err(failed)?;
    }
    stays_as_tight(host, &collected, &trust)?;
    let mut project =
        Project { resolved, context: Vec::new(), prompts: Vec::new(), undecided: Vec::new() };
    let own = host.configuration().join("AGENTS.md");
    if let Some(text) = own_file(&own)? {
        project.context.push(ContextFile { path: own, text, standing: Standing::Trusted });
    }
    for (path, text) in collected {
        let known = host.in_main(&path);
        let trusted = trust.holds(&known, &text);
        if !trusted && !trust.declined(&known, &text) {
            project.undecided.push((path.clone(), text.clone()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if CONTEXT_FILES.contains(&name.as_str()) {
            let standing = if trusted { Standing::Trusted } else { Standing::Untrusted };
            project.context.push(ContextFile { path, text, standing });
        } else if trusted && let Some(name) = name.strip_suffix(".md") {
            project.prompts.push((name.to_owned(), text));
        }
    }
    if project.resolved.config.context_files == Some(false) {
        project.context.clear();
    }
    Ok(project)
}

/// In a worktree the project's own settings must hold as they do in the main checkout: they may forbid
/// something.
fn stays_as_tight(host: &Host, collected: &Collected, trust: &Trust) -> Result<(), Report> {
    let file = host.workspace.join(PROJECT_CONFIG);
    let main = host.in_main(&file);
    let same = collected.iter().any(|(path, text)| *path == file && trust.holds(&main, text));
    if main == file || same || !trust.knows(&main) || main.symlink_metadata().is_err() {
        return Ok(());
    }
    Err(Report::error(format!(
        "the branch does not have {PROJECT_CONFIG} as you trust it in {}",
        host.origin().display()
    ))
    .hint("commit it there first, or run `zerostack trust --remove`"))
}

/// The files of a project that concern zerostack, relative to it.
fn wanted() -> Vec<String> {
    let fixed = [PROJECT_CONFIG, PROJECT_PROMPTS];
    fixed.into_iter().chain(CONTEXT_FILES).map(str::to_owned).collect()
}

/// The same files, read for `zerostack trust`.
pub fn collect(cells: &Cells, host: &mut Host) -> Result<Collected, Report> {
    let (groups, policy) = policy(Mode::Readonly, host)?;
    let found =
        runtime()?.block_on(supervisor::scan(cells, &policy, &groups, Vec::new(), host, &wanted()));
    found.map_err(|error| start_report(&error))
}

/// Looks through the workspace for names to protect, the user's own included.
pub fn scan(cells: &Cells, judge: &Judge, host: &mut Host) -> Result<(), Report> {
    let (policy, groups) = (judge.policy(), judge.groups());
    let denied = judge.denied_globs("read");
    let found = runtime()?.block_on(supervisor::scan(cells, policy, groups, denied, host, &[]));
    found.map_err(|error| start_report(&error))?;
    incomplete(host).for_each(|warning| eprintln!("warning: {warning}"));
    Ok(())
}

/// Which directories could not be looked through, and what that means.
pub fn incomplete(host: &Host) -> impl Iterator<Item = String> {
    host.roots.iter().filter(|root| root.found.incomplete).map(|root| {
        let path = crate::ui::text::line(&root.path.display().to_string(), 300);
        format!(
            "{path} could not be looked through completely: deep in it, secrets are not covered and .git is not \
             protected"
        )
    })
}

/// One thread is enough: the work is done in cells and by the model's server.
pub fn runtime() -> Result<tokio::runtime::Runtime, Report> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::error(format!("cannot start: {error}")))
}

/// The rules of a run. In a worktree, what is forbidden or asked for in the main checkout is so in both.
pub fn rules_of(config: &Config, host: &Host) -> Result<Vec<Rule>, Report> {
    let (ask, deny) = (host.in_worktree(&config.ask), host.in_worktree(&config.deny));
    let mut all = rules(&config.allow, &ask, &deny, &host.workspace)?;
    if host.origin() != host.workspace {
        all.extend(rules(&[], &config.ask, &config.deny, host.origin())?);
    }
    Ok(all)
}

/// The user's rules. A malformed one stops the start.
pub fn rules(
    allow: &[String],
    ask: &[String],
    deny: &[String],
    workspace: &Path,
) -> Result<Vec<Rule>, Report> {
    let lists = [(deny, Action::Deny), (ask, Action::Ask), (allow, Action::Allow)];
    let mut rules = Vec::new();
    for (texts, action) in lists {
        for text in texts {
            rules.push(Rule::parse(action, text, workspace).map_err(Report::usage)?);
            // What a link leads to is meant as well: calls are looked at after links are resolved.
            if action != Action::Allow
                && let Some(target) = link_target(text, workspace)
            {
                rules.push(Rule::parse(action, &target, workspace).map_err(Report::usage)?);
            }
        }
    }
    Ok(rules)
}

/// A rule about one path, about what that path leads to.
fn link_target(text: &str, workspace: &Path) -> Option<String> {
    let (tool, path) = text.strip_suffix(')')?.split_once('(')?;
    let literal = tool != "bash" && !path.contains(['*', '?', '[', '{']);
    let given = workspace.join(path);
    let real = given.canonicalize().ok().filter(|real| literal && *real != given)?;
    Some(format!("{tool}({})", globset::escape(real.to_str()?)))
}

/// The judge that a call would meet under the user's settings and these flags.
pub fn judge(host: &Host, mode: &ModeFlags, more: &RuleFlags) -> Result<Judge, Report> {
    let config = user_settings(host)?.config;
    let (groups, policy) = policy(self::mode(host, mode)?, host)?;
    let joined = |own: Vec<String>, more: &Vec<String>| -> Vec<String> {
        own.into_iter().chain(more.iter().cloned()).collect()
    };
    let rules = rules(
        &joined(config.allow, &more.allow),
        &joined(config.ask, &more.ask),
        &joined(config.deny, &more.deny),
        &host.workspace,
    )?;
    Ok(Judge::new(policy, groups, rules))
}

/// The mode of a command that is no run.
pub fn mode(host: &Host, flags: &ModeFlags) -> Result<Mode, Report> {
    let resolved = user_settings(host)?;
    let (_, ceiling) = ceiling()?.unzip();
    match (flags.typed(), ceiling.and_then(|ceiling| ceiling.mode)) {
        (Some(typed), Some(most)) if !typed.at_most(most) => {
            Err(Report::usage(format!("{CEILING} allows at most mode {most}")))
        }
        (typed, _) => Ok(typed.or(resolved.config.mode).unwrap_or(Mode::Standard)),
    }
}

/// A cell that could not be started, in words.
pub fn start_report(error: &StartError) -> Report {
    match error {
        StartError::Refused(failure) => failure_report(failure),
        StartError::Channel(_) => Report::new(ExitKind::CannotConfine, error)
            .hint("`zerostack doctor` shows what this machine can confine"),
    }
}

pub fn failure_report(failure: &Failure) -> Report {
    if !failure.cannot_confine() {
        return Report::error(failure);
    }
    let report =
        Report::new(ExitKind::CannotConfine, format!("this machine cannot confine: {failure}"));
    match failure.hint() {
        Some(hint) => report.hint(hint),
        None => report.hint("`zerostack doctor` shows what this machine can confine"),
    }
}
