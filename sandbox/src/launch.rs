//! The launcher process and the supervisor's side of it.
//!
//! The launcher is this same program, started with an empty environment before a key is read, with
//! one thread. It is the only process that forks cells.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;

use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, ChannelError};
use crate::enter::{Enforced, enter, keep_only};
use crate::error::{AtStep, Failure, Step};
use crate::init::{self, Exit};
use crate::spec::{Confinement, Program, Stdio, Syscalls};
use crate::{sys, syscalls};

const LAUNCHER_NAME: &str = "zerostack-launcher";

/// What a cell says about itself, on its control channel. A worker's own messages come after
/// `Started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// Confined and verified. Comes with a pidfd.
    Started(Enforced),
    /// Not entered, or the command could not be started. The cell is gone.
    Failed(Failure),
    /// The command is about to start. Comes with the master of its terminal if it asked for one.
    Running,
    /// The command has ended, and everything it left behind with it.
    Exited(Exit),
}

/// The command of a cell that was made ready for one.
#[derive(Debug, Serialize, Deserialize)]
struct CommandLine {
    argv: Vec<Vec<u8>>,
    stdio: Stdio,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    confinement: Confinement,
    program: Program,
}

/// Keeps other processes of the same user, and core files, from seeing into this one.
pub fn harden() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Whether this process was started to be the launcher.
pub fn is_launcher() -> bool {
    std::env::args_os().next().is_some_and(|name| name == LAUNCHER_NAME)
}

/// The launcher's life: forks a cell for each request until the supervisor is gone. `worker` runs
/// inside cells that ask for [`Program::Worker`] and returns when its channel closes.
pub fn run_launcher(worker: fn(&Channel)) -> i32 {
    match serve(worker) {
        Ok(()) => 0,
        // There is no stream to complain on: the supervisor sees the channel close.
        Err(_) => 1,
    }
}

