//! Commands that run on in their cells while the model goes on. They end with the session.

use std::fs::File;
use std::io;
use std::time::Duration;

use zerostack_sandbox::{Exit, StartError};

use super::cells::Running;
use super::outputs::last_lines;

/// Most jobs of one session.
const JOB_LIMIT: usize = 16;
/// How much of a job's output is shown, from its end, bytes.
const SHOWN: usize = 12 * 1024;
const WAIT_LIMIT: u64 = 120;

/// The background commands of a session.
#[derive(Debug, Default)]
pub struct Jobs(Vec<Job>);

#[derive(Debug)]
struct Job {
    command: String,
    running: Option<Running>,
    output: File,
    ending: String,
}

impl Jobs {
    pub fn has_room(&self) -> bool {
        self.0.iter().filter(|job| job.running.is_some()).count() < JOB_LIMIT
    }

    /// Takes over a started command that writes to `output`; returns its number.
    pub fn add(&mut self, command: String, running: Running, output: File) -> usize {
        self.0.push(Job { command, running: Some(running), output, ending: String::new() });
        self.0.len()
    }

    pub async fn list(&mut self) -> String {
        let mut lines = Vec::new();
        for (number, job) in self.0.iter_mut().enumerate() {
            job.wait(Duration::ZERO).await;
            lines.push(format!("{} {}: {}", number + 1, job.status(), job.command));
        }
        if lines.is_empty() { "No background commands.".into() } else { lines.join("\n") }
    }

    /// The end of a job's output and how it is; waits for it, or ends it, if that is wanted.
    pub async fn look(&mut self, id: u64, wait: Option<u64>, stop: bool) -> Result<String, String> {
        let job = usize::try_from(id).ok().and_then(|id| self.0.get_mut(id.wrapping_sub(1)));
        let job = job.ok_or_else(|| format!("there is no background command {id}"))?;
        if stop {
            job.stop();
        } else {
            job.wait(Duration::from_secs(wait.unwrap_or(0).min(WAIT_LIMIT))).await;
        }
        let output = last_lines(&mut job.output, SHOWN)
            .map_err(|error: io::Error| format!("its output cannot be read: {error}"))?;
        let line = if output.is_empty() || output.ends_with('\n') { "" } else { "\n" };
        Ok(format!("{output}{line}({})", job.status()))
    }
}

impl Job {
    fn status(&self) -> &str {
        if self.running.is_some() { "running" } else { &self.ending }
    }

    async fn wait(&mut self, limit: Duration) {
        let Some(running) = &self.running else { return };
        let Ok(ended) =
            tokio::time::timeout(limit.max(Duration::from_millis(5)), running.exit()).await
        else {
            return;
        };
        self.ending = ending(&ended);
        self.running = None;
    }

    /// Dropping the cell kills everything in it.
    fn stop(&mut self) {
        if self.running.take().is_some() {
            self.ending = "stopped".into();
        }
    }
}

fn ending(ended: &Result<Exit, StartError>) -> String {
    match ended {
        Ok(Exit::Code(code)) => format!("exit {code}"),
        Ok(Exit::Signal(signal)) => format!("killed by signal {signal}"),
        Err(failure) => format!("lost: {failure}"),
    }
}
