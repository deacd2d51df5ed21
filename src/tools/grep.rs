//! `grep`: file contents by regular expression, with ripgrep's own libraries.

use std::fmt::Write;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use grep_regex::RegexMatcherBuilder;
use grep_searcher::{BinaryDetection, SearcherBuilder, sinks::Lossy};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, Roots, arguments, fault, place, text, walk};
use crate::wire::{Call, Fault};

const MATCH_LIMIT: usize = 200;
const LINE_LIMIT: usize = 300;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    /// Regular expression (Rust syntax).
    pattern: String,
    /// File or directory, default the workspace.
    #[serde(default)]
    path: Option<String>,
    /// Only files that fit this glob, e.g. *.rs.
    #[serde(default)]
    include: Option<String>,
    #[serde(default)]
    ignore_case: bool,
}

/// A glob without a slash is about names, one with a slash about whole relative paths.
pub(super) fn file_glob(pattern: &str) -> Result<GlobMatcher, Fault> {
    let pattern = pattern.trim_start_matches("./");
    let pattern = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
    GlobBuilder::new(&pattern)
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| fault(format!("not a valid glob: {error}")))
}

pub fn run(call: &Call, roots: &Roots) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    let start = place::walk_start(call, roots)?;
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(arguments.ignore_case)
        .line_terminator(Some(b'\n'))
        .build(&arguments.pattern)
        .map_err(|error| fault(format!("not a valid regular expression: {error}")))?;
    let include = arguments.include.as_deref().map(file_glob).transpose()?;
    let visitor = || {
        let mut searcher = SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .line_number(true)
            .build();
        let (matcher, include, start) = (&matcher, &include, &start);
        move |path: &Path| {
            let relative = path.strip_prefix(start).unwrap_or(path);
            let single = relative.as_os_str().is_empty();
            if !single && include.as_ref().is_some_and(|glob| !glob.is_match(relative)) {
                return None;
            }
            let mut lines = Vec::new();
            let sink = Lossy(|number, line| {
                let line: String = line.trim_end().chars().take(LINE_LIMIT).collect();
                lines.push((number, line));
                Ok(lines.len() < MATCH_LIMIT)
            });
            // A file that cannot be read is passed over, as ripgrep does.
            let _ = searcher.search_path(matcher, path, sink);
            (!lines.is_empty()).then_some(lines)
        }
    };
    let found = walk::files(call, &start, MATCH_LIMIT, Vec::len, visitor)?;
    let mut shown = String::new();
    let mut count = 0;
    for (path, lines) in found {
        let name = walk::named(call, &start, &path);
        for (number, line) in lines.into_iter().take(MATCH_LIMIT - count) {
            count += 1;
            let _ = writeln!(shown, "{name}:{number}: {line}");
        }
    }
    match count {
        0 => text("No matches.".into()),
        MATCH_LIMIT.. => {
            text(format!("{shown}(stopped at {MATCH_LIMIT} matches; narrow the search)"))
        }
        _ => text(shown),
    }
}
