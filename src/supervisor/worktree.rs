//! Worktrees of the user's repository, made, merged and removed by git in a cell: no hook, no filter and no
//! other program that the repository names runs on the host, and in the cell they are switched off.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zerostack_sandbox::{Exit, StartError};

use super::cells::{Cells, Printed};
use super::confine;
use super::host::{Host, HostError, Linked};
use crate::policy::{Groups, Policy};

/// Longest run of one git command.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a merge is tried again because another one came first.
const TRIES: usize = 3;

/// Settings of git by which a repository could name a program, or do what was not asked for.
const SETTINGS: [(&str, &str); 18] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.sshCommand", "false"),
    ("core.editor", "false"),
    ("core.pager", "cat"),
    ("core.alternateRefsCommand", ""),
    ("credential.helper", ""),
    ("commit.gpgSign", "false"),
    ("gpg.program", "false"),
    ("log.showSignature", "false"),
    ("merge.renormalize", "false"),
    ("merge.autoStash", "false"),
    ("submodule.recurse", "false"),
    ("diff.ignoreSubmodules", "all"),
    ("protocol.allow", "never"),
    // It would remove worktrees that are not in the cell.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
];

/// A repository with its main checkout, and the means to run git in it.
#[derive(Debug)]
pub struct Repository<'a> {
    cells: &'a Cells,
    policy: &'a Policy,
    groups: &'a Groups,
    host: &'a Host,
    /// The main checkout, with a `.git` of its own.
    top: PathBuf,
    /// Programs that the repository names, switched off.
    overrides: Vec<(String, String)>,
}

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    pub target: String,
    pub how: How,
    /// The commit that the target is at now.
    pub commit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// There was nothing that the target did not have.
    Nothing,
    FastForward,
    /// Everything as one commit on top of what was new in the target.
    Squash,
}

#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    #[error("there is no git repository here")]
    NoRepository,
    #[error("{0} is a link or a file: start zerostack in the main checkout of the repository")]
    NotMain(PathBuf),
    #[error("{0:?} cannot be the name of a branch")]
    Name(String),
    #[error(
        "{0} is there already and is no worktree of {1}: choose another name, or --wt-base-dir"
    )]
    Occupied(PathBuf, String),
    #[error("cannot make {0}: {1}; --wt-base-dir says where worktrees go")]
    Directory(PathBuf, std::io::Error),
    #[error("the main checkout is on no branch: check one out first")]
    Detached,
    #[error("the main checkout is on {0}: say where to merge to: /wt-merge BRANCH")]
    WhichBranch(String),
    #[error("there is no branch {0}")]
    NoBranch(String),
    #[error("{0} is the branch of this worktree: it cannot be merged into itself")]
    Itself(String),
    #[error("{0} is checked out in {1}: merge there")]
    CheckedOut(String, String),
    #[error("{0} looks like a secret and is in no commit: move it away, or name it in .gitignore")]
    Secret(String),
    #[error("conflicts with {target} in {}: nothing was merged; solve them in the worktree (git merge {target})", .files.join(", "))]
    Conflict { target: String, files: Vec<String> },
    #[error("{0} does not hold what was merged: nothing is removed")]
    NotVerified(String),
    #[error("the worktree has changes that are in no commit: nothing is removed")]
    Dirty,
    #[error("git {0}: {1}")]
    Git(String, String),
    #[error("git did not come to an end in five minutes")]
    Late,
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Host(#[from] HostError),
}

