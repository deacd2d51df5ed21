//! `write`: a whole file.

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
    content: String,
}

pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    if arguments.content.len() as u64 > place::FILE_LIMIT {
        return Err(fault("the content is larger than 10 MiB"));
    }
    let file = place::Changing::open(call, roots, passed)?;
    if file.before.is_some() && call.seen.is_none() && !call.preview {
        return Err(fault(format!("{} exists; read it before you replace it", call.shown)));
    }
    file.check(roots)?;
    let before = file.before.clone();
    file.replace(&arguments.content)?;
    let done = if before.is_some() { "Replaced" } else { "Created" };
    let lines = arguments.content.lines().count();
    let changes = diff(&call.shown, &before.unwrap_or_default(), &arguments.content);
    let text = format!("{done} {} ({lines} lines).", call.shown);
    Ok(file.made(roots, &arguments.content, text, changes))
}
