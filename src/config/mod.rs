//! Settings: what can be set ([`Config`]), where it is set ([`Layer`]), and what comes of it
//! ([`Resolved`]), each value with its origin.

mod layers;
mod text;
mod trust;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::catalog::Facts;
use crate::model::{Api, Thinking};
use crate::policy::Mode;

pub use layers::{Ceiling, Layer, Origin, Resolved, resolve};
pub use text::{ConfigError, keys, parse_json, parse_toml, schema};
pub use trust::Trust;

/// Everything that can be set. Every key is optional; the doc comments are the documentation.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Provider by name: openrouter, openai, anthropic, gemini, ollama, demo, or one of `providers`.
    pub provider: Option<String>,
    /// Model by its provider's name for it, or a name of `quick_models`.
    pub model: Option<String>,
    /// Address of the provider, up to and including /v1.
    pub base_url: Option<String>,
    /// Protocol of the provider, where it differs from its usual one.
    pub api: Option<Api>,
    /// Most tokens of one answer.
    pub max_tokens: Option<u64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// How much the model is to think: auto, off, low, medium, high.
    pub thinking: Option<Thinking>,
    /// Most model requests for one prompt.
    pub max_turns: Option<u64>,
    /// Most US dollars for one prompt, where the prices are known.
    pub max_cost: Option<f64>,
    /// Permission mode: restrictive, readonly, guarded, standard, yolo.
    pub mode: Option<Mode>,
    /// Rules that allow, for example "bash(cargo test*)".
    pub allow: Vec<String>,
    /// Rules that ask.
    pub ask: Vec<String>,
    /// Rules that deny, in every mode.
    pub deny: Vec<String>,
    /// More directories to work in, each with ":ro" if it is only to be read.
    pub add_dirs: Vec<String>,
    /// Only these tools.
    pub tools: Option<Vec<String>>,
    /// The prompt to start with: code, plan, review, …
    pub prompt: Option<String>,
    /// Whether AGENTS.md, CLAUDE.md and ARCHITECTURE.md are read.
    pub context_files: Option<bool>,
    /// Whether there is a memory from session to session.
    pub memory: Option<bool>,
    /// Whether a branch is pushed to its remote after a worktree was merged into it.
    pub push: Option<bool>,
    /// Whether sessions are saved.
    pub save_sessions: Option<bool>,
    /// How files are edited: similarity or hashedit.
    pub edit_system: Option<EditSystem>,
    /// Whether a long conversation is summarised before it is too long.
    pub compact: Option<bool>,
    /// Tokens kept free for the answer.
    pub reserve_tokens: Option<u64>,
    /// Tokens of the newest messages that a summary leaves as they are.
    pub keep_recent_tokens: Option<u64>,
    /// Colours: dark, light, contrast, sixteen, none, or one of your own; see themes/README.md.
    pub theme: Option<String>,
    /// How you are called when a long run ends or asks: off, bell, desktop.
    pub notify: Option<Notify>,
    /// Keys of the terminal UI by action, as `/help` names them: find = ["f5", "ctrl-x"].
    pub bindings: BTreeMap<String, Vec<String>>,
    /// MCP servers, by name.
    pub mcp_servers: BTreeMap<String, McpServer>,
    /// Where keys are, by provider.
    pub keys: BTreeMap<String, KeyPlace>,
    /// More providers, by name.
    pub providers: BTreeMap<String, OwnProvider>,
    /// Facts about models, by full name: window, output, price, images, documents, thinks.
    pub models: BTreeMap<String, Facts>,
    /// Short names for a provider and a model.
    pub quick_models: BTreeMap<String, QuickModel>,
}

/// How files are edited.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum EditSystem {
    /// By exact pieces of text.
    #[default]
    Similarity,
    /// By line numbers that carry a hash of their line.
    Hashedit,
}

/// How the user is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Notify {
    #[default]
    Off,
    Bell,
    /// By a notification of the terminal (OSC 9).
    Desktop,
}

/// Where a key is: exactly one of the three.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeyPlace {
    /// Name of the variable that holds it.
    pub variable: Option<String>,
    /// Path of a file with mode 0600 whose first line it is.
    pub file: Option<PathBuf>,
    /// Program and arguments; the first line it prints is the key.
    pub command: Option<Vec<String>>,
}

/// An MCP server: a program or an address.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct McpServer {
    /// The program; it runs in a cell without network.
    pub command: Option<String>,
    pub args: Vec<String>,
    /// Variables for it; ${VAR} stands for one of your environment.
    pub env: BTreeMap<String, String>,
    /// What it sees besides the workspace, each with ":rw" if it may change it.
    pub paths: Vec<String>,
    /// The address, for streamable HTTP.
    pub url: Option<String>,
    /// Headers for it; ${VAR} stands for a variable of the environment.
    pub headers: BTreeMap<String, String>,
    /// Longest call, seconds, default 60.
    pub timeout: Option<u64>,
    /// It is not used.
    pub disabled: bool,
    /// As other clients name the transport: stdio, http.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// A provider of the user's own.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct OwnProvider {
    /// Up to and including /v1.
    pub base_url: String,
    /// completions (default), responses, messages, gemini, ollama.
    #[serde(default)]
    pub api: Option<Api>,
    /// The variable that holds its key; without one, and without `keys`, it needs none.
    #[serde(default)]
    pub key_variable: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    /// More headers; ${VAR} stands for a variable of the environment.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Longest silence, seconds.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Merged into the body of every request.
    #[serde(default)]
    pub extra_body: serde_json::Map<String, serde_json::Value>,
}

/// A short name for a provider and a model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct QuickModel {
    pub provider: String,
    pub model: String,
}
