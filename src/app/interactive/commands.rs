//! What the commands of the terminal UI do.

use std::path::Path;

use clap::Parser;
use zerostack_sandbox::Canary;

use super::said::replay;
use super::{Ui, Work};
use crate::app::prepare::{Plan, Prepared, RUNG, Saved};
use crate::app::resume::{self, Resumed};
use crate::app::rounds::Rounds;
use crate::app::{pick, sessions, start};
use crate::cli::{LoopFlags, ModeFlags, RunFlags};
use crate::model::Thinking;
use crate::policy::{Mode, analyse};
use crate::report::Report;
use crate::session;
use crate::supervisor::{Given, Host, Session};
use crate::tools;
use crate::ui::{Command, term};

const INIT: &str = include_str!("../../../prompts/init.md");
/// What `/review` looks at if nothing is said.
const REVIEW: &str = "Review the changes in the working tree, staged or not. If there are none, review the last commit.";

/// What a command leaves to be done.
pub(super) enum After {
    Nothing,
    Work(Work),
}

/// Where a session under other settings begins.
pub(super) enum Begin {
    /// It is the same one.
    Same,
    /// The same one in another directory.
    At(Box<Host>),
    New,
    /// Another one, and what is to be said of it.
    Other(Box<Resumed>, Option<String>),
}

/// What comes back after a prompt that is asked once under another one.
pub(super) struct Back {
    flags: RunFlags,
    pub prompt: String,
    /// What was given under the mode of before, if the other prompt has a stricter one.
    given: Option<Given>,
}

/// A session under other settings.
struct Remade {
    session: Prepared,
    notices: Vec<String>,
    /// What was given in the session before and is not for this one.
    given: Option<Given>,
}

impl Ui {
    /// Commands that only look, also while the agent runs.
    pub(super) async fn look(&mut self, session: &Session, command: Command, arguments: &str) {
        match command {
            Command::Rename if arguments.is_empty() => self.state.notice("/rename NAME"),
            Command::Rename => {
                session.record.set(|state| state.name = Some(arguments.to_owned()));
                self.state.notice(&format!("this session is called {arguments}"));
            }
            Command::Permissions => self.permissions(session, arguments),
            Command::Sandbox => self.state.page(&enforced(session)),
            Command::Jobs => self.jobs(session, arguments).await,
            Command::Memory => self.memory(session, arguments),
            Command::Mcp => {
                self.mcp(session, arguments, false);
            }
            Command::Diff => self.diff(session).await,
            Command::Theme if arguments.is_empty() => self.list_themes(session),
            Command::Theme => {
                match pick::theme(Some(arguments), session.broker.host(), self.flags.no_color) {
                    Ok(theme) => {
                        self.state.set_theme(theme);
                        arguments.clone_into(&mut self.theme);
                        let words = match self.flags.no_color {
                            true => {
                                "no colours are wanted here (NO_COLOR, or --no-color)".to_owned()
                            }
                            false => format!("to keep it, in config.toml: theme = {arguments:?}"),
                        };
                        self.state.notice(&words);
                    }
                    Err(report) => self.refuse(&report),
                }
            }
            Command::Add => self.add(arguments),
            Command::Drop => {
                let before = self.state.added.len();
                self.state.added.retain(|file| !arguments.is_empty() && file != arguments);
                let gone = before - self.state.added.len();
                self.state.notice(&format!("{gone} files left out"));
            }
            Command::Copy => match self.state.last_answer().as_deref().map(term::copy) {
                Some(Ok(())) => self.state.notice("copied"),
                Some(Err(error)) => self.state.notice(&format!("cannot copy: {error}")),
                None => self.state.notice("there is no answer yet"),
            },
            Command::Export => match sessions::export_to(session.record.path(), arguments) {
                Ok(()) => self.state.notice(&format!("written to {arguments}")),
                Err(report) => self.refuse(&report),
            },
            Command::Loop if arguments == "status" => match self.state.facts.round.as_str() {
                "" => self.state.notice("no loop is going"),
                round => self.state.notice(&format!("the loop is in {round}")),
            },
            Command::Loop if arguments == "stop" => self.state.notice("no loop is going"),
            Command::Loop if arguments.is_empty() => {
                self.state.notice("/loop [--max N] [--run CMD] TASK");
            }
            _ => self.state.notice("not while the agent runs"),
        }
    }

    pub(super) fn refuse(&mut self, report: &Report) {
        let hint = report.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
        self.state.notice(&format!("{}{hint}", report.message));
    }

