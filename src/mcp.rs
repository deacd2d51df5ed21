//! The Model Context Protocol, as far as zerostack speaks it: a connection to one server, its tools, and
//! calls of them. What a server says is data of a stranger: its hints about what a tool does are not read.

use serde_json::{Map, Value};

/// A tool as a server describes it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments.
    pub schema: Value,
}

/// What a call has brought.
#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    /// Images: kind and data in base64.
    pub images: Vec<(String, String)>,
    /// The server says that it went wrong.
    pub failed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum McpError {
    #[error("it does not speak MCP: {0}")]
    Handshake(String),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it wants an authorization: give it one with `headers`")]
    Authorization,
    #[error("it has ended")]
    Closed,
    #[error("{0}")]
    Server(String),
    #[error("this build has no MCP: build it with the feature mcp")]
    Absent,
}

#[cfg(feature = "mcp")]
mod client {
    use std::collections::HashMap;
    use std::future::Future;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use reqwest::header::HeaderMap;
    use rmcp::model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ContentBlock,
        Implementation, JsonRpcMessage, PaginatedRequestParams, ResourceContents,
    };
    use rmcp::service::{
        ClientInitializeError, NotificationContext, RoleClient, RunningService, RxJsonRpcMessage,
        ServiceError, ServiceExt, TxJsonRpcMessage,
    };
    use rmcp::transport::Transport;
    use rmcp::transport::async_rw::AsyncRwTransport;
    use rmcp::transport::streamable_http_client::{
        StreamableHttpClientTransport, StreamableHttpClientTransportConfig,
    };
    use rmcp::{ClientHandler, ErrorData};
    use tokio::io::{AsyncRead, AsyncWrite};

    use super::{Answer, Map, McpError, Tool, Value};

    /// Largest message of a server, bytes.
    const MESSAGE_LIMIT: usize = 8 * 1024 * 1024;
    /// Most tools of one server, most pages of its list, and the size of what it says of them, bytes.
    const TOOLS: usize = 128;
    const PAGES: usize = 16;
    const NAME_LIMIT: usize = 128;
    const TOOL_LIMIT: usize = 24 * 1024;
    const ALL_LIMIT: usize = 512 * 1024;
    /// Most requests of a server that wait for an answer; more are not listened to.
    const OPEN: usize = 16;

    /// A connection to a server. Dropping it ends it.
    #[derive(Debug)]
    pub struct Connection {
        service: RunningService<RoleClient, Listener>,
        changed: Arc<AtomicBool>,
    }

    /// Offers a server nothing: no files, no model, no questions to the user.
    #[derive(Debug, Clone)]
    struct Listener {
        changed: Arc<AtomicBool>,
    }

    impl ClientHandler for Listener {
        async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
            self.changed.store(true, Ordering::Relaxed);
        }

        fn get_info(&self) -> ClientConfig {
            let own = Implementation::new("zerostack", env!("CARGO_PKG_VERSION"));
            ClientConfig::new(ClientCapabilities::default(), own)
        }
    }

    impl Connection {
        /// To a program whose output and input these are.
        pub async fn over_pipes(
            output: impl AsyncRead + Send + Unpin + 'static,
            input: impl AsyncWrite + Send + Unpin + 'static,
        ) -> Result<Connection, McpError> {
            let transport = AsyncRwTransport::new_client(output, input);
            let transport = transport.with_max_line_length(MESSAGE_LIMIT);
            let (listener, changed) = listener();
            let service = listener.serve(Guard::new(transport)).await.map_err(handshake)?;
            Ok(Connection { service, changed })
        }

        /// To a server at an address.
        pub async fn over_http(
            client: reqwest::Client,
            url: &str,
            headers: HeaderMap,
        ) -> Result<Connection, McpError> {
            let named = headers.into_iter().filter_map(|(name, value)| Some((name?, value)));
            let config = StreamableHttpClientTransportConfig::with_uri(url)
                .custom_headers(named.collect::<HashMap<_, _>>())
                .max_sse_event_size(MESSAGE_LIMIT);
            let transport = StreamableHttpClientTransport::with_client(client, config);
            let (listener, changed) = listener();
            let service = listener.serve(Guard::new(transport)).await.map_err(handshake)?;
            Ok(Connection { service, changed })
        }

        /// Every tool of the server.
        pub async fn tools(&self) -> Result<Vec<Tool>, McpError> {
            let mut tools = Vec::new();
            let (mut cursor, mut room) = (None, ALL_LIMIT);
            // The pages of a server need not come to an end.
            for _ in 0..PAGES {
                let mut page = PaginatedRequestParams::default();
                page.cursor = cursor;
                let found = self.service.list_tools(Some(page)).await.map_err(failed)?;
                for tool in found.tools {
                    let tool = Tool {
                        name: tool.name.into_owned(),
                        description: tool.description.unwrap_or_default().into_owned(),
                        schema: Value::Object(tool.input_schema.as_ref().clone()),
                    };
                    let size = tool.description.len() + tool.schema.to_string().len();
                    // What is too large is left out: it could not be told to a model whole.
                    if tool.name.len() <= NAME_LIMIT && size <= TOOL_LIMIT.min(room) {
                        room -= size;
                        tools.push(tool);
                    }
                }
                cursor = found.next_cursor;
                if cursor.is_none() || tools.len() >= TOOLS {
                    break;
                }
            }
            tools.truncate(TOOLS);
            // Their order says nothing.
            tools.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(tools)
        }

        /// Whether the server has said, since it was last asked, that its tools are others now.
        pub fn changed(&self) -> bool {
            self.changed.swap(false, Ordering::Relaxed)
        }

        pub fn is_closed(&self) -> bool {
            self.service.is_closed() || self.service.is_transport_closed()
        }

        pub async fn call(
            &self,
            name: &str,
            arguments: Map<String, Value>,
        ) -> Result<Answer, McpError> {
            let call = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
            self.service.call_tool(call).await.map(answer).map_err(failed)
        }
    }

    /// A transport that does not listen to more requests of a server than are answered: the answers of one that
    /// does not read them would pile up.
    struct Guard<T> {
        inner: T,
        open: Arc<AtomicUsize>,
    }

    impl<T> Guard<T> {
        fn new(inner: T) -> Guard<T> {
            Guard { inner, open: Arc::default() }
        }
    }

    impl<T: Transport<RoleClient>> Transport<RoleClient> for Guard<T> {
        type Error = T::Error;

        fn send(
            &mut self,
            item: TxJsonRpcMessage<RoleClient>,
        ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
            let is_answer = matches!(item, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_));
            let (sent, open) = (self.inner.send(item), Arc::clone(&self.open));
            async move {
                let sent = sent.await;
                if is_answer {
                    let less = |open: usize| Some(open.saturating_sub(1));
                    let _ = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
                sent
            }
        }

        async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
            loop {
                let message = self.inner.receive().await?;
                if !matches!(message, JsonRpcMessage::Request(_)) {
                    return Some(message);
                }
                if self.open.load(Ordering::Relaxed) < OPEN {
                    self.open.fetch_add(1, Ordering::Relaxed);
                    return Some(message);
                }
            }
        }

        async fn close(&mut self) -> Result<(), T::Error> {
            self.inner.close().await
        }
    }

    fn listener() -> (Listener, Arc<AtomicBool>) {
        let changed = Arc::new(AtomicBool::new(false));
        (Listener { changed: Arc::clone(&changed) }, changed)
    }

    fn handshake(error: ClientInitializeError) -> McpError {
        match error {
            error if error.is_authorization_required() => McpError::Authorization,
            ClientInitializeError::ConnectionClosed(_) => McpError::Closed,
            ClientInitializeError::TransportError { error, .. } => unreachable(&error),
            error => McpError::Handshake(deepest(&error)),
        }
    }

    /// What went wrong on the way to a server.
    fn unreachable(error: &(dyn std::error::Error + 'static)) -> McpError {
        match deepest(error) {
            words if words.to_lowercase().contains("auth required") => McpError::Authorization,
            words => McpError::Unreachable(words),
        }
    }

    fn failed(error: ServiceError) -> McpError {
        match error {
            ServiceError::McpError(ErrorData { message, .. }) => McpError::Server(message.into()),
            ServiceError::TransportClosed => McpError::Closed,
            ServiceError::TransportSend(error) => unreachable(&error),
            error => McpError::Server(deepest(&error)),
        }
    }

    /// The innermost cause is the one that says something.
    fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        // Some name the type of the transport first.
        let words = error.to_string();
        words.rsplit("] error: ").next().unwrap_or(&words).to_owned()
    }

    fn answer(result: CallToolResult) -> Answer {
        let mut answer = Answer { failed: result.is_error == Some(true), ..Answer::default() };
        let mut parts = Vec::new();
        for block in result.content {
            match block {
                ContentBlock::Text(text) => parts.push(text.text),
                ContentBlock::Image(image) => answer.images.push((image.mime_type, image.data)),
                ContentBlock::Audio(audio) => {
                    parts.push(format!("({}, not shown)", audio.mime_type));
                }
                ContentBlock::Resource(resource) => match resource.resource {
                    ResourceContents::TextResourceContents { uri, text, .. } => {
                        parts.push(format!("{uri}:\n{text}"));
                    }
                    ResourceContents::BlobResourceContents { uri, .. } => {
                        parts.push(format!("({uri}, not shown)"));
                    }
                    _ => {}
                },
                ContentBlock::ResourceLink(link) => parts.push(link.uri.clone()),
                _ => {}
            }
        }
        if let (true, Some(value)) = (parts.is_empty(), result.structured_content) {
            parts.push(format!("{value:#}"));
        }
        answer.text = parts.join("\n");
        answer
    }
}

#[cfg(not(feature = "mcp"))]
mod client {
    use reqwest::header::HeaderMap;
    use tokio::io::{AsyncRead, AsyncWrite};

    use super::{Answer, Map, McpError, Tool, Value};

    /// There is none in this build.
    #[derive(Debug)]
    pub enum Connection {}

    impl Connection {
        pub async fn over_pipes(
            _: impl AsyncRead + Send + Unpin + 'static,
            _: impl AsyncWrite + Send + Unpin + 'static,
        ) -> Result<Connection, McpError> {
            Err(McpError::Absent)
        }

        pub async fn over_http(
            _: reqwest::Client,
            _: &str,
            _: HeaderMap,
        ) -> Result<Connection, McpError> {
            Err(McpError::Absent)
        }

        pub async fn tools(&self) -> Result<Vec<Tool>, McpError> {
            match *self {}
        }

        pub fn changed(&self) -> bool {
            match *self {}
        }

        pub fn is_closed(&self) -> bool {
            match *self {}
        }

        pub async fn call(&self, _: &str, _: Map<String, Value>) -> Result<Answer, McpError> {
            match *self {}
        }
    }
}

pub use client::Connection;
