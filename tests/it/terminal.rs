//! The terminal UI in a real terminal: typing, questions, resizing, suspending, ending.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::terminal::Terminal;
use crate::support::{Account, World, accounts};

#[test]
fn a_prompt_is_typed_answered_and_the_terminal_given_back() {
    for account in accounts() {
        let world = World::new(account);
        world.write("a.txt", "one\n");
        let edits = json!([{"old": "one", "new": "two"}]);
        let server = ModelServer::start(vec![
            Reply::call("e", "edit", json!({"path": "a.txt", "edits": edits})),
            Reply::text("# Done\n\nIt is **two** now."),
        ]);
        let mut terminal = Terminal::start(&world, Some(&server), &[]);
        terminal.wait_for("Say what you want");
        terminal.wait_for("standard · native sandbox · no network");
        terminal.send("Change one to two\r");
        terminal.wait_for("It is two now.");
        for line in ["▌ Change one to two", "● edit a.txt", "│ -one", "│ +two", "Done"] {
            terminal.wait_for(line);
        }
        assert_eq!(world.read("a.txt"), "two\n");
        terminal.send("\x04");
        assert_eq!(terminal.ended().0, 0);
        server.finish();
    }
}

#[test]
fn a_question_is_asked_in_full_and_typed_ahead_keys_do_not_answer_it() {
    let world = World::new(Account::Current);
    let command = "echo made > made.txt";
    let server = ModelServer::start(vec![
        Reply::call("b1", "bash", json!({"command": command})),
        Reply::call("b2", "bash", json!({"command": "touch other"})),
        Reply::text("Finished."),
    ]);
    let mut terminal = Terminal::start(&world, Some(&server), &[]);
    terminal.wait_for("Say what you want");
    // Enter and other keys come before the question: they are not its answer.
    terminal.send("go\r\r\r");
    terminal.wait_for("Run this command?");
    for words in
        [command, "asked by:", "refused even then:", "yes, this once", "no, and tell it why"]
    {
        terminal.wait_for(words);
    }
    terminal.wait_for("Answer with a key.");
    assert!(!world.has("made.txt"));
    terminal.send("yy");
    terminal.wait_for("touch other");
    // The second y came too early for the second question: it is in the input, and so has the keys.
    terminal.wait_for("Your line has the keys");
    terminal.send("\x15");
    terminal.wait_for("Answer with a key.");
    terminal.send("tnot that\r");
    terminal.wait_for("Finished.");
    terminal.wait_for("⊘ bash touch other");
    terminal.wait_for("not that");
    assert_eq!(world.read("made.txt"), "made\n");
    assert!(!world.has("other"));
    terminal.send("\x03");
    terminal.wait_for("again to leave");
    terminal.send("\x03");
    terminal.ended();
    let requests = server.finish();
    assert!(requests[2].result("b2").contains("The user says no: not that"));
}

