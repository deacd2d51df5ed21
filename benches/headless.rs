//! Figures of whole runs against a model server on loopback that answers at once, beside plain tools for
//! the same work, in one run: `cargo bench --bench headless`, or with `-- --quick` for a short one.

#![allow(clippy::disallowed_methods, reason = "the program and the baselines are started directly")]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// What a request is answered with: a tool call, or the end.
#[derive(Clone)]
enum Reply {
    Call(&'static str, Value),
    Deltas(usize),
}

fn event(delta: &Value, finish: Option<&str>) -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    )
}

impl Reply {
    fn body(&self, number: usize) -> String {
        match self {
            Reply::Call(name, arguments) => {
                let function = json!({"name": name, "arguments": arguments.to_string()});
                let call = json!({"index": 0, "id": format!("c{number}"), "function": function});
                event(&json!({"tool_calls": [call]}), Some("tool_calls"))
            }
            Reply::Deltas(count) => {
                let mut body: String =
                    (0..*count).map(|_| event(&json!({"content": "words "}), None)).collect();
                body.push_str(&event(&json!({}), Some("stop")));
                body
            }
        }
    }
}

/// Answers the script over one listener; tells when each request came and when its answer went.
struct Server {
    address: String,
    times: Receiver<(Instant, Instant)>,
    connections: Receiver<()>,
}

fn serve(script: Vec<Reply>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, times) = channel();
    let (connected, connections) = channel();
    std::thread::spawn(move || {
        let mut number = 0;
        for stream in listener.incoming() {
            connected.send(()).ok();
            let _ = converse(stream.unwrap(), &script, &mut number, &tell);
            if number == script.len() {
                return;
            }
        }
    });
    Server { address, times, connections }
}

fn converse(
    mut stream: TcpStream,
    script: &[Reply],
    number: &mut usize,
    tell: &Sender<(Instant, Instant)>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while *number < script.len() {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let came = Instant::now();
        let body = script[*number].body(*number);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len())?;
        *number += 1;
        tell.send((came, Instant::now())).ok();
    }
    Ok(())
}

struct World {
    _root: tempfile::TempDir,
    home: PathBuf,
}

fn world() -> World {
    let root = tempfile::Builder::new().prefix("zs-bench-").tempdir_in("/var/tmp").unwrap();
    let home = root.path().join("home");
    std::fs::create_dir_all(home.join("project")).unwrap();
    std::fs::write(home.join("project/a.txt"), "alpha\n").unwrap();
    World { _root: root, home }
}

