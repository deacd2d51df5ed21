//! Moving a session into a worktree of its repository, and bringing what was done there back.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::start::{self, start_report};
use crate::cli::WorktreeFlags;
use crate::model::Message;
use crate::report::Report;
use crate::session::State;
use crate::supervisor::{Cells, Host, How, Linked, Merged, Repository, Session, WorktreeError};
use crate::ui::text;

/// What went wrong, for the user.
fn report(error: WorktreeError) -> Report {
    match error {
        WorktreeError::Start(error) => start_report(&error),
        WorktreeError::Host(error) => start::host_report(error),
        WorktreeError::Name(_) | WorktreeError::WhichBranch(_) | WorktreeError::Itself(_) => {
            Report::usage(error)
        }
        error => Report::error(error),
    }
}

/// The worktree that a run wants to work in, if it wants one of its own: branch, and where worktrees go.
pub fn wanted(flags: &WorktreeFlags, resumed: Option<&State>) -> Option<(String, Option<PathBuf>)> {
    let fresh = flags.parallel.then(|| format!("parallel-{}", crate::session::fresh_id()));
    if let Some(branch) = flags.worktree.clone().or(fresh) {
        return Some((branch, flags.wt_base_dir.clone()));
    }
    let (branch, path) = resumed?.worktree.clone()?;
    Some((branch, path.parent().map(Path::to_owned)))
}

/// The host in the worktree of a branch, which is made if it is not there.
pub async fn enter(
    cells: &Cells,
    host: &Host,
    name: &str,
    base: Option<&Path>,
) -> Result<Host, Report> {
    let repository = Repository::of(cells, host).await.map_err(report)?;
    let linked = repository.enter(name, base).await.map_err(report)?;
    host.moved(linked).map_err(start::host_report)
}

/// What was merged. As long as it is there, no other zerostack merges in the repository.
pub struct Turn {
    pub merged: Merged,
    _lock: Flock<File>,
}

/// Brings a worktree's branch into `target`, or into the branch that the main checkout is on. Unless that was
/// typed or is to happen by itself (`unasked`), it must be main or master.
pub async fn merge(
    cells: &Cells,
    host: &Host,
    linked: &Linked,
    target: Option<&str>,
    title: &str,
    unasked: bool,
) -> Result<Turn, Report> {
    let title = text::line(title, 72);
    let title = match title.trim() {
        "" => format!("Work in {}", linked.branch),
        title => title.to_owned(),
    };
    let repository = Repository::of(cells, host).await.map_err(report)?;
    let merging = async {
        let target = match target {
            Some(target) => target.to_owned(),
            None => match repository.present().await? {
                usual if unasked || matches!(usual.as_str(), "main" | "master") => usual,
                other => return Err(WorktreeError::WhichBranch(other)),
            },
        };
        let _lock = repository.turn().await?;
        repository.commit(linked, &title).await?;
        let merged = repository.merge(linked, &target, &title).await?;
        Ok(Turn { merged, _lock })
    };
    merging.await.map_err(report)
}

/// Pushes what was merged, if the user wants that. What became of it, in words; nothing without a remote.
pub async fn push(cells: &Cells, host: &Host, turn: &Turn, wanted: bool) -> Result<String, Report> {
    let repository = Repository::of(cells, host).await.map_err(report)?;
    let Some(remote) = repository.remote_of(&turn.merged.target) else { return Ok(String::new()) };
    let to = format!("{} ({})", remote.shown(), remote.branch);
    if !wanted {
        return Ok(format!("not pushed to {to} (push = true in config.toml would)"));
    }
    Ok(match repository.push(&turn.merged, &remote).await {
        Ok(()) => format!("pushed to {to}"),
        Err(why) => format!("not pushed to {to}: {why}"),
    })
}

/// Removes a worktree after its work was merged.
pub async fn remove(
    cells: &Cells,
    host: &Host,
    linked: &Linked,
    turn: &Turn,
    force: bool,
) -> Result<(), Report> {
    let repository = Repository::of(cells, host).await.map_err(report)?;
    repository.remove(linked, &turn.merged, force).await.map_err(report)
}

/// What a commit of a session's work is called: its name, or the first line of its first prompt.
pub fn title(session: &Session) -> String {
    if let Some(name) = session.record.state().name {
        return name;
    }
    let messages = session.earlier.borrow();
    let first = messages.iter().find_map(|message| match message {
        Message::User { text, .. } => text.lines().find(|line| !line.trim().is_empty()),
        _ => None,
    });
    first.unwrap_or_default().to_owned()
}

/// What a merge did, in words.
pub fn words(linked: &Linked, turn: &Turn) -> String {
    let merged = &turn.merged;
    let (branch, target) = (&linked.branch, &merged.target);
    let commit = merged.commit.get(..10).unwrap_or(&merged.commit);
    match merged.how {
        How::Nothing => format!("{target} has everything of {branch} already"),
        How::FastForward => format!("{target} is moved forward to {branch}, {commit}"),
        How::Squash => format!("{branch} is one commit in {target}, {commit}"),
    }
}

/// At the end of a run in a worktree: brings its work back if that is to happen by itself and the run went
/// well. What is to be said, and whether all is done.
pub async fn finish(
    session: &Session,
    flags: &WorktreeFlags,
    push_wanted: bool,
    well: bool,
) -> (String, bool) {
    // What still runs could write while it is merged.
    session.broker.end_all();
    let (cells, host) = (session.broker.cells(), session.broker.host());
    let Some(linked) = &host.linked else { return (String::new(), true) };
    let kept = format!("the work is in {} on branch {}", linked.path.display(), linked.branch);
    if !(flags.parallel || flags.wt_auto_merge) {
        return (kept, true);
    }
    if !well {
        return (format!("not merged, because the run did not end well; {kept}"), false);
    }
    let turn = match merge(cells, host, linked, None, &title(session), true).await {
        Ok(turn) => turn,
        Err(report) => return (format!("{}; {kept}", report.message), false),
    };
    let mut words = words(linked, &turn);
    match push(cells, host, &turn, push_wanted).await {
        Ok(pushed) if pushed.is_empty() => {}
        Ok(pushed) => words.push_str(&format!("; {pushed}")),
        Err(report) => words.push_str(&format!("; not pushed: {}", report.message)),
    }
    match remove(cells, host, linked, &turn, flags.wt_force).await {
        Ok(()) => {
            session.record.set(|state| state.worktree = None);
            (format!("{words}; the worktree is removed"), true)
        }
        Err(report) => (format!("{words}; the worktree is still there: {}", report.message), true),
    }
}
