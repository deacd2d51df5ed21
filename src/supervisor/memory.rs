//! The memory tools. The supervisor runs them itself: the files are the user's own, and no cell sees
//! them.

use super::broker::{Broker, arguments, error};
use crate::agent::{ToolResult, ToolStatus};
use crate::memory::Memory;
use crate::model::ToolCall;
use crate::policy::{Decision, Subject};
use crate::tools::{self, MemoryRead, MemorySearch, MemoryWrite};

impl Broker {
    /// The memory, unless it is switched off.
    pub fn memory(&self) -> Option<&Memory> {
        self.options.memory.as_ref()
    }

    fn memory_or_why(&self) -> Result<&Memory, String> {
        self.memory().ok_or_else(|| "memory is switched off".into())
    }

    /// Which file a call is about.
    pub(super) fn memory_subject(&self, call: &ToolCall) -> Result<Subject, String> {
        let file = match call.name.as_str() {
            "memory_write" => Some(arguments::<MemoryWrite>(call)?.file),
            "memory_read" => arguments::<MemoryRead>(call)?.file,
            _ => None,
        };
        let Some(file) = file else { return Ok(Subject::Nothing) };
        let name = self.memory_or_why()?.name(&file).map_err(|error| error.to_string())?;
        Ok(Subject::Name(name))
    }

    /// What a call of `memory_write` would change.
    pub(super) fn memory_preview(&self, call: &ToolCall, name: &str) -> Option<String> {
        let MemoryWrite { text, replaces, .. } = arguments(call).ok()?;
        let changed = self.memory()?.change(name, &text, replaces.as_deref()).ok()?;
        // A yes is to this change of the file as it is now.
        self.shown.borrow_mut().insert(call.id.clone(), changed.before.clone());
        Some(tools::diff(name, &changed.before, &changed.after))
    }

    pub(super) fn remember_or_recall(&self, call: &ToolCall, subject: &Subject) -> ToolResult {
        self.memory_outcome(call, subject)
            .map_or_else(error, |text| ToolResult::new(ToolStatus::Ok, text))
    }

    fn memory_outcome(&self, call: &ToolCall, subject: &Subject) -> Result<String, String> {
        let memory = self.memory_or_why()?;
        // What may not be read, or not without a question, is not shown in another way either.
        let may = |name: &str| {
            let read = ToolCall { name: "memory_read".into(), ..call.clone() };
            let decision = self.decide(&read, &Subject::Name(name.to_owned()));
            matches!(decision, Decision::Allow { .. } | Decision::Grant { .. })
        };
        match (call.name.as_str(), subject) {
            ("memory_write", Subject::Name(name)) => {
                let MemoryWrite { text, replaces, .. } = arguments(call)?;
                let shown = self.shown.borrow_mut().remove(&call.id);
                let changed = memory.write(name, &text, replaces.as_deref(), shown.as_deref());
                let changed = changed.map_err(|error| error.to_string())?;
                if !may(name) {
                    return Ok(format!("{name} is written"));
                }
                Ok(tools::diff(name, &changed.before, &changed.after))
            }
            ("memory_read", Subject::Name(name)) => {
                memory.read(name).map_err(|error| error.to_string())
            }
            ("memory_read", _) => Ok(match memory.list() {
                files if !files.iter().any(|(name, _)| may(name)) => {
                    "nothing is remembered yet".into()
                }
                files => {
                    let line = |(name, bytes): &(String, u64)| format!("{name} ({bytes} bytes)");
                    files
                        .iter()
                        .filter(|(name, _)| may(name))
                        .map(line)
                        .collect::<Vec<_>>()
                        .join("\n")
                }
            }),
            _ => Ok(memory.search(&arguments::<MemorySearch>(call)?.words, may)),
        }
    }
}
