//! Layers of settings, the later over the earlier: built-in, user, trusted project, environment,
//! command line. A project can only tighten, and nobody gets over the administrator's ceiling.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, ConfigError};
use crate::policy::Mode;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    User(String),
    Project(String),
    Environment,
    CommandLine,
    Session,
    Administrator(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::User(file) => write!(f, "user file {file}"),
            Origin::Project(file) => write!(f, "project file {file}"),
            Origin::Environment => f.write_str("environment"),
            Origin::CommandLine => f.write_str("command line"),
            Origin::Session => f.write_str("resumed session"),
            Origin::Administrator(file) => write!(f, "administrator's {file}"),
        }
    }
}

/// One place of settings.
#[derive(Debug, Clone)]
pub struct Layer {
    pub origin: Origin,
    pub table: Table,
}

/// What an administrator allows at most.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// The loosest mode.
    pub mode: Option<Mode>,
    #[serde(default)]
    pub deny: Vec<String>,
    #[serde(default)]
    pub ask: Vec<String>,
    /// The only providers, by name.
    pub providers: Option<Vec<String>>,
    /// Providers besides the built-in ones. Where `providers` is given, users have none of their own.
    #[serde(default)]
    pub custom_providers: Table,
}

/// All layers put together.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub config: Config,
    /// Every set value by its dotted key.
    pub values: BTreeMap<String, (Value, Origin)>,
    pub warnings: Vec<String>,
}

/// Lists that grow from layer to layer.
const GROWING: [&str; 4] = ["allow", "ask", "deny", "add_dirs"];

/// What is set where nobody has set anything.
pub const DEFAULTS: &str = r#"
provider = "openrouter"
mode = "standard"
thinking = "auto"
max_turns = 200
prompt = "code"
context_files = true
memory = true
push = false
save_sessions = true
edit_system = "similarity"
compact = true
reserve_tokens = 16384
keep_recent_tokens = 12000
notify = "off"
"#;

/// Puts the layers together, in their order, below the ceiling.
pub fn resolve(
    layers: Vec<Layer>,
    ceiling: Option<(String, Ceiling)>,
) -> Result<Resolved, ConfigError> {
    let built_in = Layer {
        origin: Origin::BuiltIn,
        table: toml::from_str(DEFAULTS).map_err(|error| value("built in", &error))?,
    };
    let mut values = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut merged = Table::new();
    for layer in std::iter::once(built_in).chain(layers) {
        let table = match &layer.origin {
            Origin::Project(_) => {
                tightening(layer.table, &layer.origin, &merged, &values, &mut warnings)
            }
            Origin::Session => never_looser(layer.table, &merged, &values),
            _ => layer.table,
        };
        if another_provider(&table, &merged) {
            // What was set for one provider means nothing to another one, least of all the address.
            for key in ["model", "base_url", "api"] {
                merged.remove(key);
                values.remove(key);
            }
        }
        merge(&mut merged, table, "", &layer.origin, &mut values);
    }
    quick_model(&mut merged, &mut values);
    if let Some((file, ceiling)) = ceiling {
        under(&mut merged, &file, ceiling, &mut values)?;
    }
    let config = Config::deserialize(merged).map_err(|error| value("the settings", &error))?;
    Ok(Resolved { config, values, warnings })
}

fn value(origin: &str, error: &dyn fmt::Display) -> ConfigError {
    ConfigError::Value { origin: origin.to_owned(), message: error.to_string() }
}

fn merge(
    into: &mut Table,
    from: Table,
    prefix: &str,
    origin: &Origin,
    values: &mut BTreeMap<String, (Value, Origin)>,
) {
    for (name, value) in from {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (into.get_mut(&name), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new, &key, origin, values),
            (_, Value::Table(new)) => {
                let mut fresh = Table::new();
                merge(&mut fresh, new, &key, origin, values);
                into.insert(name, Value::Table(fresh));
            }
            (Some(Value::Array(old)), Value::Array(new)) if GROWING.contains(&key.as_str()) => {
                old.extend(new);
                values.insert(key, (Value::Array(old.clone()), origin.clone()));
            }
            (_, value) => {
                values.insert(key, (value.clone(), origin.clone()));
                into.insert(name, value);
            }
        }
    }
}

fn chosen_by_user(key: &str, values: &BTreeMap<String, (Value, Origin)>) -> bool {
    values.get(key).is_some_and(|(_, origin)| matches!(origin, Origin::User(_)))
}

fn another_provider(table: &Table, so_far: &Table) -> bool {
    table.get("provider").is_some_and(|provider| Some(provider) != so_far.get("provider"))
}

fn mode_of(table: &Table) -> Option<Mode> {
    table.get("mode").cloned().and_then(|mode| Mode::deserialize(mode).ok())
}

