//! `zerostack`: the terminal UI over a session. It only connects the two: events of the run go to the
//! screen, what the user wants goes to the session.

mod commands;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crossterm::event::{
    Event as Input, EventStream, KeyCode, KeyEventKind, KeyModifiers, MouseEventKind,
};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, raise};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use zerostack_sandbox::Launcher;

use super::prepare::{Plan, Prepared, RUNG, Saved};
use super::resume;
use super::{history, pick, start};
use crate::agent::{AgentEvent, Outcome, ToolResult, ToolStatus, Verdict};
use crate::cli::RunFlags;
use crate::model::{Message, ToolCall};
use crate::policy::Decision;
use crate::report::Report;
use crate::supervisor::{Cells, Grant, Host, Question, RunResult, Session};
use crate::ui::term::Screen;
use crate::ui::{Facts, Intent, State, Theme, draw, text};

/// How long a question must have been there without a key before a key can be its answer.
const SETTLED: Duration = Duration::from_millis(500);
/// Shortest time between two drawings while an answer streams in.
const FRAME: Duration = Duration::from_millis(30);

pub fn run(launcher: Launcher, flags: RunFlags) -> Result<u8, Report> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Report::usage("the terminal UI needs a terminal").hint(
            "answer one prompt with: zerostack -p \"your prompt\"   (without a key: --provider demo)",
        ));
    }
    let runtime = start::runtime()?;
    let ended = runtime.block_on(interactive(launcher, flags));
    runtime.shutdown_background();
    ended.map(|()| 0)
}

async fn interactive(launcher: Launcher, mut flags: RunFlags) -> Result<(), Report> {
    flags.no_color |= std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::mem::take(&mut flags.resume) {
        match pick::session(&start::host_of(&flags)?, flags.no_color).await? {
            Some(id) => flags.session = Some(id),
            None => return Ok(()),
        }
    }
    let (mut host, resumed) = resume::place(&flags)?;
    let cells = Cells::new(launcher);
    let project = start::project(
        &cells,
        &mut host,
        &flags,
        resumed.as_ref().map(|resumed| resume::layer(&resumed.loaded.state)),
    )
    .await?;
    let mut notices: Vec<String> = project.resolved.warnings.clone();
    let state = resumed.as_ref().map(|resumed| &resumed.loaded.state);
    let plan = Plan::make(&flags, &host, &project, state, false)?;
    notices.extend(plan.warnings.clone());
    let saved = Saved::open(&flags, &host, &project, resumed)?;
    notices.extend(saved.warning.clone());
    let before = saved.earlier.clone();
    let session = plan.carry_out(cells, host, saved).await?;
    let failed = |error: std::io::Error| Report::error(format!("cannot use the terminal: {error}"));
    let mut ui = Ui {
        screen: Screen::take().map_err(failed)?,
        state: State::default(),
        theme: Theme::choose(flags.no_color),
        keys: Some(EventStream::new()),
        flags,
        drawn: Instant::now(),
    };
    replay(&mut ui.state, &before);
    ui.state.input.remember(history::load(session.inner.broker.host()));
    notices.iter().for_each(|notice| ui.state.notice(notice));
    for file in &session.context {
        let trust = if file.trusted { "trusted" } else { "not trusted" };
        ui.state.notice(&format!("told the model {} ({trust})", file.path.display()));
    }
    let first = Some(ui.flags.message.join(" ")).filter(|first| !first.trim().is_empty());
    ui.live(session, first).await.map_err(failed)
}

/// Shows what was said before.
fn replay(state: &mut State, messages: &[Message]) {
    for message in messages {
        match message {
            Message::System { .. } => {}
            Message::User { text, .. } => state.said(text),
            Message::Assistant { text, calls, .. } => {
                if !text.is_empty() {
                    state.on(AgentEvent::Text { text: text.clone() });
                }
                for call in calls {
                    let arguments = serde_json::from_str(&call.arguments).unwrap_or_default();
                    let (id, name) = (call.id.clone(), call.name.clone());
                    state.on(AgentEvent::ToolCall { id, name, arguments });
                }
            }
            Message::Tool { call_id, text, failed, .. } => {
                let status = if *failed { ToolStatus::Error } else { ToolStatus::Ok };
                let (id, output) = (call_id.clone(), text.clone());
                state.on(AgentEvent::ToolResult { id, name: String::new(), status, output });
            }
        }
    }
}

