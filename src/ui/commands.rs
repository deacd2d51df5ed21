//! The commands: one table for the parser, for `/help` and for completion.

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
    Queue,
    Permissions,
    Sandbox,
    Diff,
    Undo,
    Compact,
    Retry,
    Reasoning,
    Copy,
    Export,
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

pub const COMMANDS: [Row; 22] = [
    row("help", "", "commands and keys", Command::Help, true),
    row("new", "", "a new session", Command::New, false),
    row("clear", "", "the same", Command::New, false),
    row("sessions", "", "saved sessions of this directory", Command::Sessions, true),
    row("rename", "NAME", "name this session", Command::Rename, true),
    row("model", "[NAME]", "show or change the model", Command::Model, false),
    row("provider", "[NAME]", "show or change the provider", Command::Provider, false),
    row(
        "thinking",
        "[LEVEL]",
        "how much the model thinks: auto off low medium high",
        Command::Thinking,
        false,
    ),
    row("mode", "[NAME]", "show or change the permission mode", Command::Mode, false),
    row("prompt", "[NAME]", "show or change the prompt", Command::Prompt, false),
    row("queue", "[clear|pop]", "what waits to be sent", Command::Queue, true),
    row(
        "permissions",
        "[withdraw RULE]",
        "rules given in this session",
        Command::Permissions,
        true,
    ),
    row("sandbox", "", "what the kernel enforces now", Command::Sandbox, true),
    row("diff", "", "what tools changed in this session", Command::Diff, true),
    row("undo", "", "take back the last prompt: files and conversation", Command::Undo, false),
    row(
        "compact",
        "",
        "replace the older part of the conversation by a summary",
        Command::Compact,
        false,
    ),
    row("retry", "", "the last prompt again, to edit", Command::Retry, false),
    row("reasoning", "", "show or hide what the model thinks", Command::Reasoning, true),
    row("copy", "", "the last answer to the clipboard", Command::Copy, true),
    row("export", "FILE", "write the session as Markdown", Command::Export, true),
    row("quit", "", "leave", Command::Quit, true),
    row("exit", "", "leave", Command::Quit, true),
];

/// The keys, for `/help`.
pub const KEYS: [(&str, &str); 15] = [
    ("Enter", "send; while the agent runs: queue"),
    ("Alt-Enter, Ctrl-J", "a new line"),
    ("Up, Down", "lines, and earlier prompts"),
    ("Tab", "complete a /command, or the path of an @file"),
    ("Ctrl-R", "look for an earlier prompt"),
    ("PageUp, PageDown, wheel", "scroll"),
    ("Shift and the mouse", "select text, as the terminal does it"),
    ("Ctrl-O", "open or close the last tool call"),
    ("Esc", "interrupt; close what is open"),
    ("Ctrl-C", "cancel the run and clear the queue; twice on an empty line: leave"),
    ("Ctrl-D", "leave, on an empty line"),
    ("Ctrl-A Ctrl-E Ctrl-U Ctrl-K Ctrl-W", "start, end, delete to start, to end, a word"),
    ("Ctrl-G", "write the prompt in $EDITOR"),
    (".name", "the same as /prompt name"),
    ("!command", "run a command of yours in a cell"),
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

/// The names that a beginning can become.
pub fn matching(beginning: &str) -> Vec<&'static Row> {
    let beginning = beginning.trim_start_matches('/');
    COMMANDS.iter().filter(|row| row.name.starts_with(beginning)).collect()
}

/// The text of `/help`.
pub fn help() -> String {
    let mut text = String::from("Commands\n");
    for row in COMMANDS {
        let usage = format!("/{} {}", row.name, row.arguments);
        text.push_str(&format!("  {usage:<28} {}\n", row.help));
    }
    text.push_str("\nKeys\n");
    for (keys, what) in KEYS {
        text.push_str(&format!("  {keys:<28} {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_typos_are_understood() {
        for row in COMMANDS {
            assert_eq!(COMMANDS.iter().filter(|other| other.name == row.name).count(), 1);
            assert!(help().contains(row.help));
        }
        let (row, arguments) = parse("/mode  readonly ").unwrap();
        assert_eq!((row.command, arguments.as_str()), (Command::Mode, "readonly"));
        assert!(parse("/modle").unwrap_err().contains("/mode"));
        assert_eq!(matching("/qu").len(), 2);
    }
}
