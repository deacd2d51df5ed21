//! Commands that run on in their cells while the model goes on. They end with the session.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zerostack_sandbox::{Exit, StartError};

use super::cells::Running;

/// Most jobs that run at once.
const JOB_LIMIT: usize = 16;
/// How much of a job's output is shown, from its end, bytes.
const SHOWN: usize = 12 * 1024;
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// The background commands of a session.
#[derive(Debug, Default)]
pub struct Jobs(RefCell<Vec<Job>>);

#[derive(Debug)]
struct Job {
    command: String,
    /// Nothing once it has ended, or was stopped.
    running: Option<Rc<Running>>,
    output: Arc<Mutex<Tail>>,
    ending: String,
}

/// The end of an output.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl Tail {
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(SHOWN);
        self.bytes.drain(..excess);
        self.dropped += excess as u64;
    }

    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match self.dropped {
            0 => text,
            dropped => format!("… {dropped} bytes left out …\n{text}"),
        }
    }
}

impl Jobs {
    pub fn has_room(&self) -> bool {
        self.running() < JOB_LIMIT
    }

    /// How many have not ended.
    pub fn running(&self) -> usize {
        self.look_around();
        self.0.borrow().iter().filter(|job| job.running.is_some()).count()
    }

    /// Ends all of them.
    pub fn stop_all(&self) {
        self.0.borrow_mut().iter_mut().for_each(Job::stop);
    }

    /// Takes over a started command that writes into a pipe; returns its number. A thread reads it all
    /// the time, so that the command never waits, and keeps no more than is ever shown.
    pub fn add(&self, command: String, running: Running, mut pipe: File) -> usize {
        let (running, output) = (Some(Rc::new(running)), Arc::new(Mutex::new(Tail::default())));
        let kept = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                if let Ok(mut kept) = kept.lock() {
                    kept.add(&buffer[..length]);
                }
            }
        });
        let mut jobs = self.0.borrow_mut();
        jobs.push(Job { command, running, output, ending: String::new() });
        jobs.len()
    }

    /// Notes which jobs have ended by now.
    fn look_around(&self) {
        for job in self.0.borrow_mut().iter_mut() {
            let ended = job.running.as_ref().and_then(|running| running.exit_now());
            if let Some(ended) = ended {
                job.end(&ended);
            }
        }
    }

    pub fn list(&self) -> String {
        self.look_around();
        let jobs = self.0.borrow();
        let line = |(number, job): (usize, &Job)| {
            let command = job.command.replace('\n', " ⏎ ");
            format!("{} {}: {command}", number + 1, job.status())
        };
        let lines: Vec<String> = jobs.iter().enumerate().map(line).collect();
        if lines.is_empty() { "No background commands.".into() } else { lines.join("\n") }
    }

    /// The end of a job's output and how it is; waits for it, or ends it, if that is wanted. Others can
    /// be looked at, and this one stopped, while it waits.
    pub async fn look(&self, id: u64, wait: Option<u64>, stop: bool) -> Result<String, String> {
        let at = usize::try_from(id).unwrap_or_default().wrapping_sub(1);
        let running = match self.0.borrow_mut().get_mut(at) {
            None => return Err(format!("there is no background command {id}")),
            Some(job) if stop => {
                job.stop();
                None
            }
            Some(job) => job.running.clone(),
        };
        if let (Some(running), Some(seconds)) = (running, wait) {
            let limit = Duration::from_secs(seconds).min(WAIT_LIMIT);
            if let Ok(ended) = tokio::time::timeout(limit, running.exit()).await
                && let Some(job) = self.0.borrow_mut().get_mut(at)
            {
                job.end(&ended);
            }
        }
        self.look_around();
        let jobs = self.0.borrow();
        let job = jobs.get(at).ok_or("the command is gone")?;
        let output = job.output.lock().map(|output| output.text()).unwrap_or_default();
        let line = if output.is_empty() || output.ends_with('\n') { "" } else { "\n" };
        Ok(format!("{output}{line}({})", job.status()))
    }
}

impl Job {
    fn status(&self) -> &str {
        if self.running.is_some() { "running" } else { &self.ending }
    }

    fn end(&mut self, ended: &Result<Exit, StartError>) {
        if self.running.take().is_some() {
            self.ending = match ended {
                Ok(Exit::Code(code)) => format!("exit {code}"),
                Ok(Exit::Signal(signal)) => format!("killed by signal {signal}"),
                Err(failure) => format!("lost: {failure}"),
            };
        }
    }

    /// Kills everything in the cell.
    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
            self.ending = "stopped".into();
        }
    }
}
