//! Gemini's generateContent protocol.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::protocol::{CALL_LIMIT, Decode, cut, fresh_id, parse, split_system, stream_error};
use super::{
    Answer, Api, Attachment, Message, ModelError, Native, Request, Stop, StreamEvent, ToolCall,
    Usage,
};

pub(super) fn body(request: &Request) -> Value {
    let (system, rest) = split_system(&request.messages);
    let mut contents: Vec<Value> = Vec::new();
    let mut asked: &[ToolCall] = &[];
    for message in rest {
        if let Message::Assistant { calls, .. } = message {
            asked = calls;
        }
        let (role, parts) = entry(message, asked);
        match contents.last_mut() {
            Some(last) if last["role"] == role => {
                if let Some(all) = last["parts"].as_array_mut() {
                    all.extend(parts);
                }
            }
            _ => contents.push(json!({"role": role, "parts": parts})),
        }
    }
    let mut settings = Map::new();
    if let Some(most) = request.max_tokens {
        settings.insert("maxOutputTokens".into(), most.into());
    }
    if let Some(temperature) = request.temperature {
        settings.insert("temperature".into(), temperature.into());
    }
    let level = request.thinking.for_ability(request.ability);
    if let Some(budget) = level.budget().filter(|_| request.ability.thinks) {
        let thinking = json!({"thinkingBudget": budget, "includeThoughts": budget > 0});
        settings.insert("thinkingConfig".into(), thinking);
    }
    let mut body = json!({
        "systemInstruction": {"parts": [{"text": system}]},
        "contents": contents,
        "generationConfig": settings,
    });
    if !request.tools.is_empty() {
        let tool = |tool: &super::ToolSchema| {
            let mut declared = json!({"name": tool.name, "description": tool.description});
            // Without properties there must be no schema at all.
            if tool.parameters["properties"].as_object().is_some_and(|all| !all.is_empty()) {
                declared["parameters"] = known_part(&tool.parameters);
            }
            declared
        };
        let tools: Vec<Value> = request.tools.iter().map(tool).collect();
        body["tools"] = json!([{"functionDeclarations": tools}]);
    }
    body
}

/// The part of JSON Schema that the protocol takes.
fn known_part(schema: &Value) -> Value {
    let Some(object) = schema.as_object() else { return schema.clone() };
    let mut known = Map::new();
    for (name, value) in object {
        let kept = match name.as_str() {
            "type" | "description" | "required" | "enum" => value.clone(),
            "items" => known_part(value),
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), known_part(schema)))
                .collect::<Map<_, _>>()
                .into(),
            _ => continue,
        };
        known.insert(name.clone(), kept);
    }
    Value::Object(known)
}

/// `asked` are the calls that results answer: here a result needs the tool's name.
fn entry(message: &Message, asked: &[ToolCall]) -> (&'static str, Vec<Value>) {
    match message {
        Message::System { .. } => ("user", Vec::new()),
        Message::User { text, attachments } => {
            let text = json!({"text": text});
            ("user", std::iter::once(text).chain(attachments.iter().map(attached)).collect())
        }
        Message::Tool { call_id, text, attachments, failed } => {
            let name = asked.iter().find(|call| call.id == *call_id);
            let name = name.map_or("unknown", |call| call.name.as_str());
            let key = if *failed { "error" } else { "output" };
            let response =
                json!({"functionResponse": {"id": call_id, "name": name, "response": {key: text}}});
            ("user", std::iter::once(response).chain(attachments.iter().map(attached)).collect())
        }
        Message::Assistant { text, calls, native } => {
            if let Some(parts) = Native::parts_of(native, Api::Gemini) {
                return ("model", parts.to_vec());
            }
            let call = |call: &ToolCall| json!({"functionCall": {"id": call.id, "name": call.name, "args": call.object()}});
            let said = (!text.is_empty() || calls.is_empty()).then(|| json!({"text": text}));
            ("model", said.into_iter().chain(calls.iter().map(call)).collect())
        }
    }
}

