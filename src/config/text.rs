//! From the text of a file to its settings: what is wrong is said with file, line and column.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Deserialize;
use serde_json::Value;
use toml::Table;

use super::Config;
use crate::nearest::nearest;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The message has line and column.
    #[error("{file}: {message}")]
    Syntax { file: String, message: String },
    #[error("{origin}: {message}")]
    Value { origin: String, message: String },
    #[error("{0}")]
    Ceiling(String),
}

/// The settings of a TOML file, and a warning for every key that means nothing.
pub fn parse_toml(file: &str, text: &str) -> Result<(Table, Vec<String>), ConfigError> {
    let wrong = |error: toml::de::Error| ConfigError::Syntax {
        file: file.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    let read = toml::Deserializer::parse(text).map_err(wrong)?;
    let mut unknown = Vec::new();
    let _: Config =
        serde_ignored::deserialize(read, |path| unknown.push(path.to_string())).map_err(wrong)?;
    let table = toml::from_str(text).map_err(wrong)?;
    Ok((table, warnings(file, unknown)))
}

/// The same for a JSON file.
pub fn parse_json(file: &str, text: &str) -> Result<(Table, Vec<String>), ConfigError> {
    let wrong = |error: serde_json::Error| ConfigError::Syntax {
        file: file.to_owned(),
        message: error.to_string(),
    };
    let mut unknown = Vec::new();
    let mut read = serde_json::Deserializer::from_str(text);
    let _: Config = serde_ignored::deserialize(&mut read, |path| unknown.push(path.to_string()))
        .map_err(wrong)?;
    read.end().map_err(wrong)?;
    let table = Table::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(wrong)?;
    Ok((table, warnings(file, unknown)))
}

fn warnings(file: &str, unknown: Vec<String>) -> Vec<String> {
    let known = keys();
    let warning = |key: String| {
        let near = nearest(&key, known.iter().map(|(name, _, _)| name.as_str()));
        let near = near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        format!("{file}: there is no setting `{key}`{near}")
    };
    unknown.into_iter().map(warning).collect()
}

/// Every key with its type and what it means, generated from the types. `*` stands for a name that
/// the user chooses.
pub fn keys() -> Vec<(String, String, String)> {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    let mut keys = Vec::new();
    collect("", &schema, &mut keys);
    keys
}

fn collect(prefix: &str, schema: &Value, keys: &mut Vec<(String, String, String)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let inner = &property["additionalProperties"];
        if inner["properties"].is_object() {
            keys.push((format!("{key}.*"), "table".into(), description(property)));
            collect(&format!("{key}.*"), inner, keys);
        } else if property["properties"].is_object() {
            collect(&key, property, keys);
        } else {
            keys.push((key, kind(property), description(property)));
        }
    }
}

fn description(property: &Value) -> String {
    property["description"].as_str().unwrap_or_default().replace('\n', " ")
}

fn kind(property: &Value) -> String {
    let choices = |list: &Value| -> Option<String> {
        let words = list.as_array()?.iter().flat_map(|choice| match &choice["enum"] {
            Value::Array(several) => several.clone(),
            _ => vec![choice.get("const").unwrap_or(choice).clone()],
        });
        let words: Vec<String> =
            words.filter_map(|word| word.as_str().map(str::to_owned)).collect();
        (!words.is_empty()).then(|| words.join(" | "))
    };
    let variants = [&property["enum"], &property["oneOf"], &property["anyOf"][0]["oneOf"]];
    if let Some(words) = variants.into_iter().find_map(choices) {
        return words;
    }
    let word = |kind: &str| {
        match kind {
            "array" => "list",
            "object" => "table",
            "integer" => "number",
            "boolean" => "true | false",
            _ => "",
        }
        .to_owned()
    };
    let named = match &property["type"] {
        Value::String(one) => one.clone(),
        Value::Array(several) => several
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or_default()
            .to_owned(),
        _ => "table".to_owned(),
    };
    Some(word(&named)).filter(|word| !word.is_empty()).unwrap_or(named)
}

/// The JSON Schema of the file.
pub fn schema() -> Value {
    Config::json_schema(&mut SchemaSettings::draft07().into_generator()).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_told_with_line_and_column_and_a_typo_with_the_nearest_name() {
        let error = parse_toml("c.toml", "model = \"x\"\nmax_turns = \"many\"\n").unwrap_err();
        assert!(error.to_string().contains("line 2, column 13"), "{error}");
        let error = parse_json("c.json", "{\n \"max_turns\": \"many\"}").unwrap_err();
        assert!(error.to_string().contains("line 2 column"), "{error}");
        let (table, warnings) =
            parse_toml("c.toml", "modle = 1\n[models.x]\nwindwo = 2\n").unwrap();
        assert_eq!(table.len(), 2);
        let says = |words: &str| warnings.iter().any(|warning| warning.contains(words));
        assert!(says("did you mean `model`"), "{warnings:?}");
        assert!(says("models.x.windwo"), "{warnings:?}");
    }

    #[test]
    fn every_key_is_documented() {
        let keys = keys();
        for known in ["provider", "mode", "providers.*.base_url", "models.*.window", "keys.*.file"]
        {
            assert!(keys.iter().any(|(key, _, _)| key == known), "{known} in {keys:?}");
        }
        for (key, kind, meaning) in keys.iter().filter(|(key, _, _)| !key.contains('*')) {
            assert!(!meaning.is_empty() && !kind.is_empty(), "{key}");
        }
    }
}
