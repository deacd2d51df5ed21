//! `-p`: one prompt runs to its end, under a mode, without a terminal.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::wait;
use crate::support::{Account, KEY, World, accounts};

/// A call that the mode or a rule forbids outright is no approval that somebody failed to
/// give: the model is told, and the run is as good as its answer.
const FORBIDDEN_IS_NOT_UNASKED: i32 = 0;

fn model(replies: Vec<Reply>) -> ModelServer {
    ModelServer::start(replies).requiring_key(KEY)
}

fn bash(id: &str, command: &str) -> Reply {
    Reply::call(id, "bash", json!({"command": command}))
}

fn write(id: &str, path: &str) -> Reply {
    Reply::call(id, "write", json!({"path": path, "content": "made\n"}))
}

/// The reason that the result gives for each denied call, by tool.
fn denied_tools(result: &Value) -> Vec<String> {
    let denials = result["denials"].as_array().unwrap();
    for denial in denials {
        let reason = denial["reason"].as_str().unwrap();
        assert!(!reason.is_empty(), "{result:#}");
    }
    denials.iter().map(|denial| denial["tool"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_reads_and_searches_at_once_then_edits_then_runs_a_command_then_answers() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "one\ntwo\n");
        let server = model(vec![
            Reply::calls(&[
                ("r1", "read", json!({"path": "notes.txt"})),
                ("g1", "grep", json!({"pattern": "two", "path": "."})),
            ]),
            Reply::call(
                "e1",
                "edit",
                json!({"path": "notes.txt", "edits": [{"old": "two", "new": "three"}]}),
            ),
            bash("b1", "ls"),
            Reply::text("Changed two to three."),
        ]);

        let out = world.ask(&server, "Change two to three").run().exits(0);

        assert_eq!(out.stdout, "Changed two to three.\n");
        assert_eq!(world.read("notes.txt"), "one\nthree\n");
        let requests = server.finish();
        assert_eq!(requests.len(), 4);
        assert_eq!(requests[0].said_by("user"), ["Change two to three"]);
        let read = requests[1].result("r1");
        assert!(read.contains("one") && read.contains("two"), "{read}");
        let found = requests[1].result("g1");
        assert!(found.contains("notes.txt") && found.contains("two"), "{found}");
        let diff = requests[2].result("e1");
        assert!(diff.contains("-two") && diff.contains("+three"), "{diff}");
        let listed = requests[3].result("b1");
        assert!(listed.contains("notes.txt"), "{listed}");
    }
}

#[test]
fn a_file_that_a_tool_makes_belongs_to_the_user_who_ran_the_program() {
    use std::os::unix::fs::MetadataExt;
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![write("w1", "deep/er/new.txt"), Reply::text("Made it.")]);

        world.ask(&server, "Make a file").run().exits(0);

        assert_eq!(world.read("deep/er/new.txt"), "made\n");
        let made = fs::metadata(world.workspace().join("deep/er/new.txt")).unwrap();
        assert_eq!(made.uid(), account.uid());
        server.finish();
    }
}

#[test]
fn find_files_list_dir_and_todo_write_answer_the_model() {
    let world = World::new(Account::Current);
    world.write("src/engine.rs", "fn start() {}\n");
    world.write("README.md", "An engine.\n");
    let server = model(vec![
        Reply::calls(&[
            ("f1", "find_files", json!({"pattern": "**/*.rs", "path": "."})),
            ("l1", "list_dir", json!({"path": "."})),
            ("t1", "todo_write", json!({"todos": [{"content": "start it", "status": "pending"}]})),
        ]),
        Reply::text("Looked around."),
    ]);

    let out = world.ask(&server, "Look around").json().run().exits(0);

    for id in ["f1", "l1", "t1"] {
        assert_eq!(out.fate(id), "ok", "{out}");
    }
    let requests = server.finish();
    let found = requests[1].result("f1");
    assert!(found.contains("src/engine.rs"), "{found}");
    assert!(!found.contains("README.md"), "{found}");
    let listed = requests[1].result("l1");
    assert!(listed.contains("README.md") && listed.contains("src"), "{listed}");
}

