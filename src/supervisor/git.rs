//! Where a `.git` really is: it can be a directory, a link, or a file that names another directory.

use std::io::Read;
use std::path::{Path, PathBuf};

/// The directories that git takes hooks and settings from for this `.git`, itself included.
pub(super) fn directories(git: &Path) -> Vec<PathBuf> {
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
    for path in named.chain(hooks_path(&directory.join("config"), worktree)) {
        found.extend(path.canonicalize().ok().filter(|real| !real.starts_with(&directory)));
    }
    if let Some(common) = first_line(&directory.join("commondir"))
        && let Ok(common) = directory.join(common.trim()).canonicalize()
    {
        found.push(common);
    }
    found.push(directory);
    found
}

/// The directory that `core.hooksPath` names, relative to the work tree.
fn hooks_path(config: &Path, worktree: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    std::fs::File::open(config).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
    text.lines().rev().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let is_hooks = name.trim().eq_ignore_ascii_case("hooksPath");
        is_hooks.then(|| worktree.join(value.trim().trim_matches('"')))
    })
}

/// The first line of a small regular file.
fn first_line(path: &Path) -> Option<String> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8(bytes).ok()?.lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_elsewhere_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in [".git", "mine", ".husky"] {
            std::fs::create_dir(root.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("../mine", root.join(".git/hooks")).unwrap();
        std::fs::write(root.join(".git/config"), "[core]\n\thooksPath = .husky\n").unwrap();
        let expected = [root.join("mine"), root.join(".husky"), root.join(".git")];
        assert_eq!(directories(&root.join(".git")), expected);
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
        assert_eq!(directories(&root.join("linked/.git")), [root.join("real")]);
        make("w");
        std::fs::write(root.join("w/.git"), "gitdir: ../real/worktrees/w\n").unwrap();
        let both = [root.join("real"), root.join("real/worktrees/w")];
        assert_eq!(directories(&root.join("w/.git")), both);
    }
}
