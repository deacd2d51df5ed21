//! Styled text in lines of a given width.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Breaks `spans` at spaces so that no line is wider than `width`; a word that is wider is cut. `first`
/// and `rest` stand before the first and the other lines.
pub fn wrap(
    spans: &[Span<'_>],
    width: u16,
    first: &Span<'static>,
    rest: &Span<'static>,
) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut line = Builder::new(first, width);
    for span in spans {
        for word in span.content.replace('\t', "    ").split_word_bounds() {
            if word == "\n" {
                lines.push(line.finish());
                line = Builder::new(rest, width);
                continue;
            }
            if line.fits(word) {
                line.push(word, span.style);
                continue;
            }
            if word.trim().is_empty() {
                // The space at which a line is broken is not shown.
                lines.push(line.finish());
                line = Builder::new(rest, width);
                continue;
            }
            if !line.is_empty() {
                lines.push(line.finish());
                line = Builder::new(rest, width);
            }
            for grapheme in word.graphemes(true) {
                if !line.fits(grapheme) && !line.is_empty() {
                    lines.push(line.finish());
                    line = Builder::new(rest, width);
                }
                line.push(grapheme, span.style);
            }
        }
    }
    lines.push(line.finish());
    lines
}

struct Builder {
    spans: Vec<Span<'static>>,
    used: usize,
    width: usize,
    empty: bool,
}

impl Builder {
    fn new(prefix: &Span<'static>, width: u16) -> Builder {
        let used = prefix.content.width();
        let spans = if prefix.content.is_empty() { Vec::new() } else { vec![prefix.clone()] };
        // At least one character fits, however narrow the screen is.
        Builder { spans, used, width: usize::from(width).max(used + 2), empty: true }
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
        match self.spans.last_mut().filter(|last| last.style == style) {
            Some(last) => last.content.to_mut().push_str(text),
            None => self.spans.push(Span::styled(text.to_owned(), style)),
        }
    }

    fn finish(self) -> Line<'static> {
        Line::from(self.spans)
    }
}

/// Lines of plain text, each wrapped.
pub fn plain(text: &str, style: Style, width: u16, prefix: &Span<'static>) -> Vec<Line<'static>> {
    let line = |line: &str| {
        wrap(&[Span::styled(line.replace('\t', "    "), style)], width, prefix, prefix)
    };
    text.lines().flat_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(lines: &[Line]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
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
            prop_assert!(lines.iter().all(|line| line.width() <= usize::from(width)));
        }
    }
}
