//! The broker and its workers, driven as the supervisor drives them but with the decision forced:
//! what the kernel refuses must not depend on the code that decides.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use zerostack::agent::ToolStatus;
use zerostack::model::ToolCall;
use zerostack::policy::{Groups, Judge, Mode, Policy};
use zerostack::supervisor::{Broker, Cells, Grant, Host, Options, scan};
use zerostack_sandbox::Launcher;

use crate::support::{Account, World, accounts, binary};

/// A workspace below a home, and a broker that works in it.
pub struct Bench {
    pub root: tempfile::TempDir,
    pub broker: Broker,
    pub runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub fn new(mode: Mode, prepare: impl FnOnce(&Path)) -> Bench {
        let root = tempfile::Builder::new().prefix("zs-").tempdir_in("/var/tmp").unwrap();
        let home = root.path().join("home");
        let workspace = home.join("project");
        std::fs::create_dir_all(&workspace).unwrap();
        std::fs::write(workspace.join("file.txt"), "inside\n").unwrap();
        std::fs::write(home.join("outside.txt"), "outside\n").unwrap();
        prepare(&workspace);
        let launcher = Launcher::start(&binary()).unwrap();
        let groups = Groups::load().unwrap();
        let policy = Policy::load(mode, &groups).unwrap();
        let environment = [("HOME", home.as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())];
        let environment = environment.map(|(name, value)| (name.into(), value.to_owned()));
        let mut host = Host::at(&workspace, environment.into_iter(), &[]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cells = Cells::new(launcher);
        runtime.block_on(scan(&cells, &policy, &groups, Vec::new(), &mut host, &[])).unwrap();
        let judge = Judge::new(policy, groups, Vec::new());
        let broker = Broker::start(cells, judge, host, Options::default());
        let broker = runtime.block_on(broker).unwrap();
        Bench { root, broker, runtime }
    }

    fn forced(&self, tool: &str, arguments: serde_json::Value) -> (ToolStatus, String) {
        let (id, name) = ("c".to_owned(), tool.to_owned());
        let call = ToolCall { id, name, arguments: arguments.to_string() };
        let subject = self.broker.look_at(&call).unwrap();
        let run = self.broker.execute(&call, &subject, Grant::Unasked, "");
        let result = self.runtime.block_on(run).result;
        (result.status, result.text)
    }

    /// A file that exists is replaced only after it was read.
    fn read(&self, path: &str) {
        let (status, text) = self.forced("read", serde_json::json!({"path": path}));
        assert_eq!(status, ToolStatus::Ok, "{text}");
    }

    pub fn workspace(&self) -> std::path::PathBuf {
        self.root.path().join("home/project")
    }
}

fn write(path: &str) -> serde_json::Value {
    serde_json::json!({"path": path, "content": "changed\n"})
}

#[test]
fn a_write_that_the_decision_wrongly_allows_fails_in_the_kernel() {
    for mode in [Mode::Readonly, Mode::Guarded] {
        let bench = Bench::new(mode, |_| ());
        bench.read("file.txt");
        let edit =
            serde_json::json!({"path": "file.txt", "edits": [{"old": "inside", "new": "x"}]});
        for (tool, arguments) in
            [("write", write("file.txt")), ("write", write("new.txt")), ("edit", edit)]
        {
            let (status, text) = bench.forced(tool, arguments);
            assert_eq!(status, ToolStatus::Error, "{mode}: {text}");
            assert!(text.contains("Read-only file system"), "{mode}: {text}");
        }
        assert_eq!(
            std::fs::read_to_string(bench.workspace().join("file.txt")).unwrap(),
            "inside\n"
        );
    }
    // The control: the same call in a mode whose worker may write.
    let bench = Bench::new(Mode::Standard, |_| ());
    bench.read("file.txt");
    let (status, text) = bench.forced("write", write("file.txt"));
    assert_eq!(status, ToolStatus::Ok, "{text}");
    assert_eq!(std::fs::read_to_string(bench.workspace().join("file.txt")).unwrap(), "changed\n");
}

#[test]
fn a_restrictive_worker_sees_nothing_even_if_the_decision_says_yes() {
    let bench = Bench::new(Mode::Restrictive, |_| ());
    for (tool, arguments) in [
        ("read", serde_json::json!({"path": "file.txt"})),
        ("list_dir", serde_json::json!({})),
        ("grep", serde_json::json!({"pattern": "inside"})),
    ] {
        let (status, text) = bench.forced(tool, arguments);
        assert_eq!(status, ToolStatus::Error, "{tool}: {text}");
        assert!(text.contains("No such file"), "{tool}: {text}");
    }
}

#[test]
fn a_command_cell_of_a_wrong_decision_still_cannot_write() {
    let bench = Bench::new(Mode::Standard, |_| ());
    let command = serde_json::json!({"command": "echo changed > file.txt"});
    let (status, text) = bench.forced("bash", command);
    assert_eq!(status, ToolStatus::Error, "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}

/// Yolo is left out: its file worker works on the whole disk.
const BOUND_TO_THE_WORKSPACE: [Mode; 4] =
    [Mode::Restrictive, Mode::Readonly, Mode::Guarded, Mode::Standard];

#[test]
fn links_out_of_the_workspace_lead_nowhere() {
    for mode in BOUND_TO_THE_WORKSPACE {
        let bench = Bench::new(mode, |workspace| {
            symlink("../outside.txt", workspace.join("link")).unwrap();
            symlink("..", workspace.join("up")).unwrap();
            symlink("/proc/self/root", workspace.join("magic")).unwrap();
        });
        let outside = bench.root.path().join("home/outside.txt");
        let absolute = outside.display().to_string();
        for path in ["link", "up/outside.txt", "../outside.txt", "magic/etc/passwd", &absolute] {
            let (status, text) = bench.forced("read", serde_json::json!({"path": path}));
            assert_eq!(status, ToolStatus::Error, "{mode} {path}: {text}");
            assert!(text.contains("No such file"), "{mode} {path}: {text}");
            let (status, text) = bench.forced("write", write(path));
            assert_eq!(status, ToolStatus::Error, "{mode} {path}: {text}");
        }
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "outside\n");
    }
}

#[test]
fn a_directory_swapped_for_a_link_between_check_and_use_is_not_followed() {
    // In restrictive mode there is nothing to swap: the worker sees nothing.
    for mode in [Mode::Readonly, Mode::Guarded, Mode::Standard] {
        race(mode);
    }
}

fn race(mode: Mode) {
    let bench = Bench::new(mode, |workspace| {
        std::fs::create_dir(workspace.join("dir")).unwrap();
        std::fs::write(workspace.join("dir/outside.txt"), "inside\n").unwrap();
        symlink("..", workspace.join("other")).unwrap();
    });
    let stop = AtomicBool::new(false);
    let (dir, other) = (bench.workspace().join("dir"), bench.workspace().join("other"));
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                let here = nix::fcntl::AT_FDCWD;
                nix::fcntl::renameat2(here, &dir, here, &other, flags).unwrap();
            }
        });
        for _ in 0..2000 {
            let (status, text) =
                bench.forced("read", serde_json::json!({"path": "dir/outside.txt"}));
            assert!(!text.contains("outside\n"), "the swap won: {text}");
            if status == ToolStatus::Ok {
                inside += 1;
            } else {
                refused += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0 && refused > 0, "no race took place: {inside} {refused}");
}

