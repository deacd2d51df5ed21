//! The file tools: one file each, run only inside a worker. `bash` is here by its schema alone; a
//! command runs in a cell of its own.

mod edit;
mod find;
mod grep;
mod hashedit;
mod internal;
mod list;
mod place;
pub mod read;
mod scan;
mod todo;
mod walk;
mod write;

use std::borrow::Cow;
use std::os::fd::OwnedFd;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::wire::{COLLECT, Call, Fault, LIKE, Output, RESTORE, Reply, SCAN};

pub use place::Roots;

/// What a tool needs, and so how a call to it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads one file.
    Reads,
    /// Walks a directory; without a path, the workspace.
    Walks,
    /// Changes one file.
    Changes,
    /// Runs a command.
    Command,
    /// Looks at commands that run in the background.
    Jobs,
    /// Starts a sub-agent.
    Task,
    /// Reads or changes what is remembered.
    Memory,
    /// Is done by an MCP server.
    Mcp,
    /// Touches nothing.
    Local,
}

/// A tool as the model sees it.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: Cow<'static, str>,
    pub kind: Kind,
    pub description: Cow<'static, str>,
    /// JSON Schema of the arguments.
    pub schema: Value,
}

/// Runs a command line.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BashArguments {
    /// Bash command line.
    pub command: String,
    /// Seconds before it is killed, default 120.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Run on while you go on; see jobs.
    #[serde(default)]
    pub background: bool,
}

/// Background commands.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobsArguments {
    /// Which one; without it, all are listed.
    #[serde(default)]
    pub id: Option<u64>,
    #[serde(default)]
    pub stop: bool,
    /// Seconds to wait for its end, at most 120.
    #[serde(default)]
    pub wait: Option<u64>,
}

/// A sub-agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskArguments {
    /// All it needs to know; it sees nothing of this conversation.
    pub prompt: String,
    /// Let it change files and run commands; else it only reads.
    #[serde(default)]
    pub full: bool,
}

/// What is remembered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryRead {
    /// MEMORY.md, scratchpad.md, today, daily/YYYY-MM-DD.md or notes/NAME.md; without it, all are listed.
    #[serde(default)]
    pub file: Option<String>,
}

/// A search in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemorySearch {
    /// Words that are in the same line.
    pub words: String,
}

/// A change of it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryWrite {
    /// As for memory_read. MEMORY.md is for every project.
    pub file: String,
    /// Added at the end.
    pub text: String,
    /// Text, there once, in whose place it is put instead.
    #[serde(default)]
    pub replaces: Option<String>,
}

/// All tools, in the order the model sees them.
pub fn definitions(hashed: bool) -> Vec<Definition> {
    let edit = match hashed {
        false => define::<edit::Arguments>(
            "edit",
            Kind::Changes,
            "Replace exact, unique pieces of a file. Read it first.",
        ),
        true => define::<hashedit::Arguments>(
            "edit",
            Kind::Changes,
            "Replace lines of a file by their anchors. Read it first.",
        ),
    };
    vec![
        define::<read::Arguments>("read", Kind::Reads, "Read a text file with line numbers."),
        define::<write::Arguments>("write", Kind::Changes, "Create a file or replace all of it."),
        edit,
        define::<grep::Arguments>(
            "grep",
            Kind::Walks,
            "Search file contents by regular expression; respects ignore files.",
        ),
        define::<find::Arguments>(
            "find_files",
            Kind::Walks,
            "Find files by glob, e.g. *.rs or src/**/test_*.py; respects ignore files.",
        ),
        define::<list::Arguments>("list_dir", Kind::Walks, "List a directory."),
        define::<BashArguments>(
            "bash",
            Kind::Command,
            "Run a command in the workspace, in a sandbox without network. Long output is cut in the middle.",
        ),
        define::<JobsArguments>("jobs", Kind::Jobs, "List, read or stop background commands."),
        define::<todo::Arguments>("todo_write", Kind::Local, "Replace your list of steps."),
        define::<TaskArguments>(
            "task",
            Kind::Task,
            "Give a piece of work to a sub-agent; several at once run in parallel. You get its report.",
        ),
        define::<MemoryRead>("memory_read", Kind::Memory, "Read what was remembered earlier."),
        define::<MemorySearch>("memory_search", Kind::Memory, "Search what was remembered."),
        define::<MemoryWrite>(
            "memory_write",
            Kind::Memory,
            "Remember a fact that later sessions need. Keep it short.",
        ),
    ]
}