struct Ui {
    screen: Screen,
    state: State,
    theme: Theme,
    keys: Option<EventStream>,
    flags: RunFlags,
    drawn: Instant,
}

async fn next_of(keys: &mut Option<EventStream>) -> Option<std::io::Result<Input>> {
    keys.as_mut()?.next().await
}

/// What is to be done while the screen lives.
enum Work {
    Prompt(String),
    Shorten,
    Shell(String),
}

enum Done {
    Run(RunResult),
    Shell(ToolResult),
    Stopped,
}

struct Ended {
    /// The program is to end.
    gone: bool,
    /// It came to its own end.
    well: bool,
}

/// What ends a wait at the screen.
enum Next {
    Intent(Intent),
    /// Something was drawn, or may have to be.
    Nothing,
    Gone,
}

impl Ui {
    fn draw(&mut self) -> std::io::Result<()> {
        let (state, theme) = (&self.state, &self.theme);
        self.screen.terminal.draw(|frame| draw(frame, state, theme))?;
        self.drawn = Instant::now();
        Ok(())
    }

    /// From one thing the user wants to the next.
    async fn live(
        &mut self,
        first_session: Prepared,
        first: Option<String>,
    ) -> std::io::Result<()> {
        let mut session = first_session;
        let mut end = std::pin::pin!(ended()?);
        let mut next = first.map(Intent::Prompt);
        self.know(&session);
        loop {
            self.draw()?;
            let intent = match next.take() {
                Some(intent) => intent,
                None => {
                    let waited = tokio::select! {
                        input = next_of(&mut self.keys) => self.input(input)?,
                        () = &mut end => Next::Gone,
                    };
                    match waited {
                        Next::Intent(intent) => intent,
                        Next::Nothing => continue,
                        Next::Gone => return Ok(()),
                    }
                }
            };
            match intent {
                Intent::Quit => return Ok(()),
                Intent::Cancel | Intent::Answer(_) => {}
                Intent::Shell(command) => {
                    self.state.said(&format!("!{command}"));
                    let ended =
                        self.run(&mut session.inner, Work::Shell(command), end.as_mut()).await?;
                    if ended.gone {
                        return Ok(());
                    }
                }
                Intent::Edit => {
                    if let Err(error) = self.edit(session.inner.broker.host()) {
                        self.state.notice(&format!("the editor failed: {error}"));
                    }
                }
                Intent::Shorten => {
                    let ended = self.run(&mut session.inner, Work::Shorten, end.as_mut()).await?;
                    self.know(&session);
                    if ended.gone {
                        return Ok(());
                    }
                }
                Intent::Complete(part) => {
                    let found = files(&session.inner, &part).await;
                    self.state.complete_file(&found);
                }
                Intent::Prompt(prompt) => {
                    if session.inner.record.id().is_some() {
                        history::add(session.inner.broker.host(), &prompt);
                    }
                    self.state.said(&prompt);
                    let ended =
                        self.run(&mut session.inner, Work::Prompt(prompt), end.as_mut()).await?;
                    self.know(&session);
                    if ended.gone {
                        return Ok(());
                    }
                    // After a run that did not go well the user looks first.
                    if ended.well {
                        next = self.state.queue.pop_front().map(Intent::Prompt);
                    }
                }
                Intent::Command(command, arguments) => {
                    session = self.command(session, command, &arguments).await?;
                    self.know(&session);
                }
            }
        }
    }

