//! The providers: where they are, what they speak, and where their keys come from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Api;

/// A place that answers requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    pub name: String,
    pub api: Api,
    /// Without a trailing slash.
    pub base_url: String,
    /// The variable that holds its key; without one it needs none.
    pub key_variable: Option<String>,
    pub default_model: Option<String>,
    /// Where a key can be had.
    pub key_page: Option<String>,
    /// More headers; `${VAR}` in a value stands for a variable of the environment.
    pub headers: BTreeMap<String, String>,
    /// Longest silence, seconds.
    pub timeout: Option<u64>,
    /// Merged into every request's body.
    pub extra_body: Map<String, Value>,
}

/// The name of the scripted model that is built in.
pub const DEMO: &str = "demo";
/// The provider of a start without any choice.
pub const DEFAULT: &str = "openrouter";
/// Tokens that a model of Ollama is asked to keep if nothing else is known: its own default is a few
/// thousand, which a single file can fill.
pub const OLLAMA_WINDOW: u64 = 32_768;

/// Where Ollama listens unless it was told otherwise.
pub const OLLAMA_PORT: u16 = 11434;

struct BuiltIn {
    name: &'static str,
    api: Api,
    base_url: &'static str,
    key_variable: Option<&'static str>,
    model: &'static str,
    key_page: Option<&'static str>,
}

const BUILT_IN: [BuiltIn; 5] = [
    BuiltIn {
        name: DEFAULT,
        api: Api::Completions,
        base_url: "https://openrouter.ai/api/v1",
        key_variable: Some("OPENROUTER_API_KEY"),
        model: "deepseek/deepseek-v4-flash",
        key_page: Some("https://openrouter.ai/keys"),
    },
    BuiltIn {
        name: "openai",
        api: Api::Responses,
        base_url: "https://api.openai.com/v1",
        key_variable: Some("OPENAI_API_KEY"),
        model: "gpt-5.1",
        key_page: Some("https://platform.openai.com/api-keys"),
    },
    BuiltIn {
        name: "anthropic",
        api: Api::Messages,
        base_url: "https://api.anthropic.com/v1",
        key_variable: Some("ANTHROPIC_API_KEY"),
        model: "claude-sonnet-4-6",
        key_page: Some("https://console.anthropic.com/settings/keys"),
    },
    BuiltIn {
        name: "gemini",
        api: Api::Gemini,
        base_url: "https://generativelanguage.googleapis.com/v1beta",
        key_variable: Some("GEMINI_API_KEY"),
        model: "gemini-2.5-pro",
        key_page: Some("https://aistudio.google.com/apikey"),
    },
    BuiltIn {
        name: "ollama",
        api: Api::Ollama,
        base_url: "http://127.0.0.1:11434",
        key_variable: None,
        model: "llama3.1",
        key_page: None,
    },
];

/// The built-in providers, the default one first.
pub fn built_in() -> Vec<Provider> {
    let provider = |known: &BuiltIn| Provider {
        name: known.name.into(),
        api: known.api,
        base_url: known.base_url.into(),
        key_variable: known.key_variable.map(Into::into),
        default_model: Some(known.model.into()),
        key_page: known.key_page.map(Into::into),
        headers: BTreeMap::new(),
        timeout: None,
        extra_body: Map::new(),
    };
    BUILT_IN.iter().map(provider).collect()
}

impl Provider {
    /// Takes another address. Nearly all servers that are not the provider's own speak chat
    /// completions, so a provider of Responses falls back to that.
    pub fn moved_to(&mut self, base_url: &str) {
        self.base_url = base_url.trim_end_matches('/').to_owned();
        let compatible = self.api == Api::Ollama && self.base_url.ends_with("/v1");
        if self.api == Api::Responses || compatible {
            self.api = Api::Completions;
        }
    }

    /// Whether it runs on this machine.
    pub fn is_local(&self) -> bool {
        is_local(&self.base_url)
    }
}

/// Whether a server is on this machine.
pub fn is_local(base_url: &str) -> bool {
    // Readers of URLs do not agree on what a backslash is.
    if base_url.contains('\\') {
        return false;
    }
    let rest = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // With user information the host is what follows it.
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_loopback_is_local() {
        for url in ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8080"] {
            assert!(is_local(url), "{url}");
        }
        for url in ["https://localhost.evil.com", "http://127.0.0.1@evil.com/", "http://10.0.0.1"] {
            assert!(!is_local(url), "{url}");
        }
    }
}
