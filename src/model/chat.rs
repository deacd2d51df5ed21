//! The chat-completions protocol: OpenAI, OpenRouter, Ollama and every server that speaks it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::sse;
use super::{Answer, Message, ModelError, Request, StreamEvent, ToolCall, Usage};

/// The body of a request. Its bytes depend on nothing but `request`, so that providers can cache the
/// part that two turns share.
pub fn body(request: &Request) -> Value {
    let mut body = json!({
        "model": request.model,
        "messages": request.messages.iter().map(message).collect::<Vec<_>>(),
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| json!({"type": "function", "function": tool});
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    if let Some(most) = request.max_tokens {
        body["max_tokens"] = most.into();
    }
    if let Some(temperature) = request.temperature {
        body["temperature"] = temperature.into();
    }
    body
}

fn message(message: &Message) -> Value {
    match message {
        Message::System { text } => json!({"role": "system", "content": text}),
        Message::User { text } => json!({"role": "user", "content": text}),
        Message::Tool { call_id, text } => {
            json!({"role": "tool", "tool_call_id": call_id, "content": text})
        }
        Message::Assistant { text, calls } => {
            let mut value = json!({"role": "assistant", "content": text});
            if !calls.is_empty() {
                value["tool_calls"] = calls.iter().map(call).collect();
            }
            value
        }
    }
}

/// Servers refuse a conversation in which an earlier call has broken arguments, so those are sent
/// back as a string that says so; the model has seen the error in the call's result.
fn call(call: &ToolCall) -> Value {
    let whole = serde_json::from_str::<Value>(&call.arguments).is_ok_and(|value| value.is_object());
    let arguments = match whole {
        true => call.arguments.clone(),
        false => json!({"invalid_json": call.arguments}).to_string(),
    };
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
    #[serde(alias = "reasoning_content")]
    reasoning: Option<String>,
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
}

/// Turns the bytes of a response into events.
#[derive(Debug, Default)]
pub struct Decoder {
    events: sse::Decoder,
    answer: Answer,
    finished: Option<String>,
    ended: bool,
}

/// Most calls in one answer.
const CALL_LIMIT: usize = 128;

impl Decoder {
    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<StreamEvent>, ModelError> {
        let broken = |error: &dyn std::fmt::Display| ModelError::Broken(error.to_string());
        let mut out = Vec::new();
        for data in self.events.feed(bytes).map_err(|error| broken(&error))? {
            if data.trim() == "[DONE]" {
                self.ended = true;
            } else if !self.ended {
                let chunk = serde_json::from_str(&data).map_err(|error| {
                    let start: String = data.chars().take(80).collect();
                    ModelError::Broken(format!("an event is no valid JSON ({error}): {start}"))
                })?;
                self.chunk(chunk, &mut out)?;
            }
        }
        Ok(out)
    }

    fn chunk(&mut self, chunk: Chunk, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        if let Some(error) = chunk.error {
            return Err(ModelError::Broken(error_text(&error)));
        }
        if let Some(usage) = chunk.usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
            self.answer.usage = Usage {
                input: usage.prompt_tokens,
                output: usage.completion_tokens,
                cached: cached.unwrap_or(0),
            };
        }
        // Only one choice was asked for.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(()) };
        if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
            self.answer.text.push_str(&text);
            out.push(StreamEvent::Text(text));
        }
        if let Some(text) = choice.delta.reasoning.filter(|text| !text.is_empty()) {
            out.push(StreamEvent::Reasoning(text));
        }
        for delta in choice.delta.tool_calls.into_iter().flatten() {
            self.call(delta)?;
        }
        self.finished = choice.finish_reason.or(self.finished.take());
        Ok(())
    }

    fn call(&mut self, delta: CallDelta) -> Result<(), ModelError> {
        let calls = &mut self.answer.calls;
        // Servers that number no calls send each one whole.
        let index = delta.index.unwrap_or(match &delta.id {
            Some(_) => calls.len(),
            None => calls.len().saturating_sub(1),
        });
        if index > calls.len() || index >= CALL_LIMIT {
            return Err(ModelError::Broken(format!("tool call number {index} has no predecessor")));
        }
        if index == calls.len() {
            let empty = String::new;
            calls.push(ToolCall { id: empty(), name: empty(), arguments: empty() });
        }
        let call = &mut calls[index];
        if let Some(id) = delta.id.filter(|id| !id.is_empty()) {
            call.id = id;
        }
        if let Some(function) = delta.function {
            call.name.push_str(&function.name.unwrap_or_default());
            call.arguments.push_str(&function.arguments.unwrap_or_default());
        }
        Ok(())
    }

    /// The answer, once the body has ended.
    pub fn finish(mut self) -> Result<Answer, ModelError> {
        if self.finished.is_none() && !self.ended {
            return Err(ModelError::Broken(
                "the connection closed before the answer was complete".into(),
            ));
        }
        for (number, call) in self.answer.calls.iter_mut().enumerate() {
            if call.id.is_empty() {
                call.id = format!("call_{number}");
            }
        }
        self.answer.cut = self.finished.as_deref() == Some("length");
        Ok(self.answer)
    }
}

/// The message in an error object, in any of the shapes that servers use.
pub fn error_text(error: &Value) -> String {
    let message = error.get("error").unwrap_or(error);
    let text = message.get("message").unwrap_or(message);
    text.as_str().map_or_else(|| text.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[Value]) -> Result<Answer, ModelError> {
        let mut decoder = Decoder::default();
        for chunk in chunks {
            decoder.feed(format!("data: {chunk}\n\n").as_bytes())?;
        }
        decoder.finish()
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
        assert_eq!(answer.usage, Usage { input: 5, output: 2, cached: 3 });
    }

    #[test]
    fn a_cut_stream_an_error_event_and_broken_json_are_errors() {
        let text = json!({"choices": [{"delta": {"content": "hal"}}]});
        assert!(matches!(decode(&[text]), Err(ModelError::Broken(_))));
        let error = decode(&[json!({"error": {"message": "overloaded"}})]).unwrap_err();
        assert!(error.to_string().contains("overloaded"));
        assert!(Decoder::default().feed(b"data: {oops\n\n").is_err());
        let gap = json!({"choices": [{"delta": {"tool_calls": [{"index": 4}]}}]});
        assert!(decode(&[gap]).is_err());
    }

    #[test]
    fn broken_arguments_are_sent_back_as_valid_json() {
        let broken = ToolCall { id: "a".into(), name: "read".into(), arguments: "{\"pa".into() };
        let sent = call(&broken)["function"]["arguments"].as_str().unwrap().to_owned();
        assert!(serde_json::from_str::<Value>(&sent).unwrap().is_object());
    }
}