    fn add(&mut self, arguments: &str) {
        match arguments {
            "" if self.state.added.is_empty() => {
                self.state.notice("nothing is added; /add FILE, or type @ and a part of its name");
            }
            "" => {
                let files = self.state.added.join("\n• ");
                self.state.page(&format!("These go with the next prompt:\n• {files}"));
            }
            // Whether it can be read is found out when it is sent.
            file => self.state.add(file.trim_start_matches('@')),
        }
    }

    /// What tools have changed in this session, file by file, as the files are now.
    async fn diff(&mut self, session: &Session) {
        let loaded = match sessions::loaded(session) {
            Ok(loaded) => loaded,
            Err(report) => return self.refuse(&report),
        };
        let changes = sessions::net_changes(&loaded.turns, usize::MAX);
        if changes.is_empty() {
            return self.state.notice("no tool has changed a file");
        }
        for change in changes {
            let shown = change.path.strip_prefix(&session.broker.host().workspace);
            let shown = shown.unwrap_or(&change.path).display().to_string();
            match session.broker.compare(&change).await {
                Ok(restored) => {
                    let (old, new) = (change.before, restored.back.before);
                    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
                    self.state.changed(&shown, &tools::diff(&shown, &old, &new));
                }
                Err(why) => self.state.notice(&why),
            }
        }
    }

    async fn jobs(&mut self, session: &Session, arguments: &str) {
        let stop = arguments.strip_prefix("stop ");
        let id = match stop.unwrap_or(arguments).trim() {
            "" => None,
            number => match number.parse() {
                Ok(id) => Some(id),
                Err(_) => return self.state.notice("/jobs, /jobs N, or /jobs stop N"),
            },
        };
        match session.broker.jobs(id, stop.is_some()).await {
            Ok(words) => self.state.page(&words),
            Err(words) => self.state.notice(&words),
        }
    }

    fn permissions(&mut self, session: &Session, arguments: &str) {
        let broker = &session.broker;
        if let Some(rule) = arguments.strip_prefix("withdraw ") {
            let rule = rule.trim();
            let words = match session.withdraw(rule) {
                Ok(true) => "withdrawn",
                Ok(false) => "no such rule was given with an answer",
                Err(error) => return self.state.notice(&format!("not withdrawn: {error}")),
            };
            return self.state.notice(words);
        }
        let policy = broker.policy();
        let mut words = format!("Mode {}: {}\n", policy.name, policy.summary);
        let grants = broker.grants();
        match grants.is_empty() {
            true => words.push_str("No rules were given in this session."),
            false => words.push_str(&format!("Given in this session:\n• {}", grants.join("\n• "))),
        }
        self.state.page(&words);
    }

