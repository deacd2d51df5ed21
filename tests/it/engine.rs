//! What the loop does besides calling tools: sub-agents, background commands, read tracking, limits.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Account, World, accounts};

fn world() -> World {
    World::new(Account::Current)
}

fn edit(id: &str, old: &str, new: &str) -> Reply {
    let edits = json!([{"old": old, "new": new}]);
    Reply::call(id, "edit", json!({"path": "a.txt", "edits": edits}))
}

/// Changes `a.txt` behind the agent's back: a command of the model's own is as good as anybody's.
fn change(id: &str) -> Reply {
    Reply::call(id, "bash", json!({"command": "printf 'one\\nTWO\\n' > a.txt"}))
}

#[test]
fn a_file_that_changed_since_it_was_read_is_not_edited_and_the_change_is_shown() {
    for account in accounts() {
        let world = World::new(account);
        world.write("a.txt", "one\ntwo\n");
        let server = ModelServer::start(vec![
            Reply::call("r1", "read", json!({"path": "a.txt"})),
            change("b1"),
            edit("e1", "one", "1"),
            edit("e2", "one", "1"),
            Reply::text("Done."),
        ]);
        let allow = ["--allow", "bash(printf*)", "--allow", "bash(printf 'one\\nTWO\\n' > a.txt)"];

        world.ask(&server, "Edit").args(&allow).run().exits(0);

        let requests = server.finish();
        let stale = requests[3].result("e1");
        assert!(stale.contains("changed since you read it") && stale.contains("+TWO"), "{stale}");
        // Told what it is now, the model may go on.
        assert!(requests[4].result("e2").contains("+1"), "{}", requests[4].result("e2"));
        assert_eq!(world.read("a.txt"), "1\nTWO\n");
    }
}

#[test]
fn a_file_is_replaced_only_after_it_was_read_also_in_a_resumed_session() {
    let world = world();
    world.write("a.txt", "one\n");
    let write = |id: &str| Reply::call(id, "write", json!({"path": "a.txt", "content": "new\n"}));
    let server = ModelServer::start(vec![
        write("w1"),
        Reply::call("r1", "read", json!({"path": "a.txt"})),
        Reply::text("Read."),
        write("w2"),
        Reply::text("Written."),
    ]);
    let out = world.ask(&server, "Write").json().run().exits(0);
    assert_eq!(out.fate("w1"), "error");
    assert_eq!(world.read("a.txt"), "one\n");
    let out = world.ask(&server, "Now").args(&["-c"]).json().run().exits(0);
    assert_eq!((out.fate("w2").as_str(), world.read("a.txt").as_str()), ("ok", "new\n"));
    server.finish();
}

#[test]
fn hashed_lines_are_edited_by_their_anchors() {
    let world = world();
    world.write("a.txt", "one\ntwo\nthree\n");
    let server = ModelServer::always_from(|requests| match requests.len() {
        1 => Reply::call("r1", "read", json!({"path": "a.txt"})),
        2 => {
            let shown = requests[1].result("r1");
            let anchor = shown.lines().nth(1).unwrap().split('\t').next().unwrap().trim();
            let edits = json!([{"from": anchor, "new": "2"}, ]);
            Reply::call("e1", "edit", json!({"path": "a.txt", "edits": edits}))
        }
        3 => {
            let edits = json!([{"from": "3:zzz", "new": "3"}]);
            Reply::call("e2", "edit", json!({"path": "a.txt", "edits": edits}))
        }
        _ => Reply::text("Done."),
    });

    let out = world.ask(&server, "Edit").args(&["--edit-system", "hashedit"]).json().run().exits(0);

    assert_eq!((out.fate("e1"), out.fate("e2")), ("ok".into(), "error".into()));
    assert_eq!(world.read("a.txt"), "one\n2\nthree\n");
    server.finish();
}

