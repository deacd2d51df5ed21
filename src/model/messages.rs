//! Anthropic's Messages protocol.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{Decode, cut, numbered, parse, split_system, stream_error};
use super::{Answer, Api, Attachment, Message, ModelError, Native, Request, Stop, StreamEvent};

/// The protocol wants a number in every request.
const DEFAULT_MAX_TOKENS: u64 = 16_384;

pub(super) fn body(request: &Request) -> Value {
    let (system, rest) = split_system(&request.messages);
    let most = request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let level = request.thinking.for_ability(request.ability);
    let budget = level.budget().filter(|budget| *budget > 0 && request.ability.thinks);
    // The answer itself needs room too; the protocol takes no budget below 1024.
    let budget =
        budget.map(|budget| budget.min(most.saturating_sub(1024))).filter(|it| *it >= 1024);
    let mut messages: Vec<Value> = Vec::new();
    for message in rest {
        let (role, blocks) = entry(message, budget.is_some());
        // Results of one answer, and what the user says after them, are one message.
        match messages.last_mut() {
            Some(last) if last["role"] == role => {
                if let Some(content) = last["content"].as_array_mut() {
                    content.extend(blocks);
                }
            }
            _ => messages.push(json!({"role": role, "content": blocks})),
        }
    }
    mark(&mut messages);
    let mut body = json!({
        "model": request.model,
        "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        "messages": messages,
        "max_tokens": most,
        "stream": true,
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| {
            json!({"name": tool.name, "description": tool.description,
                "input_schema": tool.parameters})
        };
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    match (budget, request.temperature) {
        (Some(_), _) if request.ability.adaptive => {
            body["thinking"] = json!({"type": "adaptive"});
            body["output_config"] = json!({"effort": level.effort()});
        }
        // With thinking the temperature is fixed.
        (Some(budget), _) => {
            body["thinking"] = json!({"type": "enabled", "budget_tokens": budget});
        }
        (None, Some(temperature)) => body["temperature"] = temperature.into(),
        (None, None) => {}
    }
    body
}

/// Marks the ends of the last two messages of the user: the one to write to the cache, and the one
/// that the request before has written.
fn mark(messages: &mut [Value]) {
    let users = messages.iter_mut().rev().filter(|message| message["role"] == "user").take(2);
    for message in users {
        if let Some(last) = message["content"].as_array_mut().and_then(|blocks| blocks.last_mut()) {
            last["cache_control"] = json!({"type": "ephemeral"});
        }
    }
}

fn entry(message: &Message, thinking: bool) -> (&'static str, Vec<Value>) {
    match message {
        Message::System { .. } => ("user", Vec::new()),
        Message::User { text, attachments } => {
            ("user", attachments.iter().map(attached).chain([words(text)]).collect())
        }
        Message::Tool { call_id, text, attachments, failed } => {
            let content: Vec<Value> =
                std::iter::once(words(text)).chain(attachments.iter().map(attached)).collect();
            let mut block = json!({"type": "tool_result", "tool_use_id": known_id(call_id), "content": content});
            if *failed {
                block["is_error"] = true.into();
            }
            ("user", vec![block])
        }
        Message::Assistant { text, calls, native } => {
            if let Some(parts) = Native::parts_of(native, Api::Messages).filter(|_| thinking) {
                return ("assistant", parts.to_vec());
            }
            let call = |call: &super::ToolCall| json!({"type": "tool_use", "id": known_id(&call.id), "name": call.name, "input": call.object()});
            let said = (!text.is_empty() || calls.is_empty()).then(|| words(text));
            ("assistant", said.into_iter().chain(calls.iter().map(call)).collect())
        }
    }
}

/// An id in the letters that the protocol takes; those of other providers can have more. What is escaped
/// cannot be mistaken for another id.
fn known_id(id: &str) -> Cow<'_, str> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !id.is_empty() && id.bytes().all(known) {
        return id.into();
    }
    let escaped = id.bytes().map(|byte| match byte {
        byte if known(byte) => char::from(byte).to_string(),
        byte => format!("_x{byte:02x}_"),
    });
    format!("id_{}", escaped.collect::<String>()).into()
}

/// A block of text; the protocol refuses an empty one.
fn words(text: &str) -> Value {
    let text = if text.trim().is_empty() { "(nothing)" } else { text };
    json!({"type": "text", "text": text})
}

