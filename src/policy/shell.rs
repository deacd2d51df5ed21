//! What a command line would do, as far as it can be told without running it.
//!
//! The answer decides whether to ask, never what is possible: a wrong answer costs comfort, because
//! the kernel holds the cell to its rights whatever the command turns out to be.

use brush_parser::ast::{
    Command, CommandPrefixOrSuffixItem, CompoundCommand, CompoundList, IoFileRedirectKind,
    IoFileRedirectTarget, IoRedirect, SimpleCommand, Word,
};
use brush_parser::word::{WordPiece, WordPieceWithSource};
use brush_parser::{Parser, ParserOptions};

/// Longest command line that is looked at, bytes.
const LENGTH_LIMIT: usize = 64 * 1024;
/// Deepest nesting that is looked at: the parser recurses.
const NESTING_LIMIT: usize = 64;

/// Programs that only start another one: name, options that take a value, operands of their own.
const WRAPPERS: [(&str, &[&str], usize); 13] = [
    ("env", &["-u", "-C"], 0),
    ("nice", &["-n"], 0),
    ("ionice", &["-c", "-n"], 0),
    ("timeout", &["-k", "-s"], 1),
    ("stdbuf", &["-i", "-o", "-e"], 0),
    ("xargs", &["-n", "-P", "-I", "-L", "-d", "-s", "-a", "-E"], 0),
    ("nohup", &[], 0),
    ("setsid", &[], 0),
    ("time", &[], 0),
    ("command", &[], 0),
    ("builtin", &[], 0),
    ("exec", &["-a"], 0),
    ("chronic", &[], 0),
];

/// A command line taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// Every simple command in it, wrappers taken off: program first. A word that is only known at
    /// run time is `None`.
    pub commands: Vec<Vec<Option<String>>>,
    /// Nothing but simple commands with constant words, joined by `|`, `&&`, `||`, `;`, whose
    /// redirections read files, join streams or discard output.
    pub plain: bool,
    /// A word may stand for several: the file names that a pattern finds.
    pub globs: bool,
    /// Every part was understood. If not, `commands` may lack some.
    pub understood: bool,
}

/// Takes `text` apart as Bash would.
pub fn analyse(text: &str) -> Shell {
    let mut shell = Shell { commands: Vec::new(), plain: true, globs: false, understood: true };
    shell.line(text, 0);
    if !shell.understood {
        shell.plain = false;
    }
    shell
}

/// An upper bound of how deep the text can nest, counted without parsing.
fn nesting(text: &str) -> usize {
    let mut quotes = 0;
    let mut deepest: usize = 0;
    let mut depth: usize = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.saturating_sub(1),
            b'`' | b'!' => quotes += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let words = ["if", "while", "until", "for", "case", "select"];
    let blocks = text.split_whitespace().filter(|word| words.contains(word)).count();
    deepest + quotes / 2 + blocks
}

impl Shell {
    fn line(&mut self, text: &str, depth: usize) {
        if text.len() > LENGTH_LIMIT || depth + nesting(text) > NESTING_LIMIT || text.contains('\0')
        {
            self.understood = false;
            return;
        }
        let options = ParserOptions::default();
        match Parser::new(text.as_bytes(), &options).parse_program() {
            Ok(program) => {
                for list in &program.complete_commands {
                    self.list(list, depth);
                }
            }
            Err(_) => self.understood = false,
        }
    }

    fn list(&mut self, list: &CompoundList, depth: usize) {
        for item in &list.0 {
            // A background process outlives the line; the safe list does not cover that.
            if matches!(item.1, brush_parser::ast::SeparatorOperator::Async) {
                self.plain = false;
            }
            for (_, pipeline) in &item.0 {
                for command in &pipeline.seq {
                    self.command(command, depth);
                }
            }
        }
    }

    fn command(&mut self, command: &Command, depth: usize) {
        match command {
            Command::Simple(simple) => self.simple(simple, depth),
            Command::Compound(compound, redirects) => {
                self.plain = false;
                for redirect in redirects.iter().flat_map(|list| &list.0) {
                    self.redirect(redirect, depth);
                }
                self.compound(compound, depth);
            }
            Command::Function(_) | Command::ExtendedTest(..) => self.understood = false,
        }
    }

