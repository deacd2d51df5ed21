//! Worktrees of the user's repository, made, merged and removed by git in a cell. Git does not see the
//! repository's settings there but a copy of the few that say how files are stored: so nothing that the
//! repository names is ever run, neither hook nor filter nor helper, on the host or in the cell.

mod cell;
mod merge;
mod push;
mod remove;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zerostack_sandbox::{Exit, StartError};

use super::cells::Cells;
use super::host::{Host, HostError, Linked};
use crate::policy::{Groups, Mode, Policy, PolicyError};
use cell::{At, text};
pub use merge::{How, Merged};

/// What is looked at of a worktree: the files that tie it to its repository, then words on its state.
const LOOK: &str = r#"
for file in "$1/gitdir" "$1/commondir" "$2/.git"; do
  [ -f "$file" ] && [ ! -L "$file" ] && head -c 4096 "$file"
  printf '\0'
done
[ -f "$1/index" ] || printf 'unmade '
[ -e "$1/locked" ] && printf 'locked '
for name in MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD BISECT_LOG rebase-merge rebase-apply; do
  [ -e "$1/$name" ] && printf 'unfinished '
done
exit 0
"#;

/// A repository with its main checkout, and the means to run git in it.
#[derive(Debug)]
pub struct Repository<'a> {
    cells: &'a Cells,
    /// Git is held by the built-in rights, whatever the session's mode: it is the user who runs it.
    policy: Policy,
    groups: Groups,
    pub(super) host: &'a Host,
    /// The main checkout, with a `.git` of its own.
    pub(super) top: PathBuf,
    /// What git sees as the repository's settings; `None` while they are read.
    pub(super) settings: Option<tempfile::NamedTempFile>,
    /// A copy of the file with the names that the user never wants in a commit.
    ignored: Option<tempfile::NamedTempFile>,
    /// All that its settings say: by key, in small letters.
    pub(super) own: Vec<(String, String)>,
    /// The user's own.
    pub(super) users: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    #[error("there is no git repository here")]
    NoRepository,
    #[error("{0} is a link or a file: start zerostack in the main checkout of the repository")]
    NotMain(PathBuf),
    #[error("the repository cannot have worktrees here: {0}")]
    Unsupported(String),
    #[error("{0:?} cannot be the name of a branch")]
    Name(String),
    #[error("{0} is there already and is no worktree of {1} on that branch: {2}")]
    Occupied(PathBuf, String, String),
    #[error("what was removed lies in {0} still: {1}")]
    Left(PathBuf, Box<WorktreeError>),
    #[error("cannot {doing} {path}: {error}")]
    Directory { doing: &'static str, path: PathBuf, error: std::io::Error },
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
    #[error("{0} looks like a secret and is in no commit: move it out of the worktree")]
    Secret(String),
    #[error("{0} is a repository of its own: its commits would be lost, move it away")]
    Nested(String),
    #[error(
        "{path} goes through the filter {filter}, which does not run here: commit and merge it yourself, with git"
    )]
    Filtered { path: String, filter: String },
    #[error("{0}: {1}")]
    State(PathBuf, &'static str),
    #[error("conflicts with {target} in {}: nothing was merged; in the worktree, `git merge {target}`, solve them and commit", .files.join(", "))]
    Conflict { target: String, files: Vec<String> },
    #[error("{0} does not hold what was merged: nothing is removed")]
    NotVerified(String),
    #[error("{0}: it is kept, --wt-force would remove it")]
    Kept(String),
    #[error("another zerostack is merging in this repository for a minute now")]
    Busy,
    #[error("git {0}: {1}")]
    Git(String, String),
    #[error("git did not come to an end in two minutes")]
    Late,
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("{0}")]
    Policy(#[from] PolicyError),
}

impl Linked {
    /// Where the repository keeps what belongs to the worktree.
    fn own(&self) -> PathBuf {
        self.top.join(".git/worktrees").join(&self.id)
    }

