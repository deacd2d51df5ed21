//! `zerostack sandbox -- CMD`: any command in a command cell of a mode, with the terminal attached.
//!
//! The cell never gets the user's terminal: it has one of its own, and bytes are carried between them.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use zerostack_sandbox::{
    Cell, Launcher, Program, Report as CellReport, Stdio, set_terminal_size, terminal_size,
};

use super::start;
use crate::cli::{RuleFlags, SandboxFlags};
use crate::report::Report;
use crate::supervisor::{Cells, Rights, command};

pub fn run(launcher: Launcher, flags: &SandboxFlags) -> Result<u8, Report> {
    let mut host = start::host(&flags.scope.add_dir)?;
    let judge = start::judge(&host, &flags.mode, &RuleFlags::default())?;
    let cells = Cells::new(launcher);
    start::scan(&cells, &judge, &mut host)?;
    // The user typed the command: that is the yes.
    let confinement = command(judge.policy(), judge.groups(), &host, Rights::Granted);
    let argv = flags.command.iter().map(|word| word.as_bytes().to_vec()).collect();
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let terminals = [input.is_terminal(), output.is_terminal(), error.is_terminal()];
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    let (rows, columns) = size(&streams, terminals);
    let stdio = match terminals.contains(&true) {
        true => Stdio::Terminal { rows, columns, streams: terminals },
        false => Stdio::Passed,
    };
    // Blocked before any thread starts, so that only the signal thread takes them.
    let signals = if stdio == Stdio::Passed { SigSet::empty() } else { watched_signals()? };
    let mut cell = cells
        .launcher()
        .spawn(&confinement, &Program::Command)
        .map_err(|failure| start::failure_report(&failure))?;
    cell.started(true).map_err(|error| start::start_report(&error))?;
    let mut pipes = Pipes::new(terminals)?;
    let passed: Vec<BorrowedFd> = pipes.inner.iter().map(AsFd::as_fd).collect();
    cell.run(argv, stdio, &passed).map_err(Report::error)?;
    pipes.inner.clear();
    let cell = Arc::new(cell);
    let mut end = cell.control().recv::<CellReport>();
    let mut attached = None;
    if let Ok((CellReport::Running, descriptors)) = end {
        if let Some(master) = descriptors.into_iter().next() {
            attached = Some(Attached::start(master, terminals, signals, &cell)?);
        }
        end = cell.control().recv::<CellReport>();
    }
    pipes.finish();
    if let Some(attached) = attached {
        attached.finish();
    }
    match end {
        Ok((CellReport::Exited(exit), _)) => Ok(exit.status() as u8),
        Ok((CellReport::Failed(failure), _)) => Err(start::failure_report(&failure)),
        Ok((CellReport::Started(_) | CellReport::Running, _)) => {
            Err(Report::error("the cell broke its protocol"))
        }
        Err(_) => Ok(128 + Signal::SIGKILL as u8),
    }
}

/// The size of the first stream that is a terminal.
fn size(streams: &[BorrowedFd; 3], terminals: [bool; 3]) -> (u16, u16) {
    let first = terminals.iter().position(|terminal| *terminal);
    first.and_then(|first| terminal_size(streams[first]).ok()).unwrap_or((24, 80))
}

/// Pipes for the streams that are no terminal. The user's own descriptors stay here: whoever holds
/// one can change the mode and the length of the file behind it.
struct Pipes {
    /// The cell's ends.
    inner: Vec<OwnedFd>,
    outputs: Vec<std::thread::JoinHandle<()>>,
}

impl Pipes {
    fn new(terminals: [bool; 3]) -> Result<Pipes, Report> {
        let mut pipes = Pipes { inner: Vec::new(), outputs: Vec::new() };
        for number in (0..3).filter(|number| !terminals[*number]) {
            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
                .map_err(|errno| Report::error(format!("cannot make a pipe: {errno}")))?;
            if number == 0 {
                pipes.inner.push(read);
                // Not waited for: nobody may be left to read what comes.
                std::thread::spawn(|| carry(&mut std::io::stdin(), &mut File::from(write)));
                continue;
            }
            pipes.inner.push(write);
            let mut from = File::from(read);
            pipes.outputs.push(std::thread::spawn(move || match number {
                1 => carry(&mut from, &mut std::io::stdout()),
                _ => carry(&mut from, &mut std::io::stderr()),
            }));
        }
        Ok(pipes)
    }

    /// Waits for what is still on its way out.
    fn finish(self) {
        drop(self.inner);
        for output in self.outputs {
            let _ = output.join();
        }
    }
}

fn watched_signals() -> Result<SigSet, Report> {
    let signals =
        SigSet::from_iter([Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT]);
    signals
        .thread_block()
        .map_err(|errno| Report::error(format!("cannot block signals: {errno}")))?;
    Ok(signals)
}

/// The threads that carry bytes between the user's terminal and the cell's, and the user's settings.
struct Attached {
    saved: Option<Termios>,
    output: std::thread::JoinHandle<()>,
}

impl Attached {
    fn start(
        master: OwnedFd,
        terminals: [bool; 3],
        signals: SigSet,
        cell: &Arc<Cell>,
    ) -> Result<Attached, Report> {
        let failed =
            |error: std::io::Error| Report::error(format!("cannot attach the terminal: {error}"));
        let mut saved = None;
        if terminals[0] {
            let before = tcgetattr(std::io::stdin()).map_err(|errno| failed(errno.into()))?;
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &raw)
                .map_err(|errno| failed(errno.into()))?;
            saved = Some(before);
            let mut to = File::from(master.try_clone().map_err(failed)?);
            std::thread::spawn(move || carry(&mut std::io::stdin(), &mut to));
        }
        // Read to the end in any case: a full terminal would stop whoever writes to it.
        let mut from = File::from(master.try_clone().map_err(failed)?);
        let output = std::thread::spawn(move || match terminals {
            [_, true, _] => carry(&mut from, &mut std::io::stdout()),
            [_, false, true] => carry(&mut from, &mut std::io::stderr()),
            [_, false, false] => carry(&mut from, &mut std::io::sink()),
        });
        let cell = Arc::clone(cell);
        std::thread::spawn(move || follow_signals(&signals, terminals, &master, &cell));
        Ok(Attached { saved, output })
    }

    /// Shows what is still on its way and gives the terminal back.
    fn finish(self) {
        let _ = self.output.join();
        if let Some(saved) = self.saved {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &saved);
        }
    }
}

/// Copies until either side is closed; the cell's end of a terminal that closes is an error (EIO).
fn carry(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

fn follow_signals(signals: &SigSet, terminals: [bool; 3], master: &OwnedFd, cell: &Cell) {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    while let Ok(signal) = signals.wait() {
        if signal != Signal::SIGWINCH {
            cell.kill();
            return;
        }
        let (rows, columns) = size(&streams, terminals);
        // The cell may be gone already.
        let _ = set_terminal_size(master.as_fd(), rows, columns);
    }
}
