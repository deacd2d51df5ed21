//! The commands: one table for the parser, for `/help` and for completion.

use super::bindings::Bindings;
use super::picker::{Item, Picker};

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Help,
    New,
    Sessions,
    Rename,
    Model,
    Provider,
    Thinking,
    Mode,
    Prompt,
    Review,
    Init,
    Btw,
    Add,
    Drop,
    Loop,
    Queue,
    Permissions,
    Sandbox,
    Jobs,
    Memory,
    Mcp,
    Worktree,
    WtMerge,
    WtExit,
    Diff,
    Undo,
    Redo,
    Rewind,
    Compact,
    Retry,
    Reasoning,
    Find,
    Copy,
    Export,
    Import,
    Theme,
    Quit,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub arguments: &'static str,
    pub help: &'static str,
    pub command: Command,
    /// It can be used while the agent runs.
    pub any_time: bool,
}

const fn row(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    command: Command,
    any_time: bool,
) -> Row {
    Row { name, arguments, help, command, any_time }
}

/// All of them. What is in brackets may be left out.
#[rustfmt::skip]
pub const COMMANDS: [Row; 41] = [
    row("help", "", "commands and keys", Command::Help, true),
    row("new", "", "a new session", Command::New, false),
    row("clear", "", "the same", Command::New, false),
    row("sessions", "[ID]", "go on with another session of this directory", Command::Sessions, false),
    row("session", "[ID]", "the same", Command::Sessions, false),
    row("rename", "NAME", "name this session", Command::Rename, true),
    row("model", "[NAME]", "another model", Command::Model, false),
    row("models", "[NAME]", "the same", Command::Model, false),
    row("provider", "[NAME]", "another provider", Command::Provider, false),
    row("thinking", "[LEVEL]", "how much the model thinks", Command::Thinking, false),
    row("mode", "[NAME]", "another permission mode", Command::Mode, false),
    row("prompt", "[NAME [TEXT]]", "another prompt, or ask once under it", Command::Prompt, false),
    row("review", "[WHAT]", "ask once under the prompt review", Command::Review, false),
    row("init", "", "have an AGENTS.md written for this project", Command::Init, false),
    row("btw", "QUESTION", "ask aside: no tools, and not part of the conversation", Command::Btw, true),
    row("add", "[FILE]", "a file, or an image, that goes with the next prompt", Command::Add, true),
    row("drop", "[FILE]", "leave it out again", Command::Drop, true),
    row("loop", "[--max N] [--run CMD] TASK", "repeat a task until a check passes; stop, status", Command::Loop, true),
    row("queue", "[clear|pop]", "what waits to be sent", Command::Queue, true),
    row("permissions", "[withdraw RULE]", "rules given in this session", Command::Permissions, true),
    row("sandbox", "", "what the kernel enforces now", Command::Sandbox, true),
    row("jobs", "[N]", "background commands, and the output of one; stop N", Command::Jobs, true),
    row("memory", "[FILE]", "what is remembered; search, remember, edit, forget", Command::Memory, true),
    row("mcp", "[NAME]", "servers and their tools; accept NAME, stop NAME", Command::Mcp, true),
    row("worktree", "NAME", "work in a worktree of this branch, made if it is not there", Command::Worktree, false),
    row("wt-merge", "[BRANCH]", "merge it into main, master or BRANCH, remove it, go back", Command::WtMerge, false),
    row("wt-exit", "", "go back without merging", Command::WtExit, false),
    row("diff", "", "what tools changed in this session", Command::Diff, true),
    row("undo", "", "take back the last prompt: files and conversation", Command::Undo, false),
    row("redo", "", "take that back", Command::Redo, false),
    row("rewind", "[N]", "take back prompts, with a look at the files", Command::Rewind, false),
    row("compact", "", "replace the older part by a summary", Command::Compact, false),
    row("retry", "", "the last prompt again, to edit", Command::Retry, false),
    row("reasoning", "", "show or hide what the model thinks", Command::Reasoning, true),
    row("find", "[WORDS]", "look for words in the conversation", Command::Find, true),
    row("copy", "", "the last answer to the clipboard", Command::Copy, true),
    row("export", "FILE", "write the session: .md, .html or .jsonl", Command::Export, true),
    row("import", "FILE", "take in a session that was written as .jsonl", Command::Import, false),
    row("theme", "[NAME]", "other colours", Command::Theme, true),
    row("quit", "", "leave", Command::Quit, true),
    row("exit", "", "leave", Command::Quit, true),
];

/// The row of a typed `/name arguments`, and the arguments; the error names the nearest one.
pub fn parse(line: &str) -> Result<(Row, String), String> {
    let line = line.trim_start_matches('/');
    let (name, arguments) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let found = COMMANDS.iter().find(|row| row.name == name);
    let arguments = arguments.trim().to_owned();
    found.map(|row| (*row, arguments)).ok_or_else(|| {
        let near = crate::nearest::nearest(name, COMMANDS.iter().map(|row| row.name));
        let near = near.map(|name| format!("; did you mean /{name}?")).unwrap_or_default();
        format!("there is no command /{name}{near}")
    })
}

/// All of them, to choose from.
pub fn list() -> Picker {
    let item = |row: &Row| Item::new(&format!("/{}", row.name), row.help);
    Picker::new("Commands", COMMANDS.iter().map(item).collect()).by_label()
}

/// The text of `/help`.
pub fn help(bindings: &Bindings) -> String {
    let mut text = String::from("Commands\n");
    let usage = |row: &Row| format!("/{} {}", row.name, row.arguments);
    let widest = COMMANDS.iter().map(|row| usage(row).len()).max().unwrap_or(0);
    for row in COMMANDS {
        text.push_str(&format!("  {:<widest$} {}\n", usage(&row), row.help));
    }
    text.push_str("\nKeys  [name in the settings]\n");
    text.push_str(&bindings.help());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_typos_are_understood() {
        for row in COMMANDS {
            assert_eq!(COMMANDS.iter().filter(|other| other.name == row.name).count(), 1);
            assert!(help(&Bindings::default()).contains(row.help));
        }
        let (row, arguments) = parse("/mode  readonly ").unwrap();
        assert_eq!((row.command, arguments.as_str()), (Command::Mode, "readonly"));
        assert!(parse("/modle").unwrap_err().contains("/mode"));
        let mut list = list();
        list.look_for("/perm");
        assert_eq!(list.chosen().unwrap().value, "/permissions");
    }
}
