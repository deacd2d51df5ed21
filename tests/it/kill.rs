//! What is left when a run ends, also when the supervisor is killed and can clean up nothing itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::Run;
use crate::support::{Account, KEY, World, accounts};

const ROUNDS: u64 = 30;
const LATEST_KILL_MS: u64 = 400;

/// How long the kernel may take to end a killed run's processes.
const END: Duration = Duration::from_secs(3);

#[test]
fn a_killed_supervisor_takes_a_command_along() {
    let most = kill_at_many_moments(
        &["sandbox", "--standard", "--", "sh", "-c", "sleep 300 & sleep 300"],
        &[],
    );
    // Else every kill came before there was anything to take along.
    assert!(most > 1, "no kill met a running cell");
}

#[test]
fn a_killed_supervisor_takes_the_agent_s_workers_along() {
    // A session and its audit are meant to outlive a kill.
    let records = [".local/share/zerostack", ".local/state/zerostack"];
    let server = ModelServer::always(Reply::call("c", "bash", json!({"command": "sleep 300"})));
    let url = server.base_url();
    let provider = ["--provider", "openai", "--model", "m", "--api-key", KEY, "--base-url", &url];
    let run = [&provider[..], &["--allow", "bash(sleep 300)", "-p", "x"]].concat();
    let most = kill_at_many_moments(&run, &records);
    server.finish_loosely();
    assert!(most > 1, "no kill met a worker");
}

#[test]
fn a_background_process_ends_with_its_command() {
    for account in accounts() {
        let world = World::new(account);
        // `run` gives up long before the sleeper would end by itself.
        let output = sandboxed(&world, "sleep 300 & echo done").run();
        assert_eq!((output.status, output.stdout.as_str()), (0, "done\n"), "{}", output.stderr);
        let left = left_over(world.root(), &[], END);
        assert!(left.is_empty(), "still running: {left:#?}");
    }
}

#[test]
fn the_exit_status_is_the_command_s() {
    let world = World::new(Account::Current);
    for (script, status) in [("true", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let output = sandboxed(&world, script).run();
        assert_eq!(output.status, status, "{script}: {}", output.stderr);
    }
}

#[test]
fn standard_streams_are_passed_through() {
    let world = World::new(Account::Current);
    let output = sandboxed(&world, "cat").stdin("first\nlast without an end").run();
    assert_eq!(
        (output.status, output.stdout.as_str()),
        (0, "first\nlast without an end"),
        "{}",
        output.stderr
    );

    let output = sandboxed(&world, "echo to-output; echo to-error >&2").run();
    assert_eq!((output.status, output.stdout.as_str()), (0, "to-output\n"), "{}", output.stderr);
    assert!(output.stderr.lines().any(|line| line == "to-error"), "{}", output.stderr);
    assert!(!output.stderr.contains("to-output"), "{}", output.stderr);
}

fn sandboxed<'w>(world: &'w World, script: &str) -> Run<'w> {
    world.zerostack(&["sandbox", "--", "sh", "-c", script])
}

/// Starts the command again and again and kills the supervisor a little later each time. Nothing of a run may be left but
/// `records` in the home. Returns how many processes a late kill met at most.
fn kill_at_many_moments(arguments: &[&str], records: &[&str]) -> usize {
    let mut most = 0;
    for account in accounts() {
        let world = World::new(account);
        let root = world.root().to_path_buf();
        let home = world.home();
        let uid = account.uid();
        let mounts_before = mounts();
        let files_before = files_below(&home);
        let shared_before = shared_names();

        for round in 0..ROUNDS {
            let delay = Duration::from_millis(round * LATEST_KILL_MS / (ROUNDS - 1)) + jitter();
            let mut supervisor = world.zerostack(arguments).spawn();
            sleep(delay);
            if round > ROUNDS / 2 {
                // Looking takes time, which the early kills do not have.
                most = most.max(processes_of(&root).len());
            }
            // Not waited for yet, so the number cannot be another process's.
            let pid = Pid::from_raw(i32::try_from(supervisor.id()).unwrap());
            kill(pid, Signal::SIGKILL).unwrap();
            supervisor.wait().unwrap();
            let left = left_over(&root, &[], END);
            assert!(
                left.is_empty(),
                "user {uid}, killed after {delay:?}, still running: {left:#?}"
            );
        }

        let new: Vec<String> = mounts().difference(&mounts_before).cloned().collect();
        assert!(new.is_empty(), "user {uid}: new mounts: {new:#?}");
        let mut new: Vec<PathBuf> = files_below(&home).difference(&files_before).cloned().collect();
        new.retain(|path| !records.iter().any(|record| path.starts_with(home.join(record))));
        assert!(new.is_empty(), "user {uid}: new files in the home: {new:#?}");
        let new = lasting_names(&shared_before);
        assert!(new.is_empty(), "user {uid}: new files in shared places: {new:#?}");
    }
    most
}

/// Up to the distance between two delays, so that not every run of the tests kills at the same moments.
fn jitter() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Duration::from_micros(u64::from(now.subsec_micros()) % 13_000)
}

/// The processes of a world that do not end within `limit`, but for those in `known`.
pub(crate) fn left_over(root: &Path, known: &[u32], limit: Duration) -> Vec<String> {
    let start = Instant::now();
    loop {
        let mut left = processes_of(root);
        left.retain(|(pid, _)| !known.contains(pid));
        if left.is_empty() || start.elapsed() > limit {
            return left.into_iter().map(|(pid, what)| format!("{pid} {what}")).collect();
        }
        sleep(Duration::from_millis(20));
    }
}

/// Processes that were started in a world: their program, directory, arguments or environment name it, and no two worlds
/// have the same path. Dead ones that nobody waited for have none of these.
fn processes_of(root: &Path) -> Vec<(u32, String)> {
    let root = root.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let process = entry.path();
        let link = |name| fs::read_link(process.join(name)).unwrap_or_default().into_os_string();
        let text = |name| fs::read(process.join(name)).unwrap_or_default();
        let (program, directory) = (link("exe"), link("cwd"));
        let (arguments, environment) = (text("cmdline"), text("environ"));
        if [program.as_bytes(), directory.as_bytes(), &arguments, &environment]
            .iter()
            .any(|text| names(text, root))
        {
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            found.push((pid, format!("{} ({arguments})", program.display())));
        }
    }
    found
}

/// Whether the path stands in the text as a whole, not as the beginning of a longer name.
fn names(text: &[u8], path: &[u8]) -> bool {
    let longer = |at: usize| text.get(at + path.len()).is_some_and(u8::is_ascii_alphanumeric);
    text.windows(path.len()).enumerate().any(|(at, part)| part == path && !longer(at))
}

fn mounts() -> BTreeSet<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect()
}

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                files.insert(entry.path());
            }
        }
    }
    files
}

fn shared_names() -> BTreeSet<PathBuf> {
    ["/tmp", "/var/tmp"]
        .iter()
        .flat_map(|place| fs::read_dir(place).unwrap())
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// New names in the places that everybody shares. Tests that run at the same time put things there too: worlds and the
/// attempts' files are known by what they are, anything else of theirs is gone after a while.
fn lasting_names(before: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let start = Instant::now();
    loop {
        let mut new: Vec<PathBuf> = shared_names().difference(before).cloned().collect();
        new.retain(|path| {
            let of_attempts =
                path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"att-"));
            !of_attempts && !path.join("home/project").is_dir() && path.exists()
        });
        if new.is_empty() || start.elapsed() > Duration::from_secs(20) {
            return new;
        }
        sleep(Duration::from_millis(100));
    }
}
