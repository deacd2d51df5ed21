//! The protocols that the scripted model can speak: how an answer looks on the wire, and what a faithful
//! server refuses in a request.

use serde_json::{Value, json};

use super::protocol::Request;
use super::script::Turn;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    #[default]
    Completions,
    /// Chat completions with reasoning details and, for some models, cache marks.
    OpenRouter,
    Responses,
    Messages,
    Gemini,
    Ollama,
}

pub const DIALECTS: [Dialect; 6] = [
    Dialect::Completions,
    Dialect::OpenRouter,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Gemini,
    Dialect::Ollama,
];

/// What one entry of a conversation comes to, in any protocol.
#[derive(Debug, Default, PartialEq)]
struct Said {
    assistant: bool,
    text: String,
    /// Ids of calls; where the protocol has none, names.
    calls: Vec<String>,
    results: Vec<(String, String)>,
}

impl Dialect {
    /// The flags of a run that speaks it, for a server at this address.
    pub fn flags(self, address: &str) -> Vec<String> {
        let (provider, base, model, more): (_, _, _, &[&str]) = match self {
            Dialect::Completions => ("openai", "/v1", "gpt-4o", &[]),
            Dialect::OpenRouter => ("openrouter", "/v1", "anthropic/claude-sonnet-4-6", &[]),
            Dialect::Responses => ("openai", "/v1", "gpt-5.1", &["--api-style", "responses"]),
            Dialect::Messages => ("anthropic", "/v1", "claude-sonnet-4-6", &[]),
            Dialect::Gemini => ("gemini", "/v1beta", "gemini-2.5-pro", &[]),
            Dialect::Ollama => ("ollama", "", "seeing", &[]),
        };
        let url = format!("http://{address}{base}");
        let flags = ["--provider", provider, "--base-url", &url, "--model", model];
        flags.iter().chain(more).map(ToString::to_string).collect()
    }