impl Repository<'_> {
    /// The repository that the workspace is in, or was in before it moved to a worktree.
    pub async fn of<'a>(
        cells: &'a Cells,
        policy: &'a Policy,
        groups: &'a Groups,
        host: &'a Host,
    ) -> Result<Repository<'a>, WorktreeError> {
        let top = match &host.linked {
            Some(linked) => linked.top.clone(),
            None if host.workspace.join(".git").exists() => host.workspace.clone(),
            None => host.directories_above().first().cloned().ok_or(WorktreeError::NoRepository)?,
        };
        let git = top.join(".git");
        if !git.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
            return Err(WorktreeError::NotMain(git));
        }
        let overrides = SETTINGS.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let mut repository = Repository { cells, policy, groups, host, top, overrides };
        let named =
            "^(filter|merge|diff)\\..*\\.(clean|smudge|process|required|driver|textconv|command)$";
        let args = ["config", "-z", "--name-only", "--get-regexp", named];
        let found = repository.try_git(&args, None).await?;
        for key in found.out.split('\0').filter(|key| !key.is_empty()) {
            let value = match key.rsplit('.').next() {
                // A driver that fails: what it would have merged is a conflict.
                Some("driver" | "required") => "false",
                _ => "",
            };
            repository.overrides.push((key.to_owned(), value.to_owned()));
        }
        Ok(repository)
    }

    /// The worktree of a branch: the one that is there, or a new one beside the main checkout (or in `base`),
    /// from the commit that is checked out.
    pub async fn enter(&self, name: &str, base: Option<&Path>) -> Result<Linked, WorktreeError> {
        let wrong = || WorktreeError::Name(name.to_owned());
        let checked = self.try_git(&["check-ref-format", "--branch", name], None).await?;
        if name.starts_with('-') || name == "HEAD" || checked.out.trim() != name {
            return Err(wrong());
        }
        let base = base.or(self.top.parent()).unwrap_or(&self.top);
        let base =
            base.canonicalize().map_err(|error| WorktreeError::Directory(base.into(), error))?;
        let own = self.top.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = base.join(format!("{own}-{}", name.replace('/', "-")));
        let linked = Linked {
            branch: name.to_owned(),
            top: self.top.clone(),
            path: path.clone(),
            workspace: self.host.origin().to_owned(),
        };
        if path.symlink_metadata().is_ok() {
            // Only where it would have been made: a path from the repository's own data leads anywhere.
            let known = self.checkouts().await?.contains(&(path.clone(), name.to_owned()));
            return match known && path.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
                true => Ok(linked),
                false => Err(WorktreeError::Occupied(path, own)),
            };
        }
        std::fs::create_dir(&path)
            .map_err(|error| WorktreeError::Directory(path.clone(), error))?;
        let made = self.add(&linked).await;
        if made.is_err() {
            // Only if it is as empty as it was made.
            let _ = std::fs::remove_dir(&path);
        }
        made.map(|()| linked)
    }

    async fn add(&self, linked: &Linked) -> Result<(), WorktreeError> {
        let path = linked.path.to_str().ok_or(WorktreeError::Name(linked.branch.clone()))?;
        let branch = linked.branch.as_str();
        let exists = self.commit_of(branch).await.is_ok();
        let args: &[&str] = match exists {
            true => &["worktree", "add", "--quiet", path, branch],
            false => &["worktree", "add", "--quiet", "--no-track", "-b", branch, path, "HEAD"],
        };
        self.git(args, Some(linked)).await.map(drop)
    }

    /// What is checked out where: directory and branch.
    async fn checkouts(&self) -> Result<Vec<(PathBuf, String)>, WorktreeError> {
        let list = self.git(&["worktree", "list", "--porcelain", "-z"], None).await?;
        let mut found = Vec::new();
        let mut path = PathBuf::new();
        for line in list.split('\0') {
            if let Some(given) = line.strip_prefix("worktree ") {
                path = PathBuf::from(OsStr::from_bytes(given.as_bytes()));
            } else if let Some(branch) = line.strip_prefix("branch refs/heads/") {
                found.push((path.clone(), branch.to_owned()));
            }
        }
        Ok(found)
    }

    /// The branch that is checked out in the main checkout.
    pub async fn present(&self) -> Result<String, WorktreeError> {
        let head = self.try_git(&["symbolic-ref", "--quiet", "--short", "HEAD"], None).await?;
        match head.out.trim() {
            "" => Err(WorktreeError::Detached),
            branch => Ok(branch.to_owned()),
        }
    }

    async fn commit_of(&self, branch: &str) -> Result<String, WorktreeError> {
        let name = format!("refs/heads/{branch}^{{commit}}");
        let found = self.try_git(&["rev-parse", "--verify", "--quiet", &name], None).await?;
        match found.out.trim() {
            "" => Err(WorktreeError::NoBranch(branch.to_owned())),
            commit => Ok(commit.to_owned()),
        }
    }

    async fn is_ancestor(&self, one: &str, other: &str) -> Result<bool, WorktreeError> {
        let args = ["merge-base", "--is-ancestor", one, other];
        Ok(self.try_git(&args, None).await?.exit == Some(Exit::Code(0)))
    }

    /// Commits everything that is in no commit of the worktree yet.
    pub async fn commit(&self, linked: &Linked, message: &str) -> Result<(), WorktreeError> {
        let others = ["ls-files", "--others", "--exclude-standard", "-z"];
        let others = self.git(&others, Some(linked)).await?;
        if let Some(path) = self.groups.secret_among(others.split('\0')) {
            return Err(WorktreeError::Secret(path.to_owned()));
        }
        self.git(&["add", "--all"], Some(linked)).await?;
        let staged = ["diff-index", "--cached", "--quiet", "HEAD", "--"];
        if self.try_git(&staged, Some(linked)).await?.exit == Some(Exit::Code(0)) {
            return Ok(());
        }
        let commit = ["commit", "--quiet", "--no-verify", "--message", message];
        self.git(&commit, Some(linked)).await.map(drop)
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
        let merged = |how, commit| Merged { target: target.to_owned(), how, commit };
        for tries in 1.. {
            let (old, tip) = (self.commit_of(target).await?, self.commit_of(&linked.branch).await?);
            if self.is_ancestor(&tip, &old).await? {
                return Ok(merged(How::Nothing, old));
            }
            let (how, new) = match self.is_ancestor(&old, &tip).await? {
                true => (How::FastForward, tip),
                false => (How::Squash, self.squashed(target, &old, &tip, message).await?),
            };
            match self.advance(target, &old, &new).await {
                Ok(()) => {}
                // Another one may have come first.
                Err(_) if tries < TRIES && self.commit_of(target).await? != old => continue,
                Err(error) => return Err(error),
            }
            if self.commit_of(target).await? != new {
                return Err(WorktreeError::NotVerified(target.to_owned()));
            }
            return Ok(merged(how, new));
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
        let tried = self.try_git(&args, None).await?;
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
        let commit = self.git(&["commit-tree", tree, "-p", old, "-m", message], None).await?;
        Ok(commit.trim().to_owned())
    }

    /// Moves a branch from `old` to `new`, with the files of the main checkout if it is checked out there. What
    /// somebody has changed in them and git would overwrite is refused by git.
    async fn advance(&self, target: &str, old: &str, new: &str) -> Result<(), WorktreeError> {
        let is_here = self.present().await.is_ok_and(|present| present == target);
        if is_here {
            let args = ["merge", "--ff-only", "--no-verify", "--no-stat", "--quiet", new];
            return self.git(&args, None).await.map(drop);
        }
        let elsewhere = self.checkouts().await?.into_iter().find(|(_, branch)| branch == target);
        if let Some((path, branch)) = elsewhere {
            return Err(WorktreeError::CheckedOut(branch, path.display().to_string()));
        }
        let name = format!("refs/heads/{target}");
        self.git(&["update-ref", &name, new, old], None).await.map(drop)
    }

    /// Removes a worktree and its branch. Without `force`, only where everything in it is in a commit, and that
    /// commit in `target`, as it is or as one commit.
    pub async fn remove(
        &self,
        linked: &Linked,
        merged: Option<&Merged>,
        force: bool,
    ) -> Result<(), WorktreeError> {
        let tip = self.commit_of(&linked.branch).await?;
        if !force {
            let status = ["status", "--porcelain", "--ignore-submodules=all"];
            if !self.git(&status, Some(linked)).await?.trim().is_empty() {
                return Err(WorktreeError::Dirty);
            }
            let target = merged.map(|merged| merged.target.as_str()).unwrap_or_default();
            if !self.holds(merged, &tip).await? {
                return Err(WorktreeError::NotVerified(target.to_owned()));
            }
        }
        let path = linked.path.to_str().ok_or(WorktreeError::Name(linked.branch.clone()))?;
        // In its cell the directory is a mount and cannot be removed, but emptied.
        let empty = ["find", path, "-xdev", "-mindepth", "1", "-delete"];
        self.checked(&empty, Some(linked)).await?;
        std::fs::remove_dir(&linked.path)
            .map_err(|error| WorktreeError::Directory(linked.path.clone(), error))?;
        self.git(&["worktree", "remove", "--force", path], None).await?;
        let name = format!("refs/heads/{}", linked.branch);
        self.git(&["update-ref", "-d", &name, &tip], None).await.map(drop)
    }

    /// Whether the target still holds what was merged into it.
    async fn holds(&self, merged: Option<&Merged>, tip: &str) -> Result<bool, WorktreeError> {
        let Some(Merged { target, commit, how }) = merged else { return Ok(false) };
        let now = self.commit_of(target).await?;
        let brought = *how == How::Squash || self.is_ancestor(tip, &now).await?;
        Ok(brought && self.is_ancestor(commit, &now).await?)
    }

    async fn git(&self, args: &[&str], linked: Option<&Linked>) -> Result<String, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.checked(&argv, linked).await
    }

    async fn checked(
        &self,
        argv: &[&str],
        linked: Option<&Linked>,
    ) -> Result<String, WorktreeError> {
        let printed = self.run(argv, linked).await?;
        match printed.exit {
            Some(Exit::Code(0)) => Ok(printed.out),
            _ => Err(failed(&argv[1..], &printed)),
        }
    }

    /// Runs git whatever its exit.
    async fn try_git(
        &self,
        args: &[&str],
        linked: Option<&Linked>,
    ) -> Result<Printed, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.run(&argv, linked).await
    }

    /// Runs a command in a cell that holds the repository. With a worktree, it works in that one and does not see
    /// the files of the main checkout.
    async fn run(&self, argv: &[&str], linked: Option<&Linked>) -> Result<Printed, WorktreeError> {
        let worktree = linked.map(|linked| linked.path.as_path());
        let mut confinement =
            confine::git(self.policy, self.groups, self.host, &self.top, worktree)?;
        let count = self.overrides.len().to_string();
        confinement.environment.push(("GIT_CONFIG_COUNT".into(), count));
        for (number, (key, value)) in self.overrides.iter().enumerate() {
            confinement.environment.push((format!("GIT_CONFIG_KEY_{number}"), key.clone()));
            confinement.environment.push((format!("GIT_CONFIG_VALUE_{number}"), value.clone()));
        }
        if worktree.is_some_and(|path| !path.join(".git").exists()) {
            // It is about to be made: nothing in it leads to the repository yet.
            let git = self.top.join(".git").display().to_string();
            confinement.environment.push(("GIT_DIR".into(), git));
        }
        let argv = argv.iter().map(|part| part.as_bytes().to_vec()).collect();
        let printed = self.cells.output(&confinement, argv, LIMIT).await?;
        if printed.exit.is_none() { Err(WorktreeError::Late) } else { Ok(printed) }
    }
}

fn failed(args: &[&str], printed: &Printed) -> WorktreeError {
    let what = args.first().copied().unwrap_or_default().to_owned();
    let said = if printed.errors.trim().is_empty() { &printed.out } else { &printed.errors };
    WorktreeError::Git(what, said.trim().to_owned())
}
