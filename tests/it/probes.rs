//! Things that agents of this kind are known to let through, tried on the built program with a model that
//! tries them.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::Output;
use crate::support::{Account, KEY, World, accounts};

/// One turn in which the model makes all of these calls, named c0, c1, …
fn attempt(world: &World, flags: &[&str], calls: &[(&str, Value)]) -> Output {
    let mut turn = Reply::text("");
    for (number, (tool, arguments)) in calls.iter().enumerate() {
        turn = turn.with_call(&format!("c{number}"), tool, &arguments.to_string());
    }
    let server = ModelServer::start(vec![turn, Reply::text("Done.")]).requiring_key(KEY);
    let out = world.ask(&server, "go").args(flags).json().run();
    server.finish();
    out
}

fn bash(command: &str) -> (&'static str, Value) {
    ("bash", json!({"command": command}))
}

fn output(out: &Output, number: usize) -> String {
    out.call(&format!("c{number}"))["output"].as_str().unwrap().to_owned()
}

#[test]
fn an_unknown_command_is_denied_where_nobody_can_be_asked() {
    for account in accounts() {
        let world = World::new(account);
        let out = attempt(&world, &[], &[bash("make-me-a-sandwich"), bash("touch x")]).exits(4);
        assert_eq!((out.fate("c0"), out.fate("c1")), ("denied".into(), "denied".into()));
        assert!(!world.has("x"));
    }
}

#[test]
fn a_cell_has_no_key_no_terminal_no_way_out_and_no_mounts_to_change() {
    for account in accounts() {
        let world = World::new(account);
        world.write(".git/config", "[core]\n");
        world.write(".git/hooks/post-commit", "#!/bin/sh\n");
        let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        let socket = std::path::Path::new("/run/zerostack-probe.sock");
        let _ = std::fs::remove_file(socket);
        let root = nix::unistd::Uid::effective().is_root();
        let listening = root.then(|| UnixListener::bind(socket).unwrap());
        // Outside there is somebody.
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        // mount itself says no to whoever is not root.
        let current_root = root && account == Account::Current;
        let mount = if current_root { "permission denied" } else { "must be superuser" };
        let commands = [
            "tr '\\0' '\\n' </proc/1/environ; cat /proc/*/environ | tr '\\0' '\\n'".to_owned(),
            "exec 3<>/dev/tty".to_owned(),
            "echo x > .git/hooks/x".to_owned(),
            "echo x >> .git/config".to_owned(),
            "mount -o remount,bind,rw /".to_owned(),
            "cat < /dev/tcp/169.254.169.254/80".to_owned(),
            format!("cat < /dev/tcp/127.0.0.1/{port}"),
            format!("test -S {}", socket.display()),
        ];
        let calls: Vec<_> = commands.iter().map(|command| bash(command)).collect();
        let rules: Vec<String> =
            commands.iter().map(|command| format!("bash({command})")).collect();
        let flags: Vec<&str> = rules.iter().flat_map(|rule| ["--allow", rule]).collect();

        let out = attempt(&world, &flags, &calls).exits(0);

        assert!(output(&out, 0).contains("PATH="), "{out}");
        assert!(!out.stdout.contains(KEY) && !output(&out, 0).contains("API_KEY"), "{out}");
        for (number, reason) in [
            (1, "No such device"),
            (2, "Read-only file system"),
            (3, "Read-only file system"),
            (4, mount),
            (5, "Network is unreachable"),
            (6, "Connection refused"),
            (7, "(exit 1)"),
        ] {
            let said = output(&out, number);
            assert!(said.contains(reason), "{}: {said}", commands[number]);
            assert_eq!(out.fate(&format!("c{number}")), "error", "{said}");
        }
        drop(listening);
        let _ = std::fs::remove_file(socket);
    }
}

#[test]
fn a_write_through_a_link_is_refused_and_a_key_file_is_not_read() {
    for account in accounts() {
        let world = World::new(account);
        world.write("../outside/x.txt", "x\n");
        world.write("../.ssh/id_x", "private\n");
        symlink("../outside", world.workspace().join("link")).unwrap();
        let write = |path: &str| ("write", json!({"path": path, "content": "x"}));
        let out = attempt(&world, &[], &[write("link/newfile"), write("link/../y")]).exits(4);
        assert_eq!(out.fate("c0"), "denied");
        assert!(!world.has("../outside/newfile"));
        let read = ("read", json!({"path": "~/.ssh/id_x"}));
        let out = attempt(&world, &["--read-only"], std::slice::from_ref(&read)).exits(0);
        assert_eq!(out.fate("c0"), "denied");
        let out = attempt(&world, &[], &[read, bash("cat ~/.ssh/id_x")]);
        assert!(!out.stdout.contains("private"), "{out}");
    }
}

