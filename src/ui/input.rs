//! The box that is typed into: text, cursor, history.

use std::collections::HashSet;

use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};
use unicode_width::UnicodeWidthStr;

/// A paste of more lines is shown folded.
const FOLD_LINES: usize = 10;
/// And so is a longer one, bytes.
const FOLD_BYTES: usize = 4000;

#[derive(Debug, Default)]
pub struct Input {
    text: String,
    /// A byte offset, at the edge of a grapheme.
    cursor: usize,
    history: Vec<String>,
    /// Where in the history we are, and what was being written before.
    recalled: Option<(usize, String)>,
    /// Long pastes: what stands for each in the text.
    pastes: Vec<(String, String)>,
    /// What was deleted last, to be put back.
    deleted: String,
    /// What is looked for in the history, and which hit is shown.
    search: Option<(String, usize)>,
    /// What was being written before that.
    draft: String,
    /// It begins with something that was pasted, or was a prompt before: it is no command.
    brought: bool,
    /// Such texts in the history.
    brought_before: HashSet<String>,
}

impl Input {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether something was pasted into it.
    pub fn has_pastes(&self) -> bool {
        self.pastes.iter().any(|(label, _)| self.text.contains(label.as_str()))
    }

    /// Whether it begins with something that was not typed here.
    pub fn is_brought(&self) -> bool {
        self.brought
    }

    /// Replaces everything by what was a prompt before.
    pub fn bring_back(&mut self, text: String) {
        self.set(text);
        self.brought = true;
    }

    /// Earlier prompts, the newest last: none of them was a command.
    pub fn remember(&mut self, history: Vec<String>) {
        self.brought_before.extend(history.iter().cloned());
        self.history = history;
    }

    /// What is looked for, while it is.
    pub fn searching(&self) -> Option<&str> {
        self.search.as_ref().map(|(wanted, _)| wanted.as_str())
    }

    /// Begins to look for an earlier prompt, or goes on to the one before.
    pub fn search(&mut self) {
        match &mut self.search {
            Some((_, hit)) => *hit += 1,
            None => {
                self.search = Some((String::new(), 0));
                self.draft.clone_from(&self.text);
            }
        }
        self.show_hit();
    }

    /// Changes what is looked for; an empty change takes the last letter away.
    pub fn search_for(&mut self, more: &str) {
        if let Some((wanted, hit)) = &mut self.search {
            match more {
                "" => drop(wanted.pop()),
                more => wanted.push_str(more),
            }
            *hit = 0;
        }
        self.show_hit();
    }

    /// Ends the search with what was being written before.
    pub fn leave_search(&mut self) {
        if self.search.take().is_some() {
            let draft = std::mem::take(&mut self.draft);
            self.set(draft);
        }
    }

    /// Ends the search with what it shows.
    pub fn end_search(&mut self) {
        self.search = None;
    }

    fn show_hit(&mut self) {
        let Some((wanted, hit)) = &self.search else { return };
        let wanted = wanted.to_lowercase();
        let fits = |text: &&String| !wanted.is_empty() && text.to_lowercase().contains(&wanted);
        if let Some(found) = self.history.iter().rev().filter(fits).nth(*hit).cloned() {
            self.set(found);
        }
    }

    /// The word before the cursor.
    pub fn word(&self) -> &str {
        self.text[..self.cursor].rsplit(char::is_whitespace).next().unwrap_or_default()
    }

    /// Puts another word in its place.
    pub fn replace_word(&mut self, word: &str) {
        let begin = self.cursor - self.word().len();
        self.text.replace_range(begin..self.cursor, word);
        self.cursor = begin + word.len();
    }

    /// Replaces everything.
    pub fn set(&mut self, text: impl Into<String>) {
        self.text = text.into();
        self.brought = self.brought_before.contains(&self.text);
        self.cursor = self.text.len();
    }

    /// Takes the text, with its pastes unfolded, into the history.
    pub fn take(&mut self) -> String {
        let mut text = std::mem::take(&mut self.text);
        for (label, paste) in std::mem::take(&mut self.pastes) {
            text = text.replacen(&label, &paste, 1);
        }
        self.cursor = 0;
        self.recalled = None;
        if std::mem::take(&mut self.brought) {
            self.brought_before.insert(text.clone());
        }
        if !text.trim().is_empty() && self.history.last() != Some(&text) {
            self.history.push(text.clone());
        }
        text
    }

