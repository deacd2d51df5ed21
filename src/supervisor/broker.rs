//! From a tool call to its result: what does it touch, may it, and which worker does it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::Deserialize;
use tokio::sync::Mutex;
use zerostack_sandbox::{Confinement, Enforced, Exit, StartError};

use super::cells::{Cells, CommandRequest, FileWorker, new_pipe};
use super::confine::{self, Extra, Rights};
use super::host::Host;
use super::jobs::Jobs;
use super::mcp::Servers;
use super::outputs::{Capture, Outputs};
use crate::agent::{ToolResult, ToolStatus};
use crate::memory::Memory;
use crate::model::{Attachment, ToolCall};
use crate::policy::{self, Action, Decision, Judge, Place, Rule, Subject, WorkspaceView};
use crate::session::Change;
use crate::tools::{BashArguments, Definition, JobsArguments, Kind, definitions};
use crate::wire::{
    Before, Call, Fault, Hello, LIKE, Output, RESTORE, Reply, Restore, Takes, Target,
};

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
    pub(super) options: Options,
    jobs: Jobs,
    /// Hashes of files as the model last saw them.
    seen: RefCell<HashMap<Seen, String>>,
    /// Allowing rules that the user has given during the session.
    granted: RefCell<Vec<Rule>>,
    /// Rules that the user has taken back.
    withdrawn: RefCell<HashSet<String>>,
    /// Files of the memory as they were when a change of them was shown, by call.
    pub(super) shown: RefCell<HashMap<String, String>>,
}

/// A conversation (empty for the session's own, else the call of the sub-agent) and a path: what one of
/// them has read, another one has not.
type Seen = (String, PathBuf);

/// What a session wants of its tools.
#[derive(Debug)]
pub struct Options {
    pub takes: Takes,
    /// Files are edited by anchors.
    pub hashed: bool,
    pub outputs: Outputs,
    pub seen: HashMap<PathBuf, String>,
    /// What is remembered, unless that is switched off.
    pub memory: Option<Memory>,
    /// More tools.
    pub servers: Servers,
}

impl Default for Options {
    fn default() -> Options {
        let (takes, hashed, seen, memory, servers) = Default::default();
        Options { takes, hashed, outputs: Outputs::new(None), seen, memory, servers }
    }
}

/// What the user has given, and what runs in the background, under a mode.
#[derive(Debug)]
pub struct Given {
    mode: policy::Mode,
    rules: Vec<Rule>,
    withdrawn: HashSet<String>,
    jobs: Jobs,
    servers: Servers,
}

impl Given {
    /// How many rules, and how many commands that have not ended.
    pub fn counts(&self) -> (usize, usize) {
        (self.rules.len(), self.jobs.running())
    }
}

/// What a call has done.
#[derive(Debug)]
pub struct Executed {
    pub result: ToolResult,
    /// A file that is not what it was.
    pub change: Option<Change>,
    /// A file that the model has seen: path and hash.
    pub seen: Option<(PathBuf, String)>,
    /// What the sandbox stopped, and whether a yes to the call would let it through.
    pub stopped: Option<Stopped>,
}

/// Why a command failed although nobody had denied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    pub why: &'static str,
    /// With a yes it has the rights for it.
    pub may_be_granted: bool,
}

impl From<ToolResult> for Executed {
    fn from(result: ToolResult) -> Executed {
        Executed { result, change: None, seen: None, stopped: None }
    }
}

