//! The chat-completions protocol: OpenAI, OpenRouter and every server that speaks it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{Decode, cut, numbered, parse, stream_error};
use super::{
    Answer, Api, Attachment, Message, ModelError, Native, Request, Stop, StreamEvent, Thinking,
    ToolCall, Usage,
};

pub(super) fn body(request: &Request) -> Value {
    let marks = wants_marks(&request.model);
    let last = request.messages.len().saturating_sub(1);
    let mut messages = Vec::new();
    let mut pending: Vec<&Attachment> = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        // A tool's result can only be text here; what it shows follows once all results are there.
        if !matches!(message, Message::Tool { .. }) && !pending.is_empty() {
            messages.push(shown(&std::mem::take(&mut pending)));
        }
        if let Message::Tool { attachments, .. } = message {
            pending.extend(attachments);
        }
        messages.push(entry(message, marks.then_some(at == 0 || at == last)));
    }
    if !pending.is_empty() {
        messages.push(shown(&pending));
    }
    let mut body = json!({
        "model": request.model,
        "messages": messages,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| json!({"type": "function", "function": tool});
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    if let Some(most) = request.max_tokens {
        body[limit_name(request)] = most.into();
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = temperature.into();
    }
    match request.thinking.for_ability(request.ability) {
        Thinking::Auto => {}
        // A server that knows nothing of thinking would refuse the word.
        Thinking::Off if !request.ability.thinks => {}
        Thinking::Off => body["reasoning_effort"] = "none".into(),
        level => body["reasoning_effort"] = level.effort().into(),
    }
    body
}

/// OpenAI's own models that think have another name for the limit.
fn limit_name(request: &Request) -> &'static str {
    let own = !request.model.contains('/') && request.ability.thinks;
    let openai = request.model.starts_with("gpt-5") || request.model.starts_with('o');
    if own && openai { "max_completion_tokens" } else { "max_tokens" }
}

/// Models that cache only what is marked.
fn wants_marks(model: &str) -> bool {
    model.starts_with("anthropic/")
}

/// `mark` says whether a model that wants marks gets one here: what is before it is cached.
fn entry(message: &Message, mark: Option<bool>) -> Value {
    match message {
        Message::System { text } => json!({"role": "system", "content": content(text, &[], mark)}),
        Message::User { text, attachments } => {
            json!({"role": "user", "content": content(text, attachments, mark)})
        }
        Message::Tool { call_id, text, .. } => {
            json!({"role": "tool", "tool_call_id": call_id, "content": content(text, &[], mark)})
        }
        Message::Assistant { text, calls, native } => {
            let mut value = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                value["tool_calls"] = calls.iter().map(call).collect();
            }
            if let Some(details) = Native::parts_of(native, Api::Completions) {
                // Some tell their thinking as one text and want it back under that name.
                match details {
                    [one] if one["reasoning_content"].is_string() => {
                        value["reasoning_content"] = one["reasoning_content"].clone();
                    }
                    several => value["reasoning_details"] = several.into(),
                }
            }
            value
        }
    }
}

fn content(text: &str, attachments: &[Attachment], mark: Option<bool>) -> Value {
    if attachments.is_empty() && mark.is_none() {
        return text.into();
    }
    let mut part = json!({"type": "text", "text": text});
    if mark == Some(true) {
        part["cache_control"] = json!({"type": "ephemeral"});
    }
    std::iter::once(part).chain(attachments.iter().map(attached)).collect()
}

fn attached(attachment: &Attachment) -> Value {
    if attachment.is_image() {
        json!({"type": "image_url", "image_url": {"url": attachment.data_url()}})
    } else {
        json!({"type": "file", "file": {"filename": "document.pdf", "file_data": attachment.data_url()}})
    }
}

fn shown(attachments: &[&Attachment]) -> Value {
    let text = json!({"type": "text", "text": "(what the tool showed)"});
    let parts: Vec<Value> = attachments.iter().map(|attachment| attached(attachment)).collect();
    json!({"role": "user", "content": std::iter::once(text).chain(parts).collect::<Vec<_>>()})
}

fn call(call: &ToolCall) -> Value {
    let whole = serde_json::from_str::<Value>(&call.arguments).is_ok_and(|value| value.is_object());
    let arguments = if whole { call.arguments.clone() } else { call.object().to_string() };
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<ChunkUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    reasoning_details: Option<Vec<Value>>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    #[serde(default)]
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ChunkUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    cache_write_tokens: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    answer: Answer,
    details: Vec<Value>,
    /// What came as `reasoning_content`.
    content: String,
    finished: Option<String>,
    ended: bool,
    refused: bool,
}

