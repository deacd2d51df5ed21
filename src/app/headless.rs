//! `zerostack -p`: one prompt, its answer on standard output, everything else on standard error.

use std::future::Future;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use zerostack_sandbox::Launcher;

use super::findings;
use super::prepare::{Opening, RUNG};
use super::rounds::Rounds;
use super::start;
use super::worktree;
use crate::agent::{AgentEvent, Outcome, ToolStatus, about};
use crate::cli::{OutputFormat, RunFlags};
use crate::report::{ExitKind, Report};
use crate::supervisor::{RunResult, Session};
use crate::ui::text;

/// Most piped input that becomes part of the prompt, bytes.
const INPUT_LIMIT: u64 = 10 * 1024 * 1024;
/// How long the first byte of piped input is waited for if there is a prompt without it, milliseconds.
const INPUT_WAIT: u16 = 3_000;

pub fn run(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let runtime = start::runtime()?;
    let code = runtime.block_on(headless(launcher, flags));
    // A blocked thread of the runtime must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn headless(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    let command = typed_command(&flags.message);
    let prompt_text = match command {
        Some(_) => String::new(),
        None => prompt_text(&flags.message, flags.loop_)?,
    };
    let rounds = Rounds::of(&flags, &prompt_text)?;
    if flags.worktree.wt_auto_merge
        && flags.worktree.worktree.is_none()
        && !flags.continue_
        && flags.session.is_none()
    {
        return Err(Report::usage(
            "--wt-auto-merge needs a worktree: --worktree NAME, or --parallel",
        ));
    }
    let opening = Opening::begin(launcher, &flags).await?;
    let warn = |warning: &String| eprintln!("warning: {}", text::clean(warning));
    opening.project.resolved.warnings.iter().for_each(warn);
    let (session, warnings) = opening.session(&flags, command.is_some()).await?;
    warnings.iter().for_each(warn);
    let facts = Facts {
        provider: session.provider,
        model: session.inner.settings.model.clone(),
        mode: session.inner.broker.policy().name.name(),
        session: session.inner.record.id(),
        format: flags.output_format,
    };
    if let Some(command) = command {
        return Ok(shell(&session.inner, &command).await);
    }
    facts.begin();
    for file in &session.context {
        let trust = file.standing.words();
        let path = text::line(&file.path.display().to_string(), 200);
        eprintln!("zerostack: told the model {path} ({trust})");
    }
    let mut interrupted = std::pin::pin!(interrupted()?);
    let tell = |event: AgentEvent| facts.show(&event);
    let code = match rounds {
        Some(rounds) => {
            let ended = rounds.go(&session.inner, &tell, interrupted.as_mut()).await;
            facts.end(&ended.result, Some((ended.rounds, ended.passed)))
        }
        None => {
            let run = session.inner.run(prompt_text, Vec::new(), &tell, interrupted.as_mut());
            facts.end(&run.await, None)
        }
    };
    let mut interrupted = std::pin::pin!(self::interrupted()?);
    let (words, done) = tokio::select! {
        biased;
        ended = worktree::finish(&session.inner, &flags.worktree, session.push, code == 0) => ended,
        () = &mut interrupted => ("interrupted; look at the worktree with git".to_owned(), false),
    };
    if !words.is_empty() {
        eprintln!("zerostack: {}", text::clean(&words));
    }
    Ok(if done || code != 0 { code } else { ExitKind::Error.code() })
}

/// The command of a typed `!command`. What is piped in is no part of it.
fn typed_command(message: &[String]) -> Option<String> {
    message.join(" ").strip_prefix('!').map(|command| command.trim().to_owned())
}

/// Runs a command of the user's in a cell; exits with 1 if it failed.
async fn shell(session: &Session, command: &str) -> u8 {
    let result = session.shell(command).await;
    if result.status == ToolStatus::Denied {
        eprintln!("denied: {}", text::clean(&result.text));
        return ExitKind::Denied.code();
    }
    say!("{}", text::clean(&result.text));
    u8::from(result.status != ToolStatus::Ok)
}

/// Arguments, or standard input, or both. A loop has its task elsewhere.
fn prompt_text(message: &[String], optional: bool) -> Result<String, Report> {
    let mut prompt = message.join(" ");
    let input = std::io::stdin();
    if !input.is_terminal() && ((prompt.is_empty() && !optional) || something_comes(&input)) {
        let mut bytes = Vec::new();
        let read = input.lock().take(INPUT_LIMIT + 1).read_to_end(&mut bytes);
        // A closed standard input is an empty one.
        match read {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EBADF as i32) => {}
            Err(error) => {
                return Err(Report::error(format!("cannot read standard input: {error}")));
            }
            Ok(_) => {}
        }
        if bytes.len() as u64 > INPUT_LIMIT {
            return Err(Report::usage("standard input is larger than 10 MiB"));
        }
        let piped = String::from_utf8_lossy(&bytes);
        if !piped.trim().is_empty() {
            let gap = if prompt.is_empty() { "" } else { "\n\n" };
            prompt = format!("{prompt}{gap}{piped}");
        }
    }
    if prompt.trim().is_empty() && !optional {
        return Err(Report::usage("there is no prompt").hint("zerostack -p \"your prompt\""));
    }
    Ok(prompt)
}

/// Whether anything, or an end, comes on standard input. With a prompt in the arguments, a pipe that
/// nobody writes to must not hold up the run.
fn something_comes(input: &std::io::Stdin) -> bool {
    let mut waiting = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    let comes = poll(&mut waiting, INPUT_WAIT).is_ok_and(|ready| ready > 0);
    if !comes {
        eprintln!("zerostack: nothing came on standard input; going on without it");
    }
    comes
}

