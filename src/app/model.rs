//! From the settings to a model that can be asked.

use std::cell::RefCell;
use std::path::Path;

use crate::config::{Config, KeyPlace};
use crate::model::Api;
use crate::model::catalog::Facts;
use crate::model::providers::{self, DEFAULT, DEMO, OLLAMA_PORT, OLLAMA_WINDOW, Provider};
use crate::model::tape::Tape;
use crate::nearest::nearest;
use crate::report::{ExitKind, Report};
use crate::supervisor::{Backend, Host, KeyError, KeySource, Network, Vault, is_listening};

/// The chosen model, ready to answer.
pub struct Model {
    pub provider: String,
    /// Where it is; empty if it is nowhere.
    pub base_url: String,
    pub name: String,
    pub facts: Facts,
    pub backend: Backend,
}

/// The built-in providers and the user's own.
pub fn providers(config: &Config) -> Result<Vec<Provider>, Report> {
    let mut all = providers::built_in();
    for (name, own) in &config.providers {
        if name == DEMO || all.iter().any(|known| known.name == *name) {
            return Err(Report::error(format!("providers.{name}: that name is built in"))
                .hint("give it another name, or set base_url"));
        }
        all.push(Provider {
            name: name.clone(),
            api: own.api.unwrap_or(Api::Completions),
            base_url: own.base_url.trim_end_matches('/').to_owned(),
            key_variable: own.key_variable.clone(),
            default_model: own.model.clone(),
            key_page: None,
            headers: own.headers.clone(),
            timeout: own.timeout,
            extra_body: own.extra_body.clone(),
        });
    }
    Ok(all)
}

/// Where the settings say that the key of a provider is.
fn key_source(provider: &str, place: &KeyPlace) -> Result<KeySource, Report> {
    match (&place.variable, &place.file, &place.command) {
        (Some(name), None, None) => Ok(KeySource::Variable(name.clone())),
        (None, Some(file), None) => Ok(KeySource::File(file.clone())),
        (None, None, Some(words)) => Ok(KeySource::Command(words.clone())),
        _ => Err(Report::error(format!(
            "keys.{provider}: give exactly one of variable, file and command"
        ))),
    }
}

impl Model {
    /// Plays a recording back.
    pub fn replayed(path: &Path, config: &Config) -> Result<Model, Report> {
        let failed = |error: &dyn std::fmt::Display| {
            Report::error(format!("cannot replay {}: {error}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        let tape = Tape::parse(&text).map_err(|error| failed(&error))?;
        let name = config.model.clone().unwrap_or_else(|| "recorded".into());
        let backend = Backend::Replay(RefCell::new(tape));
        let base_url = String::new();
        Ok(Model { provider: "replay".into(), base_url, name, facts: Facts::default(), backend })
    }

    /// The script that is built in.
    pub fn scripted() -> Model {
        Model {
            provider: DEMO.into(),
            base_url: String::new(),
            name: "script".into(),
            facts: Facts::default(),
            backend: Backend::Demo,
        }
    }

    pub fn choose(config: &Config, host: &Host, api_key: Option<String>) -> Result<Model, Report> {
        let wanted = config.provider.as_deref().unwrap_or(DEFAULT);
        if wanted == DEMO {
            return Ok(Model::scripted());
        }
        let all = providers(config)?;
        let mut provider = all
            .iter()
            .find(|provider| provider.name == wanted)
            .cloned()
            .ok_or_else(|| unknown(wanted, &all))?;
        if let Some(base_url) = &config.base_url {
            provider.moved_to(base_url);
        }
        if let Some(api) = config.api {
            provider.api = api;
        }
        let source = config.keys.get(wanted).map(|place| key_source(wanted, place)).transpose()?;
        let vault = Vault::new(&host.environment, &host.home, api_key);
        let key = vault
            .key(&provider, source.as_ref())
            .map_err(|error| key_report(error, &provider, &vault, &all))?;
        let name = config.model.clone().or(provider.default_model.clone()).ok_or_else(|| {
            Report::usage(format!("{wanted} has no usual model")).hint("name one with --model")
        })?;
        let mut facts = Facts::of(&name, &config.models);
        if provider.api == Api::Ollama {
            // What is not asked for explicitly must fit into the memory of a usual machine.
            let own = config.models.get(&name).and_then(|own| own.window);
            let known = facts.window.unwrap_or(OLLAMA_WINDOW);
            facts.window = Some(own.unwrap_or(known.min(OLLAMA_WINDOW)));
        }
        let (label, base_url) = (provider.name.clone(), provider.base_url.clone());
        if provider.api != Api::Messages {
            // Only that protocol needs to be told how long an answer may be.
            facts.output = None;
        }
        let network = Network::new(provider, key, &host.environment)
            .map_err(|error| Report::new(ExitKind::Model, error))?;
        Ok(Model {
            provider: label,
            base_url,
            name,
            facts,
            backend: Backend::Http(Box::new(network)),
        })
    }
}

fn unknown(wanted: &str, all: &[Provider]) -> Report {
    let names: Vec<&str> = all.iter().map(|provider| provider.name.as_str()).collect();
    let near = nearest(wanted, names.iter().copied());
    let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Report::usage(format!("there is no provider {wanted:?}{near}")).hint(format!(
        "the providers are {}, {DEMO}; any other server that speaks chat completions: \
         --provider openai --base-url URL",
        names.join(", ")
    ))
}

/// What to do about a missing key: where to get it, and what would work right now.
fn key_report(error: KeyError, provider: &Provider, vault: &Vault, all: &[Provider]) -> Report {
    let KeyError::Missing { variable, .. } = &error else { return Report::error(error) };
    let page = provider
        .key_page
        .as_ref()
        .map(|page| format!("get one at {page} and "))
        .unwrap_or_default();
    let mut hint = format!("{page}run: export {variable}=…");
    let ready: Vec<&str> =
        all.iter().filter(|other| vault.has(other)).map(|other| other.name.as_str()).collect();
    if !ready.is_empty() {
        hint.push_str(&format!(
            "\n      there is a key for: {} (--provider NAME)",
            ready.join(", ")
        ));
    }
    if is_listening(OLLAMA_PORT) {
        hint.push_str("\n      Ollama is running here: --provider ollama --model NAME");
    }
    hint.push_str(
        "\n      without a key: --provider ollama (local models) or --provider demo (a built-in tour)",
    );
    Report::error(error).hint(hint)
}
