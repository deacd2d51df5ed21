//! Questions to a person, as values that any front end can show, and what the answers mean.

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::broker::Broker;
use crate::agent::{Approval, Verdict};
use crate::model::ToolCall;
use crate::policy::{Subject, ViewHome, WorkspaceView, analyse};

/// A question on its way to a person.
#[derive(Debug)]
pub struct Question {
    pub approval: Approval,
    pub answer: oneshot::Sender<Verdict>,
}

/// Where questions go. A session without one denies what it would ask.
pub type Approver = mpsc::UnboundedSender<Question>;

/// Asks and waits. Nobody there to answer is a no.
pub(super) async fn ask(approver: &Approver, approval: Approval) -> Verdict {
    let (answer, verdict) = oneshot::channel();
    if approver.send(Question { approval, answer }).is_err() {
        return Verdict::No(None);
    }
    verdict.await.unwrap_or(Verdict::No(None))
}

impl Broker {
    /// The question about a call.
    pub async fn question(&self, call: &ToolCall, subject: &Subject, reason: String) -> Approval {
        let diff = self.preview(call, subject).await;
        Approval {
            tool: call.name.clone(),
            of_sub_agent: false,
            what: match subject {
                // In a command a line end is one; in a path it would pretend to be.
                Subject::Path(_) => subject.to_string().replace('\n', "\\u{a}"),
                _ => subject.to_string(),
            },
            arguments: more_arguments(call, subject, diff.is_some()),
            directory: self.host().workspace.display().to_string(),
            diff,
            reason,
            still_refused: self.still_refused(call, subject),
            offers: self.offers(call, subject),
        }
    }

    /// Rules that would let a call through, and nothing but what they say.
    fn offers(&self, call: &ToolCall, subject: &Subject) -> Vec<String> {
        let exact = self.exact_rule(call, subject);
        let wider = match subject {
            Subject::Command(command) => wider_command(command),
            Subject::Path(place) => place
                .inside
                .as_ref()
                .and_then(|inside| inside.parent())
                .filter(|parent| !parent.as_os_str().is_empty())
                .and_then(|parent| parent.to_str())
                .map(|parent| format!("{}({}/**)", call.name, globset::escape(parent))),
            Subject::Nothing | Subject::Name(_) => None,
        };
        let wider = wider.filter(|rule| self.would_allow(call, subject, rule));
        exact.into_iter().chain(wider).collect()
    }

    fn still_refused(&self, call: &ToolCall, subject: &Subject) -> String {
        let policy = self.policy();
        if let Some(refused) = self.servers().place_of(&call.name) {
            return format!("zerostack's own files and keys, {refused}");
        }
        let mut refused = vec!["zerostack's own files and keys"];
        if let Subject::Command(_) = subject {
            refused.push("the network");
            refused.push("credentials such as ~/.ssh");
            if policy.view.home == ViewHome::Empty {
                refused.push("your home directory");
            }
            match policy.command.granted {
                WorkspaceView::ReadWrite => refused.push("changes outside the workspace"),
                WorkspaceView::Copy => refused.push("changes to the workspace: it works on a copy"),
                WorkspaceView::ReadOnly | WorkspaceView::None => {
                    refused.push("changes to any file");
                }
            }
        } else if let Subject::Name(_) = subject {
            // The one file of them that the question is about is the only one.
            refused = vec!["every other file, zerostack's own among them"];
        } else if let Subject::Path(_) = subject {
            refused.push("every other file");
        }
        refused.join(", ")
    }
}

/// What a call says besides its subject; what a change writes only if no diff shows it.
fn more_arguments(call: &ToolCall, subject: &Subject, has_diff: bool) -> Vec<(String, String)> {
    let subject: &[&str] = match subject {
        Subject::Command(_) => &["command"],
        Subject::Path(_) if has_diff => &["path", "content", "edits"],
        Subject::Path(_) => &["path"],
        Subject::Name(_) if has_diff => &["file", "text", "replaces"],
        Subject::Name(_) => &["file"],
        Subject::Nothing => &[],
    };
    let arguments: Map<String, Value> = serde_json::from_str(&call.arguments).unwrap_or_default();
    let others = arguments.into_iter().filter(|(name, _)| !subject.contains(&&**name));
    others
        .map(|(name, value)| match value {
            Value::String(text) => (name, text),
            other => (name, format!("{other:#}")),
        })
        .collect()
}

/// A rule for the same program and its sub-command with other arguments: only for one simple command.
fn wider_command(command: &str) -> Option<String> {
    let shell = analyse(command);
    let [words] = &shell.commands[..] else { return None };
    let words: Vec<&str> = words.iter().map(Option::as_deref).collect::<Option<_>>()?;
    let plain = shell.plain && words.len() > 1 && !words[1].starts_with('-');
    let simple = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_.+/".contains(c))
    };
    (plain && words[..2].iter().all(|word| simple(word)))
        .then(|| format!("bash({} {} *)", words[0], words[1]))
}

#[cfg(test)]
mod tests {
    use super::wider_command;

    #[test]
    fn a_wider_rule_is_only_offered_for_one_plain_command() {
        assert_eq!(wider_command("cargo test --lib x").as_deref(), Some("bash(cargo test *)"));
        for command in
            ["cargo test; rm x", "ls", "rm -rf x", "a $(b) c", "x > y z", "cargo 'a*b' c"]
        {
            assert_eq!(wider_command(command), None, "{command}");
        }
    }
}