#[test]
fn a_run_is_interrupted_and_what_was_queued_is_sent_or_cleared() {
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![
        Reply::text(&"word ".repeat(300)).hang_after(3000),
        Reply::text("Second answer."),
        Reply::text(&"word ".repeat(300)).hang_after(3000),
        Reply::text("Last answer."),
    ]);
    let mut terminal = Terminal::start(&world, Some(&server), &["first"]);
    terminal.wait_for("word word");
    terminal.send("second\r");
    terminal.wait_for("1 queued");
    terminal.send("\x1b");
    terminal.wait_for("1 queued (Enter sends)");
    terminal.send("\r");
    terminal.wait_for("Second answer.");
    terminal.send("third\r");
    server.wait_for_requests(3);
    terminal.send("fourth\r");
    terminal.wait_for("1 queued");
    terminal.send("\x03");
    terminal
        .wait("end of the run", |text| text.contains("interrupted") && !text.contains("working"));
    assert!(!terminal.text().contains("queued"));
    terminal.send("fifth\r");
    terminal.wait_for("Last answer.");
    terminal.send("/quit\r");
    terminal.ended();
    let said: Vec<String> =
        server.finish().iter().map(|it| it.said_by("user").pop().unwrap()).collect();
    assert_eq!(said, ["first", "second", "third", "fifth"]);
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let world = World::new(Account::Current);
    let evil = "\u{1b}]52;c;ZXZpbA==\u{7}\u{1b}[2J\u{9b}31m\u{202e}gnp.exe\u{200b}\u{1b}]8;;http://evil\u{7}";
    world.write("evil.txt", evil);
    let server = ModelServer::start(vec![
        Reply::text(evil).with_calls(&[
            ("r", "read", json!({"path": "evil.txt"})),
            ("b", "bash", json!({"command": format!("touch {evil}")})),
        ]),
        Reply::text("```\nunfinished [link](http://evil) \u{1b}[8m"),
    ]);
    let mut terminal = Terminal::start(&world, Some(&server), &["go"]);
    terminal.wait_for("Answer with a key.");
    terminal.send("n");
    terminal.wait_for("unfinished");
    terminal.send("\x0f");
    std::thread::sleep(Duration::from_millis(200));
    let raw = String::from_utf8_lossy(&terminal.raw.lock().unwrap()).into_owned();
    for bad in ["\u{1b}]52", "\u{1b}]8;", "\u{9b}", "\u{202e}", "\u{200b}", "\u{1b}[8m"] {
        assert!(!raw.contains(bad), "{bad:?}");
    }
    assert!(terminal.text().contains("\\u{1b}"), "{}", terminal.text());
    terminal.send("\x04");
    terminal.ended();
    server.finish();
}

#[test]
fn it_is_resized_and_ended_from_outside_and_comes_back() {
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![Reply::text("A long answer. ".repeat(40).trim())]);
    let mut terminal = Terminal::start(&world, Some(&server), &["hello"]);
    terminal.wait_for("A long answer.");
    for (rows, columns) in [(10, 40), (5, 12), (50, 180), (30, 100)] {
        terminal.resize(rows, columns);
        std::thread::sleep(Duration::from_millis(80));
    }
    terminal.wait_for("A long answer. A long answer.");
    terminal.send("/mode readonly\r");
    terminal.wait_for("readonly · native sandbox");
    terminal.send("/mode nonsense\r");
    terminal.wait_for("there is no mode");
    terminal.send("/provider nowhere\r");
    terminal.wait_for("there is no provider");
    terminal.wait_for("readonly · native sandbox");
    kill(terminal.program(), Signal::SIGTERM).unwrap();
    terminal.ended();
    server.finish();
    let server = ModelServer::start(vec![Reply::text("Again.")]);
    let mut terminal = Terminal::start(&world, Some(&server), &["-c"]);
    terminal.wait_for("A long answer.");
    terminal.wait_for("▌ hello");
    terminal.send("more\r");
    terminal.wait_for("Again.");
    terminal.send("\x04");
    terminal.ended();
    assert_eq!(server.finish()[0].said_by("user"), ["hello", "more"]);
}

#[test]
fn at_rest_nothing_wakes_up() {
    let world = World::new(Account::Current);
    let mut terminal = Terminal::start(&world, None, &["--provider", "demo", "Explain this"]);
    terminal.wait_for("To work with a real model");
    terminal.wait("rest", |text| !text.contains("working"));
    let program = terminal.program();
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{program}/status")).unwrap();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines
            .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = switches();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(switches(), before);
    terminal.send("\x04");
    terminal.ended();
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let world = World::new(Account::Current);
    world.zerostack(&["--provider", "demo"]).run().exits(2).says("zerostack -p");
}

