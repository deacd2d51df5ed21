//! Earlier prompts of all sessions, one JSON string a line, readable by the user alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::supervisor::Host;

/// How many are brought back.
const KEPT: usize = 500;

/// The newest prompts, the newest last. A history that cannot be read is an empty one.
pub fn load(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.history_file()).unwrap_or_default();
    let all: Vec<String> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let first = all.len().saturating_sub(KEPT);
    all[first..].to_vec()
}

/// Adds a prompt. Not being able to is no reason not to answer it.
pub fn add(host: &Host, prompt: &str) {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    if let (Ok(mut file), Ok(line)) =
        (options.open(host.history_file()), serde_json::to_string(prompt))
    {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