fn serve(worker: fn(&Channel)) -> Result<(), ChannelError> {
    let requests = Channel::from_socket(io::stdin().as_fd().try_clone_to_owned()?);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::setsid()?;
    harden()?;
    sys::ignore_children();
    let mut filters = HashMap::new();
    loop {
        let (request, descriptors) = match requests.recv::<Request>() {
            Ok(received) => received,
            Err(ChannelError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut descriptors = descriptors.into_iter();
        let Some(control) = descriptors.next() else {
            return Err(ChannelError::Malformed("a request without a control channel"));
        };
        let filter = compiled(&mut filters, request.confinement.syscalls);
        let launched = filter.and_then(|filter| launch(&request, control.as_fd(), filter, worker));
        if let Err(failure) = launched {
            let _ = Channel::from_socket(control).send(&Report::Failed(failure), &[]);
        }
    }
}

/// Filters are compiled once for each kind of cell.
fn compiled(
    filters: &mut HashMap<[bool; 3], BpfProgram>,
    calls: Syscalls,
) -> Result<&BpfProgram, Failure> {
    Ok(match filters.entry([calls.exec, calls.sockets, calls.personality]) {
        Entry::Occupied(found) => found.into_mut(),
        Entry::Vacant(place) => place.insert(syscalls::compile(calls)?),
    })
}

fn launch(
    request: &Request,
    control: BorrowedFd,
    filter: &BpfProgram,
    worker: fn(&Channel),
) -> Result<(), Failure> {
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let identity = (nix::unistd::Uid::effective(), nix::unistd::Gid::effective());
    match sys::clone_process(namespaces).at(Step::Namespaces)? {
        Some(_) => Ok(()),
        None => {
            let Ok(control) = control.try_clone_to_owned() else { sys::exit_now(1) };
            let Ok(control) = keep_only(control) else { sys::exit_now(1) };
            let code = match live(request, &control, filter, worker, identity) {
                Ok(()) => 0,
                Err(failure) => {
                    let _ = control.send(&Report::Failed(failure), &[]);
                    1
                }
            };
            sys::exit_now(code)
        }
    }
}

/// A cell's life, in the new process.
fn live(
    request: &Request,
    control: &Channel,
    filter: &BpfProgram,
    worker: fn(&Channel),
    identity: (nix::unistd::Uid, nix::unistd::Gid),
) -> Result<(), Failure> {
    let lost = |error: ChannelError| Failure::because(Step::Channel, error.to_string());
    let enforced = enter(&request.confinement, filter, identity, control)?;
    let pidfd = sys::pidfd_of_self().at(Step::Channel)?;
    // A command's own process becomes dumpable again by exec; this one holds the control channel.
    nix::sys::prctl::set_dumpable(false).at(Step::Exec)?;
    control.send(&Report::Started(enforced), &[pidfd.as_fd()]).map_err(lost)?;
    drop(pidfd);
    match &request.program {
        Program::Probe => Ok(()),
        Program::Worker => {
            worker(control);
            Ok(())
        }
        Program::Command => match control.recv::<CommandLine>() {
            // Not needed after all.
            Err(ChannelError::Closed) => Ok(()),
            Err(error) => Err(lost(error)),
            Ok((line, descriptors)) => {
                let command = command(request, line, &descriptors)?;
                let master: Vec<BorrowedFd> = command.master.iter().map(AsFd::as_fd).collect();
                control.send(&Report::Running, &master).map_err(lost)?;
                drop(descriptors);
                init::run(control, command)
            }
        },
    }
}

fn command(
    request: &Request,
    line: CommandLine,
    descriptors: &[OwnedFd],
) -> Result<init::Command, Failure> {
    let variable =
        |(name, value): &(String, String)| c_string(format!("{name}={value}").into_bytes());
    let init::Streams { streams, terminal, master } = init::streams(line.stdio, descriptors)?;
    Ok(init::Command {
        argv: line.argv.into_iter().map(c_string).collect::<Result<_, _>>()?,
        environment: request
            .confinement
            .environment
            .iter()
            .map(variable)
            .collect::<Result<_, _>>()?,
        streams,
        terminal,
        master,
    })
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| Failure::because(Step::Exec, "an argument has a NUL byte"))
}

/// The supervisor's handle on the launcher. Dropping it ends the launcher and all its cells.
#[derive(Debug)]
pub struct Launcher {
    requests: Channel,
    process: Child,
}

impl Launcher {
    /// Starts `program` (this executable) as a launcher. Call it before any thread, runtime or key.
    #[expect(clippy::disallowed_methods, reason = "the one process that is not a cell")]
    pub fn start(program: &Path) -> Result<Launcher, Failure> {
        let (requests, theirs) = Channel::pair().at(Step::Launcher)?;
        let process = std::process::Command::new(program)
            .arg0(LAUNCHER_NAME)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .on(Step::Launcher, program)?;
        Ok(Launcher { requests, process })
    }

    /// Asks for a cell. Its first message is [`Report::Started`] or [`Report::Failed`].
    pub fn spawn(&self, confinement: &Confinement, program: &Program) -> Result<Cell, Failure> {
        let (ours, theirs) = Channel::pair().at(Step::Channel)?;
        let request = Request { confinement: confinement.clone(), program: program.clone() };
        self.requests.send(&request, &[theirs.as_fd()]).map_err(|error| {
            Failure::because(Step::Channel, format!("the launcher is gone ({error})"))
        })?;
        Ok(Cell { control: ours, pidfd: None })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The supervisor's handle on one cell. Dropping it kills everything in the cell.
#[derive(Debug)]
pub struct Cell {
    control: Channel,
    pidfd: Option<OwnedFd>,
}

impl Cell {
    pub fn control(&self) -> &Channel {
        &self.control
    }

    /// Takes the first message of the cell, which says what is enforced. Without `wait` it may be
    /// [`ChannelError::WouldBlock`].
    pub fn started(&mut self, wait: bool) -> Result<Enforced, StartError> {
        let (report, descriptors) =
            if wait { self.control.recv()? } else { self.control.try_recv()? };
        match report {
            Report::Started(enforced) => {
                self.pidfd = descriptors.into_iter().next();
                Ok(enforced)
            }
            Report::Failed(failure) => Err(StartError::Refused(failure)),
            Report::Running | Report::Exited(_) => {
                Err(ChannelError::Malformed("something before a start").into())
            }
        }
    }

    /// Sends the command to a started cell, with the descriptors that `stdio` asks for. The answer is
    /// [`Report::Running`], then [`Report::Exited`]; or [`Report::Failed`].
    pub fn run(
        &self,
        argv: Vec<Vec<u8>>,
        stdio: Stdio,
        descriptors: &[BorrowedFd],
    ) -> Result<(), ChannelError> {
        self.control.send(&CommandLine { argv, stdio }, descriptors)
    }

    /// Kills the cell's first process, and with it, by the kernel, all others.
    pub fn kill(&self) {
        if let Some(pidfd) = &self.pidfd {
            // It can only fail because the process has ended already.
            let _ = sys::pidfd_signal(pidfd.as_fd(), Signal::SIGKILL);
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Why [`Cell::started`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Refused(#[from] Failure),
    #[error("the cell ended before it was confined: {0}")]
    Channel(#[from] ChannelError),
}