impl Decode for Decoder {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        if data.trim() == "[DONE]" {
            self.ended = true;
        }
        if self.ended { Ok(()) } else { self.chunk(parse(data)?, out) }
    }

    fn finish(self: Box<Self>) -> Result<Answer, ModelError> {
        if self.finished.is_none() && !self.ended {
            return Err(cut());
        }
        let mut answer = self.answer;
        answer.stop = match self.finished.as_deref() {
            Some("length") => Stop::Length,
            Some("content_filter") => Stop::Refused,
            _ if self.refused => Stop::Refused,
            _ => Stop::Done,
        };
        let mut parts = self.details;
        if parts.is_empty() && !self.content.is_empty() {
            parts.push(json!({"reasoning_content": self.content}));
        }
        if !parts.is_empty() {
            answer.native = Some(Native { api: Api::Completions, parts });
        }
        Ok(answer)
    }
}

impl Decoder {
    fn chunk(&mut self, chunk: Chunk, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        if let Some(error) = chunk.error {
            return Err(stream_error(&error));
        }
        if let Some(usage) = chunk.usage {
            let details = usage.prompt_tokens_details;
            let part = |of: fn(&PromptDetails) -> Option<u64>| {
                details.as_ref().and_then(of).unwrap_or_default()
            };
            self.answer.usage = Usage {
                input: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: part(|details| details.cached_tokens),
                cache_written: part(|details| details.cache_write_tokens),
            };
        }
        // Only one choice was asked for.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(()) };
        let Delta { content, reasoning, reasoning_content, reasoning_details, refusal, tool_calls } =
            choice.delta;
        self.content.push_str(reasoning_content.as_deref().unwrap_or_default());
        let reasoning = reasoning.filter(|text| !text.is_empty()).or(reasoning_content);
        self.refused |= refusal.as_ref().is_some_and(|text| !text.is_empty());
        for text in [content, refusal].into_iter().flatten().filter(|text| !text.is_empty()) {
            self.answer.text.push_str(&text);
            out.push(StreamEvent::Text(text));
        }
        if let Some(text) = reasoning.filter(|text| !text.is_empty()) {
            out.push(StreamEvent::Reasoning(text));
        }
        let objects = reasoning_details.into_iter().flatten().filter(Value::is_object);
        for detail in objects {
            self.detail(detail);
        }
        for delta in tool_calls.into_iter().flatten() {
            self.call(delta)?;
        }
        self.finished = choice.finish_reason.or(self.finished.take());
        Ok(())
    }

