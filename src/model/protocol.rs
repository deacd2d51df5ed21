//! What the protocols have in common: how to ask, and how to put an answer together from its bytes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Answer, Message, ModelError, Request, StreamEvent, ToolCall, chat, gemini, messages, ollama,
    responses, sse,
};

/// A protocol.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// OpenAI chat completions, and every server that speaks it.
    Completions,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Messages,
    /// Gemini's generateContent.
    Gemini,
    /// Ollama's own.
    Ollama,
}

impl Api {
    /// Where requests go, below the base URL.
    pub fn path(self, model: &str) -> String {
        match self {
            Api::Completions => "chat/completions".into(),
            Api::Responses => "responses".into(),
            Api::Messages => "messages".into(),
            Api::Gemini => format!("models/{model}:streamGenerateContent?alt=sse"),
            Api::Ollama => "api/chat".into(),
        }
    }

    /// Where the list of models is, what it is called there, and the name of a model in it.
    pub fn models(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Api::Completions | Api::Responses | Api::Messages => ("models", "data", "id"),
            Api::Gemini => ("models?pageSize=200", "models", "name"),
            Api::Ollama => ("api/tags", "models", "name"),
        }
    }

    /// The header that carries the key, and what stands before it.
    pub fn key_header(self) -> (&'static str, &'static str) {
        match self {
            Api::Completions | Api::Responses | Api::Ollama => ("authorization", "Bearer "),
            Api::Messages => ("x-api-key", ""),
            Api::Gemini => ("x-goog-api-key", ""),
        }
    }

    /// Headers that every request has.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Api::Messages => &[("anthropic-version", "2023-06-01")],
            _ => &[],
        }
    }

    /// The body of a request. Its bytes depend on nothing but `request`, so that providers can cache
    /// the part that two turns share.
    pub fn body(self, request: &Request) -> Value {
        match self {
            Api::Completions => chat::body(request),
            Api::Responses => responses::body(request),
            Api::Messages => messages::body(request),
            Api::Gemini => gemini::body(request),
            Api::Ollama => ollama::body(request),
        }
    }

    /// A reader for one response.
    pub fn stream(self) -> Stream {
        let frames = match self {
            Api::Ollama => Frames::Lines(Vec::new()),
            _ => Frames::Events(sse::Decoder::default()),
        };
        let decoder: Box<dyn Decode> = match self {
            Api::Completions => Box::new(chat::Decoder::default()),
            Api::Responses => Box::new(responses::Decoder::default()),
            Api::Messages => Box::new(messages::Decoder::default()),
            Api::Gemini => Box::new(gemini::Decoder::default()),
            Api::Ollama => Box::new(ollama::Decoder::default()),
        };
        Stream { length: 0, frames, decoder }
    }
}

/// Most calls in one answer.
pub(super) const CALL_LIMIT: usize = 128;
/// Most bytes of one response.
const STREAM_LIMIT: usize = 64 * 1024 * 1024;
/// Longest line of a protocol that has one object a line, bytes.
const LINE_LIMIT: usize = 16 * 1024 * 1024;

/// What a protocol makes of the events of one response.
pub(super) trait Decode: std::fmt::Debug + Send {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError>;
    /// The answer, once the body has ended.
    fn finish(self: Box<Self>) -> Result<Answer, ModelError>;
}

#[derive(Debug)]
enum Frames {
    Events(sse::Decoder),
    Lines(Vec<u8>),
}

/// Turns the bytes of a response into events, and at its end into an answer.
#[derive(Debug)]
pub struct Stream {
    /// Bytes that have come.
    length: usize,
    frames: Frames,
    decoder: Box<dyn Decode>,
}

impl Stream {
    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<StreamEvent>, ModelError> {
        self.length += bytes.len();
        if self.length > STREAM_LIMIT {
            return Err(ModelError::Broken(
                "the answer does not come to an end: 64 MiB so far".into(),
            ));
        }
        let mut out = Vec::new();
        let frames = match &mut self.frames {
            Frames::Events(events) => {
                events.feed(bytes).map_err(|error| ModelError::Broken(error.to_string()))?
            }
            Frames::Lines(kept) => lines(kept, bytes)?,
        };
        for data in frames {
            self.decoder.event(&data, &mut out)?;
        }
        Ok(out)
    }

    /// The answer, once the body has ended.
    pub fn finish(self) -> Result<Answer, ModelError> {
        let mut answer = self.decoder.finish()?;
        for call in &mut answer.calls {
            if call.id.is_empty() {
                call.id = fresh_id();
            }
        }
        Ok(answer)
    }
}

/// An id for a call of a server that gives none. Unlike any other: what a protocol wants to see again
/// names it too, so it cannot be changed later.
pub(super) fn fresh_id() -> String {
    format!("call_{:016x}", RandomState::new().build_hasher().finish())
}