#[test]
fn earlier_prompts_files_and_sessions_are_found() {
    let world = World::new(Account::Current);
    world.write("src/engine.rs", "fn start() {}\n");
    let server = ModelServer::start(vec![
        Reply::text("One."),
        Reply::text("Two."),
        Reply::text("Three."),
        Reply::text("Four."),
    ])
    .allowing_summaries();
    let mut terminal = Terminal::start(&world, Some(&server), &["--name", "Engines"]);
    terminal.wait_for("Say what you want");
    terminal.send("look at @engi\t");
    terminal.wait_for("> look at @src/engine.rs");
    terminal.send("now\r");
    terminal.wait_for("One.");
    terminal.send("\x04");
    terminal.ended();
    // Another session knows the prompt of the first.
    let mut terminal = Terminal::start(&world, Some(&server), &[]);
    terminal.wait_for("Say what you want");
    terminal.send("\x12engine");
    terminal.wait_for("looking for: engine");
    terminal.wait_for("> look at @src/engine.rs now");
    terminal.send("\r\r");
    terminal.wait_for("Two.");
    terminal.send("\x04");
    terminal.ended();
    let mut terminal = Terminal::start(&world, Some(&server), &["-r"]);
    terminal.wait_for("Go on with which session?");
    // Keys that come with it are not meant for it.
    std::thread::sleep(Duration::from_millis(650));
    terminal.send("Engines\r");
    terminal.wait_for("One.");
    terminal.send("and\r");
    terminal.wait_for("Three.");
    terminal.send("/new\r");
    terminal.wait_for("Say what you want");
    terminal.send("fresh\r");
    terminal.wait_for("Four.");
    terminal.send("\x04");
    terminal.ended();
    let requests = server.finish_loosely();
    assert_eq!(requests[2].said_by("user").len(), 2);
    assert_eq!(requests[3].said_by("user"), ["fresh"]);
}

#[test]
fn undo_and_a_rule_of_the_session_work_from_the_screen() {
    let world = World::new(Account::Current);
    world.write("a.txt", "one\n");
    let edits = json!([{"old": "one", "new": "two"}]);
    let touch = |id: &str| Reply::call(id, "bash", json!({"command": "touch made.txt"}));
    let server = ModelServer::start(vec![
        Reply::call("e", "edit", json!({"path": "a.txt", "edits": edits})),
        touch("b1"),
        touch("b2"),
        Reply::text("Finished."),
        Reply::text("Fresh start."),
    ])
    .allowing_summaries();
    let mut terminal = Terminal::start(&world, Some(&server), &["go"]);
    terminal.wait_for("Answer with a key.");
    terminal.send("s");
    terminal.wait_for("Enter: yes, until the session ends");
    terminal.send("\r");
    terminal.wait_for("Finished.");
    terminal.send("/permissions\r");
    terminal.wait_for("• bash(touch made.txt)");
    terminal.send("/permissions withdraw bash(touch made.txt)\r");
    terminal.wait_for("withdrawn");
    let before = terminal.text().matches("-one").count();
    terminal.send("/diff\r");
    terminal.wait("the diff", |text| text.matches("-one").count() > before);
    terminal.send("/undo\r");
    terminal.wait_for("took back the last prompt");
    assert_eq!(world.read("a.txt"), "one\n");
    terminal.send("again\r");
    terminal.wait_for("Fresh start.");
    terminal.send("\x04");
    terminal.ended();
    assert_eq!(server.finish().last().unwrap().said_by("user"), ["again"]);
}

#[test]
fn the_conversation_is_shortened_and_a_prompt_is_written_in_an_editor() {
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![
        Reply::text("Alpha is the answer."),
        Reply::text("We found alpha."),
        Reply::text("Still alpha."),
    ])
    .allowing_summaries();
    world.write("../editor", "#!/bin/sh\necho $1 >> \"$2\"\n");
    let editor = world.home().join("editor");
    let with_argument = PathBuf::from(format!("{} edited", editor.display()));
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // What the first prompt used up does not stop the summary: that is a run of its own.
    let arguments = ["--max-turns", "1", "find it"];
    let mut terminal =
        Terminal::start_with(&world, Some(&server), &arguments, &[("EDITOR", &with_argument)]);
    terminal.wait_for("Alpha is the answer.");
    terminal.wait("rest", |text| !text.contains("working"));
    terminal.send("/compact\r");
    terminal.wait_for("the conversation was summarised");
    terminal.send("what was \x07");
    terminal.wait_for("edited");
    terminal.send("\r");
    terminal.wait_for("Still alpha.");
    terminal.send("\x04");
    terminal.ended();
    let requests = server.finish();
    assert!(requests[1].tool_names().is_empty());
    let said = requests[2].said_by("user");
    assert!(
        said[0].contains("We found alpha.") && said.last().unwrap().contains("edited"),
        "{said:?}"
    );
}

