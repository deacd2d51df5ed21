//! `--loop`: the same task again and again, each time with a fresh conversation, until a check passes.

use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use crate::agent::{AgentEvent, Outcome, ToolStatus};
use crate::cli::RunFlags;
use crate::report::Report;
use crate::supervisor::{RunResult, Session, Tell};

/// Longest part of a check's output that the next round is told, characters.
const OUTPUT: usize = 12_000;

/// A loop as it was typed.
#[derive(Debug)]
pub struct Rounds {
    task: String,
    plan: String,
    most: Option<u64>,
    check: Option<String>,
    /// After the present round it is enough.
    enough: Cell<bool>,
}

/// How a loop ended: its last run, and whether the check passed, if there is one.
pub struct Ended {
    pub result: RunResult,
    pub rounds: u64,
    pub passed: Option<bool>,
}

impl Rounds {
    /// What the flags ask for, if they ask for a loop. `prompt` is what was typed or piped besides.
    pub fn of(flags: &RunFlags, prompt: &str) -> Result<Option<Rounds>, Report> {
        if !flags.loop_ {
            return Ok(None);
        }
        let task = flags.loop_prompt.as_deref().unwrap_or(prompt);
        let (most, check) = (flags.loop_max, flags.loop_run.clone());
        Rounds::new(task, &flags.loop_plan, most, check).map(Some).map_err(|report| {
            let flags = "--loop --loop-prompt \"the task\" --loop-run \"cargo test\" --loop-max N";
            report.hint(flags)
        })
    }

    pub fn new(
        task: &str,
        plan: &Path,
        most: Option<u64>,
        check: Option<String>,
    ) -> Result<Rounds, Report> {
        if task.trim().is_empty() {
            return Err(Report::usage("a loop needs a task"));
        }
        if check.is_none() && most.is_none() {
            let needs = "this loop would never end: give it a check or a number of rounds";
            return Err(Report::usage(needs).hint("/loop --max 5 --run \"cargo test\" TASK"));
        }
        let (task, plan) = (task.to_owned(), plan.display().to_string());
        Ok(Rounds { task, plan, most, check, enough: Cell::new(false) })
    }

    /// Ends the loop after the present round.
    pub fn stop(&self) {
        self.enough.set(true);
    }

    fn prompt(&self, round: u64, last: Option<&str>) -> String {
        let of = self.most.map(|most| format!(" of at most {most}")).unwrap_or_default();
        let plan = &self.plan;
        let mut prompt = format!(
            "{}\n\nThis is round {round}{of}; you remember nothing of earlier rounds but what is in the files. Read \
             {plan} first if it is there. Do the next useful step, then write into {plan} what was done and what is \
             left.",
            self.task
        );
        if let (Some(check), Some(last)) = (&self.check, last) {
            let length = last.chars().count();
            let tail: String = last.chars().skip(length.saturating_sub(OUTPUT)).collect();
            prompt.push_str(&format!("\n\nAfter the last round `{check}` failed:\n{tail}"));
        }
        prompt
    }

    /// Goes round until the check passes, the rounds are used up, or a run does not come to its end.
    pub async fn go(
        &self,
        session: &Session,
        tell: Tell<'_>,
        mut cancel: Pin<&mut dyn Future<Output = ()>>,
    ) -> Ended {
        let mut last: Option<String> = None;
        let mut round = 1;
        loop {
            session.earlier.take();
            tell(AgentEvent::Round { number: round });
            let prompt = self.prompt(round, last.as_deref());
            let result = session.run(prompt, Vec::new(), tell, cancel.as_mut()).await;
            if !matches!(result.outcome, Outcome::Done { .. }) {
                return Ended { result, rounds: round, passed: None };
            }
            let mut passed = None;
            if let Some(check) = &self.check {
                let checked = tokio::select! {
                    checked = session.shell(check) => checked,
                    () = cancel.as_mut() => {
                        let result = RunResult { outcome: Outcome::Cancelled, ..result };
                        return Ended { result, rounds: round, passed: None };
                    }
                };
                // It is denied in the next round too.
                if checked.status == ToolStatus::Denied {
                    tell(AgentEvent::Notice {
                        text: format!("the check is denied: {}", checked.text),
                    });
                    return Ended { result, rounds: round, passed: Some(false) };
                }
                let well = checked.status == ToolStatus::Ok;
                let word = if well { "passed" } else { "failed" };
                tell(AgentEvent::Notice { text: format!("the check {word} after round {round}") });
                passed = Some(well);
                last = Some(checked.text);
            }
            let enough = passed == Some(true) || self.enough.get();
            if enough || self.most.is_some_and(|most| round >= most) {
                return Ended { result, rounds: round, passed };
            }
            round += 1;
        }
    }
}
