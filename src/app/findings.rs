//! What a security review found: the block of JSON at the end of its answer, as words or as SARIF 2.1.0.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

const OPENING: &str = "```findings";

/// One fault, as the prompt `review-security` asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Finding {
    pub title: String,
    pub severity: Severity,
    pub file: String,
    #[serde(default)]
    pub line: Option<u64>,
    pub description: String,
    #[serde(default)]
    pub exploit: String,
    #[serde(default)]
    pub fix: String,
    #[serde(default)]
    pub cwe: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    High,
    Medium,
    Low,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
        }
    }

    /// SARIF's level, and the number that code hosts sort by.
    fn sarif(self) -> (&'static str, &'static str) {
        match self {
            Severity::Critical => ("error", "9.5"),
            Severity::High => ("error", "8.0"),
            Severity::Medium => ("warning", "5.5"),
            Severity::Low => ("note", "2.0"),
        }
    }
}

/// The answer before the block, and the block.
fn split(answer: &str) -> Option<(&str, &str)> {
    let at = answer.rfind(OPENING)?;
    let rest = &answer[at + OPENING.len()..];
    // The block ends with a fence of its own; what is said after it is not part of it.
    let block = rest.split_once("\n```").map_or(rest, |(block, _)| block);
    Some((&answer[..at], block))
}

/// The findings of an answer. An answer without them, or with broken ones, is an error: silence would
/// look like a clean report.
pub fn parse(answer: &str) -> Result<Vec<Finding>, String> {
    let Some((_, block)) = split(answer) else {
        return Err("the answer has no block of findings; use --load-prompt review-security".into());
    };
    serde_json::from_str(block).map_err(|error| format!("the findings cannot be read: {error}"))
}

/// An answer with its findings as Markdown, if it has any.
pub fn in_words(answer: &str) -> String {
    let (Some((before, _)), Ok(found)) = (split(answer), parse(answer)) else {
        return answer.to_owned();
    };
    let mut text = format!("{}\n\n## Findings: {}\n", before.trim_end(), found.len());
    for finding in found {
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let cwe = finding.cwe.map(|cwe| format!(" ({cwe})")).unwrap_or_default();
        let _ = write!(
            text,
            "\n### {}: {}{cwe}\n\n{}{line}\n\n{}\n",
            finding.severity.word(),
            finding.title,
            finding.file,
            finding.description
        );
        for (word, part) in [("Exploit", finding.exploit), ("Fix", finding.fix)] {
            if !part.is_empty() {
                let _ = write!(text, "\n{word}: {part}\n");
            }
        }
    }
    text
}

/// A SARIF log with one run.
pub fn sarif(found: &[Finding]) -> Value {
    let rule_of = |finding: &Finding| finding.cwe.clone().unwrap_or_else(|| "finding".into());
    // Code hosts sort by the worst number of a rule.
    let mut rules: BTreeMap<String, &str> = BTreeMap::new();
    for finding in found {
        let (_, number) = finding.severity.sarif();
        let worst = rules.entry(rule_of(finding)).or_insert(number);
        if *worst < number {
            *worst = number;
        }
    }
    let rule = |(id, number): (&String, &&str)| json!({"id": id, "properties": {"security-severity": number, "tags": ["security"]}});
    let result = |finding: &Finding| {
        let (level, _) = finding.severity.sarif();
        let mut place = json!({"artifactLocation": {"uri": uri(&finding.file)}});
        if let Some(line) = finding.line.filter(|line| *line > 0) {
            place["region"] = json!({"startLine": line});
        }
        let parts = [&finding.title, &finding.description, &finding.exploit, &finding.fix];
        let words: Vec<&str> =
            parts.iter().map(|part| part.as_str()).filter(|it| !it.is_empty()).collect();
        json!({
            "ruleId": rule_of(finding),
            "level": level,
            "message": {"text": words.join("\n\n")},
            "locations": [{"physicalLocation": place}],
            "properties": {"severity": finding.severity.word()},
        })
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "zerostack",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(rule).collect::<Vec<_>>(),
            }},
            "results": found.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

/// A path as a relative reference: what is special in one is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.trim_start_matches("./").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "I looked.\n```findings\n[{\"title\":\"Injection\",\"severity\":\"high\",\"file\":\"./src/a b.rs\",\"line\":3,\"description\":\"d\",\"exploit\":\"e\",\"fix\":\"f\",\"cwe\":\"CWE-78\"}]\n```\n";

    #[test]
    fn findings_become_words_and_sarif() {
        let found = parse(ANSWER).unwrap();
        let log = sarif(&found);
        assert_eq!(log["runs"][0]["results"][0]["level"], "error");
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "src/a%20b.rs");
        assert_eq!(place["region"]["startLine"], 3);
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"][0]["id"], "CWE-78");
        let words = in_words(ANSWER);
        assert!(words.contains("### high: Injection (CWE-78)") && !words.contains("```findings"));
        assert_eq!(sarif(&parse("```findings\n[]\n```").unwrap())["runs"][0]["results"], json!([]));
    }

    #[test]
    fn no_findings_at_all_is_not_a_clean_report() {
        assert!(parse("All is well.").is_err());
        assert!(parse("```findings\n[{\"title\": 1}]\n```").is_err());
        assert_eq!(in_words("All is well."), "All is well.");
        assert!(parse("```findings\n[]\n```\nThat is all.").unwrap().is_empty());
    }
}
