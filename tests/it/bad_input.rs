//! Bad input gets a clear error and loses nothing: from the user, and from the model.

use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Account, KEY, World, accounts};

fn world() -> World {
    World::new(Account::Current)
}

#[test]
fn a_policy_file_of_the_user_with_an_error_is_named_with_line_and_column() {
    let world = World::new(Account::Current);
    let file = world.home().join(".config/zerostack/policies/standard.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let built_in = include_str!("../../policies/standard.toml");
    std::fs::write(&file, built_in.replace("processes = 1024", "processes = \"many\"")).unwrap();

    let out = world.zerostack(&["policy", "show", "--mode", "standard"]).run().exits(1);

    let line = built_in.lines().position(|line| line.starts_with("processes")).unwrap() + 1;
    assert!(out.stderr.contains("standard.toml"), "{out}");
    assert!(out.stderr.contains(&format!("line {line}, column 13")), "{out}");

    std::fs::write(&file, built_in.replace("processes = 1024", "processes = 7")).unwrap();
    let out = world.zerostack(&["policy", "show", "--mode", "standard"]).run().exits(0);
    assert!(out.stdout.contains("7 processes"), "{out}");
}

#[test]
fn an_unknown_flag_is_a_usage_error_with_the_nearest_name() {
    for account in accounts() {
        let world = World::new(account);

        let out = world.zerostack(&["--reed-only", "-p", "hi"]).run().exits(2);

        assert!(out.stderr.contains("--reed-only"), "{out}");
        assert!(out.stderr.contains("--read-only"), "{out}");
        assert_eq!(out.stdout, "");
    }
}

#[test]
fn an_unknown_mode_is_a_usage_error_that_names_the_modes() {
    let world = world();

    let out = world.zerostack(&["--mode", "carefree", "-p", "hi"]).run().exits(2);

    assert!(out.stderr.contains("carefree"), "{out}");
    for mode in ["restrictive", "readonly", "guarded", "standard", "yolo"] {
        assert!(out.stderr.contains(mode), "{mode}: {out}");
    }
}

#[test]
fn two_modes_at_once_are_a_usage_error() {
    let world = world();
    world.zerostack(&["--read-only", "--yolo", "--provider", "demo", "-p", "hi"]).run().exits(2);
}

#[test]
fn a_broken_rule_is_a_usage_error_that_quotes_it() {
    for option in ["--allow", "--deny", "--ask"] {
        for rule in ["bash(", "bash(ls", "(ls)", "bsah(ls)"] {
            let world = world();

            world
                .zerostack(&["--provider", "demo", option, rule, "-p", "hi"])
                .run()
                .exits(2)
                .says(rule);
        }
    }
}

#[test]
fn a_value_that_is_no_number_is_a_usage_error() {
    let world = world();
    world
        .zerostack(&["--provider", "demo", "--max-turns", "many", "-p", "hi"])
        .run()
        .exits(2)
        .says("many");
}

#[test]
fn an_unknown_output_format_is_a_usage_error_that_names_the_formats() {
    let world = world();
    world
        .zerostack(&["--provider", "demo", "--output-format", "xml", "-p", "hi"])
        .run()
        .exits(2)
        .says("stream-json");
}

#[test]
fn a_missing_key_names_its_variable_and_the_demo() {
    for account in accounts() {
        let world = World::new(account);

        let out =
            world.zerostack(&["--provider", "openai", "--model", "test-model", "-p", "hi"]).run();

        assert!([1, 3].contains(&out.status), "{out}");
        assert!(out.stderr.contains("OPENAI_API_KEY"), "{out}");
        assert!(out.stderr.contains("--provider demo"), "{out}");
        assert_eq!(out.stdout, "");
    }
}

#[test]
fn without_any_provider_the_demo_is_offered() {
    let world = world();

    let out = world.zerostack(&["-p", "hi"]).run();

    assert!([1, 3].contains(&out.status), "{out}");
    assert!(out.stderr.contains("OPENROUTER_API_KEY"), "{out}");
    assert!(out.stderr.contains("--provider demo"), "{out}");
}

#[test]
fn an_unknown_provider_is_refused_with_the_names_of_the_known() {
    let world = world();

    let out = world.zerostack(&["--provider", "opnai", "-p", "hi"]).run();

    assert!([1, 2].contains(&out.status), "{out}");
    assert!(out.stderr.contains("opnai"), "{out}");
    assert!(out.stderr.contains("openai"), "{out}");
}

#[test]
fn a_base_url_that_is_no_url_is_named() {
    let world = world();

    let out = world.ask_at("not a url", "hi").run();

    assert!([1, 2, 3].contains(&out.status), "{out}");
    assert!(out.stderr.contains("not a url"), "{out}");
    assert!(!out.stderr.contains("panicked"), "{out}");
}

#[test]
fn an_empty_prompt_is_a_usage_error() {
    let world = world();
    let server = ModelServer::start(vec![Reply::text("Heard the second.")]);

    // Standard input is empty and no message is given: there is nothing to send.
    world
        .zerostack(&["--provider", "openai", "--base-url", &server.base_url()])
        .args(&["--model", "test-model", "-p"])
        .env("OPENAI_API_KEY", KEY)
        .run()
        .exits(2);
    assert!(server.requests().is_empty());

    world.ask(&server, "something").run().exits(0);
    server.finish();
}

#[test]
fn a_recording_that_does_not_exist_is_named() {
    let world = world();
    world
        .zerostack(&["--replay", "no-such-file.record", "-p", "hi"])
        .run()
        .exits(1)
        .says("no-such-file.record");
}

#[test]
fn an_unknown_tool_is_an_error_for_the_model_and_the_run_goes_on() {
    for account in accounts() {
        let world = World::new(account);
        let server = ModelServer::start(vec![
            Reply::call("u1", "launch_missiles", json!({"target": "moon"})),
            Reply::text("There is no such tool."),
        ]);

        let out = world.ask(&server, "Launch").json().run().exits(0);

        assert_eq!(out.fate("u1"), "error", "{out}");
        assert_eq!(out.json()["answer"], "There is no such tool.");
        let told = server.finish()[1].result("u1");
        assert!(told.contains("launch_missiles"), "{told}");
        assert!(told.contains("list_dir"), "the known tools are named: {told}");
    }
}

#[test]
fn broken_json_arguments_are_an_error_for_the_model_and_the_run_goes_on() {
    for account in accounts() {
        let world = World::new(account);
        world.write("notes.txt", "a line of notes\n");
        let server = ModelServer::start(vec![
            Reply::text("").with_call("broken", "read", r#"{"path": "notes.txt""#),
            Reply::call("whole", "read", json!({"path": "notes.txt"})),
            Reply::text("Read at last."),
        ]);

        let out = world.ask(&server, "Read it").json().run().exits(0);

        assert_eq!(out.fate("broken"), "error", "{out}");
        assert_eq!(out.fate("whole"), "ok", "{out}");
        let requests = server.finish();
        let told = requests[1].result("broken");
        assert!(told.contains("JSON"), "{told}");
        assert!(!told.contains("a line of notes"), "{told}");
        assert!(requests[2].result("whole").contains("a line of notes"));
    }
}

#[test]
fn arguments_of_the_wrong_shape_are_an_error_that_names_the_field() {
    let world = world();
    let server = ModelServer::start(vec![
        Reply::calls(&[
            ("missing", "write", json!({"path": "made.txt"})),
            ("kind", "read", json!({"path": 17})),
            ("list", "edit", json!(["made.txt"])),
        ]),
        Reply::text("I know better now."),
    ]);

    let out = world.ask(&server, "Try").json().run().exits(0);

    for id in ["missing", "kind", "list"] {
        assert_eq!(out.fate(id), "error", "{out}");
    }
    assert!(!world.has("made.txt"));
    let requests = server.finish();
    let told = requests[1].result("missing");
    assert!(told.contains("content"), "{told}");
}

#[test]
fn a_file_that_is_not_there_is_an_error_for_the_model() {
    let world = world();
    let server = ModelServer::start(vec![
        Reply::call("r1", "read", json!({"path": "absent.txt"})),
        Reply::text("It is not there."),
    ]);

    let out = world.ask(&server, "Read it").json().run().exits(0);

    assert_eq!(out.fate("r1"), "error", "{out}");
    let told = server.finish()[1].result("r1");
    assert!(told.contains("absent.txt"), "{told}");
}

#[test]
fn an_edit_that_matches_twice_or_never_changes_nothing() {
    let world = world();
    world.write("notes.txt", "twin\ntwin\n");
    let edit = |old: &str| json!({"path": "notes.txt", "edits": [{"old": old, "new": "x"}]});
    let server = ModelServer::start(vec![
        Reply::calls(&[("twice", "edit", edit("twin")), ("never", "edit", edit("single"))]),
        Reply::text("Unchanged."),
    ]);

    let out = world.ask(&server, "Edit").json().run().exits(0);

    assert_eq!(out.fate("twice"), "error", "{out}");
    assert_eq!(out.fate("never"), "error", "{out}");
    assert_eq!(world.read("notes.txt"), "twin\ntwin\n");
    server.finish();
}

#[test]
fn a_binary_file_is_refused_and_hostile_bytes_do_not_end_the_run() {
    let world = world();
    world.write("blob.bin", "\0\u{1}\u{2}\0binary\0");
    let long = "y".repeat(3_000_000);
    world.write("long.txt", &long);
    let server = ModelServer::start(vec![
        Reply::calls(&[
            ("blob", "read", json!({"path": "blob.bin"})),
            ("long", "read", json!({"path": "long.txt"})),
            ("nul", "read", json!({"path": "a\u{0}b"})),
        ]),
        Reply::text("Strange files."),
    ]);

    let out = world.ask(&server, "Read").json().run().exits(0);

    assert_eq!(out.fate("blob"), "error", "{out}");
    assert_eq!(out.fate("nul"), "error", "{out}");
    let requests = server.finish();
    let shown = requests[1].result("long").len();
    assert!(shown < 200_000, "{shown} bytes went to the model");
}

#[test]
fn a_machine_that_cannot_confine_runs_nothing_and_says_what_is_missing() {
    for account in accounts() {
        let world = World::new(account);
        // In a user namespace that forbids further ones, as some hosts do for everybody.
        let line = r#"echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@""#;
        let run = |args: &[&str]| {
            account
                .command(std::path::Path::new("unshare"))
                .args(["--user", "--map-root-user", "sh", "-c", line])
                .arg(world.program())
                .args(args)
                .env("HOME", world.home())
                .current_dir(world.workspace())
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap()
        };
        for args in [&["sandbox", "--", "touch", "made"][..], &["--provider", "demo", "-p", "x"]] {
            let out = run(args);
            let error = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(7), "{error}");
            assert!(error.contains("could not create the namespaces"), "{error}");
            assert!(error.contains("user.max_user_namespaces"), "{error}");
        }
        assert!(!world.has("made"));
        let doctor = run(&["doctor", "--json"]);
        let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        assert_eq!(doctor["rung"], "none", "{doctor}");
        // The control: the same command where it may confine.
        world.zerostack(&["sandbox", "--", "touch", "made"]).run().exits(0);
        assert!(world.has("made"));
    }
}
