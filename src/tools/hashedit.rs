//! `edit` by anchors: a line is named by its number and a hash of its text, so that an edit that means
//! another state of the file is refused instead of hitting the wrong line.

use std::os::fd::OwnedFd;

use schemars::JsonSchema;
use serde::Deserialize;

use super::edit::rewrite;
use super::{Outcome, Roots, arguments, place};
use crate::wire::Call;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    path: String,
    edits: Vec<Edit>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Edit {
    /// Anchor of the first line to replace, as read shows it, e.g. 12:k3f.
    from: String,
    /// Anchor of the last one, default the same line.
    #[serde(default)]
    to: Option<String>,
    /// New lines; empty to remove.
    new: String,
}

/// The name of a line.
pub(super) fn anchor(number: usize, line: &str) -> String {
    format!("{number}:{}", &place::hash(line.trim_end())[..3])
}

/// The line that an anchor names, from 0.
fn line_of(anchor_text: &str, lines: &[&str]) -> Result<usize, String> {
    let number = anchor_text.split(':').next().and_then(|number| number.trim().parse().ok());
    let number: usize = number.ok_or(format!("`{anchor_text}` is no anchor such as 12:k3f"))?;
    match lines.get(number.wrapping_sub(1)) {
        Some(line) if anchor(number, line) == anchor_text.trim() => Ok(number - 1),
        Some(_) => Err(format!(
            "line {number} is not the one that {anchor_text} names; read the file again"
        )),
        None => Err(format!("there is no line {number}; the file has {}", lines.len())),
    }
}

pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    rewrite(call, roots, passed, |before| apply(before, &arguments.edits))
}

fn apply(before: &str, edits: &[Edit]) -> Result<String, String> {
    // With their line ends: those of lines that are not edited stay as they are.
    let whole: Vec<&str> = before.split_inclusive('\n').collect();
    let lines: Vec<&str> = before.lines().collect();
    let mut spans = Vec::new();
    for edit in edits {
        let first = line_of(&edit.from, &lines)?;
        let last = edit.to.as_ref().map_or(Ok(first), |to| line_of(to, &lines))?;
        if last < first {
            return Err(format!(
                "{} is before {}",
                edit.to.as_deref().unwrap_or_default(),
                edit.from
            ));
        }
        spans.push((first, last, &edit.new));
    }
    spans.sort_by_key(|(first, _, _)| *first);
    if spans.is_empty() {
        return Err("there are no edits".into());
    }
    if spans.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return Err("two edits overlap".into());
    }
    let mut after = String::new();
    let mut next = 0;
    for (first, last, new) in spans {
        after.extend(whole[next..first].iter().copied());
        let end = if whole[first].ends_with("\r\n") { "\r\n" } else { "\n" };
        let mut lines = new.lines().peekable();
        while let Some(line) = lines.next() {
            after.push_str(line);
            // The last line of the file may have no end.
            if lines.peek().is_some() || whole[last].ends_with('\n') {
                after.push_str(end);
            }
        }
        next = last + 1;
    }
    after.extend(whole[next..].iter().copied());
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(from: String, to: Option<String>, new: &str) -> Edit {
        Edit { from, to, new: new.into() }
    }

    #[test]
    fn anchors_hold_or_nothing_is_changed() {
        let text = "one\r\ntwo\r\nthree\r\n";
        let edits = [edit(anchor(2, "two"), Some(anchor(3, "three")), "2\n3\n4")];
        assert_eq!(apply(text, &edits).unwrap(), "one\r\n2\r\n3\r\n4\r\n");
        assert_eq!(apply("a\nb", &[edit(anchor(1, "a"), None, "")]).unwrap(), "b");
        assert_eq!(apply("a\r\nb\nc", &[edit(anchor(3, "c"), None, "d")]).unwrap(), "a\r\nb\nd");
        assert!(
            apply(text, &[edit(anchor(2, "other"), None, "x")]).unwrap_err().contains("line 2")
        );
        assert!(apply(text, &[edit("9:abc".into(), None, "x")]).unwrap_err().contains("no line 9"));
        let twice = [edit(anchor(1, "one"), None, "x"), edit(anchor(1, "one"), None, "y")];
        assert!(apply(text, &twice).unwrap_err().contains("overlap"));
    }
}
