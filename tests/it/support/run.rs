//! One run of the program, and what came out of it.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::World;

/// Nothing that is tested takes this long: a run that does is killed and fails.
pub const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Run<'w> {
    world: &'w World,
    args: Vec<String>,
    prompt: Option<String>,
    env: Vec<(String, String)>,
    stdin: Option<String>,
    directory: PathBuf,
}

impl<'w> Run<'w> {
    pub fn new(world: &'w World) -> Run<'w> {
        Run {
            world,
            args: Vec::new(),
            prompt: None,
            env: Vec::new(),
            stdin: None,
            directory: world.workspace(),
        }
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// `-p PROMPT`, put after every other argument.
    pub fn prompt(mut self, prompt: &str) -> Self {
        self.prompt = Some(prompt.to_owned());
        self
    }

    pub fn json(self) -> Self {
        self.args(&["--output-format", "json"])
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.to_owned());
        self
    }

    pub fn in_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = directory.as_ref().to_owned();
        self
    }

    /// Starts the program with its output piped; see [`wait`].
    pub fn spawn(self) -> Child {
        let home = self.world.home();
        let account = self.world.account();
        let mut command = account.command(&self.world.program());
        command
            .args(&self.args)
            .current_dir(&self.directory)
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_DATA_HOME", home.join(".local/share"))
            .env("XDG_STATE_HOME", home.join(".local/state"))
            .env("XDG_CACHE_HOME", home.join(".cache"))
            .env("USER", account.name())
            .env("LANG", "C.UTF-8")
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(prompt) = &self.prompt {
            command.args(["-p", prompt]);
        }
        if self.stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("the program starts");
        if let (Some(text), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A program that does not read its input is no fault of the pipe's.
            thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        child
    }

    pub fn run(self) -> Output {
        wait(self.spawn())
    }
}

/// Waits for a program made by [`Run::spawn`]; kills it and panics after [`LIMIT`].
pub fn wait(mut child: Child) -> Output {
    let end = Instant::now() + LIMIT;
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "still running after {LIMIT:?}\n--- stdout\n{}\n--- stderr\n{}",
                text(&stdout),
                text(&stderr)
            );
        }
        thread::sleep(Duration::from_millis(5));
    };
    Output {
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
        stdout: text(&stdout),
        stderr: text(&stderr),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (done, result) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = done.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    result
}

/// The program has ended, so its pipes end too, unless it left something behind.
fn text(pipe: &Receiver<String>) -> String {
    pipe.recv_timeout(Duration::from_secs(5))
        .expect("the program ended and something it started still holds its output open")
}

#[derive(Clone, Debug)]
pub struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts the exit status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Output {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// The one JSON value that standard output is.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// One JSON value a line.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{self}"))
            })
            .collect()
    }

    /// The entry of the JSON result for the call with this id.
    #[track_caller]
    pub fn call(&self, id: &str) -> Value {
        let result = self.json();
        let calls = result["tool_calls"].as_array().unwrap();
        let found = calls.iter().find(|call| call["id"] == id);
        found.unwrap_or_else(|| panic!("no call {id}\n{self}")).clone()
    }

    /// The status of that call: `ok`, `error` or `denied`.
    #[track_caller]
    pub fn fate(&self, id: &str) -> String {
        self.call(id)["status"].as_str().unwrap().to_owned()
    }

    /// Asserts that standard error says this.
    #[track_caller]
    pub fn says(self, words: &str) -> Output {
        assert!(self.stderr.contains(words), "stderr lacks {words:?}\n{self}");
        self
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}
