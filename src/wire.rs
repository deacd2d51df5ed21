//! Every message between the supervisor and a file worker.
//!
//! The worker gets the model's arguments as they came, and the one file or directory they may be
//! used on as a [`Target`] that the supervisor has resolved: a path in the arguments means nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// First message to a worker: the directories that [`Target::Beneath`] counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    pub roots: Vec<PathBuf>,
}

/// One tool call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    pub tool: String,
    /// The model's arguments: JSON text, not yet checked.
    pub arguments: String,
    pub target: Target,
    /// How the target is named in results: as the model named it.
    pub shown: String,
    /// Globs of absolute paths that a search must pass over.
    pub exclude: Vec<String>,
}

/// What a call works on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Target {
    Nothing,
    /// A path below a root of [`Hello`], by its number; no component may be a link.
    Beneath {
        root: u16,
        path: Vec<u8>,
    },
    /// An open file that comes with the message: the one thing the user has granted.
    Passed,
}

/// The answer to a [`Call`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    Done(Output),
    Failed(Fault),
    /// The answer to [`SCAN`].
    Found(Found),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Output {
    /// What the model gets.
    pub text: String,
    /// What a change did, as a unified diff.
    pub diff: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    pub message: String,
    /// The kernel's reason, 0 if it was not the kernel.
    pub errno: i32,
}

/// The tool name of the supervisor's own question: which names below the target need protection?
/// Its arguments are a [`ScanFor`].
pub const SCAN: &str = "scan";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScanFor {
    pub secrets: Vec<String>,
    pub except: Vec<String>,
    /// Globs of absolute paths that the user's rules deny to be read.
    pub denied: Vec<String>,
}

/// Paths relative to the scanned directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub secrets: Vec<PathBuf>,
    /// Every `.git`, whatever kind of file it is.
    pub git: Vec<PathBuf>,
    pub sockets: Vec<PathBuf>,
    /// The tree was too large to look through: these lists may lack entries.
    pub incomplete: bool,
}
