//! What the user says as a message to the model, with the files that go with it, and back from there to the
//! screen.

use crate::agent::{AgentEvent, ToolStatus, is_summary};
use crate::model::{Attachment, Message};
use crate::prompt;
use crate::supervisor::{Session, ran_by_user};
use crate::ui::{State, text};

/// What stands before a file that goes with a prompt.
const FILE: &str = "\n\n<file path=";

/// What the user said in a message, and the files that went with it.
fn without_files(text: &str) -> (&str, Vec<&str>) {
    let mut parts = text.split(FILE);
    let prompt = parts.next().unwrap_or_default();
    let name = |part: &'_ str| part.find(">\n");
    let files = parts.filter_map(|part| Some(part[..name(part)?].trim_matches('"')));
    (prompt, files.collect())
}

/// What goes with a prompt: the text of files, and images. An error leaves everything as it is.
pub(super) async fn attachments(
    session: &Session,
    added: &[String],
) -> Result<(String, Vec<Attachment>), String> {
    let (mut texts, mut all) = (String::new(), Vec::new());
    for path in added {
        let (text, attachments) = session.attach(path).await?;
        if attachments.is_empty() {
            let text = prompt::broken_up(&text).replace('\r', "␍");
            texts.push_str(&format!("{FILE}{path:?}>\n{text}</file>"));
        }
        all.extend(attachments);
    }
    Ok((texts, all))
}

/// Shows what was said before.
pub(super) fn replay(state: &mut State, messages: &[Message]) {
    for message in messages {
        match message {
            Message::System { .. } => {}
            Message::User { text, .. } if is_summary(text) => {
                state.notice("what was said before is summarised");
                state.on(AgentEvent::Text { text: text.clone() });
            }
            Message::User { text, .. } => match ran_by_user(text) {
                Some((command, output)) => {
                    state.said(&format!("!{command}"));
                    state.ran(ToolStatus::Ok, output);
                }
                None => {
                    let (prompt, files) = without_files(text);
                    state.said(prompt);
                    for file in files {
                        state.notice(&format!("with {}", text::line(file, 300)));
                    }
                }
            },
            Message::Assistant { text, calls, .. } => {
                if !text.is_empty() {
                    state.on(AgentEvent::Text { text: text.clone() });
                }
                for call in calls {
                    let arguments = serde_json::from_str(&call.arguments).unwrap_or_default();
                    let (id, name) = (call.id.clone(), call.name.clone());
                    state.on(AgentEvent::ToolCall { id, name, arguments });
                }
            }
            Message::Tool { call_id, text, failed, .. } => {
                let status = if *failed { ToolStatus::Error } else { ToolStatus::Ok };
                state.on(AgentEvent::ToolResult {
                    id: call_id.clone(),
                    name: String::new(),
                    status,
                    output: text.clone(),
                    milliseconds: 0,
                    because: String::new(),
                    attached: Vec::new(),
                });
            }
        }
    }
}