    fn compound(&mut self, compound: &CompoundCommand, depth: usize) {
        let depth = depth + 1;
        match compound {
            CompoundCommand::BraceGroup(group) => self.list(&group.list, depth),
            CompoundCommand::Subshell(subshell) => self.list(&subshell.list, depth),
            CompoundCommand::ForClause(clause) => {
                for word in clause.values.iter().flatten() {
                    self.word(word, depth);
                }
                self.list(&clause.body.list, depth);
            }
            CompoundCommand::WhileClause(clause) | CompoundCommand::UntilClause(clause) => {
                self.list(&clause.0, depth);
                self.list(&clause.1.list, depth);
            }
            CompoundCommand::IfClause(clause) => {
                self.list(&clause.condition, depth);
                self.list(&clause.then, depth);
                for other in clause.elses.iter().flatten() {
                    if let Some(condition) = &other.condition {
                        self.list(condition, depth);
                    }
                    self.list(&other.body, depth);
                }
            }
            _ => self.understood = false,
        }
    }

    fn simple(&mut self, simple: &SimpleCommand, depth: usize) {
        let mut words = Vec::new();
        let prefix = simple.prefix.iter().flat_map(|prefix| &prefix.0);
        for item in prefix {
            self.item(item, &mut Vec::new(), depth);
        }
        if let Some(name) = &simple.word_or_name {
            words.push(self.word(name, depth));
        }
        for item in simple.suffix.iter().flat_map(|suffix| &suffix.0) {
            self.item(item, &mut words, depth);
        }
        if !words.is_empty() {
            self.unwrapped(words, depth);
        }
    }

    fn item(
        &mut self,
        item: &CommandPrefixOrSuffixItem,
        words: &mut Vec<Option<String>>,
        depth: usize,
    ) {
        match item {
            CommandPrefixOrSuffixItem::Word(word) => {
                let word = self.word(word, depth);
                words.push(word);
            }
            CommandPrefixOrSuffixItem::AssignmentWord(_, word) => {
                self.plain = false;
                let word = self.word(word, depth);
                words.push(word);
            }
            CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(redirect, depth),
            CommandPrefixOrSuffixItem::ProcessSubstitution(_, subshell) => {
                self.plain = false;
                self.list(&subshell.list, depth + 1);
            }
        }
    }

    fn redirect(&mut self, redirect: &IoRedirect, depth: usize) {
        match redirect {
            IoRedirect::File(_, kind, target) => self.file_redirect(kind, target, depth),
            IoRedirect::HereString(_, word) => {
                self.word(word, depth);
            }
            IoRedirect::OutputAndError(word, _) => {
                if self.word(word, depth).as_deref() != Some("/dev/null") {
                    self.plain = false;
                }
            }
            IoRedirect::HereDocument(_, document) => {
                self.plain = false;
                if document.requires_expansion {
                    self.word(&document.doc, depth);
                }
            }
        }
    }

    fn file_redirect(
        &mut self,
        kind: &IoFileRedirectKind,
        target: &IoFileRedirectTarget,
        depth: usize,
    ) {
        let reads = matches!(kind, IoFileRedirectKind::Read);
        match target {
            IoFileRedirectTarget::Filename(word) => {
                let discards = self.word(word, depth).as_deref() == Some("/dev/null");
                if !reads && !discards {
                    self.plain = false;
                }
            }
            IoFileRedirectTarget::Fd(_) => {}
            IoFileRedirectTarget::Duplicate(word) => {
                let known = self.word(word, depth);
                let number =
                    known.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                if !number {
                    self.plain = false;
                }
            }
            IoFileRedirectTarget::ProcessSubstitution(_, subshell) => {
                self.plain = false;
                self.list(&subshell.list, depth + 1);
            }
        }
    }

    /// The constant value of a word, or `None`; commands substituted into it are looked at.
    fn word(&mut self, word: &Word, depth: usize) -> Option<String> {
        match brush_parser::word::parse(&word.value, &ParserOptions::default()) {
            Ok(pieces) => self.pieces(&pieces, depth, false),
            Err(_) => {
                self.understood = false;
                None
            }
        }
    }

    fn pieces(
        &mut self,
        pieces: &[WordPieceWithSource],
        depth: usize,
        quoted: bool,
    ) -> Option<String> {
        let mut text = Some(String::new());
        for piece in pieces {
            let part = match &piece.piece {
                // Braces and extended patterns make other words out of this one.
                WordPiece::Text(part) if !quoted && part.contains(['{', '(']) => None,
                WordPiece::Text(part) => {
                    self.globs |= !quoted && part.contains(['*', '?', '[']);
                    Some(part.clone())
                }
                WordPiece::SingleQuotedText(part) => Some(part.clone()),
                WordPiece::EscapeSequence(part) => Some(part.trim_start_matches('\\').to_owned()),
                WordPiece::DoubleQuotedSequence(inner) => self.pieces(inner, depth, true),
                WordPiece::CommandSubstitution(line)
                | WordPiece::BackquotedCommandSubstitution(line) => {
                    self.line(line, depth + 1);
                    None
                }
                WordPiece::ParameterExpansion(_) | WordPiece::ArithmeticExpression(_) => {
                    // A default value or an index can hide a command substitution.
                    let hides = |text: &str| text.contains("$(") || text.contains('`');
                    if hides(&format!("{:?}", piece.piece)) {
                        self.understood = false;
                    }
                    None
                }
                WordPiece::TildeExpansion(_)
                | WordPiece::AnsiCQuotedText(_)
                | WordPiece::GettextDoubleQuotedSequence(_) => None,
            };
            text = text.zip(part).map(|(text, part)| text + &part);
        }
        if text.is_none() {
            self.plain = false;
        }
        text
    }

