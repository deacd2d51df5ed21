//! Committing what is in a worktree, and bringing its branch into another.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use zerostack_sandbox::Exit;

use super::cell::{At, failed};
use super::{Repository, WorktreeError};
use crate::supervisor::host::Linked;

/// How long another zerostack that merges in the same repository is waited for.
const TURN: Duration = Duration::from_secs(60);
/// How often a merge is tried again because somebody else's came first.
const TRIES: usize = 3;

/// Prints the first of some paths where there is something else than an empty directory.
const FILLED: &str = r#"
for path; do
  [ -e "$path" ] || [ -L "$path" ] || continue
  [ -d "$path" ] && [ ! -L "$path" ] && [ -z "$(ls -A -- "$path")" ] && continue
  printf %s "$path"
  exit 0
done
"#;

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    pub target: String,
    pub how: How,
    /// The commit that the target is at now.
    pub commit: String,
    /// The commit of the branch that was merged.
    pub(super) tip: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// There was nothing that the target did not have.
    Nothing,
    FastForward,
    /// Everything as one commit on top of what was new in the target.
    Squash,
}

impl Repository<'_> {
    /// Waits until no other zerostack merges in this repository.
    pub async fn turn(&self) -> Result<Flock<File>, WorktreeError> {
        let path = self.host.cache().join("worktrees");
        let wrong = |error| WorktreeError::Directory { doing: "lock", path: path.clone(), error };
        // A file for each repository, which has no other name that is certain.
        let number = self.top.metadata().map_err(wrong)?.ino();
        let path = path.with_extension(number.to_string());
        let begun = Instant::now();
        loop {
            let mut options = File::options();
            let file = options.create(true).append(true).mode(0o600).open(&path).map_err(wrong)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, nix::errno::Errno::EWOULDBLOCK)) if begun.elapsed() < TURN => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(WorktreeError::Busy),
                Err((_, errno)) => return Err(wrong(errno.into())),
            }
        }
    }

    /// Commits everything that is in no commit of the worktree yet.
    pub async fn commit(&self, linked: &Linked, message: &str) -> Result<(), WorktreeError> {
        let at = At::Worktree(linked);
        let unmerged = ["ls-files", "--unmerged", "-z"];
        if self.whole(linked).await?.contains("unfinished")
            || !self.git(&unmerged, at).await?.is_empty()
        {
            return Err(linked.state("a merge, a rebase or the like is not finished in it"));
        }
        let others = ["ls-files", "--others", "--exclude-standard", "-z"];
        let others = self.git(&others, at).await?;
        if let Some(path) = self.groups.secret_among(others.split('\0')) {
            return Err(WorktreeError::Secret(path.to_owned()));
        }
        if let Some(path) = others.split('\0').find(|path| path.ends_with('/')) {
            return Err(WorktreeError::Nested(path.to_owned()));
        }
        // Git would look into a submodule with the settings of that one, and what lies in its place is in no commit.
        if let Some(path) = self.filled_link(linked).await? {
            return Err(WorktreeError::Nested(path));
        }
        self.git(&["add", "--all"], at).await?;
        let staged = [
            "diff-index",
            "--cached",
            "--name-only",
            "-z",
            "--no-renames",
            "--ignore-submodules=none",
            "HEAD",
            "--",
        ];
        let staged = self.git(&staged, at).await?;
        if staged.is_empty() {
            return Ok(());
        }
        if let Some((path, filter)) = self.filtered(&staged, at).await? {
            self.git(&["reset", "--quiet"], at).await?;
            return Err(WorktreeError::Filtered { path, filter });
        }
        let commit = ["commit", "--quiet", "--no-verify", "--message", message];
        self.git(&commit, at).await.map(drop)
    }

    /// A submodule in whose place there is anything but an empty directory.
    pub(super) async fn filled_link(
        &self,
        linked: &Linked,
    ) -> Result<Option<String>, WorktreeError> {
        let at = At::Worktree(linked);
        let staged = self.git(&["ls-files", "--stage", "-z"], at).await?;
        let links = staged.split('\0').filter(|line| line.starts_with("160000 "));
        let links: Vec<&str> = links.filter_map(|line| Some(line.split_once('\t')?.1)).collect();
        if let Some(odd) = links.iter().find(|path| path.contains(char::REPLACEMENT_CHARACTER)) {
            return Err(WorktreeError::Unsupported(format!(
                "{odd} is a submodule whose name is no text"
            )));
        }
        for some in links.chunks(500) {
            let argv = [&["bash", "-c", FILLED, "filled"][..], some].concat();
            let filled = self.checked(&argv, at).await?;
            if !filled.is_empty() {
                return Ok(Some(filled));
            }
        }
        Ok(None)
    }

    /// The first of some paths, as git prints them, whose content git would send through a filter, with the filter's
    /// name. Filters do not run here, and what is not filtered may be what must not be seen.
    async fn filtered(
        &self,
        paths: &str,
        at: At<'_>,
    ) -> Result<Option<(String, String)>, WorktreeError> {
        let paths: Vec<&str> = paths.split('\0').filter(|path| !path.is_empty()).collect();
        for some in paths.chunks(500) {
            let argv = [&["check-attr", "-z", "filter", "--"][..], some].concat();
            let printed = self.git(&argv, at).await?;
            let mut fields = printed.split('\0');
            while let (Some(path), Some(_), Some(value)) =
                (fields.next(), fields.next(), fields.next())
            {
                if !matches!(value, "unspecified" | "unset") {
                    return Ok(Some((path.to_owned(), value.to_owned())));
                }
            }
        }
        Ok(None)
    }

    /// Brings the branch of a worktree into `target`: by moving it forward, or as one commit where it has moved
    /// on. Conflicts change nothing.
    pub async fn merge(
        &self,
        linked: &Linked,
        target: &str,
        message: &str,
    ) -> Result<Merged, WorktreeError> {
        if target == linked.branch {
            return Err(WorktreeError::Itself(target.to_owned()));
        }
        for tries in 1.. {
            let (old, tip) = (self.commit_of(target).await?, self.commit_of(&linked.branch).await?);
            let merged = |how, commit: &str| Merged {
                target: target.to_owned(),
                how,
                commit: commit.to_owned(),
                tip: tip.clone(),
            };
            if self.is_ancestor(&tip, &old).await? {
                return Ok(merged(How::Nothing, &old));
            }
            let (how, new) = match self.is_ancestor(&old, &tip).await? {
                true => (How::FastForward, tip.clone()),
                false => (How::Squash, self.squashed(target, &old, &tip, message).await?),
            };
            match self.advance(target, &old, &new).await {
                Ok(()) => {}
                // Somebody else may have come first.
                Err(_) if tries < TRIES && self.commit_of(target).await? != old => continue,
                Err(error) => return Err(error),
            }
            if self.commit_of(target).await? != new {
                return Err(WorktreeError::NotVerified(target.to_owned()));
            }
            return Ok(merged(how, &new));
        }
        Err(WorktreeError::NotVerified(target.to_owned()))
    }

    /// One commit on `old` with everything that `tip` brings; made without touching a checkout.
    async fn squashed(
        &self,
        target: &str,
        old: &str,
        tip: &str,
        message: &str,
    ) -> Result<String, WorktreeError> {
        let args = ["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", old, tip];
        let tried = self.try_git(&args, At::Main).await?;
        let mut parts = tried.out.split('\0').filter(|part| !part.is_empty());
        let tree = parts.next().unwrap_or_default();
        match tried.exit {
            Some(Exit::Code(0)) => {}
            Some(Exit::Code(1)) => {
                let files = parts.map(str::to_owned).collect();
                return Err(WorktreeError::Conflict { target: target.to_owned(), files });
            }
            _ => return Err(failed(&args, &tried)),
        }
        let commit = self.git(&["commit-tree", tree, "-p", old, "-m", message], At::Main).await?;
        Ok(commit.trim().to_owned())
    }

    /// Moves a branch from `old` to `new`, with the files of the main checkout if it is checked out there. What
    /// somebody has there and git would overwrite is refused by git, ignored files included.
    async fn advance(&self, target: &str, old: &str, new: &str) -> Result<(), WorktreeError> {
        let is_here = self.present().await.is_ok_and(|present| present == target);
        if is_here {
            let changed = ["diff-tree", "-r", "--name-only", "-z", "--no-renames", old, new];
            let changed = self.git(&changed, At::Main).await?;
            if let Some((path, filter)) = self.filtered(&changed, At::Main).await? {
                return Err(WorktreeError::Filtered { path, filter });
            }
            let args = [
                "merge",
                "--ff-only",
                "--no-overwrite-ignore",
                "--no-verify",
                "--no-stat",
                "--quiet",
                new,
            ];
            return self.git(&args, At::Main).await.map(drop);
        }
        let busy = ["rebase-merge", "rebase-apply", "BISECT_START"];
        if busy.iter().any(|name| self.top.join(".git").join(name).exists()) {
            return Err(WorktreeError::State(
                self.top.clone(),
                "a rebase or a bisect is not finished in it",
            ));
        }
        let name = format!("refs/heads/{target}");
        let list = self.git(&["worktree", "list", "--porcelain", "-z"], At::Main).await?;
        let mut path = "";
        for line in list.split('\0') {
            if let Some(given) = line.strip_prefix("worktree ") {
                path = given;
            } else if line.strip_prefix("branch ") == Some(&name) {
                return Err(WorktreeError::CheckedOut(target.to_owned(), path.to_owned()));
            }
        }
        self.git(&["update-ref", &name, new, old], At::Main).await.map(drop)
    }
}