    pub fn insert(&mut self, text: &str) {
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    /// Pasted text is never a key press; a long one is folded.
    pub fn paste(&mut self, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        self.brought |= self.text[..self.cursor].trim().is_empty();
        let lines = text.lines().count();
        if lines <= FOLD_LINES && text.len() <= FOLD_BYTES {
            return self.insert(&text);
        }
        let size = match lines {
            0..=FOLD_LINES => format!("{} kB", text.len() / 1000),
            lines => format!("{lines} lines"),
        };
        let label = format!("[pasted {size} #{}]", self.pastes.len() + 1);
        self.insert(&label);
        self.pastes.push((label, text));
    }

    fn step(&self, forward: bool) -> usize {
        let mut cursor = GraphemeCursor::new(self.cursor, self.text.len(), true);
        let moved = match forward {
            true => cursor.next_boundary(&self.text, 0),
            false => cursor.prev_boundary(&self.text, 0),
        };
        moved.ok().flatten().unwrap_or(self.cursor)
    }

    pub fn left(&mut self) {
        self.cursor = self.step(false);
    }

    pub fn right(&mut self) {
        self.cursor = self.step(true);
    }

    pub fn home(&mut self) {
        self.cursor = self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1);
    }

    pub fn end(&mut self) {
        self.cursor += self.text[self.cursor..].find('\n').unwrap_or(self.text.len() - self.cursor);
    }

    pub fn word_left(&mut self) {
        let before = &self.text[..self.cursor];
        let word =
            before.split_word_bound_indices().rev().find(|(_, word)| !word.trim().is_empty());
        self.cursor = word.map_or(0, |(at, _)| at);
    }

    pub fn word_right(&mut self) {
        let after = &self.text[self.cursor..];
        let word = after.split_word_bound_indices().find(|(_, word)| !word.trim().is_empty());
        self.cursor += word.map_or(after.len(), |(at, word)| at + word.len());
    }

    pub fn backspace(&mut self) {
        let to = self.cursor;
        self.left();
        self.remove(self.cursor, to);
    }

    pub fn delete(&mut self) {
        self.remove(self.cursor, self.step(true));
    }

    /// Takes a part out. What is written into an empty line after that was typed here.
    fn remove(&mut self, from: usize, to: usize) -> String {
        let removed = self.text.drain(from..to).collect();
        self.cursor = from;
        self.brought &= !self.text.is_empty();
        removed
    }

    pub fn delete_word(&mut self) {
        let to = self.cursor;
        self.word_left();
        self.cut(self.cursor, to);
    }

    pub fn delete_to_start(&mut self) {
        let to = self.cursor;
        self.home();
        self.cut(self.cursor, to);
    }

    pub fn delete_to_end(&mut self) {
        let from = self.cursor;
        self.end();
        self.cut(from, self.cursor);
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.deleted = self.remove(from, to);
    }

    /// Puts back what was deleted last.
    pub fn put_back(&mut self) {
        let deleted = self.deleted.clone();
        self.brought |= self.text.is_empty();
        self.insert(&deleted);
    }

    /// One line up, or back in the history from the first line.
    pub fn up(&mut self) {
        let line = self.text[..self.cursor].rfind('\n');
        let Some(end) = line else { return self.recall(true) };
        let column = self.text[end + 1..self.cursor].width();
        let start = self.text[..end].rfind('\n').map_or(0, |at| at + 1);
        self.cursor = start + at_column(&self.text[start..end], column);
    }

