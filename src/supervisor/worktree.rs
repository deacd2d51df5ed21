//! Worktrees of the user's repository, made, merged and removed by git in a cell. Git does not see the
//! repository's settings there but a copy of the few that say how files are stored: so nothing that the
//! repository names is ever run, neither hook nor filter nor helper, on the host or in the cell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use zerostack_sandbox::{Exit, StartError};

use super::cells::{Cells, PRINTED_LIMIT, Printed};
use super::confine::{self, GitView};
use super::host::{Host, HostError, Linked};
use crate::policy::{Groups, Mode, Policy, PolicyError};

/// Longest run of one git command.
const LIMIT: Duration = Duration::from_secs(120);
/// How long another zerostack that merges in the same repository is waited for.
const TURN: Duration = Duration::from_secs(60);
/// How often a merge is tried again because somebody else's came first.
const TRIES: usize = 3;

/// Settings of a repository that say how its files are stored; they are kept, every other one is not.
const KEPT: [&str; 12] = [
    "core.repositoryformatversion",
    "core.filemode",
    "core.symlinks",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.logallrefupdates",
    "core.autocrlf",
    "core.eol",
    "core.protectntfs",
    "core.protecthfs",
    "extensions.objectformat",
    "extensions.refstorage",
];
/// Settings without which a repository would be read wrongly, and that are not understood here.
const REFUSED: [(&str, &str); 3] = [
    ("core.worktree", "its files are elsewhere"),
    ("core.sparsecheckout", "only a part of it is checked out"),
    ("extensions.partialclone", "it is a partial clone"),
];
/// Extensions of the format that are understood.
const EXTENSIONS: [&str; 4] = [
    "extensions.objectformat",
    "extensions.refstorage",
    "extensions.noop",
    "extensions.preciousobjects",
];
/// Settings that count here wherever they are made, and what only the user's own files can say.
const ANYWHERE: [&str; 4] = ["user.name", "user.email", "core.excludesfile", "core.autocrlf"];
const USERS: [&str; 1] = ["core.sshcommand"];
/// What git must not do by itself.
const FIXED: [(&str, &str); 10] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.editor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("commit.gpgSign", "false"),
    ("submodule.recurse", "false"),
    // It would remove worktrees that are not in the cell.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
    ("advice.graftFileDeprecated", "false"),
];
/// Ignored directories that are removed with a worktree: what is in them is made again.
const MADE_AGAIN: [&str; 11] = [
    "node_modules",
    "target",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".tox",
    ".gradle",
    ".next",
    ".turbo",
];
const ENVIRONMENT: [(&str, &str); 8] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LC_ALL", "C"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ALLOW_PROTOCOL", ""),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_GRAFT_FILE", "/dev/null"),
];

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

/// What a merge came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    pub target: String,
    pub how: How,
    /// The commit that the target is at now.
    pub commit: String,
    /// The commit of the branch that was merged.
    tip: String,
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