fn attached(attachment: &Attachment) -> Value {
    let kind = if attachment.is_image() { "image" } else { "document" };
    json!({"type": kind, "source": {"type": "base64", "media_type": attachment.media_type,
        "data": attachment.data}})
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: usize,
    message: Option<Start>,
    content_block: Option<Value>,
    #[serde(default)]
    delta: Value,
    usage: Option<EventUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Start {
    usage: Option<EventUsage>,
}

#[derive(Debug, Deserialize)]
struct EventUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    answer: Answer,
    blocks: Vec<Value>,
    /// The call that each block of that kind is.
    calls: Vec<Option<usize>>,
    stop: Option<String>,
    ended: bool,
}

impl Decode for Decoder {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        let event: Event = parse(data)?;
        match event.kind.as_str() {
            "message_start" => self.usage(event.message.and_then(|message| message.usage)),
            "content_block_start" => self.start(event.index, event.content_block, out)?,
            "content_block_delta" => self.delta(event.index, &event.delta, out)?,
            "message_delta" => {
                self.stop = event.delta["stop_reason"].as_str().map(str::to_owned);
                self.usage(event.usage);
            }
            "message_stop" => self.ended = true,
            "error" => return Err(stream_error(&event.error.unwrap_or_default())),
            _ => {}
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Answer, ModelError> {
        if !self.ended && self.stop.is_none() {
            return Err(cut());
        }
        let Decoder { mut answer, mut blocks, calls, stop, .. } = *self;
        answer.stop = match stop.as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => Stop::Length,
            Some("refusal") => Stop::Refused,
            _ => Stop::Done,
        };
        let thinks = |block: &Value| {
            matches!(block["type"].as_str(), Some("thinking" | "redacted_thinking"))
        };
        if blocks.iter().any(thinks) {
            for (block, call) in blocks.iter_mut().zip(calls) {
                if let Some(call) = call {
                    block["input"] = answer.calls[call].object();
                }
            }
            // An answer that was cut may end in an empty block or in thinking without its signature;
            // those would be refused, and so would thinking that nothing follows.
            let blank = |field: &Value| field.as_str().is_none_or(|text| text.trim().is_empty());
            blocks.retain(|block| match block["type"].as_str() {
                Some("text") => !blank(&block["text"]),
                Some("thinking") => !blank(&block["signature"]),
                _ => true,
            });
            while blocks.last().is_some_and(thinks) {
                blocks.pop();
            }
            if blocks.iter().any(thinks) {
                answer.native = Some(Native { api: Api::Messages, parts: blocks });
            }
        }
        Ok(answer)
    }
}

impl Decoder {
    fn usage(&mut self, new: Option<EventUsage>) {
        let Some(new) = new else { return };
        let usage = &mut self.answer.usage;
        if let Some(input) = new.input_tokens {
            usage.cached = new.cache_read_input_tokens.unwrap_or(usage.cached);
            usage.cache_written = new.cache_creation_input_tokens.unwrap_or(usage.cache_written);
            usage.input = input.saturating_add(usage.cached).saturating_add(usage.cache_written);
        }
        usage.output = new.output_tokens.unwrap_or(usage.output);
    }

