//! MCP servers: a program in a cell of its own, or an address. A server is started by the first call of one of its
//! tools. What the model is told of a tool is what the user has accepted of it: a server that describes it in
//! other words later is not used until the user has looked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use zerostack_sandbox::{ChannelError, Confinement, Program, StartError};

use super::broker::{Broker, error};
use super::cells::{Cells, Running, new_pipe};
use super::host::Host;
use super::jobs::Tail;
use super::outputs::Capture;
use super::{confine, net};
use crate::agent::{ToolResult, ToolStatus};
use crate::mcp::{Answer, Connection, McpError, Tool};
use crate::model::{Attachment, ToolCall};
use crate::policy::{Groups, Policy};
use crate::tools::{Definition, Kind};

/// How long a server may take to be ready, and to answer one call.
const START_LIMIT: Duration = Duration::from_secs(20);
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a program's end is waited for after its output has ended.
const END_LIMIT: Duration = Duration::from_millis(500);
/// Most of a description, and of a schema, that the model is told, bytes.
const DESCRIPTION_LIMIT: usize = 1024;
const SCHEMA_LIMIT: usize = 16 * 1024;
/// Images of one answer that are handed on, and the size of one in base64.
const IMAGES: usize = 4;
const IMAGE_LIMIT: usize = 5 * 1024 * 1024;
/// Longest name that every provider takes.
const NAME_LIMIT: usize = 64;
/// How what a server describes is accepted.
const ACCEPT: &str = "`/mcp accept` or `zerostack mcp accept`";
/// What every name of a tool of a server begins with.
pub const PREFIX: &str = "mcp__";

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Place {
    /// A program with its arguments and more variables; the paths it sees besides what every cell sees.
    Program {
        argv: Vec<String>,
        environment: BTreeMap<String, String>,
        paths: Vec<(PathBuf, bool)>,
    },
    Address {
        url: String,
        headers: BTreeMap<String, String>,
    },
}

/// A server as the settings name it.
#[derive(Debug, Clone)]
pub struct Named {
    pub name: String,
    pub place: Place,
    /// Longest call, seconds.
    pub timeout: Option<u64>,
}

/// What the user has accepted of each server, by name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Accepted(BTreeMap<String, Offer>);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Offer {
    /// Hash of the place: another program under an old name is another server.
    place: String,
    tools: Vec<Tool>,
    /// Hash of what was shown to the user last, if that was something else.
    #[serde(default)]
    shown: String,
}

/// The servers of a session.
#[derive(Debug)]
pub struct Servers {
    /// Where it is kept what was accepted.
    file: PathBuf,
    all: Vec<Server>,
    /// Why it is not known what was accepted: then nothing is accepted by itself.
    broken: Option<String>,
}

#[derive(Debug)]
struct Server {
    named: Named,
    accepted: RefCell<Vec<Tool>>,
    /// What the server describes now, where that is something else.
    differs: RefCell<Option<Vec<Tool>>>,
    live: RefCell<Option<Rc<Live>>>,
    /// Why it could not be started, or how it ended.
    problem: RefCell<Option<String>>,
    /// The end of what it wrote to its standard error.
    errors: RefCell<Arc<Mutex<Tail>>>,
    /// Something was accepted of it, be it that it offers nothing.
    known: Cell<bool>,
    /// It was tried to learn of it what it offers.
    tried: Cell<bool>,
    /// It was compared with what was accepted since it was started.
    compared: Cell<bool>,
    /// One start at a time.
    starting: tokio::sync::Mutex<()>,
}

/// A server that runs.
#[derive(Debug)]
struct Live {
    connection: Connection,
    /// Dropped with it: that kills the cell.
    _cell: Option<Running>,
}