    /// The variable that holds the key; Ollama has none.
    pub fn key_variable(self) -> Option<&'static str> {
        match self {
            Dialect::Completions | Dialect::Responses => Some("OPENAI_API_KEY"),
            Dialect::OpenRouter => Some("OPENROUTER_API_KEY"),
            Dialect::Messages => Some("ANTHROPIC_API_KEY"),
            Dialect::Gemini => Some("GEMINI_API_KEY"),
            Dialect::Ollama => None,
        }
    }

    /// Whether a model that thinks gets its thinking back in this protocol.
    pub fn keeps_thinking(self) -> bool {
        !matches!(self, Dialect::Completions | Dialect::Ollama)
    }

    /// Whether arguments travel as text, so that they can be broken.
    pub fn has_broken_arguments(self) -> bool {
        !matches!(self, Dialect::Gemini | Dialect::Ollama)
    }

    fn path(self) -> &'static str {
        match self {
            Dialect::Completions | Dialect::OpenRouter => "/v1/chat/completions",
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
            Dialect::Gemini => "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            Dialect::Ollama => "/api/chat",
        }
    }

    fn entries(self) -> &'static str {
        match self {
            Dialect::Responses => "input",
            Dialect::Gemini => "contents",
            _ => "messages",
        }
    }

    /// Everything that is wrong with a request, given the one before it.
    pub fn violations(
        self,
        request: &Request,
        before: Option<&Request>,
        key: Option<&str>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        if (request.method.as_str(), request.path.as_str()) != ("POST", self.path()) {
            wrong.push(format!("unexpected request: {} {}", request.method, request.path));
        }
        self.check_key(request, key, &mut wrong);
        self.check_shape(&request.body, &mut wrong);
        self.check_tools(&request.body, &mut wrong);
        let said = self.said(&request.body, &mut wrong);
        check_pairs(&said, &mut wrong);
        if said.last().is_none_or(|last| last.assistant) {
            wrong.push("the last word is the assistant's own".into());
        }
        if let Some(before) = before {
            self.check_prefix(&before.body, &request.body, &mut wrong);
        }
        wrong
    }

    fn check_key(self, request: &Request, key: Option<&str>, wrong: &mut Vec<String>) {
        let Some(key) = key else { return };
        let (name, value) = match self {
            Dialect::Messages => ("x-api-key", key.to_owned()),
            Dialect::Gemini => ("x-goog-api-key", key.to_owned()),
            Dialect::Ollama => return,
            _ => ("authorization", format!("Bearer {key}")),
        };
        if request.headers.get(name) != Some(&value) {
            wrong.push(format!("{name} is {:?}", request.headers.get(name)));
        }
        if self == Dialect::Messages && !request.headers.contains_key("anthropic-version") {
            wrong.push("anthropic-version is missing".into());
        }
    }

    fn check_shape(self, body: &Value, wrong: &mut Vec<String>) {
        let mut need = |what: &str, holds: bool| {
            if !holds {
                wrong.push(format!("{what}: {body}"));
            }
        };
        need("no entries", body[self.entries()].as_array().is_some_and(|all| !all.is_empty()));
        match self {
            Dialect::Gemini => {
                need(
                    "no system instruction",
                    body["systemInstruction"]["parts"][0]["text"].is_string(),
                );
                need("a model in the body", body["model"].is_null());
                need(
                    "additionalProperties",
                    !body["tools"].to_string().contains("additionalProperties"),
                );
            }
            Dialect::Messages => {
                need("no max_tokens", body["max_tokens"].is_u64());
                need("no system blocks", body["system"][0]["text"].is_string());
                let marks = body.to_string().matches("\"cache_control\"").count();
                need("too many or no cache marks", (2..=4).contains(&marks));
                let last =
                    &body["messages"].as_array().and_then(|all| all.last()).unwrap()["content"];
                let last = last.as_array().and_then(|blocks| blocks.last());
                need(
                    "the end is not marked",
                    last.is_some_and(|block| block["cache_control"].is_object()),
                );
                let budget = body["thinking"]["budget_tokens"].as_u64();
                need(
                    "thinking has no room",
                    budget.is_none_or(|budget| body["max_tokens"].as_u64() > Some(budget)),
                );
                let entries = body["messages"].as_array().into_iter().flatten();
                let bare = |block: &Value| {
                    block["type"] == "thinking"
                        && block["signature"].as_str().is_none_or(str::is_empty)
                };
                let mut blocks = entries.filter_map(|entry| entry["content"].as_array()).flatten();
                need("thinking without its signature", !blocks.any(bare));
                need(
                    "thinking with a temperature",
                    budget.is_none() || body["temperature"].is_null(),
                );
            }
            Dialect::Responses => {
                need("it is stored", body["store"] == false);
                need("no instructions", body["instructions"].is_string());
                let asked = body["include"]
                    .as_array()
                    .is_some_and(|all| all.contains(&json!("reasoning.encrypted_content")));
                need("thinking would be lost", asked);
            }
            Dialect::Ollama => {
                need("no context size", body["options"]["num_ctx"].as_u64() > Some(8_000));
            }
            Dialect::OpenRouter => {
                let marks = body.to_string().matches("\"cache_control\"").count();
                need("too many or no cache marks", (1..=4).contains(&marks));
            }
            Dialect::Completions => {
                need(
                    "marks for a server without them",
                    !body.to_string().contains("cache_control"),
                );
            }
        }
        if self != Dialect::Gemini {
            need("no model", body["model"].is_string());
            need("no stream", body["stream"] == true);
        }
    }

    /// Names, and an object schema for each tool.
    fn check_tools(self, body: &Value, wrong: &mut Vec<String>) {
        let tools = match self {
            Dialect::Gemini => &body["tools"][0]["functionDeclarations"],
            _ => &body["tools"],
        };
        for tool in tools.as_array().into_iter().flatten() {
            let (name, schema) = match self {
                Dialect::Messages => (&tool["name"], &tool["input_schema"]),
                Dialect::Responses | Dialect::Gemini => (&tool["name"], &tool["parameters"]),
                _ => (&tool["function"]["name"], &tool["function"]["parameters"]),
            };
            if name.as_str().is_none_or(str::is_empty) || schema["type"] != "object" {
                wrong.push(format!("malformed tool: {tool}"));
            }
        }
    }

    fn said(self, body: &Value, wrong: &mut Vec<String>) -> Vec<Said> {
        let entries = body[self.entries()].as_array().cloned().unwrap_or_default();
        let said: Vec<Said> = entries.iter().map(|entry| self.one(entry)).collect();
        let strict = matches!(self, Dialect::Messages | Dialect::Gemini);
        if strict && said.windows(2).any(|pair| pair[0].assistant == pair[1].assistant) {
            wrong.push("two entries of one role in a row".into());
        }
        if strict && said.first().is_some_and(|first| first.assistant) {
            wrong.push("the assistant begins".into());
        }
        said.into_iter().filter(|said| *said != Said::default()).collect()
    }

    fn one(self, entry: &Value) -> Said {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let role = entry["role"].as_str().unwrap_or_default();
        let mut said = Said { assistant: matches!(role, "assistant" | "model"), ..Said::default() };
        match self {
            Dialect::Completions | Dialect::OpenRouter | Dialect::Ollama => {
                let content = all_text(&entry["content"]);
                if role == "tool" {
                    let id = if self == Dialect::Ollama { "tool_name" } else { "tool_call_id" };
                    said.results.push((text(&entry[id]), content));
                } else if role != "system" {
                    said.text = content;
                }
                for call in entry["tool_calls"].as_array().into_iter().flatten() {
                    let id = if self == Dialect::Ollama {
                        &call["function"]["name"]
                    } else {
                        &call["id"]
                    };
                    said.calls.push(text(id));
                }
            }
            Dialect::Responses => match entry["type"].as_str() {
                Some("function_call") => {
                    said.assistant = true;
                    said.calls.push(text(&entry["call_id"]));
                }
                Some("function_call_output") => {
                    said.results.push((text(&entry["call_id"]), all_text(&entry["output"])));
                }
                Some("reasoning") => {}
                _ => said.text = all_text(&entry["content"]),
            },
            Dialect::Messages => {
                for block in entry["content"].as_array().into_iter().flatten() {
                    match block["type"].as_str() {
                        Some("tool_use") => said.calls.push(text(&block["id"])),
                        Some("tool_result") => said
                            .results
                            .push((text(&block["tool_use_id"]), all_text(&block["content"]))),
                        _ => said.text.push_str(&text(&block["text"])),
                    }
                }
            }
            Dialect::Gemini => {
                for part in entry["parts"].as_array().into_iter().flatten() {
                    let (call, result) = (&part["functionCall"], &part["functionResponse"]);
                    if call.is_object() {
                        said.calls.push(text(&call["id"]));
                    } else if result.is_object() {
                        let response = &result["response"];
                        let output = response.get("output").or(response.get("error"));
                        said.results
                            .push((text(&result["id"]), text(output.unwrap_or(&Value::Null))));
                    } else {
                        said.text.push_str(&text(&part["text"]));
                    }
                }
            }
        }
        said
    }

    /// The result that a request has for a call: by id, or by the tool's name for Ollama.
    #[track_caller]
    pub fn result(self, request: &Request, id: &str, name: &str) -> String {
        let said = self.said(&request.body, &mut Vec::new());
        let wanted = if self == Dialect::Ollama { name } else { id };
        let found = said.into_iter().flat_map(|said| said.results).find(|(id, _)| id == wanted);
        found.unwrap_or_else(|| panic!("no result for {wanted} in {:#}", request.body)).1
    }

    /// What was said stays said; only marks move, and the last entry may grow.
    fn check_prefix(self, before: &Value, now: &Value, wrong: &mut Vec<String>) {
        for part in ["system", "instructions", "systemInstruction", "tools"] {
            if before[part] != now[part] {
                wrong.push(format!("{part} changed"));
            }
        }
        let entries = |body: &Value| {
            let mut entries = body[self.entries()].clone();
            without_marks(&mut entries);
            entries.as_array().cloned().unwrap_or_default()
        };
        let (old, new) = (entries(before), entries(now));
        if new.len() < old.len() {
            wrong.push(format!(
                "the conversation shrank from {} to {} entries",
                old.len(),
                new.len()
            ));
        }
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            let grown = ["content", "parts"].iter().any(|list| {
                let (Some(old), Some(new)) = (old[list].as_array(), new[list].as_array()) else {
                    return false;
                };
                new.starts_with(old)
            });
            if old != new && !grown {
                wrong.push(format!("entry {at} changed from {old} to {new}"));
            }
        }
    }

    /// An answer as this protocol streams it. `signature` goes with thinking.
    pub fn encode(self, turn: &Turn, signature: &str) -> String {
        match self {
            Dialect::Completions | Dialect::OpenRouter => turn.chat_events(true, signature),
            Dialect::Responses => responses(turn, signature),
            Dialect::Messages => messages(turn, signature),
            Dialect::Gemini => gemini(turn, signature),
            Dialect::Ollama => ollama(turn),
        }
    }
}

