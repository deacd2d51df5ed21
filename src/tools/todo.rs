//! `todo_write`: the model's list of steps. The list lives in the conversation; this checks and
//! prints it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, arguments, text};
use crate::wire::Call;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {
    todos: Vec<Todo>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Todo {
    content: String,
    status: Status,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    InProgress,
    Done,
}

pub fn run(call: &Call) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    let line = |todo: &Todo| {
        let mark = match todo.status {
            Status::Pending => ' ',
            Status::InProgress => '~',
            Status::Done => 'x',
        };
        format!("[{mark}] {}", todo.content)
    };
    let lines: Vec<String> = arguments.todos.iter().map(line).collect();
    text(if lines.is_empty() { "The list is empty.".into() } else { lines.join("\n") })
}
