//! Saved sessions: written as things happen, read back after any end, and undone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::{Output, wait};
use crate::support::{Account, World, accounts};

fn files(world: &World) -> Vec<PathBuf> {
    let directory = world.home().join(".local/share/zerostack/sessions");
    let entries = fs::read_dir(directory).map(|all| all.flatten().map(|it| it.path()).collect());
    let mut files: Vec<PathBuf> = entries.unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "jsonl"));
    files.sort();
    files
}

fn listed(world: &World) -> Vec<Value> {
    let out = world.zerostack(&["sessions", "list", "--json"]).run().exits(0);
    out.json().as_array().unwrap().clone()
}

#[test]
fn a_session_goes_on_with_everything_that_was_said() {
    for account in accounts() {
        let world = World::new(account);
        world.write("a.txt", "alpha\n");
        let server = ModelServer::start(vec![
            Reply::call("c1", "read", json!({"path": "a.txt"})),
            Reply::text("It is alpha."),
            Reply::text("As I said: alpha."),
        ]);

        world.ask(&server, "What is in a.txt?").args(&["--name", "Letters"]).run().exits(0);
        let file = &files(&world)[0];
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        // The model comes from the session; the address does not.
        let out = world
            .zerostack(&["--base-url", &server.base_url(), "-c"])
            .env("OPENAI_API_KEY", "k")
            .prompt("Say it again")
            .run()
            .exits(0);

        assert_eq!(out.stdout, "As I said: alpha.\n");
        let requests = server.finish();
        assert_eq!(requests[2].said_by("user"), ["What is in a.txt?", "Say it again"]);
        assert!(requests[2].result("c1").contains("alpha"));
        assert_eq!(requests[2].body["model"], "test-model");
        let all = listed(&world);
        assert_eq!(
            (all.len(), &all[0]["name"], &all[0]["turns"]),
            (1, &json!("Letters"), &json!(2))
        );
    }
}

#[test]
fn a_session_never_comes_back_with_more_rights() {
    let world = World::new(Account::Current);
    let server = ModelServer::always(Reply::text("Hi."));
    let elsewhere = || world.zerostack(&["-c"]).env("OPENAI_API_KEY", "k").prompt("hi").run();
    let mode_of = |out: &Output| out.json()["mode"].as_str().unwrap().to_owned();

    world.ask(&server, "hi").args(&["--yolo"]).run().exits(0);
    // Nor to another place than it was held with.
    elsewhere().exits(2).says("would send all of it to https://api.openai.com");
    let back = world.ask(&server, "hi").args(&["-c"]).json().run().exits(0);
    assert_eq!(mode_of(&back), "standard");

    world.ask(&server, "hi").args(&["--read-only"]).run().exits(0);
    let back = world.ask(&server, "hi").args(&["-c"]).json().run().exits(0);
    assert_eq!(mode_of(&back), "readonly");
    let typed = world.ask(&server, "hi").args(&["-c", "--guarded"]).json().run().exits(0);
    assert_eq!(mode_of(&typed), "guarded");
    server.finish();
}

#[test]
fn dash_c_means_this_directory_and_a_session_knows_its_own() {
    let world = World::new(Account::Current);
    let server = ModelServer::always(Reply::text("Hi."));
    world.write("../other/x.txt", "x\n");
    let other = world.home().join("other");

    world.ask(&server, "here").run().exits(0);
    world.ask(&server, "there").in_dir(&other).run().exits(0);
    world.ask(&server, "here again").args(&["-c"]).run().exits(0);

    let all = listed(&world);
    let turns = |directory: PathBuf| {
        let directory = directory.to_str().unwrap().to_owned();
        all.iter().find(|it| it["directory"] == directory).unwrap()["turns"].clone()
    };
    assert_eq!((turns(world.workspace()), turns(other.clone())), (json!(2), json!(1)));
    let there = all.iter().find(|it| it["title"] == "there").unwrap()["id"].as_str().unwrap();
    // Named from elsewhere, it goes on where it was.
    let out = world.ask(&server, "back").args(&["--session", there]).run().exits(0);
    out.says("the session goes on in");
    let empty = world.home().join("empty");
    fs::create_dir(&empty).unwrap();
    let out = world.ask(&server, "x").args(&["-c"]).in_dir(&empty).run().exits(2);
    out.says("no session of this directory");
    server.finish();
}

