//! Writing a session: one line for each thing that happens, before anybody is shown it.

use std::collections::hash_map::RandomState;
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{Entry, Header, Line, SessionError, VERSION, now};

/// An open session, locked against a second writer.
#[derive(Debug)]
pub struct Journal {
    file: Flock<File>,
    path: PathBuf,
    id: String,
}

/// Time, so that they sort, and chance.
pub fn fresh_id() -> String {
    let chance = RandomState::new().build_hasher().finish();
    format!("{:08x}-{:06x}", now(), chance & 0xff_ffff)
}

impl Journal {
    /// Begins a session. `sessions` is made if it is not there.
    pub fn create(sessions: &Path, directory: &Path) -> Result<Journal, SessionError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(sessions)
            .map_err(SessionError::os("make", sessions))?;
        let id = fresh_id();
        let path = sessions.join(format!("{id}.jsonl"));
        let mut options = OpenOptions::new();
        options.append(true).read(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(SessionError::os("make", &path))?;
        let mut journal = Journal::lock(file, path, id.clone())?;
        let header = Header { version: VERSION, id, directory: directory.to_owned() };
        journal.add(Entry::Header(header))?;
        Ok(journal)
    }

    /// Opens a session to go on with it.
    pub fn open(path: &Path) -> Result<Journal, SessionError> {
        let mut options = OpenOptions::new();
        options.append(true).read(true).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
        let file = options.open(path).map_err(SessionError::os("open", path))?;
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut journal = Journal::lock(file, path.to_owned(), id)?;
        journal.end_torn_line().map_err(SessionError::os("write", path))?;
        Ok(journal)
    }

    fn lock(file: File, path: PathBuf, id: String) -> Result<Journal, SessionError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Journal { file, path, id }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SessionError::InUse(id)),
            Err((_, errno)) => Err(SessionError::os("lock", path)(errno.into())),
        }
    }

    /// A kill in the middle of a write leaves half a line: what follows must not continue it.
    fn end_torn_line(&mut self) -> std::io::Result<()> {
        let mut last = [b'\n'];
        if self.file.seek(SeekFrom::End(0))? > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            self.file.read_exact(&mut last)?;
        }
        if last == [b'\n'] { Ok(()) } else { self.file.write_all(b"\n") }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, in one write.
    pub fn add(&mut self, entry: Entry) -> Result<(), SessionError> {
        let failed = SessionError::os("write", &self.path);
        let mut line = match serde_json::to_vec(&Line::new(now(), entry)) {
            Ok(line) => line,
            Err(error) => return Err(failed(error.into())),
        };
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)
    }
}
