//! Keys. They live here, in types that do not print themselves, and nowhere else.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use reqwest::header::{HeaderValue, InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::model::providers::Provider;

/// Longest key, bytes.
const KEY_LIMIT: u64 = 16 * 1024;

/// A key for one provider.
#[derive(Debug, Clone)]
pub struct Key(SecretString);

impl Key {
    pub fn new(text: String) -> Key {
        Key(text.into())
    }

    /// The value of a header, behind a fixed text.
    pub(super) fn header(&self, before: &str) -> Result<HeaderValue, InvalidHeaderValue> {
        HeaderValue::try_from(format!("{before}{}", self.0.expose_secret()))
    }

    /// Removes the key from a text that is about to be shown or stored.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(self.0.expose_secret(), "[key]")
    }
}

/// Where the user says that a provider's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Variable(String),
    /// A file that only its owner can read.
    File(PathBuf),
    /// A program and its arguments; the key is the first line it prints.
    Command(Vec<String>),
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{provider} needs a key in {variable}")]
    Missing { provider: String, variable: String },
    #[error("cannot read the key file {0}: {1}")]
    File(PathBuf, String),
    #[error("the key command {0:?} failed: {1}")]
    Command(String, String),
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

    /// The key for `provider`. A server on this machine needs none.
    pub fn key(
        &self,
        provider: &Provider,
        source: Option<&KeySource>,
    ) -> Result<Option<Key>, KeyError> {
        if let Some(given) = self.given.as_ref().filter(|given| !given.trim().is_empty()) {
            return Ok(Some(Key::new(given.trim().to_owned())));
        }
        let own = provider.key_variable.clone().map(KeySource::Variable);
        let variable = match source.cloned().or(own) {
            None => return Ok(None),
            Some(KeySource::File(path)) => return read_key(&path).map(Some),
            Some(KeySource::Command(words)) => return ask_helper(&words).map(Some),
            Some(KeySource::Variable(name)) => name,
        };
        match self.variable(&variable) {
            Some(text) => Ok(Some(Key::new(text))),
            None if provider.is_local() => Ok(None),
            None => Err(KeyError::Missing { provider: provider.name.clone(), variable }),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Whether a key for `provider` is in the environment.
    pub fn has(&self, provider: &Provider) -> bool {
        provider.key_variable.as_ref().is_some_and(|name| self.variable(name).is_some())
    }
}

fn first_line(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn read_key(path: &Path) -> Result<Key, KeyError> {
    let failed = |why: String| KeyError::File(path.to_owned(), why);
    let mut options = std::fs::OpenOptions::new();
    // A FIFO must not hold up the start.
    options.read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(|error| failed(error.to_string()))?;
    let facts = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !facts.is_file() {
        return Err(failed("it is not a regular file".into()));
    }
    if facts.mode() & 0o077 != 0 {
        let path = path.display();
        return Err(failed(format!("other users can read it; run: chmod 600 {path}")));
    }
    let mut bytes = Vec::new();
    file.take(KEY_LIMIT).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    first_line(&bytes).map(Key::new).ok_or_else(|| failed("its first line is empty".into()))
}

/// Asks the user's own helper, for example a password manager. It is named in the user's file only,
/// and has to reach what cells must not: it runs as the user, not in a cell.
#[expect(clippy::disallowed_methods, reason = "a password manager cannot work in a cell")]
fn ask_helper(words: &[String]) -> Result<Key, KeyError> {
    let shown = words.first().cloned().unwrap_or_default();
    let failed = |why: String| KeyError::Command(shown.clone(), why);
    let [program, arguments @ ..] = words else { return Err(failed("it is empty".into())) };
    let output = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    first_line(&output.stdout).map(Key::new).ok_or_else(|| failed("it printed nothing".into()))
}