#[test]
fn sessions_are_named_searched_exported_imported_and_deleted() {
    let world = World::new(Account::Current);
    let server = ModelServer::always(Reply::text("<b>The needle</b> \u{1b}[31m"));
    world.ask(&server, "first").run().exits(0);
    let id = listed(&world)[0]["id"].as_str().unwrap().to_owned();
    let run = |args: &[&str]| world.zerostack(args).run();

    run(&["sessions", "rename", &id[..10], "Hay stack"]).exits(0);
    let found = run(&["sessions", "search", "NEEDLE"]).exits(0);
    assert!(found.stdout.contains("Hay stack"), "{found}");
    let page = run(&["sessions", "export", "hay stack", "--format", "html"]).exits(0);
    assert!(page.stdout.contains("&lt;b&gt;The needle") && !page.stdout.contains("<b>"), "{page}");
    let shown = run(&["sessions", "show", &id]).exits(0);
    assert!(shown.stdout.contains("The needle") && !shown.stdout.contains('\u{1b}'), "{shown}");
    let file = world.home().join("out.jsonl");
    let file = file.to_str().unwrap();
    run(&["sessions", "export", &id, "--format", "jsonl", "-o", file]).exits(0);
    run(&["sessions", "export", &id, "--format", "jsonl", "-o", file])
        .exits(1)
        .says("not replaced");
    let copy = run(&["sessions", "import", file]).exits(0).stdout.trim().to_owned();
    assert_ne!(copy, id);
    run(&["sessions", "delete", &id]).exits(0);
    let all = listed(&world);
    assert_eq!((all.len(), &all[0]["id"]), (1, &json!(copy)));
    run(&["sessions", "show", "hey stack"]).exits(2).says("Hay stack");
    server.finish();
}

#[test]
fn no_session_leaves_nothing_and_a_second_writer_is_refused() {
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![Reply::text("Hi."), Reply::hang(), Reply::text("x")]);
    world.ask(&server, "hi").args(&["--no-session"]).run().exits(0);
    assert!(files(&world).is_empty());

    let running = world.ask(&server, "hi").spawn();
    server.wait_for_requests(2);
    world.ask(&server, "me too").args(&["-c"]).run().exits(1).says("in use");
    kill(Pid::from_raw(running.id() as i32), Signal::SIGINT).unwrap();
    wait(running).exits(130);
    world.ask(&server, "now").args(&["-c"]).run().exits(0);
    server.finish();
}

#[test]
fn undo_restores_files_and_conversation_and_never_overwrites_other_work() {
    for account in accounts() {
        let world = World::new(account);
        world.write("a.txt", "one\n");
        world.write("b.txt", "b\n");
        let edit = |id: &str, old: &str, new: &str| {
            let edits = json!([{"old": old, "new": new}]);
            Reply::call(id, "edit", json!({"path": "a.txt", "edits": edits}))
        };
        let server = ModelServer::start(vec![
            edit("e1", "one", "two"),
            Reply::call("w1", "write", json!({"path": "new.txt", "content": "new\n"})),
            Reply::text("Done."),
            edit("e2", "two", "three"),
            Reply::call(
                "e3",
                "edit",
                json!({"path": "b.txt", "edits": [{"old": "b", "new": "c"}]}),
            ),
            Reply::text("Done again."),
            Reply::text("Where were we?"),
        ])
        .allowing_summaries();
        world.ask(&server, "first").run().exits(0);
        world.ask(&server, "second").args(&["-c"]).run().exits(0);
        assert_eq!(world.read("a.txt"), "three\n");
        // Somebody else's work stands in the way of one file only.
        world.write("b.txt", "mine\n");

        world.zerostack(&["sessions", "undo"]).run().exits(1).says("b.txt was changed since");
        assert_eq!(world.read("a.txt"), "three\n");
        world.zerostack(&["sessions", "undo", "--force"]).run().exits(1);
        assert_eq!((world.read("a.txt"), world.read("b.txt")), ("two\n".into(), "mine\n".into()));
        world.zerostack(&["sessions", "undo"]).run().exits(0);
        assert_eq!(world.read("a.txt"), "one\n");
        assert!(!world.has("new.txt"));
        world.zerostack(&["sessions", "undo"]).run().exits(2).says("0 prompts");

        world.ask(&server, "third").args(&["-c"]).run().exits(0);
        let requests = server.finish_loosely();
        assert_eq!(requests.last().unwrap().said_by("user"), ["third"]);
    }
}

