//! Figures of the terminal UI in a pseudo terminal with an emulator behind it: `cargo bench --bench
//! terminal`, or with `-- --quick` for a short one. The emulator runs beside the program on the same
//! machine, so its time is in the figures. With `-- --beside FILE` other agents are measured in the same
//! run: each line of the file is a name, variables as NAME=VALUE, and a command. They find a server at
//! `--port`, which speaks chat completions, Messages and Responses, and work in `--home`
//! (`tests/peers/terminal.sh` installs some and sets them up).

#![allow(clippy::disallowed_methods, reason = "the program is started directly")]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// A screen that has not changed for so long is ready to be typed into.
const STILL: Duration = Duration::from_millis(700);

/// A program to measure.
#[derive(Clone)]
struct Agent {
    name: String,
    variables: Vec<(String, String)>,
    command: Vec<String>,
}

impl Agent {
    fn ours(url: &str) -> Agent {
        let command = [
            env!("CARGO_BIN_EXE_zerostack"),
            "--provider",
            "openai",
            "--api-style",
            "completions",
            "--base-url",
            &format!("{url}/v1"),
            "--model",
            "m",
        ];
        let command = command.map(str::to_owned).to_vec();
        Agent { name: "zerostack".into(), variables: Vec::new(), command }
    }

    /// A line of the file: name, NAME=VALUE…, command.
    fn parse(line: &str) -> Agent {
        let mut words = line.split_whitespace().map(str::to_owned);
        let name = words.next().unwrap();
        let (mut variables, mut command) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some((name, value)) if command.is_empty() => {
                    variables.push((name.to_owned(), value.to_owned()));
                }
                _ => command.push(word),
            }
        }
        Agent { name, variables, command }
    }

    fn with(&self, more: &[&str]) -> Agent {
        let mut agent = self.clone();
        agent.command.extend(more.iter().map(|word| (*word).to_owned()));
        agent
    }
}

struct Shown {
    parser: Mutex<vt100::Parser>,
    changed: Condvar,
}

struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Shown>,
}

impl Terminal {
    fn start(home: &Path, agent: &Agent) -> Terminal {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut command = Command::new(&agent.command[0]);
        command.args(&agent.command[1..]);
        let child = command
            .current_dir(home.join("project"))
            .env_clear()
            .env("HOME", home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm-256color")
            .envs(agent.variables.iter().cloned())
            .stdin(stream())
            .stdout(stream())
            .stderr(stream())
            .spawn()
            .unwrap();
        let (rows, columns) = (NonZero::new(40).unwrap(), NonZero::new(120).unwrap());
        let parser = Mutex::new(vt100::Parser::new(rows, columns, 0));
        let shown = Arc::new(Shown { parser, changed: Condvar::new() });
        let master = File::from(pty.master);
        let (mut reader, screen) = (master.try_clone().unwrap(), shown.clone());
        let mut answers = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                screen.parser.lock().unwrap().process(&buffer[..length]);
                // Some wait for an answer to where the cursor is, and to what kind of terminal it is.
                let asks = |what: &[u8]| buffer[..length].windows(what.len()).any(|it| it == what);
                for (question, answer) in [("\x1b[6n", "\x1b[1;1R"), ("\x1b[c", "\x1b[?62;22c")] {
                    if asks(question.as_bytes()) {
                        let _ = answers.write_all(answer.as_bytes());
                    }
                }
                screen.changed.notify_all();
            }
        });
        Terminal { child, master, shown }
    }

    fn text(&self) -> String {
        self.shown.parser.lock().unwrap().screen().contents()
    }

    /// Time until the screen is as it should be.
    fn until(&self, since: Instant, what: &str, holds: impl Fn(&str) -> bool) -> Duration {
        let mut parser = self.shown.parser.lock().unwrap();
        while !holds(&parser.screen().contents()) {
            assert!(since.elapsed() < LIMIT, "no {what} in\n{}", parser.screen().contents());
            parser = self.shown.changed.wait_timeout(parser, Duration::from_millis(200)).unwrap().0;
        }
        since.elapsed()
    }

    /// Waits until nothing changes any more.
    fn still(&self) {
        let begun = Instant::now();
        let (mut last, mut since) = (self.text(), Instant::now());
        while since.elapsed() < STILL && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(20));
            let text = self.text();
            if text != last {
                (last, since) = (text, Instant::now());
            }
        }
    }

    fn send(&mut self, keys: &str) -> Instant {
        let now = Instant::now();
        self.master.write_all(keys.as_bytes()).unwrap();
        now
    }

    /// From a key to the screen, the median of some letters.
    fn key(&mut self) -> Duration {
        let mut typed = String::new();
        let keys = (0..12).map(|at| {
            // No word of any program.
            typed.push(char::from(b"qzjxkvwqjzxk"[at]));
            let pressed = self.send(&typed[typed.len() - 1..]);
            let took = self.until(pressed, &typed, |text| text.contains(&typed));
            std::thread::sleep(Duration::from_millis(30));
            took
        });
        let took = median(keys.collect());
        self.send("\x15");
        std::thread::sleep(Duration::from_millis(200));
        took
    }

    fn tree(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while at < all.len() {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", all[at]));
            for task in tasks.into_iter().flatten().flatten() {
                let children = std::fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            at += 1;
        }
        all
    }

    fn pss_mib(&self) -> f64 {
        let pss = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        self.tree().into_iter().filter_map(pss).sum::<f64>() / 1024.0
    }

    /// CPU time of all processes, seconds.
    fn cpu(&self) -> f64 {
        let of = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let (_, fields) = stat.rsplit_once(')')?;
            let fields: Vec<f64> =
                fields.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
            Some((fields[11] + fields[12]) / 100.0)
        };
        self.tree().into_iter().filter_map(of).sum()
    }

    /// How often each thread has been put on a processor.
    fn switches(&self) -> HashMap<String, u64> {
        let of = |task: &Path| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            let numbers =
                lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            (task.display().to_string(), numbers.sum())
        };
        let tasks = |pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        let all = self.tree().into_iter().flat_map(tasks).flatten();
        all.map(|task| of(&task.path())).collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for pid in self.tree().into_iter().skip(1) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(name: &str, data: &Value) -> String {
    match name {
        "" => format!("data: {data}\n\n"),
        name => format!("event: {name}\ndata: {data}\n\n"),
    }
}