#[test]
fn sub_agents_run_at_once_under_the_same_rules_and_cost_once() {
    let world = world();
    world.write("a.txt", "alpha\n");
    world.write("private/p.txt", "hidden\n");
    world.configure("[models.test-model]\nprice = { input = 1000000.0, output = 0.0 }\n");
    let server = ModelServer::always_from(|requests| {
        let last = requests.last().unwrap();
        let said = last.said_by("user").concat();
        let results = last.messages().iter().filter(|message| message["role"] == "tool").count();
        let reply = match (said.as_str(), results) {
            ("main", 0) => Reply::calls(&[
                ("t1", "task", json!({"prompt": "one"})),
                ("t2", "task", json!({"prompt": "two", "full": true})),
            ]),
            ("one", 0) => Reply::calls(&[
                ("c1", "read", json!({"path": "a.txt"})),
                ("c2", "read", json!({"path": "private/p.txt"})),
                ("c3", "write", json!({"path": "one.txt", "content": "x"})),
                ("c4", "task", json!({"prompt": "three"})),
            ]),
            ("two", 0) => Reply::call("c5", "write", json!({"path": "two.txt", "content": "x"})),
            ("one", _) => Reply::text("report one"),
            ("two", _) => Reply::text("report two"),
            _ => Reply::text("All reported."),
        };
        reply.usage(1, 1, 0)
    });

    let out =
        world.ask(&server, "main").args(&["--deny", "read(private/**)"]).json().run().exits(0);

    let result = out.json();
    assert_eq!(out.call("t1")["output"], "report one");
    assert_eq!(out.call("t2")["output"], "report two");
    assert!(world.has("two.txt") && !world.has("one.txt"));
    // Two requests of each of the three conversations, each counted once.
    assert_eq!(result["usage"]["input_tokens"], 6);
    assert_eq!(result["cost_usd"], 6.0);
    assert_eq!(result["denials"][0]["tool"], "read");
    let requests = server.finish_loosely();
    let reader = requests.iter().find(|request| request.said_by("user") == ["one"]).unwrap();
    assert_eq!(reader.tool_names(), ["read", "grep", "find_files", "list_dir"]);
    let told = requests.iter().rfind(|it| it.said_by("user") == ["one"]).unwrap();
    assert!(told.result("c1").contains("alpha") && told.result("c2").contains("denied"));
    assert!(told.result("c3").contains("no tool") && told.result("c4").contains("no tool"));
    let file = fs::read_dir(world.home().join(".local/share/zerostack/sessions")).unwrap();
    let saved = fs::read_to_string(file.flatten().next().unwrap().path()).unwrap();
    assert!(saved.contains("report one") && saved.contains("\"task\""), "{saved}");
}

#[test]
fn background_commands_are_listed_read_stopped_and_end_with_the_run() {
    for account in accounts() {
        let world = World::new(account);
        let command = "echo started; sleep 0.2; echo later; sleep 86411";
        let server = ModelServer::start(vec![
            Reply::call("b1", "bash", json!({"command": command, "background": true})),
            Reply::call("b2", "bash", json!({"command": "sleep 86412", "background": true})),
            Reply::call("j1", "jobs", json!({"id": 1, "wait": 1})),
            Reply::call("j2", "jobs", json!({"id": 1, "stop": true})),
            Reply::call("j3", "jobs", json!({})),
            Reply::call("j4", "jobs", json!({"id": 7})),
            Reply::text("Done."),
        ]);
        let allow = ["--allow", &format!("bash({command})"), "--allow", "bash(sleep*)"];

        let out = world.ask(&server, "Work").args(&allow).json().run().exits(0);

        let output = |id: &str| out.call(id)["output"].as_str().unwrap().to_owned();
        assert_eq!(output("j1"), "started\nlater\n(running)");
        assert!(output("j2").ends_with("(stopped)"), "{}", output("j2"));
        assert!(output("j3").contains("1 stopped") && output("j3").contains("2 running"));
        assert_eq!(out.fate("j4"), "error");
        let ended = std::process::Command::new("pgrep").args(["-f", "sleep 8641[12]"]).output();
        assert!(ended.unwrap().stdout.is_empty(), "something is left running");
        server.finish();
    }
}

#[test]
fn the_limits_of_turns_and_cost_end_a_run_that_can_go_on() {
    let world = world();
    world.write("a.txt", "alpha\n");
    world.configure("[models.test-model]\nprice = { input = 1000000.0, output = 0.0 }\n");
    let read = |id: &str| Reply::call(id, "read", json!({"path": "a.txt"})).usage(1, 1, 0);
    let server = ModelServer::start(vec![
        read("c1"),
        read("c2").usage(1, 1, 0),
        Reply::text("Enough.").usage(1, 1, 0),
    ]);

    let out = world.ask(&server, "go").args(&["--max-turns", "1"]).json().run().exits(5);
    assert!(out.json()["error"].as_str().unwrap().contains("--max-turns"), "{out}");
    let out = world.ask(&server, "go").args(&["-c", "--max-cost", "0.5"]).json().run().exits(5);
    assert!(out.json()["error"].as_str().unwrap().contains("--max-cost"), "{out}");
    world.ask(&server, "go").args(&["-c"]).run().exits(0);
    let requests = server.finish();
    assert!(requests[2].result("c2").contains("alpha"));
}

#[test]
fn a_full_window_is_summarised_before_the_server_complains() {
    let world = world();
    world.write("a.txt", &"a line of text that fills the window\n".repeat(1500));
    world.configure("reserve_tokens = 1000\n[models.test-model]\nwindow = 12000\n");
    let server = ModelServer::start(vec![
        Reply::call("c1", "read", json!({"path": "a.txt"})).usage(1000, 50, 0),
        Reply::text("It is a long file."),
        Reply::text("Long."),
    ])
    .allowing_summaries();

    let out = world.ask(&server, "How long is a.txt?").run().exits(0);

    out.says("the conversation was summarised");
    let requests = server.finish();
    assert!(requests[1].tool_names().is_empty() && requests[1].text.len() < 30_000);
    assert!(requests[2].text.len() < 20_000 && requests[2].text.contains("It is a long file."));
}

