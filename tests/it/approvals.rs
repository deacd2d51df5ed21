//! Questions and their answers, through the library: a front end that says yes and no.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::workers::Bench;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use zerostack::agent::{Outcome, Settings, ToolStatus};
use zerostack::model::tape::Tape;
use zerostack::model::{Ability, Thinking, ToolSchema};
use zerostack::policy::Mode;
use zerostack::session::State;
use zerostack::supervisor::{Approval, Backend, Record, RunResult, Session, Verdict};

struct Front {
    root: tempfile::TempDir,
    session: Session,
    runtime: tokio::runtime::Runtime,
}

/// A recording in which the model makes these calls, one a turn, and then answers.
fn tape(calls: &[(&str, Value)]) -> Tape {
    let mut messages =
        vec![json!({"role": "system", "text": ""}), json!({"role": "user", "text": "go"})];
    let mut lines = String::new();
    let mut line = |messages: &[Value], answer: Value| {
        let request = json!({"model": "m", "messages": messages, "tools": []});
        lines.push_str(&format!("{}\n", json!({"request": request, "answer": {"Ok": answer}})));
    };
    let usage = json!({"input_tokens": 1, "output_tokens": 1, "cached_tokens": 0});
    for (number, (name, arguments)) in calls.iter().enumerate() {
        let id = format!("c{number}");
        let calls = json!([{"id": id, "name": name, "arguments": arguments.to_string()}]);
        line(&messages, json!({"text": "", "calls": calls, "usage": usage}));
        messages.push(json!({"role": "assistant", "text": "", "calls": calls}));
        messages.push(json!({"role": "tool", "call_id": id, "text": ""}));
    }
    line(&messages, json!({"text": "Done.", "calls": [], "usage": usage}));
    Tape::parse(&lines).unwrap()
}

impl Front {
    fn new(mode: Mode, calls: &[(&str, Value)]) -> Front {
        let Bench { root, broker, runtime } = Bench::new(mode, |workspace| {
            std::fs::create_dir(workspace.join("docs")).unwrap();
            std::fs::write(workspace.join("docs/a.txt"), "one\n").unwrap();
        });
        let tool = |name: &str| ToolSchema {
            name: name.into(),
            description: String::new(),
            parameters: json!({"type": "object"}),
        };
        let settings = Settings {
            model: "m".into(),
            system_prompt: String::new(),
            tools: ["read", "write", "edit", "bash"].map(tool).to_vec(),
            max_turns: 50,
            max_tokens: None,
            temperature: None,
            thinking: Thinking::Auto,
            ability: Ability::default(),
            window: None,
            compact: false,
            reserve: 0,
            keep_recent: 0,
            cache_key: None,
        };
        let session = Session {
            broker,
            backend: Backend::Replay(RefCell::new(tape(calls))),
            recorder: None,
            settings,
            record: Record::new(None, State::default(), None),
            max_cost: None,
            earlier: RefCell::default(),
            approver: None,
            rules_file: Some(root.path().join("rules.toml")),
            refused: RefCell::default(),
            tries_refused: Default::default(),
            tasks: tokio::sync::Semaphore::new(8),
        };
        Front { root, session, runtime }
    }

    fn workspace(&self) -> PathBuf {
        self.root.path().join("home/project")
    }

    /// Runs to the end; `answer` is asked each question.
    fn run(
        &mut self,
        answer: impl Fn(&Approval) -> Verdict + 'static,
    ) -> (RunResult, Vec<Approval>) {
        let (approver, mut questions) = mpsc::unbounded_channel();
        self.session.approver = Some(approver);
        let asked = Rc::new(RefCell::new(Vec::new()));
        let session = &self.session;
        let result = self.runtime.block_on(async {
            let answering = async {
                while let Some(question) = questions.recv().await {
                    let verdict = answer(&question.approval);
                    asked.borrow_mut().push(question.approval);
                    question.answer.send(verdict).unwrap();
                }
            };
            let never = std::pin::pin!(std::future::pending());
            tokio::select! {
                result = session.run("go".into(), Vec::new(), &|_| (), never) => result,
                () = answering => unreachable!(),
            }
        });
        assert_eq!(result.outcome, Outcome::Done { answer: "Done.".into() });
        let asked = asked.borrow().clone();
        (result, asked)
    }
}

