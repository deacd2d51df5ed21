//! Facts about the machine and the user that a policy is applied to, found once at start.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use zerostack_sandbox::{Access, Identity};

use crate::memory::Memory;
use crate::policy::Place;
use crate::wire::Found;

/// Where the session works.
#[derive(Debug, Clone)]
pub struct Host {
    pub home: PathBuf,
    pub workspace: PathBuf,
    /// The workspace, then the added directories.
    pub roots: Vec<Root>,
    /// Our own directories: configuration first, then data, state, cache. No cell ever sees them.
    pub own: [PathBuf; 4],
    /// The environment the user started us with, for the few variables that cells keep.
    pub environment: Vec<(String, String)>,
    /// The worktree that the session has moved to.
    pub linked: Option<Linked>,
}

/// A worktree of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    pub branch: String,
    /// The name under which the repository knows it.
    pub id: String,
    /// The main checkout of the repository.
    pub top: PathBuf,
    /// Where the worktree is.
    pub path: PathBuf,
    /// The workspace in the main checkout, to which the session goes back.
    pub workspace: PathBuf,
}

/// A directory the session works in.
#[derive(Debug, Clone)]
pub struct Root {
    pub path: PathBuf,
    pub identity: Identity,
    /// The most that any mode gives.
    pub access: Access,
    /// Names in it that need protection; empty until it has been looked through.
    pub found: Found,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("HOME is not set to an absolute path; zerostack needs it to know what to hide")]
    NoHome,
    #[error("the working directory cannot be used: {0}")]
    NoDirectory(std::io::Error),
    #[error("{0} is too much for a workspace: start zerostack in a project's directory")]
    TooWide(PathBuf),
    #[error("{0:?}: the paths of workspace and home must be valid UTF-8")]
    NotText(PathBuf),
    #[error("{0} is no directory in the branch {1}; start zerostack in the top directory instead")]
    NotInBranch(PathBuf, String),
    #[error("--add-dir {0}: {1}")]
    AddedDirectory(PathBuf, String),
}

impl Root {
    pub(super) fn new(path: PathBuf, access: Access) -> std::io::Result<Root> {
        let facts = std::fs::metadata(&path)?;
        let identity = Identity { device: facts.dev(), inode: facts.ino() };
        Ok(Root { path, identity, access, found: Found::default() })
    }
}

impl Host {
    /// Looks around from the working directory. `added` are the texts of `--add-dir`.
    pub fn find(
        environment: impl Iterator<Item = (OsString, OsString)>,
        added: &[String],
    ) -> Result<Host, HostError> {
        let workspace = std::env::current_dir().map_err(HostError::NoDirectory)?;
        Host::at(&workspace, environment, added)
    }

