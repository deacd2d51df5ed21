//! What the commands of the terminal UI do.

use super::{Ui, replay};
use crate::app::prepare::{Plan, Prepared, RUNG, Saved};
use crate::app::{resume, sessions, start};
use crate::cli::{ModeFlags, RunFlags};
use crate::model::Thinking;
use crate::policy::Mode;
use crate::report::Report;
use crate::supervisor::{Broker, Session};
use crate::ui::{Command, term};

impl Ui {
    /// Commands that only look, also while the agent runs.
    pub(super) fn look(&mut self, session: &Session, command: Command, arguments: &str) {
        match command {
            Command::Sessions => match sessions::rows_here(session.broker.host()) {
                Ok(rows) => self.state.page(&rows),
                Err(report) => self.state.notice(&report.message),
            },
            Command::Rename if arguments.is_empty() => self.state.notice("/rename NAME"),
            Command::Rename => session.record.set(|state| state.name = Some(arguments.to_owned())),
            Command::Permissions => self.permissions(session, arguments),
            Command::Sandbox => self.state.page(&enforced(session)),
            Command::Copy => match self.state.last_answer().map(term::copy) {
                Some(Ok(())) => self.state.notice("copied"),
                Some(Err(error)) => self.state.notice(&format!("cannot copy: {error}")),
                None => self.state.notice("there is no answer yet"),
            },
            Command::Export => match sessions::export_to(session.record.path(), arguments) {
                Ok(()) => self.state.notice(&format!("written to {arguments}")),
                Err(report) => self.state.notice(&report.message),
            },
            _ => self.state.notice("not while the agent runs"),
        }
    }

    fn permissions(&mut self, session: &Session, arguments: &str) {
        let broker = &session.broker;
        if let Some(rule) = arguments.strip_prefix("withdraw ") {
            let rule = rule.trim();
            let known = broker.grants().iter().any(|granted| granted == rule);
            broker.withdraw(rule);
            let words = if known { "withdrawn" } else { "no such rule was given in this session" };
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
        mut session: Prepared,
        command: Command,
        arguments: &str,
    ) -> std::io::Result<Prepared> {
        let mut flags = self.flags.clone();
        flags.message.clear();
        let given = Some(arguments.to_owned()).filter(|given| !given.is_empty());
        let facts = &self.state.facts;
        let shown = match (command, &given) {
            (Command::Model, None) => Some(format!("{} {}", facts.provider, facts.model)),
            (Command::Provider, None) => Some(facts.provider.clone()),
            (Command::Mode, None) => {
                let names: Vec<&str> = Mode::ALL.iter().map(|mode| mode.name()).collect();
                Some(format!("{} (of {})", facts.mode, names.join(", ")))
            }
            (Command::Prompt, None) => Some(facts.prompt.clone()),
            (Command::Thinking, None) => {
                Some(format!("{:?}", session.inner.settings.thinking).to_lowercase())
            }
            _ => None,
        };
        if let Some(shown) = shown {
            self.state.notice(&shown);
            return Ok(session);
        }
        match command {
            Command::Model => flags.model = given,
            Command::Provider => flags.go_to_provider(arguments),
            Command::Prompt => flags.load_prompt = given,
            Command::Mode => match Mode::ALL.into_iter().find(|mode| mode.name() == arguments) {
                Some(mode) => flags.mode = ModeFlags::of(mode),
                None => {
                    self.state.notice(&format!("there is no mode {arguments:?}"));
                    return Ok(session);
                }
            },
            Command::Thinking => match <Thinking as clap::ValueEnum>::from_str(arguments, true) {
                Ok(level) => flags.thinking = Some(level),
                Err(_) => {
                    self.state.notice("the levels are auto, off, low, medium, high");
                    return Ok(session);
                }
            },
            Command::New => flags.name = None,
            Command::Undo => {
                session = self.undo(session).await;
                return Ok(session);
            }
            other => {
                self.look(&session.inner, other, arguments);
                return Ok(session);
            }
        }
        match self.remade(session, &flags, command == Command::New).await {
            Ok((remade, notices)) => {
                self.flags = flags;
                if command == Command::New {
                    self.state.clear();
                }
                notices.iter().for_each(|notice| self.state.notice(notice));
                Ok(remade)
            }
            Err((None, report)) => Err(std::io::Error::other(report.to_string())),
            Err((Some(session), report)) => {
                let hint = report.hint.map(|hint| format!("\n{hint}")).unwrap_or_default();
                self.state.notice(&format!("{}{hint}", report.message));
                Ok(*session)
            }
        }
    }

    /// The session under other flags. An error gives it back as it was.
    async fn remade(
        &self,
        session: Prepared,
        flags: &RunFlags,
        anew: bool,
    ) -> Result<(Prepared, Vec<String>), (Option<Box<Prepared>>, Report)> {
        let broker = &session.inner.broker;
        let mut host = broker.host().clone();
        let state = session.inner.record.state();
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
        let saved = match anew.then(|| Saved::open(flags, &host, &project, None)) {
            Some(Err(report)) => return Err((Some(Box::new(session)), report)),
            Some(Ok(saved)) => Some(saved),
            None => None,
        };
        let lost = lost_with(broker);
        let Prepared { inner, provider, context } = session;
        let Session { broker, record, earlier, backend, settings, recorder, .. } = inner;
        let (cells, seen) = broker.dissolve();
        let (journal, earlier) = (record.into_journal(), earlier.into_inner());
        let kept = Saved { journal, state, earlier, seen, warning: None };
        drop((provider, context, settings));
        let saved = saved.unwrap_or(kept);
        let notices = plan.warnings.iter().chain(&saved.warning).cloned().chain(lost).collect();
        // Only the kernel can refuse from here on, and it has held a cell of ours before.
        let made = plan.carry_out(cells, host, saved).await;
        let mut made = made.map_err(|report| (None, report))?;
        made.inner.recorder = recorder;
        if flags.replay.is_some() {
            made.inner.backend = backend;
        }
        Ok((made, notices))
    }

    /// Takes back the last prompt: files first, then what was said.
    async fn undo(&mut self, session: Prepared) -> Prepared {
        let words = match sessions::undo_last(&session.inner).await {
            Ok((words, messages)) => {
                session.inner.earlier.replace(messages.clone());
                self.state.clear();
                replay(&mut self.state, &messages);
                words
            }
            Err(report) => report.message,
        };
        self.state.notice(&words);
        session
    }
}

/// What ends with a broker: it is never taken over by one with other rights.
fn lost_with(broker: &Broker) -> Vec<String> {
    let mut lost = Vec::new();
    let (grants, jobs) = (broker.grants().len(), broker.running_jobs());
    if grants > 0 {
        lost.push(format!("{grants} rules given in this session ended: they are asked again"));
    }
    if jobs > 0 {
        lost.push(format!("{jobs} background commands were ended"));
    }
    lost
}

fn enforced(session: &Session) -> String {
    let enforced = session.broker.enforced();
    let canaries: Vec<&str> =
        enforced.canaries.iter().map(|canary| canary.attempt.as_str()).collect();
    format!(
        "{RUNG} sandbox: every tool call runs in a process of its own that the kernel holds.\n\
         namespaces: {}\nLandlock ABI {}, system call filter of {} instructions\n\
         tried and refused before each start: {}\nnetwork: none in any cell",
        enforced.namespaces.join(", "),
        enforced.landlock_abi,
        enforced.filter_length,
        canaries.join("; "),
    )
}