#[test]
fn standard_input_is_appended_to_the_prompt() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![Reply::text("Fine.")]);

        world.ask(&server, "review this").stdin("let x = unreviewed;\n").run().exits(0);

        let said = server.finish()[0].said_by("user").join("\n");
        let (prompt, input) = (said.find("review this"), said.find("let x = unreviewed;"));
        assert!(prompt.is_some() && prompt < input, "{said}");
    }
}

#[test]
fn standard_input_alone_is_a_prompt() {
    let world = World::new(Account::Current);
    let server = model(vec![Reply::text("Fine.")]);

    world
        .zerostack(&["--provider", "openai", "--base-url", &server.base_url()])
        .args(&["--model", "test-model", "-p"])
        .env("OPENAI_API_KEY", KEY)
        .stdin("only from the pipe\n")
        .run()
        .exits(0);

    let said = server.finish()[0].said_by("user").join("\n");
    assert!(said.contains("only from the pipe"), "{said}");
}

#[test]
fn text_output_is_the_answer_and_nothing_else() {
    let world = World::new(Account::Current);
    let answer = "Grüße, 世界 — line one\n\n```rust\nfn two() {}\n```";
    let server = model(vec![bash("b1", "ls"), Reply::text(answer)]);

    let out = world.ask(&server, "Say it").run().exits(0);

    assert_eq!(out.stdout, format!("{answer}\n"));
    server.finish();
}

#[test]
fn json_output_is_one_object_that_tells_the_whole_run() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "a line of notes\n");
        let server = model(vec![
            Reply::call("r1", "read", json!({"path": "notes.txt"})).usage(100, 20, 0),
            Reply::text("It holds a line.").usage(150, 10, 90),
        ]);

        let out = world.ask(&server, "What is in it?").json().run().exits(0);

        let result = out.json();
        assert_eq!(result["type"], "result");
        assert_eq!(result["status"], "done");
        assert_eq!(result["exit_code"], 0);
        assert_eq!(result["answer"], "It holds a line.");
        assert_eq!(result["turns"], 2);
        assert_eq!(result["usage"]["input_tokens"], 250);
        assert_eq!(result["usage"]["output_tokens"], 30);
        assert_eq!(result["usage"]["cached_tokens"], 90);
        assert_eq!(result["denials"], json!([]));
        assert_eq!(result["provider"], "openai");
        assert_eq!(result["model"], "test-model");
        assert_eq!(result["mode"], "standard");
        assert_eq!(result["rung"], "native");
        assert_eq!(result["error"], Value::Null);
        assert_eq!(result["tool_calls"].as_array().unwrap().len(), 1);
        let call = out.call("r1");
        assert_eq!(call["name"], "read");
        assert_eq!(call["arguments"], json!({"path": "notes.txt"}));
        assert_eq!(call["status"], "ok");
        let output = call["output"].as_str().unwrap();
        assert!(output.contains("a line of notes"), "{out}");
        server.finish();
    }
}

#[test]
fn stream_json_is_one_event_a_line_and_ends_with_the_result() {
    let world = World::new(Account::Current);
    world.write("notes.txt", "a line of notes\n");
    let read = ("r1", "read", json!({"path": "notes.txt"}));
    let server = model(vec![
        Reply::text("I shall look.").with_calls(&[read]),
        Reply::text("It holds a line."),
    ]);

    let out = world
        .ask(&server, "What is in it?")
        .args(&["--output-format", "stream-json"])
        .run()
        .exits(0);

    let events = out.events();
    let start = &events[0];
    assert_eq!(start["type"], "start", "{out}");
    assert_eq!(start["mode"], "standard");
    assert_eq!(start["rung"], "native");
    assert_eq!(start["provider"], "openai");
    assert_eq!(start["model"], "test-model");

    let at = |kind: &str| events.iter().position(|event| event["type"] == kind);
    let call = at("tool_call").unwrap();
    let result = at("tool_result").unwrap();
    let before: String = texts(&events[..call]);
    let after: String = texts(&events[result..]);
    assert_eq!(before, "I shall look.", "{out}");
    assert_eq!(after, "It holds a line.", "{out}");
    assert_eq!(events[call]["id"], "r1");
    assert_eq!(events[call]["name"], "read");
    assert_eq!(events[call]["arguments"], json!({"path": "notes.txt"}));
    assert_eq!(events[result]["id"], "r1");
    assert_eq!(events[result]["status"], "ok");
    let output = events[result]["output"].as_str().unwrap();
    assert!(output.contains("a line of notes"), "{out}");

    let last = events.last().unwrap();
    assert_eq!(at("result"), Some(events.len() - 1), "{out}");
    assert_eq!(last["status"], "done");
    assert_eq!(last["answer"], "It holds a line.");
    server.finish();
}