fn attached(attachment: &Attachment) -> Value {
    json!({"inlineData": {"mimeType": attachment.media_type, "data": attachment.data}})
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk {
    #[serde(default)]
    candidates: Vec<Candidate>,
    usage_metadata: Option<Counts>,
    prompt_feedback: Option<Value>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Decoder {
    answer: Answer,
    parts: Vec<Value>,
    finished: Option<String>,
}

impl Decode for Decoder {
    fn event(&mut self, data: &str, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        let chunk: Chunk = parse(data)?;
        if let Some(error) = chunk.error {
            return Err(stream_error(&error));
        }
        if let Some(counts) = chunk.usage_metadata {
            self.answer.usage = Usage {
                input: counts.prompt_token_count.unwrap_or_default(),
                output: counts
                    .candidates_token_count
                    .unwrap_or_default()
                    .saturating_add(counts.thoughts_token_count.unwrap_or_default()),
                cached: counts.cached_content_token_count.unwrap_or_default(),
                cache_written: 0,
            };
        }
        if let Some(feedback) = chunk.prompt_feedback
            && let Some(reason) = feedback["blockReason"].as_str()
        {
            self.finished = Some(reason.to_owned());
            self.answer.stop = Stop::Refused;
        }
        let Some(candidate) = chunk.candidates.into_iter().next() else { return Ok(()) };
        for part in candidate.content.into_iter().flat_map(|content| content.parts) {
            self.part(part, out)?;
        }
        self.finished = candidate.finish_reason.or(self.finished.take());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Answer, ModelError> {
        let Some(reason) = self.finished else { return Err(cut()) };
        let mut answer = self.answer;
        match reason.as_str() {
            "MAX_TOKENS" => answer.stop = Stop::Length,
            "SAFETY" | "RECITATION" | "PROHIBITED_CONTENT" | "BLOCKLIST" | "SPII" => {
                answer.stop = Stop::Refused;
            }
            "MALFORMED_FUNCTION_CALL" if answer.calls.is_empty() => {
                return Err(ModelError::Broken("the model made a malformed tool call".into()));
            }
            _ => {}
        }
        if self.parts.iter().any(|part| part["thoughtSignature"].is_string()) {
            answer.native = Some(Native { api: Api::Gemini, parts: self.parts });
        }
        Ok(answer)
    }
}

impl Decoder {
    fn part(&mut self, mut part: Value, out: &mut Vec<StreamEvent>) -> Result<(), ModelError> {
        if part["functionCall"].is_object() {
            let call = &mut part["functionCall"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let number = self.answer.calls.len();
            if number >= CALL_LIMIT {
                return Err(ModelError::Broken("the answer has too many tool calls".into()));
            }
            if call["id"].as_str().is_none_or(str::is_empty) {
                call["id"] = fresh_id().into();
            }
            let arguments = if call["args"].is_null() { json!({}) } else { call["args"].clone() };
            let (id, name) = (text(&call["id"]), text(&call["name"]));
            self.answer.calls.push(ToolCall { id, name, arguments: arguments.to_string() });
            self.parts.push(part);
            return Ok(());
        }
        let Some(text) = part["text"].as_str().map(str::to_owned) else { return Ok(()) };
        let thought = part["thought"] == true;
        if !text.is_empty() {
            if thought {
                out.push(StreamEvent::Reasoning(text.clone()));
            } else {
                self.answer.text.push_str(&text);
                out.push(StreamEvent::Text(text.clone()));
            }
        }
        // Pieces of one text become one part; a signature ends it.
        let last = self.parts.last_mut().filter(|last| {
            last["text"].is_string()
                && (last["thought"] == true) == thought
                && last["thoughtSignature"].is_null()
        });
        match last {
            Some(last) => {
                let so_far = last["text"].as_str().unwrap_or_default();
                last["text"] = format!("{so_far}{text}").into();
                if part["thoughtSignature"].is_string() {
                    last["thoughtSignature"] = part["thoughtSignature"].take();
                }
            }
            None => self.parts.push(part),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[Value]) -> Result<Answer, ModelError> {
        let mut stream = Api::Gemini.stream();
        for chunk in chunks {
            stream.feed(format!("data: {chunk}\r\n\r\n").as_bytes())?;
        }
        stream.finish()
    }

    fn parts(parts: Value, finish: Option<&str>) -> Value {
        json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": finish}]})
    }

    #[test]
    fn signatures_come_back_on_the_part_that_had_them() {
        let answer = decode(&[
            parts(json!([{"text": "hm", "thought": true}]), None),
            parts(json!([{"text": "I "}]), None),
            parts(json!([{"text": "read"}]), None),
            parts(
                json!([{"functionCall": {"name": "read", "args": {"path": "a"}}, "thoughtSignature": "s"}]),
                Some("STOP"),
            ),
        ])
        .unwrap();
        assert_eq!(answer.text, "I read");
        let calls = answer.calls.clone();
        let message =
            Message::Assistant { text: answer.text, calls: answer.calls, native: answer.native };
        let (_, sent) = entry(&message, &[]);
        assert_eq!(sent.len(), 3);
        assert_eq!(sent[2]["thoughtSignature"], "s");
        // The server gave no id: ours is in both places, and no other call has it.
        assert_eq!(sent[2]["functionCall"]["id"], calls[0].id);
        assert_ne!(fresh_id(), calls[0].id);
        let result = Message::Tool {
            call_id: calls[0].id.clone(),
            text: "x".into(),
            attachments: Vec::new(),
            failed: false,
        };
        assert_eq!(entry(&result, &calls).1[0]["functionResponse"]["name"], "read");
    }

    #[test]
    fn a_blocked_prompt_is_a_refusal() {
        let answer = decode(&[json!({"promptFeedback": {"blockReason": "SAFETY"}})]).unwrap();
        assert_eq!(answer.stop, Stop::Refused);
    }

    #[test]
    fn schemas_lose_what_the_protocol_does_not_take() {
        let schema = json!({"type": "object", "additionalProperties": false, "properties":
            {"a": {"type": "array", "items": {"type": "object", "additionalProperties": false}}}});
        assert!(!known_part(&schema).to_string().contains("additional"));
        assert_eq!(known_part(&schema)["properties"]["a"]["items"]["type"], "object");
    }
}
