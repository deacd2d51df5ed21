//! The only HTTP client, and the other two places an answer can come from: the demo and a recording.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, redirect};
use serde_json::Value;

use super::vault::Key;
use crate::model::protocol::is_too_long;
use crate::model::providers::{Provider, is_local};
use crate::model::tape::{Exchange, Tape};
use crate::model::{Answer, ModelError, Request, StreamEvent, demo, error_text};

const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A pause from which on it is said that there is one.
const TOLD_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A server may think for long, but not say nothing for longer than this.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a list of models may take, and how large it may be, bytes.
const LIST_LIMIT: Duration = Duration::from_secs(5);
const LIST_SIZE: usize = 4 * 1024 * 1024;
/// Most of an error body that is read, bytes.
const ERROR_LIMIT: usize = 16 * 1024;

/// Where answers come from.
#[derive(Debug)]
pub enum Backend {
    Http(Box<Network>),
    Demo,
    Replay(RefCell<Tape>),
}

impl Backend {
    /// One answer. `tell` is called with each part as it comes.
    pub async fn answer(
        &self,
        request: &Request,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, ModelError> {
        let answer = match self {
            Backend::Http(network) => return network.answer(request, tell).await,
            Backend::Demo => demo::answer(request),
            Backend::Replay(tape) => tape.borrow_mut().next(request)?,
        };
        tell(StreamEvent::Text(answer.text.clone()));
        Ok(answer)
    }

    /// Names of the models that the server has.
    pub async fn models(&self) -> Result<Vec<String>, String> {
        match self {
            Backend::Http(network) => network.models().await,
            Backend::Demo | Backend::Replay(_) => Ok(Vec::new()),
        }
    }
}

/// A server that answers over HTTP.
#[derive(Debug)]
pub struct Network {
    client: reqwest::Client,
    provider: Provider,
    headers: HeaderMap,
    key: Option<Key>,
}

/// An attempt that failed, and whether another one makes sense.
struct Attempt {
    error: ModelError,
    again: bool,
    after: Option<Duration>,
}

impl Network {
    /// `environment` is what `${VAR}` in a header means.
    pub fn new(
        provider: Provider,
        key: Option<Key>,
        environment: &[(String, String)],
    ) -> Result<Network, ModelError> {
        let unusable = |error: &dyn std::fmt::Display| ModelError::Unreachable {
            url: provider.base_url.clone(),
            reason: error.to_string(),
        };
        let url = reqwest::Url::parse(&provider.base_url).map_err(|error| unusable(&error))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ModelError::Unreachable {
                url: url.host_str().unwrap_or_default().to_owned(),
                reason: "the address has a name or a password in it; use keys or headers for those"
                    .into(),
            });
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable(&"the address must begin with http:// or https://"));
        }
        let silence = provider.timeout.map_or(SILENCE_LIMIT, Duration::from_secs);
        let client = builder(url.scheme() == "https", provider.is_local())?.read_timeout(silence);
        let client = client.build().map_err(|error| unusable(&error))?;
        let headers =
            headers(&provider, key.as_ref(), environment).map_err(|why| unusable(&why))?;
        Ok(Network { client, provider, headers, key })
    }

    /// Names of the models that the server has.
    async fn models(&self) -> Result<Vec<String>, String> {
        let (path, list, field) = self.provider.api.models();
        let url = format!("{}/{path}", self.provider.base_url);
        let failed = |error: &dyn std::fmt::Display| self.redacted(&error.to_string());
        let get = self.client.get(&url).headers(self.headers.clone()).timeout(LIST_LIMIT);
        let response = get.send().await.map_err(|error| failed(&deepest(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(failed(&format!("{url} answered {}", response.status())));
        }
        let (mut body, mut stream) = (Vec::new(), response.bytes_stream());
        while let Some(bytes) = stream.next().await {
            body.extend(bytes.map_err(|error| failed(&deepest(&error)))?);
            if body.len() > LIST_SIZE {
                return Err("the server's list of models is too long".into());
            }
        }
        let body: Value = serde_json::from_slice(&body).map_err(|error| failed(&error))?;
        let all = body[list].as_array().ok_or("the server's list of models is none")?;
        let name = |model: &Value| model[field].as_str().map(str::to_owned);
        let names = all.iter().filter_map(name);
        Ok(names.map(|name| name.trim_start_matches("models/").to_owned()).collect())
    }

    async fn answer(
        &self,
        request: &Request,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, ModelError> {
        let mut body = self.provider.api.body(request);
        merge(&mut body, Value::Object(self.provider.extra_body.clone()));
        let body = body.to_string();
        let url = format!("{}/{}", self.provider.base_url, self.provider.api.path(&request.model));
        let mut pause = FIRST_PAUSE;
        let mut number = 1;
        loop {
            match self.attempt(&url, &body, &request.model, tell).await {
                Ok(answer) => return Ok(answer),
                // A server that wants to be left alone for long is told to the user instead.
                Err(attempt)
                    if attempt.again
                        && number < TRIES
                        && attempt.after.unwrap_or_default() <= LONGEST_PAUSE =>
                {
                    let wait = attempt.after.unwrap_or(pause);
                    if wait >= TOLD_PAUSE {
                        let seconds = wait.as_secs();
                        tell(StreamEvent::Waiting(format!(
                            "trying again in {seconds} s: {}",
                            attempt.error
                        )));
                    }
                    tokio::time::sleep(wait).await;
                    pause *= 2;
                    number += 1;
                }
                Err(attempt) => return Err(attempt.error),
            }
        }
    }

    async fn attempt(
        &self,
        url: &str,
        body: &str,
        model: &str,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, Attempt> {
        let post = self.client.post(url).headers(self.headers.clone());
        let response = match post.body(body.to_owned()).send().await {
            Ok(response) => response,
            Err(error) => {
                let again = !(error.is_connect() && self.provider.is_local());
                let reason = self.redacted(&deepest(&error));
                let error = ModelError::Unreachable { url: url.to_owned(), reason };
                return Err(Attempt { error, again, after: None });
            }
        };
        if response.status() != StatusCode::OK {
            return Err(self.refused(url, response, model).await);
        }
        self.stream(response, tell).await
    }

    async fn stream(
        &self,
        response: Response,
        tell: &mut dyn FnMut(StreamEvent),
    ) -> Result<Answer, Attempt> {
        let mut stream = self.provider.api.stream();
        let mut told = false;
        let mut body = response.bytes_stream();
        while let Some(bytes) = body.next().await {
            let again = |error| Attempt { error, again: !told, after: None };
            let bytes = bytes
                .map_err(|error| again(ModelError::Broken(self.redacted(&deepest(&error)))))?;
            let events = stream.feed(&bytes).map_err(|error| Attempt {
                error: self.redacted_error(error),
                again: false,
                after: None,
            })?;
            for event in joined(events) {
                told = true;
                tell(self.redacted_event(event));
            }
        }
        let failed =
            |error| Attempt { error: self.redacted_error(error), again: !told, after: None };
        stream.finish().map_err(failed)
    }

    async fn refused(&self, url: &str, response: Response, model: &str) -> Attempt {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| retry_after(text.trim()));
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
            Ok(error) => error_text(&error),
            Err(_) => text.chars().take(300).collect(),
        };
        if matches!(status.as_u16(), 400 | 413 | 422 | 500) && is_too_long(&message) {
            let error = ModelError::TooLong(self.redacted(&message));
            return Attempt { error, again: false, after: None };
        }
        let error = ModelError::Refused {
            status: status.as_u16(),
            url: url.to_owned(),
            message: self.redacted(&message),
            hint: self.hint(status, model),
        };
        let again = matches!(status.as_u16(), 408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 | 529);
        Attempt { error, again, after }
    }

    fn hint(&self, status: StatusCode, model: &str) -> Option<String> {
        let hint = match (status.as_u16(), &self.provider.key_variable) {
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

    fn redacted_error(&self, error: ModelError) -> ModelError {
        match error {
            ModelError::Broken(text) => ModelError::Broken(self.redacted(&text)),
            ModelError::TooLong(text) => ModelError::TooLong(self.redacted(&text)),
            other => other,
        }
    }

    fn redacted_event(&self, event: StreamEvent) -> StreamEvent {
        match event {
            StreamEvent::Text(text) => StreamEvent::Text(self.redacted(&text)),
            StreamEvent::Reasoning(text) => StreamEvent::Reasoning(self.redacted(&text)),
            other => other,
        }
    }

    /// A server may repeat what we sent it.
    fn redacted(&self, text: &str) -> String {
        let text = self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.redact(text));
        let secret = self.headers.values().filter(|value| value.is_sensitive());
        secret
            .filter_map(|value| value.to_str().ok())
            .filter(|value| !value.is_empty())
            .fold(text, |text, secret| text.replace(secret, "[header]"))
    }
}

/// Seconds, or the time until a date.
fn retry_after(text: &str) -> Option<Duration> {
    let date = || httpdate::parse_http_date(text).ok();
    let until = || Some(date()?.duration_since(std::time::SystemTime::now()).unwrap_or_default());
    text.parse().ok().map(Duration::from_secs).or_else(until)
}

/// Objects are merged field by field; everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Whether a server answers on this port of this machine.
pub fn is_listening(port: u16) -> bool {
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port));
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// Pieces that came together are told together.
fn joined(events: Vec<StreamEvent>) -> Vec<StreamEvent> {
    let mut out: Vec<StreamEvent> = Vec::new();
    for event in events {
        match (out.last_mut(), event) {
            (Some(StreamEvent::Text(text)), StreamEvent::Text(more))
            | (Some(StreamEvent::Reasoning(text)), StreamEvent::Reasoning(more)) => {
                text.push_str(&more);
            }
            (_, event) => out.push(event),
        }
    }
    out
}

/// What every request carries: content type, key, the protocol's own headers and the user's.
fn headers(
    provider: &Provider,
    key: Option<&Key>,
    environment: &[(String, String)],
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let api = provider.api;
    for (name, value) in api.headers() {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Some(key) = key {
        let (name, before) = api.key_header();
        let mut value =
            key.header(before).map_err(|_| "the key has characters that no header can carry")?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    headers.extend(own_headers(&provider.headers, environment)?);
    Ok(headers)
}

/// Headers as the user's settings name them.
pub(super) fn own_headers(
    named: &BTreeMap<String, String>,
    environment: &[(String, String)],
) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, text) in named {
        let value = filled(text, environment)?;
        let name =
            HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
        let wrong =
            format!("the value of the header {name} has characters that no header can carry");
        let mut value = HeaderValue::try_from(value).map_err(|_| wrong)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// A text with every `${VAR}` replaced by that variable.
pub(super) fn filled(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("a header has ${ without }")?;
        let value = environment.iter().find(|(known, _)| known == name);
        let (_, value) =
            value.ok_or(format!("a header needs the variable {name}, which is not set"))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    Ok(filled + rest)
}

/// The innermost reason, which is the one that says something.
fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// A client for one server, which is on this machine or not.
fn builder(encrypted: bool, local: bool) -> Result<reqwest::ClientBuilder, ModelError> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(encrypted)?)
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .user_agent(concat!("zerostack/", env!("CARGO_PKG_VERSION")));
    // A proxy would see what is meant to stay on this machine.
    Ok(if local { client.no_proxy() } else { client })
}

/// A client for a server that is no model.
pub(super) fn client(url: &str) -> Result<reqwest::Client, String> {
    let encrypted = url.starts_with("https://");
    let builder = builder(encrypted, is_local(url)).map_err(|error| error.to_string())?;
    builder.build().map_err(|error| error.to_string())
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
        // A new file: a link of the project must not lead to one that there is.
        options.write(true).create_new(true).mode(0o600);
        Ok(Recorder(options.open(path)?))
    }

    pub fn add(&mut self, exchange: &Exchange) -> std::io::Result<()> {
        let line = serde_json::to_string(exchange)?;
        writeln!(self.0, "{line}")?;
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_merged_and_times_to_wait_are_read() {
        let mut body = json!({"options": {"a": 1, "b": 2}, "model": "m"});
        merge(&mut body, json!({"options": {"b": 3}, "top_k": 4}));
        assert_eq!(body, json!({"options": {"a": 1, "b": 3}, "model": "m", "top_k": 4}));
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(30));
        let wait = retry_after(&date).unwrap();
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30), "{wait:?}");
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn variables_in_headers_are_filled_or_an_error() {
        let environment = [("A".to_owned(), "x".to_owned())];
        assert_eq!(filled("k ${A}${A}.", &environment).unwrap(), "k xx.");
        assert!(filled("${B}", &environment).unwrap_err().contains("variable B"));
        assert!(filled("${A", &environment).is_err());
    }
}