fn texts(events: &[Value]) -> String {
    events
        .iter()
        .filter(|event| event["type"] == "text")
        .map(|event| event["text"].as_str().unwrap())
        .collect()
}

#[test]
fn in_read_only_mode_a_write_is_denied_and_the_file_stays() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "kept\n");
        let server = model(vec![
            Reply::calls(&[
                ("w1", "write", json!({"path": "notes.txt", "content": "lost\n"})),
                (
                    "e1",
                    "edit",
                    json!({"path": "notes.txt", "edits": [{"old": "kept", "new": "lost"}]}),
                ),
                ("b1", "bash", json!({"command": "echo lost > notes.txt"})),
                ("r1", "read", json!({"path": "notes.txt"})),
            ]),
            Reply::text("I may not."),
        ]);

        let out = world
            .ask(&server, "Change it")
            .args(&["--read-only", "--allow", "write(notes.txt)"])
            .json()
            .run()
            .exits(FORBIDDEN_IS_NOT_UNASKED);

        assert_eq!(world.read("notes.txt"), "kept\n");
        for id in ["w1", "e1", "b1"] {
            assert_eq!(out.fate(id), "denied", "{out}");
        }
        assert_eq!(out.fate("r1"), "ok", "{out}");
        assert_eq!(denied_tools(&out.json()), ["write", "edit", "bash"]);
        let told = server.finish()[1].result("w1");
        assert!(told.contains("denied") && told.contains("readonly"), "{told}");
    }
}

#[test]
fn an_unsafe_command_that_nobody_can_approve_is_denied_and_the_run_goes_on() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![bash("b1", "touch made.txt"), Reply::text("I could not make it.")]);

        let out = world.ask(&server, "Make it").run().exits(4);

        assert_eq!(out.stdout, "I could not make it.\n");
        assert!(!world.has("made.txt"));
        let told = server.finish()[1].result("b1");
        assert!(told.contains("denied"), "{told}");
    }
}

#[test]
fn the_result_of_a_missing_approval_is_denied_even_when_the_model_answers() {
    let world = World::new(Account::Current);
    let server = model(vec![bash("b1", "touch made.txt"), Reply::text("Well.")]);

    let out = world.ask(&server, "Make it").json().run().exits(4);

    let result = out.json();
    assert_eq!(result["status"], "denied");
    assert_eq!(result["exit_code"], 4);
    assert_eq!(result["answer"], "Well.");
    assert_eq!(denied_tools(&result), ["bash"]);
    server.finish();
}

#[test]
fn an_allowed_command_runs_and_nothing_that_hides_behind_it() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![
            bash("ok", "touch made.txt"),
            bash("other", "touch other.txt"),
            bash("list", "touch made-a.txt && touch other-a.txt"),
            bash("inner", "touch made-$(touch other-b.txt)"),
            bash("wrapped", "touch made-c.txt; sh -c 'touch other-c.txt'"),
            bash("redirect", "touch made-d.txt > other-d.txt"),
            Reply::text("Done what I may."),
        ]);

        let out = world
            .ask(&server, "Make them")
            .args(&["--allow", "bash(touch made*)"])
            .json()
            .run()
            .exits(4);

        assert_eq!(out.fate("ok"), "ok", "{out}");
        assert!(world.has("made.txt"));
        for id in ["other", "list", "inner", "wrapped", "redirect"] {
            assert_eq!(out.fate(id), "denied", "{out}");
        }
        let made = fs::read_dir(world.workspace()).unwrap().count();
        assert_eq!(made, 1, "{:?}", world.listing());
        server.finish();
    }
}

