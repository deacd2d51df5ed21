//! What the scripted model says, and how it looks on the wire.

use serde_json::{Value, json};

use super::dialect::Dialect;

/// One answer of the model.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub end: End,
    body: Body,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it.
    Whole,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes; the connection stays open.
    Hang(usize),
    /// Not even a status line comes; the connection stays open.
    Silent,
}

#[derive(Clone, Debug)]
enum Body {
    Turn(Turn),
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug, Default)]
pub struct Turn {
    pub text: String,
    pub thinking: Option<String>,
    pub calls: Vec<Call>,
    pub refused: bool,
    usage: Option<(u64, u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl Reply {
    pub fn text(text: &str) -> Reply {
        let text = text.to_owned();
        Reply::streamed(Body::Turn(Turn { text, ..Turn::default() }))
    }

    pub fn call(id: &str, name: &str, arguments: Value) -> Reply {
        Reply::calls(&[(id, name, arguments)])
    }

    pub fn calls(calls: &[(&str, &str, Value)]) -> Reply {
        Reply::text("").with_calls(calls)
    }

    /// Text and calls in one turn.
    pub fn with_calls(mut self, calls: &[(&str, &str, Value)]) -> Reply {
        for (id, name, arguments) in calls {
            self = self.with_call(id, name, &arguments.to_string());
        }
        self
    }

    /// A call whose arguments are this text, JSON or not.
    pub fn with_call(mut self, id: &str, name: &str, arguments: &str) -> Reply {
        self.turn().calls.push(Call {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        });
        self
    }

    pub fn usage(mut self, prompt: u64, completion: u64, cached: u64) -> Reply {
        self.turn().usage = Some((prompt, completion, cached));
        self
    }

    /// What the model thinks before it says anything.
    pub fn thinking(mut self, text: &str) -> Reply {
        self.turn().thinking = Some(text.to_owned());
        self
    }

    /// The model, or its provider, will not answer.
    pub fn refusal(text: &str) -> Reply {
        let mut reply = Reply::text(text);
        reply.turn().refused = true;
        reply
    }

    pub fn status(status: u16, headers: &[(&str, &str)], body: Value) -> Reply {
        let mut reply = Reply::streamed(Body::Bytes(body.to_string().into_bytes()));
        reply.status = status;
        reply.headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        for (name, value) in headers {
            reply.headers.push((name.to_string(), value.to_string()));
        }
        reply
    }

    /// A stream of these bytes, whatever they are.
    pub fn raw(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::streamed(Body::Bytes(bytes.as_ref().to_vec()))
    }

    /// Takes the request and never answers.
    pub fn hang() -> Reply {
        Reply { end: End::Silent, ..Reply::raw("") }
    }

    pub fn cut_after(mut self, bytes: usize) -> Reply {
        self.end = End::Cut(bytes);
        self
    }

    pub fn hang_after(mut self, bytes: usize) -> Reply {
        self.end = End::Hang(bytes);
        self
    }

    /// The body. OpenAI reports usage only to a client that asked for it, and so does this.
    pub fn bytes(&self, usage_asked: bool) -> Vec<u8> {
        match &self.body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::Turn(turn) => turn.chat_events(usage_asked, "").into_bytes(),
        }
    }

    /// The body in another protocol, and whether something was thought.
    pub fn in_dialect(&self, dialect: Dialect, signature: &str) -> (Vec<u8>, bool) {
        match &self.body {
            Body::Bytes(bytes) => (bytes.clone(), false),
            Body::Turn(turn) => {
                (dialect.encode(turn, signature).into_bytes(), turn.thinking.is_some())
            }
        }
    }

    fn streamed(body: Body) -> Reply {
        Reply {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
            end: End::Whole,
            body,
        }
    }

    fn turn(&mut self) -> &mut Turn {
        match &mut self.body {
            Body::Turn(turn) => turn,
            Body::Bytes(_) => panic!("raw bytes have no calls and no usage"),
        }
    }
}

impl Turn {
    pub fn pieces(&self) -> Vec<String> {
        pieces(&self.text, 7)
    }

    /// Input, output and cached tokens.
    pub fn counts(&self) -> (u64, u64, u64) {
        self.usage.unwrap_or((10, 5, 0))
    }

    /// As chat completions, with thinking as OpenRouter tells it.
    pub fn chat_events(&self, usage_asked: bool, signature: &str) -> String {
        let mut out = String::new();
        delta(&mut out, json!({"role": "assistant", "content": ""}));
        if let Some(thinking) = &self.thinking {
            let detail = |field: &str, text: &str| json!({"type": "reasoning.text", "index": 0, field: text});
            for piece in pieces(thinking, 5) {
                delta(
                    &mut out,
                    json!({"reasoning": piece, "reasoning_details": [detail("text", &piece)]}),
                );
            }
            delta(&mut out, json!({"reasoning_details": [detail("signature", signature)]}));
        }
        let field = if self.refused { "refusal" } else { "content" };
        for piece in self.pieces() {
            delta(&mut out, json!({field: piece}));
        }
        self.announce_calls(&mut out);
        self.interleave_arguments(&mut out);
        let reason = if self.calls.is_empty() { "stop" } else { "tool_calls" };
        choice(&mut out, json!({"index": 0, "delta": {}, "finish_reason": reason}));
        if usage_asked {
            let (prompt, completion, cached) = self.counts();
            let usage = json!({
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": cached},
            });
            event(&mut out, json!([]), Some(usage));
        }
        out.push_str("data: [DONE]\n\n");
        out
    }

    fn announce_calls(&self, out: &mut String) {
        for (index, call) in self.calls.iter().enumerate() {
            let function = json!({"name": call.name, "arguments": ""});
            let head =
                json!({"index": index, "id": call.id, "type": "function", "function": function});
            delta(out, json!({"tool_calls": [head]}));
        }
    }

    /// The arguments of parallel calls come mixed, told apart by their index alone.
    fn interleave_arguments(&self, out: &mut String) {
        let mut rows: Vec<_> =
            self.calls.iter().map(|call| pieces(&call.arguments, 5).into_iter()).collect();
        loop {
            let mut any = false;
            for (index, row) in rows.iter_mut().enumerate() {
                let Some(piece) = row.next() else { continue };
                any = true;
                let part = json!({"index": index, "function": {"arguments": piece}});
                delta(out, json!({"tool_calls": [part]}));
            }
            if !any {
                return;
            }
        }
    }
}

fn pieces(text: &str, length: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(length).map(|piece| piece.iter().collect()).collect()
}

fn delta(out: &mut String, delta: Value) {
    choice(out, json!({"index": 0, "delta": delta, "finish_reason": null}));
}

fn choice(out: &mut String, choice: Value) {
    event(out, json!([choice]), None);
}

fn event(out: &mut String, choices: Value, usage: Option<Value>) {
    let mut chunk = json!({
        "id": "chatcmpl-test",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "test-model",
        "choices": choices,
    });
    if let Some(usage) = usage {
        chunk["usage"] = usage;
    }
    out.push_str(&format!("data: {chunk}\n\n"));
}
