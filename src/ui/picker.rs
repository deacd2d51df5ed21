//! A list to choose from by typing a part of what is wanted.

use std::cell::Cell;

use crossterm::event::KeyEvent;
use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

use super::bindings::{Action, typed};
use super::text;

/// Rows that PageUp and PageDown go.
const PAGE: isize = 10;

/// One thing to choose.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// What choosing it means.
    pub value: String,
    /// What it is called, and looked for by.
    pub label: String,
    /// What is said beside it.
    pub detail: String,
    /// What is shown of it while it is the chosen one.
    pub preview: String,
}

impl Item {
    /// Something that is called what it is.
    pub fn new(value: &str, detail: &str) -> Item {
        let (value, label) = (value.to_owned(), text::line(value, 200));
        Item { value, label, detail: text::line(detail, 300), preview: String::new() }
    }

    pub fn labelled(mut self, label: &str) -> Item {
        self.label = text::line(label, 200);
        self
    }

    pub fn with_preview(mut self, preview: &str) -> Item {
        self.preview = text::clean(preview);
        self
    }
}

/// The list, and where in it we are.
#[derive(Debug, Default)]
pub struct Picker {
    pub title: String,
    items: Vec<Item>,
    query: String,
    /// Only what the items are called is looked at, not what is said beside it.
    by_label: bool,
    /// Nothing is typed into it: only steps choose.
    fixed: bool,
    /// Those that fit, the best first.
    shown: Vec<usize>,
    chosen: usize,
    /// The first row of the preview that is shown; drawing keeps it within what there is.
    pub(super) preview_from: Cell<usize>,
}

/// What a key has made of a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Picked {
    /// Still open.
    Open,
    Closed,
    Value(String),
}

impl Picker {
    pub fn new(title: &str, items: Vec<Item>) -> Picker {
        let shown = (0..items.len()).collect();
        let title = text::line(title, 200);
        Picker { title, items, shown, ..Picker::default() }
    }

    /// Only what the items are called is looked at.
    pub fn by_label(self) -> Picker {
        Picker { by_label: true, ..self }
    }

    /// Nothing is typed into it: what was typed before it came chooses nothing.
    pub fn fixed(self) -> Picker {
        Picker { fixed: true, ..self }
    }

    /// Begins at the item of this value.
    pub fn at(mut self, value: &str) -> Picker {
        self.chosen = self.items.iter().position(|item| item.value == value).unwrap_or(0);
        self
    }

    pub fn query(&self) -> &str {
        &self.query
    }

    /// Those that fit, the best first.
    pub fn shown(&self) -> impl ExactSizeIterator<Item = &Item> {
        self.shown.iter().map(|at| &self.items[*at])
    }

    pub fn chosen_at(&self) -> usize {
        self.chosen
    }

    pub fn chosen(&self) -> Option<&Item> {
        self.shown.get(self.chosen).map(|at| &self.items[*at])
    }

    /// How many there are to choose from, and whether there is something to see of them.
    pub fn size(&self) -> (usize, bool) {
        (self.items.len(), self.items.iter().any(|item| !item.preview.is_empty()))
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Looks for something else.
    pub fn look_for(&mut self, query: &str) {
        if query != self.query {
            query.clone_into(&mut self.query);
            self.choose(0);
            self.filter();
        }
    }

    /// Other things to choose from, for the same query.
    pub fn replace(&mut self, items: Vec<Item>) {
        self.items = items;
        self.filter();
        self.chosen = self.chosen.min(self.shown.len().saturating_sub(1));
    }

    fn filter(&mut self) {
        let pattern = Pattern::parse(&self.query, CaseMatching::Smart, Normalization::Smart);
        let mut matcher = Matcher::new(Config::DEFAULT.match_paths());
        let mut buffer = Vec::new();
        let mut score = |item: &Item| {
            let detail = if self.by_label { "" } else { item.detail.as_str() };
            let text = format!("{} {detail}", item.label);
            pattern.score(Utf32Str::new(&text, &mut buffer), &mut matcher)
        };
        let mut scored: Vec<(u32, usize)> = self
            .items
            .iter()
            .enumerate()
            .filter_map(|(at, item)| score(item).map(|score| (score, at)))
            .collect();
        // Stable: what fits as well stays in its order. What is called just that is meant.
        scored.sort_by_key(|(score, at)| {
            (self.items[*at].label != self.query, std::cmp::Reverse(*score))
        });
        self.shown = scored.into_iter().map(|(_, at)| at).collect();
    }

    /// Goes through the list.
    pub fn step(&mut self, steps: isize) {
        let last = self.shown.len().saturating_sub(1);
        self.choose(self.chosen.saturating_add_signed(steps).min(last));
    }

    fn choose(&mut self, at: usize) {
        if self.chosen != at {
            self.preview_from.set(0);
        }
        self.chosen = at;
    }

    /// A page through the preview, or through the list if there is none.
    fn page(&mut self, down: bool) {
        let steps = if down { PAGE } else { -PAGE };
        match self.chosen().is_some_and(|item| !item.preview.is_empty()) {
            true => {
                self.preview_from.set(self.preview_from.get().saturating_add_signed(steps));
            }
            false => self.step(steps),
        }
    }

    /// Takes a key while the list has them.
    pub fn key(&mut self, key: KeyEvent, action: Option<Action>) -> Picked {
        if self.fixed && typed(key).is_some() {
            return Picked::Open;
        }
        let mut query = self.query.clone();
        match action {
            Some(Action::Interrupt | Action::Cancel | Action::Leave) => return Picked::Closed,
            Some(Action::Send | Action::Complete) => {
                let chosen = self.chosen().map(|item| item.value.clone());
                return chosen.map_or(Picked::Open, Picked::Value);
            }
            Some(Action::Up) => self.step(-1),
            Some(Action::Down) => self.step(1),
            Some(Action::PageUp) => self.page(false),
            Some(Action::PageDown) => self.page(true),
            Some(Action::DeleteToStart) => query.clear(),
            Some(Action::Backspace) => drop(query.pop()),
            _ => query.extend(typed(key)),
        }
        self.look_for(&query);
        Picked::Open
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyCode;

    use super::*;

    #[test]
    fn what_fits_best_is_first_and_what_does_not_fit_is_left_out() {
        let files = ["src/ui/markdown.rs", "src/main.rs", "README.md", "src/model/mod.rs"];
        let mut picker = Picker::new("", files.iter().map(|file| Item::new(file, "")).collect());
        picker.look_for("main");
        assert_eq!(picker.chosen().unwrap().value, "src/main.rs");
        picker.look_for("smm");
        assert!(picker.shown().any(|item| item.value == "src/model/mod.rs"));
        assert!(picker.shown().all(|item| item.value != "README.md"));
        picker.look_for("zzz");
        assert!(picker.is_empty() && picker.chosen().is_none());
        assert_eq!(picker.key(KeyCode::Enter.into(), Some(Action::Send)), Picked::Open);
        picker.look_for("");
        picker.step(100);
        assert_eq!(picker.chosen().unwrap().value, "src/model/mod.rs");
        picker.step(-1);
        let picked = picker.key(KeyCode::Enter.into(), Some(Action::Send));
        assert_eq!(picked, Picked::Value("README.md".into()));
    }
}
