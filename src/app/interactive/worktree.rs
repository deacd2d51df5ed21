//! `/worktree`, `/wt-merge` and `/wt-exit`.

use std::future::Future;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};

use super::Ui;
use super::commands::Begin;
use crate::app::prepare::Prepared;
use crate::app::worktree;
use crate::report::Report;
use crate::supervisor::{Host, Linked};
use crate::ui::Command;

impl Ui {
    /// Moves the session into a worktree or back.
    pub(super) async fn worktree(
        &mut self,
        session: Prepared,
        command: Command,
        arguments: &str,
    ) -> std::io::Result<Prepared> {
        let linked = session.inner.broker.host().linked.clone();
        let moved = match (command, linked) {
            (Command::WtMerge, Some(linked)) => {
                return self.merge_back(session, &linked, arguments).await;
            }
            (Command::WtExit, Some(linked)) => {
                let words = format!(
                    "back in the main checkout; /worktree {} goes there again\n{} and its branch stay as \
                     they are",
                    linked.branch,
                    linked.path.display()
                );
                session
                    .inner
                    .broker
                    .host()
                    .returned()
                    .map(|host| (host, words))
                    .map_err(Report::error)
            }
            (Command::WtMerge | Command::WtExit, None) => {
                Err(Report::usage("the session is in no worktree; /worktree NAME makes one"))
            }
            (_, Some(linked)) => Err(Report::usage(format!(
                "the session is in the worktree {} already; /wt-merge or /wt-exit first",
                linked.branch
            ))),
            _ if arguments.is_empty() => Err(Report::usage("/worktree NAME")),
            _ => self.enter(&session, arguments).await?,
        };
        match moved {
            Ok((host, words)) => self.go_to(session, host, &words).await,
            Err(report) => {
                self.refuse(&report);
                Ok(session)
            }
        }
    }

    async fn enter(
        &mut self,
        session: &Prepared,
        name: &str,
    ) -> std::io::Result<Result<(Host, String), Report>> {
        let broker = &session.inner.broker;
        let base = self.flags.worktree.wt_base_dir.clone();
        let entered = worktree::enter(broker.cells(), broker.host(), name, base.as_deref());
        let entered =
            self.patiently("git makes the worktree … (Esc stops it)", true, entered).await?;
        Ok(entered.map(|host| {
            let words = format!("the session works in {} now", host.workspace.display());
            (host, words)
        }))
    }

    /// Waits for git. Where that does no harm, a key of the user's ends it, and the cell that it runs in.
    async fn patiently<T>(
        &mut self,
        words: &str,
        may_stop: bool,
        work: impl Future<Output = Result<T, Report>>,
    ) -> std::io::Result<Result<T, Report>> {
        self.state.hint(words);
        self.draw()?;
        let mut work = std::pin::pin!(work);
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                input = self.keys.next() => match input.transpose()? {
                    Some(Input::Key(key)) if may_stop && stops(&key) => break Err(Report::error("stopped")),
                    None => break Err(Report::error("the terminal is gone")),
                    Some(Input::Resize(..)) => {
                        self.state.resized();
                        self.draw()?;
                    }
                    Some(_) => {}
                },
            }
        };
        self.state.hint("");
        Ok(ended)
    }

    /// The session elsewhere. If it cannot be there, it is as it was.
    async fn go_to(
        &mut self,
        session: Prepared,
        host: Host,
        words: &str,
    ) -> std::io::Result<Prepared> {
        let wanted = host.workspace.clone();
        let mut flags = self.flags.clone();
        (flags.name, flags.message) = (None, Vec::new());
        let session = self.become_another(session, flags, Begin::At(Box::new(host))).await?;
        if session.inner.broker.host().workspace == wanted {
            // Names of files that the user types are meant from there.
            std::env::set_current_dir(&wanted)?;
            self.state.notice(words);
        }
        Ok(session)
    }

    /// Merges, goes back, and only then removes what is not needed any more.
    async fn merge_back(
        &mut self,
        session: Prepared,
        linked: &Linked,
        target: &str,
    ) -> std::io::Result<Prepared> {
        if session.inner.broker.running_jobs() > 0 {
            let words = "background commands could write while it is merged";
            self.refuse(&Report::usage(words).hint("/jobs lists them, /jobs stop N ends one"));
            return Ok(session);
        }
        session.inner.broker.servers().stop_all();
        let merging = async {
            let broker = &session.inner.broker;
            let target = Some(target).filter(|target| !target.is_empty());
            let title = worktree::title(&session.inner);
            let (cells, host) = (broker.cells(), broker.host());
            let turn = worktree::merge(cells, host, linked, target, &title, false).await?;
            Ok::<_, Report>((host.returned().map_err(Report::error)?, turn))
        };
        // Not to be stopped: whether the branch has moved already could not be told.
        let merged = self.patiently("git merges …", false, merging).await?;
        let (home, turn) = match merged {
            Ok(merged) => merged,
            Err(report) => {
                self.refuse(&report);
                return Ok(session);
            }
        };
        self.state.notice(&worktree::words(linked, &turn));
        let broker = &session.inner.broker;
        let pushing = worktree::push(broker.cells(), broker.host(), &turn, session.push);
        match self.patiently("git pushes … (Esc stops it)", true, pushing).await? {
            Ok(words) if words.is_empty() => {}
            Ok(words) => self.state.notice(&words),
            Err(report) => self.state.notice(&format!("not pushed: {}", report.message)),
        }
        let wanted = home.workspace.clone();
        let words = format!("back in {}", wanted.display());
        let session = self.go_to(session, home, &words).await?;
        let broker = &session.inner.broker;
        if broker.host().workspace != wanted {
            return Ok(session);
        }
        let force = self.flags.worktree.wt_force;
        let removing = worktree::remove(broker.cells(), broker.host(), linked, &turn, force);
        match self.patiently("git removes the worktree …", false, removing).await? {
            Ok(()) => self.state.notice("the worktree and its branch are removed"),
            Err(report) => self.refuse(&report),
        }
        Ok(session)
    }
}

fn stops(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.code == KeyCode::Esc || (control && key.code == KeyCode::Char('c'))
}