#[test]
fn a_safe_command_cannot_change_the_workspace() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "kept\n");
        let server = model(vec![
            bash("safe", "cat notes.txt"),
            bash("unsafe", "cat notes.txt > copy.txt"),
            Reply::text("Read."),
        ]);

        let out = world.ask(&server, "Copy it").json().run().exits(4);

        assert_eq!(out.fate("safe"), "ok", "{out}");
        assert_eq!(out.fate("unsafe"), "denied", "{out}");
        assert!(!world.has("copy.txt"));
        server.finish();
    }
}

#[test]
fn in_guarded_mode_a_write_needs_an_approval() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![write("w1", "new.txt"), Reply::text("I may not.")]);

        let out = world.ask(&server, "Make it").args(&["--guarded"]).json().run().exits(4);

        assert_eq!(out.fate("w1"), "denied", "{out}");
        assert_eq!(out.json()["mode"], "guarded");
        assert!(!world.has("new.txt"));
        server.finish();
    }
}

#[test]
fn in_guarded_mode_an_approval_is_for_its_path_only() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![
            Reply::calls(&[
                ("yes", "write", json!({"path": "new.txt", "content": "made\n"})),
                ("no", "write", json!({"path": "new2.txt", "content": "made\n"})),
                ("deep", "write", json!({"path": "sub/new.txt", "content": "made\n"})),
            ]),
            Reply::text("One of three."),
        ]);

        let out = world
            .ask(&server, "Make them")
            .args(&["--guarded", "--allow", "write(new.txt)"])
            .json()
            .run()
            .exits(4);

        assert_eq!(out.fate("yes"), "ok", "{out}");
        assert_eq!(world.read("new.txt"), "made\n");
        assert_eq!(out.fate("no"), "denied", "{out}");
        assert_eq!(out.fate("deep"), "denied", "{out}");
        assert!(!world.has("new2.txt") && !world.has("sub"));
        server.finish();
    }
}

#[test]
fn a_deny_rule_beats_an_allow_rule_and_every_mode() {
    for mode in ["--guarded", "--standard", "--yolo"] {
        let world = World::new(Account::Current);
        let server = model(vec![
            bash("free", "touch free.txt"),
            bash("kept", "touch kept.txt"),
            bash("path", "/bin/touch ./kept.txt"),
            Reply::text("One of three."),
        ]);

        let out = world
            .ask(&server, "Make them")
            .args(&[mode, "--deny", "bash(touch kept*)"])
            .args(&["--deny", "bash(/bin/touch*)", "--allow", "bash(touch*)"])
            .json()
            .run()
            .exits(FORBIDDEN_IS_NOT_UNASKED);

        assert_eq!(out.fate("free"), "ok", "{mode} {out}");
        assert_eq!(out.fate("kept"), "denied", "{mode} {out}");
        assert_eq!(out.fate("path"), "denied", "{mode} {out}");
        assert!(!world.has("kept.txt"), "{mode}");
        server.finish();
    }
}

#[test]
fn a_deny_rule_for_a_path_holds_for_every_way_to_it() {
    for account in accounts() {
        let world = World::new(account);
        world.write("private/diary.txt", "a canary sings\n");
        world.write("notes.txt", "public\n");
        let server = model(vec![
            Reply::calls(&[
                ("r1", "read", json!({"path": "private/diary.txt"})),
                ("r2", "read", json!({"path": "./x/..//private/diary.txt"})),
                ("g1", "grep", json!({"pattern": "canary|public", "path": "."})),
                ("ok", "read", json!({"path": "notes.txt"})),
            ]),
            Reply::text("Seen."),
        ]);

        let out = world
            .ask(&server, "Read all")
            .args(&["--deny", "read(private/**)"])
            .json()
            .run()
            .exits(FORBIDDEN_IS_NOT_UNASKED);

        assert_eq!(out.fate("ok"), "ok", "{out}");
        assert_eq!(out.fate("r1"), "denied", "{out}");
        assert_ne!(out.fate("r2"), "ok", "{out}");
        let requests = server.finish();
        let found = requests[1].result("g1");
        assert!(found.contains("public"), "{found}");
        assert!(!out.stdout.contains("a canary sings"), "{out}");
    }
}