    fn start(
        &mut self,
        index: usize,
        block: Option<Value>,
        out: &mut Vec<StreamEvent>,
    ) -> Result<(), ModelError> {
        if index != self.blocks.len() {
            return Err(ModelError::Broken(format!("content block {index} has no predecessor")));
        }
        let block = block.unwrap_or_default();
        let mut call = None;
        if block["type"] == "tool_use" {
            let number = self.answer.calls.len();
            let made = numbered(&mut self.answer.calls, number)?;
            made.id = block["id"].as_str().unwrap_or_default().to_owned();
            made.name = block["name"].as_str().unwrap_or_default().to_owned();
            // Some servers send the whole input at once.
            if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
                made.arguments = block["input"].to_string();
            }
            call = Some(number);
        }
        if let Some(text) = block["text"].as_str().filter(|text| !text.is_empty()) {
            self.answer.text.push_str(text);
            out.push(StreamEvent::Text(text.to_owned()));
        }
        self.blocks.push(block);
        self.calls.push(call);
        Ok(())
    }

    fn delta(
        &mut self,
        index: usize,
        delta: &Value,
        out: &mut Vec<StreamEvent>,
    ) -> Result<(), ModelError> {
        let Some(block) = self.blocks.get_mut(index) else {
            return Err(ModelError::Broken(format!("there is no content block {index}")));
        };
        let field = match delta["type"].as_str() {
            Some("text_delta") => "text",
            Some("thinking_delta") => "thinking",
            Some("signature_delta") => "signature",
            Some("input_json_delta") => "partial_json",
            _ => return Ok(()),
        };
        let text = delta[field].as_str().unwrap_or_default();
        if let (Some(call), "partial_json") = (self.calls[index], field) {
            self.answer.calls[call].arguments.push_str(text);
            return Ok(());
        }
        if !block.is_object() {
            return Err(ModelError::Broken("a content block is no object".into()));
        }
        let so_far = block[field].as_str().unwrap_or_default();
        block[field] = format!("{so_far}{text}").into();
        match field {
            "text" => {
                self.answer.text.push_str(text);
                out.push(StreamEvent::Text(text.to_owned()));
            }
            "thinking" => out.push(StreamEvent::Reasoning(text.to_owned())),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ability, Thinking, ToolCall, Usage};
    use super::*;

    fn decode(events: &[Value]) -> Result<Answer, ModelError> {
        let mut stream = Api::Messages.stream();
        for event in events {
            stream.feed(format!("event: x\ndata: {event}\n\n").as_bytes())?;
        }
        stream.finish()
    }

    #[test]
    fn thinking_is_sent_back_with_its_signature_before_the_call() {
        let delta = |index: usize, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let answer = decode(&[
            json!({"type": "message_start", "message": {"usage": {"input_tokens": 3,
                "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
            delta(0, json!({"type": "thinking_delta", "thinking": "hm"})),
            delta(0, json!({"type": "signature_delta", "signature": "sig"})),
            json!({"type": "content_block_start", "index": 1,
                "content_block": {"type": "tool_use", "id": "t", "name": "read", "input": {}}}),
            delta(1, json!({"type": "input_json_delta", "partial_json": "{\"path\":"})),
            delta(1, json!({"type": "input_json_delta", "partial_json": "\"a\"}"})),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 7}}),
            json!({"type": "message_stop"}),
        ])
        .unwrap();
        assert_eq!(answer.usage, Usage { input: 10, output: 7, cached: 5, cache_written: 2 });
        let message =
            Message::Assistant { text: answer.text, calls: answer.calls, native: answer.native };
        let (_, blocks) = entry(&message, true);
        assert_eq!(blocks[0]["signature"], "sig");
        assert_eq!(blocks[0]["thinking"], "hm");
        assert_eq!(blocks[1]["input"], json!({"path": "a"}));
        let (_, plain) = entry(&message, false);
        assert_eq!(plain.len(), 1);
        assert_eq!(known_id("toolu_01-A"), "toolu_01-A");
        assert_eq!(known_id("functions.read:0"), "id_functions_x2e_read_x3a_0");
    }

    #[test]
    fn results_of_one_answer_are_one_message_and_marks_are_few() {
        let call =
            |id: &str| ToolCall { id: id.into(), name: "read".into(), arguments: "{".into() };
        let tool = |id: &str| Message::Tool {
            call_id: id.into(),
            text: String::new(),
            attachments: Vec::new(),
            failed: true,
        };
        let request = Request {
            model: "claude".into(),
            messages: vec![
                Message::System { text: "s".into() },
                Message::user("p"),
                Message::Assistant {
                    text: String::new(),
                    calls: vec![call("a"), call("b")],
                    native: None,
                },
                tool("a"),
                tool("b"),
            ],
            thinking: Thinking::High,
            ability: Ability { thinks: true, ..Ability::default() },
            ..Request::default()
        };
        let body = body(&request);
        assert_eq!(body["messages"].as_array().unwrap().len(), 3);
        assert_eq!(body["messages"][1]["content"][0]["input"], json!({"invalid_json": "{"}));
        assert_eq!(body.to_string().matches("cache_control").count(), 3);
        assert!(body["max_tokens"].as_u64() > body["thinking"]["budget_tokens"].as_u64());
    }

    #[test]
    fn an_answer_that_is_cut_inside_its_thinking_leaves_nothing_that_a_server_refuses() {
        let start = |index: usize, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let cut = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}});
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": ""});
        let answer = decode(&[start(0, thinking), cut.clone()]).unwrap();
        assert_eq!((answer.native, answer.stop), (None, Stop::Length));
        let signed = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let answer =
            decode(&[start(0, signed), start(1, json!({"type": "text", "text": " "})), cut]);
        assert_eq!(answer.unwrap().native, None);
    }
}