    /// One line down, or forward in the history from the last line.
    pub fn down(&mut self) {
        let start = self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1);
        let column = self.text[start..self.cursor].width();
        let Some(end) = self.text[self.cursor..].find('\n') else { return self.recall(false) };
        let next = self.cursor + end + 1;
        let line = self.text[next..].split('\n').next().unwrap_or_default();
        self.cursor = next + at_column(line, column);
    }

    fn recall(&mut self, back: bool) {
        let (at, draft) = match self.recalled.take() {
            Some(recalled) => recalled,
            None if back => (self.history.len(), self.text.clone()),
            None => return,
        };
        let at = if back { at.saturating_sub(1) } else { at + 1 };
        match self.history.get(at).cloned() {
            Some(text) => {
                self.set(text);
                self.recalled = Some((at, draft));
            }
            None => self.set(draft),
        }
    }

    /// The lines on a screen of this width, and where the cursor is: row and column.
    pub fn layout(&self, width: u16) -> (Vec<String>, (u16, u16)) {
        let width = usize::from(width.max(2));
        let mut lines = vec![String::new()];
        let mut used = 0;
        let mut cursor = (0, 0);
        for (at, grapheme) in self.text.grapheme_indices(true) {
            let wide = grapheme.width();
            if grapheme != "\n" && used + wide > width {
                lines.push(String::new());
                used = 0;
            }
            if at == self.cursor {
                cursor = (lines.len() - 1, used);
            }
            if grapheme == "\n" {
                lines.push(String::new());
                used = 0;
            } else if let Some(line) = lines.last_mut() {
                line.push_str(grapheme);
                used += wide;
            }
        }
        if self.cursor == self.text.len() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            cursor = (lines.len() - 1, used);
        }
        (lines, (cursor.0 as u16, cursor.1 as u16))
    }
}

/// The byte offset of a column in a line.
fn at_column(line: &str, column: usize) -> usize {
    let mut used = 0;
    for (at, grapheme) in line.grapheme_indices(true) {
        if used >= column {
            return at;
        }
        used += grapheme.width();
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(text: &str) -> Input {
        let mut input = Input::default();
        input.insert(text);
        input
    }

    #[test]
    fn words_lines_and_wide_characters_are_moved_over_whole() {
        let mut input = typed("one 世界 e\u{301}x\nsecond");
        input.up();
        assert_eq!(input.layout(40).1, (0, 6));
        input.end();
        input.left();
        input.backspace();
        assert_eq!(input.text(), "one 世界 x\nsecond");
        input.word_left();
        input.delete_to_start();
        assert_eq!(input.text(), "界 x\nsecond");
        input.end();
        input.delete_word();
        assert_eq!(input.text(), "界 \nsecond");
        input.put_back();
        assert_eq!(input.text(), "界 x\nsecond");
    }

    #[test]
    fn history_comes_back_and_so_does_the_draft() {
        let mut input = typed("first");
        input.take();
        input.insert("second");
        input.take();
        input.insert("draft");
        input.up();
        input.up();
        assert_eq!(input.text(), "first");
        input.down();
        input.down();
        assert_eq!(input.text(), "draft");
    }

    #[test]
    fn earlier_prompts_are_found_and_words_replaced() {
        let mut input = Input::default();
        input.remember(vec!["fix the Parser".into(), "run tests".into(), "parse again".into()]);
        input.search();
        input.search_for("pars");
        assert_eq!((input.text(), input.searching()), ("parse again", Some("pars")));
        input.search();
        assert_eq!(input.text(), "fix the Parser");
        input.end_search();
        input.set("look at @ma");
        assert_eq!(input.word(), "@ma");
        input.replace_word("@src/main.rs ");
        assert_eq!(input.text(), "look at @src/main.rs ");
    }

    #[test]
    fn a_long_paste_is_folded_and_sent_whole() {
        let mut input = typed("see: ");
        let long = "line\n".repeat(30);
        input.paste(&long);
        assert_eq!(input.text(), "see: [pasted 30 lines #1]");
        assert_eq!(input.take(), format!("see: {long}"));
        let wide = "x".repeat(10_000_000);
        input.paste(&wide);
        assert_eq!(input.text(), "[pasted 10000 kB #1]");
        assert_eq!(input.take(), wide);
    }

    proptest! {
        #[test]
        fn any_keys_leave_the_cursor_at_a_boundary(keys in prop::collection::vec(0..14_u8, 0..60), width in 2..20_u16) {
            let mut input = Input::default();
            for key in keys {
                match key {
                    0 => input.insert("a"),
                    1 => input.insert("世"),
                    2 => input.insert("\n"),
                    3 => input.insert("e\u{301}"),
                    4 => input.left(),
                    5 => input.right(),
                    6 => input.up(),
                    7 => input.down(),
                    8 => input.home(),
                    9 => input.end(),
                    10 => input.backspace(),
                    11 => input.delete(),
                    12 => input.delete_word(),
                    _ => input.word_right(),
                }
                prop_assert!(input.text.is_char_boundary(input.cursor));
                let (lines, (row, column)) = input.layout(width);
                prop_assert!(usize::from(row) < lines.len() && column <= width);
            }
        }
    }
}
