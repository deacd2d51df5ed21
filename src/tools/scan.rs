//! The supervisor's own question: which names in the workspace must be covered or protected before
//! a command may see it? Asked in a worker, because it reads directories of the project.

use std::collections::VecDeque;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Roots, arguments, fault, place};
use crate::wire::{Call, Fault, Found, ScanFor};

/// Directories looked into; beyond it the answer says that it is incomplete.
const DIRECTORY_LIMIT: usize = 20_000;
/// Most names that are covered.
const NAME_LIMIT: usize = 4000;
/// Trees of other people's code: what lies there is no secret of this project.
const PASSED_OVER: [&str; 4] = ["node_modules", "target", ".venv", "__pycache__"];

fn names(patterns: &[String]) -> Result<GlobSet, Fault> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
        set.add(glob.map_err(|error| fault(error.to_string()))?);
    }
    set.build().map_err(|error| fault(error.to_string()))
}

pub fn run(call: &Call, roots: &Roots) -> Result<Found, Fault> {
    let wanted: ScanFor = arguments(call)?;
    let (secrets, except) = (names(&wanted.secrets)?, names(&wanted.except)?);
    let denied = names(&wanted.denied)?;
    let start = place::walk_start(call, roots)?;
    // What the user denies may lie anywhere.
    let passed_over = |name: &std::ffi::OsStr| {
        wanted.denied.is_empty() && PASSED_OVER.iter().any(|passed| name == *passed)
    };
    let mut found = Found::default();
    // Level by level: what is cut off by the limit is what lies deepest.
    let mut waiting = VecDeque::from([PathBuf::new()]);
    let mut looked_into = 0;
    while let Some(directory) = waiting.pop_front() {
        looked_into += 1;
        if looked_into > DIRECTORY_LIMIT || found.secrets.len() > NAME_LIMIT {
            found.incomplete = true;
            break;
        }
        let entries = match std::fs::read_dir(start.join(&directory)) {
            Ok(entries) => entries,
            Err(error) => {
                // What is gone by now hides nothing; what cannot be looked into may.
                found.incomplete |= error.kind() != std::io::ErrorKind::NotFound;
                continue;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = directory.join(&name);
            let Ok(kind) = entry.file_type() else { continue };
            let as_path = Path::new(&name);
            let secret = secrets.is_match(as_path) && !except.is_match(as_path);
            if denied.is_match(start.join(&path)) && path.to_str().is_some() {
                found.secrets.push(path);
            } else if path.to_str().is_none() {
                // Cannot be named in a confinement; said instead of left out silently.
                found.incomplete |= secret || kind.is_dir();
            } else if name.eq_ignore_ascii_case(".git") {
                if kind.is_dir() && !wanted.denied.is_empty() {
                    waiting.push_back(path.clone());
                }
                found.git.push(path);
            } else if kind.is_socket() {
                found.sockets.push(path);
            } else if secret && !kind.is_symlink() {
                found.secrets.push(path);
            } else if kind.is_dir() && !passed_over(&name) {
                waiting.push_back(path);
            }
        }
    }
    Ok(found)
}