    /// One piece of work, while the screen lives.
    async fn run(
        &mut self,
        session: &mut Session,
        work: Work,
        mut end: Pin<&mut impl Future<Output = ()>>,
    ) -> std::io::Result<Ended> {
        let (tell, mut told) = mpsc::unbounded_channel::<AgentEvent>();
        let (approver, mut questions) = mpsc::unbounded_channel::<Question>();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut stop = Some(stop);
        let mut answers = std::collections::VecDeque::new();
        session.approver = Some(approver);
        let session = &*session;
        let tell = move |event| drop(tell.send(event));
        let mut cancel = std::pin::pin!(async {
            let _ = stopped.await;
        });
        let mut run = std::pin::pin!(async {
            match work {
                Work::Prompt(prompt) => {
                    Done::Run(session.run(prompt, Vec::new(), &tell, cancel.as_mut()).await)
                }
                Work::Shorten => Done::Run(session.shorten(&tell, cancel.as_mut()).await),
                Work::Shell(command) => tokio::select! {
                    result = session.shell(&command) => Done::Shell(result),
                    () = cancel.as_mut() => Done::Stopped,
                },
            }
        });
        let begun = Instant::now();
        // Since when nothing was typed and no other question has come to the front.
        let mut quiet = Instant::now();
        let mut gone = false;
        let mut dirty = true;
        self.state.running = Some(Duration::ZERO);
        let done = loop {
            // Drawn when something has changed, not more often than the eye can follow.
            let settling = !self.state.questions.is_empty() && !self.state.settled;
            let wait = match (dirty, settling) {
                (true, _) => FRAME.saturating_sub(self.drawn.elapsed()),
                (false, true) => SETTLED.saturating_sub(quiet.elapsed()),
                (false, false) => Duration::from_secs(1),
            };
            tokio::select! {
                biased;
                done = &mut run => break done,
                input = next_of(&mut self.keys) => {
                    quiet = Instant::now();
                    let next = self.input(input)?;
                    match next {
                        Next::Intent(Intent::Answer(verdict)) => {
                            if let Some(answer) = answers.pop_front() {
                                let _: Result<(), Verdict> = oneshot::Sender::send(answer, verdict);
                            }
                        }
                        Next::Intent(Intent::Cancel | Intent::Quit) | Next::Gone => {
                            gone |= !matches!(next, Next::Intent(Intent::Cancel));
                            let _ = stop.take().map(|stop| stop.send(()));
                            // Their calls have ended: nobody waits for these answers.
                            answers.clear();
                        }
                        Next::Intent(Intent::Command(command, arguments)) => {
                            self.look(session, command, &arguments);
                        }
                        Next::Intent(_) | Next::Nothing => {}
                    }
                    // Keys are answered at once.
                    self.draw()?;
                    dirty = false;
                }
                () = &mut end, if !gone => {
                    gone = true;
                    let _ = stop.take().map(|stop| stop.send(()));
                }
                Some(Question { approval, answer }) = questions.recv() => {
                    if answers.is_empty() {
                        quiet = Instant::now();
                    }
                    self.state.ask(approval);
                    answers.push_back(answer);
                    dirty = true;
                }
                () = tokio::time::sleep(wait), if dirty || settling || told.is_empty() => {
                    self.state.running = Some(begun.elapsed());
                    self.state.settled |= settling && quiet.elapsed() >= SETTLED;
                    self.draw()?;
                    dirty = false;
                }
                Some(event) = told.recv() => {
                    self.state.on(event);
                    dirty = true;
                }
            }
        };
        while let Ok(event) = told.try_recv() {
            self.state.on(event);
        }
        self.state.run_ended();
        let well = match &done {
            Done::Run(result) => {
                self.report(result);
                matches!(result.outcome, Outcome::Done { .. })
            }
            Done::Shell(result) => {
                self.state.page(&result.text);
                true
            }
            Done::Stopped => {
                self.state.notice("stopped");
                false
            }
        };
        Ok(Ended { gone, well })
    }

