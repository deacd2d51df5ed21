//! The safe and the destructive list: commands by name, sub-command and flag.

use serde::Deserialize;

use super::shell::Shell;

/// `groups/commands.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandLists {
    safe: Vec<Safe>,
    destructive: Vec<Destructive>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Safe {
    programs: Vec<String>,
    #[serde(default)]
    subcommands: Vec<String>,
    /// Prefixes of arguments that make the command unsafe. A short flag matches inside a cluster.
    refuse: Vec<String>,
    most_operands: Option<usize>,
    #[expect(dead_code, reason = "for the people who read the file; its presence is required")]
    reason: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destructive {
    programs: Vec<String>,
    #[serde(default)]
    subcommands: Vec<String>,
    /// Single letters match inside a cluster such as `-fr`.
    #[serde(default)]
    any_flag: Vec<String>,
    #[serde(default)]
    any_argument: Vec<String>,
    reason: String,
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

fn is_flag(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// Whether `word` is the flag `name`: a long flag up to `=`, or a letter in a cluster of short ones.
fn names_flag(word: &str, name: &str) -> bool {
    if name.len() == 1 {
        return is_flag(word) && !word.starts_with("--") && word[1..].contains(name);
    }
    let given = word.split('=').next().unwrap_or(word);
    // Long flags may be abbreviated.
    given == name || (given.len() > 3 && given.starts_with("--") && name.starts_with(given))
}

impl CommandLists {
    /// Whether every part of the command is on the safe list and the command is plain.
    pub fn is_safe(&self, shell: &Shell) -> bool {
        let safe = |words: &Vec<Option<String>>| {
            let words: Option<Vec<&str>> = words.iter().map(Option::as_deref).collect();
            words.is_some_and(|words| {
                self.safe.iter().any(|entry| {
                    // A file name that a pattern finds can look like a flag.
                    let exact = entry.refuse.is_empty() && entry.most_operands.is_none();
                    (exact || !shell.globs) && entry.covers(&words)
                })
            })
        };
        shell.plain && !shell.commands.is_empty() && shell.commands.iter().all(safe)
    }

    /// Why the command is destructive, if any part of it is or may be.
    pub fn destructive(&self, shell: &Shell) -> Option<&str> {
        if !shell.understood {
            return Some("Not all of the command could be understood.");
        }
        shell.commands.iter().find_map(|words| {
            let Some(program) = words[0].as_deref() else {
                return Some("The program is only known when the command runs.");
            };
            if program.contains(['*', '?', '[']) {
                return Some("The program is only known when the command runs.");
            }
            let words: Vec<Option<&str>> = words[1..].iter().map(Option::as_deref).collect();
            let fits = |entry: &&Destructive| entry.covers(base_name(program), &words);
            self.destructive.iter().find(fits).map(|entry| entry.reason.as_str())
        })
    }
}

impl Safe {
    fn covers(&self, words: &[&str]) -> bool {
        let [program, arguments @ ..] = words else { return false };
        // A path names a particular file, which may be anything.
        if !self.programs.iter().any(|name| name == program) {
            return false;
        }
        if !self.subcommands.is_empty() {
            // The sub-command has to come first: what precedes it can change its meaning.
            let Some(first) = arguments.first() else { return false };
            if !self.subcommands.iter().any(|name| name == first) {
                return false;
            }
        }
        let refused = |word: &&str| self.refuse.iter().any(|prefix| refuses(prefix, word));
        let operands = arguments.iter().filter(|word| !is_flag(word)).count();
        !arguments.iter().any(refused) && self.most_operands.is_none_or(|most| operands <= most)
    }
}

/// Whether an argument falls under a refused prefix. Long flags may be abbreviated by the user.
fn refuses(prefix: &str, word: &str) -> bool {
    let short = prefix.len() == 2 && prefix.starts_with('-');
    if short {
        return is_flag(word) && !word.starts_with("--") && word[1..].contains(&prefix[1..]);
    }
    let name = word.split('=').next().unwrap_or(word);
    word.starts_with(prefix)
        || (name.len() > 3 && name.starts_with("--") && prefix.starts_with(name))
}

impl Destructive {
    /// An argument that is only known at run time counts as any flag, not as a sub-command.
    fn covers(&self, program: &str, arguments: &[Option<&str>]) -> bool {
        let named = |name: &String| match name.strip_suffix('*') {
            Some(start) => program.starts_with(start),
            None => program == name,
        };
        if !self.programs.iter().any(named) {
            return false;
        }
        let has_subcommand = |name: &String| arguments.contains(&Some(name.as_str()));
        if !self.subcommands.is_empty() && !self.subcommands.iter().any(has_subcommand) {
            return false;
        }
        if self.any_flag.is_empty() && self.any_argument.is_empty() {
            return true;
        }
        arguments.iter().any(|word| {
            let Some(word) = word else { return self.subcommands.is_empty() };
            self.any_flag.iter().any(|flag| names_flag(word, flag))
                || self.any_argument.iter().any(|argument| word.starts_with(argument.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Groups, analyse};

    #[test]
    fn the_lists_hold_per_flag() {
        let lists = Groups::load().unwrap().commands;
        for safe in ["ls -la src", "git log -3 | head", "rg -n foo", "sort -u f", "find . -name x"]
        {
            assert!(lists.is_safe(&analyse(safe)), "{safe}");
        }
        for unsafe_ in [
            "git log --output=f",
            "git log --outp=f",
            "git -c alias.x=!id x",
            "rg --pre sh x",
            "sort -uo f f",
            "sort --compress-prog=sh f",
            "find . -exec rm {} +",
            "uniq a b",
            "./ls",
            "/tmp/ls",
            "git diff --ext-diff",
            "find . *",
            "printf -v 'a[$(id)]' x",
            "test -v x",
            "python3 version",
            "find . {-exec,id} \\;",
            "git grep -O",
            "tee f",
            "",
        ] {
            assert!(!lists.is_safe(&analyse(unsafe_)), "{unsafe_}");
        }
        for destructive in [
            "rm -fr /",
            "/bin/rm -rf /",
            "X=1 rm -rf y",
            "git push -f",
            "git push --force=x",
            "mkfs.ext4 /dev/sda",
            "dd of=x",
            "ls; sudo id",
            "echo $(rm -r x)",
            "$CMD x",
            "xargs rm -rf",
            "sh -c 'rm -rf x'",
            "git -C x push --force",
            "find . -delete",
            "{rm,-rf,x}",
            "/bin/r[m] -rf x",
            "env -S 'rm -rf x'",
            "nice --adjustment 5 rm -rf x",
            "rm --recurs x",
            "trap 'rm -rf x' EXIT",
            "git -c alias.x='!rm -rf x' x",
            "git push origin +main",
            "!(rm -rf x)",
        ] {
            assert!(lists.destructive(&analyse(destructive)).is_some(), "{destructive}");
        }
        for harmless in ["cargo test", "git push", "rm file", "npm run build && ls", "git reset x"]
        {
            assert_eq!(lists.destructive(&analyse(harmless)), None, "{harmless}");
        }
    }
}
