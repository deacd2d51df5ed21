//! From a tool call to its result: what does it touch, may it, and which worker does it.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::Deserialize;
use tokio::sync::Mutex;
use zerostack_sandbox::{ChannelError, Enforced, Exit, StartError};

use super::cells::{Cells, CommandRequest, FileWorker};
use super::confine::{self, Extra, Rights};
use super::host::Host;
use crate::agent::{ToolResult, ToolStatus};
use crate::model::ToolCall;
use crate::policy::{self, Decision, Judge, Place, Subject, WorkspaceView};
use crate::tools::{BashArguments, Definition, Kind, definitions};
use crate::wire::{Call, Fault, Found, Hello, Reply, SCAN, ScanFor, Target};

const DEFAULT_SECONDS: u64 = 120;
/// Longest path the kernel takes, bytes.
const PATH_LIMIT: usize = 4096;

/// What a call may do beyond the rights that need no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    Unasked,
    /// A yes to exactly this call.
    This,
}

/// Decides and executes tool calls.
#[derive(Debug)]
pub struct Broker {
    cells: Cells,
    judge: Judge,
    host: Host,
    tools: Vec<Definition>,
    worker: Mutex<Option<FileWorker>>,
    enforced: Enforced,
}

#[derive(Debug, Deserialize)]
struct PathArgument {
    path: Option<String>,
}

impl Broker {
    /// Starts the file worker, which also shows that this machine can confine.
    pub async fn start(cells: Cells, judge: Judge, mut host: Host) -> Result<Broker, StartError> {
        scan(&cells, judge.policy(), judge.groups(), judge.denied_globs("read"), &mut host).await?;
        let worker = file_worker(&cells, &judge, &host, None).await?;
        let enforced = worker.enforced().clone();
        let tools = definitions();
        let broker =
            Broker { cells, judge, host, tools, worker: Mutex::new(Some(worker)), enforced };
        broker.prepare();
        Ok(broker)
    }

