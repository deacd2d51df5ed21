//! The vocabulary of conversations with a model, and one file for each protocol. Bytes in, events
//! out; no sockets.

pub mod catalog;
mod chat;
pub mod demo;
mod gemini;
mod messages;
mod ollama;
pub mod protocol;
pub mod providers;
mod responses;
pub mod sse;
pub mod tape;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use protocol::{Api, Stream, error_text};

/// One entry of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Message {
    System {
        text: String,
    },
    User {
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Attachment>,
    },
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        native: Option<Native>,
    },
    /// The result of the call with this id. Every call gets exactly one.
    Tool {
        call_id: String,
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Attachment>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        failed: bool,
    },
}

impl Message {
    pub fn user(text: impl Into<String>) -> Message {
        Message::User { text: text.into(), attachments: Vec::new() }
    }
}

/// An image or a document, for models that take them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// For example `image/png` or `application/pdf`.
    pub media_type: String,
    /// Base64.
    pub data: String,
}

impl Attachment {
    pub fn is_image(&self) -> bool {
        self.media_type.starts_with("image/")
    }

    fn data_url(&self) -> String {
        format!("data:{};base64,{}", self.media_type, self.data)
    }
}

/// An answer as its own protocol wants to see it again: thinking with its signatures, in order. To
/// any other protocol the answer is its text and its calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Native {
    pub api: Api,
    pub parts: Vec<Value>,
}

impl Native {
    /// The parts, if they were made by `api`.
    fn parts_of(native: &Option<Native>, api: Api) -> Option<&[Value]> {
        native.as_ref().filter(|native| native.api == api).map(|native| native.parts.as_slice())
    }
}

/// A tool call as the model made it; `arguments` is JSON text, perhaps broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl ToolCall {
    /// The arguments as an object. Servers refuse a conversation in which an earlier call has broken
    /// arguments, so those are sent back as an object that says so; the model has seen the error in
    /// the call's result.
    pub fn object(&self) -> Value {
        if self.arguments.trim().is_empty() {
            return serde_json::json!({});
        }
        match serde_json::from_str::<Value>(&self.arguments) {
            Ok(value) if value.is_object() => value,
            _ => serde_json::json!({"invalid_json": self.arguments}),
        }
    }
}

/// A tool as it is offered to the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSchema {
    pub name: String,
    pub description: String,
    pub parameters: Value,
}

/// How much a model is to think before it answers.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Thinking {
    /// The provider's own default.
    #[default]
    Auto,
    Off,
    Low,
    Medium,
    High,
}

impl Thinking {
    /// The level that a model of this ability can be asked for.
    fn for_ability(self, ability: Ability) -> Thinking {
        match self {
            Thinking::Off if ability.always => Thinking::Low,
            level => level,
        }
    }

    /// The word for it, if a level was chosen.
    fn effort(self) -> Option<&'static str> {
        match self {
            Thinking::Auto | Thinking::Off => None,
            Thinking::Low => Some("low"),
            Thinking::Medium => Some("medium"),
            Thinking::High => Some("high"),
        }
    }

    /// Tokens to think with, for protocols that count them.
    fn budget(self) -> Option<u64> {
        match self {
            Thinking::Auto => None,
            Thinking::Off => Some(0),
            Thinking::Low => Some(2_048),
            Thinking::Medium => Some(8_192),
            Thinking::High => Some(24_576),
        }
    }
}

/// How a model thinks, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    pub thinks: bool,
    /// It cannot be told not to: the least it can do counts as off.
    pub always: bool,
    /// It decides itself how much, and is told an effort instead of a number of tokens.
    pub adaptive: bool,
}

/// Everything one request needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Request {
    pub model: String,
    pub messages: Vec<Message>,
    pub tools: Vec<ToolSchema>,
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    #[serde(default)]
    pub thinking: Thinking,
    #[serde(default)]
    pub ability: Ability,
    /// Tokens that the model can take, if known: one server has to be told.
    #[serde(default)]
    pub window: Option<u64>,
    /// The same for all requests of a session, so that a provider finds what it has cached.
    #[serde(default)]
    pub cache_key: Option<String>,
}

/// Tokens of one or more requests. `cached` and `cache_written` are parts of `input`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(rename = "input_tokens")]
    pub input: u64,
    #[serde(rename = "output_tokens")]
    pub output: u64,
    #[serde(rename = "cached_tokens")]
    pub cached: u64,
    #[serde(default, rename = "cache_written_tokens")]
    pub cache_written: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        // These numbers come from outside.
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cached = self.cached.saturating_add(other.cached);
        self.cache_written = self.cache_written.saturating_add(other.cache_written);
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// The model had said what it wanted.
    #[default]
    Done,
    /// It reached the token limit.
    Length,
    /// The model, or a filter of its provider, would not answer.
    Refused,
}

/// A finished answer of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub usage: Usage,
    #[serde(default)]
    pub stop: Stop,
    #[serde(default)]
    pub native: Option<Native>,
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    Text(String),
    Reasoning(String),
    /// Nothing comes for a while, and why.
    Waiting(String),
}

/// What went wrong on the way to an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ModelError {
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The server refused; `hint` says what to do about it.
    #[error("{status} from {url}: {message}{}", hint.as_deref().map(|hint| format!("\n{hint}")).unwrap_or_default())]
    Refused { status: u16, url: String, message: String, hint: Option<String> },
    /// The conversation is larger than what the model takes.
    #[error("the conversation is too long for the model: {0}")]
    TooLong(String),
    #[error("the model's answer broke off: {0}")]
    Broken(String),
    #[error("{0}")]
    Tape(String),
}
