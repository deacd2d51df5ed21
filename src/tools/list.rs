//! `list_dir`: one directory.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, Roots, arguments, failed, fault, place, text};
use crate::wire::Call;

const ENTRY_LIMIT: usize = 500;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    /// Default the workspace.
    #[serde(default)]
    path: Option<String>,
}

pub fn run(call: &Call, roots: &Roots) -> Outcome {
    let _: Arguments = arguments(call)?;
    let start = place::walk_start(call, roots)?;
    if start.is_file() {
        return Err(fault(format!("{} is a file; use read", call.shown)));
    }
    let entries = std::fs::read_dir(&start).map_err(|error| failed(call, "list", &error))?;
    let mut lines: Vec<(bool, String)> = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let line = match entry.file_type() {
            Ok(kind) if kind.is_dir() => (false, format!("{name}/")),
            Ok(kind) if kind.is_symlink() => (true, format!("{name} (link)")),
            _ => {
                let size = entry.metadata().map(|facts| facts.len()).unwrap_or_default();
                (true, format!("{name} ({size} bytes)"))
            }
        };
        lines.push(line);
    }
    lines.sort();
    let total = lines.len();
    let mut shown: Vec<String> =
        lines.into_iter().take(ENTRY_LIMIT).map(|(_, line)| line).collect();
    if total > ENTRY_LIMIT {
        shown.push(format!("({total} entries in all)"));
    }
    text(if total == 0 { "(empty)".into() } else { shown.join("\n") })
}
