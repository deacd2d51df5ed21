//! Cells from the supervisor's side: start one, talk to it, collect a command's output. Everything
//! a cell says is treated as hostile: caps, time-outs, and a cell that breaks the protocol is killed.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use zerostack_sandbox::{
    Cell, ChannelError, Confinement, Enforced, Exit, Launcher, Mount, Program, Report, StartError,
    Stdio,
};

use super::outputs::Capture;
use crate::wire::{Call, Hello, Reply};

/// A cell that is not confined by then will not be.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a file worker's answer.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// How long an answer is waited for without going to sleep.
const SOON: Duration = Duration::from_micros(100);

/// The way to start cells.
#[derive(Debug)]
pub struct Cells {
    launcher: Launcher,
    /// A command cell that was made ready ahead of its command, while the model was thinking.
    spare: RefCell<Option<Spare>>,
}

#[derive(Debug)]
struct Spare {
    confinement: Confinement,
    cell: Cell,
    /// What its covers and pins were mounted on: a file that the host has replaced since lies open.
    covered: Vec<Option<(u64, u64)>>,
}

/// Device and inode of every file that is covered or pinned.
fn covered(confinement: &Confinement) -> Vec<Option<(u64, u64)>> {
    let identity = |mount: &Mount| match mount {
        Mount::Cover { .. } | Mount::Pin { .. } => {
            let facts = std::fs::symlink_metadata(mount.target()).ok();
            Some(facts.map(|facts| (facts.dev(), facts.ino())))
        }
        _ => None,
    };
    confinement.mounts.iter().filter_map(identity).collect()
}

/// A cell that is confined and verified.
#[derive(Debug)]
pub struct Running {
    cell: Cell,
    ready: AsyncFd<OwnedFd>,
    pub enforced: Enforced,
}

/// A command for a cell.
#[derive(Debug)]
pub struct CommandRequest {
    pub confinement: Confinement,
    pub argv: Vec<Vec<u8>>,
    pub limit: Duration,
}

/// What a command of the supervisor's own has printed.
#[derive(Debug)]
pub(super) struct Printed {
    /// `None` if it was killed because its time was over.
    pub exit: Option<Exit>,
    pub out: String,
    pub errors: String,
}

/// Most of it that is read, bytes.
pub(super) const PRINTED_LIMIT: u64 = 16 * 1024 * 1024;

/// How a command ended.
#[derive(Debug)]
pub struct CommandEnd {
    /// `None` if it was killed because its time was over.
    pub exit: Option<Exit>,
    /// Standard output and error as they came, cut in the middle.
    pub output: String,
}

impl Cells {
    pub fn new(launcher: Launcher) -> Cells {
        Cells { launcher, spare: RefCell::new(None) }
    }

    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Starts a cell and waits until it has verified itself.
    pub async fn start(
        &self,
        confinement: &Confinement,
        program: &Program,
    ) -> Result<Running, StartError> {
        Running::verified(self.launcher.spawn(confinement, program)?).await
    }

    /// Makes a command cell ready. Whether that works is seen when it is used.
    pub fn prepare(&self, confinement: &Confinement) {
        let covered = covered(confinement);
        let cell = self.launcher.spawn(confinement, &Program::Command);
        let spare = |cell| Spare { confinement: confinement.clone(), cell, covered };
        *self.spare.borrow_mut() = cell.ok().map(spare);
    }

    /// A fresh command cell: the spare one if it has exactly these rights.
    async fn command_cell(&self, confinement: &Confinement) -> Result<Running, StartError> {
        let spare = self.spare.borrow_mut().take();
        let fresh = |spare: &Spare| {
            spare.confinement == *confinement && spare.covered == covered(confinement)
        };
        if let Some(spare) = spare.filter(fresh)
            && let Ok(running) = Running::verified(spare.cell).await
        {
            return Ok(running);
        }
        self.start(confinement, &Program::Command).await
    }

    /// Runs a command to its end. Dropping the future kills it.
    pub(super) async fn run(
        &self,
        request: CommandRequest,
        mut capture: Capture<'_>,
    ) -> Result<CommandEnd, StartError> {
        let (output, input) = new_pipe()?;
        let running = self.begin(&request.confinement, request.argv, input.as_fd()).await?;
        drop(input);
        self.prepare(&request.confinement);
        let reader = pipe::Receiver::from_owned_fd(output).map_err(ChannelError::Os)?;
        let both = async {
            let (_, exit) = tokio::join!(fill(&mut capture, reader), running.exit());
            exit
        };
        let exit = match timeout(request.limit, both).await {
            Ok(exit) => Some(exit?),
            Err(_) => {
                running.cell.kill();
                None
            }
        };
        Ok(CommandEnd { exit, output: capture.text() })
    }

    /// Runs a command of the supervisor's own to its end, output and errors apart.
    pub(super) async fn output(
        &self,
        confinement: &Confinement,
        argv: Vec<Vec<u8>>,
        limit: Duration,
    ) -> Result<Printed, StartError> {
        let ((out, out_end), (errors, errors_end)) = (new_pipe()?, new_pipe()?);
        let running = self.start(confinement, &Program::Command).await?;
        running.cell.run(argv, Stdio::Output, &[out_end.as_fd(), errors_end.as_fd()])?;
        drop((out_end, errors_end));
        let all = async { tokio::join!(read_all(out), read_all(errors), running.exit()) };
        let (out, errors, exit) = match timeout(limit, all).await {
            Ok((out, errors, exit)) => (out, errors, Some(exit?)),
            Err(_) => {
                running.cell.kill();
                (String::new(), String::new(), None)
            }
        };
        Ok(Printed { exit, out, errors })
    }

