//! A scripted model behind a real socket: HTTP/1.1 with keep-alive, chunked server-sent
//! events, and a judge that reads every request.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::dialect::Dialect;
pub use super::protocol::Request;
use super::protocol::violations;
use super::script::End;
pub use super::script::Reply;

/// Odd on purpose: events, UTF-8 sequences and JSON escapes are all cut somewhere.
const CHUNK: usize = 61;

pub struct ModelServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    finished: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What to answer, given all requests so far.
type Script = Box<dyn Fn(&[Request]) -> Reply + Send>;

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    always: Option<Reply>,
    script: Option<Script>,
    key: Option<String>,
    dialect: Dialect,
    /// The conversation may be replaced by a summary.
    shrinks: bool,
    /// Signatures of thinking: each must come back as long as the conversation does.
    signatures: Vec<String>,
    requests: Vec<Request>,
    violations: Vec<String>,
    connections: usize,
    stopping: bool,
}

/// A name that every server lists: its escape sequences must not reach a terminal.
pub const ODD_MODEL: &str = "odd\u{1b}]52;c;ZXZpbA==\u{7}\u{202e}";

impl ModelServer {
    /// Each request takes the next reply; one more, or one less, is a violation.
    pub fn start(replies: Vec<Reply>) -> ModelServer {
        ModelServer::serve(State { replies: replies.into(), ..State::default() })
    }

    /// Every request gets this reply, as often as the client asks.
    pub fn always(reply: Reply) -> ModelServer {
        ModelServer::serve(State { always: Some(reply), shrinks: true, ..State::default() })
    }

    /// These replies again and again, by how many requests have come.
    pub fn always_in_turn(replies: Vec<Reply>) -> ModelServer {
        let script =
            move |requests: &[Request]| replies[(requests.len() - 1) % replies.len()].clone();
        ModelServer::always_from(script).allowing_summaries()
    }

    /// Whatever this makes of the requests so far. Conversations may be mixed.
    pub fn always_from(script: impl Fn(&[Request]) -> Reply + Send + 'static) -> ModelServer {
        let script: Option<Script> = Some(Box::new(script));
        ModelServer::serve(State { script, shrinks: true, ..State::default() })
    }

    /// From now on each request must carry this key.
    pub fn requiring_key(self, key: &str) -> ModelServer {
        self.shared.lock().key = Some(key.to_owned());
        self
    }

    /// From now on it speaks this protocol.
    pub fn speaking(self, dialect: Dialect) -> ModelServer {
        self.shared.lock().dialect = dialect;
        self
    }