#[test]
fn the_turn_limit_ends_the_run() {
    let world = World::new(Account::Current);
    world.write("a.txt", "a\n");
    world.write("b.txt", "b\n");
    // The script has no third reply: a third request would fail the test.
    let server = model(vec![
        Reply::call("r1", "read", json!({"path": "a.txt"})),
        Reply::call("r2", "read", json!({"path": "b.txt"})),
    ]);

    let out =
        world.ask(&server, "Go on for ever").args(&["--max-turns", "2"]).json().run().exits(5);

    let result = out.json();
    assert_eq!(result["status"], "limit");
    assert_eq!(result["exit_code"], 5);
    assert_eq!(result["turns"], 2);
    server.finish();
}

#[test]
fn a_call_that_is_repeated_is_warned_of_and_then_refused() {
    let world = World::new(Account::Current);
    world.write("notes.txt", "the same old line\n");
    let read = |id: &str| Reply::call(id, "read", json!({"path": "notes.txt"}));
    let server =
        model(vec![read("c1"), read("c2"), read("c3"), read("c4"), Reply::text("I stop.")]);

    let out = world.ask(&server, "Loop").json().run().exits(4);

    for id in ["c1", "c2", "c3"] {
        assert_eq!(out.fate(id), "ok", "{out}");
    }
    assert_eq!(out.fate("c4"), "denied", "{out}");
    let requests = server.finish();
    let warned = |at: usize| {
        let text = requests[at].body["messages"].to_string();
        text.to_lowercase().contains("same call")
    };
    assert!(!warned(2), "the second call is no loop yet");
    assert!(warned(3), "the third call brings the warning");
    let refused = requests[4].result("c4");
    assert!(!refused.contains("the same old line"), "{refused}");
}

#[test]
fn an_interrupt_while_the_model_is_silent_ends_the_run_at_once() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![Reply::hang()]);
        let child = world.ask(&server, "Think for ever").json().spawn();
        server.wait_for_requests(1);

        let asked = Instant::now();
        kill(pid(&child), Signal::SIGINT).unwrap();
        let out = wait(child).exits(130);

        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(out.json()["status"], "interrupted");
        server.finish();
    }
}

#[test]
fn an_interrupt_while_a_command_runs_ends_the_command_too() {
    for account in accounts() {
        let world = World::new(account);
        let nap = match account {
            Account::Current => "61731",
            Account::Ordinary => "61732",
        };
        let command = format!("touch started; sleep {nap}");
        let server = model(vec![bash("b1", &command)]);
        let child = world
            .ask(&server, "Sleep")
            .args(&["--allow", "bash(touch started)"])
            .args(&["--allow", "bash(sleep *)"])
            .spawn();
        until("the command runs", || world.has("started") && !sleepers(nap).is_empty());

        kill(pid(&child), Signal::SIGINT).unwrap();
        wait(child).exits(130);

        until("the command is gone", || sleepers(nap).is_empty());
        server.finish();
    }
}

fn pid(child: &std::process::Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

#[track_caller]
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < end, "not reached: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The processes that are `sleep SECONDS`.
fn sleepers(seconds: &str) -> Vec<u32> {
    let wanted = format!("sleep\0{seconds}\0");
    processes()
        .into_iter()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == wanted.as_bytes())
        })
        .collect()
}

fn processes() -> Vec<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