/// Killed a hundred times at any moment, the session has each time what was shown before.
#[test]
fn a_run_killed_at_any_moment_resumes_with_all_that_was_shown() {
    let world = World::new(Account::Current);
    world.write("a.txt", &"alpha\n".repeat(50));
    let words: Vec<String> = (0..400).map(|number| format!("w{number} ")).collect();
    let (mut shown_in_all, mut results_in_all) = (0, 0);
    for round in 0..100_u64 {
        let server = ModelServer::always_in_turn(vec![
            Reply::text("Reading. ").with_calls(&[("c1", "read", json!({"path": "a.txt"}))]),
            Reply::text(&words.concat()),
        ]);
        let run = world.ask(&server, "go").args(&["--output-format", "stream-json"]).spawn();
        std::thread::sleep(Duration::from_micros(20_000 + round * 700));
        let _ = kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL);
        let out = wait(run);
        server.finish_loosely();

        let whole = out.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (mut text, mut results) = (String::new(), Vec::new());
        for event in whole {
            match event["type"].as_str() {
                Some("text") => text.push_str(event["text"].as_str().unwrap()),
                Some("tool_result") => results.push(event["output"].as_str().unwrap().to_owned()),
                _ => {}
            }
        }
        shown_in_all += text.len();
        results_in_all += results.len();
        let Some(file) = files(&world).pop() else {
            assert!(text.is_empty(), "{text}");
            continue;
        };
        let id = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let saved = world.zerostack(&["sessions", "export", &id, "--format", "markdown"]).run();
        let saved = saved.exits(0).stdout;
        let said: String = saved.split_whitespace().collect();
        assert!(text.is_empty() || said.contains("Reading."), "round {round}:\n{saved}");
        let wanted: String = text.replace("Reading. ", "").split_whitespace().collect();
        assert!(said.contains(&wanted), "round {round}: {text} is not in\n{saved}");
        for result in results {
            assert!(saved.contains(result.trim_end()), "round {round}: {result}\n{saved}");
        }
        // And it goes on, with a conversation that a server accepts.
        let server = ModelServer::start(vec![Reply::text("On.")]);
        world.ask(&server, "go on").args(&["--session", &id]).run().exits(0);
        server.finish();
        world.zerostack(&["sessions", "delete", &id]).run().exits(0);
    }
    assert!(
        shown_in_all > 1_000 && results_in_all > 0,
        "the kills came too early to show anything"
    );
}

#[test]
fn a_large_session_is_listed_and_resumed_quickly() {
    let world = World::new(Account::Current);
    let server = ModelServer::always(Reply::text("Hi."));
    world.ask(&server, "hi").run().exits(0);
    let file = files(&world).remove(0);
    let line = |message: Value| format!("{}\n", json!({"t": 1, "message": message}));
    let mut more = String::new();
    let filler = "some text of a tool result, and more of it. ".repeat(200);
    while more.len() < 50_000_000 {
        more.push_str("{\"t\":1,\"turn\":2}\n");
        more.push_str(&line(json!({"role": "user", "text": "again"})));
        more.push_str(&line(json!({"role": "assistant", "text": filler, "calls": []})));
    }
    let summary = json!({"summary": "short", "kept": 1, "before": 9, "after": 1});
    more.push_str(&format!("{}\n", json!({"t": 1, "compaction": summary})));
    let state = fs::read_to_string(&file).unwrap().lines().last().unwrap().to_owned();
    fs::write(&file, fs::read_to_string(&file).unwrap() + &more + &state + "\n").unwrap();

    let begun = Instant::now();
    assert_eq!(listed(&world).len(), 1);
    let list = begun.elapsed();
    let begun = Instant::now();
    world.ask(&server, "go on").args(&["-c"]).run().exits(0);
    let resume = begun.elapsed();
    // A debug build on a busy machine: the bounds only catch a list or a start that reads too much.
    assert!(list < Duration::from_secs(1), "{list:?}");
    assert!(resume < Duration::from_secs(20), "{resume:?}");
    server.finish_loosely();
}