/// What is needed to start servers.
#[derive(Debug, Clone, Copy)]
pub struct Starting<'a> {
    pub cells: &'a Cells,
    pub policy: &'a Policy,
    pub groups: &'a Groups,
    pub host: &'a Host,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("there is no MCP server {0:?}")]
    Unknown(String),
    #[error("the MCP server {0} could not be started: {1}")]
    Start(String, String),
    #[error("the MCP server {0}: {1}")]
    Call(String, String),
    #[error("the MCP server {0} has not changed: there is nothing to accept")]
    Same(String),
    #[error("look at what {0} describes first: /mcp {0}, or `zerostack mcp show {0}`")]
    Unseen(String),
    #[error("the MCP server {0} has not answered in {1} s, or with more than 8 MiB; it was ended")]
    Late(String, u64),
    #[error(
        "the MCP server {0} describes this tool in other words than those that were accepted: the user has to \
         look at it with /mcp {0} and may then type /mcp accept {0}"
    )]
    Differs(String),
    #[error("cannot write {0}: {1}")]
    Store(PathBuf, std::io::Error),
    #[error("{0}, where it is kept what was accepted of servers, cannot be read: {1}")]
    Unreadable(PathBuf, String),
}

impl Broker {
    pub fn servers(&self) -> &Servers {
        &self.options.servers
    }

    /// What servers are started with.
    pub fn starting(&self) -> Starting<'_> {
        Starting {
            cells: self.cells(),
            policy: self.policy(),
            groups: self.groups(),
            host: self.host(),
        }
    }

    /// Learns what new servers offer. What is to be said of it.
    pub async fn meet_servers(&mut self) -> Vec<String> {
        let words = self.servers().meet(self.starting()).await;
        self.offer_servers();
        words
    }

    pub(super) async fn mcp_call(&self, call: &ToolCall) -> ToolResult {
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let arguments: Map<String, Value> = match serde_json::from_str(text) {
            Ok(arguments) => arguments,
            Err(wrong) => {
                return error(format!("the arguments of {} are wrong: {wrong}", call.name));
            }
        };
        let Answer { text, images, failed } =
            match self.servers().call(&call.name, arguments, self.starting()).await {
                Ok(answer) => answer,
                Err(why) => return error(why.to_string()),
            };
        let mut capture = Capture::new(&self.options.outputs);
        capture.add(text.as_bytes());
        let mut text = capture.text();
        let count = images.len();
        let mut attachments: Vec<Attachment> = images
            .into_iter()
            .filter(|(kind, data)| self.options.takes.images && is_image(kind, data))
            .map(|(media_type, data)| Attachment { media_type, data })
            .collect();
        attachments.truncate(IMAGES);
        if attachments.len() < count {
            text.push_str(&format!("\n({} images are left out)", count - attachments.len()));
        }
        let status = if failed { ToolStatus::Error } else { ToolStatus::Ok };
        ToolResult { status, text, attachments }
    }
}

/// Whether a provider would take it as an image.
fn is_image(kind: &str, data: &str) -> bool {
    use base64::Engine;
    let known = ["image/png", "image/jpeg", "image/gif", "image/webp"].contains(&kind);
    known
        && data.len() <= IMAGE_LIMIT
        && base64::engine::general_purpose::STANDARD.decode(data).is_ok()
}

impl Default for Servers {
    fn default() -> Servers {
        Servers::new(PathBuf::new(), Vec::new())
    }
}

