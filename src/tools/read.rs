//! `read`: the text of a file with line numbers.

use std::fmt::Write;
use std::os::fd::OwnedFd;

use base64::Engine;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Outcome, Roots, arguments, fault, hashedit, place};
use crate::wire::{Call, Output};

const DEFAULT_LINES: usize = 2000;
const LINE_LIMIT: usize = 2000;
const TEXT_LIMIT: usize = 64 * 1024;
/// Largest image or document, bytes.
const ATTACHMENT_LIMIT: usize = 5 * 1024 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the path is resolved by the supervisor")]
pub struct Arguments {
    path: String,
    /// First line, from 1.
    #[serde(default)]
    offset: Option<usize>,
    /// Number of lines, default 2000.
    #[serde(default)]
    limit: Option<usize>,
}

pub fn run(call: &Call, roots: &Roots, passed: Option<OwnedFd>) -> Outcome {
    let arguments: Arguments = arguments(call)?;
    let file = place::open_to_read(call, roots, passed)?;
    let bytes = place::read_bytes(call, &file)?;
    if let Some(media_type) = media_type(&bytes) {
        return attach(call, media_type, &bytes);
    }
    let content = place::text_of(call, bytes)?;
    let text = page(&content, arguments.offset, arguments.limit, call.hashed).map_err(fault)?;
    let hash = Some(roots.memory.borrow_mut().remember(&content));
    Ok(Output { text, hash, ..Output::default() })
}

/// Lines with their numbers, and how to go on.
pub fn page(
    content: &str,
    offset: Option<usize>,
    limit: Option<usize>,
    hashed: bool,
) -> Result<String, String> {
    let first = offset.unwrap_or(1).max(1);
    let total = content.lines().count();
    if content.is_empty() {
        return Ok("(the file is empty)".into());
    }
    if first > total {
        return Err(format!("offset {first} is beyond the end: {total} lines"));
    }
    let most = limit.unwrap_or(DEFAULT_LINES).max(1);
    let mut shown = String::new();
    let mut last = first - 1;
    for (index, line) in content.lines().enumerate().skip(first - 1).take(most) {
        if shown.len() > TEXT_LIMIT {
            break;
        }
        let _ = match hashed {
            true => write!(shown, "{}\t", hashedit::anchor(index + 1, line)),
            false => write!(shown, "{:>5}\t", index + 1),
        };
        let cut = line.char_indices().nth(LINE_LIMIT).map(|(at, _)| at);
        let _ = match cut {
            None => writeln!(shown, "{line}"),
            Some(at) => writeln!(shown, "{} … (line cut)", &line[..at]),
        };
        last = index + 1;
    }
    if last < total {
        let next = last + 1;
        let _ = writeln!(shown, "({total} lines in all; go on with offset {next})");
    }
    Ok(shown)
}

/// The kind of an image or document, by its first bytes.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 5] = [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"%PDF-", "application/pdf"),
    ];
    let riff = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    let kind = kinds.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind);
    kind.or(riff.then_some("image/webp"))
}

fn attach(call: &Call, media_type: &str, bytes: &[u8]) -> Outcome {
    let image = media_type.starts_with("image/");
    if !(if image { call.takes.images } else { call.takes.documents }) {
        let what = if image { "an image" } else { "a PDF" };
        return Err(fault(format!("{} is {what}, which this model does not take", call.shown)));
    }
    if bytes.len() > ATTACHMENT_LIMIT {
        return Err(fault(format!("{} is larger than 5 MiB", call.shown)));
    }
    let data = base64::engine::general_purpose::STANDARD.encode(bytes);
    let text = format!("{} ({media_type}, {} bytes)", call.shown, bytes.len());
    Ok(Output { text, attachment: Some((media_type.to_owned(), data)), ..Output::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        assert_eq!(media_type(b"\x89PNG\r\n\x1a\nrest"), Some("image/png"));
        assert_eq!(media_type(b"RIFF1234WEBPVP8"), Some("image/webp"));
        assert_eq!(media_type(b"%PDF-1.7"), Some("application/pdf"));
        assert_eq!(media_type(b"hello"), None);
    }

    #[test]
    fn pages_end_with_the_way_on() {
        let text = page("a\nb\nc\n", Some(2), Some(1), false).unwrap();
        assert_eq!(text, "    2\tb\n(3 lines in all; go on with offset 3)\n");
        assert!(page("a\n", Some(2), None, false).is_err());
    }
}
