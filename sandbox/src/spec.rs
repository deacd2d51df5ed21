//! The complete description of one cell's rights.
//!
//! Every field must be given: there is no `Default`, so a permissive cell cannot be made by leaving
//! something out. What is not listed here does not exist inside the cell.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a cell may do to a tree of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// One entry of the cell's file system, applied in order on an empty root.
///
/// All paths are absolute and as seen inside the cell; sources are paths of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mount {
    /// A file or directory of the host with everything below it.
    Tree { source: Source, target: PathBuf, access: Access },
    /// A private copy of a host directory: writes go to memory and end with the cell.
    Copy { source: Source, target: PathBuf, size_mib: u64 },
    /// An empty private directory in memory.
    Empty { target: PathBuf, size_mib: u64, access: Access },
    /// `path` below the already mounted `tree`, mounted on itself: it can be neither renamed nor
    /// removed, and is read-only if `access` says so.
    Pin { tree: PathBuf, path: PathBuf, access: Access },
    /// `path` below the already mounted `tree` is replaced by something empty and unreadable.
    Cover { tree: PathBuf, path: PathBuf },
    /// A symbolic link.
    Link { target: PathBuf, to: PathBuf },
}

/// Where a tree comes from. With an identity, the cell is refused if the path names another file by
/// the time it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub path: PathBuf,
    pub identity: Option<Identity>,
}

impl Source {
    /// A system path that only an administrator can replace.
    pub fn fixed(path: impl Into<PathBuf>) -> Source {
        Source { path: path.into(), identity: None }
    }
}

/// Device and inode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
}

impl Mount {
    /// Where the entry appears inside the cell.
    pub fn target(&self) -> PathBuf {
        match self {
            Mount::Tree { target, .. }
            | Mount::Copy { target, .. }
            | Mount::Empty { target, .. }
            | Mount::Link { target, .. } => target.clone(),
            Mount::Pin { tree, path, .. } | Mount::Cover { tree, path } => tree.join(path),
        }
    }
}

/// Which system calls beyond the common refusals a cell may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syscalls {
    /// Start other programs.
    pub exec: bool,
    /// Make sockets (local, IPv4, IPv6); they reach no further than the cell's own network namespace.
    pub sockets: bool,
    /// Change the execution domain, which switches address randomisation off (debuggers want it).
    pub personality: bool,
}

/// The network a cell sees, always in a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// No interface is up, and Landlock refuses TCP besides.
    None,
    /// A loopback interface and no way out: a test can talk to the server it started.
    Loopback,
}

/// Limits that the kernel enforces on a cell. `None` is spelled out by the policy as "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processes and threads in the cell.
    pub processes: u64,
    /// Address space of each process, MiB.
    pub memory_mib: Option<u64>,
    /// Largest file that can be written, MiB.
    pub file_mib: Option<u64>,
    /// CPU time of each process, seconds.
    pub cpu_seconds: Option<u64>,
    /// Open descriptors of each process.
    pub descriptors: u64,
}

/// Everything one cell may see and do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    pub mounts: Vec<Mount>,
    /// Working directory inside the cell.
    pub directory: PathBuf,
    pub network: Network,
    pub syscalls: Syscalls,
    pub limits: Limits,
    /// The complete environment; nothing is inherited.
    pub environment: Vec<(String, String)>,
    /// Paths that must not be reachable; each is tried before the cell is released.
    pub unreachable: Vec<PathBuf>,
}

/// What runs in a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// The worker function given to [`crate::run_launcher`], on the cell's control channel.
    Worker,
    /// One command, which is sent by [`crate::Cell::run`] once the cell is confined. A cell can so be
    /// made ready before it is known what will run in it.
    Command,
    /// Nothing: enter, verify, report and end. Used to find out what this machine can hold.
    Probe,
}

/// Standard streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// The two descriptors that come with the request, for output and errors; input is the cell's
    /// own `/dev/null`.
    Output,
    /// The three descriptors that come with the request.
    Passed,
    /// A new pseudo terminal of the cell, whose master is sent up; streams not marked as terminal are
    /// taken from the descriptors that come with the request.
    Terminal { rows: u16, columns: u16, streams: [bool; 3] },
}