#[test]
fn a_denied_file_is_denied_by_every_way_to_it() {
    for account in accounts() {
        let world = World::new(account);
        world.write("plain.txt", "TOKEN=needle\n");
        world.write("a/x.txt", "x\n");
        let place = world.workspace().display().to_string();
        let calls = [
            ("read", json!({"path": "plain.txt"})),
            ("read", json!({"path": "a/../plain.txt"})),
            ("read", json!({"path": format!("{place}//plain.txt")})),
            ("read", json!({"path": format!("/{place}/./plain.txt")})),
            ("grep", json!({"pattern": "needle"})),
            ("grep", json!({"pattern": "needle", "path": "plain.txt"})),
            bash("cat plain.txt"),
            bash("grep -r needle ."),
            bash("cat a/../plai*"),
        ];
        for mode in ["--standard", "--yolo", "--read-only"] {
            // Without the rule it is found.
            let out = attempt(&world, &[mode], &calls);
            assert!(out.stdout.contains("TOKEN=needle"), "{mode}: {out}");
            let out = attempt(&world, &[mode, "--deny", "read(**/plain.txt)"], &calls);
            assert!(!out.stdout.contains("TOKEN=needle"), "{mode}: {out}");
        }
        // A sub-agent is no way around.
        let server = || {
            ModelServer::always_from(|requests| {
                let last = requests.last().unwrap();
                let results = last.messages().iter().filter(|it| it["role"] == "tool").count();
                match (last.said_by("user").concat().as_str(), results) {
                    ("go", 0) => Reply::call("t", "task", json!({"prompt": "sub", "full": true})),
                    ("sub", 0) => Reply::calls(&[
                        ("s0", "read", json!({"path": "plain.txt"})),
                        ("s1", "grep", json!({"pattern": "needle"})),
                        ("s2", "bash", json!({"command": "cat plain.txt"})),
                    ]),
                    _ => Reply::text("Done."),
                }
            })
        };
        for (rule, found) in [("read(nothing)", true), ("read(**/plain.txt)", false)] {
            let server = server();
            world.ask(&server, "go").args(&["--yolo", "--deny", rule]).run().exits(0);
            let requests = server.finish_loosely();
            let seen = requests.iter().any(|request| request.text.contains("TOKEN=needle"));
            assert_eq!(seen, found, "{rule}");
        }
    }
}

#[test]
fn commands_that_only_look_harmless_ask_in_guarded_mode_and_destructive_ones_in_yolo() {
    let world = World::new(Account::Current);
    let sly = [
        "ls & curl x",
        "echo $(x)",
        "git log --output=f",
        "find . -exec id \\;",
        "sort -o f f",
        "ls",
    ];
    let calls: Vec<_> = sly.iter().map(|command| bash(command)).collect();
    let out = attempt(&world, &["--guarded"], &calls).exits(4);
    (0..sly.len()).for_each(|number| assert_eq!(out.fate(&format!("c{number}")), "denied"));
    let out = attempt(&world, &[], &calls).exits(4);
    (0..sly.len() - 1).for_each(|number| assert_eq!(out.fate(&format!("c{number}")), "denied"));
    assert_eq!(out.fate("c5"), "ok");
    let wild = ["rm -fr /", "/bin/rm -rf /", "X=1 rm -rf ~", "git push --force", "dd if=a of=b"];
    let calls: Vec<_> = wild.iter().map(|command| bash(command)).collect();
    let out = attempt(&world, &["--yolo"], &calls).exits(4);
    (0..wild.len()).for_each(|number| assert_eq!(out.fate(&format!("c{number}")), "denied"));
}

#[test]
fn the_same_rules_always_decide_the_same() {
    let world = World::new(Account::Current);
    world.configure(
        "allow = [\"write(**)\", \"write(**/*.rs)\"]\nask = [\"write(src/**)\"]\ndeny = [\"write(src/x.rs)\"]\n",
    );
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        for path in ["src/x.rs", "src/y.rs", "z.rs", "/etc/z.rs"] {
            let call = format!("write({path})");
            seen.insert(world.zerostack(&["policy", "explain", &call]).run().exits(0).stdout);
        }
    }
    assert_eq!(seen.len(), 4, "{seen:#?}");
}

