//! Outputs that were too long for the conversation, kept whole for `read` to page through.

use std::cell::{Cell, RefCell};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// How a kept output is named in a call of `read`.
const PREFIX: &str = "@output/";
/// Most of one output that is kept, bytes.
pub(super) const KEPT_LIMIT: u64 = 10 * 1024 * 1024;

/// The outputs of one session: files beside it, or without names where no session is saved.
#[derive(Debug)]
pub struct Outputs {
    directory: Option<PathBuf>,
    /// The number of the last one.
    last: Cell<usize>,
    unnamed: RefCell<Vec<File>>,
}

impl Outputs {
    /// Goes on after the outputs that a directory already holds.
    pub fn new(directory: Option<PathBuf>) -> Outputs {
        let entries = directory.as_ref().and_then(|directory| std::fs::read_dir(directory).ok());
        let numbers = entries.into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let last = Cell::new(numbers.max().unwrap_or(0));
        Outputs { directory, last, unnamed: RefCell::default() }
    }

    /// Makes a place for one output; returns its name.
    pub(super) fn create(&self) -> io::Result<(String, File)> {
        let number = self.last.get() + 1;
        let file = match &self.directory {
            None => {
                let file = tempfile::tempfile()?;
                self.unnamed.borrow_mut().push(file.try_clone()?);
                file
            }
            Some(directory) => {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(0o600);
                options.open(directory.join(number.to_string()))?
            }
        };
        self.last.set(number);
        Ok((format!("{PREFIX}{number}"), file))
    }

    /// The output that a path names, if it names one.
    pub(super) fn read(&self, path: &str) -> Option<Result<String, String>> {
        let number = path.strip_prefix(PREFIX)?;
        let known = number.parse().ok().filter(|number| (1..=self.last.get()).contains(number));
        let Some(number) = known else { return Some(Err(format!("there is no {path}"))) };
        let content = match &self.directory {
            Some(directory) => {
                File::open(directory.join(number.to_string())).and_then(|file| text(&file))
            }
            None => match self.unnamed.borrow().get(number - 1) {
                Some(file) => text(file),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        Some(content.map_err(|error| format!("cannot read {path}: {error}")))
    }
}

/// What a file holds, up to the limit.
pub(super) fn text(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len().min(KEPT_LIMIT);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The output of a command as it comes: head and tail for the conversation, all of it in a file once
/// something has to be left out.
#[derive(Debug)]
pub(super) struct Capture<'a> {
    outputs: &'a Outputs,
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    dropped: usize,
    whole: Option<(String, File)>,
    written: u64,
}

/// How much of a command's output is shown of each end, bytes.
const HEAD: usize = 6 * 1024;
const TAIL: usize = 10 * 1024;

impl<'a> Capture<'a> {
    pub fn new(outputs: &'a Outputs) -> Capture<'a> {
        let (head, tail) = Default::default();
        Capture { outputs, head, tail, dropped: 0, whole: None, written: 0 }
    }

    pub fn add(&mut self, bytes: &[u8]) {
        if let Some((_, file)) = &mut self.whole {
            self.written += save(file, bytes, self.written);
        }
        let room = HEAD - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(TAIL);
        if excess > 0 && self.whole.is_none() && self.dropped == 0 {
            self.begin_file();
        }
        self.tail.drain(..excess);
        self.dropped += excess;
    }

    /// Nothing has been left out so far: head and tail are all there is.
    fn begin_file(&mut self) {
        let Ok((name, mut file)) = self.outputs.create() else { return };
        let tail = self.tail.make_contiguous();
        for part in [&self.head[..], tail] {
            self.written += save(&mut file, part, self.written);
        }
        self.whole = Some((name, file));
    }

    pub fn text(&mut self) -> String {
        let tail = self.tail.make_contiguous();
        if self.dropped == 0 {
            return String::from_utf8_lossy(&[&self.head, &*tail].concat()).into_owned();
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(tail));
        let all = match &self.whole {
            Some((name, _)) => format!("; read {name:?} pages through all of it"),
            None => String::new(),
        };
        format!("{head}\n… {} bytes left out{all} …\n{tail}", self.dropped)
    }
}

/// Writes what still fits; a full disk costs the rest of the copy, not the command.
fn save(file: &mut File, bytes: &[u8], so_far: u64) -> u64 {
    let room = KEPT_LIMIT.saturating_sub(so_far).min(bytes.len() as u64);
    match file.write_all(&bytes[..room as usize]) {
        Ok(()) => room,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_output_is_cut_in_the_middle_and_kept_whole() {
        let outputs = Outputs::new(None);
        let mut capture = Capture::new(&outputs);
        let all: String = (0..5_000).map(|number| format!("line {number}\n")).collect();
        all.as_bytes().chunks(777).for_each(|part| capture.add(part));
        let shown = capture.text();
        assert!(shown.starts_with("line 0\n") && shown.ends_with("line 4999\n"));
        assert!(shown.len() < 20_000 && shown.contains("read \"@output/1\""), "{shown}");
        assert_eq!(outputs.read("@output/1").unwrap().unwrap(), all);
        assert!(outputs.read("@output/2").unwrap().is_err() && outputs.read("x").is_none());
    }

    #[test]
    fn outputs_go_on_where_an_earlier_run_ended() {
        let directory = tempfile::tempdir().unwrap();
        let place = Some(directory.path().join("outputs"));
        let (name, mut file) = Outputs::new(place.clone()).create().unwrap();
        file.write_all(b"first").unwrap();
        let again = Outputs::new(place);
        assert_eq!(again.create().unwrap().0, "@output/2");
        assert_eq!(again.read(&name).unwrap().unwrap(), "first");
    }
}