    /// Makes the cell of the most likely next command ready while the model is asked.
    fn prepare(&self) {
        let policy = self.judge.policy();
        if policy.command.unasked != WorkspaceView::None {
            let groups = self.judge.groups();
            let rights = Rights::Unasked;
            self.cells.prepare(&confine::command(policy, groups, &self.host, rights));
        }
    }

    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    pub fn policy(&self) -> &policy::Policy {
        self.judge.policy()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    fn tool(&self, name: &str) -> Option<&Definition> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// What a call is about, found out once: what is decided is what is done.
    pub fn look_at(&self, call: &ToolCall) -> Result<Subject, String> {
        let kind = self.tool(&call.name).map(|tool| tool.kind).ok_or("there is no such tool")?;
        match kind {
            Kind::Local => Ok(Subject::Nothing),
            Kind::Command => bash_arguments(call).map(|bash| Subject::Command(bash.command)),
            Kind::Reads | Kind::Walks | Kind::Changes => {
                Ok(Subject::Path(self.host.resolve(&path_argument(call, kind)?)))
            }
        }
    }

    /// What the policy says to a call about `subject`.
    pub fn decide(&self, call: &ToolCall, subject: &Subject) -> Decision {
        self.judge.decide(&policy::Call { tool: call.name.clone(), subject: subject.clone() })
    }

    /// Runs a call with the rights of `grant`. What it may really do is held by the worker it runs in.
    pub async fn execute(&self, call: &ToolCall, subject: &Subject, grant: Grant) -> ToolResult {
        let kind = self.tool(&call.name).map(|tool| tool.kind);
        match (kind, subject) {
            (Some(Kind::Command), _) => self.command(call, grant).await,
            (Some(Kind::Local), _) => self.file_call(call, Target::Nothing, "", None).await,
            (Some(kind), Subject::Path(place)) => self.path_call(call, kind, place, grant).await,
            _ => error(format!("{} cannot be used like this.", call.name)),
        }
    }

    async fn command(&self, call: &ToolCall, grant: Grant) -> ToolResult {
        let arguments = match bash_arguments(call) {
            Ok(arguments) => arguments,
            Err(message) => return error(message),
        };
        let policy = self.judge.policy();
        let rights = if grant == Grant::This { Rights::Granted } else { Rights::Unasked };
        let view = confine::command_rights(policy, rights);
        let confinement = confine::command(policy, self.judge.groups(), &self.host, rights);
        let wanted = arguments.timeout.unwrap_or(DEFAULT_SECONDS).max(1);
        let seconds = wanted.min(policy.limits.seconds);
        let request = CommandRequest {
            confinement,
            argv: vec![b"bash".into(), b"-c".into(), arguments.command.into_bytes()],
            limit: Duration::from_secs(seconds),
        };
        match self.cells.run(request).await {
            Err(failure) => error(format!("The command was not started: {failure}")),
            Ok(end) => {
                let ending = match end.exit {
                    None => format!("(killed after {seconds} s)"),
                    Some(Exit::Code(code)) => format!("(exit {code})"),
                    Some(Exit::Signal(signal)) => format!("(killed by signal {signal})"),
                };
                let copy = if view == WorkspaceView::Copy {
                    "\n(It ran on a private copy: the workspace is unchanged.)"
                } else {
                    ""
                };
                let line =
                    if end.output.is_empty() || end.output.ends_with('\n') { "" } else { "\n" };
                let status = if end.exit == Some(Exit::Code(0)) {
                    ToolStatus::Ok
                } else {
                    ToolStatus::Error
                };
                ToolResult { status, text: format!("{}{line}{ending}{copy}", end.output) }
            }
        }
    }

    async fn path_call(
        &self,
        call: &ToolCall,
        kind: Kind,
        place: &Place,
        grant: Grant,
    ) -> ToolResult {
        let shown = path_argument(call, kind).unwrap_or_default();
        if grant == Grant::Unasked {
            return match self.target(&place.path) {
                Some(target) => self.file_call(call, target, &shown, None).await,
                None => error(format!(
                    "{shown}: No such file or directory: it is outside of what this mode's file worker sees."
                )),
            };
        }
        match (grant_file(place, kind), kind) {
            (Err(errno), _) => error(format!("{shown}: {}", std::io::Error::from(errno))),
            (Ok(file), Kind::Walks) => self.walk_granted(call, place, &file, &shown).await,
            // A file made for this stays, empty, if the worker then fails: removing it by name could
            // remove another one.
            (Ok(file), _) => self.file_call(call, Target::Passed, &shown, Some(file)).await,
        }
    }

    /// What is walked needs a worker that sees it: one of its own, for this call. `file` is what was
    /// decided on; should the path name another one by now, the cell is refused.
    async fn walk_granted(
        &self,
        call: &ToolCall,
        place: &Place,
        file: &OwnedFd,
        shown: &str,
    ) -> ToolResult {
        let extra = match Extra::new(place, file) {
            Ok(extra) => extra,
            Err(errno) => return error(format!("{shown}: {}", std::io::Error::from(errno))),
        };
        let worker = match file_worker(&self.cells, &self.judge, &self.host, Some(&extra)).await {
            Ok(worker) => worker,
            Err(failure) => return error(format!("No worker could be started: {failure}")),
        };
        let number = worker_roots(&self.judge, &self.host, Some(&extra)).len() - 1;
        let below = place.path.strip_prefix(&extra.root).unwrap_or(Path::new(""));
        let path = below.as_os_str().as_bytes().to_vec();
        let target = Target::Beneath { root: number as u16, path };
        match worker.call(&self.wire_call(call, target, shown), None).await {
            Ok(reply) => tool_result(reply),
            Err(failure) => error(format!("The worker failed: {failure}")),
        }
    }

    /// The root of the file worker that `path` lies in, and the rest of it.
    fn target(&self, path: &Path) -> Option<Target> {
        let roots = worker_roots(&self.judge, &self.host, None);
        let fits = roots.iter().enumerate().filter(|(_, root)| path.starts_with(root));
        let (number, root) = fits.max_by_key(|(_, root)| root.components().count())?;
        let below = path.strip_prefix(root).ok()?;
        Some(Target::Beneath { root: number as u16, path: below.as_os_str().as_bytes().to_vec() })
    }

    fn wire_call(&self, call: &ToolCall, target: Target, shown: &str) -> Call {
        Call {
            tool: call.name.clone(),
            arguments: call.arguments.clone(),
            target,
            shown: shown.to_owned(),
            exclude: self.judge.denied_globs(&call.name),
        }
    }

    async fn file_call(
        &self,
        call: &ToolCall,
        target: Target,
        shown: &str,
        granted: Option<OwnedFd>,
    ) -> ToolResult {
        self.answer(&self.wire_call(call, target, shown), granted).await
    }

    /// Asks the long-lived worker; one that fails is killed and a new one started for the next call.
    async fn answer(&self, call: &Call, granted: Option<OwnedFd>) -> ToolResult {
        let mut slot = self.worker.lock().await;
        let worker = match slot.take() {
            Some(worker) => worker,
            None => match file_worker(&self.cells, &self.judge, &self.host, None).await {
                Ok(worker) => worker,
                Err(failure) => return error(format!("No worker could be started: {failure}")),
            },
        };
        match worker.call(call, granted).await {
            Ok(reply) => {
                *slot = Some(worker);
                tool_result(reply)
            }
            Err(failure) => {
                error(format!("The worker failed: {failure}. A new one takes its place."))
            }
        }
    }
}

fn error(text: String) -> ToolResult {
    ToolResult { status: ToolStatus::Error, text }
}

fn tool_result(reply: Reply) -> ToolResult {
    match reply {
        Reply::Done(output) => ToolResult { status: ToolStatus::Ok, text: output.text },
        Reply::Failed(Fault { message, .. }) => error(message),
        Reply::Found(_) => error("The worker answered another question.".into()),
    }
}

fn bash_arguments(call: &ToolCall) -> Result<BashArguments, String> {
    serde_json::from_str(&call.arguments)
        .map_err(|error| format!("the arguments of bash are wrong: {error}"))
}

fn path_argument(call: &ToolCall, kind: Kind) -> Result<String, String> {
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let argument: PathArgument = serde_json::from_str(text)
        .map_err(|error| format!("the arguments of {} are wrong: {error}", call.name))?;
    match argument.path {
        Some(path) if path.contains('\0') => Err("the path has a NUL byte".into()),
        Some(path) if path.len() > PATH_LIMIT => Err("the path is too long".into()),
        Some(path) if !path.is_empty() => Ok(path),
        _ if kind == Kind::Walks => Ok(".".into()),
        _ => Err(format!("the arguments of {} are wrong: missing field `path`", call.name)),
    }
}

/// Opens the one file that was granted, for the worker to use. The path has no links left; if one
/// has appeared since, it is not followed.
fn grant_file(place: &Place, kind: Kind) -> Result<OwnedFd, Errno> {
    // What /proc shows of this process is no file that anybody can grant.
    if ["/proc", "/sys", "/dev"].iter().any(|special| place.path.starts_with(special)) {
        return Err(Errno::EACCES);
    }
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let below = place.path.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = |flags: OFlag| {
        OpenHow::new().flags(flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(resolve)
    };
    if kind != Kind::Changes {
        return openat2(&root, below, how(OFlag::O_RDONLY));
    }
    match openat2(&root, below, how(OFlag::O_RDWR)) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let new = how(OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL);
    openat2(&root, below, new.mode(Mode::from_bits_truncate(0o644)))
}

/// The directories a file worker counts, in the order of its [`Hello`].
fn worker_roots(judge: &Judge, host: &Host, extra: Option<&Extra>) -> Vec<PathBuf> {
    let files = &judge.policy().files;
    let mut roots = Vec::new();
    if files.workspace != WorkspaceView::None {
        roots.extend(host.roots.iter().map(|root| root.path.clone()));
    }
    if files.disk == policy::DiskView::Host {
        roots.push("/".into());
    }
    roots.extend(extra.map(|extra| extra.root.clone()));
    roots
}

async fn file_worker(
    cells: &Cells,
    judge: &Judge,
    host: &Host,
    extra: Option<&Extra>,
) -> Result<FileWorker, StartError> {
    let confinement = confine::file_worker(judge.policy(), judge.groups(), host, extra);
    let hello = Hello { roots: worker_roots(judge, host, extra) };
    FileWorker::start(cells, &confinement, &hello).await
}

/// Finds the names in the workspace and the added directories that need protection, in a worker that
/// sees only those and cannot change them.
pub async fn scan(
    cells: &Cells,
    policy: &policy::Policy,
    groups: &policy::Groups,
    denied: Vec<String>,
    host: &mut Host,
) -> Result<(), StartError> {
    let confinement = confine::scanner(policy, groups, host);
    let hello = Hello { roots: host.roots.iter().map(|root| root.path.clone()).collect() };
    let worker = FileWorker::start(cells, &confinement, &hello).await?;
    let names = &groups.secrets.workspace;
    let (secrets, except) = (names.names.clone(), names.except.clone());
    let wanted = ScanFor { secrets, except, denied };
    let arguments = serde_json::to_string(&wanted)
        .map_err(|_| ChannelError::Malformed("the scan cannot be asked for"))?;
    for (number, root) in host.roots.iter_mut().enumerate() {
        let call = Call {
            tool: SCAN.into(),
            arguments: arguments.clone(),
            target: Target::Beneath { root: number as u16, path: Vec::new() },
            shown: root.path.display().to_string(),
            exclude: Vec::new(),
        };
        root.found = match worker.call(&call, None).await? {
            Reply::Found(found) => checked(found),
            _ => return Err(ChannelError::Malformed("the scan failed").into()),
        };
    }
    Ok(())
}

/// A worker's paths are not trusted to stay inside.
fn checked(mut found: Found) -> Found {
    let inside = |path: &PathBuf| {
        path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    for list in [&mut found.secrets, &mut found.git, &mut found.sockets] {
        list.retain(inside);
    }
    found
}
