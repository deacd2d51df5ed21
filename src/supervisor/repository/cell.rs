//! Git in a cell: what it sees of settings, and where it works.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zerostack_sandbox::Exit;

use super::{Repository, WorktreeError};
use crate::supervisor::cells::{PRINTED_LIMIT, Printed};
use crate::supervisor::confine::{self, GitView};
use crate::supervisor::host::Linked;

/// Longest run of one git command.
const LIMIT: Duration = Duration::from_secs(120);

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
const REFUSED: [(&str, &str); 4] = [
    ("core.sharedrepository", "it is shared with others, who could not use what is made here"),
    ("core.worktree", "its files are elsewhere"),
    ("core.sparsecheckout", "only a part of it is checked out"),
    ("extensions.partialclone", "it is a partial clone"),
];
/// Values that switch one of those off.
const UNSET: [&str; 4] = ["false", "0", "umask", ""];
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

impl Repository<'_> {
    /// Reads what is kept of the repository's settings, and of the user's.
    pub(super) async fn read_settings(&mut self) -> Result<(), WorktreeError> {
        let file = self.top.join(".git/config").display().to_string();
        let own = ["config", "--file", &file, "--no-includes", "-z", "--list"];
        let own = pairs(&self.git(&own, At::Main).await?);
        for (key, why) in REFUSED {
            if own.iter().any(|(known, value)| known == key && !UNSET.contains(&value.as_str())) {
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

    pub(super) async fn git(&self, args: &[&str], at: At<'_>) -> Result<String, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.checked(&argv, at).await
    }

    pub(super) async fn checked(&self, argv: &[&str], at: At<'_>) -> Result<String, WorktreeError> {
        let printed = self.run(argv, at).await?;
        match printed.exit {
            Some(Exit::Code(0)) => Ok(printed.out),
            _ => Err(failed(&argv[1..], &printed)),
        }
    }

    /// Runs git whatever its exit.
    pub(super) async fn try_git(
        &self,
        args: &[&str],
        at: At<'_>,
    ) -> Result<Printed, WorktreeError> {
        let argv: Vec<&str> = std::iter::once("git").chain(args.iter().copied()).collect();
        self.run(&argv, at).await
    }

    /// Runs a command in a cell that holds the repository and one checkout.
    pub(super) async fn run(&self, argv: &[&str], at: At<'_>) -> Result<Printed, WorktreeError> {
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
        if settings.is_none() {
            // Where the user's own settings are, if not in the usual place.
            let places = ["XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL"];
            for (name, value) in
                self.host.environment.iter().filter(|(name, _)| places.contains(&name.as_str()))
            {
                set(name, value);
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
        // A cell has a umask of its own; what is made here is the user's.
        let own = ["bash", "-c", "umask \"$0\" && exec \"$@\"", &umask()];
        let argv = own.iter().chain(argv).map(|part| part.as_bytes().to_vec()).collect();
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

/// The user's umask, in octal.
fn umask() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Where it is not told: nobody else.
    line.map_or("077", str::trim).to_owned()
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

pub(super) fn failed(args: &[&str], printed: &Printed) -> WorktreeError {
    let what = args.first().copied().unwrap_or_default().to_owned();
    let said = if printed.errors.trim().is_empty() { &printed.out } else { &printed.errors };
    WorktreeError::Git(what, said.trim().to_owned())
}
