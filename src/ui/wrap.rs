//! Styled text in rows of a given width.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// A row as it is shown, and what of it is text: for copying and for searching.
#[derive(Debug, Clone, Default)]
pub struct Row {
    pub line: Line<'static>,
    /// Columns at its left edge that are not part of the text: indents, bars, signs.
    pub margin: usize,
    /// It goes on with the line of the row above; this stood between the two.
    pub glue: Option<&'static str>,
}

impl From<Line<'static>> for Row {
    fn from(line: Line<'static>) -> Row {
        Row { line, margin: 0, glue: None }
    }
}

impl Row {
    /// Its text between two columns, without the margin.
    pub fn text(&self, from: usize, to: usize) -> String {
        let (mut text, mut column) = (String::new(), 0);
        let from = from.max(self.margin);
        for grapheme in self.line.spans.iter().flat_map(|span| span.content.graphemes(true)) {
            if (from..to).contains(&column) {
                text.push_str(grapheme);
            }
            column += grapheme.width();
        }
        text
    }

    /// The same row further to the right, behind `sign`.
    pub fn behind(mut self, sign: Span<'static>) -> Row {
        self.margin += sign.content.width();
        self.line.spans.insert(0, sign);
        self
    }
}

/// Breaks `spans` at spaces so that no row is wider than `width`; a word that is wider is cut. `first`
/// and `rest` stand before the first and the other rows.
pub fn wrap(
    spans: &[Span<'_>],
    width: u16,
    first: &Span<'static>,
    rest: &Span<'static>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = Builder::new(first, width, None);
    let mut next = |row: &mut Builder, glue| {
        let finished = std::mem::replace(row, Builder::new(rest, width, glue));
        rows.push(finished.finish());
    };
    for span in spans {
        for word in words(&span.content.replace('\t', "    ")) {
            if word == "\n" {
                next(&mut row, None);
            } else if row.fits(word) {
                row.push(word, span.style);
            } else if word.trim().is_empty() {
                // The space at which a line is broken is not shown.
                next(&mut row, Some(" "));
            } else {
                if !row.is_empty() {
                    next(&mut row, Some(""));
                }
                for grapheme in word.graphemes(true) {
                    if !row.fits(grapheme) && !row.is_empty() {
                        next(&mut row, Some(""));
                    }
                    row.push(grapheme, span.style);
                }
            }
        }
    }
    rows.push(row.finish());
    rows
}

/// The parts of a text that stay together: words as people write them, with their signs; the spaces
/// between them; and each wide character by itself, as those scripts are broken anywhere.
fn words(text: &str) -> Vec<&str> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Line,
        Space,
        Wide,
        Word,
    }
    let kind = |grapheme: &str| match grapheme {
        "\n" => Kind::Line,
        _ if grapheme.trim().is_empty() => Kind::Space,
        _ if grapheme.width() > 1 => Kind::Wide,
        _ => Kind::Word,
    };
    let (mut words, mut begin, mut before) = (Vec::new(), 0, None);
    for (at, grapheme) in text.grapheme_indices(true) {
        let now = kind(grapheme);
        let goes_on = before == Some(now) && matches!(now, Kind::Space | Kind::Word);
        if !goes_on && at > begin {
            words.push(&text[begin..at]);
            begin = at;
        }
        before = Some(now);
    }
    if begin < text.len() {
        words.push(&text[begin..]);
    }
    words
}

struct Builder {
    row: Row,
    used: usize,
    width: usize,
    empty: bool,
}

impl Builder {
    fn new(prefix: &Span<'static>, width: u16, glue: Option<&'static str>) -> Builder {
        let used = prefix.content.width();
        let spans = if prefix.content.is_empty() { Vec::new() } else { vec![prefix.clone()] };
        // A bullet or a number is text; what only sets it off is not.
        let sets_off = prefix.content.chars().all(|sign| " ▌┆│┃╎!↪".contains(sign));
        let margin = if sets_off { used } else { 0 };
        let row = Row { line: Line::from(spans), margin, glue };
        // At least one character fits, however narrow the screen is.
        Builder { row, used, width: usize::from(width).max(used + 2), empty: true }
    }

    fn is_empty(&self) -> bool {
        self.empty
    }

    fn fits(&self, text: &str) -> bool {
        self.used + text.width() <= self.width
    }

    fn push(&mut self, text: &str, style: Style) {
        self.used += text.width();
        self.empty = false;
        let spans = &mut self.row.line.spans;
        // What stands before the text keeps to itself.
        let may_join = spans.len() > 1 || self.row.margin == 0;
        match spans.last_mut().filter(|last| may_join && last.style == style) {
            Some(last) => last.content.to_mut().push_str(text),
            None => spans.push(Span::styled(text.to_owned(), style)),
        }
    }

    fn finish(self) -> Row {
        self.row
    }
}

/// Lines of plain text, each wrapped.
pub fn plain(text: &str, style: Style, width: u16, prefix: &Span<'static>) -> Vec<Row> {
    let line = |line: &str| {
        wrap(&[Span::styled(line.replace('\t', "    "), style)], width, prefix, prefix)
    };
    text.lines().flat_map(line).collect()
}

/// The lines of rows that are only shown.
pub fn lines(rows: Vec<Row>) -> Vec<Line<'static>> {
    rows.into_iter().map(|row| row.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| row.line.to_string()).collect()
    }

    /// What is copied of rows: lines that were broken are whole again.
    fn copied(rows: &[Row]) -> String {
        let piece = |row: &Row| {
            let text = row.text(0, usize::MAX);
            row.glue.map_or(format!("\n{text}"), |glue| format!("{glue}{text}"))
        };
        rows.iter().map(piece).collect::<String>().trim_start().to_owned()
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_are_cut() {
        let spans = [Span::raw("one two "), Span::raw("threefourfive 世界世界")];
        let lines = wrap(&spans, 8, &Span::raw("- "), &Span::raw("  "));
        assert_eq!(
            shown(&lines),
            ["- one ", "  two ", "  threef", "  ourfiv", "  e 世界", "  世界"]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_too_wide(text in "[a-z世 ]{0,80}", width in 4..40_u16) {
            let lines = wrap(&[Span::raw(text.clone())], width, &Span::raw(""), &Span::raw(""));
            let squeezed = |text: &str| text.replace(' ', "");
            prop_assert_eq!(squeezed(&shown(&lines).concat()), squeezed(&text));
            let copied = copied(&lines);
            prop_assert_eq!(copied.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
            prop_assert!(lines.iter().all(|row| row.line.width() <= usize::from(width)));
        }
    }
}
