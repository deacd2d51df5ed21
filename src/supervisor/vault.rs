//! Keys. They live here, in types that do not print themselves, and nowhere else.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderValue, InvalidHeaderValue};
use secrecy::{ExposeSecret, SecretString};

use crate::model::providers::Provider;

/// Longest key, bytes.
const KEY_LIMIT: u64 = 16 * 1024;

/// How long a helper may take: somebody may have to type a password.
const HELPER_LIMIT: Duration = Duration::from_secs(30);

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
    home: &'a Path,
    given: Option<String>,
}

impl<'a> Vault<'a> {
    /// `given` is the key of the command line; it comes first.
    pub fn new(
        environment: &'a [(String, String)],
        home: &'a Path,
        given: Option<String>,
    ) -> Vault<'a> {
        Vault { environment, home, given }
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
            Some(KeySource::File(path)) => return read_key(&self.in_home(&path)?).map(Some),
            Some(KeySource::Command(words)) => return ask_helper(&words, self.home).map(Some),
            Some(KeySource::Variable(name)) => name,
        };
        match self.variable(&variable) {
            Some(text) => Ok(Some(Key::new(text))),
            None if provider.is_local() => Ok(None),
            None => Err(KeyError::Missing { provider: provider.name.clone(), variable }),
        }
    }

    /// The path of a key file: a relative one could be a project's.
    fn in_home(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let path = path.strip_prefix("~").map_or(path.to_owned(), |rest| self.home.join(rest));
        if path.is_absolute() {
            return Ok(path);
        }
        Err(KeyError::File(path, "give its whole path, or one that begins with ~/".into()))
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
/// and has to reach what cells must not: it runs as the user, not in a cell, and nowhere near the project,
/// whose files could mean something to it.
#[expect(clippy::disallowed_methods, reason = "a password manager cannot work in a cell")]
fn ask_helper(words: &[String], home: &Path) -> Result<Key, KeyError> {
    let shown = words.first().cloned().unwrap_or_default();
    let failed = |why: String| KeyError::Command(shown.clone(), why);
    let [program, arguments @ ..] = words else { return Err(failed("it is empty".into())) };
    if program.contains('/') && !program.starts_with('/') {
        return Err(failed("give its whole path, or a name to be found in PATH".into()));
    }
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let output = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.map(|output| output.take(KEY_LIMIT).read_to_end(&mut bytes));
        bytes
    });
    let end = Instant::now() + HELPER_LIMIT;
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed("it gave no answer in 30 seconds".into()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    let bytes = reading.join().unwrap_or_default();
    first_line(&bytes).map(Key::new).ok_or_else(|| failed("it printed nothing".into()))
}
