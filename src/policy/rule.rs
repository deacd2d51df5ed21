//! The user's rules: `tool(pattern)` with an action.

use std::fmt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::decision::{Call, Subject};
use super::shell::analyse;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Ask,
    Deny,
}

/// One rule, for example `bash(cargo test*)` or `read(**/.env)`.
#[derive(Debug, Clone)]
pub struct Rule {
    pub action: Action,
    tool: String,
    pattern: String,
    /// Absolute; empty if the rule is about every path.
    globs: Vec<GlobMatcher>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("`{0}` is not of the form tool(pattern), for example bash(cargo test*)")]
    Form(String),
    #[error("`{0}` names no tool; the tools are {1}")]
    Tool(String, String),
    #[error(
        "`{0}`: a rule about a tool of a server has no pattern, for example mcp__server__tool or mcp__server__*"
    )]
    Server(String),
    #[error("the pattern of `{0}` is no valid glob: {1}")]
    Glob(String, String),
}

pub(super) const TOOLS: [&str; 13] = [
    "read",
    "write",
    "edit",
    "grep",
    "find_files",
    "list_dir",
    "bash",
    "jobs",
    "todo_write",
    "task",
    "memory_read",
    "memory_search",
    "memory_write",
];

impl Rule {
    /// Parses `tool(pattern)` or `tool`. A relative path pattern is meant from `workspace`.
    pub fn parse(action: Action, text: &str, workspace: &Path) -> Result<Rule, RuleError> {
        let form = || RuleError::Form(text.to_owned());
        let (tool, pattern) = match text.split_once('(') {
            None => (text, "**"),
            Some((tool, rest)) => (tool, rest.strip_suffix(')').ok_or_else(form)?),
        };
        if tool.is_empty() || pattern.is_empty() {
            return Err(form());
        }
        // Which tools servers have is known only when they run.
        if tool != "*" && !TOOLS.contains(&tool) && !tool.starts_with("mcp__") {
            return Err(RuleError::Tool(text.to_owned(), TOOLS.join(", ")));
        }
        // In other clients a server's name alone means all of its tools.
        let whole =
            tool.strip_prefix("mcp__").filter(|rest| !rest.contains("__") && !rest.contains('*'));
        let tool = if whole.is_some() { format!("{tool}__*") } else { tool.to_owned() };
        if tool.starts_with("mcp__") && pattern != "**" {
            return Err(RuleError::Server(text.to_owned()));
        }
        let memory = tool.starts_with("memory_");
        // As the files are called: their ending may be left out, as it may in a call.
        let pattern = match pattern {
            "memory" if memory => "MEMORY.md".to_owned(),
            name if memory && !name.ends_with(".md") && !name.ends_with('*') => {
                format!("{name}.md")
            }
            other => other.to_owned(),
        };
        let mut globs = Vec::new();
        if tool != "bash" && !memory && pattern != "**" {
            let absolute = absolute(&pattern, workspace);
            // What is denied of a directory is denied of everything in it; what is allowed is not.
            let below = (action != Action::Allow).then(|| format!("{absolute}/**"));
            for glob in std::iter::once(absolute).chain(below) {
                let wrong =
                    |error: globset::Error| RuleError::Glob(text.to_owned(), error.to_string());
                let glob =
                    GlobBuilder::new(&glob).literal_separator(true).build().map_err(wrong)?;
                globs.push(glob.compile_matcher());
            }
        }
        Ok(Rule { action, tool, pattern, globs })
    }

    /// Whether the rule is about `call`. For a command: about the whole text or, unless the rule
    /// allows, about any part of it.
    pub fn fits(&self, call: &Call) -> bool {
        if !self.is_about(&call.tool) {
            return false;
        }
        match &call.subject {
            Subject::Nothing => self.pattern == "**",
            Subject::Name(name) => self.pattern == "**" || wildcard(&self.pattern, name),
            Subject::Path(place) => {
                self.globs.is_empty() || self.globs.iter().any(|glob| glob.is_match(&place.path))
            }
            Subject::Command(text) if self.pattern == "**" || self.pattern == *text => true,
            Subject::Command(_) if self.action == Action::Allow => false,
            Subject::Command(text) => {
                let parts = analyse(text).commands;
                wildcard(&self.pattern, text) || parts.iter().any(|words| self.meets(words))
            }
        }
    }

    /// Whether a denying or asking rule meets a simple command, by its program's name or its path.
    fn meets(&self, words: &[Option<String>]) -> bool {
        let part = joined(words);
        let name = part.split(' ').next().and_then(|program| program.rsplit_once('/'));
        let by_name = name.map(|(directory, _)| &part[directory.len() + 1..]);
        wildcard(&self.pattern, &part) || by_name.is_some_and(|part| wildcard(&self.pattern, part))
    }

    /// Whether the rule is about reading whatever file.
    pub(super) fn is_about_all_reading(&self, action: Action) -> bool {
        self.action == action && self.globs.is_empty() && matches!(self.tool.as_str(), "read" | "*")
    }

    /// Whether the rule restricts commands.
    pub(super) fn restricts_commands(&self) -> bool {
        self.action != Action::Allow && self.is_about("bash")
    }

