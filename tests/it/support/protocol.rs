//! What a chat-completions server may expect of every request.

use std::collections::BTreeMap;

use serde_json::{Deserializer, Value};

/// One request as the server saw it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as sent.
    pub text: String,
    pub body: Value,
}

impl Request {
    pub fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }

    /// What the model is told about the call with this id.
    #[track_caller]
    pub fn result(&self, id: &str) -> String {
        let found = self
            .messages()
            .iter()
            .find(|message| message["role"] == "tool" && message["tool_call_id"] == id);
        text_of(found.unwrap_or_else(|| panic!("no result for {id} in {:#}", self.body)))
    }

    /// The texts of all messages with this role.
    pub fn said_by(&self, role: &str) -> Vec<String> {
        self.messages().iter().filter(|message| message["role"] == role).map(text_of).collect()
    }

    pub fn tool_names(&self) -> Vec<String> {
        let tools = self.body["tools"].as_array().cloned().unwrap_or_default();
        tools
            .iter()
            .filter_map(|tool| tool["function"]["name"].as_str())
            .map(ToOwned::to_owned)
            .collect()
    }

    pub fn asks_for_usage(&self) -> bool {
        self.body["stream_options"]["include_usage"] == true
    }

    /// The text of each message, byte for byte.
    pub fn raw_messages(&self) -> Vec<String> {
        member(&self.text, "messages").map_or_else(Vec::new, elements)
    }
}

/// The text of a message, whether it is a string or a list of parts.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// Everything that is wrong with a request, given the messages of the one before it.
pub fn violations(request: &Request, before: &[String], key: Option<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    check_head(request, key, &mut wrong);
    check_body(&request.body, &mut wrong);
    check_roles(request.messages(), &mut wrong);
    check_pairs(request.messages(), &mut wrong);
    check_tools(&request.body["tools"], &mut wrong);
    check_prefix(before, &request.raw_messages(), &mut wrong);
    wrong
}

fn check_head(request: &Request, key: Option<&str>, wrong: &mut Vec<String>) {
    let (method, path) = (request.method.as_str(), request.path.as_str());
    if (method, path) != ("POST", "/v1/chat/completions") {
        wrong.push(format!("unexpected request: {method} {path}"));
    }
    let kind = request.headers.get("content-type").map_or("", String::as_str);
    if kind.split(';').next() != Some("application/json") {
        wrong.push(format!("content-type is {kind:?}"));
    }
    let Some(key) = key else { return };
    let sent = request.headers.get("authorization");
    if sent.map(String::as_str) != Some(&format!("Bearer {key}")) {
        wrong.push(format!("authorization is {sent:?}"));
    }
}

fn check_body(body: &Value, wrong: &mut Vec<String>) {
    if !body.is_object() {
        wrong.push("the body is no JSON object".to_owned());
    }
    if !filled(&body["model"]) {
        wrong.push(format!("model is {}", body["model"]));
    }
    if body["stream"] != true {
        wrong.push(format!("stream is {}", body["stream"]));
    }
    let messages = body["messages"].as_array();
    if messages.is_none_or(Vec::is_empty) {
        wrong.push("there are no messages".to_owned());
    }
}

fn check_roles(messages: &[Value], wrong: &mut Vec<String>) {
    const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
    for (at, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or("");
        if !ROLES.contains(&role) {
            wrong.push(format!("message {at} has role {}", message["role"]));
        }
        let content = &message["content"];
        let calls = message["tool_calls"].is_array();
        if !(content.is_string() || content.is_array() || (calls && content.is_null())) {
            wrong.push(format!("message {at} ({role}) has content {content}"));
        }
    }
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        wrong.push("the last message is the assistant's own".to_owned());
    }
}

/// Each call has exactly one result, before anybody else speaks; each result has its call.
fn check_pairs(messages: &[Value], wrong: &mut Vec<String>) {
    let mut open: Vec<String> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let id = message["tool_call_id"].as_str().unwrap_or("");
            match open.iter().position(|call| call == id) {
                Some(index) => drop(open.remove(index)),
                None => wrong.push(format!("message {at} answers {id:?}, which is no open call")),
            }
            continue;
        }
        for id in open.drain(..) {
            wrong.push(format!("call {id:?} has no result before message {at}"));
        }
        if message["role"] == "assistant" {
            open = call_ids(at, message, wrong);
        }
    }
    for id in open {
        wrong.push(format!("call {id:?} has no result at the end"));
    }
}

fn call_ids(at: usize, message: &Value, wrong: &mut Vec<String>) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let function = &call["function"];
        let whole = call["type"] == "function"
            && filled(&call["id"])
            && filled(&function["name"])
            && function["arguments"].is_string();
        if !whole {
            wrong.push(format!("message {at} has a malformed call: {call}"));
        }
        let id = call["id"].as_str().unwrap_or("").to_owned();
        if ids.contains(&id) {
            wrong.push(format!("message {at} has two calls {id:?}"));
        }
        ids.push(id);
    }
    ids
}

