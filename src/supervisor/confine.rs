//! From a policy and the facts of the host to the confinement of one worker.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, fstat};
use zerostack_sandbox::{Access, Confinement, Identity, Limits, Mount, Network, Source, Syscalls};

use super::git;
use super::host::{Host, HostError, Root};
use crate::policy::{DiskView, Groups, Place, Policy, RootGroup, ViewHome, WorkspaceView};

/// Which rights of a mode a command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Nobody was asked.
    Unasked,
    /// A person, or a rule of the user, said yes to this command.
    Granted,
}

/// What a command of these rights sees of the workspace.
pub fn command_rights(policy: &Policy, rights: Rights) -> WorkspaceView {
    match rights {
        Rights::Unasked => policy.command.unasked,
        Rights::Granted => policy.command.granted,
    }
}

/// Variables that a cell keeps from the user's environment.
const KEPT_VARIABLES: [&str; 22] = [
    "PATH",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "TZ",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "GOROOT",
    "JAVA_HOME",
    "NODE_PATH",
    "VIRTUAL_ENV",
    "PYENV_ROOT",
    "NVM_DIR",
    "VOLTA_HOME",
    "RUSTUP_TOOLCHAIN",
];

/// Memory for private directories and copies where a policy does not limit memory, MiB.
const SCRATCH_MIB: u64 = 4096;

/// A directory or file that was granted to one call of a tool that walks.
#[derive(Debug)]
pub struct Extra {
    path: PathBuf,
    identity: Identity,
    /// The directory that the worker counts from.
    pub root: PathBuf,
}

