//! The conversation: its entries as rows, the part of it that is on the screen, and what is marked in it.
//!
//! Places are counted from entries, not from either end: they stay where they are while text is added
//! below, and when the window changes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use unicode_width::UnicodeWidthStr;

use super::state::{Entry, Intent, Kind, State};
use super::wrap::Row;

/// Rows of entries that far from the screen are made again when they are wanted.
const KEPT: usize = 60;
/// Rows that one step of the wheel scrolls.
const WHEEL: isize = 3;

/// A row of the conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    entry: usize,
    row: usize,
}

/// A row and a column.
type Spot = (Place, usize);

/// The rows of an entry as they were made last.
#[derive(Debug)]
pub(super) struct Drawn {
    width: u16,
    gap: bool,
    height: usize,
    rows: Option<Rc<Vec<Row>>>,
}

/// Words that are looked for.
#[derive(Debug, Default)]
pub(super) struct Find {
    pub wanted: String,
    hit: Option<Place>,
    /// There are no more of them that way.
    pub missed: bool,
}

impl Find {
    pub fn new(words: &str) -> Find {
        Find { wanted: words.to_owned(), ..Find::default() }
    }
}

/// The part of the conversation that is on the screen.
#[derive(Debug, Default)]
pub(super) struct Viewport {
    /// Its first row; `None` follows the end.
    top: Cell<Option<Place>>,
    area: Cell<Rect>,
    /// What each row of the screen shows.
    shown: RefCell<Vec<Place>>,
    /// Where marking with the mouse began, and where it is.
    marked: Option<(Spot, Spot)>,
    pub find: Option<Find>,
}

impl Viewport {
    pub fn is_scrolled(&self) -> bool {
        self.top.get().is_some()
    }

    pub fn to_end(&self) {
        self.top.set(None);
    }

    pub fn unmark(&mut self) {
        self.marked = None;
    }

    pub fn reset(&mut self) {
        *self = Viewport { area: self.area.clone(), ..Viewport::default() };
    }
}

impl State {
    fn rows(&self, at: usize) -> Rc<Vec<Row>> {
        let (width, gap) = (self.view.area.get().width.max(1), self.gap_after(at));
        let entry = &self.entries[at];
        let mut drawn = entry.drawn.borrow_mut();
        if let Some(Drawn { width: of, gap: with, rows: Some(rows), .. }) = drawn.as_ref()
            && (*of, *with) == (width, gap)
        {
            return rows.clone();
        }
        let mut rows = self.fresh_rows(&entry.kind, width);
        if gap {
            rows.push(Row::default());
        }
        let (height, rows) = (rows.len(), Rc::new(rows));
        *drawn = Some(Drawn { width, gap, height, rows: Some(rows.clone()) });
        rows
    }

    fn height(&self, at: usize) -> usize {
        let wanted = (self.view.area.get().width.max(1), self.gap_after(at));
        match self.entries[at].drawn.borrow().as_ref() {
            Some(drawn) if (drawn.width, drawn.gap) == wanted => return drawn.height,
            _ => {}
        }
        self.rows(at).len()
    }

    /// Calls stand close together; everything else has a row of its own below it.
    fn gap_after(&self, at: usize) -> bool {
        let is_tool = |entry: &Entry| matches!(entry.kind, Kind::Tool(_));
        let next = self.entries[at + 1..].iter().find(|entry| !self.is_hidden(&entry.kind));
        match (is_tool(&self.entries[at]), next.map(is_tool)) {
            (true, next) => next == Some(false),
            _ => !self.is_hidden(&self.entries[at].kind),
        }
    }

