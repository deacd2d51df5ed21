//! OpenAI's Responses protocol, without anything stored on the server: what the model has thought
//! comes back to it encrypted.

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::{Decode, cut, parse, split_system, stream_error};
use super::{
    Answer, Api, Attachment, Message, ModelError, Native, Request, Stop, StreamEvent, Thinking,
    ToolCall, Usage,
};

pub(super) fn body(request: &Request) -> Value {
    let (system, rest) = split_system(&request.messages);
    let input: Vec<Value> = rest.flat_map(items).collect();
    let mut body = json!({
        "model": request.model,
        "instructions": system,
        "input": input,
        "stream": true,
        "store": false,
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| {
            json!({"type": "function", "name": tool.name, "description": tool.description,
                "parameters": tool.parameters, "strict": false})
        };
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    if let Some(most) = request.max_tokens {
        body["max_output_tokens"] = most.into();
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = temperature.into();
    }
    if let Some(key) = &request.cache_key {
        body["prompt_cache_key"] = key.as_str().into();
    }
    if request.ability.thinks {
        body["include"] = json!(["reasoning.encrypted_content"]);
        body["reasoning"] = match request.thinking.for_ability(request.ability) {
            Thinking::Auto => json!({"summary": "auto"}),
            Thinking::Off => json!({"effort": "none"}),
            level => json!({"effort": level.effort(), "summary": "auto"}),
        };
    }
    body
}

fn items(message: &Message) -> Vec<Value> {
    match message {
        Message::System { .. } => Vec::new(),
        Message::User { text, attachments } => {
            let text = json!({"type": "input_text", "text": text});
            let content: Vec<Value> =
                std::iter::once(text).chain(attachments.iter().map(attached)).collect();
            vec![json!({"type": "message", "role": "user", "content": content})]
        }
        Message::Tool { call_id, text, attachments, .. } => {
            let output = if attachments.is_empty() {
                json!(text)
            } else {
                let text = json!({"type": "input_text", "text": text});
                std::iter::once(text).chain(attachments.iter().map(attached)).collect()
            };
            vec![json!({"type": "function_call_output", "call_id": call_id, "output": output})]
        }
        Message::Assistant { text, calls, native } => {
            if let Some(parts) = Native::parts_of(native, Api::Responses) {
                return parts.to_vec();
            }
            let said = json!({"type": "message", "role": "assistant",
                "content": [{"type": "output_text", "text": text}]});
            let said = (!text.is_empty()).then_some(said);
            said.into_iter().chain(calls.iter().map(call)).collect()
        }
    }
}

fn call(call: &ToolCall) -> Value {
    json!({"type": "function_call", "call_id": call.id, "name": call.name,
        "arguments": call.object().to_string()})
}

fn attached(attachment: &Attachment) -> Value {
    if attachment.is_image() {
        json!({"type": "input_image", "image_url": attachment.data_url()})
    } else {
        json!({"type": "input_file", "filename": "document.pdf", "file_data": attachment.data_url()})
    }
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    delta: Option<String>,
    item: Option<Value>,
    response: Option<Whole>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Whole {
    usage: Option<WholeUsage>,
    error: Option<Value>,
    incomplete_details: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct WholeUsage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    input_tokens_details: Value,
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    answer: Answer,
    items: Vec<Value>,
    ended: bool,
}

impl Decode for Decoder {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        if data.trim() == "[DONE]" {
            return Ok(());
        }
        let event: Event = parse(data)?;
        match (event.kind.as_str(), event.delta) {
            ("response.output_text.delta" | "response.refusal.delta", Some(text)) => {
                if event.kind == "response.refusal.delta" {
                    self.answer.stop = Stop::Refused;
                }
                self.answer.text.push_str(&text);
                out.push(StreamEvent::Text(text));
            }
            (
                "response.reasoning_summary_text.delta" | "response.reasoning_text.delta",
                Some(text),
            ) => out.push(StreamEvent::Reasoning(text)),
            ("response.output_item.done", _) => self.item(event.item.unwrap_or_default())?,
            ("response.completed" | "response.incomplete" | "response.failed", _) => {
                self.end(&event.kind, event.response)?;
            }
            ("error", _) => return Err(stream_error(&Value::Object(event.rest))),
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Answer, ModelError> {
        if !self.ended {
            return Err(cut());
        }
        let mut answer = self.answer;
        // Thinking that nothing follows would be refused.
        let thought = |item: &Value| item["type"] == "reasoning";
        while self.items.last().is_some_and(thought) {
            self.items.pop();
        }
        if self.items.iter().any(thought) {
            answer.native = Some(Native { api: Api::Responses, parts: self.items });
        }
        Ok(answer)
    }
}

impl Decoder {
    fn item(&mut self, mut item: Value) -> Result<(), ModelError> {
        let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        match item["type"].as_str() {
            Some("function_call") => {
                let call = ToolCall {
                    id: text(&item, "call_id"),
                    name: text(&item, "name"),
                    arguments: text(&item, "arguments"),
                };
                item["arguments"] = call.object().to_string().into();
                self.answer.calls.push(call);
            }
            // Without its encrypted content it could only be found on a server that stores it.
            Some("reasoning") if !item["encrypted_content"].is_string() => return Ok(()),
            Some("reasoning" | "message") => {}
            _ => return Ok(()),
        }
        if self.items.len() > super::protocol::CALL_LIMIT * 2 {
            return Err(ModelError::Broken("the answer has too many parts".into()));
        }
        self.items.push(item);
        Ok(())
    }

    fn end(&mut self, kind: &str, response: Option<Whole>) -> Result<(), ModelError> {
        let Some(response) = response else { return Err(cut()) };
        if kind == "response.failed" {
            return Err(stream_error(&response.error.unwrap_or_default()));
        }
        if let Some(usage) = response.usage {
            self.answer.usage = Usage {
                input: usage.input_tokens,
                output: usage.output_tokens,
                cached: usage.input_tokens_details["cached_tokens"].as_u64().unwrap_or_default(),
                cache_written: 0,
            };
        }
        let why = response.incomplete_details.unwrap_or_default();
        match why["reason"].as_str() {
            Some("content_filter") => self.answer.stop = Stop::Refused,
            Some(_) => self.answer.stop = Stop::Length,
            None => {}
        }
        self.ended = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_comes_back_encrypted_and_in_order() {
        let reasoning =
            json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"});
        let function =
            json!({"type": "function_call", "call_id": "c", "name": "read", "arguments": "{}"});
        let events = [
            json!({"type": "response.reasoning_summary_text.delta", "delta": "hm"}),
            json!({"type": "response.output_item.done", "item": reasoning}),
            json!({"type": "response.output_item.done", "item": function}),
            json!({"type": "response.completed", "response": {"usage": {"input_tokens": 9,
                "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}}}),
        ];
        let mut stream = Api::Responses.stream();
        let told: Vec<_> = events
            .iter()
            .flat_map(|event| stream.feed(format!("data: {event}\n\n").as_bytes()).unwrap())
            .collect();
        assert_eq!(told, [StreamEvent::Reasoning("hm".into())]);
        let answer = stream.finish().unwrap();
        assert_eq!((answer.usage.cached, answer.calls[0].id.as_str()), (4, "c"));
        let message =
            Message::Assistant { text: String::new(), calls: answer.calls, native: answer.native };
        let kinds: Vec<_> = items(&message).iter().map(|item| item["type"].clone()).collect();
        assert_eq!(kinds, ["reasoning", "function_call"]);
    }
}