impl Extra {
    /// `file` is what `place` named when it was opened.
    pub fn new(place: &Place, file: &OwnedFd) -> nix::Result<Extra> {
        let facts = fstat(file)?;
        let directory = SFlag::from_bits_truncate(facts.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        let parent = place.path.parent().unwrap_or(&place.path);
        Ok(Extra {
            path: place.path.clone(),
            identity: Identity { device: facts.st_dev, inode: facts.st_ino },
            root: if directory { place.path.clone() } else { parent.to_owned() },
        })
    }
}

/// The confinement of the file worker: no program, no socket.
pub fn file_worker(
    policy: &Policy,
    groups: &Groups,
    host: &Host,
    extra: Option<&Extra>,
) -> Confinement {
    let mut view = View::new(policy, groups, host);
    if policy.files.disk == DiskView::Host {
        view.roots(&["host".to_owned()]);
    }
    view.workspace(policy.files.workspace, Git::ReadOnly);
    if let Some(Extra { path, identity, .. }) = extra {
        view.mounts.push(tree(path, Some(*identity), Access::ReadOnly));
        for root in &host.roots {
            for secret in &root.found.secrets {
                if let Ok(below) = root.path.join(secret).strip_prefix(path)
                    && !below.as_os_str().is_empty()
                {
                    view.cover(path, below);
                }
            }
        }
    }
    let directory = if view.sees_workspace { host.workspace.clone() } else { "/".into() };
    let calls = Syscalls { exec: false, sockets: false, personality: false };
    view.finish(directory, Network::None, calls, Vec::new())
}

/// The confinement of the worker that looks for names to protect: it must see them, so it can do
/// nothing but list and read. Of the directories `above` it sees the files of `wanted` alone.
pub fn scanner(
    policy: &Policy,
    groups: &Groups,
    host: &Host,
    above: &[PathBuf],
    wanted: &[String],
) -> Confinement {
    let mut view = View::new(policy, groups, host);
    for path in above.iter().flat_map(|directory| wanted.iter().map(|name| directory.join(name))) {
        if let Ok(facts) = std::fs::symlink_metadata(&path)
            && facts.is_file()
        {
            let identity = Identity { device: facts.dev(), inode: facts.ino() };
            view.mounts.push(tree(&path, Some(identity), Access::ReadOnly));
        }
    }
    view.workspace(WorkspaceView::ReadOnly, Git::ReadOnly);
    let calls = Syscalls { exec: false, sockets: false, personality: false };
    view.finish("/".into(), Network::None, calls, Vec::new())
}

/// The confinement of a command cell.
pub fn command(policy: &Policy, groups: &Groups, host: &Host, rights: Rights) -> Confinement {
    let mut view = View::new(policy, groups, host);
    view.roots(&policy.view.roots);
    let scratch = view.scratch_mib();
    let empty =
        |target: PathBuf| Mount::Empty { target, size_mib: scratch, access: Access::ReadWrite };
    // Never the host's: that is where servers of the user leave their sockets.
    view.mounts.push(empty("/tmp".into()));
    if policy.view.home == ViewHome::Empty {
        view.mounts.push(empty(host.home.clone()));
        view.mounts.push(empty("/var/tmp".into()));
    }
    // In order of depth, so that no tree hides another one below it.
    view.mounts.sort_by_key(|mount| mount.target().components().count());
    let git = if policy.view.home == ViewHome::Host { Git::Writable } else { Git::ReadOnly };
    view.workspace(command_rights(policy, rights), git);
    let directory = if view.sees_workspace { host.workspace.clone() } else { "/tmp".into() };
    let network = if policy.view.loopback { Network::Loopback } else { Network::None };
    let calls =
        Syscalls { exec: true, sockets: policy.view.sockets, personality: policy.view.personality };
    view.finish(directory, network, calls, environment(host))
}

/// The confinement of an MCP server: programs and libraries, the workspace to read, and the paths that the user
/// has given it, each with the right to write or not. Given the workspace itself to write, it gets what a command
/// gets after a yes.
pub fn server(
    policy: &Policy,
    groups: &Groups,
    host: &Host,
    paths: &[(PathBuf, bool)],
) -> Result<Confinement, String> {
    let mut view = View::new(policy, groups, host);
    view.roots(&["system".to_owned(), "toolchains".to_owned()]);
    let size_mib = view.scratch_mib();
    for target in [PathBuf::from("/tmp"), "/var/tmp".into(), host.home.clone()] {
        view.mounts.push(Mount::Empty { target, size_mib, access: Access::ReadWrite });
    }
    let mut workspace = match policy.command.granted {
        _ if policy.files.workspace == WorkspaceView::None => WorkspaceView::None,
        _ => WorkspaceView::ReadOnly,
    };
    for (path, write) in paths {
        // In a worktree, what is said of the main checkout is meant of it.
        let path = host.in_this_worktree(path);
        let real = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        let refused = |why: &str| Err(format!("the path {} {why}", path.display()));
        let within = |inner: &Path, outer: &Path| inner.starts_with(outer);
        let tops = host.linked.iter().map(|linked| &linked.top);
        let roots = host.roots.iter().map(|root| &root.path);
        // Above a workspace its secrets and settings would lie open.
        let above = roots.chain(tops).any(|root| real != *root && within(root, &real));
        if host.is_own(&real) || real == Path::new("/") || within(&host.home, &real) || above {
            return refused("is too much for a server");
        }
        if host.roots.iter().any(|root| within(&path, &root.path) != within(&real, &root.path)) {
            return refused("leads out of the workspace, or into it, by a link");
        }
        if real == host.workspace {
            if *write && workspace == WorkspaceView::ReadOnly {
                workspace = policy.command.granted;
            }
            continue;
        }
        if within(&real, &host.workspace) {
            return refused("is a part of the workspace: give the workspace itself, or nothing");
        }
        let access = if *write { Access::ReadWrite } else { Access::ReadOnly };
        view.mounts.push(tree(&real, None, access));
    }
    // In order of depth, so that no tree hides another one below it.
    view.mounts.sort_by_key(|mount| mount.target().components().count());
    view.workspace(workspace, Git::ReadOnly);
    let directory = if view.sees_workspace { host.workspace.clone() } else { "/tmp".into() };
    let network = if policy.view.loopback { Network::Loopback } else { Network::None };
    let calls = Syscalls { exec: true, sockets: policy.view.sockets, personality: false };
    Ok(view.finish(directory, network, calls, environment(host)))
}

/// Where git finds, in its cell, the names that are in no commit.
pub(super) const IGNORED: &str = "/zerostack-ignored";

/// What git sees of a repository.
#[derive(Debug, Clone, Copy)]
pub enum GitView<'a> {
    /// The settings of the repository and of the user, to read.
    Settings { top: &'a Path },
    /// The main checkout.
    Checkout { top: &'a Path },
    /// A worktree, and the repository's own directory without the main checkout.
    Worktree { top: &'a Path, path: &'a Path },
    /// A directory alone.
    Directory { path: &'a Path },
}

/// The confinement of git itself, for what the user wants done to a repository. In the place of its settings it
/// sees `settings`; its hooks cannot be changed. No network.
pub fn git(
    policy: &Policy,
    groups: &Groups,
    host: &Host,
    what: GitView<'_>,
    settings: Option<&Path>,
    ignored: Option<&Path>,
) -> Result<Confinement, HostError> {
    let mut view = View::new(policy, groups, host);
    view.roots(&["system".to_owned()]);
    let size_mib = view.scratch_mib();
    for target in [PathBuf::from("/tmp"), "/var/tmp".into(), host.home.clone()] {
        view.mounts.push(match what {
            // What the user's settings include may lie anywhere below it.
            GitView::Settings { .. } if target == host.home => {
                tree(&host.home, None, Access::ReadOnly)
            }
            _ => Mount::Empty { target, size_mib, access: Access::ReadWrite },
        });
    }
    view.mounts.sort_by_key(|mount| mount.target().components().count());
    let mut add = |path: &Path, access: Access| {
        let root = Root::new(path.to_owned(), access).map_err(HostError::NoDirectory)?;
        view.mounts.push(tree(path, Some(root.identity), access));
        Ok::<_, HostError>(())
    };
    let mut repository = None;
    match what {
        GitView::Settings { top } => add(&top.join(".git"), Access::ReadOnly)?,
        GitView::Directory { path } => add(path, Access::ReadWrite)?,
        GitView::Checkout { top } => {
            add(top, Access::ReadWrite)?;
            repository = Some(top.join(".git"));
        }
        GitView::Worktree { top, path } => {
            add(&top.join(".git"), Access::ReadWrite)?;
            add(path, Access::ReadWrite)?;
            repository = Some(top.join(".git"));
        }
    }
    if let Some(git) = repository {
        for name in &groups.protected.git.names {
            if git.join(name).symlink_metadata().is_ok() {
                view.pin(&git, Path::new(name), Access::ReadOnly);
            }
        }
        if let Some(settings) = settings {
            let source = Source { path: settings.to_owned(), identity: None };
            let target = git.join("config");
            view.mounts.push(Mount::Tree { source, target, access: Access::ReadOnly });
        }
    }
    if let Some(ignored) = ignored {
        let source = Source { path: ignored.to_owned(), identity: None };
        let target = IGNORED.into();
        view.mounts.push(Mount::Tree { source, target, access: Access::ReadOnly });
    }
    let calls = Syscalls { exec: true, sockets: false, personality: false };
    Ok(view.finish("/tmp".into(), Network::None, calls, environment(host)))
}

fn environment(host: &Host) -> Vec<(String, String)> {
    let kept = |name: &&str| {
        let value = host.environment.iter().find(|(known, _)| known == *name)?;
        Some(value.clone())
    };
    let mut environment: Vec<_> = KEPT_VARIABLES.iter().filter_map(kept).collect();
    environment.push(("HOME".into(), host.home.display().to_string()));
    environment.push(("TMPDIR".into(), "/tmp".into()));
    // Nothing can page or ask inside a cell.
    for (name, value) in [("PAGER", "cat"), ("GIT_PAGER", "cat"), ("GIT_TERMINAL_PROMPT", "0")] {
        environment.push((name.into(), value.into()));
    }
    environment
}

/// What of `.git` a command may change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Git {
    ReadOnly,
    /// All but hooks and settings.
    Writable,
}

/// A view under construction.
struct View<'a> {
    policy: &'a Policy,
    groups: &'a Groups,
    host: &'a Host,
    mounts: Vec<Mount>,
    sees_disk: bool,
    sees_workspace: bool,
}

fn tree(path: &Path, identity: Option<Identity>, access: Access) -> Mount {
    Mount::Tree {
        source: Source { path: path.to_owned(), identity },
        target: path.to_owned(),
        access,
    }
}

impl<'a> View<'a> {
    fn new(policy: &'a Policy, groups: &'a Groups, host: &'a Host) -> View<'a> {
        View { policy, groups, host, mounts: Vec::new(), sees_disk: false, sees_workspace: false }
    }

    fn scratch_mib(&self) -> u64 {
        self.policy.limits.memory_mib.0.unwrap_or(SCRATCH_MIB).min(SCRATCH_MIB)
    }

    fn expand(&self, path: &str) -> PathBuf {
        match path {
            "~" => self.host.home.clone(),
            path => match path.strip_prefix("~/") {
                Some(rest) => self.host.home.join(rest),
                None => path.into(),
            },
        }
    }

    /// Adds the groups of `roots.toml` by name; what does not exist is left out.
    fn roots(&mut self, names: &[String]) {
        for name in names {
            if let Some(group) = self.groups.roots.get(name) {
                self.root_group(group);
            }
        }
    }

    fn root_group(&mut self, group: &RootGroup) {
        let lists = [(&group.read_only, Access::ReadOnly), (&group.read_write, Access::ReadWrite)];
        for (paths, access) in lists {
            for path in paths {
                let path = self.expand(path);
                if path == Path::new("/") {
                    self.sees_disk = true;
                    self.whole_disk(access);
                } else {
                    self.existing(&path, access);
                }
            }
        }
        for path in &group.copy {
            let path = self.expand(path);
            if path.is_dir() {
                let source = Source::fixed(&path);
                self.mounts.push(Mount::Copy {
                    source,
                    target: path,
                    size_mib: self.scratch_mib(),
                });
            }
        }
        for path in &group.hide {
            let target = self.expand(path);
            if target.is_dir() {
                self.mounts.push(Mount::Empty { target, size_mib: 1, access: Access::ReadOnly });
            }
        }
    }

    fn existing(&mut self, path: &Path, access: Access) {
        match std::fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(facts) if facts.is_symlink() && !self.sees_disk => {
                if let Ok(to) = path.read_link() {
                    self.mounts.push(Mount::Link { target: path.to_owned(), to });
                }
            }
            Ok(_) => self.mounts.push(tree(path, None, access)),
        }
    }