    /// Opens the user's editor on the text of the input. It runs as the user, as from any shell.
    #[expect(clippy::disallowed_methods, reason = "the user's own editor")]
    fn edit(&mut self, host: &Host) -> std::io::Result<()> {
        let variables = ["VISUAL", "EDITOR"].into_iter();
        let editor = variables.filter_map(std::env::var_os).find(|editor| !editor.is_empty());
        let editor = editor.unwrap_or_else(|| "vi".into());
        // Beside the history: no cell and no other user sees it.
        let place = host.history_file().parent().map(Path::to_owned).unwrap_or_default();
        let mut file =
            tempfile::Builder::new().prefix("prompt-").suffix(".md").tempfile_in(place)?;
        file.write_all(self.state.input.text().as_bytes())?;
        // It would go on reading what is meant for the editor.
        self.keys = None;
        let mut ended = Ok(());
        let paused = self.screen.pause(|| {
            // What is set there may have arguments, as in `code --wait`: a shell takes it apart.
            let mut script = editor;
            script.push(" \"$@\"");
            let mut shell = std::process::Command::new("sh");
            let status = shell.arg("-c").arg(script).arg("editor").arg(file.path()).status();
            ended = status.and_then(|status| match status.success() {
                true => Ok(()),
                false => Err(std::io::Error::other(status.to_string())),
            });
        });
        self.keys = Some(EventStream::new());
        paused.and(ended)?;
        // Editors replace files: it is read by its name.
        let text = std::fs::read_to_string(file.path())?;
        self.state.input.set(text.trim_end_matches('\n'));
        Ok(())
    }

    fn report(&mut self, result: &RunResult) {
        let words = match &result.outcome {
            Outcome::Done { .. } => return,
            Outcome::Refused { .. } => "the model, or its provider, refused to answer".to_owned(),
            Outcome::TurnLimit { turns } => format!("the limit of {turns} turns is reached"),
            Outcome::CostLimit => "the cost limit is reached".into(),
            Outcome::ModelFailed(error) => error.to_string(),
            Outcome::Cancelled => "interrupted".into(),
        };
        self.state.notice(&words);
    }

    /// What the status line says from now on.
    fn know(&mut self, session: &Prepared) {
        let inner = &session.inner;
        let state = inner.record.state();
        self.state.facts = Facts {
            mode: inner.broker.policy().name.name().into(),
            rung: RUNG.into(),
            provider: text::line(&session.provider, 40),
            model: text::line(&inner.settings.model, 80),
            prompt: text::line(&state.prompt, 40),
            directory: inner.broker.host().workspace.display().to_string(),
            context: inner
                .record
                .filled()
                .zip(inner.settings.window)
                .map(|(used, window)| used.saturating_mul(100) / window.max(1)),
            cost: inner.record.knows_prices().then_some(state.cost),
        };
    }

    fn input(&mut self, input: Option<std::io::Result<Input>>) -> std::io::Result<Next> {
        let Some(input) = input else { return Ok(Next::Gone) };
        match input? {
            Input::Key(key) if key.kind == KeyEventKind::Release => {}
            Input::Key(key)
                if key.code == KeyCode::Char('z')
                    && key.modifiers.contains(KeyModifiers::CONTROL) =>
            {
                self.screen.pause(|| {
                    let _ = raise(Signal::SIGTSTP);
                })?;
            }
            Input::Key(key) => {
                if let Some(intent) = self.state.key(key) {
                    return Ok(Next::Intent(intent));
                }
            }
            Input::Paste(pasted) if self.state.questions.is_empty() || self.state.denying => {
                self.state.input.paste(&pasted);
            }
            Input::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => self.state.scroll_by(3),
                MouseEventKind::ScrollDown => self.state.scroll_by(-3),
                _ => {}
            },
            _ => {}
        }
        Ok(Next::Nothing)
    }
}

/// Files of the workspace with this in their path, found by a worker: only what the policy shows.
async fn files(session: &Session, part: &str) -> Vec<String> {
    let pattern = format!("**/*{}*", globset::escape(part));
    let arguments = serde_json::json!({"pattern": pattern}).to_string();
    let call = ToolCall { id: "complete".into(), name: "find_files".into(), arguments };
    let broker = &session.broker;
    let Ok(subject) = broker.look_at(&call) else { return Vec::new() };
    if !matches!(broker.decide(&call, &subject), Decision::Allow { .. }) {
        return Vec::new();
    }
    let result = broker.execute(&call, &subject, Grant::Unasked, "complete").await.result;
    let lines = result.text.lines().filter(|line| !line.starts_with('(') && *line != "No files.");
    if result.status == ToolStatus::Ok { lines.map(str::to_owned).collect() } else { Vec::new() }
}

/// Completes when the program is asked to end from outside.
pub(super) fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut hangup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
