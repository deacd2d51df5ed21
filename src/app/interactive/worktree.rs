//! `/worktree`, `/wt-merge` and `/wt-exit`.

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
            _ => self.enter(&session, arguments).await,
        };
        match moved {
            Ok((host, words)) => self.go_to(session, host, &words).await,
            Err(report) => {
                self.refuse(&report);
                Ok(session)
            }
        }
    }

    async fn enter(&mut self, session: &Prepared, name: &str) -> Result<(Host, String), Report> {
        self.wait("git makes the worktree …")?;
        let broker = &session.inner.broker;
        let base = self.flags.worktree.wt_base_dir.as_deref();
        let host = worktree::enter(broker.cells(), broker.host(), name, base).await?;
        let words = format!("the session works in {} now", host.workspace.display());
        Ok((host, words))
    }

    fn wait(&mut self, words: &str) -> Result<(), Report> {
        self.state.hint(words);
        self.draw().map_err(Report::error)
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
        let merged = async {
            self.wait("git merges …")?;
            let broker = &session.inner.broker;
            let target = Some(target).filter(|target| !target.is_empty());
            let title = worktree::title(&session.inner);
            let (cells, host) = (broker.cells(), broker.host());
            let merged = worktree::merge(cells, host, linked, target, &title, false).await?;
            Ok::<_, Report>((host.returned().map_err(Report::error)?, merged))
        };
        let (home, merged) = match merged.await {
            Ok(merged) => merged,
            Err(report) => {
                self.refuse(&report);
                return Ok(session);
            }
        };
        let wanted = home.workspace.clone();
        let words = worktree::words(linked, &merged);
        let session = self.go_to(session, home, &words).await?;
        let broker = &session.inner.broker;
        if broker.host().workspace != wanted {
            return Ok(session);
        }
        let force = self.flags.worktree.wt_force;
        match worktree::remove(broker.cells(), broker.host(), linked, &merged, force).await {
            Ok(()) => self.state.notice("the worktree and its branch are removed"),
            Err(report) => {
                self.refuse(&report);
                self.state.notice(&format!("{} is still there", linked.path.display()));
            }
        }
        Ok(session)
    }
}
