//! Walking a directory as ripgrep does: ignore files respected, hidden files seen, `.git` not.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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

fn builder(start: &Path) -> WalkBuilder {
    let mut builder = WalkBuilder::new(start);
    builder.hidden(false).require_git(false).filter_entry(|entry| entry.file_name() != ".git");
    builder
}

/// Collects what `visitor` makes of every file below `start` that is not excluded, until `enough` has
/// been found. The files are looked at on all processors, each thread with a visitor of its own; the
/// results are in the order of their paths.
pub(super) fn files<T: Send, V: FnMut(&Path) -> Option<T> + Send>(
    call: &Call,
    start: &Path,
    enough: usize,
    weight: impl Fn(&T) -> usize + Sync,
    visitor: impl Fn() -> V + Sync,
) -> Result<Vec<(PathBuf, T)>, Fault> {
    let excluded = excluded(call)?;
    let found = Mutex::new(Vec::new());
    let total = AtomicUsize::new(0);
    builder(start).build_parallel().run(|| {
        let mut visit = visitor();
        let (excluded, found, total, weight) = (&excluded, &found, &total, &weight);
        Box::new(move |entry| {
            let Ok(entry) = entry else { return WalkState::Continue };
            if !entry.file_type().is_some_and(|kind| kind.is_file())
                || excluded.is_match(entry.path())
            {
                return WalkState::Continue;
            }
            if let Some(result) = visit(entry.path()) {
                total.fetch_add(weight(&result), Ordering::Relaxed);
                if let Ok(mut found) = found.lock() {
                    found.push((entry.into_path(), result));
                }
            }
            match total.load(Ordering::Relaxed) {
                total if total >= enough => WalkState::Quit,
                _ => WalkState::Continue,
            }
        })
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// A found path as the model should name it: relative to what it asked for.
pub(super) fn named(call: &Call, start: &Path, path: &Path) -> String {
    let below = path.strip_prefix(start).unwrap_or(path);
    let shown = Path::new(&call.shown);
    let shown = if call.shown == "." { below.to_owned() } else { shown.join(below) };
    if below.as_os_str().is_empty() { call.shown.clone() } else { shown.display().to_string() }
}
