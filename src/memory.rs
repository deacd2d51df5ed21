//! What is remembered from one session to the next: Markdown files of the user's own, which no cell
//! ever sees. `MEMORY.md` is for every project; each project has a scratchpad, a log by day, and notes.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};

/// The file for every project.
const GLOBAL: &str = "MEMORY.md";
const SCRATCHPAD: &str = "scratchpad.md";
/// Largest file, bytes.
const FILE_LIMIT: usize = 64 * 1024;
/// Most bytes of one file that the model is told at the start.
const TOLD_LIMIT: usize = 6 * 1024;
/// Most bytes of a line that a search finds.
const LINE_LIMIT: usize = 400;
/// Most lines that a search finds.
const LINES: usize = 100;

/// The memory as one project sees it.
#[derive(Debug, Clone)]
pub struct Memory {
    root: PathBuf,
    project: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error(
        "there is no memory file {0:?}: they are MEMORY.md (every project), scratchpad.md, today, \
         daily/YYYY-MM-DD.md and notes/NAME.md (this project)"
    )]
    Name(String),
    #[error("{0} does not exist yet")]
    Absent(String),
    #[error("{0} would be larger than 64 KiB: replace or remove something in it first")]
    Full(String),
    #[error("what is to be replaced is {1} times in {0}; it must be there once")]
    Unclear(String, usize),
    #[error("{0} is larger than 64 KiB: it is not changed, make it smaller with an editor")]
    Large(String),
    #[error("{0} is no valid UTF-8: it is not changed")]
    NoText(String),
    #[error("{0} was changed meanwhile; nothing is written")]
    Meanwhile(String),
    #[error("cannot {doing} {path}: {error}")]
    Os { doing: &'static str, path: PathBuf, error: std::io::Error },
}

/// A file before and after a change.
#[derive(Debug)]
pub struct Changed {
    pub before: String,
    pub after: String,
}

impl Memory {
    /// `root` is the directory of all memory, `project` the directory of the project.
    pub fn new(root: PathBuf, project: &Path) -> Memory {
        let path = project.as_os_str().as_encoded_bytes();
        let digest = ring::digest::digest(&ring::digest::SHA256, path);
        let hash: String = digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        // Readable for who looks; the hash keeps two of the same name apart.
        let name = project.file_name().unwrap_or_default().to_string_lossy();
        let name: String = name.chars().filter(|c| is_plain(*c)).take(40).collect();
        let project = root.join("projects").join(format!("{name}-{hash}"));
        Memory { root, project }
    }

    /// The full name of a file: `today` is one of the log, and the ending may be left out.
    pub fn name(&self, given: &str) -> Result<String, MemoryError> {
        let wrong = || MemoryError::Name(given.to_owned());
        let name = given.trim();
        if name == "today" {
            return Ok(format!("daily/{}.md", date(SystemTime::now())));
        }
        if ["memory", "memory.md"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
            return Ok(GLOBAL.into());
        }
        let stem = name.strip_suffix(".md").unwrap_or(name);
        let fits = match stem.split_once('/') {
            None => stem == "scratchpad",
            Some(("daily", day)) => is_date(day),
            Some(("notes", note)) => {
                (1..=80).contains(&note.len())
                    && note.chars().all(is_plain)
                    && !note.starts_with('.')
            }
            Some(_) => false,
        };
        if fits { Ok(format!("{stem}.md")) } else { Err(wrong()) }
    }

    /// Where a file is, by its full name.
    pub fn path(&self, name: &str) -> PathBuf {
        let directory = if name == GLOBAL { &self.root } else { &self.project };
        directory.join(name)
    }

    /// Every file there is: full name and size in bytes.
    pub fn list(&self) -> Vec<(String, u64)> {
        let mut names = vec![GLOBAL.to_owned(), SCRATCHPAD.to_owned()];
        for directory in ["daily", "notes"] {
            let entries = std::fs::read_dir(self.project.join(directory)).into_iter().flatten();
            let found = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let mut found: Vec<String> = found.map(|name| format!("{directory}/{name}")).collect();
            found.retain(|name| self.name(name).is_ok_and(|full| full == *name));
            found.sort();
            names.extend(found);
        }
        let sized = |name: String| {
            let facts =
                std::fs::metadata(self.path(&name)).ok().filter(std::fs::Metadata::is_file)?;
            Some((name, facts.len()))
        };
        names.into_iter().filter_map(sized).collect()
    }