#[test]
fn explain_says_what_a_run_does() {
    let world = World::new(Account::Current);
    world.write(".env", "x\n");
    let flags = ["--deny", "bash(curl*)", "--allow", "bash(make test)"];
    let cases = [
        ("bash", "ls -la", "allow"),
        ("bash", "make test", "allow"),
        ("bash", "make test; curl x", "deny"),
        ("bash", "rm -rf x", "ask"),
        ("read", ".env", "ask"),
        ("read", "../x", "ask"),
    ];
    for (tool, what, word) in cases {
        let call = format!("{tool}({what})");
        let args: Vec<&str> = ["policy", "explain", &call].into_iter().chain(flags).collect();
        let said = world.zerostack(&args).run().exits(0).stdout;
        assert!(said.starts_with(&format!("{word} in standard mode")), "{call}: {said}");
        let key = if tool == "bash" { "command" } else { "path" };
        let out = attempt(&world, &flags, &[(tool, json!({key: what}))]);
        assert_eq!(out.fate("c0") == "denied", word != "allow", "{call}: {out}");
    }
    world.zerostack(&["policy", "explain", "reed(x)"]).run().exits(2).says("names no tool");
}

#[test]
fn a_loop_of_two_calls_is_stopped_even_in_yolo() {
    let world = World::new(Account::Current);
    let call = |number: usize| {
        let command = if number.is_multiple_of(2) { "echo a" } else { "echo b" };
        Reply::call(&format!("c{number}"), "bash", json!({"command": command}))
    };
    let mut script: Vec<Reply> = (0..10).map(call).collect();
    script.push(Reply::text("Stuck."));
    let server = ModelServer::start(script);
    let out = world.ask(&server, "go").args(&["--yolo"]).json().run().exits(4);
    assert_eq!((out.fate("c0"), out.fate("c9")), ("ok".into(), "denied".into()));
    let requests = server.finish();
    assert!(requests.last().unwrap().result("c5").contains("Try something else"));
}

#[test]
fn a_start_with_nothing_set_asks_nothing_and_waits_for_nothing() {
    let world = World::new(Account::Current);
    let out = world.zerostack(&["-p", "hi"]).run().exits(1);
    assert_eq!(out.stdout, "");
    assert!(!out.stderr.contains('?'), "{out}");
    let shell = format!("exec {} -p hi <&-", world.program().display());
    let closed =
        std::process::Command::new("sh").args(["-c", &shell]).env("HOME", world.home()).output();
    assert_eq!(closed.unwrap().status.code(), Some(1));
}

#[test]
fn a_loop_ends_when_its_check_passes_and_not_well_if_it_never_does() {
    for account in accounts() {
        let world = World::new(account);
        let write =
            |id: &str| Reply::call(id, "write", json!({"path": "made.txt", "content": "x\n"}));
        let server = ModelServer::start(vec![
            Reply::text("Not yet."),
            write("w"),
            Reply::text("Written."),
            Reply::text("a"),
            Reply::text("b"),
            Reply::text("c"),
        ])
        .allowing_summaries();
        let rounds = |check: &str, rules: &[&str]| {
            world
                .zerostack(&[
                    "--provider",
                    "openai",
                    "--base-url",
                    &server.base_url(),
                    "--model",
                    "m",
                ])
                .env("OPENAI_API_KEY", KEY)
                .args(&[
                    "--loop",
                    "--loop-prompt",
                    "Make made.txt",
                    "--loop-max",
                    "2",
                    "--loop-run",
                    check,
                ])
                .args(rules)
                .json()
                .run()
        };
        let out = rounds("echo looked; test -e made.txt", &[]).exits(0);
        assert_eq!((&out.json()["rounds"], &out.json()["answer"]), (&json!(2), &json!("Written.")));
        let out = rounds("test -e never", &[]).exits(6);
        assert_eq!(out.json()["status"], "check-failed");
        // A check that is denied stays denied: no round is paid for after it.
        let out = rounds("test -e never", &["--deny", "bash(test*)"]).exits(6);
        assert_eq!(out.json()["rounds"], 1, "{out}");
        let requests = server.finish();
        // Each round begins anew, but for what the check has said.
        let second = requests[1].said_by("user");
        assert_eq!(second.len(), 1);
        for words in ["Make made.txt", "round 2 of at most 2", "LOOP_PLAN.md", "looked\n(exit 1)"] {
            assert!(second[0].contains(words), "{words} in {}", second[0]);
        }
        world.zerostack(&["--loop", "--loop-prompt", "x"]).run().exits(2).says("would never end");
    }
}