#[test]
fn a_fifo_a_device_and_a_secret_do_not_stop_the_worker() {
    let bench = Bench::new(Mode::Standard, |workspace| {
        nix::unistd::mkfifo(
            &workspace.join("fifo"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        std::fs::write(workspace.join(".env"), "SECRET=1\n").unwrap();
    });
    for (path, part) in [("fifo", "not a regular file"), (".env", "Permission denied")] {
        let (status, text) = bench.forced("read", serde_json::json!({"path": path}));
        assert_eq!(status, ToolStatus::Error, "{path}: {text}");
        assert!(text.contains(part), "{path}: {text}");
    }
    let (status, text) = bench.forced("grep", serde_json::json!({"pattern": "SECRET|inside"}));
    assert_eq!(status, ToolStatus::Ok, "{text}");
    assert!(text.contains("inside") && !text.contains("SECRET=1"), "{text}");
}

#[test]
fn a_git_directory_is_protected_where_it_really_is() {
    for as_link in [true, false] {
        let world = World::new(Account::Current);
        std::fs::create_dir_all(world.workspace().join("real/hooks")).unwrap();
        std::fs::write(world.workspace().join("real/config"), "").unwrap();
        let git = world.workspace().join(".git");
        if as_link {
            symlink("real", &git).unwrap();
        } else {
            std::fs::write(&git, "gitdir: real\n").unwrap();
        }
        let touch = ["real/hooks/evil", "real/config", "real/commondir"];
        for path in touch {
            let out =
                world.zerostack(&["sandbox", "--standard", "--", "touch", path]).run().exits(1);
            assert!(out.stderr.contains("Read-only file system"), "{out}");
        }
        for (command, reason) in [("rm -f .git", "busy"), ("mv real other", "busy")] {
            let line = ["sandbox", "--standard", "--", "sh", "-c", command];
            let out = world.zerostack(&line).run().exits(1);
            assert!(out.stderr.contains(reason), "{out}");
        }
        // The control: the same directory under a name that means nothing.
        std::fs::remove_file(&git).unwrap();
        world.zerostack(&["sandbox", "--standard", "--", "touch", touch[0]]).run().exits(0);
        assert!(world.workspace().join(touch[0]).exists());
    }
}

#[test]
fn an_added_directory_is_protected_as_the_workspace_is() {
    let world = World::new(Account::Current);
    let lib = world.home().join("lib");
    std::fs::create_dir_all(lib.join(".git/hooks")).unwrap();
    std::fs::create_dir_all(lib.join("deploy")).unwrap();
    std::fs::write(lib.join("deploy/.env"), "SECRET=1\n").unwrap();
    let directory = lib.display().to_string();
    let in_cell = |add: &str, command: &str| {
        let line = ["sandbox", "--standard", "--add-dir", add, "--", "sh", "-c", command];
        world.zerostack(&line).run()
    };
    let hook = format!("touch {directory}/.git/hooks/evil");
    assert!(in_cell(&directory, &hook).exits(1).stderr.contains("Read-only file system"));
    let secret = format!("cat {directory}/deploy/.env");
    assert!(in_cell(&directory, &secret).exits(1).stderr.contains("Permission denied"));
    // Renamed here, it would lie open to the next cell.
    let rename = format!("mv {directory}/deploy {directory}/other");
    assert!(in_cell(&directory, &rename).exits(1).stderr.contains("busy"));
    in_cell(&directory, &format!("touch {directory}/made")).exits(0);
    let read_only = format!("{directory}:ro");
    in_cell(&read_only, &format!("touch {directory}/other")).exits(1);
}

#[test]
fn the_nodes_of_devices_stay_as_they_are_and_can_be_written() {
    use std::os::unix::fs::MetadataExt;
    for account in accounts() {
        let world = World::new(account);
        let facts = || {
            let facts = std::fs::metadata("/dev/full").unwrap();
            (facts.mode(), facts.mtime(), facts.uid())
        };
        let before = facts();
        for mode in ["--restrictive", "--read-only", "--guarded", "--standard", "--yolo"] {
            // Uid 0 owns the host's nodes, and needs no capability to change what it owns.
            for change in ["chmod 0640 /dev/full", "touch -d 2001-01-01 /dev/full"] {
                let line = ["sandbox", mode, "--", "sh", "-c", change];
                let out = world.zerostack(&line).run().exits(1);
                assert!(
                    out.stderr.contains("Read-only") || out.stderr.contains("permitted"),
                    "{out}"
                );
            }
            assert_eq!(facts(), before, "{mode}");
            let write = "echo x > /dev/null 2>> /dev/null && cat /dev/null && echo written";
            let out = world.zerostack(&["sandbox", mode, "--", "sh", "-c", write]).run().exits(0);
            assert_eq!(out.stdout, "written\n", "{mode}");
        }
    }
}

#[test]
fn a_command_cannot_change_the_files_behind_the_users_streams() {
    let world = World::new(Account::Current);
    let log = world.home().join("log");
    std::fs::write(&log, "before\n").unwrap();
    let output = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    let change = "chmod 0777 /proc/self/fd/1; : > /proc/self/fd/1; echo after";
    let status = std::process::Command::new(world.program())
        .args(["sandbox", "--standard", "--", "sh", "-c", change])
        .env("HOME", world.home())
        .current_dir(world.workspace())
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "before\nafter\n");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&log).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_granted_path_is_the_one_that_was_decided_on() {
    // The decision resolves the path; whatever it names later, only that file is opened.
    let bench = Bench::new(Mode::Standard, |workspace| {
        std::fs::create_dir(workspace.join("a")).unwrap();
        std::fs::write(workspace.join("a/outside.txt"), "inside\n").unwrap();
        symlink("..", workspace.join("b")).unwrap();
    });
    bench.read("a/outside.txt");
    let (id, name) = ("c".to_owned(), "write".to_owned());
    let call = ToolCall { id, name, arguments: write("a/outside.txt").to_string() };
    let subject = bench.broker.look_at(&call).unwrap();
    let (a, b) = (bench.workspace().join("a"), bench.workspace().join("b"));
    let here = nix::fcntl::AT_FDCWD;
    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    nix::fcntl::renameat2(here, &a, here, &b, flags).unwrap();
    let run = bench.broker.execute(&call, &subject, Grant::This, "");
    let result = bench.runtime.block_on(run).result;
    assert_eq!(result.status, ToolStatus::Error, "{}", result.text);
    let outside = std::fs::read_to_string(bench.root.path().join("home/outside.txt")).unwrap();
    assert_eq!(outside, "outside\n");
    // The control: without the swap the same grant writes.
    nix::fcntl::renameat2(here, &a, here, &b, flags).unwrap();
    let run = bench.broker.execute(&call, &subject, Grant::This, "");
    assert_eq!(bench.runtime.block_on(run).result.status, ToolStatus::Ok);
}

#[test]
fn a_granted_search_sees_what_was_decided_on_and_nothing_else() {
    let bench = Bench::new(Mode::Restrictive, |workspace| {
        std::fs::create_dir(workspace.join("dir")).unwrap();
        std::fs::write(workspace.join("dir/found.txt"), "needle inside\n").unwrap();
        std::fs::write(workspace.parent().unwrap().join("outside.txt"), "needle outside\n")
            .unwrap();
        symlink("..", workspace.join("other")).unwrap();
    });
    let search = |path: &str| {
        let arguments = serde_json::json!({"pattern": "needle", "path": path}).to_string();
        let call = ToolCall { id: "c".into(), name: "grep".into(), arguments };
        let subject = bench.broker.look_at(&call).unwrap();
        (call, subject)
    };
    let run = |(call, subject): &(ToolCall, zerostack::policy::Subject)| {
        bench.runtime.block_on(bench.broker.execute(call, subject, Grant::This, "")).result.text
    };
    let (directory, file) = (search("dir"), search("dir/found.txt"));
    assert!(run(&directory).contains("needle inside"), "{}", run(&directory));
    assert!(run(&file).contains("needle inside"), "{}", run(&file));
    // After the decision the directory becomes a link out of the workspace.
    let (dir, other) = (bench.workspace().join("dir"), bench.workspace().join("other"));
    let here = nix::fcntl::AT_FDCWD;
    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    nix::fcntl::renameat2(here, &dir, here, &other, flags).unwrap();
    for decided in [&directory, &file] {
        let text = run(decided);
        assert!(!text.contains("needle outside") && text.contains("symbolic links"), "{text}");
    }
}

#[test]
fn a_path_or_a_command_made_to_exhaust_the_stack_is_refused() {
    let bench = Bench::new(Mode::Standard, |_| ());
    let (id, name) = ("c".to_owned(), "read".to_owned());
    let arguments = serde_json::json!({"path": "a/".repeat(40_000)}).to_string();
    assert!(bench.broker.look_at(&ToolCall { id, name, arguments }).is_err());
    let shell = zerostack::policy::analyse(&format!("[[ {} a ]]", "! ".repeat(16_000)));
    assert!(!shell.understood);
}

#[test]
fn all_of_this_holds_for_an_ordinary_account() {
    if !nix::unistd::geteuid().is_root() {
        // Then it has just been shown.
        return;
    }
    let world = World::new(Account::Ordinary);
    let program = world.root().join("bin/workers");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let out = Account::Ordinary
        .command(&program)
        .args(["workers::", "--skip", "ordinary_account"])
        .env("ZEROSTACK_UNDER_TEST", world.program())
        .env("HOME", world.home())
        .env("PATH", "/usr/bin:/bin")
        .current_dir(world.workspace())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("links_out_of_the_workspace_lead_nowhere ... ok"), "{text}");
}
