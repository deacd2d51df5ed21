//! Making a conversation shorter: which messages stay, and what is asked of the model about the rest.

use std::fmt::Write;

use serde_json::Value;

use super::Settings;
use crate::model::{Message, Request, Thinking};

/// Longest piece of one message that the summary is made from, characters.
const PIECE: usize = 4_000;
/// Characters of the whole that the summary is made from where the window is not known.
const UNKNOWN_WINDOW: u64 = 60_000;
/// Longest part of the user's request that is repeated, characters.
const PROMPT: usize = 40_000;
/// How a summary begins, and its line of files.
const HEADING: &str = "Summary of the conversation up to here:";
const FILES_HEADING: &str = "Files seen or changed so far: ";
/// Most names of files that a summary lists.
const FILES: usize = 60;

const INSTRUCTIONS: &str = include_str!("../../prompts/compact.md");

/// Tokens of a text, roughly: what is not yet counted by the provider.
pub(super) fn estimate(text: &str) -> u64 {
    text.len() as u64 / 4 + 1
}

pub(super) fn size(message: &Message) -> u64 {
    // An image costs about this much, whatever its bytes are.
    let attached = |attachments: &[crate::model::Attachment]| attachments.len() as u64 * 1_500;
    4 + match message {
        Message::System { text } => estimate(text),
        Message::User { text, attachments } | Message::Tool { text, attachments, .. } => {
            estimate(text) + attached(attachments)
        }
        Message::Assistant { text, calls, native } => {
            let calls: u64 = calls.iter().map(|call| estimate(&call.arguments) + 10).sum();
            let native = native.as_ref().map_or(0, |native| {
                native.parts.iter().map(|part| estimate(&part.to_string())).sum()
            });
            (estimate(text) + calls).max(native)
        }
    }
}

/// The first message that stays as it is. A result never stays without its call.
pub(super) fn cut(messages: &[Message], keep: u64) -> usize {
    let whole: u64 = messages.iter().map(size).sum();
    // Keeping more than half would soon have to be done again.
    let keep = keep.min(whole / 2);
    let mut kept = 0;
    let mut cut = messages.len();
    for (at, message) in messages.iter().enumerate().rev() {
        kept += size(message);
        if kept > keep {
            break;
        }
        if !matches!(message, Message::Tool { .. }) {
            cut = at;
        }
    }
    cut
}

/// The request for a summary of `dropped`.
pub(super) fn request(settings: &Settings, dropped: &[Message]) -> Request {
    let limit = settings.window.map_or(UNKNOWN_WINDOW, |window| window * 2) as usize;
    Request {
        model: settings.model.clone(),
        messages: vec![
            Message::System { text: INSTRUCTIONS.into() },
            Message::user(transcript(dropped, limit)),
        ],
        tools: Vec::new(),
        max_tokens: settings.max_tokens,
        temperature: None,
        thinking: Thinking::Auto,
        ability: settings.ability,
        window: settings.window,
        cache_key: None,
    }
}

/// What was said, as text: no protocol has rules about that. The middle goes first.
fn transcript(messages: &[Message], limit: usize) -> String {
    let mut pieces = Vec::new();
    for message in messages {
        match message {
            Message::System { .. } => {}
            // An earlier summary is all that is left of what it stands for.
            Message::User { text, .. } if text.starts_with(HEADING) => pieces.push(text.clone()),
            Message::User { text, .. } => pieces.push(format!("USER: {}", piece(text, PIECE))),
            Message::Tool { text, .. } => pieces.push(format!("RESULT: {}", piece(text, PIECE))),
            Message::Assistant { text, calls, .. } => {
                let mut said = format!("ASSISTANT: {}", piece(text, PIECE));
                for call in calls {
                    let _ = write!(said, "\nCALL: {} {}", call.name, piece(&call.arguments, PIECE));
                }
                pieces.push(said);
            }
        }
    }
    let mut total: usize = pieces.iter().map(String::len).sum();
    while total > limit && pieces.len() > 2 {
        total -= pieces.remove(pieces.len() / 2).len();
    }
    pieces.join("\n\n")
}

fn piece(text: &str, most: usize) -> String {
    let half = most / 2;
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(length - half).collect();
    format!("{head}\n[…]\n{tail}")
}

/// Whether a message stands for what was said before it.
pub fn is_summary(text: &str) -> bool {
    text.starts_with(HEADING)
}

/// The message that stands for `dropped` from now on. `prompt` is what the user wants of this run.
pub(super) fn summary(
    model_says: &str,
    dropped: &[Message],
    kept: &[Message],
    prompt: &str,
) -> String {
    let mut text = format!("{HEADING}\n\n{}\n", model_says.trim());
    let files = files(dropped);
    if !files.is_empty() {
        let _ = write!(text, "\n{FILES_HEADING}{}.\n", files.join(", "));
    }
    let is_prompt =
        |message: &Message| matches!(message, Message::User { text, .. } if text == prompt);
    if !kept.iter().any(is_prompt) && !prompt.is_empty() {
        let prompt = piece(prompt, PROMPT);
        let _ = write!(text, "\nThe user's present request, go on with it:\n{prompt}\n");
    }
    text
}

/// Paths that calls were about, the newest last.
fn files(messages: &[Message]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for message in messages {
        if let Message::User { text, .. } = message
            && text.starts_with(HEADING)
        {
            let earlier = text.lines().find_map(|line| line.strip_prefix(FILES_HEADING));
            let earlier = earlier.unwrap_or_default().trim_end_matches('.');
            found.extend(earlier.split(", ").filter(|name| !name.is_empty()).map(str::to_owned));
        }
        let Message::Assistant { calls, .. } = message else { continue };
        for call in
            calls.iter().filter(|call| matches!(call.name.as_str(), "read" | "write" | "edit"))
        {
            let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
            if let Some(path) = arguments["path"].as_str() {
                found.retain(|known| known != path);
                found.push(path.to_owned());
            }
        }
    }
    let first = found.len().saturating_sub(FILES);
    found.split_off(first)
}
