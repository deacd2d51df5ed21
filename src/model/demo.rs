//! The scripted model behind `--provider demo`. It reads the conversation as a model would and makes
//! real tool calls, so that the same agent, workers and kernel answer; only the words are prepared.

use serde_json::{Value, json};

use super::{Answer, Message, Request, ToolCall};

/// The commands by which the demo tries what must be refused. Starting the demo approves exactly
/// these, so that the kernel has to refuse them and not a question.
pub const PROBES: [&str; 4] = [
    "cat ~/.ssh/id_ed25519",
    "touch /usr/local/zerostack-was-here",
    "cat < /dev/tcp/192.0.2.1/80",
    "unshare --user --map-root-user true",
];

/// What each probe is about, by the id of its call.
const ATTEMPTS: [(&str, &str); 4] = [
    ("secret", "read a secret, ~/.ssh/id_ed25519"),
    ("outside", "write outside of the workspace, /usr/local/zerostack-was-here"),
    ("network", "open a network connection"),
    ("namespace", "enter a nested user namespace"),
];

/// The next answer of the script.
pub fn answer(request: &Request) -> Answer {
    let asked = |message: &Message| matches!(message, Message::User { .. });
    let start = request.messages.iter().rposition(asked).unwrap_or(0);
    let turn = &request.messages[start..];
    let answered = turn.iter().filter(|m| matches!(m, Message::Assistant { .. })).count();
    match answered {
        0 => calls(
            "I am the built-in demo: a script, not a model. The tools, the cells and the refusals are \
             real. First a look at the project.\n",
            vec![
                call("list", "list_dir", json!({"path": "."})),
                call("docs", "find_files", json!({"pattern": "*.md"})),
                call("main", "grep", json!({"pattern": r"^\s*(pub )?(fn|def|func|int) main\b"})),
            ],
        ),
        1 => match first_file(turn) {
            Some(path) => calls("", vec![call("read", "read", json!({"path": path, "limit": 30}))]),
            None => attempts(),
        },
        2 if result(turn, "secret").is_none() => attempts(),
        _ => Answer { text: summary(turn), ..Answer::default() },
    }
}

fn attempts() -> Answer {
    let probe =
        |((id, _), command): (&(&str, &str), &str)| call(id, "bash", json!({"command": command}));
    calls(
        "\nNow four things that must be refused.\n",
        ATTEMPTS.iter().zip(PROBES).map(probe).collect(),
    )
}

fn call(id: &str, name: &str, arguments: Value) -> ToolCall {
    ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_string() }
}

fn calls(text: &str, calls: Vec<ToolCall>) -> Answer {
    Answer { text: text.to_owned(), calls, ..Answer::default() }
}

fn result<'a>(turn: &'a [Message], id: &str) -> Option<&'a str> {
    turn.iter().find_map(|message| match message {
        // In a conversation that goes on, an id that was used before gets a number.
        Message::Tool { call_id, text, .. } if call_id.split('_').next() == Some(id) => {
            Some(text.as_str())
        }
        _ => None,
    })
}

/// The file that says most about the project, from the listing.
fn first_file(turn: &[Message]) -> Option<String> {
    let listing = result(turn, "list")?;
    let name = |line: &str| line.split(" (").next().unwrap_or(line).to_owned();
    let files: Vec<String> =
        listing.lines().filter(|line| line.ends_with("bytes)")).map(name).collect();
    let known = [
        "README.md",
        "README",
        "README.rst",
        "Cargo.toml",
        "package.json",
        "pyproject.toml",
        "go.mod",
    ];
    let best = known.iter().find_map(|known| files.iter().find(|file| file == known));
    best.or(files.iter().find(|file| file.ends_with(".md"))).or(files.first()).cloned()
}

fn summary(turn: &[Message]) -> String {
    let mut text = String::from("\n## This project\n\n");
    if let Some(listing) = result(turn, "list") {
        let entries: Vec<&str> =
            listing.lines().map(|line| line.split(" (").next().unwrap_or(line)).collect();
        text += &format!(
            "Its top directory holds {} entries: {}.\n\n",
            entries.len(),
            entries.join(", ")
        );
    }
    if let Some(path) = first_file(turn)
        && let Some(content) = result(turn, "read")
    {
        let line = |line: &str| line.split_once('\t').map_or(line, |(_, line)| line).to_owned();
        let lines: Vec<String> =
            content.lines().map(line).filter(|line| !line.trim().is_empty()).take(6).collect();
        text += &format!("{path} begins:\n\n> {}\n\n", lines.join("\n> "));
    }
    if let Some(found) = result(turn, "main").filter(|found| found.contains(':')) {
        let places: Vec<&str> = found.lines().take(3).collect();
        text += &format!("It starts at:\n\n    {}\n\n", places.join("\n    "));
    }
    text += "## What was refused, and by what\n\n";
    for (id, what) in ATTEMPTS {
        let layer = result(turn, id).map_or("not tried", layer);
        text += &format!("- {what}: {layer}\n");
    }
    text += "\nTo work with a real model set a key (for example OPENROUTER_API_KEY) or start Ollama, and leave \
             `--provider demo` out.\n";
    text
}

/// The layer that refused, told from what the tool returned.
fn layer(result: &str) -> &'static str {
    let signs = [
        ("denied in", "refused by the policy, before any cell was asked"),
        (
            "Network is unreachable",
            "refused by the kernel: the cell's network namespace has no way out",
        ),
        ("Operation not permitted", "refused by the kernel: the system call filter (seccomp)"),
        ("Permission denied", "refused by the kernel: covered by an empty mount"),
        ("Read-only file system", "refused by the kernel: a read-only mount"),
        ("No such file", "refused by the kernel: absent from the cell's mount namespace"),
    ];
    let sign = signs.iter().find(|(sign, _)| result.contains(sign));
    sign.map_or("NOT REFUSED: please report this", |(_, layer)| layer)
}