    fn state(&self, what: &'static str) -> WorktreeError {
        WorktreeError::State(self.path.clone(), what)
    }

    /// A ref that says that the branch was made for the worktree, and is removed with it.
    fn made(&self) -> String {
        format!("refs/zerostack/made/{}", self.branch)
    }
}

impl Repository<'_> {
    /// The repository that the workspace is in, or was in before it moved to a worktree.
    pub async fn of<'a>(cells: &'a Cells, host: &'a Host) -> Result<Repository<'a>, WorktreeError> {
        let top = match &host.linked {
            Some(linked) => linked.top.clone(),
            None if host.workspace.join(".git").exists() => host.workspace.clone(),
            None => host.directories_above().first().cloned().ok_or(WorktreeError::NoRepository)?,
        };
        let git = top.join(".git");
        if !git.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
            return Err(WorktreeError::NotMain(git));
        }
        let groups = Groups::load()?;
        let policy = Policy::load(Mode::Standard, &groups)?;
        let (settings, ignored, own, users) = Default::default();
        let mut repository =
            Repository { cells, policy, groups, host, top, settings, ignored, own, users };
        repository.read_settings().await?;
        Ok(repository)
    }

    /// The worktree of a branch: the one that is there, or a new one beside the main checkout (or in `base`),
    /// from the commit that is checked out.
    pub async fn enter(&self, name: &str, base: Option<&Path>) -> Result<Linked, WorktreeError> {
        let checked = self.try_git(&["check-ref-format", "--branch", name], At::Main).await?;
        if name.starts_with('-') || name == "HEAD" || checked.out.trim() != name {
            return Err(WorktreeError::Name(name.to_owned()));
        }
        let base = base.or(self.top.parent()).unwrap_or(&self.top);
        let base = base.canonicalize().map_err(|error| WorktreeError::Directory {
            doing: "use",
            path: base.to_owned(),
            error,
        })?;
        let own = self.top.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = base.join(format!("{own}-{}", name.replace('/', "-")));
        let mut linked = Linked {
            branch: name.to_owned(),
            id: String::new(),
            top: self.top.clone(),
            path: path.clone(),
            workspace: self.host.origin().to_owned(),
        };
        // What an interrupted try has left, if it is nothing.
        let _ = std::fs::remove_dir(&path);
        if path.symlink_metadata().is_ok() {
            let occupied = |why: String| WorktreeError::Occupied(path.clone(), own.clone(), why);
            if !path.symlink_metadata().is_ok_and(|facts| facts.is_dir()) {
                return Err(occupied("it is no directory".into()));
            }
            let known = async {
                linked.id = self.id_of(&linked).await?;
                self.whole(&linked).await
            };
            return match known.await {
                Ok(_) => Ok(linked),
                Err(WorktreeError::State(_, why)) => Err(occupied(why.into())),
                Err(error) => Err(error),
            };
        }
        let exists = self.commit_of(name).await.is_ok();
        if !exists && self.tip("HEAD").await?.is_none() {
            return Err(WorktreeError::Unsupported("it has no commit yet".into()));
        }
        std::fs::create_dir(&path).map_err(|error| WorktreeError::Directory {
            doing: "make (--wt-base-dir says where worktrees go)",
            path: path.clone(),
            error,
        })?;
        let made = self.make(&mut linked, exists).await;
        if made.is_err() {
            // Only if it is as empty as it was made.
            let _ = std::fs::remove_dir(&path);
        }
        made.map(|()| linked)
    }

    async fn make(&self, linked: &mut Linked, exists: bool) -> Result<(), WorktreeError> {
        let path = text(&linked.path)?;
        let branch = linked.branch.as_str();
        let args: &[&str] = match exists {
            true => &["worktree", "add", "--quiet", path, branch],
            false => &["worktree", "add", "--quiet", "--no-track", "-b", branch, path, "HEAD"],
        };
        self.git(args, At::Making(linked)).await?;
        linked.id = self.id_of(linked).await?;
        if exists {
            // Left by a branch of that name which is gone: this one is the user's.
            self.git(&["update-ref", "-d", &linked.made()], At::Main).await?;
        } else {
            let name = format!("refs/heads/{branch}");
            self.git(&["update-ref", &linked.made(), &name], At::Main).await?;
        }
        self.whole(linked).await.map(drop)
    }

    /// The name under which the repository knows a worktree, as the worktree says it.
    async fn id_of(&self, linked: &Linked) -> Result<String, WorktreeError> {
        let file = linked.path.join(".git");
        let script = "[ -f \"$1\" ] && [ ! -L \"$1\" ] && head -c 4096 \"$1\"; exit 0";
        let argv = ["bash", "-c", script, "id", text(&file)?];
        let said = self.checked(&argv, At::Left(&linked.path)).await?;
        let before = format!("gitdir: {}/", text(&self.top.join(".git/worktrees"))?);
        let id = said.trim_end_matches('\n').strip_prefix(&before).unwrap_or_default();
        match id {
            "" | "." | ".." => Err(linked.state("it is not tied to this repository")),
            id if id.contains('/') => Err(linked.state("it is not tied to this repository")),
            id => Ok(id.to_owned()),
        }
    }

    /// Makes sure that a directory is a worktree of this repository, whole, and on its branch. Returns words on its
    /// state.
    async fn whole(&self, linked: &Linked) -> Result<String, WorktreeError> {
        let own = linked.own();
        let argv = ["bash", "-c", LOOK, "look", text(&own)?, text(&linked.path)?];
        let seen = self.checked(&argv, At::Worktree(linked)).await?;
        let parts: Vec<&str> = seen.split('\0').collect();
        let expected = [
            format!("{}/.git", text(&linked.path)?),
            "../..".to_owned(),
            format!("gitdir: {}", text(&own)?),
        ];
        let same =
            parts.iter().zip(&expected).all(|(part, wanted)| part.trim_end_matches('\n') == wanted);
        if parts.len() != 4 || !same {
            return Err(linked.state("it is not tied to this repository"));
        }
        if parts[3].contains("unmade") {
            return Err(
                linked.state("it was not made to its end: `git worktree remove --force` it")
            );
        }
        let head = self.try_git(&["symbolic-ref", "--quiet", "HEAD"], At::Worktree(linked)).await?;
        if head.out.trim() != format!("refs/heads/{}", linked.branch) {
            return Err(linked.state("another commit or branch is checked out in it"));
        }
        Ok(parts[3].to_owned())
    }

    /// The branch that is checked out in the main checkout.
    pub async fn present(&self) -> Result<String, WorktreeError> {
        let head = self.try_git(&["symbolic-ref", "--quiet", "HEAD"], At::Main).await?;
        let branch = head.out.trim().strip_prefix("refs/heads/").ok_or(WorktreeError::Detached)?;
        Ok(branch.to_owned())
    }

    async fn tip(&self, name: &str) -> Result<Option<String>, WorktreeError> {
        let name = format!("{name}^{{commit}}");
        let found = self.try_git(&["rev-parse", "--verify", "--quiet", &name], At::Main).await?;
        Ok(Some(found.out.trim().to_owned()).filter(|commit| !commit.is_empty()))
    }

    async fn commit_of(&self, branch: &str) -> Result<String, WorktreeError> {
        let tip = self.tip(&format!("refs/heads/{branch}")).await?;
        tip.ok_or_else(|| WorktreeError::NoBranch(branch.to_owned()))
    }

    async fn is_ancestor(&self, one: &str, other: &str) -> Result<bool, WorktreeError> {
        let args = ["merge-base", "--is-ancestor", one, other];
        Ok(self.try_git(&args, At::Main).await?.exit == Some(Exit::Code(0)))
    }
}
