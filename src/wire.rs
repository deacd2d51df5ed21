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
    /// Hash of the file as the model last saw it.
    pub seen: Option<String>,
    pub takes: Takes,
    /// Lines are shown and edited with a hash of each.
    pub hashed: bool,
    /// Say what a change would do instead of making it.
    pub preview: bool,
}

impl Call {
    /// A question of the supervisor's own.
    pub fn internal(tool: &str, arguments: String, target: Target, shown: String) -> Call {
        Call {
            tool: tool.into(),
            arguments,
            target,
            shown,
            exclude: Vec::new(),
            seen: None,
            takes: Takes::default(),
            hashed: false,
            preview: false,
        }
    }
}

/// What the model takes besides text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takes {
    pub images: bool,
    pub documents: bool,
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
    /// The answer to [`COLLECT`]: relative paths and texts.
    Collected(Vec<(PathBuf, String)>),
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Output {
    /// What the model gets.
    pub text: String,
    /// What a change did, as a unified diff.
    pub diff: Option<String>,
    /// An image or a document: media type and base64.
    pub attachment: Option<(String, String)>,
    /// Hash of the whole file as it is now.
    pub hash: Option<String>,
    /// What a changed file was before.
    pub before: Option<Before>,
}

/// The text of a file before a change; `None` if there was no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before(pub Option<String>);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    pub message: String,
    /// The kernel's reason, 0 if it was not the kernel.
    pub errno: i32,
    /// Hash of a file that the message shows as it is now.
    pub hash: Option<String>,
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

/// The tool name of the supervisor's own question for small files of the project that concern itself.
/// Its arguments are a [`CollectWhat`].
pub const COLLECT: &str = "collect";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CollectWhat {
    /// Paths below the target; a last component `*.md` means every such file of the directory.
    pub paths: Vec<String>,
}

/// The tool name by which a change is taken back. Its arguments are a [`Restore`].
pub const RESTORE: &str = "restore";
/// The call that lists files whose path has these letters in it, in this order: for a person who types.
pub const LIKE: &str = "like";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// The text to put back; `None` removes the file.
    pub text: Option<String>,
    /// Hash of the text that must be there now, empty if there must be no file; without it nothing is
    /// changed, and what is there is told.
    pub expected: Option<String>,
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