    /// Thinking that is not wanted, and what is nothing but blanks.
    pub(super) fn is_hidden(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Answer(text) | Kind::Aside(text) => text.trim().is_empty(),
            Kind::Reasoning(text) => self.hide_reasoning || text.trim().is_empty(),
            _ => false,
        }
    }

    fn up(&self, mut place: Place, mut rows: usize) -> Place {
        while rows > place.row {
            rows -= place.row;
            if place.entry == 0 {
                return Place::default();
            }
            place.entry -= 1;
            place.row = self.height(place.entry);
        }
        place.row -= rows;
        place
    }

    fn down(&self, mut place: Place, mut rows: usize) -> Place {
        while place.entry < self.entries.len() {
            let left = self.height(place.entry).saturating_sub(place.row);
            if rows < left {
                place.row += rows;
                return place;
            }
            rows -= left;
            place = Place { entry: place.entry + 1, row: 0 };
        }
        place
    }

    /// The first row of the screen when it shows the end.
    fn last_top(&self) -> Place {
        let end = Place { entry: self.entries.len(), row: 0 };
        self.up(end, usize::from(self.view.area.get().height))
    }

    fn go_to(&self, place: Place) {
        let follows = place >= self.last_top();
        self.view.top.set(if follows { None } else { Some(place) });
    }

    /// Shows an entry from its beginning, if it is longer than the screen.
    pub(super) fn show_from(&self, entry: usize) {
        self.go_to(Place { entry, row: 0 });
    }

    /// Scrolls up, or down if it is negative.
    pub(super) fn scroll_by(&self, rows: isize) {
        let top = self.view.top.get().unwrap_or_else(|| self.last_top());
        let by = rows.unsigned_abs();
        self.go_to(if rows > 0 { self.up(top, by) } else { self.down(top, by) });
    }

    pub(super) fn scroll_page(&self, up: bool) {
        let page = self.view.area.get().height.saturating_sub(2).max(1) as isize;
        self.scroll_by(if up { page } else { -page });
    }

    /// Makes every row anew, for another look.
    pub(super) fn forget_rows(&mut self) {
        self.view.unmark();
        for entry in &mut self.entries {
            entry.changed();
        }
    }

    /// Goes to the next place of the words that are looked for: an older one, or a newer one.
    pub(super) fn find_next(&mut self, older: bool) {
        let Some(find) = &self.view.find else { return };
        let wanted = find.wanted.to_ascii_lowercase();
        let end = Place { entry: self.entries.len(), row: 0 };
        let from = find.hit.unwrap_or(end);
        let hits_of = |at: usize| -> Vec<Place> {
            if wanted.is_empty() || !self.entries[at].kind.mentions(&wanted) {
                return Vec::new();
            }
            let rows = hits(&self.rows(at), &wanted);
            rows.into_iter().map(|row| Place { entry: at, row }).collect()
        };
        let hit = if older {
            let last = from.entry.min(self.entries.len().saturating_sub(1));
            let mut all = (0..=last).rev().filter(|at| *at < self.entries.len());
            all.find_map(|at| hits_of(at).into_iter().rev().find(|place| *place < from))
        } else {
            let mut all = from.entry..self.entries.len();
            all.find_map(|at| hits_of(at).into_iter().find(|place| *place > from))
        };
        if let Some(hit) = hit {
            let middle = usize::from(self.view.area.get().height / 2);
            self.go_to(self.up(hit, middle));
        }
        if let Some(find) = &mut self.view.find {
            find.missed = hit.is_none() && !wanted.is_empty();
            find.hit = hit.or(find.hit);
        }
    }

    /// Looks for other words, from the end.
    pub(super) fn find_words(&mut self, change: impl FnOnce(&mut String)) {
        if let Some(find) = &mut self.view.find {
            change(&mut find.wanted);
            find.hit = None;
        }
        self.find_next(true);
    }

    /// The wheel scrolls, dragging marks, a click opens and closes.
    pub fn mouse(&mut self, mouse: MouseEvent) -> Option<Intent> {
        let area = self.view.area.get();
        let spot = self.spot(mouse.column, mouse.row);
        match mouse.kind {
            MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
                let up = mouse.kind == MouseEventKind::ScrollUp;
                match self.list() {
                    Some(list) => list.step(if up { -1 } else { 1 }),
                    None => self.scroll_by(if up { WHEEL } else { -WHEEL }),
                }
            }
            MouseEventKind::Down(MouseButton::Left) => {
                let inside = area.contains(Position::new(mouse.column, mouse.row));
                self.view.marked = spot.filter(|_| inside).map(|spot| (spot, spot));
            }
            MouseEventKind::Drag(MouseButton::Left) => {
                // At an edge it goes on beyond it.
                if let Some(((anchor, _), _)) = self.view.marked {
                    let first = self.view.shown.borrow().first().copied();
                    if mouse.row <= area.y && first != Some(anchor) {
                        self.scroll_by(1);
                    } else if mouse.row >= area.bottom() {
                        self.scroll_by(-1);
                    }
                }
                if let (Some((_, head)), Some(spot)) = (&mut self.view.marked, spot) {
                    *head = spot;
                }
            }
            MouseEventKind::Up(MouseButton::Left) => {
                let (anchor, head) = self.view.marked?;
                if anchor == head {
                    self.view.unmark();
                    self.toggle_tool(anchor.0.entry);
                    return None;
                }
                let text = self.marked_text();
                return (!text.trim().is_empty()).then_some(Intent::Copy(text));
            }
            _ => {}
        }
        None
    }

    /// What of the conversation is at a place of the screen, the nearest row if there is none.
    fn spot(&self, column: u16, row: u16) -> Option<Spot> {
        let (area, shown) = (self.view.area.get(), self.view.shown.borrow());
        let at = usize::from(row.saturating_sub(area.y)).min(shown.len().checked_sub(1)?);
        Some((shown[at], usize::from(column.saturating_sub(area.x))))
    }

    /// What is marked, from its first character to its last.
    fn marks(&self) -> Option<(Spot, Spot)> {
        let (anchor, head) = self.view.marked.filter(|(anchor, head)| anchor != head)?;
        Some(if anchor <= head { (anchor, head) } else { (head, anchor) })
    }

    /// Which columns of a row are marked.
    fn marked_columns(&self, place: Place) -> Option<(usize, usize)> {
        let (first, last) = self.marks()?;
        if place < first.0 || place > last.0 {
            return None;
        }
        // What is beyond the edge was not seen.
        let edge = usize::from(self.view.area.get().width);
        let from = if place == first.0 { first.1 } else { 0 };
        let to = if place == last.0 { last.1 + 1 } else { edge };
        Some((from, to))
    }

    /// The marked text: lines that were broken to fit are whole again, and signs at their edges are left
    /// out.
    fn marked_text(&self) -> String {
        let Some((first, last)) = self.marks() else { return String::new() };
        let mut text = String::new();
        for entry in first.0.entry..=last.0.entry.min(self.entries.len().saturating_sub(1)) {
            for (row, of) in self.rows(entry).iter().enumerate() {
                let Some((from, to)) = self.marked_columns(Place { entry, row }) else { continue };
                match of.glue {
                    Some(glue) => text.push_str(glue),
                    None => {
                        text.truncate(text.trim_end_matches(' ').len());
                        text.push('\n');
                    }
                }
                text.push_str(&of.text(from, to));
            }
        }
        text.trim_matches('\n').trim_end().to_owned()
    }
}