fn define<T: JsonSchema>(name: &'static str, kind: Kind, description: &'static str) -> Definition {
    let mut settings = schemars::generate::SchemaSettings::draft07();
    settings.meta_schema = None;
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = compact(schema.to_value());
    // It would say again what the description of the tool says.
    if let Some(object) = schema.as_object_mut() {
        object.remove("description");
    }
    Definition { name: name.into(), kind, description: description.into(), schema }
}

/// Drops what costs tokens and tells a model nothing.
fn compact(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        for key in ["title", "format", "minimum", "default"] {
            // A property may have one of these names; then it is an object.
            if object.get(key).is_some_and(|value| !value.is_object()) {
                object.remove(key);
            }
        }
        if let Some(Value::Array(kinds)) = object.get("type") {
            let first = kinds.iter().find(|kind| *kind != "null").cloned();
            object.insert("type".into(), first.unwrap_or(Value::Null));
        }
        object.values_mut().for_each(|value| *value = compact(value.take()));
    }
    schema
}

/// Runs one call inside a worker.
pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Reply {
    let outcome = match call.tool.as_str() {
        "read" => read::run(call, roots, passed),
        "write" => write::run(call, roots, passed),
        "edit" if call.hashed => hashedit::run(call, roots, passed),
        "edit" => edit::run(call, roots, passed),
        "grep" => grep::run(call, roots),
        "find_files" => find::run(call, roots),
        "list_dir" => list::run(call, roots),
        "todo_write" => todo::run(call),
        RESTORE => internal::restore(call, roots),
        LIKE => internal::like(call, roots),
        COLLECT => {
            return internal::collect(call, roots).map_or_else(Reply::Failed, Reply::Collected);
        }
        SCAN => return scan::run(call, roots).map_or_else(Reply::Failed, Reply::Found),
        other => Err(fault(format!("there is no tool {other:?}"))),
    };
    outcome.map_or_else(Reply::Failed, Reply::Done)
}

type Outcome = Result<Output, Fault>;

fn fault(message: impl Into<String>) -> Fault {
    Fault { message: message.into(), errno: 0, hash: None }
}

fn text(text: String) -> Outcome {
    Ok(Output { text, ..Output::default() })
}

/// The call's arguments, or an error that the model can act on.
fn arguments<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T, Fault> {
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    serde_json::from_str(arguments)
        .map_err(|error| fault(format!("the arguments of {} are wrong: {error}", call.tool)))
}

/// Attaches the path, as the model named it, to an error of the operating system.
fn failed(call: &Call, doing: &str, error: &std::io::Error) -> Fault {
    let errno = error.raw_os_error().unwrap_or(0);
    Fault { message: format!("cannot {doing} {}: {error}", call.shown), errno, hash: None }
}

/// A unified diff of one file.
pub fn diff(shown: &str, before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header(&format!("a/{shown}"), &format!("b/{shown}"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_are_small_and_well_formed() {
        let mut size = 0;
        for tool in definitions(false) {
            assert_eq!(tool.schema["type"], "object", "{}", tool.name);
            assert!(tool.schema["properties"].is_object(), "{}", tool.name);
            size += tool.schema.to_string().len() + tool.description.len();
        }
        assert!(size < 5000, "{size} bytes of schemas");
    }
}