    /// Starts a command whose output and errors go to `output`.
    pub(super) async fn begin(
        &self,
        confinement: &Confinement,
        argv: Vec<Vec<u8>>,
        output: BorrowedFd<'_>,
    ) -> Result<Running, StartError> {
        let running = self.command_cell(confinement).await?;
        running.cell.run(argv, Stdio::Output, &[output, output])?;
        Ok(running)
    }
}

async fn fill(capture: &mut Capture<'_>, mut from: pipe::Receiver) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        capture.add(&buffer[..length]);
    }
}

/// The two ends of a pipe: to read, and to write.
pub(super) fn new_pipe() -> Result<(OwnedFd, OwnedFd), ChannelError> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| ChannelError::Os(errno.into()))
}

async fn read_all(from: OwnedFd) -> String {
    let mut bytes = Vec::new();
    if let Ok(receiver) = pipe::Receiver::from_owned_fd(from) {
        // What came before an error is what there is.
        let _ = receiver.take(PRINTED_LIMIT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Running {
    /// Waits until a cell has verified itself.
    async fn verified(mut cell: Cell) -> Result<Running, StartError> {
        let watched = cell.control().as_fd().try_clone_to_owned().map_err(ChannelError::Os)?;
        #[expect(deprecated, reason = "its replacement is unsafe; an OwnedFd is what it asks for")]
        let ready = AsyncFd::new(watched).map_err(ChannelError::Os)?;
        let started = async {
            loop {
                let mut guard = ready.readable().await.map_err(ChannelError::Os)?;
                match cell.started(false) {
                    Err(StartError::Channel(ChannelError::WouldBlock)) => guard.clear_ready(),
                    other => return other,
                }
            }
        };
        let late = StartError::Channel(ChannelError::Malformed("no start in 20 seconds"));
        let enforced = timeout(START_LIMIT, started).await.unwrap_or(Err(late))?;
        Ok(Running { cell, ready, enforced })
    }

    /// The next message of the cell.
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<T, ChannelError> {
        loop {
            let mut guard = self.ready.readable().await?;
            match self.cell.control().try_recv() {
                Err(ChannelError::WouldBlock) => guard.clear_ready(),
                // No cell has a reason to send descriptors after its start; they are closed here.
                other => return other.map(|(message, _)| message),
            }
        }
    }

    /// The next message if it comes at once. Most answers of a file worker take less time than
    /// going to sleep and being woken would; giving the processor away lets the worker run on it.
    fn soon<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        let begun = Instant::now();
        while begun.elapsed() < SOON {
            match self.cell.control().try_recv() {
                Err(ChannelError::WouldBlock) => std::thread::yield_now(),
                other => return other.map(|(message, _)| Some(message)),
            }
        }
        Ok(None)
    }

    /// Runs a program in a cell that was made for one, with these as its standard streams.
    pub(super) fn run(
        &self,
        argv: Vec<Vec<u8>>,
        streams: &[BorrowedFd<'_>; 3],
    ) -> Result<(), ChannelError> {
        self.cell.run(argv, Stdio::Passed, streams)
    }

    /// Kills everything in the cell.
    pub(super) fn kill(&self) {
        self.cell.kill();
    }

    /// How a command has ended, if it has.
    pub(super) fn exit_now(&self) -> Option<Result<Exit, StartError>> {
        loop {
            return match self.cell.control().try_recv::<Report>() {
                Ok((Report::Running, _)) => continue,
                Err(ChannelError::WouldBlock) => None,
                Ok((report, _)) => Some(ending(Ok(report))),
                Err(error) => Some(ending(Err(error))),
            };
        }
    }

    /// Waits for the end of a command.
    pub(super) async fn exit(&self) -> Result<Exit, StartError> {
        loop {
            match self.recv().await {
                Ok(Report::Running) => {}
                other => return ending(other),
            }
        }
    }
}

/// What the last message of a command's cell means.
fn ending(report: Result<Report, ChannelError>) -> Result<Exit, StartError> {
    match report {
        Ok(Report::Exited(exit)) => Ok(exit),
        Ok(Report::Failed(failure)) => Err(StartError::Refused(failure)),
        Ok(Report::Started(_) | Report::Running) => {
            Err(ChannelError::Malformed("a second start").into())
        }
        // The kernel, or the limits, have killed the cell's first process.
        Err(ChannelError::Closed) => Ok(Exit::Signal(9)),
        Err(error) => Err(error.into()),
    }
}

/// The long-lived cell of the file tools.
#[derive(Debug)]
pub struct FileWorker {
    running: Running,
}

impl FileWorker {
    pub async fn start(
        cells: &Cells,
        confinement: &Confinement,
        hello: &Hello,
    ) -> Result<FileWorker, StartError> {
        let running = cells.start(confinement, &Program::Worker).await?;
        running.cell.control().send(hello, &[])?;
        Ok(FileWorker { running })
    }

    /// One call. After an error the worker must not be used again.
    pub async fn call(&self, call: &Call, granted: Option<OwnedFd>) -> Result<Reply, ChannelError> {
        let descriptors: Vec<BorrowedFd> = granted.iter().map(AsFd::as_fd).collect();
        self.running.cell.control().send(call, &descriptors)?;
        if let Some(reply) = self.running.soon()? {
            return Ok(reply);
        }
        let late = ChannelError::Malformed("no answer in two minutes");
        timeout(CALL_LIMIT, self.running.recv()).await.unwrap_or(Err(late))
    }

    pub fn enforced(&self) -> &Enforced {
        &self.running.enforced
    }
}
