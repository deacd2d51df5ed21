//! Colours for code: strings, comments, numbers and keywords, told by a small table. What is not in the
//! table is shown as it is.

use ratatui::style::Style;
use ratatui::text::Span;

use super::theme::Theme;

struct Language {
    names: &'static [&'static str],
    comment: &'static str,
    keywords: &'static str,
}

const LANGUAGES: [Language; 9] = [
    Language {
        names: &["rust", "rs"],
        comment: "//",
        keywords: "as async await break const continue crate dyn else enum extern fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true false type unsafe use where while",
    },
    Language {
        names: &["python", "py"],
        comment: "#",
        keywords: "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda None not or pass raise return True try while with yield",
    },
    Language {
        names: &["javascript", "js", "typescript", "ts", "tsx", "jsx"],
        comment: "//",
        keywords: "async await break case catch class const continue default delete do else export extends false finally for from function if import in instanceof interface let new null of return static super switch this throw true try type typeof undefined var void while yield",
    },
    Language {
        names: &["go"],
        comment: "//",
        keywords: "break case chan const continue default defer else false for func go if import interface map nil package range return select struct switch true type var",
    },
    Language {
        names: &["c", "cpp", "c++", "h", "java", "csharp", "cs", "kotlin", "swift"],
        comment: "//",
        keywords: "auto bool break case catch char class const continue default delete do double else enum extern false final float for if import int interface long namespace new null nullptr package private protected public return short signed sizeof static struct super switch template this throw true try typedef unsigned using var virtual void volatile while",
    },
    Language {
        names: &["bash", "sh", "shell", "zsh", "console"],
        comment: "#",
        keywords: "case do done elif else esac export fi for function if in local return set then until while",
    },
    Language { names: &["toml", "yaml", "yml", "ini"], comment: "#", keywords: "true false null" },
    Language { names: &["json"], comment: "", keywords: "true false null" },
    Language {
        names: &["sql"],
        comment: "--",
        keywords: "select from where insert update delete into values join left right on group by order limit create table index and or not null as SELECT FROM WHERE INSERT UPDATE DELETE INTO VALUES JOIN LEFT RIGHT ON GROUP BY ORDER LIMIT CREATE TABLE INDEX AND OR NOT NULL AS",
    },
];

/// Longest line that is coloured, bytes.
const LONGEST: usize = 2000;

/// One line of code in a language by its name.
pub fn line<'a>(language: &str, text: &'a str, theme: &Theme) -> Vec<Span<'a>> {
    let language = language.split([',', ' ', '{']).next().unwrap_or_default();
    let known = LANGUAGES.iter().find(|known| known.names.contains(&language));
    // No line that somebody has written is longer.
    let Some(known) = known.filter(|_| text.len() <= LONGEST) else {
        return vec![Span::styled(text, theme.code)];
    };
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, style) = token(known, rest, first, theme);
        let (token, after) = rest.split_at(length);
        spans.push(Span::styled(token, style));
        rest = after;
    }
    spans
}

/// Length and style of the token that a text begins with.
fn token(language: &Language, rest: &str, first: char, theme: &Theme) -> (usize, Style) {
    if !language.comment.is_empty() && rest.starts_with(language.comment) {
        return (rest.len(), theme.comment);
    }
    let word = |of: fn(char) -> bool| rest.find(|other: char| !of(other)).unwrap_or(rest.len());
    match first {
        '"' | '\'' | '`' => (quoted(rest, first), theme.string),
        '0'..='9' => (number(rest), theme.number),
        c if c.is_alphabetic() || c == '_' => {
            let length = word(|c| c.is_alphanumeric() || c == '_');
            let keyword = language.keywords.split(' ').any(|keyword| keyword == &rest[..length]);
            (length, if keyword { theme.keyword } else { theme.text })
        }
        c => (c.len_utf8(), theme.text),
    }
}

/// Digits with what belongs to them; a dot only before another digit.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let ends = |at: usize| match bytes[at] {
        b'.' => !bytes.get(at + 1).is_some_and(u8::is_ascii_digit),
        byte => !(byte.is_ascii_alphanumeric() || byte == b'_'),
    };
    (1..bytes.len()).find(|at| ends(*at)).unwrap_or(bytes.len())
}

/// Up to the closing quote; an apostrophe that closes nothing is only itself.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    if quote == '\'' { 1 } else { rest.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost(text in ".{0,60}", language in "(rust|py|json|none)") {
            let theme = Theme::named("sixteen", super::super::theme::Depth::Full).unwrap();
            let shown: String = line(&language, &text, &theme).iter().map(|span| span.content.as_ref()).collect();
            prop_assert_eq!(shown, text);
        }
    }

    #[test]
    fn words_strings_and_comments_have_their_style() {
        let theme = Theme::named("sixteen", super::super::theme::Depth::Full).unwrap();
        let spans = line("rust", "for x in 0..y[1.5] {", &theme);
        assert!(spans.iter().any(|span| span.content == "0" && span.style == theme.number));
        assert!(spans.iter().any(|span| span.content == "1.5"));
        let spans = line("rust", "let x = \"a\\\"b\"; // no", &theme);
        let of = |text: &str| spans.iter().find(|span| span.content == text).unwrap().style;
        assert_eq!(
            (of("let"), of("\"a\\\"b\""), of("// no")),
            (theme.keyword, theme.string, theme.comment)
        );
    }
}