fn all_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn without_marks(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("cache_control");
            fields.values_mut().for_each(without_marks);
        }
        Value::Array(items) => items.iter_mut().for_each(without_marks),
        _ => {}
    }
}

/// Each call has exactly one result, before anybody else speaks; each result has its call.
fn check_pairs(said: &[Said], wrong: &mut Vec<String>) {
    let mut open: Vec<String> = Vec::new();
    for said in said {
        for (id, _) in &said.results {
            match open.iter().position(|call| call == id) {
                Some(at) => drop(open.remove(at)),
                None => wrong.push(format!("a result for {id:?}, which is no open call")),
            }
        }
        let speaks = !said.text.is_empty() && said.results.is_empty() && said.calls.is_empty();
        if speaks && !open.is_empty() {
            wrong.push(format!("calls {open:?} have no result"));
        }
        open.extend(said.calls.iter().cloned());
    }
    if !open.is_empty() {
        wrong.push(format!("calls {open:?} have no result at the end"));
    }
}

fn data(out: &mut String, event: &Value) {
    if let Some(kind) = event["type"].as_str() {
        out.push_str(&format!("event: {kind}\n"));
    }
    out.push_str(&format!("data: {event}\n\n"));
}

fn responses(turn: &Turn, signature: &str) -> String {
    let mut out = String::new();
    let created =
        json!({"type": "response.created", "response": {"id": "r", "status": "in_progress"}});
    data(&mut out, &created);
    let done = |out: &mut String, item: Value| {
        data(out, &json!({"type": "response.output_item.done", "output_index": 0, "item": item}));
    };
    if let Some(thinking) = &turn.thinking {
        let delta = json!({"type": "response.reasoning_summary_text.delta", "delta": thinking});
        data(&mut out, &delta);
        done(
            &mut out,
            json!({"type": "reasoning", "id": "rs_1", "encrypted_content": signature,
            "summary": [{"type": "summary_text", "text": thinking}]}),
        );
    }
    if !turn.text.is_empty() {
        let kind =
            if turn.refused { "response.refusal.delta" } else { "response.output_text.delta" };
        for piece in turn.pieces() {
            data(&mut out, &json!({"type": kind, "delta": piece}));
        }
        let content = json!([{"type": "output_text", "text": turn.text, "annotations": []}]);
        done(
            &mut out,
            json!({"type": "message", "id": "m", "role": "assistant", "content": content}),
        );
    }
    for call in &turn.calls {
        let delta =
            json!({"type": "response.function_call_arguments.delta", "delta": call.arguments});
        data(&mut out, &delta);
        done(
            &mut out,
            json!({"type": "function_call", "id": "fc", "call_id": call.id, "name": call.name,
            "arguments": call.arguments, "status": "completed"}),
        );
    }
    let (input, output, cached) = turn.counts();
    data(
        &mut out,
        &json!({"type": "response.completed", "response": {"status": "completed", "usage":
        {"input_tokens": input, "output_tokens": output, "input_tokens_details": {"cached_tokens": cached}}}}),
    );
    out
}