impl World {
    fn start(&self, server: &Server, more: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_zerostack"))
            .args(["--provider", "openai", "--base-url", &format!("http://{}/v1", server.address)])
            .args(["--model", "m", "-p", "go", "--output-format", "json"])
            .args(more)
            .current_dir(self.home.join("project"))
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Wall time of a whole run, which must end well.
    fn run(&self, script: Vec<Reply>, more: &[&str]) -> (Duration, Server) {
        let server = serve(script);
        let begun = Instant::now();
        let status = self.start(&server, more).wait().unwrap();
        let took = begun.elapsed();
        assert!(status.success(), "{status}");
        (took, server)
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::from_micros(time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64))
        .sum()
}

/// Proportional memory of a process and all below it, KiB.
fn tree_pss(root: u32) -> u64 {
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        for task in
            std::fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten()
        {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    let pss = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    all.iter().filter_map(pss).sum()
}

fn timed(program: &str, arguments: &[&str], directory: &Path) -> Option<Duration> {
    let begun = Instant::now();
    let output = Command::new(program).args(arguments).current_dir(directory).output().ok()?;
    output.status.success().then(|| begun.elapsed())
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 5 } else { 20 };
    let read = || Reply::Call("read", json!({"path": "a.txt"}));
    let bash = || Reply::Call("bash", json!({"command": "true"}));
    let end = || Reply::Deltas(1);
    let world = world();

    let one_shot: Vec<Duration> =
        (0..rounds).map(|_| world.run(vec![bash(), end()], &["--no-session"]).0).collect();
    println!("one-shot with one command             {:>10.2?}", median(one_shot));
    let saved: Vec<Duration> = (0..rounds).map(|_| world.run(vec![bash(), end()], &[]).0).collect();
    println!("the same, saved as a session          {:>10.2?}", median(saved));
    let plain = (0..rounds).filter_map(|_| {
        let server = serve(vec![end(), end()]);
        let url = format!("http://{}/", server.address);
        timed("curl", &["-s", "-d", "{}", &url, "-d", "{}", &url], Path::new("/"))
    });
    if let Some(plain) = Some(plain.collect::<Vec<_>>()).filter(|plain| !plain.is_empty()) {
        println!("two requests of curl                  {:>10.2?}", median(plain));
    }

    for (what, call) in [("read", read as fn() -> Reply), ("command", bash)] {
        // Different arguments, or it would be a loop.
        let vary = |number: usize| match call() {
            Reply::Call("read", _) => {
                Reply::Call("read", json!({"path": "a.txt", "limit": number + 1}))
            }
            _ => Reply::Call("bash", json!({"command": format!("echo {number}")})),
        };
        let mut script: Vec<Reply> = (0..40).map(vary).collect();
        script.push(end());
        let (_, server) = world.run(script, &[]);
        let times: Vec<_> = server.times.try_iter().collect();
        let turns: Vec<Duration> = times.windows(2).map(|pair| pair[1].0 - pair[0].1).collect();
        let connections = server.connections.try_iter().count();
        println!(
            "one more turn with a {what:<17}{:>10.2?}   ({connections} connection)",
            median(turns)
        );
    }

    for count in [1, 20_000] {
        let before = cpu();
        world.run(vec![Reply::Deltas(count)], &[]);
        println!("CPU of an answer in {count:>6} deltas     {:>10.2?}", cpu() - before);
    }

    let turns = if quick { 100 } else { 500 };
    let mut script: Vec<Reply> = (0..turns)
        .map(|number| Reply::Call("read", json!({"path": "a.txt", "limit": number + 1})))
        .collect();
    script.push(end());
    let server = serve(script);
    let mut child = world.start(&server, &["--max-turns", "1000"]);
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(tree_pss(child.id()));
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("memory of the tree in {turns} turns (PSS)  {:>9.1} MiB", most as f64 / 1024.0);

    let files = if quick { 5_000 } else { 50_000 };
    search(files, rounds.min(5));
    resume(if quick { 5 } else { 50 });
}

/// A literal in many files, beside ripgrep and git.
fn search(files: usize, rounds: usize) {
    let world = world();
    let project = world.home.join("project");
    let filler = "a line of ordinary text that nobody looks for\n".repeat(45);
    for number in 0..files {
        let directory = project.join(format!("d{}", number / 100));
        std::fs::create_dir_all(&directory).unwrap();
        let text = if number == files - 7 { format!("{filler}needle\n") } else { filler.clone() };
        std::fs::write(directory.join(format!("f{number}.txt")), text).unwrap();
    }
    for arguments in [&["init", "-q"][..], &["add", "-A"]] {
        timed("git", arguments, &project).unwrap();
    }
    let tool = |reply: Reply| {
        let times = (0..rounds).map(|_| {
            let (_, server) = world.run(vec![reply.clone(), Reply::Deltas(1)], &["--no-session"]);
            let times: Vec<_> = server.times.try_iter().collect();
            times[1].0 - times[0].1
        });
        median(times.collect())
    };
    let plain = |program: &str, arguments: &[&str]| {
        let times: Vec<_> =
            (0..rounds).filter_map(|_| timed(program, arguments, &project)).collect();
        match times.is_empty() {
            true => println!("  {program:<36} not installed"),
            false => println!("  {program:<36}{:>10.2?}", median(times)),
        }
    };
    println!(
        "grep of a literal in {files} files      {:>10.2?}",
        tool(Reply::Call("grep", json!({"pattern": "needle"})))
    );
    plain("rg", &["needle"]);
    plain("git", &["grep", "needle"]);
    println!(
        "find_files of them                    {:>10.2?}",
        tool(Reply::Call("find_files", json!({"pattern": "f*7.txt"})))
    );
    plain("git", &["ls-files"]);
}

/// Going on with a large session.
fn resume(mib: usize) {
    let world = world();
    world.run(vec![Reply::Deltas(1)], &[]);
    let directory = world.home.join(".local/share/zerostack/sessions");
    let file = std::fs::read_dir(directory).unwrap().flatten().next().unwrap().path();
    let mut text = std::fs::read_to_string(&file).unwrap();
    let state = text.lines().last().unwrap().to_owned();
    let filler = "some text of a tool result, and more of it. ".repeat(200);
    while text.len() < mib * 1024 * 1024 {
        let line = |message: Value| format!("{}\n", json!({"t": 1, "message": message}));
        text.push_str("{\"t\":1,\"turn\":2}\n");
        text.push_str(&line(json!({"role": "user", "text": "again"})));
        text.push_str(&line(json!({"role": "assistant", "text": filler, "calls": []})));
    }
    let summary = json!({"summary": "short", "kept": 1, "before": 9, "after": 1});
    text.push_str(&format!("{}\n{state}\n", json!({"t": 1, "compaction": summary})));
    std::fs::write(&file, text).unwrap();
    let begun = Instant::now();
    let mut list = Command::new(env!("CARGO_BIN_EXE_zerostack"));
    let listed = list.arg("sessions").env("HOME", &world.home).output().unwrap().stdout;
    assert!(!listed.is_empty());
    println!("list of sessions                      {:>10.2?}", begun.elapsed());
    let (took, _) = world.run(vec![Reply::Deltas(1)], &["-c"]);
    println!("going on with a session of {mib:>2} MiB     {took:>10.2?}");
}