fn lines(kept: &mut Vec<u8>, bytes: &[u8]) -> Result<Vec<String>, ModelError> {
    kept.extend_from_slice(bytes);
    if kept.len() > LINE_LIMIT {
        return Err(ModelError::Broken("a line is larger than 16 MiB".into()));
    }
    let Some(end) = kept.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
    let rest = kept.split_off(end + 1);
    let whole = String::from_utf8_lossy(&std::mem::replace(kept, rest)).into_owned();
    Ok(whole.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// One JSON event of a stream.
pub(super) fn parse<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, ModelError> {
    serde_json::from_str(data).map_err(|error| {
        let start: String = data.chars().take(80).collect();
        ModelError::Broken(format!("an event is no valid JSON ({error}): {start}"))
    })
}

pub(super) fn cut() -> ModelError {
    ModelError::Broken("the connection closed before the answer was complete".into())
}

/// The call with this number, made if it is the next one.
pub(super) fn numbered(
    calls: &mut Vec<ToolCall>,
    index: usize,
) -> Result<&mut ToolCall, ModelError> {
    if index > calls.len() || index >= CALL_LIMIT {
        return Err(ModelError::Broken(format!("tool call number {index} has no predecessor")));
    }
    if index == calls.len() {
        let empty = String::new;
        calls.push(ToolCall { id: empty(), name: empty(), arguments: empty() });
    }
    Ok(&mut calls[index])
}

/// The system prompt, and the rest of the conversation.
pub(super) fn split_system(all: &[Message]) -> (String, impl Iterator<Item = &Message>) {
    let system = |message: &Message| match message {
        Message::System { text } => Some(text.clone()),
        _ => None,
    };
    let text: Vec<String> = all.iter().filter_map(system).collect();
    (text.join("\n\n"), all.iter().filter(|message| !matches!(message, Message::System { .. })))
}

/// The message in an error object, in any of the shapes that servers use.
pub fn error_text(error: &Value) -> String {
    let error = error.get(0).unwrap_or(error);
    let message = error.get("error").unwrap_or(error);
    let text = message.get("message").unwrap_or(message);
    text.as_str().map_or_else(|| text.to_string(), str::to_owned)
}

/// An error that a server sends inside a stream. Some send there what others put into the status.
pub(super) fn stream_error(error: &Value) -> ModelError {
    let text = error_text(error);
    if is_too_long(&text) { ModelError::TooLong(text) } else { ModelError::Broken(text) }
}

/// Whether an error message says that the conversation is larger than the model's window. Providers
/// have no common code for it.
pub fn is_too_long(message: &str) -> bool {
    let message = message.to_lowercase();
    [
        "context length",
        "context_length",
        "context window",
        "context size",
        "context limit",
        "maximum prompt length",
        "maximum context",
        "prompt is too long",
        "input is too long",
        "too many tokens",
        "input token count",
        "exceeds the maximum number of tokens",
        "request too large",
        "reduce the length",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const APIS: [Api; 5] =
        [Api::Completions, Api::Responses, Api::Messages, Api::Gemini, Api::Ollama];

    /// JSON of the names that the protocols use, nested in ways that they do not.
    fn event() -> impl Strategy<Value = Value> {
        let words = [
            "type",
            "delta",
            "choices",
            "content",
            "tool_calls",
            "index",
            "id",
            "function",
            "name",
            "arguments",
            "reasoning_details",
            "text",
            "finish_reason",
            "usage",
            "item",
            "response",
            "function_call",
            "content_block_start",
            "content_block_delta",
            "content_block",
            "tool_use",
            "thinking",
            "input_json_delta",
            "partial_json",
            "text_delta",
            "candidates",
            "parts",
            "functionCall",
            "args",
            "thoughtSignature",
            "finishReason",
            "message",
            "done",
            "stop",
            "response.output_item.done",
            "response.completed",
            "reasoning",
            "message_delta",
            "error",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3_i64).prop_map(Value::from),
            prop::sample::select(words.to_vec()).prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            let fields = prop::collection::hash_map(
                prop::sample::select(words.to_vec()),
                inner.clone(),
                0..5,
            );
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(Value::from),
                fields.prop_map(|all| {
                    all.into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect::<serde_json::Map<_, _>>()
                        .into()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            events in prop::collection::vec(event(), 0..6),
        ) {
            for api in APIS {
                let end = if api == Api::Ollama { "\n" } else { "\n\n" };
                let start = if api == Api::Ollama { "" } else { "data: " };
                let text: String = events.iter().map(|event| format!("{start}{event}{end}")).collect();
                for input in [&bytes[..], text.as_bytes()] {
                    let mut stream = api.stream();
                    // An event that is refused does not end the test: the next one is read as well.
                    for part in input.split_inclusive(|byte| *byte == b'\n') {
                        let _ = stream.feed(part);
                    }
                    let _ = stream.finish();
                }
            }
        }
    }

    #[test]
    fn a_response_that_ends_early_is_an_error_in_every_protocol() {
        for api in APIS {
            assert!(api.stream().finish().is_err(), "{api:?}");
        }
    }

    #[test]
    fn messages_that_mean_too_long_are_known() {
        for text in [
            "This model's maximum context length is 8192 tokens.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1200000) exceeds the maximum number of tokens allowed",
            "the request exceeds the available context size",
        ] {
            assert!(is_too_long(text), "{text}");
        }
        assert!(!is_too_long("Incorrect API key provided"));
    }
}
