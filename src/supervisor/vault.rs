//! Keys. They live here, in types that do not print themselves, and nowhere else.

use secrecy::{ExposeSecret, SecretString};

use crate::model::providers::{Provider, is_local};

/// A key for one provider.
#[derive(Debug, Clone)]
pub struct Key(SecretString);

impl Key {
    pub fn new(text: String) -> Key {
        Key(text.into())
    }

    /// The value of an Authorization header.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0.expose_secret())
    }

    /// Removes the key from a text that is about to be shown or stored.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.0.expose_secret(), "[key]")
    }
}

/// Where keys are looked up.
#[derive(Debug)]
pub struct Vault<'a> {
    environment: &'a [(String, String)],
    given: Option<String>,
}

impl<'a> Vault<'a> {
    /// `given` is the key of the command line; it comes first.
    pub fn new(environment: &'a [(String, String)], given: Option<String>) -> Vault<'a> {
        Vault { environment, given }
    }

    /// The key for `provider`, or the name of the variable that should have it. A server on this
    /// machine needs none.
    pub fn key(&self, provider: &Provider, base_url: &str) -> Result<Option<Key>, &'static str> {
        let variable = provider.key_variable;
        let from_variable = variable.and_then(|name| self.variable(name));
        match (self.given.clone().or(from_variable), variable) {
            (Some(text), _) => Ok(Some(Key::new(text))),
            (None, Some(name)) if !is_local(base_url) => Err(name),
            (None, _) => Ok(None),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Whether a key for `provider` is there.
    pub fn has(&self, provider: &Provider) -> bool {
        provider.key_variable.is_some_and(|name| self.variable(name).is_some())
    }
}
