//! Opening what a call may work on, and nothing else.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{failed, fault};
use crate::wire::{Before, Call, Fault, Output, Target};

/// Largest file that is read or written as a whole, bytes.
pub(super) const FILE_LIMIT: u64 = 10 * 1024 * 1024;

/// The directories of a worker, opened once, and what its calls have read.
#[derive(Debug)]
pub struct Roots {
    opened: Vec<(PathBuf, io::Result<OwnedFd>)>,
    pub(super) memory: RefCell<Memory>,
}

/// Texts of files as the model saw them, by hash, to show later what has changed since.
#[derive(Debug, Default)]
pub(super) struct Memory {
    texts: VecDeque<(String, String)>,
    bytes: usize,
}

/// Longest description of a change that is shown in full, bytes.
const DIFF_LIMIT: usize = 8 * 1024;
/// How much text a worker remembers, bytes.
const MEMORY_LIMIT: usize = 4 * 1024 * 1024;

impl Memory {
    /// Remembers a text; returns its hash.
    pub fn remember(&mut self, text: &str) -> String {
        let hash = hash(text);
        if text.len() <= MEMORY_LIMIT / 4 && !self.texts.iter().any(|(known, _)| *known == hash) {
            self.bytes += text.len();
            self.texts.push_back((hash.clone(), text.to_owned()));
            while self.bytes > MEMORY_LIMIT {
                let Some((_, oldest)) = self.texts.pop_front() else { break };
                self.bytes -= oldest.len();
            }
        }
        hash
    }

    fn text(&self, hash: &str) -> Option<&str> {
        self.texts.iter().find(|(known, _)| known == hash).map(|(_, text)| text.as_str())
    }
}

/// The first half of SHA-256, hexadecimal.
pub(super) fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Roots {
    pub fn open(paths: Vec<PathBuf>) -> Roots {
        let open_root = |path: PathBuf| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let root = open(&path, flags, Mode::empty()).map_err(io::Error::from);
            (path, root)
        };
        let opened = paths.into_iter().map(open_root).collect();
        Roots { opened, memory: RefCell::default() }
    }

    fn get(&self, number: u16) -> Result<(&Path, &OwnedFd), Fault> {
        match self.opened.get(usize::from(number)) {
            Some((path, Ok(root))) => Ok((path, root)),
            Some((path, Err(error))) => Err(Fault {
                message: format!("{} is not in this worker's view: {error}", path.display()),
                errno: error.raw_os_error().unwrap_or(0),
                hash: None,
            }),
            None => Err(fault("the target names no root")),
        }
    }
}

fn beneath(root: &OwnedFd, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(resolve))
}

fn relative(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Opens the target of a reading call. Does not block on a FIFO.
pub(super) fn open_to_read(
    call: &Call,
    roots: &Roots,
    passed: Option<OwnedFd>,
) -> Result<File, Fault> {
    let file = match (&call.target, passed) {
        (Target::Passed, Some(file)) => file,
        (Target::Beneath { root, path }, _) => {
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            beneath(roots.get(*root)?.1, relative(path), flags, Mode::empty())
                .map_err(|errno| failed(call, "read", &errno.into()))?
        }
        _ => return Err(fault(format!("{} needs a path", call.tool))),
    };
    Ok(File::from(file))
}

/// The whole text of a regular file.
pub(super) fn read_text(call: &Call, file: &File) -> Result<String, Fault> {
    text_of(call, read_bytes(call, file)?)
}

/// Bytes as text, if they are that.
pub(super) fn text_of(call: &Call, bytes: Vec<u8>) -> Result<String, Fault> {
    if bytes.contains(&0) {
        return Err(fault(format!("{} is a binary file", call.shown)));
    }
    String::from_utf8(bytes).map_err(|_| fault(format!("{} is not UTF-8 text", call.shown)))
}

/// All bytes of a regular file.
pub(super) fn read_bytes(call: &Call, mut file: &File) -> Result<Vec<u8>, Fault> {
    let broken = |error: &io::Error| failed(call, "read", error);
    let facts = file.metadata().map_err(|error| broken(&error))?;
    if facts.is_dir() {
        return Err(fault(format!("{} is a directory; use list_dir", call.shown)));
    }
    if !facts.is_file() {
        return Err(fault(format!("{} is not a regular file", call.shown)));
    }
    if facts.len() > FILE_LIMIT {
        let mib = facts.len() / (1024 * 1024);
        return Err(fault(format!("{} is {mib} MiB; the limit is 10. Use grep.", call.shown)));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(|error| broken(&error))?;
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    Ok(bytes)
}

/// A file about to be changed.
#[derive(Debug)]
pub(super) struct Changing<'a> {
    call: &'a Call,
    place: Place<'a>,
    /// The present content; `None` if there is no file yet.
    pub before: Option<String>,
}

#[derive(Debug)]
enum Place<'a> {
    Passed(File),
    Beneath { root: &'a OwnedFd, path: &'a Path, mode: u32 },
}