    /// Records a command after taking off what only starts another one.
    fn unwrapped(&mut self, words: Vec<Option<String>>, depth: usize) {
        let program = words[0].as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
        if let Some("sh" | "bash" | "dash" | "zsh" | "ksh") = program {
            return self.shell(words, depth);
        }
        let wrapper = WRAPPERS.iter().find(|(name, ..)| Some(*name) == program);
        let Some((_, with_value, operands)) = wrapper else {
            self.commands.push(words);
            return;
        };
        let whole = words.clone();
        let mut rest = words.into_iter().skip(1).peekable();
        let is_option = |word: &Option<String>| {
            word.as_deref().is_none_or(|word| word.starts_with('-') || word.contains('='))
        };
        while let Some(option) = rest.next_if(is_option) {
            let Some(option) = option else {
                self.understood = false;
                continue;
            };
            if with_value.contains(&option.as_str()) {
                rest.next();
            } else if option == "-S" || (option.starts_with("--") && !option.contains('=')) {
                // It may take the next word as its value, or be a command line itself.
                self.understood &= option == "--";
            }
        }
        let rest: Vec<_> = rest.skip(*operands).collect();
        if rest.is_empty() {
            self.commands.push(whole);
        } else if depth >= NESTING_LIMIT {
            self.understood = false;
        } else {
            self.plain = false;
            self.unwrapped(rest, depth + 1);
        }
    }

    /// `sh -c LINE` is the line; any other use of a shell runs what cannot be seen.
    fn shell(&mut self, words: Vec<Option<String>>, depth: usize) {
        self.plain = false;
        match &words[..] {
            [_, Some(flag), Some(line), ..] if flag.starts_with('-') && flag.ends_with('c') => {
                self.line(line, depth + 1);
            }
            _ => self.understood = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn programs(text: &str) -> Vec<String> {
        let commands = analyse(text).commands;
        commands.into_iter().filter_map(|words| words[0].clone()).collect()
    }

    #[test]
    fn finds_every_command_of_a_line() {
        assert_eq!(programs("a; b && c | d || e"), ["a", "b", "c", "d", "e"]);
        assert_eq!(programs("cat <<'E' 2>&1 | rm -rf x\nhi\nE"), ["cat", "rm"]);
        assert_eq!(programs("echo \"$(rm x)\""), ["rm", "echo"]);
        assert_eq!(programs("env A=1 timeout -k 1 5 sh -c 'rm x; ls'"), ["rm", "ls"]);
        assert_eq!(programs("for f in $(ls); do rm $f; done"), ["ls", "rm"]);
    }

    #[test]
    fn only_constant_words_and_harmless_redirections_are_plain() {
        for plain in ["ls -la", "a 'b c' | d 2>/dev/null", "cat < f", "ls 2>&1", "true && false"] {
            assert!(analyse(plain).plain, "{plain}");
        }
        for other in [
            "ls > f",
            "ls >> f",
            "echo $HOME",
            "echo `id`",
            "X=1 ls",
            "ls &",
            "(ls)",
            "ls <(id)",
            "env ls",
            "sh -c ls",
            "echo $'\\x72m'",
            "ls &> f",
            "cat <<E\n$(id)\nE",
            "a() { b; }; a",
            "echo ~root",
            "ls >&f",
        ] {
            assert!(!analyse(other).plain, "{other}");
        }
    }

    #[test]
    fn deep_nesting_and_broken_input_are_not_understood() {
        assert!(!analyse(&"$(".repeat(20_000)).understood);
        assert!(!analyse(&"(".repeat(100)).understood);
        assert!(!analyse("echo 'unfinished").understood);
        assert!(!analyse("sh script.sh").understood);
        assert!(!analyse("echo ${x:-$(rm y)}").understood);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z $(){}|&;<>'\"`\\\\\n=-]{0,60}") {
            let _ = analyse(&text);
        }
    }
}
