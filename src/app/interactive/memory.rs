//! `/memory`: what is remembered, looked at and changed by the user.

use super::Ui;
use crate::memory::{Memory, MemoryError};
use crate::supervisor::{Host, Session};

const USAGE: &str = "/memory [FILE], /memory search WORDS, /memory remember TEXT, /memory edit FILE, /memory forget FILE";

impl Ui {
    pub(super) fn memory(&mut self, session: &Session, arguments: &str) {
        let Some(memory) = session.broker.memory() else {
            return self.state.notice("memory is switched off: memory = true in config.toml");
        };
        let (verb, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let outcome = match (verb, rest.trim()) {
            ("", _) => Ok(Said::Page(listed(memory))),
            ("search", words) if !words.is_empty() => {
                Ok(Said::Page(memory.search(words, |_| true)))
            }
            ("remember", text) if !text.is_empty() => {
                let written = memory.write("MEMORY.md", text, None, None);
                written.map(|_| Said::Notice("remembered in MEMORY.md, for later sessions".into()))
            }
            ("forget", file) if !file.is_empty() => memory.name(file).and_then(|name| {
                memory.forget(&name)?;
                Ok(Said::Notice(format!("{name} is removed")))
            }),
            ("search" | "remember" | "forget", _) => Ok(Said::Notice(USAGE.into())),
            ("edit", _) => Ok(Said::Notice("/memory edit FILE, while no agent runs".into())),
            (file, "") => memory.name(file).and_then(|name| {
                let text = memory.read(&name)?;
                Ok(Said::Page(format!("{name}\n\n{text}")))
            }),
            _ => Ok(Said::Notice(USAGE.into())),
        };
        match outcome {
            Ok(Said::Page(words)) => self.state.page(&words),
            Ok(Said::Notice(words)) => self.state.notice(&words),
            Err(error) => self.state.notice(&error.to_string()),
        }
    }

    /// Opens the user's editor on a file of the memory.
    pub(super) fn edit_memory(&mut self, session: &Session, file: &str) {
        let Some(memory) = session.broker.memory() else { return self.memory(session, "") };
        let words = match self.edited_memory(memory, file, session.broker.host()) {
            Ok(words) => words,
            Err(error) => error.to_string(),
        };
        self.state.notice(&words);
    }

    fn edited_memory(
        &mut self,
        memory: &Memory,
        file: &str,
        host: &Host,
    ) -> Result<String, MemoryError> {
        let name = memory.name(file)?;
        let before = match memory.whole(&name) {
            Err(MemoryError::Absent(_)) => String::new(),
            other => other?,
        };
        let after = match self.edit(host, &before) {
            Ok(after) if after == before => return Ok(format!("{name} is as it was")),
            Ok(after) => after,
            Err(error) => return Ok(format!("the editor failed: {error}")),
        };
        if let Err(error) = memory.put(&name, &before, &after) {
            // What was written is not lost.
            self.state.input.set(after.trim_end_matches('\n'));
            return Ok(format!("{error}; your text is in the input"));
        }
        Ok(format!("{name} is written; later sessions are told"))
    }
}

enum Said {
    Page(String),
    Notice(String),
}

fn listed(memory: &Memory) -> String {
    let files = memory.list();
    let line = |(name, bytes): &(String, u64)| format!("• {name}, {bytes} bytes");
    let lines: Vec<String> = files.iter().map(line).collect();
    let lines = if lines.is_empty() { "Nothing yet.".into() } else { lines.join("\n") };
    format!(
        "What is remembered from session to session. A session is told MEMORY.md, the scratchpad and \
         the newest day when it begins; the model reads the rest when it needs it.\n{lines}\n\n{USAGE}"
    )
}