/// A resumed session brings its mode only where that is the stricter one.
fn never_looser(
    mut table: Table,
    so_far: &Table,
    values: &BTreeMap<String, (Value, Origin)>,
) -> Table {
    if chosen_by_user("prompt", values) {
        table.remove("prompt");
    }
    let stricter = mode_of(&table).zip(mode_of(so_far));
    if !stricter.is_some_and(|(own, present)| own.at_most(present)) {
        table.remove("mode");
    }
    table
}

/// A short name stands for a provider and a model.
fn quick_model(merged: &mut Table, values: &mut BTreeMap<String, (Value, Origin)>) {
    let Some(name) = merged.get("model").and_then(Value::as_str) else { return };
    let quick = merged.get("quick_models").and_then(|all| all.get(name)).cloned();
    let Some(Value::Table(quick)) = quick else { return };
    if another_provider(&quick, merged) {
        for key in ["base_url", "api"] {
            merged.remove(key);
            values.remove(key);
        }
    }
    let origin = values.get("model").map_or(Origin::BuiltIn, |(_, origin)| origin.clone());
    let named = values.get("provider").is_some_and(|(_, provider)| *provider == origin);
    if named && !matches!(origin, Origin::User(_) | Origin::BuiltIn) {
        // Who names a provider and a model means that provider's model.
        return;
    }
    for key in ["provider", "model"] {
        if let Some(value) = quick.get(key) {
            values.insert(key.into(), (value.clone(), origin.clone()));
            merged.insert(key.into(), value.clone());
        }
    }
}

/// The part of a project's settings that tightens what is set so far; the rest is said and dropped.
fn tightening(
    table: Table,
    origin: &Origin,
    so_far: &Table,
    values: &BTreeMap<String, (Value, Origin)>,
    warnings: &mut Vec<String>,
) -> Table {
    let mut kept = Table::new();
    for (name, value) in table {
        let tightens = match name.as_str() {
            "mode" => {
                let wanted = Mode::deserialize(value.clone()).ok();
                wanted.zip(mode_of(so_far)).is_some_and(|(wanted, present)| wanted.at_most(present))
            }
            "context_files" | "memory" | "push" => value == Value::Boolean(false),
            "tools" => !so_far.contains_key("tools"),
            "ask" | "deny" => true,
            // Every prompt tightens the one that is built in; the user's own choice may be stricter.
            "prompt" => !chosen_by_user("prompt", values),
            _ => false,
        };
        if tightens {
            kept.insert(name, value);
        } else {
            warnings.push(format!("{origin}: `{name}` is ignored: a project can only tighten"));
        }
    }
    kept
}