    /// Commands at rest. Those that change settings make the session anew under the new ones; if they
    /// cannot hold, nothing changes.
    pub(super) async fn command(
        &mut self,
        session: Prepared,
        command: Command,
        arguments: &str,
    ) -> std::io::Result<(Prepared, After)> {
        let stay = |session| Ok((session, After::Nothing));
        if arguments.is_empty() {
            match self.list(&session, command).await {
                Ok(true) => return stay(session),
                Ok(false) => {}
                Err(report) => {
                    self.refuse(&report);
                    return stay(session);
                }
            }
        }
        let mut flags = self.flags.clone();
        flags.message.clear();
        // A name was for the session that was begun with it.
        flags.name = None;
        let given = Some(arguments.to_owned()).filter(|given| !given.is_empty());
        let (mut begin, mut accepted) = (Begin::Same, false);
        match command {
            Command::Model => flags.model = given,
            Command::Provider => flags.go_to_provider(arguments),
            Command::Prompt => match arguments.split_once(char::is_whitespace) {
                Some((name, text)) => return self.once(session, name, text.trim()).await,
                None => flags.load_prompt = given,
            },
            Command::Review => {
                let what = given.unwrap_or_else(|| REVIEW.to_owned());
                return self.once(session, "review", &what).await;
            }
            Command::Init => return Ok((session, After::Work(Work::Prompt(INIT.to_owned())))),
            Command::Btw if arguments.is_empty() => {
                self.state.notice("/btw QUESTION");
                return stay(session);
            }
            Command::Btw => return Ok((session, After::Work(Work::Aside(arguments.to_owned())))),
            Command::Loop if !matches!(arguments, "" | "stop" | "status") => {
                return match rounds(arguments) {
                    Ok(rounds) => Ok((session, After::Work(Work::Loop(rounds)))),
                    Err(report) => {
                        self.refuse(&report);
                        stay(session)
                    }
                };
            }
            Command::Mode => match Mode::ALL.into_iter().find(|mode| mode.name() == arguments) {
                Some(mode) => flags.mode = ModeFlags::of(mode),
                None => {
                    self.state.notice(&format!("there is no mode {arguments:?}"));
                    return stay(session);
                }
            },
            Command::Thinking => match <Thinking as clap::ValueEnum>::from_str(arguments, true) {
                Ok(level) => flags.thinking = Some(level),
                Err(_) => {
                    self.state.notice("the levels are auto, off, low, medium, high");
                    return stay(session);
                }
            },
            Command::New => begin = Begin::New,
            Command::Sessions | Command::Import => {
                match self.other_session(&session, command, arguments) {
                    Ok(Some((resumed, notice))) => {
                        let state = &resumed.loaded.state;
                        // What was typed was for another conversation: its own model answers, and
                        // nobody else gets to know it than before.
                        (flags.model, flags.quick_model, flags.load_prompt) = (None, None, None);
                        let elsewhere = state.base_url != session.inner.record.state().base_url;
                        if elsewhere && !state.base_url.is_empty() {
                            (flags.provider, flags.base_url, flags.api_style) = (None, None, None);
                        }
                        begin = Begin::Other(Box::new(resumed), notice);
                    }
                    Ok(None) => return stay(session),
                    Err(report) => {
                        self.refuse(&report);
                        return stay(session);
                    }
                }
            }
            // What was accepted is offered from now on.
            Command::Mcp => accepted = self.mcp(&session.inner, arguments, true),
            Command::Worktree | Command::WtMerge | Command::WtExit => {
                return Ok((self.worktree(session, command, arguments).await?, After::Nothing));
            }
            Command::Memory if arguments.starts_with("edit ") => {
                self.edit_memory(&session.inner, arguments["edit ".len()..].trim());
            }
            Command::Undo => self.take_back(&session.inner, 1).await,
            Command::Redo => self.bring_back(&session.inner).await,
            Command::Rewind => match arguments.parse() {
                Ok(turns @ 1..) => self.take_back(&session.inner, turns).await,
                _ => self.state.notice("/rewind N: how many prompts"),
            },
            other => self.look(&session.inner, other, arguments).await,
        }
        let changes = matches!(
            command,
            Command::Model
                | Command::Provider
                | Command::Prompt
                | Command::Mode
                | Command::Thinking
                | Command::New
                | Command::Sessions
                | Command::Import
        );
        if !changes && !accepted {
            return stay(session);
        }
        Ok((self.become_another(session, flags, begin).await?, After::Nothing))
    }

    /// The session under other flags, or, if that cannot be, as it was.
    pub(super) async fn become_another(
        &mut self,
        session: Prepared,
        flags: RunFlags,
        begin: Begin,
    ) -> std::io::Result<Prepared> {
        let same = matches!(begin, Begin::Same | Begin::At(_));
        let (session, given) = self.try_another(session, flags, begin).await?;
        if let Some(given) = given {
            lost(&given).iter().for_each(|lost| self.state.notice(lost));
        }
        if !same {
            self.state.queue.clear();
            self.state.added.clear();
        }
        Ok(session)
    }

    /// The same; what was given before comes back if it is not for the other one.
    async fn try_another(
        &mut self,
        session: Prepared,
        flags: RunFlags,
        begin: Begin,
    ) -> std::io::Result<(Prepared, Option<Given>)> {
        let same = matches!(begin, Begin::Same | Begin::At(_));
        match self.remade(session, &flags, begin).await {
            Ok(Remade { session, notices, given }) => {
                self.flags = flags;
                if !same {
                    self.taken.clear();
                    self.state.clear();
                    replay(&mut self.state, &session.inner.earlier.borrow());
                }
                notices.iter().for_each(|notice| self.state.notice(notice));
                Ok((session, given))
            }
            Err((None, report)) => Err(std::io::Error::other(report.to_string())),
            Err((Some(session), report)) => {
                self.refuse(&report);
                Ok((*session, None))
            }
        }
    }

    /// Asks once under another prompt.
    async fn once(
        &mut self,
        session: Prepared,
        prompt: &str,
        text: &str,
    ) -> std::io::Result<(Prepared, After)> {
        let before = self.flags.clone();
        let own = session.inner.record.state().prompt;
        let flags = RunFlags { load_prompt: Some(prompt.to_owned()), ..before.clone() };
        let (session, given) = self.try_another(session, flags, Begin::Same).await?;
        if session.inner.record.state().prompt != prompt {
            return Ok((session, After::Nothing));
        }
        // The prompt that is there now comes back afterwards, whatever the files say.
        let flags = RunFlags { load_prompt: Some(own.clone()), ..before };
        self.back = Some(Back { flags, prompt: own, given });
        Ok((session, After::Work(Work::Prompt(text.to_owned()))))
    }

