//! The one gate for text from models, files and programs on its way to a terminal.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Characters that change what a terminal does or how a line reads: controls, direction overrides,
/// invisible ones. They become visible.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' => out.push(character),
            // The line end of some files.
            '\r' if characters.peek() == Some(&'\n') => {}
            // A vowel or an end of a Korean syllable without its beginning is not shown at all.
            '\u{1160}'..='\u{11ff}' | '\u{d7b0}'..='\u{d7ff}'
                if !out.chars().last().is_some_and(is_jamo) =>
            {
                out.extend(character.escape_unicode());
            }
            // It makes the character before it a picture.
            '\u{fe0f}' if out.chars().last().is_some_and(|before| !before.is_ascii()) => {
                out.push(character);
            }
            _ if character.is_control() || is_deceptive(character) => {
                out.extend(character.escape_unicode());
            }
            _ => out.push(character),
        }
    }
    out
}

/// The same for what is approved: a line end of another kind, a space that is none, and whatever takes no
/// room on a screen make it something else.
pub fn exact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for grapheme in text.graphemes(true) {
        let hidden = grapheme.width() == 0 || grapheme.contains('\u{fe0f}');
        for character in grapheme.chars() {
            let plain = matches!(character, ' ' | '\t' | '\n');
            match plain || !(hidden || character.is_whitespace()) {
                true => out.push(character),
                false => out.extend(character.escape_unicode()),
            }
        }
    }
    clean(&out)
}

fn is_jamo(character: char) -> bool {
    matches!(character, '\u{1100}'..='\u{11ff}' | '\u{a960}'..='\u{a97f}' | '\u{ac00}'..='\u{d7ff}')
}

/// JSON in which what a terminal could act on is escaped the way of JSON: the same value.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if !matches!(character, '\n' | '\t' | '\r')
            && (character.is_control() || is_deceptive(character))
        {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// One line of at most `width` characters.
pub fn line(text: &str, width: usize) -> String {
    let text = clean(text).replace(['\n', '\t'], " ");
    match text.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_overrides_and_invisible_characters_become_visible() {
        assert_eq!(clean("a\u{1b}[31mb\u{9b}c"), "a\\u{1b}[31mb\\u{9b}c");
        assert_eq!(clean("x\u{202e}y\u{200b}z\r\n"), "x\\u{202e}y\\u{200b}z\n");
        assert_eq!(line("a\nb\tc", 3), "a b…");
        assert_eq!(clean("./build.sh\r"), "./build.sh\\u{d}");
        assert_eq!(clean("x\u{180b}y\u{e0fff}"), "x\\u{180b}y\\u{e0fff}");
        assert_eq!(exact("sh te\u{1161}\u{1161}st"), "sh te\\u{1161}\\u{1161}st");
        assert_eq!(exact("\u{301}clean\n\u{20dd}x"), "\\u{301}clean\n\\u{20dd}x");
        assert_eq!(
            exact("e\u{301}t\u{e9} 각 \u{1100}\u{1161}\u{11a8}"),
            "e\u{301}t\u{e9} 각 \u{1100}\u{1161}\u{11a8}"
        );
        assert_eq!(clean("te\u{1161}st \u{13437}"), "te\\u{1161}st \\u{13437}");
        assert_eq!(exact("./b.sh\r\nls\u{a0}-l a\tb"), "./b.sh\\u{d}\nls\\u{a0}-l a\tb");
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = serde_json::json!({"a": "x\u{202e}\u{9b}\u{e0001}\u{7f}é\n"}).to_string();
        let shown = json(&text);
        assert!(shown.is_ascii() || shown.contains('é'), "{shown}");
        assert!(!shown.contains('\u{202e}') && !shown.contains('\u{e0001}'));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(&text));
    }

    proptest! {
        #[test]
        fn what_is_approved_hides_nothing(text in any::<String>()) {
            for grapheme in exact(&text).graphemes(true) {
                prop_assert!(grapheme.width() > 0 || matches!(grapheme, "\n" | "\t"), "{grapheme:?}");
            }
        }

        #[test]
        fn nothing_that_controls_a_terminal_gets_through(text in any::<String>()) {
            for character in clean(&text).chars() {
                prop_assert!(matches!(character, '\n' | '\t') || !character.is_control());
                let picture = character == '\u{fe0f}';
                prop_assert!(picture || !is_deceptive(character));
            }
        }
    }
}
