//! What a cell costs, beside plain fork and exec and beside bubblewrap with the same namespaces, taken
//! in turns in one run: `cargo bench --bench cells`, or with `-- --quick` for a short one.

#![allow(clippy::disallowed_methods, reason = "the baselines are started directly")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zerostack::model::ToolCall;
use zerostack::policy::{Groups, Judge, Mode, Policy};
use zerostack::supervisor::{Broker, Cells, Grant, Host, Options, Rights, command, file_worker};
use zerostack_sandbox::Stdio::Passed;
use zerostack_sandbox::{Cell, Launcher, Program, Report};

const BWRAP: [&str; 24] = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--new-session",
    "--die-with-parent",
];

fn time(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

fn quiet(program: &str, arguments: &[&str]) {
    let status =
        Command::new(program).args(arguments).env_clear().stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} failed");
}

struct Series(&'static str, Vec<Duration>);

impl Series {
    /// Median and tenth percentile.
    fn figures(&self) -> (Duration, Duration) {
        let mut sorted = self.1.clone();
        sorted.sort();
        (sorted[sorted.len() / 2], sorted[sorted.len() / 10])
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 40 } else { 300 };
    let root = tempfile::Builder::new().prefix("zs-bench-").tempdir_in("/var/tmp").unwrap();
    let workspace = root.path().join("home/project");
    std::fs::create_dir_all(&workspace).unwrap();
    let four_kib: String = std::iter::repeat_n(
        "123456789012345678901234567890123456789012345678901234567890123\n",
        64,
    )
    .collect();
    std::fs::write(workspace.join("four.txt"), four_kib).unwrap();

    let launcher = Launcher::start(Path::new(env!("CARGO_BIN_EXE_zerostack"))).unwrap();
    let groups = Groups::load().unwrap();
    let policy = Policy::load(Mode::Standard, &groups).unwrap();
    let environment =
        [("HOME".into(), root.path().join("home").into()), ("PATH".into(), "/usr/bin:/bin".into())];
    let host = Host::at(&workspace, environment.into_iter(), &[]).unwrap();
    let confinement = command(&policy, &groups, &host, Rights::Granted);
    let worker_confinement = file_worker(&policy, &groups, &host, None);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let mut plain = Series("fork and exec of true", Vec::new());
    let mut ready = Series("the same in a cell made ready before", Vec::new());
    let mut cold = Series("the same, making the cell included", Vec::new());
    let mut bwrap = Series("the same in bubblewrap", Vec::new());
    let mut worker = Series("start of a file worker", Vec::new());
    let has_bwrap = Path::new("/usr/bin/bwrap").exists();
    for round in 0..rounds + 5 {
        let make = || {
            let mut cell = launcher.spawn(&confinement, &Program::Command).unwrap();
            cell.started(true).unwrap();
            cell
        };
        let streams = [&null, &null, &null].map(std::os::fd::AsFd::as_fd);
        let run = |cell: &Cell| {
            cell.run(vec![b"/usr/bin/true".to_vec()], Passed, &streams).unwrap();
            assert_eq!(cell.control().recv::<Report>().unwrap().0, Report::Running);
            let (end, _) = cell.control().recv::<Report>().unwrap();
            assert!(matches!(end, Report::Exited(exit) if exit.status() == 0), "{end:?}");
        };
        let cell = make();
        let ready_time = time(|| run(&cell));
        let cold_time = time(|| run(&make()));
        let plain_time = time(|| quiet("/usr/bin/true", &[]));
        let worker_time = time(|| {
            launcher.spawn(&worker_confinement, &Program::Worker).unwrap().started(true).unwrap();
        });
        let bwrap_time = time(|| {
            if has_bwrap {
                quiet("/usr/bin/bwrap", &[&BWRAP[..], &["/usr/bin/true"]].concat());
            }
        });
        if round >= 5 {
            plain.1.push(plain_time);
            ready.1.push(ready_time);
            cold.1.push(cold_time);
            bwrap.1.push(bwrap_time);
            worker.1.push(worker_time);
        }
    }
    let base = plain.figures().0;
    println!("{rounds} rounds in turns, median and tenth percentile");
    let mut series = vec![&plain, &ready, &cold, &worker];
    if has_bwrap {
        series.push(&bwrap);
    }
    for series in series {
        let (median, tenth) = series.figures();
        let over = median.saturating_sub(base);
        println!("{:<38} {median:>10.2?} {tenth:>10.2?}   +{over:.2?}", series.0);
    }
    if has_bwrap {
        let of = |series: &Series| series.figures().0.as_secs_f64();
        println!("made ready / bubblewrap: {:.2}", of(&ready) / of(&bwrap));
        println!("made cold  / bubblewrap: {:.2}", of(&cold) / of(&bwrap));
    } else {
        println!("bubblewrap is not installed: no ratio");
    }
    file_calls(launcher, Judge::new(policy, groups, Vec::new()), host, rounds * 10);
}

/// Calls of the long-lived file worker, beside reading the same file directly.
fn file_calls(launcher: Launcher, judge: Judge, host: Host, rounds: usize) {
    let path = host.workspace.join("four.txt");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let broker = runtime
        .block_on(Broker::start(Cells::new(launcher), judge, host, Options::default()))
        .unwrap();
    let call = ToolCall {
        id: "c".into(),
        name: "read".into(),
        arguments: r#"{"path": "four.txt"}"#.into(),
    };
    let mut worker = Series("read 4 KiB through the file worker", Vec::new());
    let mut direct = Series("read 4 KiB directly", Vec::new());
    for _ in 0..rounds {
        worker.1.push(time(|| {
            let subject = broker.look_at(&call).unwrap();
            let result = runtime.block_on(broker.execute(&call, &subject, Grant::Unasked, ""));
            assert!(result.result.text.len() > 4096, "{}", result.result.text);
        }));
        direct.1.push(time(|| assert!(std::fs::read(&path).unwrap().len() == 4096)));
    }
    for series in [&direct, &worker] {
        let (median, tenth) = series.figures();
        println!("{:<38} {median:>10.2?} {tenth:>10.2?}", series.0);
    }
}