fn status(result: &RunResult, id: &str) -> ToolStatus {
    result.calls.iter().find(|call| call.id == id).unwrap().status
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[test]
fn a_question_says_everything_and_a_yes_is_for_that_call_alone() {
    let edit = json!({"path": "docs/a.txt", "edits": [{"old": "one", "new": "two"}]});
    let calls = [
        ("edit", edit.clone()),
        ("bash", json!({"command": "touch made"})),
        ("bash", json!({"command": "touch other"})),
    ];
    // Guarded: every change is asked for.
    let mut front = Front::new(Mode::Guarded, &calls);
    let (result, asked) = front.run(|question| match question.what.contains("other") {
        true => Verdict::No(Some("not that one".into())),
        false => Verdict::Once,
    });

    assert_eq!(asked.len(), 3);
    let diff = asked[0].diff.as_deref().unwrap();
    assert!(diff.contains("-one") && diff.contains("+two"), "{diff}");
    assert_eq!(asked[0].offers, ["edit(docs/a.txt)", "edit(docs/**)"]);
    assert!(asked[1].still_refused.contains("it works on a copy"), "{:?}", asked[1]);
    assert!(asked.iter().all(|it| !it.reason.is_empty() && !it.directory.is_empty()));
    assert_eq!(status(&result, "c0"), ToolStatus::Ok);
    let text = std::fs::read_to_string(front.workspace().join("docs/a.txt")).unwrap();
    assert_eq!(text, "two\n");
    assert_eq!(
        (status(&result, "c1"), status(&result, "c2")),
        (ToolStatus::Ok, ToolStatus::Denied)
    );
    let told = &result.calls.last().unwrap().output;
    assert!(told.contains("The user says no: not that one"), "{told}");
    // A person has decided: nothing was left unasked.
    assert!(result.denials.iter().all(|denial| !denial.unasked));
}

#[test]
fn a_rule_of_the_session_holds_until_it_is_withdrawn_and_no_other_is_taken() {
    let touch = |name: &str| ("bash", json!({"command": format!("touch {name}")}));
    let calls = [touch("a"), touch("a b"), touch("c"), touch("d")];
    let mut front = Front::new(Mode::Standard, &calls);
    let (result, asked) = front.run(|question| match question.what.as_str() {
        "touch a" => Verdict::Session(question.offers[0].clone()),
        "touch c" => Verdict::Session("bash(**)".into()),
        _ => Verdict::Session(question.offers.get(1).cloned().unwrap_or_default()),
    });
    // The exact rule was no rule for anything else; what was not offered is no yes.
    assert_eq!(asked.len(), 4, "{asked:#?}");
    assert_eq!(asked[1].offers, ["bash(touch a b)", "bash(touch a *)"]);
    let ids = ["c0", "c1", "c2", "c3"].map(|id| status(&result, id));
    assert_eq!(ids[..3], [ToolStatus::Ok, ToolStatus::Ok, ToolStatus::Denied]);
    assert_eq!(ids[3], ToolStatus::Denied);
    assert!(!exists(&front.workspace().join("c")) && exists(&front.workspace().join("a")));
    let grants = front.session.broker.grants();
    assert_eq!(grants, ["bash(touch a)", "bash(touch a *)"]);
    assert!(grants.iter().all(|rule| front.session.withdraw(rule).unwrap()));
    assert!(front.session.broker.grants().is_empty());
}

#[test]
fn a_rule_for_ever_is_written_down_and_a_denied_call_is_not_asked_about_again() {
    let touch = |name: &str| ("bash", json!({"command": format!("touch {name}")}));
    let mut front = Front::new(Mode::Standard, &[touch("a"), touch("b"), touch("b"), touch("a")]);
    let (result, asked) = front.run(|question| match question.what.as_str() {
        "touch a" => Verdict::Always(question.offers[0].clone()),
        _ => Verdict::No(None),
    });
    assert_eq!(asked.len(), 2, "{asked:#?}");
    assert_eq!(status(&result, "c2"), ToolStatus::Denied);
    assert!(result.calls[2].output.contains("already denied"), "{}", result.calls[2].output);
    let rules = std::fs::read_to_string(front.root.path().join("rules.toml")).unwrap();
    assert_eq!(rules, "allow = [\"bash(touch a)\"]\n");
    // What is taken back is not in the file either, and holds nowhere.
    assert!(front.session.withdraw("bash(touch a)").unwrap());
    assert!(!front.session.withdraw("bash(touch a)").unwrap());
    let call = zerostack::model::ToolCall {
        id: "x".into(),
        name: "bash".into(),
        arguments: json!({"command": "touch a"}).to_string(),
    };
    let subject = front.session.broker.look_at(&call).unwrap();
    let decision = front.session.broker.decide(&call, &subject);
    assert!(matches!(decision, zerostack::policy::Decision::Ask { .. }), "{decision:?}");
    let rules = std::fs::read_to_string(front.root.path().join("rules.toml")).unwrap();
    assert_eq!(rules, "allow = []\n");
}

#[test]
fn a_question_keeps_no_argument_back() {
    let calls = [
        ("write", json!({"path": "docs/a.txt", "content": "evil\nlines\n"})),
        ("bash", json!({"command": "./daemon", "background": true, "timeout": 99_999})),
        ("write", json!({"path": "x\n--- a/x\n+++ b/x\n+harmless", "content": "evil"})),
    ];
    // The un-asked worker of this mode sees nothing to compare with.
    let mut front = Front::new(Mode::Restrictive, &calls);
    let (_, asked) = front.run(|_| Verdict::No(None));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(asked[0].diff, None);
    assert_eq!(asked[0].arguments, [pair("content", "evil\nlines\n")]);
    assert_eq!(asked[1].arguments, [pair("background", "true"), pair("timeout", "99999")]);
    assert!(!asked[2].what.contains('\n') && asked[2].what.contains("\\u{a}"), "{:?}", asked[2]);
}

#[test]
fn a_rule_that_cannot_be_written_down_is_not_given_either() {
    let mut front = Front::new(Mode::Standard, &[("bash", json!({"command": "touch a"}))]);
    front.session.rules_file = None;
    let (result, _) = front.run(|question| Verdict::Always(question.offers[0].clone()));
    assert_eq!(status(&result, "c0"), ToolStatus::Denied);
    assert!(front.session.broker.grants().is_empty());
}

#[test]
fn another_try_is_for_once_and_not_asked_for_without_end() {
    let text = "cannot write: Read-only file system\n";
    let cat = |at: usize| ("bash", json!({"command": format!("cat error.txt none{at}")}));
    let calls: Vec<_> = (0..6).map(cat).collect();
    let mut front = Front::new(Mode::Standard, &calls);
    std::fs::write(front.workspace().join("error.txt"), text).unwrap();
    let (result, asked) = front.run(|_| Verdict::No(None));
    assert_eq!(asked.len(), 3, "{asked:#?}");
    assert!(asked.iter().all(|question| question.offers.is_empty()), "{asked:#?}");
    assert_eq!(result.calls.len(), 6);
}
