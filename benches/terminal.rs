//! Figures of the terminal UI in a pseudo terminal with an emulator behind it: `cargo bench --bench
//! terminal`, or with `-- --quick` for a short one. The emulator runs beside the program on the same
//! machine, so its time is in the figures.

#![allow(clippy::disallowed_methods, reason = "the program is started directly")]
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::num::NonZero;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

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
    fn start(home: &Path, address: &str) -> Terminal {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_zerostack"))
            .args([
                "--provider",
                "openai",
                "--base-url",
                &format!("http://{address}/v1"),
                "--model",
                "m",
            ])
            .current_dir(home.join("project"))
            .env_clear()
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm-256color")
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
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                screen.parser.lock().unwrap().process(&buffer[..length]);
                screen.changed.notify_all();
            }
        });
        Terminal { child, master, shown }
    }

    /// Time until these words are on the screen.
    fn until(&self, since: Instant, words: &str) -> Duration {
        let mut parser = self.shown.parser.lock().unwrap();
        while !parser.screen().contents().contains(words) {
            assert!(since.elapsed() < LIMIT, "no {words:?} in\n{}", parser.screen().contents());
            parser = self.shown.changed.wait_timeout(parser, Duration::from_millis(200)).unwrap().0;
        }
        since.elapsed()
    }

    fn send(&mut self, keys: &str) -> Instant {
        let now = Instant::now();
        self.master.write_all(keys.as_bytes()).unwrap();
        now
    }

    fn tree(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while at < all.len() {
            let path = format!("/proc/{0}/task/{0}/children", all[at]);
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
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

    /// CPU time of the program itself, seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every request with an answer of so many pieces, ten to a line, which ends in `THE-END`.
fn serve(pieces: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let piece = |text: &str| {
        format!(
            "data: {}\n\n",
            json!({"choices": [{"delta": {"content": text}, "finish_reason": null}]})
        )
    };
    let mut body: String =
        (0..pieces).map(|at| piece(if at % 10 == 9 { "word.\n\n" } else { "word " })).collect();
    body.push_str(&piece("\n\nTHE-END"));
    body.push_str(&format!(
        "data: {}\n\ndata: [DONE]\n\n",
        json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    ));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    reader.read_exact(&mut vec![0; length]).unwrap();
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
                    let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
                }
                line.clear();
            }
        }
    });
    address
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 3 } else { 15 };
    let root = tempfile::Builder::new().prefix("zs-bench-").tempdir_in("/var/tmp").unwrap();
    let home = root.path().join("home");
    std::fs::create_dir_all(home.join("project")).unwrap();

    let address = serve(10);
    let first = |_| {
        let begun = Instant::now();
        Terminal::start(&home, &address).until(begun, "Say what you want")
    };
    println!(
        "first screen                          {:>10.2?}",
        median((0..rounds).map(first).collect())
    );

    let mut terminal = Terminal::start(&home, &address);
    terminal.until(Instant::now(), "Say what you want");
    let mut typed = String::new();
    let keys = (0..20).map(|at| {
        typed.push(char::from(b'a' + at));
        let pressed = terminal.send(&typed[typed.len() - 1..]);
        terminal.until(pressed, &typed)
    });
    println!("key to screen                         {:>10.2?}", median(keys.collect()));
    std::thread::sleep(Duration::from_secs(1));
    println!("memory of the tree at rest (PSS)      {:>8.1} MiB", terminal.pss_mib());
    drop(terminal);

    let pieces = if quick { 2_000 } else { 20_000 };
    let address = serve(pieces);
    let mut terminal = Terminal::start(&home, &address);
    terminal.until(Instant::now(), "Say what you want");
    let before = terminal.cpu();
    let sent = terminal.send("go\r");
    let took = terminal.until(sent, "THE-END");
    println!(
        "answer of {pieces} pieces on screen     {took:>10.2?}   CPU {:.2} s",
        terminal.cpu() - before
    );
    println!("memory of the tree after it (PSS)     {:>8.1} MiB", terminal.pss_mib());
}