    /// Every directory of `/` but those that a cell gets afresh. The root itself is not mounted, so
    /// that nothing appears in a cell because it appeared on the host.
    fn whole_disk(&mut self, access: Access) {
        let Ok(entries) = std::fs::read_dir("/") else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let own = ["/dev", "/proc", "/sys", "/run"];
        paths.retain(|path| !own.iter().any(|own| Path::new(own) == path));
        for path in paths {
            match std::fs::symlink_metadata(&path) {
                Ok(facts) if facts.is_symlink() => {
                    if let Ok(to) = path.read_link() {
                        self.mounts.push(Mount::Link { target: path, to });
                    }
                }
                Ok(facts) if facts.is_dir() => self.mounts.push(tree(&path, None, access)),
                _ => {}
            }
        }
    }

    /// Adds the workspace and the added directories.
    fn workspace(&mut self, view: WorkspaceView, git_rights: Git) {
        if view == WorkspaceView::None {
            return;
        }
        self.sees_workspace = true;
        let host = self.host;
        for root in &host.roots {
            let writable = view == WorkspaceView::ReadWrite && root.access == Access::ReadWrite;
            let source = Source { path: root.path.clone(), identity: Some(root.identity) };
            let (target, size_mib) = (root.path.clone(), self.scratch_mib());
            self.mounts.push(match (view, root.access) {
                (WorkspaceView::Copy, Access::ReadWrite) => {
                    Mount::Copy { source, target, size_mib }
                }
                _ if writable => Mount::Tree { source, target, access: Access::ReadWrite },
                _ => Mount::Tree { source, target, access: Access::ReadOnly },
            });
        }
        // After all of them: one may lie in another.
        for root in &host.roots {
            if view == WorkspaceView::ReadWrite && root.access == Access::ReadWrite {
                self.protect(root, git_rights);
            }
            for path in root.found.secrets.iter().chain(&root.found.sockets) {
                self.cover(&root.path, path);
            }
        }
    }

