//! Looking through the workspace, in a worker: names to protect, and files that concern zerostack.

use std::path::{Path, PathBuf};

use zerostack_sandbox::{ChannelError, StartError};

use super::cells::{Cells, FileWorker};
use super::confine;
use super::host::Host;
use crate::policy;
use crate::wire::{COLLECT, Call, CollectWhat, Found, Hello, Reply, SCAN, ScanFor, Target};

/// Small files of the project that concern zerostack: what it is told about the project, and what the
/// project wants to set. Outer directories first.
pub type Collected = Vec<(PathBuf, String)>;

/// Finds the names in the workspace and the added directories that need protection, and reads the
/// files of `wanted` (relative paths), in a worker that sees only those and cannot change them.
pub async fn scan(
    cells: &Cells,
    policy: &policy::Policy,
    groups: &policy::Groups,
    denied: Vec<String>,
    host: &mut Host,
    wanted: &[String],
) -> Result<Collected, StartError> {
    let above = if wanted.is_empty() { Vec::new() } else { host.directories_above() };
    let confinement = confine::scanner(policy, groups, host, &above, wanted);
    let roots = host.roots.iter().map(|root| root.path.clone());
    let hello = Hello { roots: roots.chain(above.iter().cloned()).collect() };
    let worker = FileWorker::start(cells, &confinement, &hello).await?;
    let names = &groups.secrets.workspace;
    let (secrets, except) = (names.names.clone(), names.except.clone());
    let arguments = encoded(&ScanFor { secrets, except, denied })?;
    let root_call = |tool: &str, arguments: &str, number: usize, shown: &Path| {
        let target = Target::Beneath { root: number as u16, path: Vec::new() };
        Call::internal(tool, arguments.to_owned(), target, shown.display().to_string())
    };
    let count = host.roots.len();
    for (number, root) in host.roots.iter_mut().enumerate() {
        let call = root_call(SCAN, &arguments, number, &root.path);
        root.found = match worker.call(&call, None).await? {
            Reply::Found(found) => checked(found),
            _ => return Err(ChannelError::Malformed("the scan failed").into()),
        };
    }
    let mut collected = Vec::new();
    if wanted.is_empty() {
        return Ok(collected);
    }
    let arguments = encoded(&CollectWhat { paths: wanted.to_vec() })?;
    let outer = above.iter().enumerate().map(|(at, path)| (count + at, path));
    for (number, path) in outer.chain([(0, &host.workspace)]) {
        // A directory above in which nothing was found is not there at all.
        if let Reply::Collected(found) =
            worker.call(&root_call(COLLECT, &arguments, number, path), None).await?
        {
            let inside = |(name, _): &(PathBuf, String)| is_below(name);
            collected.extend(
                found.into_iter().filter(inside).map(|(name, text)| (path.join(name), text)),
            );
        }
    }
    Ok(collected)
}

fn encoded<T: serde::Serialize>(question: &T) -> Result<String, StartError> {
    serde_json::to_string(question)
        .map_err(|_| ChannelError::Malformed("a question cannot be asked").into())
}

fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// A worker's paths are not trusted to stay inside.
fn checked(mut found: Found) -> Found {
    let inside = |path: &PathBuf| is_below(path);
    for list in [&mut found.secrets, &mut found.git, &mut found.sockets] {
        list.retain(inside);
    }
    found
}
