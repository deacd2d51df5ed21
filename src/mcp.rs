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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use reqwest::header::HeaderMap;
    use rmcp::model::{
        CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ContentBlock,
        Implementation, PaginatedRequestParams, ResourceContents,
    };
    use rmcp::service::{
        ClientInitializeError, NotificationContext, RoleClient, RunningService, ServiceError,
        ServiceExt,
    };
    use rmcp::transport::async_rw::AsyncRwTransport;
    use rmcp::transport::streamable_http_client::{
        StreamableHttpClientTransport, StreamableHttpClientTransportConfig,
    };
    use rmcp::{ClientHandler, ErrorData};
    use tokio::io::{AsyncRead, AsyncWrite};

    use super::{Answer, Map, McpError, Tool, Value};

    /// Largest message of a server, bytes.
    const MESSAGE_LIMIT: usize = 8 * 1024 * 1024;
    /// Most tools of one server that are looked at.
    const TOOLS: usize = 128;

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
            let service = listener.serve(transport).await.map_err(handshake)?;
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
            let service = listener.serve(transport).await.map_err(handshake)?;
            Ok(Connection { service, changed })
        }

        /// Every tool of the server.
        pub async fn tools(&self) -> Result<Vec<Tool>, McpError> {
            let mut tools = Vec::new();
            let mut cursor = None;
            // The pages of a server need not come to an end.
            for _ in 0..TOOLS {
                let mut page = PaginatedRequestParams::default();
                page.cursor = cursor;
                let found = self.service.list_tools(Some(page)).await.map_err(failed)?;
                tools.extend(found.tools.into_iter().map(|tool| Tool {
                    name: tool.name.into_owned(),
                    description: tool.description.unwrap_or_default().into_owned(),
                    schema: Value::Object(tool.input_schema.as_ref().clone()),
                }));
                cursor = found.next_cursor;
                if cursor.is_none() || tools.len() >= TOOLS {
                    break;
                }
            }
            tools.truncate(TOOLS);
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

    fn listener() -> (Listener, Arc<AtomicBool>) {
        let changed = Arc::new(AtomicBool::new(false));
        (Listener { changed: Arc::clone(&changed) }, changed)
    }

    fn handshake(error: ClientInitializeError) -> McpError {
        match error {
            error if error.is_authorization_required() => McpError::Authorization,
            ClientInitializeError::ConnectionClosed(_) => McpError::Closed,
            error => McpError::Handshake(deepest(&error)),
        }
    }

    fn failed(error: ServiceError) -> McpError {
        match error {
            ServiceError::McpError(ErrorData { message, .. }) => McpError::Server(message.into()),
            ServiceError::TransportClosed => McpError::Closed,
            error => McpError::Server(deepest(&error)),
        }
    }

    /// The innermost cause is the one that says something.
    fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
        let mut error = error;
        while let Some(source) = error.source() {
            error = source;
        }
        error.to_string()
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
