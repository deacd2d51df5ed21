//! Removing a worktree after its work was merged.

use std::path::Path;

use super::cell::{At, text};
use super::merge::{How, Merged};
use super::{Repository, WorktreeError};
use crate::supervisor::host::Linked;

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

impl Repository<'_> {
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
        if let Some(path) = self.filled_link(linked).await? {
            return Ok(Some(format!("{path} is not what its submodule is")));
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

    /// A repository below a worktree's top directory.
    async fn nested(&self, linked: &Linked) -> Result<Option<String>, WorktreeError> {
        let find =
            ["find", text(&linked.path)?, "-mindepth", "2", "-name", ".git", "-print", "-quit"];
        let found = self.checked(&find, At::Worktree(linked)).await?;
        let path = found.trim_end().trim_end_matches("/.git").to_owned();
        Ok(Some(path).filter(|path| !path.is_empty()))
    }
}