#[test]
fn the_key_is_in_no_environment_that_a_command_can_read() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![bash("b1", "env; cat /proc/*/environ"), Reply::text("No key.")]);

        let out = world
            .ask(&server, "Find the key")
            .args(&["--allow", "bash(env)", "--allow", "bash(cat *)"])
            .json()
            .run()
            .exits(0);

        let seen = out.call("b1")["output"].as_str().unwrap().to_owned();
        assert!(seen.contains("PATH="), "the command saw nothing: {seen}");
        assert!(!out.stdout.contains(KEY), "{out}");
        assert!(!out.stderr.contains(KEY), "{out}");
        for request in server.finish() {
            assert!(!request.text.contains(KEY), "{}", request.text);
        }
        for path in world.listing() {
            let bytes = fs::read(world.home().join(&path)).unwrap_or_default();
            assert!(!contains(&bytes, KEY), "the key is in {}", path.display());
        }
    }
}

#[test]
fn the_key_is_in_the_environment_of_no_process_but_the_supervisor() {
    for account in accounts() {
        let world = World::new(account);
        let server = model(vec![Reply::hang()]);
        let child = world.ask(&server, "Wait").spawn();
        server.wait_for_requests(1);

        let below = descendants(child.id());
        let environments: Vec<_> =
            below.iter().map(|pid| fs::read(format!("/proc/{pid}/environ"))).collect();
        kill(pid(&child), Signal::SIGINT).unwrap();
        wait(child).exits(130);

        assert!(!below.is_empty(), "no launcher was found");
        for environment in environments {
            // Root reads them all; an unprivileged tester may be refused, which is as good.
            let bytes = environment.unwrap_or_default();
            assert!(!contains(&bytes, KEY));
        }
        server.finish();
    }
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        processes().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![ancestor];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(parents.iter().filter(|(_, p)| *p == above).map(|(c, _)| c));
        at += 1;
    }
    found.split_off(1)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn contains(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|part| part == words.as_bytes())
}

#[test]
fn the_demo_explains_the_project_and_names_what_refused_its_attempts() {
    for account in accounts() {
        let world = World::new(account);
        let first = "Zephyr counts the wind in seventeen harbours.";
        world.write("README.md", &format!("# Zephyr\n\n{first}\n"));
        world.write("src/main.rs", "fn main() {}\n");
        world.write("../.ssh/id_ed25519", "a canary key\n");
        let before = outside(&world);

        let out =
            world.zerostack(&["--provider", "demo"]).prompt("Explain this project").run().exits(0);

        assert!(out.stdout.contains(first), "{out}");
        for (attempt, layers) in [
            ("secret", ["mount", "absent", "landlock"]),
            ("outside", ["mount", "read-only", "landlock"]),
            ("network", ["namespace", "seccomp", "system call"]),
            ("namespace", ["namespace", "seccomp", "system call"]),
        ] {
            assert!(
                refused(&out.stdout, attempt, &layers),
                "{attempt} is not refused by a named layer\n{out}"
            );
        }
        assert!(!out.stdout.contains("a canary key"), "{out}");
        assert_eq!(outside(&world), before);
    }
}

/// One line names the attempt, says that it was refused, and names the layer that did it.
fn refused(answer: &str, attempt: &str, layers: &[&str]) -> bool {
    answer.to_lowercase().lines().any(|line| {
        let by = line.split_once("refused").map_or("", |(_, by)| by);
        line.contains(attempt) && layers.iter().any(|layer| by.contains(layer))
    })
}

/// What the home holds beside the program's own directories.
fn outside(world: &World) -> Vec<std::path::PathBuf> {
    let own = [".config", ".local", ".cache"];
    let mut paths = world.listing();
    paths.retain(|path| !own.iter().any(|name| path.starts_with(name)));
    paths
}