    /// Makes what other programs obey read-only, and keeps the directories above it, and above
    /// secrets, in their place: a renamed directory would have its secrets uncovered in the next cell.
    fn protect(&mut self, root: &Root, git_rights: Git) {
        let mut pinned = BTreeSet::new();
        let tree = &root.path;
        for path in root.found.secrets.iter().chain(&root.found.git) {
            self.pin_ancestors(tree, path, &mut pinned);
        }
        for path in &root.found.git {
            let whole = tree.join(path);
            let complete = ["hooks", "config"].iter().all(|name| {
                let part = whole.join(name);
                part.exists() && !part.is_symlink()
            });
            if git_rights == Git::Writable && complete && !whole.is_symlink() {
                self.pin(tree, path, Access::ReadWrite);
                for name in &self.groups.protected.git.names {
                    self.pin(tree, &path.join(name), Access::ReadOnly);
                }
            } else {
                self.pin(tree, path, Access::ReadOnly);
            }
            for real in git::directories(&whole, &self.host.home) {
                let Some((tree, below)) = self.root_of(&real) else { continue };
                if real != whole {
                    self.pin_ancestors(&tree, &below, &mut pinned);
                    self.pin(&tree, &below, Access::ReadOnly);
                }
            }
        }
        for name in &self.groups.protected.workspace.names {
            if std::fs::symlink_metadata(tree.join(name)).is_ok() {
                self.pin(tree, Path::new(name), Access::ReadOnly);
            }
        }
    }

