//! Errors become words here, with a hint and an exit code.

use std::fmt;

/// Exit codes, as `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    Done,
    Error,
    Usage,
    Model,
    Denied,
    Limit,
    CheckFailed,
    CannotConfine,
    Interrupted,
}

impl ExitKind {
    pub fn code(self) -> u8 {
        match self {
            ExitKind::Done => 0,
            ExitKind::Error => 1,
            ExitKind::Usage => 2,
            ExitKind::Model => 3,
            ExitKind::Denied => 4,
            ExitKind::Limit => 5,
            ExitKind::CheckFailed => 6,
            ExitKind::CannotConfine => 7,
            ExitKind::Interrupted => 130,
        }
    }

    /// The word for it in JSON output.
    pub fn status(self) -> &'static str {
        match self {
            ExitKind::Done => "done",
            ExitKind::Error | ExitKind::Usage | ExitKind::CannotConfine => "error",
            ExitKind::Model => "model-failed",
            ExitKind::Denied => "denied",
            ExitKind::Limit => "limit",
            ExitKind::CheckFailed => "check-failed",
            ExitKind::Interrupted => "interrupted",
        }
    }
}

/// An error for a person: what happened, what to do, how the program exits.
#[derive(Debug, Clone)]
pub struct Report {
    pub kind: ExitKind,
    pub message: String,
    pub hint: Option<String>,
}

impl Report {
    pub fn new(kind: ExitKind, message: impl fmt::Display) -> Report {
        Report { kind, message: message.to_string(), hint: None }
    }

    pub fn error(message: impl fmt::Display) -> Report {
        Report::new(ExitKind::Error, message)
    }

    pub fn usage(message: impl fmt::Display) -> Report {
        Report::new(ExitKind::Usage, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Report {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
