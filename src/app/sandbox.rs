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
use crate::cli::SandboxFlags;
use crate::report::Report;
use crate::supervisor::{Cells, Rights, command};

pub fn run(launcher: Launcher, flags: &SandboxFlags) -> Result<u8, Report> {
    let mut host = start::host(&flags.scope.add_dir)?;
    let (groups, policy) = start::policy(flags.mode.mode(), &host)?;
    let cells = Cells::new(launcher);
    start::scan(&cells, &policy, &groups, &mut host)?;
    // The user typed the command: that is the yes.
    let confinement = command(&policy, &groups, &host, Rights::Granted);
    let argv = flags.command.iter().map(|word| word.as_bytes().to_vec()).collect();
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let terminals = [input.is_terminal(), output.is_terminal(), error.is_terminal()];
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    let stdio = stdio(terminals, &streams);
    let passed: Vec<BorrowedFd> = streams
        .into_iter()
        .zip(terminals)
        .filter(|(_, terminal)| !terminal)
        .map(|(fd, _)| fd)
        .collect();
    // Blocked before any thread starts, so that only the signal thread takes them.
    let signals = if stdio == Stdio::Passed { SigSet::empty() } else { watched_signals()? };
    let mut cell = cells
        .launcher()
        .spawn(&confinement, &Program::Command)
        .map_err(|failure| start::failure_report(&failure))?;
    cell.started(true).map_err(|error| start::start_report(&error))?;
    cell.run(argv, stdio, &passed).map_err(Report::error)?;
    let cell = Arc::new(cell);
    let mut end = cell.control().recv::<CellReport>();
    let mut attached = None;
    if let Ok((CellReport::Running, descriptors)) = end {
        if let Some(master) = descriptors.into_iter().next() {
            attached = Some(Attached::start(master, terminals, signals, &cell)?);
        }
        end = cell.control().recv::<CellReport>();
    }
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

fn stdio(terminals: [bool; 3], streams: &[BorrowedFd; 3]) -> Stdio {
    let Some(terminal) = terminals.iter().position(|terminal| *terminal) else {
        return Stdio::Passed;
    };
    let (rows, columns) = terminal_size(streams[terminal]).unwrap_or((24, 80));
    Stdio::Terminal { rows, columns, streams: terminals }
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
    output: Option<std::thread::JoinHandle<()>>,
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
        let mut output = None;
        if terminals[1] || terminals[2] {
            let mut from = File::from(master.try_clone().map_err(failed)?);
            output = Some(std::thread::spawn(move || {
                if terminals[1] {
                    carry(&mut from, &mut std::io::stdout());
                } else {
                    carry(&mut from, &mut std::io::stderr());
                }
            }));
        }
        let cell = Arc::clone(cell);
        std::thread::spawn(move || follow_signals(&signals, &master, &cell));
        Ok(Attached { saved, output })
    }

    /// Shows what is still on its way and gives the terminal back.
    fn finish(self) {
        if let Some(output) = self.output {
            let _ = output.join();
        }
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

fn follow_signals(signals: &SigSet, master: &OwnedFd, cell: &Cell) {
    while let Ok(signal) = signals.wait() {
        if signal != Signal::SIGWINCH {
            cell.kill();
            return;
        }
        if let Ok((rows, columns)) = terminal_size(std::io::stdin().as_fd()) {
            // The cell may be gone already.
            let _ = set_terminal_size(master.as_fd(), rows, columns);
        }
    }
}
