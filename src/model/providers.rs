//! The providers by name: where they are, which variable has the key, which model is the default.

/// One provider that speaks chat completions.
#[derive(Debug, Clone, Copy)]
pub struct Provider {
    pub name: &'static str,
    pub base_url: &'static str,
    /// The variable with the key; `None` if it takes none.
    pub key_variable: Option<&'static str>,
    pub default_model: &'static str,
    /// Where a key comes from, for the error message.
    pub key_page: &'static str,
}

/// The scripted model that is built in.
pub const DEMO: &str = "demo";

pub const PROVIDERS: [Provider; 3] = [
    Provider {
        name: "openrouter",
        base_url: "https://openrouter.ai/api/v1",
        key_variable: Some("OPENROUTER_API_KEY"),
        default_model: "deepseek/deepseek-v4-flash",
        key_page: "https://openrouter.ai/keys",
    },
    Provider {
        name: "openai",
        base_url: "https://api.openai.com/v1",
        key_variable: Some("OPENAI_API_KEY"),
        default_model: "gpt-5.1",
        key_page: "https://platform.openai.com/api-keys",
    },
    Provider {
        name: "ollama",
        base_url: "http://127.0.0.1:11434/v1",
        key_variable: None,
        default_model: "llama3.1",
        key_page: "",
    },
];

pub fn by_name(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// Whether a server needs no key because it is on this machine.
pub fn is_local(base_url: &str) -> bool {
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