/// Completes at SIGINT or SIGTERM.
fn interrupted() -> Result<impl Future<Output = ()>, Report> {
    let listen = |kind| {
        signal(kind).map_err(|error| Report::error(format!("cannot listen for signals: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// What the output says about the run, and in which form.
struct Facts {
    provider: String,
    model: String,
    mode: &'static str,
    session: Option<String>,
    format: OutputFormat,
}

impl Facts {
    fn begin(&self) {
        match self.format {
            OutputFormat::Text | OutputFormat::Sarif => {
                let (mode, provider) = (self.mode, text::line(&self.provider, 60));
                let model = text::line(&self.model, 100);
                eprintln!("zerostack: {mode} mode, {RUNG} sandbox, {provider} {model}");
            }
            OutputFormat::StreamJson => {
                let (provider, model) = (&self.provider, &self.model);
                say!(
                    "{}",
                    json!({"type": "start", "mode": self.mode, "rung": RUNG, "provider": provider,
                        "model": model, "session": self.session})
                );
            }
            OutputFormat::Json => {}
        }
    }

    fn show(&self, event: &AgentEvent) {
        match self.format {
            OutputFormat::Json => {}
            OutputFormat::StreamJson => {
                say!("{}", text::json(&serde_json::to_string(event).unwrap_or_default()));
            }
            OutputFormat::Text | OutputFormat::Sarif => show_line(event, "  "),
        }
    }

    /// `rounds` are those of a loop, and whether its check passed.
    fn end(&self, result: &RunResult, rounds: Option<(u64, Option<bool>)>) -> u8 {
        let (mut kind, mut error) = ending(result);
        if let (Some((count, Some(false))), None) = (rounds, &error) {
            kind = ExitKind::CheckFailed;
            error = Some(format!("the check has not passed in {count} rounds"));
        }
        let answer = match &result.outcome {
            Outcome::Done { answer } | Outcome::Refused { answer } => answer.as_str(),
            _ => "",
        };
        if self.format == OutputFormat::Sarif && error.is_none() {
            match findings::parse(answer) {
                Ok(found) => say!("{}", text::json(&format!("{:#}", findings::sarif(&found)))),
                Err(why) => (kind, error) = (ExitKind::Error, Some(why)),
            }
        }
        if matches!(self.format, OutputFormat::Text | OutputFormat::Sarif) {
            if !answer.is_empty() && self.format == OutputFormat::Text {
                let shown = findings::in_words(answer);
                say!("{}", text::clean(&shown).trim_end());
            }
            for denial in &result.denials {
                eprintln!("denied: {}: {}", denial.tool, text::clean(&denial.reason));
                if let Some(rule) = &denial.grant {
                    eprintln!("        to allow exactly this: --allow {}", quoted(rule));
                }
            }
            if let Some(error) = &error {
                eprintln!("error: {}", text::clean(error));
            }
            return kind.code();
        }
        let value: Value = json!({
            "type": "result",
            "status": kind.status(),
            "exit_code": kind.code(),
            "answer": answer,
            "session": self.session,
            "turns": result.turns,
            "rounds": rounds.map(|(count, _)| count),
            "usage": result.usage,
            "cost_usd": result.cost,
            "tool_calls": result.calls,
            "denials": result.denials,
            "provider": self.provider,
            "model": self.model,
            "mode": self.mode,
            "rung": RUNG,
            "error": error,
        });
        say!("{}", text::json(&value.to_string()));
        kind.code()
    }
}

/// As a word of a shell's command line.
fn quoted(rule: &str) -> String {
    format!("'{}'", text::clean(rule).replace('\'', "'\\''"))
}

fn ending(result: &RunResult) -> (ExitKind, Option<String>) {
    match &result.outcome {
        Outcome::ModelFailed(error) => (ExitKind::Model, Some(error.to_string())),
        Outcome::Refused { .. } => {
            (ExitKind::Model, Some("the model, or its provider, refused to answer".into()))
        }
        Outcome::Cancelled => (ExitKind::Interrupted, Some("interrupted".into())),
        Outcome::TurnLimit { turns } => {
            (ExitKind::Limit, Some(format!("the limit of {turns} turns is reached (--max-turns)")))
        }
        Outcome::CostLimit => {
            (ExitKind::Limit, Some("the cost limit is reached (--max-cost)".into()))
        }
        Outcome::Done { .. } if result.denials.iter().any(|denial| denial.unasked) => {
            (ExitKind::Denied, None)
        }
        Outcome::Done { .. } => (ExitKind::Done, None),
    }
}

fn show_line(event: &AgentEvent, indent: &str) {
    match event {
        AgentEvent::ToolCall { name, arguments, .. } => {
            let what = text::line(&about(arguments), 100);
            eprintln!("{indent}• {} {what}", text::line(name, 40));
        }
        AgentEvent::ToolResult { name, status, output, .. } if *status != ToolStatus::Ok => {
            let word = if *status == ToolStatus::Denied { "denied" } else { "failed" };
            let first = output.lines().next().unwrap_or_default();
            eprintln!("{indent}  {} {word}: {}", text::line(name, 40), text::line(first, 140));
        }
        AgentEvent::Notice { text: notice } => eprintln!("{indent}! {}", text::line(notice, 140)),
        AgentEvent::Task { event, .. } => show_line(event, "      "),
        AgentEvent::Round { number } => eprintln!("zerostack: round {number}"),
        AgentEvent::Text { .. } | AgentEvent::Reasoning { .. } | AgentEvent::ToolResult { .. } => {}
    }
}