    /// The conversation may be replaced by a summary.
    pub fn allowing_summaries(self) -> ModelServer {
        self.shared.lock().shrinks = true;
        self
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Waits until so many requests have arrived.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        let limit = Duration::from_secs(30);
        let (state, late) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), limit, |state| state.requests.len() < count)
            .unwrap();
        let seen = state.requests.len();
        drop(state);
        assert!(!late.timed_out(), "{seen} of {count} requests came");
    }

    /// Stops the server, fails on every violation, and hands over what was asked.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Request> {
        self.stop();
        let state = self.shared.lock();
        let requests = state.requests.clone();
        let mut wrong = state.violations.clone();
        if !state.replies.is_empty() {
            let left = state.replies.len();
            wrong.push(format!("{left} replies of the script were never asked for"));
        }
        if requests.is_empty() {
            wrong.push("no request came".to_owned());
        }
        drop(state);
        assert!(wrong.is_empty(), "the model saw:\n{}", wrong.join("\n"));
        requests
    }

    /// The same, but an early end of the client, and requests it never made, are part of the test.
    #[track_caller]
    pub fn finish_loosely(mut self) -> Vec<Request> {
        self.stop();
        let state = self.shared.lock();
        assert!(state.violations.is_empty(), "the model saw:\n{}", state.violations.join("\n"));
        state.requests.clone()
    }

    fn serve(state: State) -> ModelServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        ModelServer { address, shared, finished: false }
    }

    fn stop(&mut self) {
        self.finished = true;
        self.shared.lock().stopping = true;
        // Wakes the thread that accepts, which then drops the listener.
        drop(TcpStream::connect(self.address));
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.stop();
        assert!(thread::panicking(), "a test that does not call finish() checks no request");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            state.connections += 1;
            drop(state);
            let shared = Arc::clone(&self);
            // A client that goes away is the client's affair, and part of some tests.
            thread::spawn(move || stream.and_then(|stream| shared.converse(stream)));
        }
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut reader)? {
            if request.method == "GET" && request.path.ends_with("/models") {
                let list = json!({"data": [{"id": "listed-model"}, {"id": ODD_MODEL}]});
                let reply = Reply::status(200, &[], list);
                send(&reply, &reply.bytes(false), &mut stream)?;
                continue;
            }
            let usage = request.asks_for_usage();
            let (reply, body) = self.judge(request, usage);
            send(&reply, &body, &mut stream)?;
            match reply.end {
                End::Whole => {}
                End::Cut(_) => return stream.shutdown(Shutdown::Both),
                End::Hang(_) | End::Silent => return reader.read_to_end(&mut Vec::new()).map(drop),
            }
        }
        Ok(())
    }

    /// Checks a request, records it, and finds its reply.
    fn judge(&self, request: Request, usage: bool) -> (Reply, Vec<u8>) {
        let mut state = self.lock();
        let number = state.requests.len() + 1;
        let before = state.requests.last().filter(|_| !state.shrinks);
        let dialect = state.dialect;
        let mut wrong = dialect.violations(&request, before, state.key.as_deref());
        if dialect == Dialect::Completions {
            let before = before.map_or_else(Vec::new, Request::raw_messages);
            wrong = violations(&request, &before, state.key.as_deref());
        }
        for signature in &state.signatures {
            if !request.text.contains(signature) && dialect.keeps_thinking() {
                wrong.push(format!("the thinking with {signature} did not come back"));
            }
        }
        let wrong = wrong.into_iter().map(|wrong| format!("request {number}: {wrong}"));
        state.violations.extend(wrong);
        let post = request.method == "POST";
        state.requests.push(request);
        self.changed.notify_all();
        let scripted = if post { state.replies.pop_front() } else { None };
        let scripted =
            scripted.or_else(|| state.script.as_ref().map(|script| script(&state.requests)));
        let reply = scripted.or_else(|| state.always.clone()).unwrap_or_else(|| {
            let wrong = format!("request {number}: the script has no reply for it");
            state.violations.push(wrong);
            let error = json!({"error": {"message": "the script is at its end"}});
            Reply::status(400, &[], error)
        });
        let signature = format!("signature-{number}");
        let (body, thought) = match dialect {
            Dialect::Completions => (reply.bytes(usage), false),
            _ => reply.in_dialect(dialect, &signature),
        };
        if thought {
            state.signatures.push(signature);
        }
        if let End::Cut(bytes) | End::Hang(bytes) = reply.end
            && bytes >= body.len()
        {
            let wrong = format!("reply {number} is cut behind its end: the script is wrong");
            state.violations.push(wrong);
        }
        (reply, body)
    }
}

fn send(reply: &Reply, body: &[u8], stream: &mut TcpStream) -> io::Result<()> {
    let sent = match reply.end {
        End::Silent => return Ok(()),
        End::Whole => body,
        End::Cut(bytes) | End::Hang(bytes) => &body[..bytes.min(body.len())],
    };
    let mut head = format!("HTTP/1.1 {} scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    for piece in sent.chunks(CHUNK) {
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        stream.write_all(&chunk)?;
    }
    if reply.end == End::Whole {
        stream.write_all(b"0\r\n\r\n")?;
    }
    stream.flush()
}

/// The next request of a connection, or nothing at its end.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut request = Request::default();
    let first = read_line(reader)?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut words = first.split(' ').map(ToOwned::to_owned);
    request.method = words.next().unwrap_or_default();
    request.path = words.next().unwrap_or_default();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    request.text = String::from_utf8_lossy(&read_body(reader, &request)?).into_owned();
    request.body = serde_json::from_str(&request.text).unwrap_or_default();
    Ok(Some(request))
}

fn read_body(reader: &mut impl BufRead, request: &Request) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.headers.contains_key("transfer-encoding") {
        loop {
            let size = usize::from_str_radix(&read_line(reader)?, 16).unwrap_or(0);
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk);
            read_line(reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = request.headers.get("content-length");
    body.resize(length.and_then(|text| text.parse().ok()).unwrap_or(0), 0);
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