    /// Where sessions are kept, for whoever needs nothing else of the host.
    pub fn sessions_of(
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<PathBuf, HostError> {
        let environment = texts(environment);
        let home = home_of(&environment)?;
        Ok(own_directories(&environment, &home)[1].join("sessions"))
    }

    /// The same for another workspace.
    pub fn at(
        workspace: &Path,
        environment: impl Iterator<Item = (OsString, OsString)>,
        added: &[String],
    ) -> Result<Host, HostError> {
        let environment = texts(environment);
        let home = home_of(&environment)?;
        let own = own_directories(&environment, &home);
        // Made now, so that they can be covered: a command that made one could loosen the next session.
        // Where that is not possible, it is not possible for a command either.
        for directory in own.iter().filter(|_| home.is_dir()) {
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        let workspace = workspace.canonicalize().map_err(HostError::NoDirectory)?;
        refuse_wide(&workspace, &home)?;
        if workspace.to_str().is_none() || home.to_str().is_none() {
            return Err(HostError::NotText(workspace));
        }
        let first = Root::new(workspace.clone(), Access::ReadWrite);
        let mut roots = vec![first.map_err(HostError::NoDirectory)?];
        for text in added {
            roots.push(add(text, &home)?);
        }
        Ok(Host { roots, own, home, workspace, environment, linked: None })
    }

    /// The same with the workspace in a worktree. In cells, git can read there what it needs of the repository.
    pub fn moved(&self, linked: Linked) -> Result<Host, HostError> {
        let mut host = self.returned()?;
        let below = linked.workspace.strip_prefix(&linked.top).unwrap_or(Path::new(""));
        let mut workspace = linked.path.clone();
        workspace.extend(below);
        // A directory of the branch may be a link to anywhere.
        if !workspace.is_dir() || workspace.canonicalize().ok().as_ref() != Some(&workspace) {
            return Err(HostError::NotInBranch(below.to_owned(), linked.branch));
        }
        refuse_wide(&workspace, &self.home)?;
        let root = |path: &Path, access| {
            Root::new(path.to_owned(), access).map_err(HostError::NoDirectory)
        };
        host.roots[0] = root(&workspace, Access::ReadWrite)?;
        if below.as_os_str().is_empty() {
            host.roots.push(root(&linked.top.join(".git"), Access::ReadOnly)?);
        }
        host.workspace = workspace;
        host.linked = Some(linked);
        Ok(host)
    }

    /// The same with the workspace where the session began.
    pub fn returned(&self) -> Result<Host, HostError> {
        let mut host = self.clone();
        if let Some(linked) = host.linked.take() {
            let root = Root::new(linked.workspace.clone(), Access::ReadWrite);
            host.roots[0] = root.map_err(HostError::NoDirectory)?;
            let git = linked.top.join(".git");
            host.roots.retain(|root| root.path != git);
            host.workspace = linked.workspace;
        }
        Ok(host)
    }

    /// The workspace, or the one it was before it moved to a worktree.
    pub fn origin(&self) -> &Path {
        self.linked.as_ref().map_or(&self.workspace, |linked| &linked.workspace)
    }

    /// Rules that forbid or ask, with what they say of the main checkout said of the worktree as well.
    pub fn in_worktree(&self, rules: &[String]) -> Vec<String> {
        let mut all = rules.to_vec();
        if let Some(linked) = &self.linked {
            let (top, path) = (linked.top.display().to_string(), linked.path.display().to_string());
            all.extend(
                rules
                    .iter()
                    .filter(|rule| rule.contains(&top))
                    .map(|rule| rule.replace(&top, &path)),
            );
        }
        all
    }

    /// The path in the worktree, if the session is in one, of a path in the main checkout.
    pub fn in_this_worktree(&self, path: &Path) -> PathBuf {
        let of = self.linked.as_ref().and_then(|linked| {
            Some(linked.path.join(path.strip_prefix(&linked.top).ok()?).components().collect())
        });
        of.unwrap_or_else(|| path.to_owned())
    }

    /// The path in the main checkout of a path in a worktree; any other path is what it is.
    pub fn in_main(&self, path: &Path) -> PathBuf {
        let of = self
            .linked
            .as_ref()
            .and_then(|linked| Some(linked.top.join(path.strip_prefix(&linked.path).ok()?)));
        of.unwrap_or_else(|| path.to_owned())
    }

    /// Whether a path is one of our own directories or lies in one, by whatever mount it is reached.
    pub fn is_own(&self, path: &Path) -> bool {
        let identity =
            |path: &Path| std::fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()));
        let own: Vec<_> = self.own.iter().filter_map(|own| identity(own)).collect();
        self.own.iter().any(|own| path.starts_with(own))
            || path.ancestors().filter_map(identity).any(|it| own.contains(&it))
    }

    /// Where files of no lasting value go.
    pub fn cache(&self) -> &Path {
        &self.own[3]
    }

    /// Where the user's configuration of zerostack is.
    pub fn configuration(&self) -> &Path {
        &self.own[0]
    }

    /// Where sessions are kept.
    pub fn sessions(&self) -> PathBuf {
        self.own[1].join("sessions")
    }

    /// Where earlier prompts are kept.
    pub fn history_file(&self) -> PathBuf {
        self.own[2].join("history.jsonl")
    }

    /// What is remembered of this project and of all.
    pub fn memory(&self) -> Memory {
        Memory::new(self.own[1].join("agent/memory"), self.origin())
    }

    /// Where it is kept what was accepted of MCP servers.
    pub fn mcp_file(&self) -> PathBuf {
        self.own[1].join("mcp.json")
    }

