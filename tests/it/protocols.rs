//! The same conversations in every protocol, each against a fake server that checks every request.

use std::fs;

use base64::Engine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::dialect::{DIALECTS, Dialect};
use crate::support::model_server::{ModelServer, Reply};
use crate::support::run::wait;
use crate::support::{Account, KEY, World};

/// A world in which every model of the dialects can see, think and is known to be large.
fn world() -> World {
    let world = World::new(Account::Current);
    world.configure("[models.seeing]\nwindow = 32768\nimages = true\nthinks = true\n");
    world
}

fn server(dialect: Dialect, replies: Vec<Reply>) -> ModelServer {
    ModelServer::start(replies).speaking(dialect).requiring_key(KEY)
}

fn in_every_dialect(test: impl Fn(Dialect)) {
    for dialect in DIALECTS {
        eprintln!("in {dialect:?}");
        test(dialect);
    }
}

#[test]
fn parallel_calls_are_run_and_answered() {
    in_every_dialect(|dialect| {
        let world = world();
        world.write("a.txt", "alpha\n");
        world.write("b.txt", "beta\n");
        let calls =
            [("c1", "read", json!({"path": "a.txt"})), ("c2", "list_dir", json!({"path": "."}))];
        let first = Reply::text("Looking.").with_calls(&calls).usage(100, 20, 40);
        let server = server(dialect, vec![first, Reply::text("Both read.").usage(200, 10, 100)]);

        let out = world.ask_in(dialect, &server, "Read").json().run().exits(0);

        let result = out.json();
        assert_eq!(result["answer"], "Both read.");
        assert_eq!(result["usage"]["input_tokens"], 300);
        assert_eq!(result["usage"]["output_tokens"], 30);
        let cached = if dialect == Dialect::Ollama { 0 } else { 140 };
        assert_eq!(result["usage"]["cached_tokens"], cached, "{out}");
        let requests = server.finish();
        assert!(dialect.result(&requests[1], "c1", "read").contains("alpha"));
        assert!(dialect.result(&requests[1], "c2", "list_dir").contains("b.txt"));
    });
}

#[test]
fn thinking_is_shown_apart_and_sent_back_with_its_signature() {
    in_every_dialect(|dialect| {
        let world = world();
        world.write("a.txt", "alpha\n");
        let first = Reply::call("c1", "read", json!({"path": "a.txt"})).thinking("What is in it?");
        let second = Reply::call("c2", "list_dir", json!({})).thinking("And beside it?");
        let server = server(dialect, vec![first, second, Reply::text("Alpha.")]);

        let run = world.ask_in(dialect, &server, "Read").args(&["--thinking", "high"]);
        let out = run.args(&["--output-format", "stream-json"]).run().exits(0);

        let thought: String = out
            .events()
            .iter()
            .filter(|event| event["type"] == "reasoning")
            .filter_map(|event| event["text"].as_str())
            .collect();
        if dialect != Dialect::Completions {
            assert_eq!(thought, "What is in it?And beside it?", "{dialect:?}");
        }
        server.finish();
    });
}

#[test]
fn an_image_that_is_read_reaches_the_model() {
    let png = [&b"\x89PNG\r\n\x1a\n"[..], &[7; 40]].concat();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&png);
    in_every_dialect(|dialect| {
        let world = world();
        fs::write(world.workspace().join("dot.png"), &png).unwrap();
        let read = Reply::call("c1", "read", json!({"path": "dot.png"}));
        let server = server(dialect, vec![read, Reply::text("A dot.")]);

        world.ask_in(dialect, &server, "What is it?").run().exits(0);

        let requests = server.finish();
        assert!(requests[1].text.contains(&encoded), "{dialect:?}: {}", requests[1].text);
        assert!(!requests[0].text.contains(&encoded));
    });
}

#[test]
fn a_long_output_is_cut_and_can_be_paged() {
    in_every_dialect(|dialect| {
        let world = world();
        let lines: String = (1..=4000).map(|number| format!("line {number}\n")).collect();
        world.write("long.txt", &lines);
        let server = server(
            dialect,
            vec![
                Reply::call("c1", "bash", json!({"command": "cat long.txt"})),
                Reply::call("c2", "read", json!({"path": "@output/1", "offset": 2000, "limit": 3})),
                Reply::text("Seen."),
            ],
        );

        world.ask_in(dialect, &server, "Show it").run().exits(0);

        let requests = server.finish();
        let shown = dialect.result(&requests[1], "c1", "bash");
        assert!(shown.contains("line 1\n") && shown.contains("line 4000\n"), "{shown}");
        assert!(!shown.contains("line 2001\n") && shown.len() < 20_000);
        let page = dialect.result(&requests[2], "c2", "read");
        assert!(page.contains("line 2001") && !page.contains("line 2003"), "{page}");
    });
}