/// Where git works.
#[derive(Clone, Copy)]
pub(super) enum At<'a> {
    /// In the main checkout.
    Main,
    /// In the repository's own directory, with a new worktree to make.
    Making(&'a Linked),
    Worktree(&'a Linked),
    /// In a directory that was a worktree; the repository is not there.
    Left(&'a Path),
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

    /// Reads what is kept of the repository's settings, and of the user's.
    async fn read_settings(&mut self) -> Result<(), WorktreeError> {
        let file = self.top.join(".git/config").display().to_string();
        let own = ["config", "--file", &file, "--no-includes", "-z", "--list"];
        let own = pairs(&self.git(&own, At::Main).await?);
        for (key, why) in REFUSED {
            if own.iter().any(|(known, value)| known == key && value != "false") {
                return Err(WorktreeError::Unsupported(why.into()));
            }
        }
        let strange = |(key, value): &&(String, String)| {
            key.starts_with("extensions.")
                && value != "false"
                && !EXTENSIONS.contains(&key.as_str())
        };
        if let Some((key, _)) = own.iter().find(strange) {
            return Err(WorktreeError::Unsupported(format!("{key} is not understood")));
        }
        if self.top.join(".git/objects/info/alternates").exists() {
            return Err(WorktreeError::Unsupported("its objects are in another repository".into()));
        }
        let mut lines = String::new();
        for (key, value) in own.iter().filter(|(key, _)| KEPT.contains(&key.as_str())) {
            let (section, name) = key.split_once('.').unwrap_or((key, ""));
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            lines.push_str(&format!("[{section}]\n\t{name} = \"{value}\"\n"));
        }
        let wrong = |error| WorktreeError::Directory {
            doing: "write to",
            path: self.host.cache().to_owned(),
            error,
        };
        let mut settings = tempfile::NamedTempFile::new_in(self.host.cache()).map_err(wrong)?;
        settings.write_all(lines.as_bytes()).map_err(wrong)?;
        for key in ANYWHERE.into_iter().chain(USERS) {
            let mut argv = vec!["git", "config", "--includes", "-z"];
            argv.extend(USERS.contains(&key).then_some("--global"));
            argv.extend(key.ends_with("file").then_some("--type=path"));
            argv.extend(["--get", key]);
            let printed = self.run(&argv, At::Main).await?;
            if printed.exit == Some(Exit::Code(0)) {
                self.users.insert(key.into(), printed.out.trim_end_matches('\0').into());
            }
        }
        // Where git looks if nothing is set.
        let usual = self.host.home.join(".config/git/ignore");
        let ignored = self.users.remove("core.excludesfile").map(|path| self.top.join(path));
        let ignored = ignored.unwrap_or(usual);
        // A copy: the file itself may be one that a merge changes.
        let read = ["timeout", "5", "head", "-c", "1000000", "--", text(&ignored)?];
        let read = self.run(&read, At::Main).await?;
        if read.exit == Some(Exit::Code(0)) && !read.out.is_empty() {
            let mut copy = tempfile::NamedTempFile::new_in(self.host.cache()).map_err(wrong)?;
            copy.write_all(read.out.as_bytes()).map_err(wrong)?;
            self.ignored = Some(copy);
        }
        (self.settings, self.own) = (Some(settings), own);
        Ok(())
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
        if !exists {
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

    /// Waits until no other zerostack merges in this repository.
    pub async fn turn(&self) -> Result<Flock<File>, WorktreeError> {
        use std::os::unix::fs::MetadataExt;
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
        // Git would look into a submodule with the settings of that one.
        let links = self.git(&["ls-files", "--stage", "-z"], at).await?;
        let links = links.split('\0').filter(|line| line.starts_with("160000 "));
        let links = links
            .filter_map(|line| Some(format!(":(exclude,literal){}", line.split_once('\t')?.1)));
        let links: Vec<String> = links.collect();
        let mut add = vec!["add", "--all", "--", "."];
        add.extend(links.iter().map(String::as_str));
        self.git(&add, at).await?;
        let staged = [
            "diff-index",
            "--cached",
            "--name-only",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
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

    /// A repository below a worktree's top directory.
    async fn nested(&self, linked: &Linked) -> Result<Option<String>, WorktreeError> {
        let find =
            ["find", text(&linked.path)?, "-mindepth", "2", "-name", ".git", "-print", "-quit"];
        let found = self.checked(&find, At::Worktree(linked)).await?;
        let path = found.trim_end().trim_end_matches("/.git").to_owned();
        Ok(Some(path).filter(|path| !path.is_empty()))
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

    /// Removes a worktree, and its branch if it was made for it. Without `force` only where all that is in it is in
    /// the commit that was merged.
    pub async fn remove(
        &self,
        linked: &Linked,
        merged: &Merged,
        force: bool,
    ) -> Result<(), WorktreeError> {
        let state = self.whole(linked).await?;
        if state.contains("locked") {
            return Err(linked.state("it is locked: `git worktree unlock` it"));
        }
        if !force && let Some(why) = self.needed(linked).await? {
            return Err(WorktreeError::Kept(why));
        }
        let now = self.commit_of(&merged.target).await?;
        let brought = merged.how == How::Squash || self.is_ancestor(&merged.tip, &now).await?;
        let unmoved = self.commit_of(&linked.branch).await? == merged.tip;
        if !(brought && unmoved && self.is_ancestor(&merged.commit, &now).await?) {
            return Err(WorktreeError::NotVerified(merged.target.clone()));
        }
        // Out of its place first, then out of the repository's list: what is interrupted from here on is no
        // worktree that could be gone on with.
        let name = linked.path.file_name().unwrap_or_default().to_string_lossy();
        let aside = linked.path.with_file_name(format!(".{name}.removed-{}", std::process::id()));
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |error| WorktreeError::Directory { doing: "remove", path, error }
        };
        std::fs::rename(&linked.path, &aside).map_err(wrong(&linked.path))?;
        let rest = async {
            self.git(&["worktree", "remove", "--force", text(&linked.path)?], At::Main).await?;
            let made = linked.made();
            if self.tip(&made).await?.is_some() {
                let branch = format!("refs/heads/{}", linked.branch);
                self.git(&["update-ref", "-d", &branch, &merged.tip], At::Main).await?;
                self.git(&["update-ref", "-d", &made], At::Main).await?;
            }
            // In its cell the directory is a mount and cannot be removed, but emptied.
            let empty = ["find", text(&aside)?, "-xdev", "-mindepth", "1", "-delete"];
            self.checked(&empty, At::Left(&aside)).await?;
            std::fs::remove_dir(&aside).map_err(wrong(&aside))
        };
        let rest: Result<(), WorktreeError> = rest.await;
        rest.map_err(|error| WorktreeError::Left(aside.clone(), Box::new(error)))
    }

    /// Why a worktree is not to be removed: something in it is in no commit.
    async fn needed(&self, linked: &Linked) -> Result<Option<String>, WorktreeError> {
        let at = At::Worktree(linked);
        if let Some(path) = self.nested(linked).await? {
            return Ok(Some(format!("{path} is a repository of its own")));
        }
        let status = [
            "status",
            "--porcelain",
            "-z",
            "--no-renames",
            "--ignored=matching",
            "--untracked-files=all",
            "--ignore-submodules=all",
        ];
        let status = self.git(&status, at).await?;
        let is_made_again = |path: &str| {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            path.ends_with('/') && MADE_AGAIN.contains(&name)
        };
        for line in status.split('\0').filter(|line| !line.is_empty()) {
            match line.split_at_checked(3) {
                Some(("!! ", path)) if is_made_again(path) => {}
                Some((_, path)) => return Ok(Some(format!("{path} is in no commit"))),
                None => {}
            }
        }
        // Files that git was told not to look at.
        let hidden = self.git(&["ls-files", "-v", "-z"], at).await?;
        let is_hidden =
            |line: &&str| line.starts_with(|tag: char| tag == 'S' || tag.is_lowercase());
        let hidden = hidden.split('\0').find(is_hidden);
        Ok(hidden
            .map(|line| format!("git was told not to look at {}", line.get(2..).unwrap_or(line))))
    }

    pub(super) async fn git(&self, args: &[&str], at: At<'_>) -> Result<String, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.checked(&argv, at).await
    }

    async fn checked(&self, argv: &[&str], at: At<'_>) -> Result<String, WorktreeError> {
        let printed = self.run(argv, at).await?;
        match printed.exit {
            Some(Exit::Code(0)) => Ok(printed.out),
            _ => Err(failed(&argv[1..], &printed)),
        }
    }

    /// Runs git whatever its exit.
    async fn try_git(&self, args: &[&str], at: At<'_>) -> Result<Printed, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.run(&argv, at).await
    }

    /// Runs a command in a cell that holds the repository and one checkout.
    async fn run(&self, argv: &[&str], at: At<'_>) -> Result<Printed, WorktreeError> {
        let git = self.top.join(".git");
        let (view, directory, own) = match at {
            _ if self.settings.is_none() => {
                (GitView::Settings { top: &self.top }, &*self.top, git.clone())
            }
            At::Main => (GitView::Checkout { top: &self.top }, &*self.top, git.clone()),
            At::Making(linked) => (
                GitView::Worktree { top: &self.top, path: &linked.path },
                &*linked.path,
                git.clone(),
            ),
            At::Worktree(linked) => (
                GitView::Worktree { top: &self.top, path: &linked.path },
                &*linked.path,
                linked.own(),
            ),
            At::Left(path) => (GitView::Directory { path }, path, git.clone()),
        };
        let settings = self.settings.as_ref().map(tempfile::NamedTempFile::path);
        let ignored = self.ignored.as_ref().map(tempfile::NamedTempFile::path);
        let mut confinement =
            confine::git(&self.policy, &self.groups, self.host, view, settings, ignored)?;
        confinement.directory = directory.to_owned();
        let mut set = |name: &str, value: &str| {
            confinement.environment.retain(|(known, _)| known != name);
            confinement.environment.push((name.to_owned(), value.to_owned()));
        };
        for (name, value) in ENVIRONMENT {
            // The user's settings are what is read here.
            if settings.is_some() || name != "GIT_CONFIG_GLOBAL" {
                set(name, value);
            }
        }
        if settings.is_some() {
            set("GIT_DIR", text(&own)?);
            set("GIT_COMMON_DIR", text(&git)?);
            if !matches!(at, At::Making(_)) {
                set("GIT_WORK_TREE", text(directory)?);
            }
        }
        for part in ["AUTHOR", "COMMITTER"]
            .iter()
            .flat_map(|who| ["NAME", "EMAIL"].map(|it| format!("GIT_{who}_{it}")))
        {
            if let Some((_, value)) = self.host.environment.iter().find(|(name, _)| *name == part) {
                set(&part, value);
            }
        }
        let users = self.users.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        // A program; for a push only.
        let users = users.filter(|(key, _)| *key != "core.sshcommand");
        let ignores = ignored.map(|_| ("core.excludesFile", confine::IGNORED));
        let all: Vec<_> = users.chain(FIXED).chain(ignores).collect();
        set("GIT_CONFIG_COUNT", &all.len().to_string());
        for (number, (key, value)) in all.iter().enumerate() {
            set(&format!("GIT_CONFIG_KEY_{number}"), key);
            set(&format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        let argv = argv.iter().map(|part| part.as_bytes().to_vec()).collect();
        // Names that lead git elsewhere, and that no command of ours makes.
        let leads = ["commondir", "config.worktree"].map(|name| git.join(name));
        let absent = leads.iter().filter(|path| path.symlink_metadata().is_err());
        let absent: Vec<&PathBuf> = absent.collect();
        let printed = self.cells.output(&confinement, argv, LIMIT).await?;
        if let Some(path) = absent.into_iter().find(|path| path.symlink_metadata().is_ok()) {
            let _ = std::fs::remove_file(path);
            return Err(WorktreeError::Unsupported(format!("{} was made", path.display())));
        }
        if printed.exit.is_none() {
            return Err(WorktreeError::Late);
        }
        if printed.out.len() as u64 >= PRINTED_LIMIT {
            return Err(WorktreeError::Unsupported("git has too much to say of it".into()));
        }
        Ok(printed)
    }
}

/// Keys and values as `git config -z` prints them.
fn pairs(printed: &str) -> Vec<(String, String)> {
    let pair = |entry: &str| {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        (key.to_owned(), value.to_owned())
    };
    printed.split('\0').filter(|entry| !entry.is_empty()).map(pair).collect()
}

pub(super) fn text(path: &Path) -> Result<&str, WorktreeError> {
    let wrong = || WorktreeError::Unsupported(format!("{} is no valid UTF-8", path.display()));
    path.to_str().ok_or_else(wrong)
}

fn failed(args: &[&str], printed: &Printed) -> WorktreeError {
    let what = args.first().copied().unwrap_or_default().to_owned();
    let said = if printed.errors.trim().is_empty() { &printed.out } else { &printed.errors };
    WorktreeError::Git(what, said.trim().to_owned())
}