    /// Pieces of one detail, told by its index, are put together: what is sent back must be whole.
    fn detail(&mut self, piece: Value) {
        let same =
            |known: &&mut Value| known["index"] == piece["index"] && known["type"] == piece["type"];
        let Some(known) = self.details.last_mut().filter(same) else {
            self.details.push(piece);
            return;
        };
        let Value::Object(fields) = piece else { return };
        for (name, value) in fields {
            let joined = match (&known[&name], &value) {
                (Value::String(old), Value::String(new))
                    if matches!(name.as_str(), "text" | "summary" | "data") =>
                {
                    Value::String(format!("{old}{new}"))
                }
                (_, Value::Null) => continue,
                _ => value,
            };
            known[&name] = joined;
        }
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), ModelError> {
        let calls = &mut self.answer.calls;
        // Servers that number no calls send each one whole.
        let index = delta.index.unwrap_or(match &delta.id {
            Some(_) => calls.len(),
            None => calls.len().saturating_sub(1),
        });
        let call = numbered(calls, index)?;
        if let Some(id) = delta.id.filter(|id| !id.is_empty()) {
            call.id = id;
        }
        if let Some(function) = delta.function {
            call.name.push_str(&function.name.unwrap_or_default());
            call.arguments.push_str(&function.arguments.unwrap_or_default());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ability;
    use super::*;

    fn decode(chunks: &[Value]) -> Result<Answer, ModelError> {
        let mut stream = Api::Completions.stream();
        for chunk in chunks {
            stream.feed(format!("data: {chunk}\n\n").as_bytes())?;
        }
        stream.finish()
    }

    #[test]
    fn parallel_calls_are_put_together_by_index() {
        let part = |index: usize, id: Option<&str>, name: Option<&str>, arguments: &str| {
            let call = json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}});
            json!({"choices": [{"delta": {"content": null, "tool_calls": [call]}}]})
        };
        let answer = decode(&[
            part(0, Some("a"), Some("read"), "{\"pa"),
            part(1, Some("b"), Some("grep"), "{}"),
            part(0, None, None, "th\":1}"),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 3}}}),
        ])
        .unwrap();
        assert_eq!(answer.calls[0].arguments, "{\"path\":1}");
        assert_eq!((answer.calls[1].id.as_str(), answer.calls.len()), ("b", 2));
        assert_eq!(answer.usage, Usage { input: 5, output: 2, cached: 3, cache_written: 0 });
    }

    #[test]
    fn a_cut_stream_an_error_event_and_broken_json_are_errors() {
        let text = json!({"choices": [{"delta": {"content": "hal"}}]});
        assert!(matches!(decode(&[text]), Err(ModelError::Broken(_))));
        let error = decode(&[json!({"error": {"message": "overloaded"}})]).unwrap_err();
        assert!(error.to_string().contains("overloaded"));
        assert!(Api::Completions.stream().feed(b"data: {oops\n\n").is_err());
        let gap = json!({"choices": [{"delta": {"tool_calls": [{"index": 4}]}}]});
        assert!(decode(&[gap]).is_err());
    }

    #[test]
    fn broken_arguments_are_sent_back_as_valid_json() {
        let broken = ToolCall { id: "a".into(), name: "read".into(), arguments: "{\"pa".into() };
        let sent = call(&broken)["function"]["arguments"].as_str().unwrap().to_owned();
        assert!(serde_json::from_str::<Value>(&sent).unwrap().is_object());
    }

    #[test]
    fn reasoning_details_are_put_together_and_sent_back() {
        let part = |detail: Value| json!({"choices": [{"delta": {"reasoning_details": [detail]}}]});
        let answer = decode(&[
            part(json!({"type": "reasoning.text", "index": 0, "text": "I th"})),
            part(json!({"type": "reasoning.text", "index": 0, "text": "ink", "signature": "s"})),
            json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}),
        ])
        .unwrap();
        let whole =
            json!({"type": "reasoning.text", "index": 0, "text": "I think", "signature": "s"});
        let native = answer.native.clone();
        assert_eq!(native.as_ref().unwrap().parts, std::slice::from_ref(&whole));
        let back = entry(&Message::Assistant { text: "x".into(), calls: vec![], native }, None);
        assert_eq!(back["reasoning_details"][0], whole);
    }

    #[test]
    fn a_refusal_and_an_image_of_a_tool() {
        let refused = json!({"choices": [{"delta": {"refusal": "no"}, "finish_reason": "stop"}]});
        assert_eq!(decode(&[refused]).unwrap().stop, Stop::Refused);
        let image = Attachment { media_type: "image/png".into(), data: "AA==".into() };
        let tool = |id: &str, attachments| Message::Tool {
            call_id: id.into(),
            text: "an image".into(),
            attachments,
            failed: false,
        };
        let request = Request {
            model: "m".into(),
            messages: vec![tool("a", vec![image]), tool("b", Vec::new())],
            thinking: Thinking::High,
            ability: Ability { thinks: true, ..Ability::default() },
            ..Request::default()
        };
        let body = body(&request);
        let roles: Vec<_> = (0..3).map(|at| body["messages"][at]["role"].clone()).collect();
        assert_eq!(roles, ["tool", "tool", "user"]);
        let url = &body["messages"][2]["content"][1]["image_url"]["url"];
        assert_eq!(url, "data:image/png;base64,AA==");
        assert_eq!(body["reasoning_effort"], "high");
    }

    #[test]
    fn thinking_under_either_name_or_both_is_read_and_broken_details_are_left_out() {
        let answer = decode(&[
            json!({"choices": [{"delta": {"reasoning": "a", "reasoning_content": "a"}}]}),
            json!({"choices": [{"delta": {"reasoning_content": "b", "reasoning_details": [1, null]}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        ])
        .unwrap();
        let native = answer.native;
        let back = entry(&Message::Assistant { text: "x".into(), calls: vec![], native }, None);
        assert_eq!(back["reasoning_content"], "ab");
    }
}