impl<'a> Changing<'a> {
    pub fn open(
        call: &'a Call,
        roots: &'a Roots,
        passed: Option<OwnedFd>,
    ) -> Result<Changing<'a>, Fault> {
        match (&call.target, passed) {
            (Target::Passed, Some(file)) => {
                let file = File::from(file);
                let before = read_text(call, &file)?;
                // A file that the supervisor has just made for this call is empty.
                let before = (!before.is_empty()).then_some(before);
                Ok(Changing { call, place: Place::Passed(file), before })
            }
            (Target::Beneath { root, path }, _) => {
                let (root, path) = (roots.get(*root)?.1, relative(path));
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let (before, mode) = match beneath(root, path, flags, Mode::empty()) {
                    Err(Errno::ENOENT) => (None, 0o644),
                    Err(errno) => return Err(failed(call, "open", &errno.into())),
                    Ok(file) => {
                        let file = File::from(file);
                        let text = read_text(call, &file)?;
                        let facts = file.metadata().map_err(|e| failed(call, "open", &e))?;
                        (Some(text), facts.mode() & 0o777)
                    }
                };
                Ok(Changing { call, place: Place::Beneath { root, path, mode }, before })
            }
            _ => Err(fault(format!("{} needs a path", call.tool))),
        }
    }

    /// Refuses if the file is not what the model last saw, and shows what is different.
    pub fn check(&self, roots: &Roots) -> Result<(), Fault> {
        let (Some(seen), Some(before)) = (&self.call.seen, &self.before) else { return Ok(()) };
        if hash(before) == *seen {
            return Ok(());
        }
        let shown = &self.call.shown;
        let changes = roots.memory.borrow().text(seen).map(|old| super::diff(shown, old, before));
        // Only what is shown counts as seen.
        let shown_whole = changes.filter(|changes| changes.len() <= DIFF_LIMIT);
        let (what, hash) = match shown_whole {
            Some(changes) => {
                let hash = roots.memory.borrow_mut().remember(before);
                (format!("It is different now:\n{changes}"), Some(hash))
            }
            None => ("Read it again.".into(), None),
        };
        let message = format!("{shown} was changed since you read it; nothing was done. {what}");
        Err(Fault { message, errno: 0, hash })
    }

    /// The result of a change that has been made.
    pub fn made(&self, roots: &Roots, after: &str, text: String, changes: String) -> Output {
        if self.call.preview {
            return Output { text: changes, ..Output::default() };
        }
        Output {
            text,
            diff: Some(changes),
            hash: Some(roots.memory.borrow_mut().remember(after)),
            before: Some(Before(self.before.clone())),
            ..Output::default()
        }
    }

    /// Writes the new content: by rename where the directory is writable, so that nobody sees half
    /// a file; in place where only the file was granted.
    pub fn replace(&self, text: &str) -> Result<(), Fault> {
        if self.call.preview {
            return Ok(());
        }
        let outcome = match &self.place {
            Place::Passed(file) => write_in_place(file, text),
            Place::Beneath { root, path, mode } => replace_by_rename(root, path, *mode, text),
        };
        outcome.map_err(|error| failed(self.call, "write", &error))
    }
}

/// Removes a file that is still what it is expected to be.
pub(super) fn remove(call: &Call, roots: &Roots) -> Result<(), Fault> {
    let Target::Beneath { root, path } = &call.target else {
        return Err(fault("only a file below a root can be removed"));
    };
    let path = relative(path);
    let name = path.file_name().ok_or_else(|| fault("a root cannot be removed"))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let parent = path.parent().unwrap_or(Path::new(""));
    beneath(roots.get(*root)?.1, parent, flags, Mode::empty())
        .and_then(|directory| unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir))
        .map_err(|errno| failed(call, "remove", &errno.into()))
}

fn write_in_place(mut file: &File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())
}

fn replace_by_rename(root: &OwnedFd, path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let directory = ensure_directory(root, parent)?;
    // Random, because workers of two sessions may write here at once and each is process 1 of its cell.
    let temporary = format!(".zerostack-{:016x}", RandomState::new().build_hasher().finish());
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
    let made = beneath(&directory, Path::new(&temporary), flags, Mode::from_bits_truncate(0o600));
    let mut file = File::from(made?);
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.set_permissions(PermissionsExt::from_mode(mode)))
        .and_then(|()| file.sync_data())
        .and_then(|()| Ok(renameat(&directory, temporary.as_str(), &directory, name)?));
    if written.is_err() {
        let _ = unlinkat(&directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

fn ensure_directory(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match beneath(root, path, flags, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        other => return Ok(other?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ENOENT.into());
    };
    let parent = ensure_directory(root, parent)?;
    match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(beneath(&parent, Path::new(name), flags, Mode::empty())?)
}

/// The absolute path of a directory or file to walk. It has been opened without following a link;
/// from here on the kernel's confinement of the worker is what holds.
pub(super) fn walk_start(call: &Call, roots: &Roots) -> Result<PathBuf, Fault> {
    let Target::Beneath { root, path } = &call.target else {
        return Err(fault(format!("{} needs a directory", call.tool)));
    };
    let (base, root) = roots.get(*root)?;
    beneath(root, relative(path), OFlag::O_PATH, Mode::empty())
        .map_err(|errno| failed(call, "open", &errno.into()))?;
    Ok(base.join(relative(path)))
}
