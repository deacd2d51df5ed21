//! Ollama's own protocol: one JSON object a line. Its copy of chat completions cannot be told how much
//! context to keep, and silently forgets the beginning of longer conversations.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::protocol::{CALL_LIMIT, Decode, cut, parse, stream_error};
use super::{
    Answer, Attachment, Message, ModelError, Request, Stop, StreamEvent, Thinking, ToolCall, Usage,
};

pub(super) fn body(request: &Request) -> Value {
    let mut asked: &[ToolCall] = &[];
    let mut messages = Vec::new();
    for message in &request.messages {
        if let Message::Assistant { calls, .. } = message {
            asked = calls;
        }
        messages.push(entry(message, asked));
    }
    let mut options = Map::new();
    if let Some(window) = request.window {
        options.insert("num_ctx".into(), window.into());
    }
    if let Some(most) = request.max_tokens {
        options.insert("num_predict".into(), most.into());
    }
    if let Some(temperature) = request.temperature {
        options.insert("temperature".into(), temperature.into());
    }
    let mut body = json!({
        "model": request.model,
        "messages": messages,
        "stream": true,
        "options": options,
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| json!({"type": "function", "function": tool});
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    match request.thinking.for_ability(request.ability) {
        Thinking::Auto => {}
        Thinking::Off if !request.ability.thinks => {}
        Thinking::Off => body["think"] = false.into(),
        level => body["think"] = level.effort().into(),
    }
    body
}

fn entry(message: &Message, asked: &[ToolCall]) -> Value {
    match message {
        Message::System { text } => json!({"role": "system", "content": text}),
        Message::User { text, attachments } => {
            with_images(json!({"role": "user", "content": text}), attachments)
        }
        Message::Tool { call_id, text, attachments, .. } => {
            let name = asked.iter().find(|call| call.id == *call_id).map(|call| call.name.as_str());
            let result = json!({"role": "tool", "content": text, "tool_name": name});
            with_images(result, attachments)
        }
        Message::Assistant { text, calls, .. } => {
            let mut value = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                let call = |call: &ToolCall| json!({"function": {"name": call.name, "arguments": call.object()}});
                value["tool_calls"] = calls.iter().map(call).collect();
            }
            value
        }
    }
}

fn with_images(mut message: Value, attachments: &[Attachment]) -> Value {
    let images: Vec<&str> =
        attachments.iter().filter(|it| it.is_image()).map(|it| it.data.as_str()).collect();
    if !images.is_empty() {
        message["images"] = images.into();
    }
    message
}

#[derive(Debug, Deserialize)]
struct Line {
    message: Option<Said>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Said {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Debug, Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    answer: Answer,
    ended: bool,
}

impl Decode for Decoder {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        let line: Line = parse(data)?;
        if let Some(error) = line.error {
            return Err(stream_error(&error));
        }
        if let Some(said) = line.message {
            if let Some(text) = said.thinking.filter(|text| !text.is_empty()) {
                out.push(StreamEvent::Reasoning(text));
            }
            if let Some(text) = said.content.filter(|text| !text.is_empty()) {
                self.answer.text.push_str(&text);
                out.push(StreamEvent::Text(text));
            }
            for call in said.tool_calls.into_iter().flatten() {
                if self.answer.calls.len() >= CALL_LIMIT {
                    return Err(ModelError::Broken("the answer has too many tool calls".into()));
                }
                self.answer.calls.push(ToolCall {
                    id: call.id.unwrap_or_default(),
                    name: call.function.name,
                    arguments: call.function.arguments.to_string(),
                });
            }
        }
        if line.done {
            self.ended = true;
            self.answer.usage = Usage {
                input: line.prompt_eval_count.unwrap_or_default(),
                output: line.eval_count.unwrap_or_default(),
                ..Usage::default()
            };
            if line.done_reason.as_deref() == Some("length") {
                self.answer.stop = Stop::Length;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Answer, ModelError> {
        if self.ended { Ok(self.answer) } else { Err(cut()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Api;

    #[test]
    fn lines_in_any_split_make_an_answer() {
        let text = concat!(
            r#"{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}"#,
            "\n",
            r#"{"message":{"content":"é","tool_calls":[{"function":{"name":"read","arguments":{"path":"a"}}}]}}"#,
            "\n",
            r#"{"message":{"content":""},"done":true,"done_reason":"stop","prompt_eval_count":7,"eval_count":3}"#,
            "\n",
        );
        for size in [1, 5, 1000] {
            let mut stream = Api::Ollama.stream();
            let told: Vec<_> =
                text.as_bytes().chunks(size).flat_map(|part| stream.feed(part).unwrap()).collect();
            assert_eq!(told.len(), 2);
            let answer = stream.finish().unwrap();
            assert_eq!(answer.text, "é");
            assert!(answer.calls[0].id.starts_with("call_"));
            assert_eq!(answer.usage.input, 7);
        }
    }
}
