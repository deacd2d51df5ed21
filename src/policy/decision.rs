//! One call in, one decision out.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::rule::{Action, Rule, cover_command};
use super::schema::{Groups, ModeRule, Names, Policy, When, WorkspaceView};
use super::shell::analyse;

/// A tool call, as far as rules care about it.
#[derive(Debug, Clone)]
pub struct Call {
    pub tool: String,
    pub subject: Subject,
}

#[derive(Debug, Clone)]
pub enum Subject {
    Nothing,
    Path(Place),
    Command(String),
    /// A thing that has a name of its own, such as a file of the memory.
    Name(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Nothing => Ok(()),
            Subject::Path(place) => write!(f, "{}", place.path.display()),
            Subject::Command(text) | Subject::Name(text) => f.write_str(text),
        }
    }
}

/// A path after resolution: absolute, without links, `.` and `..`.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: PathBuf,
    /// The part below the workspace or added directory it lies in; `None` outside of them.
    pub inside: Option<PathBuf>,
}

/// What is to happen with a call, and which rule says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Run it with the rights that need no question.
    Allow {
        reason: String,
    },
    /// A rule of the user grants exactly this call.
    Grant {
        rule: String,
    },
    Ask {
        reason: String,
    },
    Deny {
        reason: String,
    },
}

/// A policy with the user's rules, ready to decide.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    groups: Groups,
    rules: Vec<Rule>,
    secrets: NameSet,
    protected: NameSet,
}

const CHANGING: [&str; 2] = ["write", "edit"];