#[test]
fn a_command_of_the_users_runs_in_a_cell_and_the_model_hears_of_it() {
    for account in accounts() {
        let world = World::new(account);
        let run = |args: &[&str]| world.zerostack(&["--provider", "demo"]).args(args).run();
        let out = run(&["-p", "!echo mine > made.txt; cat ~/.ssh/id; exit 3"]);
        assert_eq!(out.status, 1, "{out}");
        assert!(out.stdout.contains("(exit 3)") && out.stdout.contains("No such file"), "{out}");
        assert_eq!(world.read("made.txt"), "mine\n");
        run(&["--deny", "bash(rm*)", "-p", "!rm made.txt"]).exits(4).says("denied");
        assert!(world.has("made.txt"));
        let server = ModelServer::start(vec![Reply::text("I see.")]);
        let found = world.zerostack(&["sessions", "search", "echo mine"]).run().exits(0).stdout;
        let id = found.split_whitespace().next().unwrap().to_owned();
        world.ask(&server, "See?").args(&["--session", &id]).run().exits(0);
        let said = server.finish()[0].said_by("user").join("\n");
        assert!(said.contains("echo mine") && said.contains("(exit 3)"), "{said}");
        // Piped text is never a command, nor part of one.
        world.zerostack(&["-p", "!true"]).stdin("rm made.txt\n").run().exits(0);
        assert!(world.has("made.txt"));
        let piped = world.zerostack(&["--provider", "demo", "-p"]).stdin("!rm made.txt\n").run();
        assert!(piped.status == 0 && world.has("made.txt"), "{piped}");
    }
}

#[test]
fn findings_of_a_review_become_sarif() {
    let world = world();
    let findings = json!([{"title": "Injection", "severity": "critical", "file": "src/a.rs", "line": 3,
        "description": "d", "exploit": "e", "fix": "f", "cwe": "CWE-78"}]);
    let answer = format!("I looked.\n```findings\n{findings}\n```");
    let server = ModelServer::start(vec![
        Reply::text(&answer),
        Reply::text(&answer),
        Reply::text("All is well."),
    ]);
    let run = |format: &str| {
        let args = ["--load-prompt", "review-security", "--output-format", format];
        world.ask(&server, "Audit").args(&args).run()
    };
    let log: Value = run("sarif").exits(0).json();
    assert_eq!(log["version"], "2.1.0");
    assert_eq!(log["runs"][0]["results"][0]["ruleId"], "CWE-78");
    let words = run("text").exits(0).stdout;
    assert!(words.contains("### critical: Injection (CWE-78)"), "{words}");
    run("sarif").exits(1).says("no block of findings");
    server.finish();
}

#[test]
fn a_denial_names_the_rule_that_would_allow_exactly_that() {
    let world = world();
    let command = "touch 'made it.txt'";
    let ask = || {
        let call = Reply::call("c1", "bash", json!({"command": command}));
        ModelServer::start(vec![call, Reply::text("Done.")])
    };
    let server = ask();
    let out = world.ask(&server, "Make it").json().run().exits(4);
    server.finish();
    let denial = out.json()["denials"][0].clone();
    assert_eq!((denial["what"].as_str(), &denial["unasked"]), (Some(command), &json!(true)));
    let grant = denial["grant"].as_str().unwrap().to_owned();
    let server = ask();
    world.ask(&server, "Make it").args(&["--allow", &grant]).run().exits(0);
    assert!(world.has("made it.txt"));
    server.finish();
    // It allows that command and no other.
    let other = Reply::call("c1", "bash", json!({"command": "touch 'made it.txt' other"}));
    let server = ModelServer::start(vec![other, Reply::text("No.")]);
    world.ask(&server, "Make it").args(&["--allow", &grant]).run().exits(4);
    server.finish();
}

/// In a network namespace with nothing but loopback there is nowhere else to go: a run that needs
/// anything else would stall or fail.
#[test]
fn a_local_provider_needs_nothing_but_loopback() {
    if std::env::var_os("ZEROSTACK_ALONE").is_some() {
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.unwrap().success());
        let world = world();
        let begun = std::time::Instant::now();
        let server = ModelServer::start(vec![Reply::text("Alone.")])
            .speaking(crate::support::dialect::Dialect::Ollama);
        let out =
            world.ask_in(crate::support::dialect::Dialect::Ollama, &server, "hi").run().exits(0);
        assert_eq!(out.stdout, "Alone.\n");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        server.finish();
        return;
    }
    let name = "engine::a_local_provider_needs_nothing_but_loopback";
    let mut alone = std::process::Command::new("unshare");
    alone.args(if nix::unistd::Uid::effective().is_root() {
        &["--net"][..]
    } else {
        &["--net", "--map-root-user"]
    });
    let alone = alone
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("ZEROSTACK_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&alone.stderr)
    );
}

/// The tokens of the first request are paid with every one. Measured with o200k: 1 token is about 4.3
/// bytes of this text (`tests/peers/tokens.sh` counts them).
#[test]
fn the_first_request_is_small() {
    let world = world();
    let server = ModelServer::start(vec![Reply::text("Hi.")]);
    world.ask(&server, "hi").run().exits(0);
    let request = &server.finish()[0];
    let system = request.said_by("system").concat().len();
    let tools = request.body["tools"].to_string().len();
    assert!(system + tools < 7_000, "{system} bytes of system prompt, {tools} of tools");
}