    /// The writable root that a path lies in, and the part below it.
    fn root_of(&self, path: &Path) -> Option<(PathBuf, PathBuf)> {
        self.host.roots.iter().find_map(|root| {
            let below = path.strip_prefix(&root.path).ok()?;
            (!below.as_os_str().is_empty()).then(|| (root.path.clone(), below.to_owned()))
        })
    }

    fn pin(&mut self, tree: &Path, path: &Path, access: Access) {
        self.mounts.push(Mount::Pin { tree: tree.to_owned(), path: path.to_owned(), access });
    }

    fn pin_ancestors(&mut self, tree: &Path, path: &Path, pinned: &mut BTreeSet<PathBuf>) {
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.retain(|part| !part.as_os_str().is_empty());
        for part in above.into_iter().rev() {
            if pinned.insert(tree.join(part)) {
                self.pin(tree, part, Access::ReadWrite);
            }
        }
    }

    fn cover(&mut self, tree: &Path, path: &Path) {
        self.mounts.push(Mount::Cover { tree: tree.to_owned(), path: path.to_owned() });
    }

    /// Covers credentials and our own directories wherever the view would show them.
    fn cover_secrets(&mut self) {
        let host = self.host;
        let mut pinned = BTreeSet::new();
        let mut hidden: Vec<PathBuf> = Vec::new();
        let names = &self.groups.secrets.home.names;
        hidden.extend(names.iter().map(|name| host.home.join(name)));
        hidden.extend(self.groups.secrets.machine.names.iter().map(PathBuf::from));
        hidden.extend(host.own.iter().cloned());
        for path in hidden {
            // A link is no secret; what it leads to is.
            let Ok(path) = path.canonicalize() else { continue };
            // The innermost tree that shows it is where it has to be covered.
            let shown = |mount: &&Mount| {
                matches!(mount, Mount::Tree { .. } | Mount::Copy { .. })
                    && path.starts_with(mount.target())
                    && path != mount.target()
            };
            let trees = self.mounts.iter().filter(shown).map(Mount::target);
            let Some(tree) = trees.max_by_key(|tree| tree.components().count()) else { continue };
            let Ok(below) = path.strip_prefix(&tree).map(Path::to_owned) else { continue };
            self.pin_ancestors(&tree, &below, &mut pinned);
            self.cover(&tree, &below);
        }
    }

    fn finish(
        mut self,
        directory: PathBuf,
        network: Network,
        syscalls: Syscalls,
        environment: Vec<(String, String)>,
    ) -> Confinement {
        self.cover_secrets();
        let limits = &self.policy.limits;
        Confinement {
            mounts: self.mounts,
            directory,
            network,
            syscalls,
            limits: Limits {
                processes: limits.processes,
                memory_mib: limits.memory_mib.0,
                file_mib: limits.file_mib.0,
                cpu_seconds: limits.cpu_seconds.0,
                descriptors: limits.descriptors,
            },
            environment,
            unreachable: self.host.own.to_vec(),
        }
    }
}