impl Servers {
    pub fn new(file: PathBuf, named: Vec<Named>) -> Servers {
        let (accepted, broken) = match Accepted::load(&file) {
            Ok(accepted) => (accepted, None),
            Err(error) => (Accepted::default(), Some(error.to_string())),
        };
        let server = |named: Named| {
            let offer =
                accepted.0.get(&named.name).filter(|offer| offer.place == hash(&named.place));
            let tools = offer.map(|offer| offer.tools.clone()).unwrap_or_default();
            Server::new(named, tools, offer.is_some())
        };
        let all = named.into_iter().map(server).collect();
        Servers { all, broken, file }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those of which nothing is known yet.
    fn fresh(&self) -> impl Iterator<Item = &Server> {
        self.all.iter().filter(|server| !server.known.get() && !server.tried.get())
    }

    /// Does not wait again for those that were tried before.
    pub fn tried_by(&self, before: &Servers) {
        for server in &self.all {
            if let Ok(other) = before.find(&server.named.name) {
                server.tried.set(true);
                server.problem.replace(other.problem.borrow().clone());
            }
        }
    }

    /// Ends all of them.
    pub fn stop_all(&self) {
        self.all.iter().for_each(|server| drop(server.live.take()));
    }

    /// The names of new ones.
    pub fn fresh_names(&self) -> impl Iterator<Item = &str> {
        self.fresh().map(|server| server.named.name.as_str())
    }

    fn find(&self, name: &str) -> Result<&Server, ServerError> {
        let found = self.all.iter().find(|server| server.named.name == name);
        found.ok_or_else(|| ServerError::Unknown(name.to_owned()))
    }

    /// Starts those of which nothing is known yet, to learn what they offer: that is accepted, because the user
    /// has just named them. What is to be said of it.
    pub async fn meet(&self, starting: Starting<'_>) -> Vec<String> {
        if let Some(broken) = self.broken.as_ref().filter(|_| !self.all.is_empty()) {
            return vec![format!("no MCP server is used: {broken}")];
        }
        let met = self.fresh().map(|server| async move {
            match server.start(starting).await {
                Ok(_) => match self.keep(server) {
                    Ok(names) if names.is_empty() => {
                        format!("the MCP server {} is new and offers nothing", server.named.name)
                    }
                    Ok(names) => format!(
                        "the MCP server {} is new and offers {}",
                        server.named.name,
                        names.join(", ")
                    ),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            }
        });
        futures_util::future::join_all(met).await
    }

    /// Accepts what a server describes now, if that is what was shown last. Returns the names of its tools.
    pub fn accept(&self, name: &str) -> Result<Vec<String>, ServerError> {
        let server = self.find(name)?;
        let now = server.differs.borrow().as_ref().map(|tools| hash(&listing(tools)));
        let Some(now) = now else { return Err(ServerError::Same(name.to_owned())) };
        let shown = Accepted::load(&self.file)?.0.get(name).map(|offer| offer.shown.clone());
        if shown.as_ref() != Some(&now) {
            return Err(ServerError::Unseen(name.to_owned()));
        }
        self.keep(server)
    }

    /// Keeps what a server describes as what is accepted.
    fn keep(&self, server: &Server) -> Result<Vec<String>, ServerError> {
        let now = server.differs.borrow().clone();
        let tools = now.unwrap_or_else(|| server.accepted.borrow().clone());
        self.store(server, |offer| offer.tools.clone_from(&tools))?;
        let fits = |tool: &&Tool| offered_name(&server.named.name, &tool.name).len() <= NAME_LIMIT;
        let names = tools.iter().filter(fits).map(|tool| plain(&tool.name)).collect();
        server.accepted.replace(tools);
        server.differs.take();
        server.known.set(true);
        Ok(names)
    }

    /// Changes what is stored of a server.
    fn store(&self, server: &Server, change: impl FnOnce(&mut Offer)) -> Result<(), ServerError> {
        let failed = |error| ServerError::Store(self.file.clone(), error);
        // Another zerostack may be doing the same.
        let _lock = lock(&self.file).map_err(failed)?;
        let mut accepted = Accepted::load(&self.file)?;
        let offer = accepted.0.entry(server.named.name.clone()).or_default();
        let place = hash(&server.named.place);
        if offer.place != place {
            *offer = Offer { place, ..Offer::default() };
        }
        change(offer);
        accepted.save(&self.file).map_err(failed)
    }

    /// Starts a server, if it does not run, and compares what it offers.
    pub async fn start(&self, name: &str, starting: Starting<'_>) -> Result<(), ServerError> {
        let server = self.find(name)?;
        server.start(starting).await?;
        Ok(())
    }

    /// Ends a server; the next call of one of its tools starts it again.
    pub fn stop(&self, name: &str) -> Result<(), ServerError> {
        self.find(name)?.live.take();
        Ok(())
    }

    /// Takes over what runs, from servers under the same rights.
    pub fn adopt(&self, others: &Servers) {
        for server in &self.all {
            if let Ok(other) = others.find(&server.named.name)
                && other.named.place == server.named.place
                && *other.accepted.borrow() == *server.accepted.borrow()
            {
                server.live.swap(&other.live);
                server.compared.set(other.compared.get());
                server.known.set(other.known.get());
                server.differs.swap(&other.differs);
                // It goes on being written by whoever listens to the server.
                server.errors.swap(&other.errors);
            }
        }
    }

    /// The tools as the model is told them.
    pub fn definitions(&self) -> Vec<Definition> {
        let mut all: Vec<Definition> = Vec::new();
        for server in &self.all {
            for tool in server.accepted.borrow().iter() {
                let name = offered_name(&server.named.name, &tool.name);
                if name.len() > NAME_LIMIT || all.iter().any(|known| known.name == name) {
                    continue;
                }
                let end = tool.description.floor_char_boundary(DESCRIPTION_LIMIT);
                let description = tool.description[..end].to_owned();
                all.push(Definition {
                    name: name.into(),
                    kind: Kind::Mcp,
                    description: description.into(),
                    schema: schema(&tool.schema),
                });
            }
        }
        all
    }

    /// The server and the tool that an offered name means.
    fn tool(&self, offered: &str) -> Option<(&Server, Tool)> {
        self.all.iter().find_map(|server| {
            let tools = server.accepted.borrow();
            let name = |tool: &&Tool| offered_name(&server.named.name, &tool.name) == offered;
            tools.iter().find(name).map(|tool| (server, tool.clone()))
        })
    }

    /// Where a tool's work is done, in words for a question.
    pub fn place_of(&self, offered: &str) -> Option<String> {
        let (server, _) = self.tool(offered)?;
        Some(match &server.named.place {
            Place::Program { .. } => {
                "the network, files besides the workspace and the server's own paths".into()
            }
            Place::Address { url, .. } => {
                format!("anything on this machine: the arguments go to {}", shown(url))
            }
        })
    }

    /// Calls a tool by its offered name.
    pub async fn call(
        &self,
        offered: &str,
        arguments: Map<String, Value>,
        starting: Starting<'_>,
    ) -> Result<Answer, ServerError> {
        let (server, tool) =
            self.tool(offered).ok_or_else(|| ServerError::Unknown(offered.to_owned()))?;
        let name = &server.named.name;
        let live = server.start(starting).await?;
        if server.now_differs(&tool) {
            return Err(ServerError::Differs(name.clone()));
        }
        let limit = server.named.timeout.map_or(CALL_LIMIT, Duration::from_secs);
        match timeout(limit, live.connection.call(&tool.name, arguments)).await {
            Err(_) => {
                // It may be busy with this call for ever.
                server.live.take();
                Err(ServerError::Late(name.clone(), limit.as_secs()))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if live.connection.is_closed() {
                    server.live.take();
                }
                let error = match error {
                    McpError::Closed => {
                        format!(
                            "it has ended; the next call starts it again{}",
                            server.last_words()
                        )
                    }
                    error => error.to_string(),
                };
                Err(ServerError::Call(name.clone(), error))
            }
        }
    }

    /// All servers, one a line, or one with all that is known of it.
    pub fn describe(&self, name: Option<&str>) -> Result<String, ServerError> {
        if let Some(name) = name {
            let server = self.find(name)?;
            let shown = server.differs.borrow().as_ref().map(|tools| hash(&listing(tools)));
            if let Some(shown) = shown {
                self.store(server, |offer| offer.shown = shown)?;
            }
            return Ok(server.describe());
        }
        let line = |server: &Server| format!("• {}", server.summary());
        Ok(self.all.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

impl Server {
    fn new(named: Named, accepted: Vec<Tool>, known: bool) -> Server {
        Server {
            named,
            accepted: RefCell::new(accepted),
            differs: RefCell::default(),
            live: RefCell::default(),
            problem: RefCell::default(),
            errors: RefCell::default(),
            known: Cell::new(known),
            tried: Cell::new(false),
            compared: Cell::new(false),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    /// The server, running, with its tools compared to those that were accepted.
    async fn start(&self, starting: Starting<'_>) -> Result<Rc<Live>, ServerError> {
        let _turn = self.starting.lock().await;
        let live = self.live.borrow().clone();
        let live = match live.filter(|live| !live.connection.is_closed()) {
            Some(live) => live,
            None => {
                let live = timeout(START_LIMIT, self.begin(starting)).await;
                let late = |_| {
                    let why = match &self.named.place {
                        Place::Program { .. } => {
                            "; a cell has no network, so what it would fetch must be there"
                        }
                        Place::Address { .. } => "",
                    };
                    Err(format!("it was not ready in 20 s{why}{}", self.last_words()))
                };
                let live = live.unwrap_or_else(late);
                let live = live.map_err(|why| self.failed(&why))?;
                self.compared.set(false);
                let live = Rc::new(live);
                self.live.replace(Some(Rc::clone(&live)));
                live
            }
        };
        if live.connection.changed() {
            self.compared.set(false);
        }
        if !self.compared.get() {
            let tools = timeout(START_LIMIT, live.connection.tools()).await;
            let tools = tools.map_err(|_| self.failed("it does not say which tools it has"))?;
            let tools =
                tools.map_err(|error| self.failed(&format!("{error}{}", self.last_words())))?;
            let same = tools == *self.accepted.borrow();
            self.differs.replace((!same).then_some(tools));
            self.compared.set(true);
        }
        self.problem.take();
        Ok(live)
    }

    async fn begin(&self, starting: Starting<'_>) -> Result<Live, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        match &self.named.place {
            Place::Address { url, headers } => {
                let client = net::client(url).map_err(|error| words(&error))?;
                let headers = net::own_headers(headers, &starting.host.environment)?;
                let connection = Connection::over_http(client, url, headers).await;
                Ok(Live { connection: connection.map_err(|error| words(&error))?, _cell: None })
            }
            Place::Program { argv, environment, paths } => {
                let Starting { cells, policy, groups, host } = starting;
                let mut confinement = confine::server(policy, groups, host, paths)?;
                for (name, value) in environment {
                    let value = net::filled(value, &host.environment)?;
                    confinement.environment.retain(|(known, _)| known != name);
                    confinement.environment.push((name.clone(), value));
                }
                let errors = Arc::clone(&self.errors.borrow());
                let argv = argv.iter().map(|word| word.clone().into_bytes()).collect();
                let Started { cell, output, input, listening } =
                    in_cell(cells, &confinement, argv, errors)
                        .await
                        .map_err(|error| words(&error))?;
                match Connection::over_pipes(output, input).await {
                    Ok(connection) => Ok(Live { connection, _cell: Some(cell) }),
                    // Its end is what says most.
                    Err(McpError::Closed) => Err(match timeout(END_LIMIT, cell.exit()).await {
                        Ok(Err(error)) => format!(
                            "{error} (its cell sees programs of the system and what `paths` names)"
                        ),
                        _ => {
                            let _ = timeout(END_LIMIT, listening).await;
                            format!("it has ended{}", self.last_words())
                        }
                    }),
                    Err(error) => Err(format!("{error}{}", self.last_words())),
                }
            }
        }
    }

    fn failed(&self, why: &str) -> ServerError {
        self.problem.replace(Some(why.to_owned()));
        ServerError::Start(self.named.name.clone(), why.to_owned())
    }

    /// What it said last on its standard error.
    fn last_words(&self) -> String {
        let text = self.errors.borrow().lock().map(|tail| tail.text()).unwrap_or_default();
        match text.trim().lines().last() {
            Some(line) => format!(": {line}"),
            None => String::new(),
        }
    }

    /// Whether the server describes a tool otherwise than it was accepted.
    fn now_differs(&self, tool: &Tool) -> bool {
        let differs = self.differs.borrow();
        differs.as_ref().is_some_and(|now| !now.contains(tool))
    }

    fn summary(&self) -> String {
        let place = match &self.named.place {
            Place::Program { argv, .. } => argv.join(" "),
            Place::Address { url, .. } => shown(url),
        };
        let count = self.accepted.borrow().len();
        let differs = self.differs.borrow().is_some();
        let state = if differs && count == 0 {
            format!("not accepted yet: {ACCEPT} {}", self.named.name)
        } else if differs {
            format!(
                "describes its tools in other words than those that were accepted: {ACCEPT} {}",
                self.named.name
            )
        } else if let Some(problem) = &*self.problem.borrow() {
            format!("could not be started: {problem}")
        } else if self.live.borrow().as_ref().is_some_and(|live| !live.connection.is_closed()) {
            "runs".into()
        } else {
            "starts when it is needed".into()
        };
        format!("{} ({place}): {count} tools; {state}", self.named.name)
    }

    fn describe(&self) -> String {
        let mut words = self.summary();
        let (accepted, differs) = (self.accepted.borrow(), self.differs.borrow());
        for tool in accepted.iter() {
            words.push_str(&format!("\n\n{}\n{}", tool.name, tool.description));
        }
        // All of what would be accepted.
        if let Some(now) = differs.as_ref().filter(|_| accepted.is_empty()) {
            words.push_str(&format!("\n\n{}", listing(now)));
        }
        if let Some(now) = differs.as_ref().filter(|_| !accepted.is_empty()) {
            words.push_str(&format!(
                "\n\nWhat it describes now, beside what was accepted; {ACCEPT} {} accepts it:\n{}",
                self.named.name,
                crate::tools::diff("tools", &listing(&accepted), &listing(now))
            ));
        }
        let errors = self.errors.borrow().lock().map(|tail| tail.text()).unwrap_or_default();
        if !errors.trim().is_empty() {
            words.push_str(&format!("\n\nThe end of its standard error:\n{}", errors.trim()));
        }
        words
    }
}

/// Tools as a text that can be compared.
fn listing(tools: &[Tool]) -> String {
    let one = |tool: &Tool| format!("{}\n{}\n{:#}\n", tool.name, tool.description, tool.schema);
    tools.iter().map(one).collect()
}

impl Accepted {
    fn load(file: &Path) -> Result<Accepted, ServerError> {
        let unreadable =
            |why: &dyn std::fmt::Display| ServerError::Unreadable(file.to_owned(), why.to_string());
        match std::fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| unreadable(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Accepted::default()),
            Err(error) => Err(unreadable(&error)),
        }
    }

    fn save(&self, file: &Path) -> std::io::Result<()> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        let mut new = tempfile::NamedTempFile::new_in(directory)?;
        new.as_file().set_permissions(PermissionsExt::from_mode(0o600))?;
        new.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        new.as_file().sync_data()?;
        new.persist(file)?;
        Ok(())
    }
}

/// Keeps others from changing a file.
fn lock(file: &Path) -> std::io::Result<Flock<File>> {
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let mut options = File::options();
    let lock = options.create(true).append(true).mode(0o600).open(file.with_extension("lock"))?;
    Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

/// An address without what may be a secret in it.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            let user = host.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[user..])
        }
        None => url.to_owned(),
    }
}

/// A name of a stranger's, with nothing in it that could be read as more than a name.
fn plain(name: &str) -> String {
    let plain = |letter: char| match letter.is_ascii_alphanumeric() || "-_".contains(letter) {
        true => letter,
        false => '_',
    };
    name.chars().map(plain).collect()
}

/// The name under which the model calls a tool.
fn offered_name(server: &str, tool: &str) -> String {
    format!("{PREFIX}{server}__{}", plain(tool))
}

/// A schema that providers take: an object, and not too large.
fn schema(given: &Value) -> Value {
    let fits = given["type"] == "object" && given.to_string().len() <= SCHEMA_LIMIT;
    if fits { given.clone() } else { json!({"type": "object"}) }
}

fn hash(of: &impl Serialize) -> String {
    let text = serde_json::to_vec(of).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &text);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program in a cell: its output to read, its input to write.
struct Started {
    cell: Running,
    output: pipe::Receiver,
    input: pipe::Sender,
    /// Ends with its standard error.
    listening: tokio::task::JoinHandle<()>,
}

/// Starts a program in a cell. What it says on its standard error is
/// kept, as far as it is shown.
async fn in_cell(
    cells: &Cells,
    confinement: &Confinement,
    argv: Vec<Vec<u8>>,
    errors: Arc<Mutex<Tail>>,
) -> Result<Started, StartError> {
    let (its_input, input) = new_pipe()?;
    let (output, its_output) = new_pipe()?;
    let (said, its_errors) = new_pipe()?;
    let cell = cells.start(confinement, &Program::Command).await?;
    let ends = [its_input.as_fd(), its_output.as_fd(), its_errors.as_fd()];
    cell.run(argv, &ends)?;
    let mut said = pipe::Receiver::from_owned_fd(said).map_err(ChannelError::Os)?;
    let listening = tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = said.read(&mut buffer).await {
            if let Ok(mut errors) = errors.lock() {
                errors.add(&buffer[..length]);
            }
        }
    });
    let output = pipe::Receiver::from_owned_fd(output).map_err(ChannelError::Os)?;
    let input = pipe::Sender::from_owned_fd(input).map_err(ChannelError::Os)?;
    Ok(Started { cell, output, input, listening })
}
