//! Doom loops: a model that makes the same call again and again.

use std::collections::{HashMap, VecDeque};

use crate::model::ToolCall;

/// Calls that are remembered. A-B-A-B is seen because the window counts, not the last call.
const WINDOW: usize = 12;
const WARN_AT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fresh,
    /// Run it, and tell the model.
    Warn,
    /// It needs a yes now, in every mode.
    Stop,
}

#[derive(Debug, Default)]
pub struct Repeats {
    seen: VecDeque<(String, String)>,
    /// By tool: the error it last ended with, and how often in a row.
    errors: HashMap<String, (String, usize)>,
}

impl Repeats {
    /// Notes a call; says what to do with it and how often it has been made.
    pub fn see(&mut self, call: &ToolCall) -> (Verdict, usize) {
        let key = (call.name.clone(), call.arguments.split_whitespace().collect());
        self.seen.push_back(key.clone());
        if self.seen.len() > WINDOW {
            self.seen.pop_front();
        }
        let times = self.seen.iter().filter(|seen| **seen == key).count();
        let failed = self.errors.get(&call.name).map_or(0, |(_, times)| *times);
        let verdict = match times {
            _ if failed >= WARN_AT => Verdict::Stop,
            0..WARN_AT => Verdict::Fresh,
            WARN_AT => Verdict::Warn,
            _ => Verdict::Stop,
        };
        (verdict, times.max(failed))
    }

    /// Notes how a call ended; a warning if the tool keeps failing in the same way.
    pub fn ended(&mut self, call: &ToolCall, failed: bool, text: &str) -> Option<String> {
        if !failed {
            self.errors.remove(&call.name);
            if matches!(call.name.as_str(), "write" | "edit") {
                // After a change, the same test is another test.
                self.seen.retain(|(name, _)| matches!(name.as_str(), "write" | "edit"));
            }
            return None;
        }
        // The exit of a command is an answer, often the same one: only its words make it an error.
        if call.name == "bash" && text.lines().count() < 2 {
            return None;
        }
        let (error, times) = self.errors.entry(call.name.clone()).or_default();
        if error != text {
            *error = text.to_owned();
            *times = 0;
        }
        *times += 1;
        (*times == WARN_AT)
            .then(|| format!("(This same error has come {times} times. Try something else.)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_same_call_warns_and_the_fourth_stops_also_when_alternating() {
        let call = |arguments: &str| ToolCall {
            id: "1".into(),
            name: "read".into(),
            arguments: arguments.into(),
        };
        let mut repeats = Repeats::default();
        let mut verdicts = Vec::new();
        for _ in 0..4 {
            verdicts.push(repeats.see(&call("{ }")).0);
            repeats.see(&call("{\"b\":1}"));
        }
        assert_eq!(verdicts, [Verdict::Fresh, Verdict::Fresh, Verdict::Warn, Verdict::Stop]);
    }
}