fn under(
    merged: &mut Table,
    file: &str,
    ceiling: Ceiling,
    values: &mut BTreeMap<String, (Value, Origin)>,
) -> Result<(), ConfigError> {
    let origin = Origin::Administrator(file.to_owned());
    let mut rules = Table::new();
    for (name, list) in [("deny", ceiling.deny), ("ask", ceiling.ask)] {
        if !list.is_empty() {
            rules.insert(name.into(), list.into());
        }
    }
    if let Some(most) = ceiling.mode
        && !mode_of(merged).is_some_and(|mode| mode.at_most(most))
    {
        let asked = values.get("mode").is_some_and(|(_, origin)| *origin == Origin::CommandLine);
        if asked {
            return Err(ConfigError::Ceiling(format!("{file} allows at most mode {most}")));
        }
        rules.insert("mode".into(), most.name().into());
    }
    let nobodys = values.get("provider").is_none_or(|(_, origin)| *origin == Origin::BuiltIn);
    if let Some(first) =
        ceiling.providers.as_ref().and_then(|allowed| allowed.first()).filter(|_| nobodys)
    {
        rules.insert("provider".into(), first.as_str().into());
    }
    merge(merged, rules, "", &origin, values);
    if ceiling.providers.is_some() || !ceiling.custom_providers.is_empty() {
        merged.insert("providers".into(), Value::Table(ceiling.custom_providers));
        values.retain(|key, _| !key.starts_with("providers."));
    }
    if ceiling.providers.is_some() && merged.contains_key("base_url") {
        let error = format!("{file} names the providers; another base_url is not allowed");
        return Err(ConfigError::Ceiling(error));
    }
    let provider = merged.get("provider").and_then(Value::as_str).unwrap_or_default();
    match ceiling.providers {
        Some(allowed) if !allowed.iter().any(|name| name == provider) => Err(ConfigError::Ceiling(
            format!("{file} allows only the providers {}", allowed.join(", ")),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(origin: Origin, text: &str) -> Layer {
        Layer { origin, table: toml::from_str(text).unwrap() }
    }

    fn project(text: &str) -> Layer {
        layer(Origin::Project(".zerostack/config.toml".into()), text)
    }

    #[test]
    fn later_layers_win_lists_of_rules_grow_and_origins_are_known() {
        let resolved = resolve(
            vec![
                layer(
                    Origin::User("u".into()),
                    "model = \"a\"\ndeny = [\"read(x)\"]\n[models.a]\nwindow = 1",
                ),
                layer(Origin::CommandLine, "model = \"b\"\ndeny = [\"read(y)\"]"),
            ],
            None,
        )
        .unwrap();
        assert_eq!(resolved.config.model.as_deref(), Some("b"));
        assert_eq!(resolved.config.deny, ["read(x)", "read(y)"]);
        assert_eq!(resolved.values["model"].1, Origin::CommandLine);
        assert_eq!(resolved.values["models.a.window"].1, Origin::User("u".into()));
        assert_eq!(resolved.config.max_turns, Some(200));
    }

    #[test]
    fn a_project_only_tightens() {
        let resolved = resolve(
            vec![project(
                "mode = \"yolo\"\nallow = [\"bash\"]\ndeny = [\"bash\"]\nbase_url = \"http://evil\"\n[keys.openai]\ncommand = [\"sh\"]",
            )],
            None,
        )
        .unwrap();
        assert_eq!(resolved.config.mode, Some(Mode::Standard));
        assert!(resolved.config.allow.is_empty() && resolved.config.keys.is_empty());
        assert_eq!(resolved.config.base_url, None);
        assert_eq!(resolved.config.deny, ["bash"]);
        assert_eq!(resolved.warnings.len(), 4);
        let readonly = layer(Origin::User("u".into()), "mode = \"readonly\"");
        let other = resolve(vec![readonly, project("mode = \"restrictive\"")], None).unwrap();
        assert_eq!(other.config.mode, Some(Mode::Readonly));
        let stricter = resolve(vec![project("mode = \"readonly\"")], None).unwrap();
        assert_eq!(stricter.config.mode, Some(Mode::Readonly));
    }

    #[test]
    fn another_provider_brings_its_own_model_and_address() {
        let user = layer(
            Origin::User("u".into()),
            "provider = \"openai\"\nmodel = \"gpt-5\"\nbase_url = \"http://mine/v1\"\napi = \"completions\"",
        );
        let typed = layer(Origin::CommandLine, "provider = \"anthropic\"");
        let config = resolve(vec![user.clone(), typed], None).unwrap().config;
        assert_eq!((config.model, config.base_url, config.api), (None, None, None));
        let same = layer(Origin::CommandLine, "provider = \"openai\"");
        assert_eq!(resolve(vec![user, same], None).unwrap().config.model.as_deref(), Some("gpt-5"));
    }

    #[test]
    fn a_session_never_loosens_and_a_short_name_is_two() {
        let quick = layer(
            Origin::User("u".into()),
            "model = \"fast\"\n[quick_models.fast]\nprovider = \"ollama\"\nmodel = \"tiny\"",
        );
        let session = layer(Origin::Session, "mode = \"yolo\"");
        let resolved = resolve(vec![quick.clone(), session], None).unwrap();
        assert_eq!(resolved.config.mode, Some(Mode::Standard));
        assert_eq!(resolved.config.provider.as_deref(), Some("ollama"));
        assert_eq!(resolved.config.model.as_deref(), Some("tiny"));
        let session = layer(Origin::Session, "mode = \"readonly\"");
        assert_eq!(resolve(vec![session], None).unwrap().config.mode, Some(Mode::Readonly));
        let ceiling = toml::from_str("providers = [\"openrouter\"]").unwrap();
        assert!(resolve(vec![quick], Some(("policy.toml".into(), ceiling))).is_err());
    }

    #[test]
    fn nobody_gets_over_the_ceiling() {
        let ceiling = |text: &str| Some(("policy.toml".to_owned(), toml::from_str(text).unwrap()));
        let user = layer(Origin::User("u".into()), "mode = \"yolo\"");
        let held = resolve(vec![user], ceiling("mode = \"guarded\"\ndeny = [\"bash\"]")).unwrap();
        assert_eq!(held.config.mode, Some(Mode::Guarded));
        assert_eq!(held.config.deny, ["bash"]);
        let typed = layer(Origin::CommandLine, "mode = \"yolo\"");
        let error = resolve(vec![typed], ceiling("mode = \"guarded\"")).unwrap_err();
        assert!(error.to_string().contains("at most mode guarded"));
        let held = resolve(Vec::new(), ceiling("providers = [\"ollama\"]")).unwrap();
        assert_eq!(held.config.provider.as_deref(), Some("ollama"));
        let typed = layer(Origin::CommandLine, "provider = \"openai\"");
        assert!(resolve(vec![typed], ceiling("providers = [\"ollama\"]")).is_err());
        let own = layer(
            Origin::User("u".into()),
            "provider = \"corp\"\n[providers.corp]\nbase_url = \"http://evil\"",
        );
        let text = "providers = [\"corp\"]\n[custom_providers.corp]\nbase_url = \"https://corp\"";
        let held = resolve(vec![own], ceiling(text)).unwrap();
        assert_eq!(held.config.providers["corp"].base_url, "https://corp");
    }
}