/// The rows on which the words begin.
fn hits(rows: &[Row], wanted: &str) -> Vec<usize> {
    let (mut text, mut starts) = (String::new(), Vec::new());
    for row in rows {
        text.push_str(row.glue.unwrap_or("\n"));
        starts.push(text.len());
        text.push_str(&row.text(0, usize::MAX));
    }
    text.make_ascii_lowercase();
    let row_of = |at: usize| starts.partition_point(|start| *start <= at).saturating_sub(1);
    let mut found: Vec<usize> = text.match_indices(wanted).map(|(at, _)| row_of(at)).collect();
    found.dedup();
    found
}

/// Draws the part of the conversation that is to be seen.
pub(super) fn draw(frame: &mut Frame, state: &State, area: Rect) {
    let view = &state.view;
    let before = view.area.replace(area);
    let top = view.top.get().and_then(|top| {
        // At another width the same text is on another row.
        let old = state.entries.get(top.entry)?.drawn.borrow().as_ref().map(|it| it.height);
        let (old, new) = (old.unwrap_or(1).max(1), state.height(top.entry));
        let row = if before.width == area.width { top.row } else { top.row * new / old };
        state.go_to(Place { row: row.min(new.saturating_sub(1)), ..top });
        view.top.get()
    });
    let mut place = top.unwrap_or_else(|| state.last_top());
    let first = place.entry;
    let (mut lines, mut shown) = (Vec::new(), Vec::new());
    while place.entry < state.entries.len() && lines.len() < usize::from(area.height) {
        let rows = state.rows(place.entry);
        for (at, row) in rows.iter().enumerate().skip(place.row) {
            if lines.len() == usize::from(area.height) {
                break;
            }
            lines.push(row.line.clone());
            shown.push(Place { entry: place.entry, row: at });
        }
        place = Place { entry: place.entry + 1, row: 0 };
    }
    for (at, line) in lines.iter().enumerate() {
        let row = Rect { y: area.y + at as u16, height: 1, ..area };
        frame.render_widget(Paragraph::new(line.clone()), row);
        mark(frame, state, row, line, shown[at]);
    }
    *view.shown.borrow_mut() = shown;
    // Only what is near is kept ready.
    let near = first.saturating_sub(KEPT)..place.entry + KEPT;
    let far = state.entries.iter().enumerate().filter(|(at, _)| !near.contains(at));
    for (_, entry) in far {
        if let Some(drawn) = entry.drawn.borrow_mut().as_mut() {
            drawn.rows = None;
        }
    }
}

