//! `find_files`: files by glob.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::grep::file_glob;
use super::{Outcome, Roots, arguments, place, text, walk};
use crate::wire::Call;

const FILE_LIMIT: usize = 500;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    pattern: String,
    /// Directory, default the workspace.
    #[serde(default)]
    path: Option<String>,
}

pub fn run(call: &Call, roots: &Roots) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    let start = place::walk_start(call, roots)?;
    let glob = file_glob(&arguments.pattern)?;
    let fits = |path: &Path| glob.is_match(path.strip_prefix(&start).unwrap_or(path)).then_some(());
    let found = walk::files(call, &start, FILE_LIMIT, |()| 1, || fits)?;
    let mut found: Vec<String> =
        found.into_iter().map(|(path, ())| walk::named(call, &start, &path)).collect();
    if found.is_empty() {
        return text("No files.".into());
    }
    if found.len() >= FILE_LIMIT {
        found.truncate(FILE_LIMIT);
        found.push(format!("(stopped at {FILE_LIMIT} files; narrow the pattern)"));
    }
    text(found.join("\n"))
}
