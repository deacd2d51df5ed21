//! `read`: the text of a file with line numbers.

use std::fmt::Write;
use std::os::fd::OwnedFd;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, Roots, arguments, fault, place, text};
use crate::wire::Call;

const DEFAULT_LINES: usize = 2000;
const LINE_LIMIT: usize = 2000;
const TEXT_LIMIT: usize = 64 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    path: String,
    /// First line, from 1.
    #[serde(default)]
    offset: Option<usize>,
    /// Number of lines, default 2000.
    #[serde(default)]
    limit: Option<usize>,
}

pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    let file = place::open_to_read(call, roots, passed)?;
    let content = place::read_text(call, &file)?;
    let first = arguments.offset.unwrap_or(1).max(1);
    let total = content.lines().count();
    if content.is_empty() {
        return text("(the file is empty)".into());
    }
    if first > total {
        return Err(fault(format!("offset {first} is beyond the end: {total} lines")));
    }
    let most = arguments.limit.unwrap_or(DEFAULT_LINES).max(1);
    let mut shown = String::new();
    let mut last = first - 1;
    for (index, line) in content.lines().enumerate().skip(first - 1).take(most) {
        if shown.len() > TEXT_LIMIT {
            break;
        }
        let cut = line.char_indices().nth(LINE_LIMIT).map(|(at, _)| at);
        let _ = match cut {
            None => writeln!(shown, "{:>5}\t{line}", index + 1),
            Some(at) => writeln!(shown, "{:>5}\t{} … (line cut)", index + 1, &line[..at]),
        };
        last = index + 1;
    }
    if last < total {
        let next = last + 1;
        let _ = writeln!(shown, "({total} lines in all; go on with offset {next})");
    }
    text(shown)
}