    /// Ends what was asked under another prompt.
    pub(super) async fn go_back(&mut self, session: Prepared) -> std::io::Result<Prepared> {
        let Some(Back { flags, prompt, given }) = self.back.take() else { return Ok(session) };
        let (mut session, newer) = self.try_another(session, flags.clone(), Begin::Same).await?;
        if session.inner.record.state().prompt != prompt {
            // It may have been the stricter one: what is left is one that only looks.
            self.state.notice(&format!("the prompt {prompt} is gone; going on under plan"));
            let plan = RunFlags { load_prompt: Some("plan".into()), ..flags };
            return self.become_another(session, plan, Begin::Same).await;
        }
        let rest = given.and_then(|given| session.inner.broker.take_over(given));
        for given in rest.iter().chain(&newer) {
            lost(given).iter().for_each(|lost| self.state.notice(lost));
        }
        Ok(session)
    }

    /// The session that is wanted, locked; `None` if it is the present one.
    fn other_session(
        &mut self,
        session: &Prepared,
        command: Command,
        arguments: &str,
    ) -> Result<Option<(Resumed, Option<String>)>, Report> {
        let host = session.inner.broker.host();
        let sessions = host.sessions();
        let mut notice = None;
        let id = match command {
            Command::Import if arguments.is_empty() => {
                return Err(Report::usage("/import FILE"));
            }
            Command::Import => {
                let imported = session::import(&sessions, Path::new(arguments), host.origin());
                let (id, damaged) = imported.map_err(Report::error)?;
                notice = (damaged > 0).then(|| format!("{damaged} unreadable lines were left out"));
                id
            }
            _ => session::find(&sessions, arguments).map_err(Report::usage)?.id,
        };
        if session.inner.record.id().as_ref() == Some(&id) {
            self.state.notice("that is this session");
            return Ok(None);
        }
        let resumed = Resumed::open(&session::find(&sessions, &id).map_err(Report::usage)?)?;
        let directory = &resumed.loaded.header.directory;
        let worktree = host.linked.as_ref().map(|linked| &linked.path);
        let others = resumed.loaded.state.worktree.as_ref().map(|(_, path)| path);
        if directory != host.origin() || others != worktree {
            let directory = match others {
                Some(worktree) => worktree.display().to_string(),
                None => directory.display().to_string(),
            };
            return Err(Report::usage(format!("that session works in {directory}"))
                .hint(format!("zerostack --session {id}")));
        }
        Ok(Some((resumed, notice)))
    }

    /// The session under other flags. An error gives it back as it was.
    async fn remade(
        &self,
        session: Prepared,
        flags: &RunFlags,
        begin: Begin,
    ) -> Result<Remade, (Option<Box<Prepared>>, Report)> {
        let broker = &session.inner.broker;
        let mut host = match &begin {
            Begin::At(host) => Host::clone(host),
            _ => broker.host().clone(),
        };
        // What was given in one session, or for one directory, is not for another one.
        let keeps = matches!(begin, Begin::Same);
        let state = match &begin {
            Begin::Other(resumed, _) => resumed.loaded.state.clone(),
            Begin::Same | Begin::At(_) | Begin::New => session.inner.record.state(),
        };
        let planned = async {
            // What was chosen earlier stays, whatever the files say; only what was typed now changes.
            let layer = Some(resume::layer(&state));
            let project = start::project(broker.cells(), &mut host, flags, layer).await?;
            // A recording goes on as it is.
            let unrecorded = RunFlags { record: None, ..flags.clone() };
            let plan = Plan::make(&unrecorded, &host, &project, Some(&state), false)?;
            Ok((project, plan))
        };
        let (project, plan) = match planned.await {
            Ok(planned) => planned,
            Err(report) => return Err((Some(Box::new(session)), report)),
        };
        let mut said = None;
        let opened = match begin {
            Begin::Same | Begin::At(_) => None,
            Begin::New => Some(Saved::open(flags, &host, &project, None)),
            Begin::Other(resumed, notice) => {
                said = notice;
                Some(Saved::open(flags, &host, &project, Some(*resumed)))
            }
        };
        let saved = match opened.transpose() {
            Err(report) => return Err((Some(Box::new(session)), report)),
            Ok(saved) => saved,
        };
        // Servers that could not be met when the session began are not waited for again.
        plan.servers.tried_by(session.inner.broker.servers());
        let Prepared { inner, provider, context, prompts, .. } = session;
        let Session { broker, record, earlier, backend, settings, recorder, .. } = inner;
        let (cells, seen, given) = broker.dissolve();
        let (journal, earlier) = (record.into_journal(), earlier.into_inner());
        let kept = Saved { journal, state, earlier, seen, warning: None };
        drop((provider, context, settings, prompts));
        let saved = saved.unwrap_or(kept);
        let mut notices: Vec<String> =
            plan.warnings.iter().chain(&saved.warning).cloned().chain(said).collect();
        // Only the kernel can refuse from here on, and it has held a cell of ours before.
        let made = plan.carry_out(cells, host, saved).await;
        let mut made = made.map_err(|report| (None, report))?;
        notices.append(&mut made.told);
        made.inner.recorder = recorder;
        if flags.replay.is_some() {
            made.inner.backend = backend;
        }
        let given = if keeps { made.inner.broker.take_over(given) } else { Some(given) };
        Ok(Remade { session: made, notices, given })
    }

