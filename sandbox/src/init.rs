//! Process 1 of a command cell: starts the command, reaps what it leaves, reports its end.
//!
//! When it ends, the kernel kills everything else in the cell; it ends with the command, or as soon
//! as the supervisor closes the control channel.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::error::{AtStep, Failure, Step};
use crate::launch::Report;
use crate::spec::Stdio;
use crate::sys;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The status as a shell shows it.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// A command ready to start.
#[derive(Debug)]
pub(crate) struct Command {
    pub argv: Vec<CString>,
    pub environment: Vec<CString>,
    pub streams: [OwnedFd; 3],
    pub terminal: Option<OwnedFd>,
    /// The other end of the terminal, on its way to the supervisor.
    pub master: Option<OwnedFd>,
}

/// The streams of a command, and both ends of its terminal if it has one.
#[derive(Debug)]
pub(crate) struct Streams {
    pub streams: [OwnedFd; 3],
    pub terminal: Option<OwnedFd>,
    /// For the supervisor.
    pub master: Option<OwnedFd>,
}

pub(crate) fn streams(stdio: Stdio, passed: &[OwnedFd]) -> Result<Streams, Failure> {
    let missing = || Failure::because(Step::Terminal, "the request has too few descriptors");
    let mut passed = passed.iter();
    let mut take = || passed.next().ok_or_else(missing)?.try_clone().at(Step::Terminal);
    match stdio {
        Stdio::Output => {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let null = open("/dev/null", flags, Mode::empty()).at(Step::Terminal)?;
            Ok(Streams { streams: [null, take()?, take()?], terminal: None, master: None })
        }
        Stdio::Passed => {
            Ok(Streams { streams: [take()?, take()?, take()?], terminal: None, master: None })
        }
        Stdio::Terminal { rows, columns, streams: [input, output, error] } => {
            let (master, slave) = open_terminal(rows, columns).at(Step::Terminal)?;
            let mut stream = |terminal: bool| match terminal {
                true => slave.try_clone().at(Step::Terminal),
                false => take(),
            };
            let streams = [stream(input)?, stream(output)?, stream(error)?];
            Ok(Streams { streams, terminal: Some(slave), master: Some(master) })
        }
    }
}

fn open_terminal(rows: u16, columns: u16) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    sys::unlock_pty(master.as_fd())?;
    let slave = sys::pty_peer(master.as_fd())?;
    sys::set_terminal_size(slave.as_fd(), rows, columns)?;
    Ok((master, slave))
}

/// Runs `command` to its end, reporting on `control`.
pub(crate) fn run(control: &Channel, command: Command) -> Result<(), Failure> {
    sys::default_signals();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).at(Step::Exec)?;
    let ended = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .at(Step::Exec)?;
    match sys::clone_process(nix::sched::CloneFlags::empty()).at(Step::Exec)? {
        None => {
            let failure = start(&command);
            let _ = control.send(&Report::Failed(failure), &[]);
            sys::exit_now(127)
        }
        Some(pid) => {
            drop(command);
            wait_for(control, &ended, pid).at(Step::Exec)
        }
    }
}

/// In the child: own session, own terminal, own streams, then the program.
fn start(command: &Command) -> Failure {
    match prepare(command) {
        Err(failure) => failure,
        Ok(()) => execute(command),
    }
}

fn prepare(command: &Command) -> Result<(), Failure> {
    let none = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None).at(Step::Exec)?;
    nix::unistd::setsid().at(Step::Terminal)?;
    if let Some(terminal) = &command.terminal {
        sys::set_controlling_terminal(terminal.as_fd()).at(Step::Terminal)?;
    }
    let [input, output, error] = &command.streams;
    nix::unistd::dup2_stdin(input).at(Step::Terminal)?;
    nix::unistd::dup2_stdout(output).at(Step::Terminal)?;
    nix::unistd::dup2_stderr(error).at(Step::Terminal)
}

/// execvp with the cell's own PATH.
fn execute(command: &Command) -> Failure {
    let Some(name) = command.argv.first() else {
        return Failure::because(Step::Exec, "the command line is empty");
    };
    let path = command.environment.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let mut places: Vec<Vec<u8>> = vec![Vec::new()];
    let searched = !name.to_bytes().contains(&b'/');
    if searched {
        places = path.unwrap_or_default().split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
    }
    let mut error = std::io::Error::from_raw_os_error(libc::ENOENT);
    for mut file in places {
        if !file.is_empty() {
            file.push(b'/');
        } else if searched {
            // An empty element of PATH means the working directory, which is the project's.
            continue;
        }
        file.extend_from_slice(name.to_bytes());
        let Ok(file) = CString::new(file) else { continue };
        let tried = sys::execve(&file, &command.argv, &command.environment);
        // A file that is there and may not be run says more than one that is absent elsewhere.
        if !matches!(tried.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            error = tried;
        }
    }
    Failure::new(Step::Exec, name.to_string_lossy(), &error)
}

fn wait_for(control: &Channel, ended: &SignalFd, command: Pid) -> nix::Result<()> {
    loop {
        let mut waiting = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        // The supervisor never writes to a command cell: anything here means "end".
        if waiting[0].any().unwrap_or(true) {
            return Ok(());
        }
        while ended.read_signal()?.is_some() {}
        if let Some(exit) = reap(command)? {
            let _ = control.send(&Report::Exited(exit), &[]);
            return Ok(());
        }
    }
}

/// Reaps all children that have ended; the exit of `command` if it is among them.
fn reap(command: Pid) -> nix::Result<Option<Exit>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => {
                return Ok(Some(Exit::Code(code)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Ok(Some(Exit::Signal(signal as i32)));
            }
            Err(Errno::ECHILD) | Ok(WaitStatus::StillAlive) => return Ok(None),
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
    }
}