/// An answer of these pieces in the protocol that a path belongs to.
fn body(path: &str, pieces: &[String]) -> String {
    let mut body = String::new();
    if path.contains("/messages") {
        let usage = json!({"input_tokens": 10, "output_tokens": 1});
        let message = json!({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": usage});
        body += &event("message_start", &json!({"type": "message_start", "message": message}));
        let block = json!({"type": "text", "text": ""});
        let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
        body += &event("content_block_start", &start);
        for piece in pieces {
            let delta = json!({"type": "text_delta", "text": piece});
            let delta = json!({"type": "content_block_delta", "index": 0, "delta": delta});
            body += &event("content_block_delta", &delta);
        }
        body += &event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
        let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
        let usage = json!({"output_tokens": 20});
        let end = json!({"type": "message_delta", "delta": delta, "usage": usage});
        body += &event("message_delta", &end);
        body += &event("message_stop", &json!({"type": "message_stop"}));
    } else if path.contains("/responses") {
        let response =
            json!({"id": "r", "object": "response", "status": "in_progress", "output": []});
        body +=
            &event("response.created", &json!({"type": "response.created", "response": response}));
        let item = |text: &str| {
            json!({"id": "i", "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}]})
        };
        let added =
            json!({"type": "response.output_item.added", "output_index": 0, "item": item("")});
        body += &event("response.output_item.added", &added);
        for piece in pieces {
            let delta = json!({"type": "response.output_text.delta", "item_id": "i", "output_index": 0,
                "content_index": 0, "delta": piece});
            body += &event("response.output_text.delta", &delta);
        }
        let whole = item(&pieces.concat());
        let done = json!({"type": "response.output_item.done", "output_index": 0, "item": whole});
        body += &event("response.output_item.done", &done);
        let usage = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 30});
        let response = json!({"id": "r", "object": "response", "status": "completed",
            "output": [whole], "usage": usage});
        let end = json!({"type": "response.completed", "response": response});
        body += &event("response.completed", &end);
    } else {
        for piece in pieces {
            let choice = json!({"index": 0, "delta": {"content": piece}, "finish_reason": null});
            body += &event("", &json!({"id": "c", "choices": [choice]}));
        }
        let choice = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
        body += &event("", &json!({"id": "c", "choices": [choice]}));
        body += "data: [DONE]\n\n";
    }
    body
}

/// Answers every request that streams with an answer of so many pieces, ten to a line, which ends in
/// `THE-END`.
fn serve(pieces: usize, port: u16) -> String {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let address = listener.local_addr().unwrap();
    let word = |at: usize| if at % 10 == 9 { "word.\n\n".to_owned() } else { "word ".to_owned() };
    let mut all: Vec<String> = (0..pieces).map(word).collect();
    all.push("\n\nTHE-END".into());
    let all = Arc::new(all);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let all = all.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &all));
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream, pieces: &[String]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if line.starts_with("POST") || line.starts_with("GET") {
            line.split_whitespace().nth(1).unwrap_or_default().clone_into(&mut path);
        }
        if line.trim().is_empty() {
            let mut request = vec![0; length];
            reader.read_exact(&mut request).unwrap();
            let request: Value = serde_json::from_slice(&request).unwrap_or_default();
            // One asks a small question of its own, for a title.
            let title =
                path.contains("/messages") && request["tools"].as_array().is_none_or(Vec::is_empty);
            let (kind, body) = match (request["stream"] == true, title) {
                (true, false) => ("text/event-stream", body(&path, pieces)),
                (true, true) => ("text/event-stream", body(&path, &["A title".into()])),
                _ => ("application/json", json!({"data": [], "models": []}).to_string()),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n");
            let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
            length = 0;
        }
        line.clear();
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// A session of so many messages, some of them long; returns its id.
fn long_session(home: &Path, messages: usize) -> String {
    let line = |value: Value| format!("{value}\n");
    let header = json!({"version": 1, "id": "x", "directory": home.join("project")});
    let mut text = line(json!({"t": 1, "session": header}));
    for number in 0..messages / 2 {
        text += &line(json!({"t": 1, "turn": number + 1}));
        let said = json!({"role": "user", "text": format!("question {number}")});
        text += &line(json!({"t": 1, "message": said}));
        let answer = format!(
            "## Answer {number}\n\nSome *words* about it, more than fit into one line of a screen that is not very \
             wide.\n\n- one\n- two\n\n```rust\nlet x = {number};\n```\n"
        );
        text +=
            &line(json!({"t": 1, "message": {"role": "assistant", "text": answer, "calls": []}}));
    }
    let file = home.join("long.jsonl");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_zerostack"))
        .args(["sessions", "import"])
        .arg(&file)
        .current_dir(home.join("project"))
        .env_clear()
        .env("HOME", home)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn row(name: &str, values: &[String]) {
    let cells: String = values.iter().map(|value| format!("{value:>14}")).collect();
    println!("{name:<28}{cells}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = |name: &str| {
        arguments.iter().position(|argument| argument == name).map(|at| arguments[at + 1].clone())
    };
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let beside = given("--beside").map(|file| std::fs::read_to_string(file).unwrap());
    let (rounds, pieces, rest) = if quick {
        (3, 2_000, Duration::from_secs(3))
    } else {
        (7, 20_000, Duration::from_secs(60))
    };
    let root = tempfile::Builder::new().prefix("zs-bench-").tempdir_in("/var/tmp").unwrap();
    let home = given("--home").map_or_else(|| root.path().join("home"), PathBuf::from);
    std::fs::create_dir_all(home.join("project")).unwrap();
    let url = serve(pieces, given("--port").map_or(0, |port| port.parse().unwrap()));
    let mut agents = vec![Agent::ours(&url)];
    let lines = beside.iter().flat_map(|text| text.lines());
    agents.extend(lines.filter(|line| !line.trim().is_empty()).map(Agent::parse));

    let names =
        ["first screen", "key", "PSS at rest", "wake-ups /s", "answer", "CPU", "PSS after it"];
    row("", &names.map(str::to_owned));
    for agent in &agents {
        let first = |_| {
            let begun = Instant::now();
            let terminal = Terminal::start(&home, agent);
            terminal.until(begun, "screen", |text| !text.trim().is_empty())
        };
        let first = median((0..rounds).map(first).collect());
        let mut terminal = Terminal::start(&home, agent);
        terminal.until(Instant::now(), "screen", |text| !text.trim().is_empty());
        terminal.still();
        let key = terminal.key();
        terminal.still();
        let pss = terminal.pss_mib();
        let before = terminal.switches();
        std::thread::sleep(rest);
        let woken = terminal.switches().into_iter().map(|(task, count)| {
            count.saturating_sub(before.get(&task).copied().unwrap_or_default())
        });
        let woken = woken.sum::<u64>() as f64 / rest.as_secs_f64();
        let before = terminal.cpu();
        let sent = terminal.send("go");
        terminal.until(sent, "go", |text| text.contains("go"));
        // Some take an Enter that comes with letters for a paste.
        std::thread::sleep(Duration::from_millis(300));
        let sent = terminal.send("\r");
        let took = terminal.until(sent, "THE-END", |text| text.contains("THE-END"));
        let cpu = terminal.cpu() - before;
        row(
            &agent.name,
            &[
                format!("{first:.1?}"),
                format!("{key:.2?}"),
                format!("{pss:.1} MiB"),
                format!("{woken:.1}"),
                format!("{took:.1?}"),
                format!("{cpu:.2} s"),
                format!("{:.1} MiB", terminal.pss_mib()),
            ],
        );
    }

    let messages = 10_000;
    let id = long_session(&home, messages);
    let agent = Agent::ours(&url).with(&["--session", &id]);
    let begun = Instant::now();
    let mut terminal = Terminal::start(&home, &agent);
    let last = format!("let x = {}", messages / 2 - 1);
    let first = terminal.until(begun, "the last answer", |text| text.contains(&last));
    terminal.still();
    let (key, pss) = (terminal.key(), terminal.pss_mib());
    let pressed = terminal.send("\x1b[1;5H");
    let top = terminal.until(pressed, "the top", |text| text.contains("question 0"));
    let far = terminal.key();
    let pressed = terminal.send("\x13Answer 7\r");
    let found = terminal.until(pressed, "a hit", |text| text.contains("Answer 7"));
    println!(
        "\nzerostack with {messages} messages: first screen {first:.1?}, key {key:.2?}, to the top {top:.1?}"
    );
    println!(
        "key there {far:.2?}, words found {found:.1?}, PSS {pss:.1} MiB, at the end {:.1} MiB",
        terminal.pss_mib()
    );
}