#[test]
fn a_conversation_that_is_too_long_is_summarised_and_goes_on() {
    in_every_dialect(|dialect| {
        let world = world();
        world.write("a.txt", "alpha\n");
        let message = "This model's maximum context length is 8192 tokens.";
        let too_long = Reply::status(400, &[], json!({"error": {"message": message, "code": 400}}));
        let server = server(
            dialect,
            vec![
                Reply::call("c1", "read", json!({"path": "a.txt"})),
                too_long,
                Reply::text("The file holds alpha."),
                Reply::text("It is alpha."),
            ],
        )
        .allowing_summaries();

        let out = world.ask_in(dialect, &server, "What is in a.txt?").run().exits(0);

        let out = out.says("the conversation was summarised");
        assert_eq!(out.stdout, "It is alpha.\n", "{dialect:?}");
        let requests = server.finish();
        assert!(!requests[2].text.contains("\"tools\""), "a summary needs no tools");
        let last = &requests[3].text;
        for kept in ["The file holds alpha.", "a.txt", "What is in a.txt?"] {
            assert!(last.contains(kept), "{dialect:?}: {kept} in {last}");
        }
    });
}

#[test]
fn a_stream_that_is_cut_is_no_answer() {
    in_every_dialect(|dialect| {
        let world = world();
        let long = Reply::text(&"word ".repeat(300)).cut_after(3000);
        let server = server(dialect, vec![long]);

        let out = world.ask_in(dialect, &server, "Speak").json().run().exits(3);

        assert_eq!(out.json()["status"], "model-failed", "{dialect:?}");
        server.finish();
    });
}

#[test]
fn a_busy_server_is_asked_again() {
    in_every_dialect(|dialect| {
        let world = world();
        let busy = json!({"error": {"message": "slow down"}});
        let busy = Reply::status(429, &[("retry-after", "1")], busy);
        let server = server(dialect, vec![busy, Reply::text("Now.")]);

        let out = world.ask_in(dialect, &server, "Speak").run().exits(0);

        assert_eq!(out.stdout, "Now.\n", "{dialect:?}");
        server.finish();
    });
}

#[test]
fn a_refusal_is_told_as_one() {
    for dialect in DIALECTS.into_iter().filter(|dialect| *dialect != Dialect::Ollama) {
        let world = world();
        let server = server(dialect, vec![Reply::refusal("I will not.")]);

        let out = world.ask_in(dialect, &server, "Do evil").json().run().exits(3);

        let error = out.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("refused"), "{dialect:?}: {error}");
        server.finish();
    }
}

#[test]
fn broken_arguments_are_answered_and_the_conversation_stays_valid() {
    for dialect in DIALECTS.into_iter().filter(|dialect| dialect.has_broken_arguments()) {
        let world = world();
        let broken = Reply::text("").with_call("c1", "read", "{\"path\": \"a.t");
        let server = server(dialect, vec![broken, Reply::text("Sorry.")]);

        world.ask_in(dialect, &server, "Read").run().exits(0);

        let requests = server.finish();
        let told = dialect.result(&requests[1], "c1", "read");
        assert!(told.contains("no valid JSON"), "{dialect:?}: {told}");
    }
}

#[test]
fn a_cancelled_run_goes_on_where_it_was() {
    in_every_dialect(|dialect| {
        let world = world();
        world.write("a.txt", "alpha\n");
        let half = Reply::text(&"word ".repeat(300)).hang_after(3000);
        let server = server(
            dialect,
            vec![
                Reply::call("c1", "read", json!({"path": "a.txt"})),
                half,
                Reply::text("Going on."),
            ],
        );

        let run = world.ask_in(dialect, &server, "Speak").json().spawn();
        server.wait_for_requests(2);
        std::thread::sleep(std::time::Duration::from_millis(300));
        kill(Pid::from_raw(run.id() as i32), Signal::SIGINT).unwrap();
        let out = wait(run).exits(130);
        assert_eq!(out.json()["status"], "interrupted");

        let out = world.ask_in(dialect, &server, "Go on").args(&["-c"]).run().exits(0);

        assert_eq!(out.stdout, "Going on.\n", "{dialect:?}");
        let requests = server.finish();
        assert!(requests[2].text.contains("word word"), "what was shown is kept");
        assert!(dialect.result(&requests[2], "c1", "read").contains("alpha"));
    });
}
