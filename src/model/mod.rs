//! The vocabulary of conversations with a model, and one file for each protocol. Bytes in, events
//! out; no sockets.

pub mod chat;
pub mod demo;
pub mod providers;
pub mod sse;
pub mod tape;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One entry of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Message {
    System {
        text: String,
    },
    User {
        text: String,
    },
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
    },
    /// The result of the call with this id. Every call gets exactly one.
    Tool {
        call_id: String,
        text: String,
    },
}

/// A tool call as the model made it; `arguments` is JSON text, perhaps broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

/// A tool as it is offered to the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSchema {
    pub name: String,
    pub description: String,
    pub parameters: Value,
}

/// Everything one request needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub model: String,
    pub messages: Vec<Message>,
    pub tools: Vec<ToolSchema>,
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
}

/// Tokens of one or more requests. `cached` is part of `input`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(rename = "input_tokens")]
    pub input: u64,
    #[serde(rename = "output_tokens")]
    pub output: u64,
    #[serde(rename = "cached_tokens")]
    pub cached: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.input += other.input;
        self.output += other.output;
        self.cached += other.cached;
    }
}

/// A finished answer of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    pub calls: Vec<ToolCall>,
    pub usage: Usage,
    /// The answer ended because it reached the token limit.
    pub cut: bool,
}

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    Text(String),
    Reasoning(String),
}

/// What went wrong on the way to an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ModelError {
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    /// The server refused; `hint` says what to do about it.
    #[error("{status} from {url}: {message}{}", hint.as_deref().map(|hint| format!("\n{hint}")).unwrap_or_default())]
    Refused { status: u16, url: String, message: String, hint: Option<String> },
    #[error("the model's answer broke off: {0}")]
    Broken(String),
    #[error("{0}")]
    Tape(String),
}