    /// Takes back prompts: files first, then what was said.
    async fn take_back(&mut self, session: &Session, turns: usize) {
        match sessions::take_back(session, turns).await {
            Ok((words, taken)) => {
                self.taken.push(taken);
                self.begin_again(session, &words);
            }
            Err(report) => self.refuse(&report),
        }
    }

    async fn bring_back(&mut self, session: &Session) {
        let Some(taken) = self.taken.pop() else {
            return self.state.notice("nothing was taken back since the last prompt");
        };
        match sessions::bring_back(session, &taken).await {
            Ok(words) => self.begin_again(session, &words),
            Err(report) => {
                self.taken.push(taken);
                self.refuse(&report);
            }
        }
    }

    /// Shows the conversation as the session's file has it now, and goes on from there.
    fn begin_again(&mut self, session: &Session, words: &str) {
        match sessions::loaded(session) {
            Ok(loaded) => {
                session.earlier.replace(loaded.messages.clone());
                self.state.clear();
                replay(&mut self.state, &loaded.messages);
                self.state.notice(words);
            }
            Err(report) => self.refuse(&report),
        }
    }
}

/// A loop as it is typed behind `/loop`: flags, then the task.
fn rounds(line: &str) -> Result<Rounds, Report> {
    let shell = analyse(line);
    let words: Option<Vec<String>> = match &shell.commands[..] {
        [words] if shell.plain => words.iter().cloned().collect(),
        _ => None,
    };
    // A task in ordinary words need not be a command line.
    let words = match words {
        Some(words) if line.starts_with('-') => words,
        _ if line.starts_with('-') => {
            return Err(Report::usage("/loop [--max N] [--run \"CMD\"] TASK")
                .hint("put the command, and a task with signs in it, between quotes"));
        }
        _ => vec![line.to_owned()],
    };
    let words = std::iter::once("/loop".to_owned()).chain(words);
    let flags = LoopFlags::try_parse_from(words).map_err(|error| {
        let first = error.to_string();
        let first = first.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Report::usage(first.to_owned()).hint("/loop [--max N] [--run \"CMD\"] [--plan FILE] TASK")
    })?;
    Rounds::new(&flags.task.join(" "), &flags.plan, flags.max, flags.run)
}

/// What ends with the mode or the session that it was given under.
fn lost(given: &Given) -> Vec<String> {
    let (rules, jobs) = given.counts();
    let mut lost = Vec::new();
    if rules > 0 {
        let rules = count(rules as u64, "rule");
        lost.push(format!("{rules} given in this session ended: what they allowed is asked again"));
    }
    if jobs > 0 {
        lost.push(format!("{} ended", count(jobs as u64, "background command")));
    }
    lost
}

/// A number of things in words.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn enforced(session: &Session) -> String {
    let enforced = session.broker.enforced();
    let canary = |canary: &Canary| {
        let reason = std::io::Error::from_raw_os_error(canary.refused_with);
        format!("\n• {}: {reason}", canary.attempt)
    };
    let canaries: String = enforced.canaries.iter().map(canary).collect();
    let policy = session.broker.policy();
    format!(
        "{RUNG} sandbox: every tool call runs in a process of its own that the kernel holds.\n\
         mode {}: {}\nnetwork: none in any cell\nnamespaces: {}\n\
         Landlock ABI {}, system call filter of {} instructions\n\
         tried and refused before each start:{canaries}",
        policy.name,
        policy.summary,
        enforced.namespaces.join(", "),
        enforced.landlock_abi,
        enforced.filter_length,
    )
}