fn messages(turn: &Turn, signature: &str) -> String {
    let mut out = String::new();
    let (input, output, cached) = turn.counts();
    data(
        &mut out,
        &json!({"type": "message_start", "message": {"role": "assistant", "content": [],
        "usage": {"input_tokens": input - cached, "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0, "output_tokens": 1}}}),
    );
    let mut index = 0;
    let mut block = |out: &mut String, start: Value, deltas: Vec<Value>| {
        data(out, &json!({"type": "content_block_start", "index": index, "content_block": start}));
        data(out, &json!({"type": "ping"}));
        for delta in deltas {
            data(out, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        data(out, &json!({"type": "content_block_stop", "index": index}));
        index += 1;
    };
    if let Some(thinking) = &turn.thinking {
        let deltas = vec![
            json!({"type": "thinking_delta", "thinking": thinking}),
            json!({"type": "signature_delta", "signature": signature}),
        ];
        block(&mut out, json!({"type": "thinking", "thinking": "", "signature": ""}), deltas);
    }
    if !turn.text.is_empty() {
        let delta = |piece: String| json!({"type": "text_delta", "text": piece});
        let deltas = turn.pieces().into_iter().map(delta).collect();
        block(&mut out, json!({"type": "text", "text": ""}), deltas);
    }
    for call in &turn.calls {
        let (head, tail) = call.arguments.split_at(call.arguments.len() / 2);
        let delta = |part: &str| json!({"type": "input_json_delta", "partial_json": part});
        let start = json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}});
        block(&mut out, start, vec![delta(""), delta(head), delta(tail)]);
    }
    let reason = match turn {
        turn if turn.refused => "refusal",
        turn if turn.calls.is_empty() => "end_turn",
        _ => "tool_use",
    };
    data(
        &mut out,
        &json!({"type": "message_delta", "delta": {"stop_reason": reason},
        "usage": {"output_tokens": output}}),
    );
    data(&mut out, &json!({"type": "message_stop"}));
    out
}

fn gemini(turn: &Turn, signature: &str) -> String {
    let mut out = String::new();
    let mut part = |part: Value| {
        let candidate = json!({"content": {"role": "model", "parts": [part]}, "index": 0});
        out.push_str(&format!("data: {}\r\n\r\n", json!({"candidates": [candidate]})));
    };
    if let Some(thinking) = &turn.thinking {
        part(json!({"text": thinking, "thought": true}));
    }
    turn.pieces().into_iter().for_each(|piece| part(json!({"text": piece})));
    for (number, call) in turn.calls.iter().enumerate() {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let mut made =
            json!({"functionCall": {"id": call.id, "name": call.name, "args": arguments}});
        if number == 0 && turn.thinking.is_some() {
            made["thoughtSignature"] = signature.into();
        }
        part(made);
    }
    let (input, output, cached) = turn.counts();
    let reason = if turn.refused { "SAFETY" } else { "STOP" };
    let last = json!({"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": reason}],
        "usageMetadata": {"promptTokenCount": input, "candidatesTokenCount": output,
            "cachedContentTokenCount": cached}});
    out.push_str(&format!("data: {last}\r\n\r\n"));
    out
}

fn ollama(turn: &Turn) -> String {
    let mut out = String::new();
    let mut line = |message: Value, end: bool| {
        let mut line =
            json!({"model": "seeing", "created_at": "now", "message": message, "done": end});
        if end {
            let (input, output, _) = turn.counts();
            line["done_reason"] = "stop".into();
            line["prompt_eval_count"] = input.into();
            line["eval_count"] = output.into();
        }
        out.push_str(&format!("{line}\n"));
    };
    if let Some(thinking) = &turn.thinking {
        line(json!({"role": "assistant", "content": "", "thinking": thinking}), false);
    }
    for piece in turn.pieces() {
        line(json!({"role": "assistant", "content": piece}), false);
    }
    for call in &turn.calls {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap();
        let call = json!({"function": {"name": call.name, "arguments": arguments}});
        line(json!({"role": "assistant", "content": "", "tool_calls": [call]}), false);
    }
    line(json!({"role": "assistant", "content": ""}), true);
    out
}

fn request(body: Value, path: &str) -> Request {
    Request {
        method: "POST".into(),
        path: path.into(),
        text: body.to_string(),
        body,
        ..Request::default()
    }
}

#[test]
fn the_judges_of_the_dialects_see_what_is_wrong() {
    let messages = |entries: Value| {
        request(
            json!({"model": "m", "stream": true, "max_tokens": 9, "messages": entries,
                "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]}),
            "/v1/messages",
        )
    };
    let marked = |mut block: Value| {
        block["cache_control"] = json!({"type": "ephemeral"});
        block
    };
    let user = json!({"role": "user", "content": [marked(json!({"type": "text", "text": "hi"}))]});
    let good = messages(json!([user]));
    assert_eq!(Dialect::Messages.violations(&good, None, None), Vec::<String>::new());
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "read", "input": {}}]});
    let orphan = json!({"role": "user", "content": [marked(json!({"type": "tool_result", "tool_use_id": "b"}))]});
    let wrong =
        Dialect::Messages.violations(&messages(json!([user, call, orphan])), None, None).join("\n");
    assert!(wrong.contains("\"b\"") && wrong.contains("[\"a\"] have no result"), "{wrong}");
    let twice = Dialect::Messages.violations(&messages(json!([user, user])), None, None).join("\n");
    assert!(twice.contains("of one role in a row"), "{twice}");
    let changed = messages(
        json!([{"role": "user", "content": [marked(json!({"type": "text", "text": "ho"}))]}]),
    );
    let wrong = Dialect::Messages.violations(&changed, Some(&good), None).join("\n");
    assert!(wrong.contains("entry 0 changed"), "{wrong}");
    let stored = request(
        json!({"model": "m", "stream": true, "instructions": "", "store": true,
        "input": [{"type": "message", "role": "user", "content": "x"}]}),
        "/v1/responses",
    );
    let wrong = Dialect::Responses.violations(&stored, None, Some("k")).join("\n");
    assert!(wrong.contains("it is stored") && wrong.contains("authorization"), "{wrong}");
}
