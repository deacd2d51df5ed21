//! The model's side: what is sent, what comes back, and what goes wrong on the way.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::Output;
use crate::support::{Account, KEY, World, accounts};

fn world() -> World {
    World::new(Account::Current)
}

fn failure(status: u16, message: &str) -> Reply {
    Reply::status(status, &[], json!({"error": {"message": message}}))
}

/// The error of a failed run: words for a person, not the shape of a Rust value.
#[track_caller]
fn error_of(out: &Output) -> String {
    let result = out.json();
    assert_eq!(result["status"], "model-failed", "{out}");
    assert_eq!(result["exit_code"], 3, "{out}");
    let error = result["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.len() > 10, "{out}");
    for noise in ["Error {", "Err(", "Some(", "kind:"] {
        assert!(!error.contains(noise), "{error}");
    }
    error
}

#[test]
fn a_request_offers_the_tools_and_asks_for_a_stream_with_usage() {
    let world = world();
    let server = ModelServer::start(vec![Reply::text("Hi.")]).requiring_key(KEY);

    world.ask(&server, "hello").run().exits(0);

    let request = &server.finish()[0];
    assert_eq!(request.body["model"], "test-model");
    assert!(request.asks_for_usage(), "{:#}", request.body);
    let mut names = request.tool_names();
    names.sort();
    let expected = [
        "bash",
        "edit",
        "find_files",
        "grep",
        "jobs",
        "list_dir",
        "memory_read",
        "memory_search",
        "memory_write",
        "read",
        "task",
        "todo_write",
        "write",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_system_prompt_names_the_mode_that_holds() {
    for (flag, mode) in [("--read-only", "readonly"), ("--standard", "standard")] {
        let world = world();
        let server = ModelServer::start(vec![Reply::text("Hi.")]);

        world.ask(&server, "hello").args(&[flag]).run().exits(0);

        let system = server.finish()[0].said_by("system").join("\n");
        assert!(system.contains(mode), "{system}");
    }
}

#[test]
fn one_connection_serves_a_whole_run() {
    let world = world();
    world.write("a.txt", "a\n");
    let mut script: Vec<Reply> = (1..=8)
        .map(|line| {
            let arguments = json!({"path": "a.txt", "offset": line});
            Reply::call(&format!("c{line}"), "read", arguments)
        })
        .collect();
    script.push(Reply::text("Read."));
    let server = ModelServer::start(script);

    world.ask(&server, "Read on").run().exits(0);

    assert_eq!(server.connections(), 1);
    assert_eq!(server.finish().len(), 9);
}

#[test]
fn twenty_calls_in_one_turn_each_get_their_own_result() {
    let world = world();
    let names: Vec<String> = (0..20).map(|n| format!("file-{n}.txt")).collect();
    let mut turn = Reply::text("");
    for (n, name) in names.iter().enumerate() {
        world.write(name, &format!("content <{n}>\n"));
        let arguments = json!({"path": name}).to_string();
        turn = turn.with_call(&format!("c{n}"), "read", &arguments);
    }
    let server = ModelServer::start(vec![turn, Reply::text("All read.")]);

    world.ask(&server, "Read all").run().exits(0);

    let requests = server.finish();
    for n in 0..20 {
        let result = requests[1].result(&format!("c{n}"));
        assert!(result.contains(&format!("content <{n}>")), "{result}");
    }
}

#[test]
fn a_rejected_key_is_a_model_failure_that_names_the_variable() {
    for account in accounts() {
        let world = World::new(account);
        let server = ModelServer::start(vec![failure(401, "Incorrect API key provided")]);

        let out = world.ask(&server, "hello").run().exits(3);

        let out = out.says("OPENAI_API_KEY");
        assert!(!out.stderr.contains(KEY), "{out}");
        assert_eq!(out.stdout, "");
        server.finish();
    }
}

#[test]
fn a_model_that_does_not_exist_is_named() {
    let world = world();
    let server = ModelServer::start(vec![failure(404, "The model does not exist")]);

    let out = world.ask(&server, "hello").json().run().exits(3);

    assert!(error_of(&out).contains("test-model"), "{out}");
    server.finish();
}

#[test]
fn a_busy_server_is_asked_again_after_the_time_it_names() {
    let world = world();
    let busy = json!({"error": {"message": "slow down"}});
    let server = ModelServer::start(vec![
        Reply::status(429, &[("retry-after", "1")], busy),
        Reply::text("Now."),
    ]);

    let begun = Instant::now();
    let out = world.ask(&server, "hello").run().exits(0);

    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(out.stdout, "Now.\n");
    server.finish();
}

#[test]
fn a_server_error_is_tried_again() {
    let world = world();
    let server = ModelServer::start(vec![failure(500, "oops"), Reply::text("Now.")]);

    let out = world.ask(&server, "hello").run().exits(0);

    assert_eq!(out.stdout, "Now.\n");
    server.finish();
}

#[test]
fn a_server_that_only_fails_is_given_up() {
    let world = world();
    let server = ModelServer::always(failure(503, "down for repair"));

    let out = world.ask(&server, "hello").json().run().exits(3);

    let error = error_of(&out);
    assert!(error.contains("503"), "{error}");
    assert!(error.contains("down for repair"), "{error}");
    let tried = server.finish().len();
    assert!((2..=10).contains(&tried), "{tried} tries");
}

#[test]
fn a_bad_request_is_not_tried_again() {
    let world = world();
    let server = ModelServer::start(vec![failure(400, "tools are not supported")]);

    let out = world.ask(&server, "hello").json().run().exits(3);

    let error = error_of(&out);
    assert!(error.contains("tools are not supported"), "{error}");
    assert_eq!(server.finish().len(), 1);
}

#[test]
fn an_unreachable_server_is_named() {
    for account in accounts() {
        let world = World::new(account);
        let address = closed_port();

        let out = world.ask_at(&format!("http://{address}/v1"), "hello").json().run().exits(3);

        assert!(error_of(&out).contains(&address), "{out}");
    }
}

/// An address where nobody listens any more.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_stream_that_is_no_chat_completion_is_a_model_failure() {
    for garbage in ["data: {\"choices\": [{\n\n", "data: <html>\n\n"] {
        let world = world();
        let server = ModelServer::always(Reply::raw(garbage));

        let out = world.ask(&server, "hello").json().run().exits(3);

        error_of(&out);
        server.finish();
    }
}

#[test]
fn an_empty_stream_is_a_model_failure() {
    let world = world();
    let server = ModelServer::always(Reply::raw(""));

    let out = world.ask(&server, "hello").json().run().exits(3);

    error_of(&out);
    server.finish();
}

#[test]
fn a_page_of_html_instead_of_a_stream_is_a_model_failure() {
    let world = world();
    let mut page = Reply::raw("<html><body>Please log in</body></html>");
    page.headers = vec![("content-type".to_owned(), "text/html".to_owned())];
    let server = ModelServer::always(page);

    let out = world.ask(&server, "hello").json().run().exits(3);

    error_of(&out);
    server.finish();
}

#[test]
fn an_error_inside_the_stream_is_shown() {
    let world = world();
    let event = json!({"error": {"message": "the upstream provider is overloaded", "code": 502}});
    let server = ModelServer::always(Reply::raw(format!("data: {event}\n\n")));

    let out = world.ask(&server, "hello").json().run().exits(3);

    let error = error_of(&out);
    assert!(error.contains("upstream provider is overloaded"), "{error}");
    server.finish();
}

#[test]
fn a_stream_cut_in_the_middle_of_an_answer_is_no_answer() {
    for account in accounts() {
        let world = World::new(account);
        let long = "word ".repeat(200);
        let server = ModelServer::always(Reply::text(&long).cut_after(4000));

        let out = world.ask(&server, "hello").json().run().exits(3);

        error_of(&out);
        server.finish();
    }
}

#[test]
fn a_call_whose_arguments_are_cut_off_is_not_run() {
    let world = world();
    let content = "x".repeat(400);
    let arguments = json!({"path": "made.txt", "content": content});
    let whole = Reply::call("w1", "write", arguments);
    let length = whole.bytes(false).len();
    let server = ModelServer::always(whole.cut_after(length / 2));

    let out = world.ask(&server, "hello").json().run().exits(3);

    error_of(&out);
    assert!(!world.has("made.txt"));
    server.finish();
}

#[test]
fn a_stream_cut_before_its_first_token_is_tried_again() {
    let world = world();
    let server = ModelServer::start(vec![Reply::text("Lost.").cut_after(0), Reply::text("Found.")]);

    let out = world.ask(&server, "hello").run().exits(0);

    assert_eq!(out.stdout, "Found.\n");
    server.finish();
}

#[test]
fn a_recorded_run_is_played_back_without_server_and_key() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "a line of notes\n");
        let server = ModelServer::start(vec![
            Reply::call("r1", "read", json!({"path": "notes.txt"})),
            Reply::text("It holds a line of notes."),
        ]);
        let file = world.home().join("run.record");
        let file = file.to_str().unwrap();

        let first =
            world.ask(&server, "What is in it?").args(&["--record", file]).json().run().exits(0);
        let address = server.base_url();
        server.finish();
        let recorded = fs::read_to_string(file).unwrap();
        assert!(recorded.contains("What is in it?"), "{recorded}");
        assert!(!recorded.contains(KEY), "{recorded}");

        let again = world
            .zerostack(&["--provider", "openai", "--base-url", &address])
            .args(&["--model", "test-model", "--replay", file])
            .json()
            .prompt("What is in it?")
            .run()
            .exits(0);

        assert_eq!(again.json()["answer"], "It holds a line of notes.");
        assert_eq!(again.json()["answer"], first.json()["answer"]);
        assert_eq!(again.json()["tool_calls"], first.json()["tool_calls"]);
    }
}