/// Shows what is marked, and what is looked for, in a row.
fn mark(frame: &mut Frame, state: &State, row: Rect, line: &Line, place: Place) {
    let mut paint = |from: usize, to: usize, style: Style| {
        let width = usize::from(row.width);
        let (from, to) = (from.min(width), to.min(width));
        let part = Rect { x: row.x + from as u16, width: (to - from) as u16, ..row };
        frame.buffer_mut().set_style(part, style);
    };
    if let Some((from, to)) = state.marked_columns(place) {
        let end = line.width();
        paint(from.min(end), to.min(end), Style::new().add_modifier(Modifier::REVERSED));
    }
    let Some(find) = state.view.find.as_ref().filter(|find| !find.wanted.is_empty()) else {
        return;
    };
    let text = line.to_string().to_ascii_lowercase();
    for (at, found) in text.match_indices(&find.wanted.to_ascii_lowercase()) {
        let from = text[..at].width();
        paint(from, from + found.width(), state.theme.found);
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyModifiers;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::view::tests::{called, conversation, ended, screen};
    use super::*;
    use crate::agent::{AgentEvent, ToolStatus};

    fn mouse(state: &mut State, kind: MouseEventKind, column: u16, row: u16) -> Option<Intent> {
        state.mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
    }

    fn marked(state: &mut State, from: (u16, u16), to: (u16, u16)) -> Option<Intent> {
        let left = MouseButton::Left;
        mouse(state, MouseEventKind::Down(left), from.0, from.1);
        mouse(state, MouseEventKind::Drag(left), to.0, to.1);
        mouse(state, MouseEventKind::Up(left), to.0, to.1)
    }

    /// The row of the screen that has these words.
    fn row_of(shown: &str, words: &str) -> u16 {
        let at = shown.lines().position(|line| line.contains(words));
        at.unwrap_or_else(|| panic!("no {words} in\n{shown}")) as u16
    }

    #[test]
    fn a_long_conversation_scrolls_and_small_screens_do_not_panic() {
        let mut state = State::default();
        for number in 0..2_000 {
            state.on(AgentEvent::Notice { text: format!("line {number}") });
        }
        assert!(screen(&state, 60, 12).contains("line 1999"));
        state.scroll_by(200);
        let shown = screen(&state, 60, 12);
        assert!(!shown.contains("line 1999") && shown.contains("line 18"), "{shown}");
        state.scroll_by(isize::MAX);
        assert!(screen(&state, 60, 12).contains("line 0"));
        for (width, height) in [(1, 1), (3, 2), (10, 5), (200, 3)] {
            screen(&conversation(), width, height);
        }
    }

    #[test]
    fn what_is_marked_is_copied_as_it_was_said() {
        let mut state = State::default();
        let said = "one two three four five six seven eight nine ten eleven twelve thirteen";
        state.said(said);
        state.on(AgentEvent::Text { text: "```\nfn main() {}\n```\n\nlast words".into() });
        let shown = screen(&state, 40, 20);
        let (first, last) = (row_of(&shown, "▌ one"), row_of(&shown, "thirteen"));
        assert!(last > first);
        let copied = marked(&mut state, (0, first), (39, last));
        assert_eq!(copied, Some(Intent::Copy(said.into())));
        // The direction does not matter, and the sign at the edge is no part of it.
        let copied = marked(&mut state, (8, first), (2, first));
        assert_eq!(copied, Some(Intent::Copy("one two".into())));
        let code = row_of(&shown, "fn main");
        let copied = marked(&mut state, (0, code), (39, row_of(&shown, "last words")));
        assert_eq!(copied, Some(Intent::Copy("fn main() {}\n\nlast words".into())));
        // It is seen, and it stays where it is when something is added.
        marked(&mut state, (2, first), (4, first));
        state.on(AgentEvent::Notice { text: "new\n".repeat(30) });
        assert_eq!(state.marked_text(), "one");
        assert!(!screen(&state, 40, 20).contains("▌ one"));
    }

    #[test]
    fn a_click_opens_a_call_with_what_is_known_of_it() {
        let mut state = State::default();
        state.facts.rung = "native".into();
        called(&mut state, "bash", json!({"command": "make"}));
        let output: String = (0..600).map(|line| format!("line {line}\n")).collect();
        ended(&mut state, ToolStatus::Ok, &format!("{output}(exit 0)"));
        let shown = screen(&state, 80, 20);
        assert!(shown.contains("● bash make  2.3 s") && !shown.contains("line 1"), "{shown}");
        let row = row_of(&shown, "bash make");
        marked(&mut state, (3, row), (3, row));
        state.show_from(0);
        let shown = screen(&state, 80, 20);
        for words in ["exit 0 · 2.3 s · native sandbox", "let through: for a test", "line 1"] {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
        state.view.to_end();
        assert!(screen(&state, 80, 20).contains("line 599"));
        assert!(screen(&state, 80, 400).contains("… 201 lines"));
    }

    #[test]
    fn words_are_found_across_rows_and_shown() {
        let mut state = State::default();
        for number in 0..300 {
            state.on(AgentEvent::Notice { text: format!("entry {number}") });
        }
        state.said("here is the Needle in a haystack that is broken over rows");
        for number in 300..400 {
            state.on(AgentEvent::Notice { text: format!("entry {number}") });
        }
        screen(&state, 40, 12);
        state.find("needle in a haystack that is");
        let shown = screen(&state, 40, 12);
        assert!(shown.contains("here is the Needle") && shown.contains("find: needle"), "{shown}");
        state.find("entry 77");
        assert!(screen(&state, 40, 12).contains("! entry 77"));
        state.find("entry 3");
        assert!(screen(&state, 40, 12).contains("! entry 399"));
        state.find_next(true);
        state.find_next(true);
        assert!(screen(&state, 40, 12).contains("! entry 397"));
        state.find_next(false);
        assert!(screen(&state, 40, 12).contains("! entry 398"));
        state.on(AgentEvent::Text { text: "The **last byte**, so\nto say.".into() });
        state.find("byte, so to");
        assert!(screen(&state, 40, 12).contains("The last byte, so to say."));
        state.find("nowhere");
        assert!(screen(&state, 40, 12).contains("no more"));
    }

    #[test]
    fn the_view_stays_where_it_is_while_text_comes() {
        let mut state = State::default();
        for number in 0..100 {
            state.on(AgentEvent::Notice { text: format!("entry {number}") });
        }
        screen(&state, 40, 12);
        state.scroll_by(60);
        let before = screen(&state, 40, 12);
        state.on(AgentEvent::Text { text: "more\n\n".repeat(50) });
        let after = screen(&state, 40, 12);
        assert_eq!(before.lines().next(), after.lines().next());
        // And when the window becomes narrower.
        assert!(screen(&state, 30, 12).contains(before.lines().next().unwrap()));
        state.scroll_by(-1000);
        assert!(screen(&state, 40, 12).contains("more") && !state.view.is_scrolled());
    }

    #[test]
    fn a_long_answer_is_parted_where_a_block_ends() {
        let mut state = State::default();
        let block = "Some words.\n\n- a list\n\n  that goes on\n\n```\ncode\n\nmore code\n```\n\n";
        let whole = block.repeat(2000);
        for piece in whole.as_bytes().chunks(7) {
            state.on(AgentEvent::Text { text: String::from_utf8(piece.to_vec()).unwrap() });
        }
        assert!(state.entries.len() > 5);
        assert_eq!(state.last_answer().as_deref(), Some(whole.as_str()));
        for entry in &state.entries[1..] {
            let Kind::Answer(text) = &entry.kind else { panic!("{entry:?}") };
            let starts = ["Some words", "- a list", "```\ncode"];
            assert!(starts.iter().any(|start| text.starts_with(start)), "{:?}", &text[..20]);
        }
        // One line without an end.
        let mut state = State::default();
        state.on(AgentEvent::Text { text: "世".repeat(1_000_000) });
        assert!(state.entries.len() > 20);
        assert!(screen(&state, 60, 20).contains("世 世 世"));
    }

    #[test]
    fn what_is_shown_meanwhile_does_not_break_an_answer() {
        let mut state = State::default();
        state.on(AgentEvent::Text { text: "```\nfn ma".into() });
        state.page("what is enforced");
        state.aside("It is blue.");
        state.on(AgentEvent::Text { text: "in() {}\n```\n".into() });
        assert_eq!(state.last_answer().as_deref(), Some("```\nfn main() {}\n```\n"));
        assert!(screen(&state, 40, 30).contains("    fn main() {}"));
        // After a prompt, and after a call, it is another one.
        state.said("And?");
        state.on(AgentEvent::Text { text: "So.".into() });
        assert_eq!(state.last_answer().as_deref(), Some("So."));
        let shown = screen(&state, 40, 30);
        assert!(row_of(&shown, "▌ And?") < row_of(&shown, "  So."));
        called(&mut state, "read", json!({"path": "x"}));
        state.on(AgentEvent::Text { text: "Next.".into() });
        assert_eq!(state.last_answer().as_deref(), Some("Next."));
    }

    #[test]
    fn a_place_inside_of_a_long_answer_stays_at_other_widths() {
        let mut state = State::default();
        let text: String =
            (0..80).map(|it| format!("Paragraph {it} {}\n\n", "word ".repeat(30))).collect();
        state.on(AgentEvent::Text { text });
        screen(&state, 60, 20);
        state.show_from(0);
        state.scroll_by(-120);
        let number = |shown: &str| -> usize {
            let (_, rest) = shown.split_once("Paragraph ").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        let before = number(&screen(&state, 60, 20));
        for width in [150, 40, 60] {
            let now = number(&screen(&state, width, 20));
            assert!(now.abs_diff(before) <= 2, "{before} became {now} at {width}");
        }
    }

    proptest! {
        /// Signs of the program are in the first column; nothing that a model says gets there.
        #[test]
        fn an_answer_never_has_the_first_column(
            text in "([#*_`>|\\[\\]()!~●✗⊘▌│a-z0-9 \n-]{0,12}|\n```\n|\n\\| a \\| b \\|\n\\|--\\|--\\|\n|世界){0,12}",
            width in 8..60_u16,
        ) {
            let state = State::default();
            state.view.area.set(Rect::new(0, 0, width, 20));
            for row in state.fresh_rows(&Kind::Answer(text), width) {
                let shown = row.line.to_string();
                prop_assert!(shown.is_empty() || shown.starts_with("  "), "{shown:?}");
            }
        }
    }
}
