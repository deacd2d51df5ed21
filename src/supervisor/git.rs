//! Where a `.git` really is: it can be a directory, a link, or a file that names another directory.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

/// The directories that git takes hooks and settings from for this `.git`, itself included.
pub(super) fn directories(git: &Path, home: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let named = first_line(git).and_then(|line| Some(line.strip_prefix("gitdir:")?.trim().into()));
    let directory = match named {
        Some(path) => git.parent().unwrap_or(git).join::<PathBuf>(path),
        None => git.to_owned(),
    };
    let Ok(directory) = directory.canonicalize() else { return found };
    // Hooks and settings can be links, and settings can name another directory of hooks.
    let worktree = git.parent().unwrap_or(git);
    let named = ["hooks", "config"].map(|name| directory.join(name)).into_iter();
    let elsewhere = ["config", "config.worktree"]
        .into_iter()
        .flat_map(|name| hooks_paths(&directory.join(name), worktree, home));
    for path in named.chain(elsewhere) {
        let real = path.canonicalize().ok();
        // The link itself can be replaced, so it stays in its place as well.
        let link = Some(path).filter(|path| path.is_symlink());
        found.extend(
            [real, link].into_iter().flatten().filter(|path| !path.starts_with(&directory)),
        );
    }
    if let Some(common) = first_line(&directory.join("commondir"))
        && let Ok(common) = directory.join(common.trim()).canonicalize()
    {
        let elsewhere = hooks_paths(&common.join("config"), worktree, home).into_iter();
        found.extend(elsewhere.filter_map(|path| path.canonicalize().ok()));
        found.push(common);
    }
    found.push(directory);
    found
}

/// Every directory that a `hooksPath` setting could mean, relative to the work tree, and every file that the
/// settings include, relative to theirs. Git's own rules of sections, quotes and comments are not followed: one
/// place too many does no harm.
fn hooks_paths(config: &Path, worktree: &Path, home: &Path) -> Vec<PathBuf> {
    let mut text = Vec::new();
    let file = open_regular(config);
    if file.is_none_or(|file| file.take(1 << 20).read_to_end(&mut text).is_err()) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&text).replace("\\\r\n", "").replace("\\\n", "");
    let settings = config.parent().unwrap_or(worktree);
    let mut includes = false;
    let directory = |line: &str| {
        let small = line.to_ascii_lowercase();
        if small.trim_start().starts_with('[') {
            includes = small.trim_start().starts_with("[include");
        }
        let included = small.find("path").filter(|_| includes).map(|at| (at, settings));
        let (at, from) = small.find("hookspath").map(|at| (at, worktree)).or(included)?;
        let value = line.get(at..)?.split_once('=')?.1;
        let value = value.split([';', '#']).next()?.replace('"', "");
        let value = value.trim();
        Some(match value.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => from.join(value),
        })
    };
    text.lines().filter_map(directory).collect()
}

/// Opens a regular file. Anything else is not even opened for reading: a FIFO would wait, a device could
/// act.
fn open_regular(path: &Path) -> Option<File> {
    let place = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let kind = SFlag::from_bits_truncate(fstat(&place).ok()?.st_mode) & SFlag::S_IFMT;
    let same = format!("/proc/self/fd/{}", place.as_raw_fd());
    (kind == SFlag::S_IFREG).then(|| File::open(same).ok()).flatten()
}

/// The first line of a small regular file.
fn first_line(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8(bytes).ok()?.lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_elsewhere_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in [".git", "mine", ".husky", "two", "three"] {
            std::fs::create_dir(root.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("../mine", root.join(".git/hooks")).unwrap();
        std::fs::write(
            root.join(".git/config"),
            "[core]\n\thooksPath = .hu\\\nsky ; no\n[core] hookspath = ~/t\"wo\"\n",
        )
        .unwrap();
        std::os::unix::fs::symlink("three", root.join("link")).unwrap();
        std::fs::write(root.join(".git/config.worktree"), "[core]\nhooksPath=link\n").unwrap();
        let expected = ["mine", ".husky", "two", "three", "link", ".git"];
        let expected: Vec<_> = expected.iter().map(|name| root.join(name)).collect();
        assert_eq!(directories(&root.join(".git"), &root), expected);
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        for name in [".git/config", ".git/config.worktree", ".git/commondir"] {
            nix::unistd::mkfifo(&root.join(name), Mode::S_IRWXU).unwrap();
        }
        assert_eq!(directories(&root.join(".git"), &root), [root.join(".git")]);
        nix::unistd::mkfifo(&root.join("gitfile"), Mode::S_IRWXU).unwrap();
        directories(&root.join("gitfile"), &root);
    }

    #[test]
    fn links_files_and_common_directories_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let make = |path: &str| std::fs::create_dir_all(root.join(path)).unwrap();
        make("real/worktrees/w");
        std::fs::write(root.join("real/worktrees/w/commondir"), "../..\n").unwrap();
        make("linked");
        std::os::unix::fs::symlink("../real", root.join("linked/.git")).unwrap();
        assert_eq!(directories(&root.join("linked/.git"), &root), [root.join("real")]);
        make("w");
        std::fs::write(root.join("w/.git"), "gitdir: ../real/worktrees/w\n").unwrap();
        let both = [root.join("real"), root.join("real/worktrees/w")];
        assert_eq!(directories(&root.join("w/.git"), &root), both);
    }
}