    /// The text of a file, cut at 64 KiB.
    pub fn read(&self, name: &str) -> Result<String, MemoryError> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(FILE_LIMIT as u64).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(MemoryError::Absent(name.to_owned()))
            }
            Err(error) => Err(MemoryError::Os { doing: "read", path, error }),
        }
    }

    /// The text of a file that is to be changed: nothing of it may be missing.
    pub fn whole(&self, name: &str) -> Result<String, MemoryError> {
        let path = self.path(name);
        match std::fs::metadata(&path) {
            Ok(facts) if facts.len() > FILE_LIMIT as u64 => {
                Err(MemoryError::Large(name.to_owned()))
            }
            _ => std::fs::read(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => MemoryError::Absent(name.to_owned()),
                _ => MemoryError::Os { doing: "read", path, error },
            }),
        }
        .and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| MemoryError::NoText(name.to_owned()))
        })
    }

    /// What a change would make of a file: `text` at its end, or in the place of `replaces`.
    pub fn change(
        &self,
        name: &str,
        text: &str,
        replaces: Option<&str>,
    ) -> Result<Changed, MemoryError> {
        let before = match self.whole(name) {
            Err(MemoryError::Absent(_)) if replaces.is_none() => String::new(),
            other => other?,
        };
        let after = match replaces {
            None => {
                let line = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
                format!("{before}{line}{}\n", text.trim_end_matches('\n'))
            }
            Some(old) => match before.matches(old).count() {
                1 if !old.is_empty() => before.replacen(old, text, 1),
                count => return Err(MemoryError::Unclear(name.to_owned(), count)),
            },
        };
        if after.len() > FILE_LIMIT {
            return Err(MemoryError::Full(name.to_owned()));
        }
        Ok(Changed { before, after })
    }

    /// Makes a change, if the file is what it was when the change was `shown`. Another session may be doing the
    /// same.
    pub fn write(
        &self,
        name: &str,
        text: &str,
        replaces: Option<&str>,
        shown: Option<&str>,
    ) -> Result<Changed, MemoryError> {
        let _lock = self.lock()?;
        let changed = self.change(name, text, replaces)?;
        if shown.is_some_and(|before| before != changed.before) {
            return Err(MemoryError::Meanwhile(name.to_owned()));
        }
        self.store(name, &changed.after)?;
        Ok(changed)
    }

    /// Writes a file whole or not at all.
    fn store(&self, name: &str, text: &str) -> Result<(), MemoryError> {
        let path = self.path(name);
        // Where the user keeps it, if that is elsewhere.
        let path = path.canonicalize().unwrap_or(path);
        let wrong = |error| MemoryError::Os { doing: "write", path: path.clone(), error };
        let directory = path.parent().unwrap_or(&self.root);
        private(directory).map_err(wrong)?;
        let put = || {
            let mut new = tempfile::NamedTempFile::new_in(directory)?;
            new.write_all(text.as_bytes())?;
            new.as_file().sync_data()?;
            new.persist(&path)?;
            Ok(())
        };
        put().map_err(wrong)
    }

    /// Puts a whole text in the place of `before`, which is what was there when the user began to edit it.
    pub fn put(&self, name: &str, before: &str, text: &str) -> Result<(), MemoryError> {
        let _lock = self.lock()?;
        let present = match self.whole(name) {
            Err(MemoryError::Absent(_)) => String::new(),
            other => other?,
        };
        if present != before {
            return Err(MemoryError::Meanwhile(name.to_owned()));
        }
        if text.len() > FILE_LIMIT {
            return Err(MemoryError::Full(name.to_owned()));
        }
        self.store(name, text)
    }

    /// Removes a file.
    pub fn forget(&self, name: &str) -> Result<(), MemoryError> {
        let _lock = self.lock()?;
        let path = self.path(name);
        std::fs::remove_file(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => MemoryError::Absent(name.to_owned()),
            _ => MemoryError::Os { doing: "remove", path, error },
        })
    }

    /// The lines with all of these words in them, letters of any case, in files that `may` be looked into.
    pub fn search(&self, words: &str, may: impl Fn(&str) -> bool) -> String {
        let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
        let mut found = Vec::new();
        for (name, _) in self.list().into_iter().filter(|(name, _)| may(name)) {
            for (number, line) in self.read(&name).unwrap_or_default().lines().enumerate() {
                let lower = line.to_lowercase();
                if !words.is_empty() && words.iter().all(|word| lower.contains(word.as_str())) {
                    let end = line.floor_char_boundary(LINE_LIMIT);
                    found.push(format!("{name}:{}: {}", number + 1, &line[..end]));
                }
            }
        }
        match found.len() {
            0 => "nothing was found".into(),
            more if more > LINES => format!("{}\n({more} lines)", found[..LINES].join("\n")),
            _ => found.join("\n"),
        }
    }

    /// What the model is told at the start, by full name: the file for every project, the scratchpad and
    /// the newest day, each cut, and which other files there are; nothing of those that it `may` not read.
    pub fn told(&self, may: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let mut all = self.list();
        all.retain(|(name, _)| may(name));
        let newest = all.iter().rfind(|(name, _)| name.starts_with("daily/"));
        let mut told = Vec::new();
        let whole = [GLOBAL, SCRATCHPAD].into_iter().chain(newest.map(|(name, _)| name.as_str()));
        for name in whole.filter(|name| may(name)) {
            let text = self.read(name).unwrap_or_default();
            let mut text = text.trim().to_owned();
            if text.is_empty() {
                continue;
            }
            if text.len() > TOLD_LIMIT {
                // What was written last counts most in a log; elsewhere what is said first.
                text = if name.starts_with("daily/") {
                    let from = text.ceil_char_boundary(text.len() - TOLD_LIMIT);
                    format!("[cut: memory_read has all of it]\n{}", &text[from..])
                } else {
                    text.truncate(text.floor_char_boundary(TOLD_LIMIT));
                    format!("{text}\n[cut: memory_read has all of it]")
                };
            }
            told.push((name.to_owned(), text));
        }
        let others: Vec<&str> = all
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with("notes/"))
            .take(LINES)
            .collect();
        if !others.is_empty() {
            told.push(("notes".into(), others.join("\n")));
        }
        told
    }

    fn lock(&self) -> Result<Flock<File>, MemoryError> {
        let path = self.root.join(".lock");
        let wrong = |error| MemoryError::Os { doing: "lock", path: path.clone(), error };
        private(&self.root).map_err(wrong)?;
        let mut options = File::options();
        let file = options.create(true).append(true).mode(0o600).open(&path).map_err(wrong)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| wrong(errno.into()))
    }
}

