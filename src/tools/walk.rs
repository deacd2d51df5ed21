//! Walking a directory as ripgrep does: ignore files respected, hidden files seen, `.git` not.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};
use ignore::{WalkBuilder, WalkState};

use super::fault;
use crate::wire::{Call, Fault};

fn excluded(call: &Call) -> Result<GlobSet, Fault> {
    let mut set = GlobSetBuilder::new();
    for pattern in &call.exclude {
        set.add(Glob::new(pattern).map_err(|error| fault(error.to_string()))?);
    }
    set.build().map_err(|error| fault(error.to_string()))
}

/// Calls `visit` for every file below `start` that is not excluded, in no order, until it says stop.
pub(super) fn files(
    call: &Call,
    start: &Path,
    mut visit: impl FnMut(PathBuf) -> WalkState,
) -> Result<(), Fault> {
    let excluded = excluded(call)?;
    let walk = WalkBuilder::new(start)
        .hidden(false)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    for entry in walk.flatten() {
        let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
        if is_file
            && !excluded.is_match(entry.path())
            && let WalkState::Quit = visit(entry.into_path())
        {
            break;
        }
    }
    Ok(())
}

/// A found path as the model should name it: relative to what it asked for.
pub(super) fn named(call: &Call, start: &Path, path: &Path) -> String {
    let below = path.strip_prefix(start).unwrap_or(path);
    let shown = Path::new(&call.shown);
    let shown = if call.shown == "." { below.to_owned() } else { shown.join(below) };
    if below.as_os_str().is_empty() { call.shown.clone() } else { shown.display().to_string() }
}
