//! `zerostack`: the terminal UI over a session. It only connects the two: events of the run go to the
//! screen, what the user wants goes to the session.

mod commands;
mod lists;
mod mcp;
mod memory;
mod said;
mod worktree;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crossterm::event::{Event as Input, KeyEventKind};
use nix::sys::signal::{Signal, raise};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use zerostack_sandbox::Launcher;

use self::commands::{After, Back, count};
use self::said::replay;
use super::prepare::{Opening, Prepared, RUNG};
use super::rounds::{self, Rounds};
use super::sessions::TakenBack;
use super::{history, pick, start, worktree as merging};
use crate::agent::{AgentEvent, Outcome, ToolResult, Verdict};
use crate::cli::RunFlags;
use crate::config::Notify;
use crate::report::Report;
use crate::supervisor::{Host, Question, RunResult, Session};
use crate::ui::term::{self, Keys, Screen};
use crate::ui::{Bindings, Command, Facts, Intent, Running, State, draw, text};

/// How long a question must have been there without a key before a key can be its answer.
pub(super) const SETTLED: Duration = Duration::from_millis(500);
/// Shortest time between two drawings while an answer streams in.
const FRAME: Duration = Duration::from_millis(30);
/// After a run of this length the user may be looking elsewhere.
const LONG: Duration = Duration::from_secs(10);

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
        let host = start::host_of(&flags)?;
        let theme = start::user_settings(&host)?.config.theme;
        match pick::session(&host, &pick::theme(theme.as_deref(), &host, flags.no_color)?).await? {
            Some(id) => flags.session = Some(id),
            None => return Ok(()),
        }
    }
    let mut opening = Opening::begin(launcher, &flags).await?;
    let first_choice = decisions(&mut opening, &mut flags).await?;
    let Some(first_choice) = first_choice else { return Ok(()) };
    let config = &opening.project.resolved.config;
    let theme = pick::theme(config.theme.as_deref(), &opening.host, flags.no_color)?;
    let bindings = Bindings::with(&config.bindings).map_err(|error| {
        Report::error(error).hint("/help and `zerostack config schema` say how keys are given")
    })?;
    let notify = config.notify.unwrap_or_default();
    let config_theme = config.theme.clone().unwrap_or_default();
    let mut notices = opening.project.resolved.warnings.clone();
    let (session, warnings) = opening.session(&flags, false).await?;
    notices.extend(warnings);
    // Only a choice with which a session can begin is remembered.
    notices.extend(first_choice.and_then(|it| pick::remember(&it, session.inner.broker.host())));
    let before = session.inner.earlier.borrow().clone();
    let failed = |error: std::io::Error| Report::error(format!("cannot use the terminal: {error}"));
    let mut ui = Ui {
        screen: Screen::take().map_err(failed)?,
        state: State::new(theme, bindings),
        keys: Keys::take(),
        notify,
        flags,
        back: None,
        taken: Vec::new(),
        theme: config_theme,
        drawn: Instant::now(),
        cost: Duration::ZERO,
    };
    replay(&mut ui.state, &before);
    ui.state.input.remember(history::load(session.inner.broker.host()));
    notices.iter().for_each(|notice| ui.state.notice(notice));
    for file in &session.context {
        let standing = file.standing.words();
        ui.state.notice(&format!("told the model {} ({standing})", file.path.display()));
    }
    let first = Some(ui.flags.message.join(" ")).filter(|first| !first.trim().is_empty());
    let (session, asked) = ui.live(session, first).await.map_err(failed)?;
    let flags = ui.flags.worktree.clone();
    // What is said now is for the terminal as it was before.
    drop(ui);
    let (words, done) = merging::finish(&session.inner, &flags, session.push, asked).await;
    if !words.is_empty() {
        eprintln!("zerostack: {}", text::clean(&words));
    }
    if done || !asked { Ok(()) } else { Err(Report::error("the worktree is still there")) }
}

/// Asks what has to be decided before a session can begin: who answers, and whether the project's files
/// are trusted. `None` leaves; else the provider that was chosen, if one was.
async fn decisions(
    opening: &mut Opening,
    flags: &mut RunFlags,
) -> Result<Option<Option<String>>, Report> {
    let theme = opening.project.resolved.config.theme.clone();
    let theme = pick::theme(theme.as_deref(), &opening.host, flags.no_color)?;
    let (Opening { host, project, .. }, mut answered, mut chosen) = (&*opening, false, None);
    if flags.replay.is_none() && pick::needs_provider(project, host, flags.api_key.as_deref()) {
        let Some(provider) = pick::provider(project, host, &theme).await? else { return Ok(None) };
        flags.provider = Some(provider.clone());
        chosen = Some(provider);
        answered = true;
    }
    if pick::needs_trust(project, host) {
        if pick::trust(project, host, &theme).await?.is_none() {
            return Ok(None);
        }
        answered = true;
    }
    if answered {
        opening.again(flags).await?;
    }
    Ok(Some(chosen))
}