    /// Where it is kept what was trusted.
    pub fn trust_file(&self) -> PathBuf {
        self.own[1].join("trust.json")
    }

    /// The directories from the repository's top down to the workspace, it left out. None of them is
    /// the home directory or above it.
    pub fn directories_above(&self) -> Vec<PathBuf> {
        let mut above = Vec::new();
        let mut found = self.workspace.join(".git").exists();
        for directory in self.workspace.ancestors().skip(1) {
            if found || self.home.starts_with(directory) {
                break;
            }
            above.push(directory.to_owned());
            found = directory.join(".git").exists();
        }
        above.reverse();
        if found { above } else { Vec::new() }
    }

    /// The absolute path that is written, whatever links are in it.
    pub fn written(&self, given: &str) -> PathBuf {
        normal(&match given.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None if given == "~" => self.home.clone(),
            None => self.workspace.join(given),
        })
    }

    /// What a path from the model means: absolute, links resolved as far as it exists. Only the
    /// names are looked at.
    pub fn resolve(&self, given: &str) -> Place {
        let path = resolved(&self.written(given), 0);
        let inside = self.roots.iter().filter_map(|root| {
            let rest = path.strip_prefix(&root.path).ok()?;
            // What lies in a repository's own directory is as protected as it is from outside.
            let whole = root.path.ends_with(".git");
            Some(if whole { Path::new(".git").join(rest) } else { rest.to_owned() })
        });
        let inside = inside.min_by_key(|rest| rest.as_os_str().len());
        Place { path, inside }
    }
}

/// The variables that are text.
fn texts(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let utf8 = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    environment.filter_map(utf8).collect()
}

fn path_in(environment: &[(String, String)], name: &str) -> Option<PathBuf> {
    let value = environment.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home_of(environment: &[(String, String)]) -> Result<PathBuf, HostError> {
    let home = path_in(environment, "HOME").ok_or(HostError::NoHome)?;
    Ok(home.canonicalize().unwrap_or(home))
}

/// Our own directories: configuration, data, state, cache.
fn own_directories(environment: &[(String, String)], home: &Path) -> [PathBuf; 4] {
    let own = [
        ("XDG_CONFIG_HOME", ".config"),
        ("XDG_DATA_HOME", ".local/share"),
        ("XDG_STATE_HOME", ".local/state"),
        ("XDG_CACHE_HOME", ".cache"),
    ];
    own.map(|(variable, default)| {
        path_in(environment, variable).unwrap_or(home.join(default)).join("zerostack")
    })
}

fn refuse_wide(path: &Path, home: &Path) -> Result<(), HostError> {
    let wide = home.starts_with(path)
        || [
            "/usr", "/etc", "/var", "/proc", "/sys", "/dev", "/run", "/tmp", "/home", "/root",
            "/opt",
        ]
        .iter()
        .any(|wide| Path::new(wide) == path)
        || ["/proc", "/sys", "/dev"].iter().any(|never| path.starts_with(never));
    if wide { Err(HostError::TooWide(path.to_owned())) } else { Ok(()) }
}

fn add(text: &str, home: &Path) -> Result<Root, HostError> {
    let (text, access) = match text.strip_suffix(":ro") {
        Some(text) => (text, Access::ReadOnly),
        None => (text, Access::ReadWrite),
    };
    let failed = |error: std::io::Error| HostError::AddedDirectory(text.into(), error.to_string());
    let path = Path::new(text).canonicalize().map_err(failed)?;
    if !path.is_dir() {
        return Err(HostError::AddedDirectory(path, "it is not a directory".into()));
    }
    refuse_wide(&path, home)?;
    Root::new(path, access).map_err(failed)
}

/// Folds `.` and `..` without looking at the disk.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Resolves links in the part of the path that exists; a dangling link resolves to where it points.
fn resolved(path: &Path, depth: usize) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.to_owned();
    };
    let parent = resolved(parent, depth);
    match parent.join(name).read_link() {
        Ok(to) if depth < 40 => resolved(&normal(&parent.join(to)), depth + 1),
        _ => parent.join(name),
    }
}
