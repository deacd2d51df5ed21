//! The only HTTP client, and the other two places an answer can come from: the demo and a recording.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode, redirect};
use serde_json::Value;

use super::vault::Key;
use crate::model::providers::is_local;
use crate::model::tape::{Exchange, Tape};
use crate::model::{Answer, ModelError, Request, StreamEvent, chat, demo};

const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A server may think for long, but not say nothing for longer than this.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most of an error body that is read, bytes.
const ERROR_LIMIT: usize = 16 * 1024;

/// Where answers come from.
#[derive(Debug)]
pub enum Backend {
    Http(Network),
    Demo,
    Replay(Tape),
}

impl Backend {
    /// One answer. `tell` is called with each part as it comes.
    pub async fn answer(
        &mut self,
        request: &Request,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, ModelError> {
        let answer = match self {
            Backend::Http(network) => return network.answer(request, tell).await,
            Backend::Demo => demo::answer(request),
            Backend::Replay(tape) => tape.next(request)?,
        };
        tell(StreamEvent::Text(answer.text.clone()));
        Ok(answer)
    }
}

/// A server that speaks chat completions.
#[derive(Debug)]
pub struct Network {
    client: reqwest::Client,
    url: String,
    key: Option<Key>,
    key_variable: Option<&'static str>,
}

/// An attempt that failed, and whether another one makes sense.
struct Attempt {
    error: ModelError,
    again: bool,
    after: Option<Duration>,
}

impl Network {
    pub fn new(
        base_url: &str,
        key: Option<Key>,
        key_variable: Option<&'static str>,
    ) -> Result<Network, ModelError> {
        let unusable = |error: &dyn std::fmt::Display| ModelError::Unreachable {
            url: base_url.to_owned(),
            reason: error.to_string(),
        };
        let url = reqwest::Url::parse(base_url).map_err(|error| unusable(&error))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable(&"the address must begin with http:// or https://"));
        }
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(url.scheme() == "https")?)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .user_agent(concat!("zerostack/", env!("CARGO_PKG_VERSION")));
        if is_local(base_url) {
            // A proxy would see what is meant to stay on this machine.
            client = client.no_proxy();
        }
        Ok(Network {
            client: client.build().map_err(|error| unusable(&error))?,
            url: format!("{}/chat/completions", base_url.trim_end_matches('/')),
            key,
            key_variable,
        })
    }

    async fn answer(
        &self,
        request: &Request,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, ModelError> {
        let body = chat::body(request).to_string();
        let mut pause = FIRST_PAUSE;
        let mut number = 1;
        loop {
            match self.attempt(&body, &request.model, tell).await {
                Ok(answer) => return Ok(answer),
                Err(attempt) if attempt.again && number < TRIES => {
                    tokio::time::sleep(attempt.after.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                    pause *= 2;
                    number += 1;
                }
                Err(attempt) => return Err(attempt.error),
            }
        }
    }

    async fn attempt(
        &self,
        body: &str,
        model: &str,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, Attempt> {
        let mut post = self.client.post(&self.url).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            post = post.header(AUTHORIZATION, key.bearer());
        }
        let response = match post.body(body.to_owned()).send().await {
            Ok(response) => response,
            Err(error) => {
                let again = !(error.is_connect() && is_local(&self.url));
                let reason = self.redacted(&deepest(&error));
                let error = ModelError::Unreachable { url: self.url.clone(), reason };
                return Err(Attempt { error, again, after: None });
            }
        };
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, model).await);
        }
        self.stream(response, tell).await
    }

    async fn stream(
        &self,
        response: Response,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, Attempt> {
        let mut decoder = chat::Decoder::default();
        let mut told = false;
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let again = |error| Attempt { error, again: !told, after: None };
            let bytes = bytes
                .map_err(|error| again(ModelError::Broken(self.redacted(&deepest(&error)))))?;
            let events = decoder.feed(&bytes).map_err(|error| Attempt {
                error,
                again: false,
                after: None,
            })?;
            for event in events {
                told = true;
                tell(event);
            }
        }
        decoder.finish().map_err(|error| Attempt { error, again: !told, after: None })
    }

    async fn refused(&self, response: Response, model: &str) -> Attempt {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let mut text = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(Ok(bytes)) = body.next().await {
            text.extend_from_slice(&bytes);
            if text.len() > ERROR_LIMIT {
                text.truncate(ERROR_LIMIT);
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        let message = match serde_json::from_str::<Value>(&text) {
            Ok(error) => chat::error_text(&error),
            Err(_) => text.chars().take(300).collect(),
        };
        let error = ModelError::Refused {
            status: status.as_u16(),
            url: self.url.clone(),
            message: self.redacted(&message),
            hint: self.hint(status, model),
        };
        let again = matches!(status.as_u16(), 408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 | 529);
        Attempt { error, again, after }
    }

    fn hint(&self, status: StatusCode, model: &str) -> Option<String> {
        let hint = match (status.as_u16(), self.key_variable) {
            (401 | 403, Some(name)) => format!("The key was not accepted: check {name}."),
            (402, _) => "The account has no credit left.".into(),
            (404, _) => {
                format!("Check the model's name ({model}, --model) and the address (--base-url).")
            }
            (429, _) => {
                "The provider limits how often it may be asked; wait, or use another model.".into()
            }
            (300..=399, _) => {
                "The server wants to send us elsewhere; give that address with --base-url.".into()
            }
            (500.., _) => "The provider has a fault; try again later.".into(),
            _ => return None,
        };
        Some(hint)
    }

    /// A server may repeat what we sent it.
    fn redacted(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text))
    }
}

/// The innermost reason, which is the one that says something.
fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// TLS by ring, with the system's roots, or Mozilla's where the system has none.
fn tls(needed: bool) -> Result<rustls::ClientConfig, ModelError> {
    let mut roots = rustls::RootCertStore::empty();
    if needed {
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A root that cannot be read is a root that is not trusted.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ModelError::Broken(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Writes exchanges to a file as they happen.
#[derive(Debug)]
pub struct Recorder(std::fs::File);

impl Recorder {
    /// Makes the file, readable by the user alone: a recording holds the whole conversation.
    pub fn create(path: &Path) -> std::io::Result<Recorder> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        Ok(Recorder(options.open(path)?))
    }

    pub fn add(&mut self, exchange: &Exchange) -> std::io::Result<()> {
        let line = serde_json::to_string(exchange)?;
        writeln!(self.0, "{line}")?;
        self.0.flush()
    }
}