/// The arguments that the supervisor looks at.
#[derive(Debug, Deserialize)]
struct Page {
    path: Option<String>,
    #[serde(default)]
    offset: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

impl Broker {
    /// Starts the file worker, which also shows that this machine can confine.
    pub async fn start(
        cells: Cells,
        judge: Judge,
        host: Host,
        mut options: Options,
    ) -> Result<Broker, StartError> {
        let worker = file_worker(&cells, &judge, &host, None).await?;
        let enforced = worker.enforced().clone();
        let broker = Broker {
            cells,
            judge,
            host,
            tools: definitions(options.hashed),
            worker: Mutex::new(Some(worker)),
            enforced,
            jobs: Jobs::default(),
            seen: RefCell::new(
                std::mem::take(&mut options.seen)
                    .into_iter()
                    .map(|(path, hash)| ((String::new(), path), hash))
                    .collect(),
            ),
            options,
            granted: RefCell::default(),
            withdrawn: RefCell::default(),
            shown: RefCell::default(),
        };
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

    /// Ends the workers and gives back what others are made from: the way to start cells, what the model
    /// has seen of files, and what was given and started during the session.
    pub fn dissolve(self) -> (Cells, HashMap<PathBuf, String>, Given) {
        let seen = self.seen.into_inner().into_iter();
        let own = seen.filter(|((conversation, _), _)| conversation.is_empty());
        let seen = own.map(|((_, path), hash)| (path, hash)).collect();
        let mode = self.judge.policy().name;
        let (rules, withdrawn) = (self.granted.into_inner(), self.withdrawn.into_inner());
        let (jobs, servers) = (self.jobs, self.options.servers);
        (self.cells, seen, Given { mode, rules, withdrawn, jobs, servers })
    }

    /// Takes over what was given under the same mode; under another one it would have other rights, and
    /// comes back.
    pub fn take_over(&mut self, given: Given) -> Option<Given> {
        if given.mode != self.judge.policy().name {
            // They were started with the rights of the other mode.
            given.servers.stop_all();
            return Some(given);
        }
        self.granted = RefCell::new(given.rules);
        self.withdrawn = RefCell::new(given.withdrawn);
        self.jobs = given.jobs;
        self.options.servers.adopt(&given.servers);
        None
    }

    /// Ends background commands and servers.
    pub fn end_all(&self) {
        self.jobs.stop_all();
        self.options.servers.stop_all();
    }

    /// How many background commands have not ended.
    pub fn running_jobs(&self) -> usize {
        self.jobs.running()
    }

    /// The background commands, or one of them with the end of its output; ends it, if that is wanted.
    pub async fn jobs(&self, id: Option<u64>, stop: bool) -> Result<String, String> {
        match id {
            Some(id) => self.jobs.look(id, None, stop).await,
            None => Ok(self.jobs.list()),
        }
    }

    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    pub fn enforced(&self) -> &Enforced {
        &self.enforced
    }

    pub fn policy(&self) -> &policy::Policy {
        self.judge.policy()
    }

    pub fn groups(&self) -> &policy::Groups {
        self.judge.groups()
    }

    /// Makes the tools known that servers offer by now.
    pub(super) fn offer_servers(&mut self) {
        self.tools.retain(|tool| tool.kind != Kind::Mcp);
        self.tools.extend(self.options.servers.definitions());
    }

    /// The tools that servers offer.
    pub fn server_tools(&self) -> impl Iterator<Item = &Definition> {
        self.tools.iter().filter(|tool| tool.kind == Kind::Mcp)
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What a tool needs.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.tool(name).map(|tool| tool.kind)
    }

    /// The rule that would let exactly this call through, if any rule can.
    pub fn exact_rule(&self, call: &ToolCall, subject: &Subject) -> Option<String> {
        let text = match subject {
            // A star in a rule stands for anything.
            Subject::Command(command) if command.contains('*') => return None,
            Subject::Command(command) => format!("{}({command})", call.name),
            Subject::Path(place) => {
                let path = place.path.strip_prefix(&self.host.workspace).unwrap_or(&place.path);
                let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
                format!("{}({})", call.name, globset::escape(path.to_str()?))
            }
            Subject::Name(name) => format!("{}({name})", call.name),
            Subject::Nothing => call.name.clone(),
        };
        self.would_allow(call, subject, &text).then_some(text)
    }

    /// What a change would do to a file that the un-asked worker can see.
    pub(super) async fn preview(&self, call: &ToolCall, subject: &Subject) -> Option<String> {
        let place = match subject {
            Subject::Path(place) => place,
            Subject::Name(name) => return self.memory_preview(call, name),
            Subject::Command(_) | Subject::Nothing => return None,
        };
        if self.kind(&call.name) != Some(Kind::Changes) {
            return None;
        }
        let target = self.target(&place.path)?;
        let shown = path_argument(call, Kind::Changes).ok()?;
        let mut wire = self.wire_call(call, target, &shown);
        wire.preview = true;
        // What the model has seen does not matter for what would happen to the file as it is.
        let reply = self.answer(wire, None, None).await;
        (reply.result.status == ToolStatus::Ok).then_some(reply.result.text)
    }

    fn tool(&self, name: &str) -> Option<&Definition> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// What a call is about, found out once: what is decided is what is done.
    pub fn look_at(&self, call: &ToolCall) -> Result<Subject, String> {
        let kind = self.tool(&call.name).map(|tool| tool.kind).ok_or("there is no such tool")?;
        match kind {
            Kind::Local | Kind::Jobs | Kind::Task | Kind::Mcp => Ok(Subject::Nothing),
            Kind::Memory => self.memory_subject(call),
            Kind::Command => {
                arguments::<BashArguments>(call).map(|bash| Subject::Command(bash.command))
            }
            Kind::Reads | Kind::Walks | Kind::Changes => {
                Ok(Subject::Path(self.host.resolve(&path_argument(call, kind)?)))
            }
        }
    }

    /// What the policy says to a call about `subject`.
    pub fn decide(&self, call: &ToolCall, subject: &Subject) -> Decision {
        match self.judge.decide_with(&policy_call(call, subject), &self.granted.borrow()) {
            Decision::Grant { rule } if self.withdrawn.borrow().contains(&rule) => {
                Decision::Ask { reason: format!("You have withdrawn the rule {rule}.") }
            }
            decision => decision,
        }
    }

    /// Whether a rule would let a call through.
    pub(super) fn would_allow(&self, call: &ToolCall, subject: &Subject, rule: &str) -> bool {
        let Ok(rule) = Rule::parse(Action::Allow, rule, &self.host.workspace) else { return false };
        let decision = self.judge.decide_with(&policy_call(call, subject), &[rule]);
        matches!(decision, Decision::Grant { .. } | Decision::Allow { .. })
    }

    /// Gives what a rule allows until the session ends.
    pub fn grant(&self, rule: &str) -> Result<(), policy::RuleError> {
        let parsed = Rule::parse(Action::Allow, rule, &self.host.workspace)?;
        self.withdrawn.borrow_mut().remove(rule);
        self.granted.borrow_mut().push(parsed);
        Ok(())
    }

    /// The rules given during the session.
    pub fn grants(&self) -> Vec<String> {
        self.granted.borrow().iter().map(Rule::text).collect()
    }

    /// Takes a rule back, wherever it was given: what only it allows is asked about.
    pub(super) fn withdraw(&self, rule: &str) {
        self.granted.borrow_mut().retain(|granted| granted.text() != rule);
        self.withdrawn.borrow_mut().insert(rule.to_owned());
    }

    /// What a call of `read` gets if it is about an output that was kept: no file of anybody's, and
    /// shown before, in part.
    pub fn kept_output(&self, call: &ToolCall) -> Option<ToolResult> {
        if self.tool(&call.name)?.kind != Kind::Reads {
            return None;
        }
        let page: Page = serde_json::from_str(&call.arguments).ok()?;
        let text = self.options.outputs.read(&page.path?)?;
        let text =
            text.and_then(|text| crate::tools::read::page(&text, page.offset, page.limit, false));
        Some(text.map_or_else(error, |text| ToolResult::new(ToolStatus::Ok, text)))
    }

    /// Runs a call with the rights of `grant`. What it may really do is held by the worker it runs in.
    /// `conversation` is empty for the session's own, else the call of the sub-agent.
    pub async fn execute(
        &self,
        call: &ToolCall,
        subject: &Subject,
        grant: Grant,
        conversation: &str,
    ) -> Executed {
        let kind = self.tool(&call.name).map(|tool| tool.kind);
        match (kind, subject) {
            (Some(Kind::Command), _) => self.command(call, grant).await,
            (Some(Kind::Jobs), _) => self.look_at_jobs(call).await.into(),
            (Some(Kind::Mcp), _) => self.mcp_call(call).await.into(),
            (Some(Kind::Memory), _) => self.remember_or_recall(call, subject).into(),
            (Some(Kind::Local), _) => {
                self.file_call(call, Target::Nothing, "", None, None).await.into()
            }
            (Some(kind), Subject::Path(place)) => {
                let seen = (conversation.to_owned(), place.path.clone());
                let reply = self.path_call(call, kind, place, grant, &seen).await;
                self.remember(seen, reply)
            }
            _ => error(format!("{} cannot be used like this.", call.name)).into(),
        }
    }

    /// Notes what the model has seen of a file and what a change has replaced.
    fn remember(&self, key: Seen, reply: PathReply) -> Executed {
        let PathReply { result, hash, before } = reply;
        let change = before.zip(hash.clone()).map(|(Before(before), after)| Change {
            path: key.1.clone(),
            before,
            after,
        });
        let seen = hash.map(|hash| (key.1.clone(), hash));
        if let Some((_, hash)) = &seen {
            self.seen.borrow_mut().insert(key, hash.clone());
        }
        Executed { result, change, seen, stopped: None }
    }

    async fn look_at_jobs(&self, call: &ToolCall) -> ToolResult {
        let wanted = match arguments::<JobsArguments>(call) {
            Ok(wanted) => wanted,
            Err(message) => return error(message),
        };
        let looked = match wanted.id {
            None => Ok(self.jobs.list()),
            Some(id) => self.jobs.look(id, wanted.wait, wanted.stop).await,
        };
        looked.map_or_else(error, |text| ToolResult::new(ToolStatus::Ok, text))
    }

    async fn command(&self, call: &ToolCall, grant: Grant) -> Executed {
        let arguments = match arguments::<BashArguments>(call) {
            Ok(arguments) => arguments,
            Err(message) => return error(message).into(),
        };
        let policy = self.judge.policy();
        let subject = Subject::Command(arguments.command.clone());
        let rights = if grant == Grant::This { Rights::Granted } else { Rights::Unasked };
        let confinement = confine::command(policy, self.judge.groups(), &self.host, rights);
        let argv = vec![b"bash".into(), b"-c".into(), arguments.command.clone().into_bytes()];
        if arguments.background {
            return self.in_background(&confinement, argv, arguments.command).await.into();
        }
        let wanted = arguments.timeout.unwrap_or(DEFAULT_SECONDS).max(1);
        let seconds = wanted.min(policy.limits.seconds);
        let request = CommandRequest { confinement, argv, limit: Duration::from_secs(seconds) };
        match self.cells.run(request, Capture::new(&self.options.outputs)).await {
            Err(failure) => error(format!("The command was not started: {failure}")).into(),
            Ok(end) => {
                let ending = match end.exit {
                    None => format!("(killed after {seconds} s)"),
                    Some(Exit::Code(code)) => format!("(exit {code})"),
                    Some(Exit::Signal(signal)) => format!("(killed by signal {signal})"),
                };
                let copy = if confine::command_rights(policy, rights) == WorkspaceView::Copy {
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
                let stopped = match status {
                    ToolStatus::Ok => None,
                    _ => stopped(&end.output, policy, rights),
                };
                let rule = self.exact_rule(call, &subject);
                let hint = stopped.map(|stopped| hint(stopped, rule)).unwrap_or_default();
                let text = format!("{}{line}{ending}{copy}{hint}", end.output);
                Executed { stopped, ..ToolResult::new(status, text).into() }
            }
        }
    }

    /// Starts a command that ends with the session at the latest.
    async fn in_background(
        &self,
        confinement: &Confinement,
        argv: Vec<Vec<u8>>,
        command: String,
    ) -> ToolResult {
        if !self.jobs.has_room() {
            return error("Too many background commands are running; stop one first.".into());
        }
        let (output, input) = match new_pipe() {
            Ok(ends) => ends,
            Err(failure) => return error(format!("There is no pipe for its output: {failure}")),
        };
        match self.cells.begin(confinement, argv, input.as_fd()).await {
            Err(failure) => error(format!("The command was not started: {failure}")),
            Ok(running) => {
                let id = self.jobs.add(command, running, output.into());
                ToolResult::new(ToolStatus::Ok, format!("Background command {id} is running."))
            }
        }
    }

    async fn path_call(
        &self,
        call: &ToolCall,
        kind: Kind,
        place: &Place,
        grant: Grant,
        seen: &Seen,
    ) -> PathReply {
        let shown = path_argument(call, kind).unwrap_or_default();
        if grant == Grant::Unasked {
            return match self.target(&place.path) {
                Some(target) => self.file_call(call, target, &shown, Some(seen), None).await,
                None => error(format!(
                    "{shown}: No such file or directory: it is outside of what this mode's file worker sees."
                ))
                .into(),
            };
        }
        if self.host.is_own(&place.path) {
            let denied = std::io::Error::from(Errno::EACCES);
            return error(format!("{shown}: {denied}: no yes gives zerostack's own files")).into();
        }
        match (grant_file(place, kind), kind) {
            (Err(errno), _) => error(format!("{shown}: {}", std::io::Error::from(errno))).into(),
            (Ok(file), Kind::Walks) => self.walk_granted(call, place, &file, &shown).await.into(),
            // A file made for this stays, empty, if the worker then fails: removing it by name could
            // remove another one.
            (Ok(file), _) => {
                self.file_call(call, Target::Passed, &shown, Some(seen), Some(file)).await
            }
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
            Ok(reply) => path_reply(reply).result,
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
            seen: None,
            takes: self.options.takes,
            hashed: self.options.hashed,
            preview: false,
        }
    }

    async fn file_call(
        &self,
        call: &ToolCall,
        target: Target,
        shown: &str,
        seen: Option<&Seen>,
        granted: Option<OwnedFd>,
    ) -> PathReply {
        self.answer(self.wire_call(call, target, shown), seen, granted).await
    }

    /// Asks the long-lived worker; one that fails is killed and a new one started for the next call.
    async fn answer(
        &self,
        mut call: Call,
        seen: Option<&Seen>,
        granted: Option<OwnedFd>,
    ) -> PathReply {
        let mut slot = self.worker.lock().await;
        // Only now: the call before may have changed the same file.
        call.seen = seen.and_then(|seen| self.seen.borrow().get(seen).cloned());
        let worker = match slot.take() {
            Some(worker) => worker,
            None => match file_worker(&self.cells, &self.judge, &self.host, None).await {
                Ok(worker) => worker,
                Err(failure) => {
                    return error(format!("No worker could be started: {failure}")).into();
                }
            },
        };
        match worker.call(&call, granted).await {
            Ok(reply) => {
                *slot = Some(worker);
                path_reply(reply)
            }
            Err(failure) => {
                error(format!("The worker failed: {failure}. A new one takes its place.")).into()
            }
        }
    }

    /// Files of the workspace with these letters in their path, as far as `find_files` may look without a
    /// question.
    pub async fn files_like(&self, letters: &str) -> Vec<String> {
        let find = ToolCall {
            id: String::new(),
            name: "find_files".into(),
            arguments: "{\"pattern\":\"*\"}".into(),
        };
        let Ok(subject) = self.look_at(&find) else { return Vec::new() };
        let Decision::Allow { .. } = self.decide(&find, &subject) else { return Vec::new() };
        let Some(target) = self.target(&self.host.workspace) else { return Vec::new() };
        let mut call = self.wire_call(&find, target, ".");
        call.tool = LIKE.into();
        call.arguments = serde_json::Value::from(letters).to_string();
        let result = self.answer(call, None, None).await.result;
        match result.status {
            ToolStatus::Ok => result.text.lines().map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    /// The branch that is checked out, as far as a worker may look without a question.
    pub async fn branch(&self) -> Option<String> {
        if let Some(linked) = &self.host.linked {
            return Some(linked.branch.clone());
        }
        let arguments = "{\"path\":\".git/HEAD\"}".to_owned();
        let read = ToolCall { id: String::new(), name: "read".into(), arguments };
        let subject = self.look_at(&read).ok()?;
        let Decision::Allow { .. } = self.decide(&read, &subject) else { return None };
        // Not as if the model had seen it.
        let target = self.target(&self.host.workspace.join(".git/HEAD"))?;
        let result = self.file_call(&read, target, ".git/HEAD", None, None).await.result;
        let (_, branch) = result.text.lines().next()?.split_once("ref: refs/heads/")?;
        // git has no branch with blanks: in a line of the screen it would be more than a name.
        let named = result.status == ToolStatus::Ok && !branch.contains(char::is_whitespace);
        named.then(|| branch.to_owned())
    }

    /// Whether changes can be taken back at all: tools must be able to change files without a question.
    pub fn may_restore(&self) -> Result<(), String> {
        match self.judge.policy().files.workspace {
            WorkspaceView::ReadWrite => Ok(()),
            _ => Err(format!("in mode {} no file is put back", self.judge.policy().name)),
        }
    }

    /// Takes a change back, with the rights of the un-asked worker: the file as the tool left it
    /// becomes what it was before. With `check` it is only found out whether that can be done.
    pub async fn restore(&self, change: &Change, check: bool) -> Result<Restored, String> {
        self.put(change, Some(change.after.clone()), check).await
    }

    /// What putting a file back would do to it as it is now, whoever has changed it since.
    pub async fn compare(&self, change: &Change) -> Result<Restored, String> {
        self.put(change, None, true).await
    }

    async fn put(
        &self,
        change: &Change,
        expected: Option<String>,
        check: bool,
    ) -> Result<Restored, String> {
        let shown = change.path.strip_prefix(&self.host.workspace).unwrap_or(&change.path);
        let shown = shown.display().to_string();
        let target =
            self.target(&change.path).ok_or(format!("{shown} is out of reach in this mode"))?;
        let wanted = Restore { text: change.before.clone(), expected };
        let arguments = serde_json::to_string(&wanted).map_err(|error| error.to_string())?;
        let mut call = Call::internal(RESTORE, arguments, target, shown);
        call.preview = check;
        let reply = self.answer(call, None, None).await;
        match reply.result.status {
            ToolStatus::Ok => {
                let before = reply.before.and_then(|Before(text)| text);
                let after = reply.hash.unwrap_or_default();
                let back = Change { path: change.path.clone(), before, after };
                Ok(Restored { diff: reply.result.text, back })
            }
            _ => Err(reply.result.text),
        }
    }
}

/// A file that was put back to what it was.
#[derive(Debug)]
pub struct Restored {
    /// What that did, as a unified diff.
    pub diff: String,
    /// What would undo it.
    pub back: Change,
}

/// A worker's reply about one path.
#[derive(Debug)]
struct PathReply {
    result: ToolResult,
    hash: Option<String>,
    before: Option<Before>,
}

impl From<ToolResult> for PathReply {
    fn from(result: ToolResult) -> PathReply {
        PathReply { result, hash: None, before: None }
    }
}

impl From<PathReply> for Executed {
    fn from(reply: PathReply) -> Executed {
        reply.result.into()
    }
}

fn policy_call(call: &ToolCall, subject: &Subject) -> policy::Call {
    policy::Call { tool: call.name.clone(), subject: subject.clone() }
}

/// What the sandbox stopped, told by the errors of the kernel in the output of a command that failed.
fn stopped(output: &str, policy: &policy::Policy, rights: Rights) -> Option<Stopped> {
    let has = |signs: &[&str]| signs.iter().any(|sign| output.contains(sign));
    if has(&READ_ONLY) {
        let writes = |rights| confine::command_rights(policy, rights) == WorkspaceView::ReadWrite;
        let may_be_granted =
            rights == Rights::Unasked && writes(Rights::Granted) && !writes(Rights::Unasked);
        let why = "commands that were not asked for see the workspace read-only";
        return Some(Stopped { why, may_be_granted });
    }
    has(&UNREACHABLE).then_some(Stopped { why: "cells have no network", may_be_granted: false })
}

/// How programs say that they could not write, and that there is no network.
const READ_ONLY: [&str; 1] = ["Read-only file system"];
const UNREACHABLE: [&str; 5] = [
    "Network is unreachable",
    "Could not resolve host",
    "Temporary failure in name resolution",
    "Couldn't connect to server",
    "Name or service not known",
];

/// What a person can do about it.
fn hint(Stopped { why, may_be_granted }: Stopped, rule: Option<String>) -> String {
    match rule.filter(|_| may_be_granted) {
        Some(rule) => {
            format!("\n(The sandbox: {why}. The user can allow exactly this with the rule {rule})")
        }
        None => format!("\n(The sandbox: {why}.)"),
    }
}

pub(super) fn error(text: String) -> ToolResult {
    ToolResult::new(ToolStatus::Error, text)
}

fn path_reply(reply: Reply) -> PathReply {
    match reply {
        Reply::Done(Output { text, attachment, hash, before, .. }) => {
            let attachments = attachment
                .map(|(media_type, data)| Attachment { media_type, data })
                .into_iter()
                .collect();
            PathReply {
                result: ToolResult { status: ToolStatus::Ok, text, attachments },
                hash,
                before,
            }
        }
        Reply::Failed(Fault { message, hash, .. }) => {
            PathReply { result: error(message), hash, before: None }
        }
        Reply::Found(_) | Reply::Collected(_) => {
            error("The worker answered another question.".into()).into()
        }
    }
}

pub(super) fn arguments<T: serde::de::DeserializeOwned>(call: &ToolCall) -> Result<T, String> {
    let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    serde_json::from_str(text)
        .map_err(|error| format!("the arguments of {} are wrong: {error}", call.name))
}

fn path_argument(call: &ToolCall, kind: Kind) -> Result<String, String> {
    let argument: Page = arguments(call)?;
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
