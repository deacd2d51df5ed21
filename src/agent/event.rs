//! What front ends are told of a run, and what they are asked.

use serde::Serialize;
use serde_json::Value;

use super::ToolStatus;

/// What happens in a run, for every front end.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentEvent {
    Text {
        text: String,
    },
    Reasoning {
        text: String,
    },
    ToolCall {
        id: String,
        name: String,
        arguments: Value,
    },
    ToolResult {
        id: String,
        name: String,
        status: ToolStatus,
        output: String,
        /// How long it took, without questions.
        milliseconds: u64,
        /// Why it was let through, or was not; empty where nothing was decided.
        because: String,
        /// Images and documents that came with it: kind and size.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        attached: Vec<String>,
    },
    Notice {
        text: String,
    },
    /// A round of a loop begins.
    Round {
        number: u64,
    },
    /// Something that a sub-agent does; `id` is the call that started it.
    Task {
        id: String,
        event: Box<AgentEvent>,
    },
}

/// Begins the reason of a call that was let through, and that the sandbox then stopped.
pub const STOPPED: &str = "stopped by the sandbox";

/// One call that needs a yes: what will happen in full, why it is asked, and what can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    pub tool: String,
    /// A sub-agent asks, not the conversation on the screen.
    pub of_sub_agent: bool,
    /// The command or the path, in full.
    pub what: String,
    /// What else the call says, by name: none of it is kept from whoever answers.
    pub arguments: Vec<(String, String)>,
    pub directory: String,
    /// What a change would do to the file, as a unified diff.
    pub diff: Option<String>,
    /// The rule that asks.
    pub reason: String,
    /// What the kernel refuses even after a yes.
    pub still_refused: String,
    /// Rules that can be stored with the answer: exactly this call first, then wider ones.
    pub offers: Vec<String>,
}

/// The answer to an [`Approval`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This call, this time.
    Once,
    /// What this rule allows, one of the offers, until the session ends.
    Session(String),
    /// The same, from now on in every session.
    Always(String),
    /// No, and perhaps what the model should know about it.
    No(Option<String>),
}

/// What the arguments of a call are about, for a line on a screen.
pub fn about(arguments: &Value) -> String {
    let names = ["command", "path", "pattern", "prompt", "id", "file", "words"];
    match names.iter().find_map(|name| arguments.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