#[test]
fn the_demo_gives_real_results_in_json() {
    let world = World::new(Account::Current);
    let first = "Zephyr counts the wind in seventeen harbours.";
    world.write("README.md", &format!("# Zephyr\n\n{first}\n"));

    let out = world
        .zerostack(&["--provider", "demo"])
        .json()
        .prompt("Explain this project")
        .run()
        .exits(0);

    let result = out.json();
    assert_eq!(result["provider"], "demo");
    let calls = result["tool_calls"].as_array().unwrap();
    let shown = calls.iter().any(|call| {
        let output = call["output"].as_str().unwrap();
        call["status"] == "ok" && output.contains(first)
    });
    assert!(shown, "no tool result holds the file's text\n{out}");
}

#[test]
fn sandbox_runs_a_command_and_returns_its_status() {
    for account in accounts() {
        let world = World::new(account);

        let out =
            world.zerostack(&["sandbox", "--", "sh", "-c", "echo heard; exit 9"]).run().exits(9);

        assert_eq!(out.stdout, "heard\n");
    }
}

#[test]
fn sandbox_holds_a_command_to_its_mode() {
    for account in accounts() {
        let world = World::new(account);

        world.zerostack(&["sandbox", "--standard", "--", "touch", "made.txt"]).run().exits(0);
        assert!(world.has("made.txt"));

        world
            .zerostack(&["sandbox", "--read-only", "--", "touch", "made2.txt"])
            .run()
            .exits(1)
            .says("Read-only file system");
        assert!(!world.has("made2.txt"));
    }
}

#[test]
fn doctor_and_policy_print_json_for_programs() {
    for account in accounts() {
        let world = World::new(account);
        let doctor = world.zerostack(&["doctor", "--json"]).run().exits(0);
        assert_eq!(doctor.json()["rung"], "native", "{doctor}");

        for mode in ["restrictive", "readonly", "guarded", "standard", "yolo"] {
            let shown =
                world.zerostack(&["policy", "show", "--mode", mode, "--json"]).run().exits(0);
            assert_eq!(shown.json()["mode"], mode, "{shown}");
        }
    }
}

#[test]
fn what_may_not_be_read_is_found_by_no_search_and_no_command() {
    for rule in ["read(private/**)", "read(./private/)", "read(private)", "read(x/../private/**)"] {
        let world = World::new(Account::Current);
        world.write("private/plan.txt", "marker of the plan\n");
        world.write("open.txt", "marker in the open\n");
        let server = model(vec![
            Reply::calls(&[
                ("g1", "grep", json!({"pattern": "marker"})),
                ("r1", "read", json!({"path": "private/plan.txt"})),
                ("b1", "bash", json!({"command": "cat private/plan.txt"})),
            ]),
            Reply::text("Nothing."),
        ]);

        let out = world.ask(&server, "Look").args(&["--deny", rule]).json().run().exits(0);

        let found = out.call("g1")["output"].as_str().unwrap().to_owned();
        assert!(found.contains("in the open") && !found.contains("of the plan"), "{rule}: {out}");
        assert_eq!(out.fate("r1"), "denied", "{rule}: {out}");
        let printed = out.call("b1")["output"].as_str().unwrap().to_owned();
        assert!(printed.contains("Permission denied"), "{rule}: {out}");
        server.finish();
    }
}

#[test]
fn a_yolo_command_cannot_write_the_policy_of_the_next_session() {
    for account in accounts() {
        let world = World::new(account);
        fs::remove_dir(world.home().join(".config/zerostack")).unwrap();
        let policy =
            "mkdir -p ~/.config/zerostack/policies && touch ~/.config/zerostack/policies/yolo.toml";
        let out = world.zerostack(&["sandbox", "--yolo", "--", "sh", "-c", policy]).run().exits(1);
        assert!(out.stderr.contains("denied") || out.stderr.contains("Read-only"), "{out}");
        let rename = "mv ~/.config ~/other";
        let out = world.zerostack(&["sandbox", "--yolo", "--", "sh", "-c", rename]).run().exits(1);
        assert!(out.stderr.contains("busy"), "{out}");
        // The control: another directory beside it.
        let line = ["sandbox", "--yolo", "--", "sh", "-c", "mkdir -p ~/.config/other"];
        world.zerostack(&line).run().exits(0);
        assert!(world.home().join(".config/other").exists());
    }
}
