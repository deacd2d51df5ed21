//! `edit`: exact, unique replacements in one file, all or none.

use std::os::fd::OwnedFd;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, Roots, arguments, diff, fault, place};
use crate::wire::Call;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    path: String,
    /// Applied in order.
    edits: Vec<Edit>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Edit {
    /// Exact text, found once in the file.
    old: String,
    new: String,
}

pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    if arguments.edits.is_empty() {
        return Err(fault("there are no edits"));
    }
    rewrite(call, roots, passed, |before| {
        let mut after = before.to_owned();
        for (number, edit) in arguments.edits.iter().enumerate() {
            after = apply(&after, edit).map_err(|why| format!("edit {}: {why}", number + 1))?;
        }
        Ok(after)
    })
}

/// Makes a file's new text from its old one: the whole change or none of it.
pub(super) fn rewrite(
    call: &Call,
    roots: &Roots,
    passed: Option<OwnedFd>,
    change: impl FnOnce(&str) -> Result<String, String>,
) -> Outcome {
    let file = place::Changing::open(call, roots, passed)?;
    let Some(before) = file.before.clone() else {
        return Err(fault(format!("{} does not exist or is empty; use write", call.shown)));
    };
    file.check(roots)?;
    let after = change(&before)
        .map_err(|why| fault(format!("{}: {why}. Nothing was changed.", call.shown)))?;
    file.replace(&after)?;
    let changes = diff(&call.shown, &before, &after);
    Ok(file.made(roots, &after, changes.clone(), changes))
}

fn apply(text: &str, edit: &Edit) -> Result<String, String> {
    let (mut old, mut new) = (edit.old.clone(), edit.new.clone());
    // Models write plain line feeds; the file keeps its own line ends.
    if text.contains("\r\n") && !old.contains("\r\n") {
        old = old.replace('\n', "\r\n");
        new = new.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    if old.is_empty() {
        return Err("`old` is empty".into());
    }
    if old == new {
        return Err("`old` and `new` are the same".into());
    }
    match text.matches(&old).count() {
        1 => Ok(text.replacen(&old, &new, 1)),
        0 => Err(near_miss(text, &old)),
        count => Err(format!("`old` is there {count} times; add lines around it")),
    }
}

/// Says where the text nearly is, if only white space differs.
fn near_miss(text: &str, old: &str) -> String {
    let first = old.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let at = text.lines().position(|line| !first.is_empty() && line.trim() == first);
    match at {
        Some(line) => format!(
            "`old` was not found; line {} has its first line with other white space or other text \
             after it. Read the file again",
            line + 1
        ),
        None => "`old` was not found. Read the file again".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(old: &str, new: &str) -> Edit {
        Edit { old: old.into(), new: new.into() }
    }

    #[test]
    fn line_ends_are_kept_and_ambiguity_is_refused() {
        assert_eq!(apply("a\r\nb\r\n", &edit("a\nb", "x\ny")).unwrap(), "x\r\ny\r\n");
        assert!(apply("aa", &edit("a", "b")).unwrap_err().contains("2 times"));
        assert!(apply("  f()\n", &edit("f() \n", "g")).unwrap_err().contains("line 1"));
        assert!(apply("a", &edit("", "b")).is_err() && apply("a", &edit("a", "a")).is_err());
    }
}