    fn is_about(&self, tool: &str) -> bool {
        // Reading nothing at all means searching nothing either.
        let searches = tool == "grep" && self.tool == "read" && self.pattern == "**";
        let server = self.tool.starts_with("mcp__") && wildcard(&self.tool, tool);
        self.tool == "*"
            || self.tool == tool
            || server
            || (searches && self.action != Action::Allow)
    }

    /// Globs of paths that a walking tool must pass over: what must not be read, or not without a
    /// question, must not be found by a search either.
    pub(super) fn path_globs(&self, tool: &str) -> Vec<String> {
        let about = self.action != Action::Allow && (self.is_about(tool) || self.tool == "read");
        self.globs.iter().filter(|_| about).map(|glob| glob.glob().glob().to_owned()).collect()
    }
}

/// Whether allowing rules together cover every part of a command. Redirections, expansions and the
/// like go further than the words; to allow one of those, a rule must be the exact command.
pub(super) fn cover_command(rules: &[&Rule], text: &str) -> bool {
    let shell = analyse(text);
    let covered = |words: &Vec<Option<String>>| {
        let part = joined(words);
        rules.iter().any(|rule| rule.is_about("bash") && wildcard(&rule.pattern, &part))
    };
    shell.plain && !shell.commands.is_empty() && shell.commands.iter().all(covered)
}

/// The pattern from the root, without `.`, `..` and a trailing slash; `~` is left to the caller's
/// shell, as in any command line.
fn absolute(pattern: &str, workspace: &Path) -> String {
    if pattern.starts_with("**/") {
        return format!("/{}", pattern.trim_end_matches('/'));
    }
    let from_root = match pattern.starts_with('/') {
        true => pattern.to_owned(),
        false => format!("{}/{pattern}", globset::escape(&workspace.display().to_string())),
    };
    let mut parts = Vec::new();
    for part in from_root.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn joined(words: &[Option<String>]) -> String {
    let words: Vec<&str> = words.iter().map(|word| word.as_deref().unwrap_or("$")).collect();
    words.join(" ")
}

/// Matches `*` as any run of characters.
fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Rule {
    /// As it is written, without its action.
    pub fn text(&self) -> String {
        if self.pattern == "**" {
            self.tool.clone()
        } else {
            format!("{}({})", self.tool, self.pattern)
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Allow => "allow",
            Action::Ask => "ask",
            Action::Deny => "deny",
        };
        write!(f, "{action} {}({})", self.tool, self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(action: Action, rule: &str, command: &str) -> bool {
        let rule = Rule::parse(action, rule, Path::new("/w")).unwrap();
        let subject = Subject::Command(command.to_owned());
        rule.fits(&Call { tool: "bash".into(), subject }) || cover_command(&[&rule], command)
    }

    #[test]
    fn an_allowing_rule_covers_every_part_or_nothing() {
        for command in ["cargo test", "cargo test --all", "cargo test | cargo test -q"] {
            assert!(fits(Action::Allow, "bash(cargo test*)", command), "{command}");
        }
        for command in [
            "cargo test; rm x",
            "cargo test $(rm x)",
            "cargo test > ../f",
            "cargo test `id`",
            "X=1 cargo test",
            "cargo testify; id",
            "cargo test & id",
            "cargo build",
        ] {
            assert!(!fits(Action::Allow, "bash(cargo test*)", command), "{command}");
        }
    }

    #[test]
    fn a_denying_rule_meets_any_part() {
        for command in ["curl x", "ls; curl x", "echo $(curl x)", "sh -c 'curl x'", "env curl x"] {
            let rule = Rule::parse(Action::Deny, "bash(curl*)", Path::new("/w")).unwrap();
            let subject = Subject::Command(command.to_owned());
            assert!(rule.fits(&Call { tool: "bash".into(), subject }), "{command}");
        }
    }

    #[test]
    fn rules_about_servers_mean_tools_of_that_server() {
        let fits = |rule: &str, tool: &str| {
            let rule = Rule::parse(Action::Deny, rule, Path::new("/w")).unwrap();
            rule.fits(&Call { tool: tool.into(), subject: Subject::Nothing })
        };
        for rule in ["mcp__a__b", "mcp__a__*", "mcp__a", "mcp__*", "*", "mcp__a__b(**)"] {
            assert!(fits(rule, "mcp__a__b"), "{rule}");
            assert!(rule == "mcp__*" || rule == "*" || !fits(rule, "mcp__ab__b"), "{rule}");
        }
        assert!(!fits("mcp__a__b", "mcp__a__bc") && !fits("mcp__a", "bash"));
    }

    #[test]
    fn a_malformed_rule_says_what_is_wrong() {
        for (text, part) in [
            ("bash(", "form tool(pattern)"),
            ("bash()", "form tool(pattern)"),
            ("bahs(ls)", "the tools are"),
            ("read([)", "no valid glob"),
            ("mcp__a__b(x)", "has no pattern"),
        ] {
            let error = Rule::parse(Action::Allow, text, Path::new("/w")).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