/// Makes a directory that nobody else can look into.
fn private(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_.".contains(letter)
}

fn is_date(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    let number = |part: std::ops::Range<usize>| text[part].parse::<u8>().unwrap_or(0);
    text.len() == 10
        && text.bytes().enumerate().all(fits)
        && (1..=12).contains(&number(5..7))
        && (1..=31).contains(&number(8..10))
}

/// The day in UTC, as YYYY-MM-DD.
fn date(time: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // "Wed, 25 Nov 2026 21:44:29 GMT"
    let text = httpdate::fmt_http_date(time);
    let month = MONTHS.find(&text[8..11]).unwrap_or_default() / 3 + 1;
    format!("{}-{month:02}-{}", &text[12..16], &text[5..7])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn memory(root: &Path) -> Memory {
        Memory::new(root.join("memory"), Path::new("/home/me/pro ject"))
    }

    #[test]
    fn names_mean_files_of_the_memory_and_no_others() {
        let memory = memory(Path::new("/m"));
        let name = |given: &str| memory.name(given).ok();
        assert_eq!(name("memory").as_deref(), Some("MEMORY.md"));
        assert_eq!(name("notes/a-b").as_deref(), Some("notes/a-b.md"));
        assert_eq!(name("daily/2026-11-25.md").as_deref(), Some("daily/2026-11-25.md"));
        assert!(name("today").is_some_and(|name| is_date(&name[6..16])));
        for wrong in [
            "",
            "..",
            "notes/",
            "notes/..",
            "notes/../x",
            "notes/.x",
            "notes/a/b",
            "/etc/passwd",
            "daily/2026-1-25",
            "daily/2999-99-99",
            "daily/../../x",
            "notes/a\nb",
            "x/y",
            "trust.json",
        ] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        let path = memory.path("notes/a.md");
        assert!(
            path.starts_with("/m/memory/projects") && path.to_str().unwrap().contains("/project-")
        );
        assert_ne!(
            path,
            Memory::new("/m/memory".into(), Path::new("/x/project")).path("notes/a.md")
        );
    }

    #[test]
    fn days_are_counted_right() {
        for (seconds, day) in
            [(0, "1970-01-01"), (951_782_400, "2000-02-29"), (1_795_642_000, "2026-11-25")]
        {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), day);
        }
    }

    #[test]
    fn text_is_added_replaced_found_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(directory.path());
        assert!(memory.list().is_empty() && memory.told(|_| true).is_empty());
        memory.write("MEMORY.md", "Prefers tabs.", None, None).unwrap();
        memory.write("MEMORY.md", "Runs on Debian.\n", None, None).unwrap();
        assert_eq!(memory.read("MEMORY.md").unwrap(), "Prefers tabs.\nRuns on Debian.\n");
        let changed = memory.write("MEMORY.md", "spaces", Some("tabs"), None).unwrap();
        assert!(changed.before.contains("tabs") && changed.after.contains("Prefers spaces."));
        let error = memory.write("MEMORY.md", "x", Some("s"), None).unwrap_err();
        assert!(matches!(error, MemoryError::Unclear(_, 4..)), "{error}");
        memory.write("notes/build.md", "make is slow", None, None).unwrap();
        assert_eq!(memory.search("SLOW make", |_| true), "notes/build.md:1: make is slow");
        assert_eq!(memory.search("slow", |name| name != "notes/build.md"), "nothing was found");
        assert!(memory.told(|_| true).contains(&("notes".into(), "notes/build.md".into())));
        memory.forget("notes/build.md").unwrap();
        assert!(matches!(memory.read("notes/build.md"), Err(MemoryError::Absent(_))));
        let full = memory.write("scratchpad.md", &"x".repeat(FILE_LIMIT), None, None);
        assert!(matches!(full, Err(MemoryError::Full(_))));
    }

    #[test]
    fn nothing_is_lost_by_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(directory.path());
        memory.write("MEMORY.md", "one", None, None).unwrap();
        // Shown of another text than there is now.
        let other = memory.write("MEMORY.md", "two", None, Some("zero\n"));
        assert!(matches!(other, Err(MemoryError::Meanwhile(_))));
        memory.write("MEMORY.md", "two", None, Some("one\n")).unwrap();
        assert!(matches!(memory.put("MEMORY.md", "one\n", "x"), Err(MemoryError::Meanwhile(_))));
        // Larger than what would be read, or not text: left as it is.
        for (bytes, wrong) in [
            ("a\n".repeat(FILE_LIMIT).into_bytes(), "larger"),
            (vec![b'a', 0xe9], "no valid UTF-8"),
        ] {
            let path = memory.path("MEMORY.md");
            std::fs::write(&path, &bytes).unwrap();
            let changes = [
                memory.write("MEMORY.md", "b", None, None).map(drop),
                memory.write("MEMORY.md", "b", Some("a"), None).map(drop),
                memory.put("MEMORY.md", &memory.read("MEMORY.md").unwrap(), "b"),
            ];
            for changed in changes {
                assert!(changed.unwrap_err().to_string().contains(wrong));
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_told_has_a_cap() {
        let directory = tempfile::tempdir().unwrap();
        let memory = memory(directory.path());
        memory.write("MEMORY.md", &format!("first {}", "ü".repeat(20_000)), None, None).unwrap();
        memory.write("daily/2026-11-24.md", "yesterday", None, None).unwrap();
        memory
            .write("daily/2026-11-25.md", &format!("{} last", "ü".repeat(20_000)), None, None)
            .unwrap();
        let told = memory.told(|_| true);
        assert!(told[0].1.starts_with("first") && told[0].1.contains("[cut"));
        assert_eq!((told.len(), told[1].0.as_str()), (2, "daily/2026-11-25.md"));
        assert!(told[1].1.ends_with("last") && told[1].1.contains("[cut"));
        assert!(told.iter().all(|(_, text)| text.len() < TOLD_LIMIT + 100));
    }
}