impl Judge {
    pub fn new(mut policy: Policy, groups: Groups, rules: Vec<Rule>) -> Judge {
        // Where all reading is denied, commands do not see the workspace either; where it is to be
        // asked for, those that are not asked for do not.
        if rules.iter().any(|rule| rule.is_about_all_reading(Action::Deny)) {
            policy.command.granted = WorkspaceView::None;
            policy.command.unasked = WorkspaceView::None;
        }
        if rules.iter().any(|rule| rule.is_about_all_reading(Action::Ask)) {
            policy.command.unasked = WorkspaceView::None;
        }
        let secrets = NameSet::new(&groups.secrets.workspace);
        let protected = NameSet::new(&groups.protected.workspace);
        Judge { policy, groups, rules, secrets, protected }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Globs of absolute paths that the user's rules keep from `tool`.
    pub fn denied_globs(&self, tool: &str) -> Vec<String> {
        self.rules.iter().flat_map(|rule| rule.path_globs(tool)).collect()
    }

    /// Deny beats everything; an asking rule beats an allowing one; the mode decides the rest.
    pub fn decide(&self, call: &Call) -> Decision {
        self.decide_with(call, &[])
    }

    /// The same if the user had more allowing rules.
    pub fn decide_with(&self, call: &Call, more: &[Rule]) -> Decision {
        let of_user = |action: Action| {
            self.rules.iter().find(|rule| rule.action == action && rule.fits(call))
        };
        if let Some(rule) = of_user(Action::Deny) {
            return Decision::Deny { reason: format!("Your rule `{rule}` forbids it.") };
        }
        if let Some(rule) = of_user(Action::Ask) {
            return Decision::Ask { reason: format!("Your rule `{rule}` wants a question.") };
        }
        if let Subject::Command(text) = &call.subject
            && self.rules.iter().any(Rule::restricts_commands)
        {
            let shell = analyse(text);
            let hidden = |words: &Vec<Option<String>>| {
                words[0].as_deref().is_none_or(|program| program.contains(['*', '?', '[']))
            };
            if !shell.understood || shell.commands.iter().any(hidden) {
                let reason = "Your rules restrict commands, and what this one runs cannot be told.";
                return Decision::Ask { reason: reason.into() };
            }
        }
        let own = self.policy.rules.iter().find(|rule| self.rule_fits(rule, call));
        let (action, mut reason) = match own {
            Some(rule) => (rule.action, rule.reason.clone()),
            None => (self.policy.otherwise.action, self.policy.otherwise.reason.clone()),
        };
        if action == Action::Allow {
            return Decision::Allow { reason };
        }
        let grantable =
            action != Action::Deny || self.policy.otherwise.grantable.contains(&call.tool);
        if let Some(rule) = self.allowed(call, more).filter(|_| grantable) {
            return Decision::Grant { rule };
        }
        if let Subject::Command(text) = &call.subject
            && let Some(why) = self.groups.commands.destructive(&analyse(text))
        {
            reason = format!("{reason} {why}");
        }
        match action {
            Action::Deny => Decision::Deny { reason },
            Action::Allow | Action::Ask => Decision::Ask { reason },
        }
    }

    /// The rules of the user that allow a call: one that names it, or several that cover a command.
    fn allowed(&self, call: &Call, more: &[Rule]) -> Option<String> {
        let allowing: Vec<&Rule> =
            self.rules.iter().chain(more).filter(|rule| rule.action == Action::Allow).collect();
        if let Some(rule) = allowing.iter().find(|rule| rule.fits(call)) {
            return Some(rule.to_string());
        }
        let Subject::Command(text) = &call.subject else { return None };
        let covered = call.tool == "bash" && cover_command(&allowing, text);
        covered.then(|| "allow rules for every part of the command".to_owned())
    }

    fn rule_fits(&self, rule: &ModeRule, call: &Call) -> bool {
        let server =
            call.tool.starts_with("mcp__") && rule.tools.iter().any(|tool| tool == "mcp__*");
        if !server && !rule.tools.contains(&call.tool) {
            return false;
        }
        match (&call.subject, rule.when) {
            (_, When::Any) => true,
            (Subject::Path(place), When::Workspace) => {
                place.inside.is_some() && self.ordinary(&call.tool, place)
            }
            (Subject::Path(place), When::Disk) => self.ordinary(&call.tool, place),
            (Subject::Command(text), When::Safe) => self.groups.commands.is_safe(&analyse(text)),
            (Subject::Command(text), When::Destructive) => {
                self.groups.commands.destructive(&analyse(text)).is_some()
            }
            _ => false,
        }
    }

    fn ordinary(&self, tool: &str, place: &Place) -> bool {
        let relative = place.inside.as_ref().unwrap_or(&place.path);
        let changes = CHANGING.contains(&tool);
        !self.secrets.has_part_of(relative) && (!changes || !self.is_protected(relative))
    }

    fn is_protected(&self, path: &Path) -> bool {
        let is_git = |part: Component| {
            part.as_os_str().to_str().is_some_and(|name| name.eq_ignore_ascii_case(".git"))
        };
        path.components().any(is_git) || self.protected.has_part_of(path)
    }

    /// An example of a policy file: a tool, and a path from the workspace or a command.
    pub(super) fn example_fits(&self, rule: &ModeRule, example: &str) -> bool {
        let (tool, subject) = example.split_once(' ').unwrap_or((example, ""));
        let subject = match (tool, subject) {
            (_, "") => Subject::Nothing,
            ("bash", line) => Subject::Command(line.to_owned()),
            (tool, name) if tool.starts_with("memory_") => Subject::Name(name.to_owned()),
            (_, path) => {
                let outside = path.starts_with('/') || path.starts_with("..");
                Subject::Path(Place {
                    path: Path::new("/workspace").join(path),
                    inside: (!outside).then(|| path.trim_start_matches("./").into()),
                })
            }
        };
        self.rule_fits(rule, &Call { tool: tool.to_owned(), subject })
    }
}

impl Groups {
    /// The first of some relative paths whose name is that of a secret.
    pub fn secret_among<'a>(&self, mut paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let secrets = NameSet::new(&self.secrets.workspace);
        paths.find(|path| secrets.has_part_of(Path::new(path)))
    }
}

/// Whether a file name of the workspace counts as a secret or as protected.
#[derive(Debug, Clone)]
pub(super) struct NameSet {
    names: GlobSet,
    except: GlobSet,
}

impl NameSet {
    fn new(list: &Names) -> NameSet {
        NameSet { names: glob_set(&list.names), except: glob_set(&list.except) }
    }

    fn has_part_of(&self, path: &Path) -> bool {
        path.components().any(|part| {
            let name = Path::new(part.as_os_str());
            self.names.is_match(name) && !self.except.is_match(name)
        })
    }
}

/// Ignores case: some file systems do.
fn glob_set(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // A pattern that is no glob stands for itself.
        let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
        let glob = glob.or_else(|_| GlobBuilder::new(&globset::escape(pattern)).build());
        set.add(match glob {
            Ok(glob) => glob,
            Err(_) => continue,
        });
    }
    set.build().unwrap_or_default()
}