fn check_tools(tools: &Value, wrong: &mut Vec<String>) {
    let mut names: Vec<&str> = Vec::new();
    for tool in tools.as_array().into_iter().flatten() {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or("");
        if tool["type"] != "function" || name.is_empty() {
            wrong.push(format!("malformed tool: {tool}"));
        }
        if function["parameters"]["type"] != "object" {
            wrong.push(format!("the parameters of tool {name:?} are no object schema"));
        }
        if names.contains(&name) {
            wrong.push(format!("two tools are called {name:?}"));
        }
        names.push(name);
    }
}

/// A server's prompt cache lives on this: what was said stays said, byte for byte.
fn check_prefix(before: &[String], now: &[String], wrong: &mut Vec<String>) {
    if now.len() < before.len() {
        let (had, has) = (before.len(), now.len());
        wrong.push(format!("the conversation shrank from {had} to {has} messages"));
    }
    for (at, (old, new)) in before.iter().zip(now).enumerate() {
        if old != new {
            wrong.push(format!("message {at} changed from {old} to {new}"));
        }
    }
}

fn filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

/// The first JSON value in the text, and what follows it.
fn split_value(text: &str) -> Option<(&str, &str)> {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    values.next()?.ok()?;
    let end = values.byte_offset();
    let rest = text[end..].trim_start().trim_start_matches([',', ':']);
    Some((text[..end].trim(), rest))
}

/// The text of one member of the object that the text is.
fn member<'t>(object: &'t str, name: &str) -> Option<&'t str> {
    let mut rest = object.trim_start().strip_prefix('{')?;
    while let Some((key, after)) = split_value(rest) {
        let (value, next) = split_value(after)?;
        if serde_json::from_str::<String>(key).is_ok_and(|key| key == name) {
            return Some(value);
        }
        rest = next;
    }
    None
}

/// The texts of the elements of the array that the text is.
fn elements(array: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = array.trim_start().strip_prefix('[').unwrap_or("");
    while let Some((element, next)) = split_value(rest) {
        found.push(element.to_owned());
        rest = next;
    }
    found
}

// The judge is judged too: a checker that lets everything through would make each test of
// the product vacuous.

fn parsed(text: &str) -> Request {
    let headers = [("content-type", "application/json"), ("authorization", "Bearer k")];
    Request {
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        text: text.to_owned(),
        body: serde_json::from_str(text).unwrap(),
    }
}

fn with_messages(messages: &str) -> Request {
    parsed(&format!(r#"{{"model":"m","stream":true,"messages":{messages}}}"#))
}

#[track_caller]
fn assert_only(request: &Request, before: &[String], words: &str) {
    let found = violations(request, before, Some("k"));
    assert!(found.len() == 1 && found[0].contains(words), "{words:?} expected, found {found:?}");
}

const CALL: &str = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"read","arguments":"{}"}}]}"#;
const USER: &str = r#"{"role":"user","content":"hi"}"#;
const TOOL: &str = r#"{"role":"tool","tool_call_id":"a","content":"x"}"#;

#[test]
fn the_checker_accepts_a_whole_conversation_that_grows() {
    let first = with_messages(&format!("[{USER}]"));
    let second = with_messages(&format!("[{USER}, {CALL},{TOOL}]"));
    assert_eq!(second.raw_messages(), [USER, CALL, TOOL]);
    let found = violations(&second, &first.raw_messages(), Some("k"));
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_checker_sees_a_call_without_a_result() {
    assert_only(&with_messages(&format!("[{USER},{CALL},{USER}]")), &[], "no result before");
}

#[test]
fn the_checker_sees_a_result_without_a_call_and_a_second_result() {
    assert_only(&with_messages(&format!("[{USER},{TOOL}]")), &[], "no open call");
    assert_only(&with_messages(&format!("[{USER},{CALL},{TOOL},{TOOL}]")), &[], "no open call");
}

#[test]
fn the_checker_sees_a_changed_and_a_lost_message() {
    let before = with_messages(&format!("[{USER},{CALL},{TOOL}]")).raw_messages();
    let changed = format!(r#"[{USER},{CALL},{}]"#, TOOL.replace("\"x\"", "\"y\""));
    assert_only(&with_messages(&changed), &before, "message 2 changed");
    assert_only(&with_messages(&format!("[{USER}]")), &before, "shrank");
}

#[test]
fn the_checker_sees_a_wrong_key_and_a_wrong_schema() {
    let mut request = with_messages(&format!("[{USER}]"));
    request.headers.remove("authorization");
    assert_only(&request, &[], "authorization");

    let text = format!(
        r#"{{"model":"m","stream":true,"messages":[{USER}],"tools":[{{"type":"function","function":{{"name":"t","parameters":{{}}}}}}]}}"#
    );
    assert_only(&parsed(&text), &[], "no object schema");
}