struct Ui {
    screen: Screen,
    state: State,
    keys: Keys,
    notify: Notify,
    flags: RunFlags,
    /// The settings that come back after the present prompt.
    back: Option<Back>,
    /// What was taken back since the last prompt, the last of it last.
    taken: Vec<TakenBack>,
    /// The name of the colours.
    theme: String,
    drawn: Instant,
    /// How long that took: the next one waits in proportion.
    cost: Duration,
}

/// What is to be done while the screen lives.
pub(super) enum Work {
    Prompt(String),
    Shorten,
    Shell(String),
    Loop(Rounds),
    /// A question that is no part of the conversation.
    Aside(String),
}

enum Done {
    Run(RunResult),
    Shell(ToolResult),
    Loop(rounds::Ended),
    Aside(Result<String, String>),
    Stopped,
}

struct Ended {
    /// The program is to end.
    gone: bool,
    /// It came to its own end.
    well: bool,
}

/// Something that is waited for beside a run.
type Beside<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

async fn beside<T>(waiting: &mut Option<Beside<'_, T>>) -> Option<T> {
    Some(waiting.as_mut()?.await)
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
        let (state, begun) = (&self.state, Instant::now());
        self.screen.terminal.draw(|frame| draw(frame, state))?;
        self.drawn = Instant::now();
        self.cost = begun.elapsed();
        Ok(())
    }

    /// From one thing the user wants to the next. Returns the session, and whether the user wanted to leave.
    async fn live(
        &mut self,
        first_session: Prepared,
        first: Option<String>,
    ) -> std::io::Result<(Prepared, bool)> {
        let mut session = first_session;
        let mut end = std::pin::pin!(ended()?);
        let mut next = first.map(Intent::Prompt);
        self.know(&session).await;
        loop {
            self.draw()?;
            let intent = match next.take() {
                Some(intent) => intent,
                None => {
                    let waited = tokio::select! {
                        input = self.keys.next() => self.input(input)?,
                        () = &mut end => Next::Gone,
                    };
                    match waited {
                        Next::Intent(intent) => intent,
                        Next::Nothing => continue,
                        Next::Gone => return Ok((session, false)),
                    }
                }
            };
            let work = match intent {
                Intent::Quit => return Ok((session, true)),
                // What a run wants, and what `input` has done already.
                Intent::Cancel
                | Intent::Answer(_)
                | Intent::NextQuestion
                | Intent::Copy(_)
                | Intent::Suspend
                | Intent::Redraw => continue,
                Intent::Edit => {
                    let before = self.state.input.text().to_owned();
                    match self.edit(session.inner.broker.host(), &before) {
                        Ok(text) => self.state.input.set(text.trim_end_matches('\n')),
                        Err(error) => self.state.notice(&format!("the editor failed: {error}")),
                    }
                    continue;
                }
                Intent::Files(part) => {
                    let found = session.inner.broker.files_like(&part).await;
                    self.state.complete_with(&found);
                    continue;
                }
                Intent::Command(command, arguments) => {
                    let after = self.command(session, command, &arguments).await?;
                    session = after.0;
                    self.know(&session).await;
                    match after.1 {
                        After::Nothing => continue,
                        After::Work(work) => work,
                    }
                }
                Intent::Shorten => Work::Shorten,
                Intent::Shell(command) => Work::Shell(command),
                Intent::Prompt(prompt) => {
                    if session.inner.record.id().is_some() {
                        history::add(session.inner.broker.host(), &prompt);
                    }
                    Work::Prompt(prompt)
                }
            };
            let ended = self.run(&mut session.inner, work, end.as_mut()).await?;
            if ended.gone {
                if let Some(back) = &self.back {
                    session.inner.record.set(|state| state.prompt.clone_from(&back.prompt));
                }
                return Ok((session, false));
            }
            session = self.go_back(session).await?;
            self.know(&session).await;
            // After a run that did not go well the user looks first.
            if ended.well {
                next = self.state.queue.pop_front().map(Intent::Prompt);
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
        let (mut texts, mut attached) = (String::new(), Vec::new());
        match &work {
            Work::Prompt(prompt) => match said::attachments(session, &self.state.added).await {
                Ok((more, attachments)) => {
                    self.taken.clear();
                    self.state.said(prompt);
                    for file in std::mem::take(&mut self.state.added) {
                        self.state.notice(&format!("with {file}"));
                    }
                    (texts, attached) = (more, attachments);
                }
                Err(why) => {
                    // Neither it nor what is being written is lost.
                    match self.state.input.is_empty() {
                        true => self.state.input.bring_back(prompt.clone()),
                        false => self.state.queue.push_front(prompt.clone()),
                    }
                    self.state.notice(&format!("{why}\nnothing was sent; /drop leaves a file out"));
                    return Ok(Ended { gone: false, well: false });
                }
            },
            Work::Shell(command) => {
                self.taken.clear();
                self.state.said(&format!("!{command}"));
            }
            Work::Aside(question) => self.state.notice(&format!("aside: {question}")),
            Work::Loop(_) => self.taken.clear(),
            Work::Shorten => {}
        }
        let tell = move |event| drop(tell.send(event));
        let mut cancel = std::pin::pin!(async {
            let _ = stopped.await;
        });
        let rounds = match &work {
            Work::Loop(rounds) => Some(rounds),
            _ => None,
        };
        let mut run = std::pin::pin!(async {
            match &work {
                Work::Prompt(prompt) => {
                    let prompt = format!("{prompt}{texts}");
                    Done::Run(session.run(prompt, attached, &tell, cancel.as_mut()).await)
                }
                Work::Loop(rounds) => Done::Loop(rounds.go(session, &tell, cancel.as_mut()).await),
                Work::Aside(question) => tokio::select! {
                    answer = session.aside(question) => Done::Aside(answer),
                    () = cancel.as_mut() => Done::Stopped,
                },
                Work::Shorten => Done::Run(session.shorten(&tell, cancel.as_mut()).await),
                Work::Shell(command) => tokio::select! {
                    result = session.shell(command) => Done::Shell(result),
                    () = cancel.as_mut() => Done::Stopped,
                },
            }
        });
        let begun = Instant::now();
        // Since when nothing was typed and no other question has come to the front.
        let mut quiet = Instant::now();
        let mut gone = false;
        let mut dirty = true;
        self.state.running = Some(Running::default());
        let mut aside: Option<Beside<'_, Result<String, String>>> = None;
        let mut looking: Option<Beside<'_, Vec<String>>> = None;
        let done = loop {
            // Drawn when something has changed, not more often than the eye can follow.
            let settling = !self.state.questions.is_empty() && !self.state.settled;
            let wait = match (dirty, settling) {
                (true, _) => FRAME.max(self.cost * 4).saturating_sub(self.drawn.elapsed()),
                (false, true) => SETTLED.saturating_sub(quiet.elapsed()),
                (false, false) => Duration::from_secs(1),
            };
            tokio::select! {
                biased;
                done = &mut run => break done,
                input = self.keys.next() => {
                    quiet = Instant::now();
                    let next = self.input(input)?;
                    match next {
                        Next::Intent(Intent::Answer(verdict)) => {
                            if let Some(answer) = answers.pop_front() {
                                let _: Result<(), Verdict> = oneshot::Sender::send(answer, verdict);
                            }
                        }
                        Next::Intent(Intent::NextQuestion) if !answers.is_empty() => {
                            answers.rotate_left(1);
                        }
                        Next::Intent(Intent::Files(part)) => {
                            let broker = &session.broker;
                            looking = Some(Box::pin(async move { broker.files_like(&part).await }));
                        }
                        Next::Intent(Intent::Cancel | Intent::Quit) | Next::Gone => {
                            gone |= !matches!(next, Next::Intent(Intent::Cancel));
                            let _ = stop.take().map(|stop| stop.send(()));
                            // Their calls have ended: nobody waits for these answers.
                            answers.clear();
                        }
                        Next::Intent(Intent::Command(Command::Btw, question)) => {
                            if question.is_empty() || aside.is_some() {
                                self.state.notice("/btw QUESTION, one at a time");
                            } else {
                                self.state.notice(&format!("aside: {question}"));
                                aside =
                                    Some(Box::pin(async move { session.aside(&question).await }));
                            }
                        }
                        Next::Intent(Intent::Command(Command::Loop, what)) if what == "stop" => {
                            let words = match rounds {
                                Some(rounds) => {
                                    rounds.stop();
                                    "the loop ends after this round"
                                }
                                None => "no loop is going",
                            };
                            self.state.notice(words);
                        }
                        Next::Intent(Intent::Command(command, arguments)) => {
                            self.look(session, command, &arguments).await;
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
                Some(found) = beside(&mut looking) => {
                    looking = None;
                    self.state.complete_with(&found);
                    dirty = true;
                }
                Some(answer) = beside(&mut aside) => {
                    aside = None;
                    self.answered_aside(answer);
                    dirty = true;
                }
                Some(Question { approval, answer }) = questions.recv() => {
                    if answers.is_empty() {
                        quiet = Instant::now();
                        self.call("a question waits")?;
                    }
                    self.state.ask(approval);
                    answers.push_back(answer);
                    dirty = true;
                }
                () = tokio::time::sleep(wait), if dirty || settling || told.is_empty() => {
                    let usage = session.record.spent().usage;
                    let tokens = usage.input.saturating_add(usage.output);
                    self.state.running = Some(Running { elapsed: begun.elapsed(), tokens });
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
        // A question aside is waited for, as long as that is wanted.
        while aside.is_some() && !gone {
            self.draw()?;
            tokio::select! {
                Some(answer) = beside(&mut aside) => {
                    aside = None;
                    self.answered_aside(answer);
                }
                input = self.keys.next() => match self.input(input)? {
                    Next::Intent(Intent::Cancel) => {
                        aside = None;
                        self.state.notice("the question aside is not answered");
                    }
                    Next::Intent(Intent::Quit) | Next::Gone => gone = true,
                    _ => {}
                },
                () = &mut end => gone = true,
            }
        }
        self.state.run_ended();
        if begun.elapsed() >= LONG {
            self.call("the run has ended")?;
        }
        let well = match done {
            Done::Run(result) => {
                self.report(&result);
                matches!(result.outcome, Outcome::Done { .. })
            }
            Done::Shell(result) => {
                self.state.ran(result.status, &result.text);
                true
            }
            Done::Loop(ended) => {
                self.report(&ended.result);
                let how = match ended.passed {
                    Some(true) => "the check passed",
                    Some(false) => "the check never passed",
                    None => "the loop has ended",
                };
                let rounds = count(ended.rounds, "round");
                self.state.notice(&format!("{how} after {rounds}"));
                matches!(ended.result.outcome, Outcome::Done { .. })
            }
            Done::Aside(answer) => {
                self.answered_aside(answer);
                true
            }
            Done::Stopped => {
                self.state.notice("stopped");
                false
            }
        };
        Ok(Ended { gone, well })
    }

    fn answered_aside(&mut self, answer: Result<String, String>) {
        match answer {
            Ok(answer) => self.state.aside(&answer),
            Err(why) => self.state.notice(&why),
        }
    }

    /// Opens the user's editor on a text. It runs as the user, as from any shell.
    #[expect(clippy::disallowed_methods, reason = "the user's own editor")]
    fn edit(&mut self, host: &Host, text: &str) -> std::io::Result<String> {
        let variables = ["VISUAL", "EDITOR"].into_iter();
        let editor = variables.filter_map(std::env::var_os).find(|editor| !editor.is_empty());
        let editor = editor.unwrap_or_else(|| "vi".into());
        // Beside the history: no cell and no other user sees it.
        let place = host.history_file().parent().map(Path::to_owned).unwrap_or_default();
        let mut file =
            tempfile::Builder::new().prefix("prompt-").suffix(".md").tempfile_in(place)?;
        file.write_all(text.as_bytes())?;
        // Between two keys nothing reads what is meant for the editor.
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
        paused.and(ended)?;
        // Editors replace files: it is read by its name.
        std::fs::read_to_string(file.path())
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
    async fn know(&mut self, session: &Prepared) {
        let inner = &session.inner;
        let state = inner.record.state();
        let branch = inner.broker.branch().await.unwrap_or_default();
        self.state.facts = Facts {
            mode: inner.broker.policy().name.name().into(),
            rung: RUNG.into(),
            prompts: session.prompts.iter().map(|(name, _)| name.clone()).collect(),
            thinking: format!("{:?}", inner.settings.thinking).to_lowercase(),
            branch: text::line(&branch, 40),
            round: String::new(),
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
            Input::Key(key) => {
                let intent = self.state.key(key);
                return self.own(intent);
            }
            Input::Paste(pasted) => self.state.paste(&pasted),
            Input::Resize(..) => self.state.resized(),
            Input::Mouse(mouse) => {
                let intent = self.state.mouse(mouse);
                return self.own(intent);
            }
            _ => {}
        }
        Ok(Next::Nothing)
    }

    /// Does what concerns the terminal alone, and hands on the rest.
    fn own(&mut self, intent: Option<Intent>) -> std::io::Result<Next> {
        match intent {
            Some(Intent::Copy(text)) => {
                term::copy(&text)?;
                let count = text.chars().count();
                self.state.hint(&format!("{count} characters copied"));
            }
            Some(Intent::Suspend) => {
                self.screen.pause(|| {
                    let _ = raise(Signal::SIGTSTP);
                })?;
            }
            Some(Intent::Redraw) => self.screen.pause(|| ())?,
            Some(intent) => return Ok(Next::Intent(intent)),
            None => {}
        }
        Ok(Next::Nothing)
    }

    /// Calls a user who looks elsewhere, if that is wanted.
    fn call(&self, words: &str) -> std::io::Result<()> {
        match self.notify {
            Notify::Off => Ok(()),
            Notify::Bell => term::call(false, words),
            Notify::Desktop => term::call(true, words),
        }
    }
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
