//! The policy files: `policies/*.toml` and `policies/groups/*.toml`, compiled in.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::command::CommandLists;
use super::decision::Judge;
use super::rule::Action;

/// The five permission modes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Mode {
    Restrictive,
    #[value(alias = "read-only")]
    Readonly,
    Guarded,
    Standard,
    Yolo,
}

impl Mode {
    pub const ALL: [Mode; 5] =
        [Mode::Restrictive, Mode::Readonly, Mode::Guarded, Mode::Standard, Mode::Yolo];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Restrictive => "restrictive",
            Mode::Readonly => "readonly",
            Mode::Guarded => "guarded",
            Mode::Standard => "standard",
            Mode::Yolo => "yolo",
        }
    }

    /// Whether this mode gives no more than `other`: neither without a question nor after a yes.
    /// Restrictive and readonly are each stricter in one of the two, so neither is at most the other.
    pub fn at_most(self, other: Mode) -> bool {
        let rights = |mode: Mode| match mode {
            Mode::Restrictive => (0, 1),
            Mode::Readonly => (1, 0),
            Mode::Guarded => (1, 2),
            Mode::Standard => (2, 3),
            Mode::Yolo => (3, 4),
        };
        let (own, others) = (rights(self), rights(other));
        own.0 <= others.0 && own.1 <= others.1
    }

    fn source(self) -> &'static str {
        match self {
            Mode::Restrictive => include_str!("../../policies/restrictive.toml"),
            Mode::Readonly => include_str!("../../policies/readonly.toml"),
            Mode::Guarded => include_str!("../../policies/guarded.toml"),
            Mode::Standard => include_str!("../../policies/standard.toml"),
            Mode::Yolo => include_str!("../../policies/yolo.toml"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One mode, as its file says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: Mode,
    pub summary: String,
    pub reason: String,
    /// In order: the first that fits a call decides it.
    #[serde(rename = "rule")]
    pub rules: Vec<ModeRule>,
    pub otherwise: Otherwise,
    pub files: FilesView,
    pub command: CommandView,
    pub view: View,
    pub limits: LimitTable,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModeRule {
    pub tools: Vec<String>,
    pub when: When,
    pub action: Action,
    pub reason: String,
    #[serde(rename = "match")]
    pub matching: Vec<String>,
    pub no_match: Vec<String>,
}

/// The condition of a mode's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    Any,
    /// A path in the workspace or an added directory, neither secret nor, for changes, protected.
    Workspace,
    /// Any path that is neither secret nor, for changes, protected.
    Disk,
    /// A command that the safe list understands completely.
    Safe,
    /// A command with a destructive part, or one whose parts cannot all be told.
    Destructive,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otherwise {
    pub action: Action,
    pub reason: String,
    /// Where the action is to deny: tools that an allowing rule of the user gives back. The kernel
    /// holds them to the mode's rights all the same.
    #[serde(default)]
    pub grantable: Vec<String>,
}

/// What a worker sees of the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceView {
    None,
    ReadOnly,
    /// Writable, but only a copy that ends with the cell.
    Copy,
    ReadWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskView {
    None,
    Host,
}

/// The un-asked file worker.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesView {
    pub workspace: WorkspaceView,
    pub disk: DiskView,
}

/// Command cells: without a question, and after a yes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandView {
    pub unasked: WorkspaceView,
    pub granted: WorkspaceView,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ViewHome {
    Empty,
    Host,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Names in `groups/roots.toml`.
    pub roots: Vec<String>,
    pub home: ViewHome,
    pub loopback: bool,
    pub sockets: bool,
    pub personality: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitTable {
    pub processes: u64,
    pub memory_mib: Limit,
    pub file_mib: Limit,
    pub cpu_seconds: Limit,
    pub descriptors: u64,
    /// Wall clock for a command, seconds.
    pub seconds: u64,
}

/// A number, or the word `unlimited`: nothing is unlimited by leaving it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "LimitText")]
pub struct Limit(pub Option<u64>);

#[derive(Deserialize)]
#[serde(untagged)]
enum LimitText {
    Number(u64),
    Word(String),
}

impl TryFrom<LimitText> for Limit {
    type Error = String;

    fn try_from(text: LimitText) -> Result<Limit, String> {
        match text {
            LimitText::Number(number) => Ok(Limit(Some(number))),
            LimitText::Word(word) if word == "unlimited" => Ok(Limit(None)),
            LimitText::Word(word) => {
                Err(format!("expected a number or \"unlimited\", found {word:?}"))
            }
        }
    }
}

/// One entry of `groups/roots.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootGroup {
    pub reason: String,
    #[serde(default)]
    pub read_only: Vec<String>,
    #[serde(default)]
    pub read_write: Vec<String>,
    #[serde(default)]
    pub copy: Vec<String>,
    #[serde(default)]
    pub hide: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    pub reason: String,
    pub names: Vec<String>,
    #[serde(default)]
    pub except: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    pub home: Names,
    pub machine: Names,
    pub workspace: Names,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protected {
    pub git: Names,
    pub workspace: Names,
}

/// The shared groups.
#[derive(Debug, Clone)]
pub struct Groups {
    pub roots: BTreeMap<String, RootGroup>,
    pub secrets: Secrets,
    pub protected: Protected,
    pub commands: CommandLists,
}

/// Why a policy does not load. Not loading is fatal.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The message of the TOML parser has line, column and the text of the line.
    #[error("{file}: {message}")]
    Syntax { file: String, message: String },
    #[error("{file}: the rule \"{reason}\" {problem} its example `{example}`")]
    Example { file: String, reason: String, problem: &'static str, example: String },
    #[error("{file}: {problem}")]
    Content { file: String, problem: String },
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, PolicyError> {
    toml::from_str(text).map_err(|error| PolicyError::Syntax {
        file: file.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

impl Groups {
    pub fn load() -> Result<Groups, PolicyError> {
        Ok(Groups {
            roots: parse("groups/roots.toml", include_str!("../../policies/groups/roots.toml"))?,
            secrets: parse(
                "groups/secrets.toml",
                include_str!("../../policies/groups/secrets.toml"),
            )?,
            protected: parse(
                "groups/protected.toml",
                include_str!("../../policies/groups/protected.toml"),
            )?,
            commands: parse(
                "groups/commands.toml",
                include_str!("../../policies/groups/commands.toml"),
            )?,
        })
    }
}

impl Policy {
    /// Loads the built-in policy of `mode` and checks all of its examples.
    pub fn load(mode: Mode, groups: &Groups) -> Result<Policy, PolicyError> {
        Policy::parse(&format!("{mode}.toml"), mode.source(), groups)
    }

    /// Parses a policy file; `file` is its name for messages.
    pub fn parse(file: &str, text: &str, groups: &Groups) -> Result<Policy, PolicyError> {
        let policy: Policy = parse(file, text)?;
        policy.check(file, groups)?;
        Ok(policy)
    }

    fn check(&self, file: &str, groups: &Groups) -> Result<(), PolicyError> {
        for name in &self.view.roots {
            if !groups.roots.contains_key(name) {
                let problem = format!("there is no group {name:?} in groups/roots.toml");
                return Err(PolicyError::Content { file: file.to_owned(), problem });
            }
        }
        let judge = Judge::new(self.clone(), groups.clone(), Vec::new());
        for rule in &self.rules {
            let wrong = |problem, example: &str| PolicyError::Example {
                file: file.to_owned(),
                reason: rule.reason.clone(),
                problem,
                example: example.to_owned(),
            };
            for example in &rule.matching {
                if !judge.example_fits(rule, example) {
                    return Err(wrong("does not match", example));
                }
            }
            for example in &rule.no_match {
                if judge.example_fits(rule, example) {
                    return Err(wrong("must not match", example));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_policy_loads_and_keeps_its_examples() {
        let groups = Groups::load().unwrap();
        for mode in Mode::ALL {
            assert_eq!(Policy::load(mode, &groups).unwrap().name, mode);
        }
    }

    #[test]
    fn a_wrong_example_a_missing_limit_and_a_typo_do_not_load() {
        let groups = Groups::load().unwrap();
        let good = Mode::Standard.source();
        let wrong_example = good.replace("\"bash ls -la\"", "\"bash rm -rf x\"");
        let missing = good.replace("processes = 1024\n", "");
        let typo = good.replace("loopback", "lopback");
        for (text, part) in [
            (&wrong_example, "does not match its example `bash rm -rf x`"),
            (&missing, "missing field `processes`"),
            (&typo, "unknown field `lopback`"),
        ] {
            let error = Policy::parse("standard.toml", text, &groups).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = Policy::parse("x.toml", &typo, &groups).unwrap_err().to_string();
        assert!(error.contains("x.toml") && error.contains("line"), "{error}");
    }
}