#[test]
fn settings_of_a_resumed_session_stay_and_a_command_of_the_users_can_be_ended() {
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![Reply::text("Hello.")]);
    let mut terminal = Terminal::start(&world, Some(&server), &["--read-only", "hi"]);
    terminal.wait_for("Hello.");
    terminal.send("\x04");
    terminal.ended();
    let mut terminal = Terminal::start(&world, Some(&server), &["-c"]);
    terminal.wait_for("readonly · native sandbox");
    terminal.send("/thinking low\r");
    terminal.wait_for("· thinking low");
    // Without an argument there is a list, at what holds now.
    terminal.send("/thinking\r");
    terminal.wait_for("▌ low");
    terminal.send("medi\r");
    terminal.wait_for("· thinking medium");
    terminal.wait_for("readonly · native sandbox");
    // What was typed now may loosen.
    terminal.send("/mode standard\r");
    terminal.wait_for("standard · native sandbox");
    terminal.send("!sleep 86421\r");
    terminal.wait_for("working");
    terminal.send("\x1b");
    terminal.wait_for("stopped");
    terminal.send("!sleep 86422\r");
    terminal.wait_for("working");
    kill(terminal.program(), Signal::SIGTERM).unwrap();
    terminal.ended();
    let left = Command::new("pgrep").args(["-f", "sleep 8642[12]"]).output().unwrap();
    assert!(left.stdout.is_empty());
    server.finish();
}

#[test]
fn it_is_suspended_and_comes_back_and_a_hang_up_ends_it() {
    for account in accounts() {
        let world = World::new(account);
        let server = ModelServer::start(vec![Reply::text("Here I am.")]);
        // A shell with jobs, as a person has.
        let mut shell = world.account().command("/bin/bash".as_ref());
        shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "shell> ");
        let mut terminal = Terminal::of(&world, shell);
        terminal.wait_for("shell> ");
        terminal.send(&format!(
            "{} --provider openai --base-url {} --model test-model hello\r",
            world.program().display(),
            server.base_url()
        ));
        terminal.wait_for("Here I am.");
        terminal.wait("rest", |text| !text.contains("working"));
        assert!(terminal.screen().screen().alternate_screen());
        terminal.send("half a li\x1a");
        terminal.wait_for("Stopped");
        assert!(!terminal.screen().screen().alternate_screen());
        terminal.send("echo $((40+2))\r");
        terminal.wait_for("42");
        terminal.send("fg\r");
        terminal.wait_for("> half a li");
        terminal.wait_for("Here I am.");
        terminal.send("ne");
        terminal.wait_for("> half a line");
        let found = Command::new("pgrep").args(["-f", world.root().to_str().unwrap()]).output();
        let running = || {
            let children = |pid: i32| {
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
                    .unwrap_or_default()
            };
            children(terminal.program().as_raw())
        };
        let program: i32 = running().split_whitespace().next().unwrap().parse().unwrap();
        assert!(String::from_utf8_lossy(&found.unwrap().stdout).contains(&program.to_string()));
        kill(nix::unistd::Pid::from_raw(program), Signal::SIGHUP).unwrap();
        terminal.wait_for("shell> ");
        assert!(!terminal.screen().screen().alternate_screen());
        // The terminal is given back before its last work is done.
        let begun = Instant::now();
        while !running().trim().is_empty() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(running().trim(), "");
        terminal.send("exit\r");
        terminal.ended();
        server.finish();
    }
}

/// Not a test: what `a_panic_gives_the_terminal_back` runs in a terminal.
#[test]
#[ignore = "it panics"]
fn takes_the_screen_and_panics() {
    let _screen = zerostack::ui::term::Screen::take().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    panic!("the roof is on fire");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let world = World::new(Account::Current);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "terminal::takes_the_screen_and_panics", "--ignored", "--nocapture"]);
    let terminal = Terminal::of(&world, command);
    terminal.wait("the other screen", |_| terminal.screen().screen().alternate_screen());
    let (code, shown) = terminal.ended();
    assert!(code != 0 && shown.contains("the roof is on fire"), "{shown}");
}
