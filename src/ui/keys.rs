//! What keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::commands;
use super::state::{Intent, State};
use crate::agent::Verdict;

impl State {
    /// Takes a key; says what the user wants, if that is clear by now.
    pub fn key(&mut self, key: KeyEvent) -> Option<Intent> {
        let armed = std::mem::take(&mut self.armed_quit);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return self.cancel(armed);
        }
        if !self.questions.is_empty() && !self.denying {
            let page = self.question_rows.get().saturating_sub(1).clamp(1, 1_000) as isize;
            match key.code {
                KeyCode::Esc => return Some(Intent::Cancel),
                KeyCode::PageUp => return self.scroll_question(-page),
                KeyCode::PageDown => return self.scroll_question(page),
                _ => {}
            }
            let plain = key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
            // Whoever is in the middle of a line writes on.
            if self.settled && plain && self.input.is_empty() {
                return self.answer(key);
            }
        }
        if self.input.searching().is_some() {
            match (key.code, control) {
                (KeyCode::Char('r'), true) => self.input.search(),
                (KeyCode::Char(letter), false) => {
                    self.input.search_for(letter.encode_utf8(&mut [0; 4]));
                }
                (KeyCode::Backspace, _) => self.input.search_for(""),
                // Whatever else: what was found can be edited, or sent.
                _ => self.input.end_search(),
            }
            return None;
        }
        match (key.code, control) {
            (KeyCode::Char('r'), true) => self.input.search(),
            (KeyCode::Enter, false) if key.modifiers.contains(KeyModifiers::ALT) => {
                self.input.insert("\n");
            }
            (KeyCode::Char('j'), true) => self.input.insert("\n"),
            (KeyCode::Enter, _) if self.denying => return Some(self.deny()),
            (KeyCode::Enter, _) => return self.submit(),
            (KeyCode::Esc, _) if self.denying => self.end_denying(),
            (KeyCode::Esc, _) if self.running.is_some() => return Some(Intent::Cancel),
            (KeyCode::Esc, _) => self.scroll.set(0),
            (KeyCode::Char('d'), true) if self.input.is_empty() => return Some(Intent::Quit),
            (KeyCode::Char('g'), true) if self.running.is_none() => return Some(Intent::Edit),
            (KeyCode::Char('o'), true) => self.toggle_last_tool(),
            (KeyCode::PageUp, _) => self.scroll_by(10),
            (KeyCode::PageDown, _) => self.scroll_by(-10),
            (KeyCode::Tab, _) => return self.complete(),
            _ => self.edit(key, control),
        }
        None
    }

    fn scroll_question(&self, lines: isize) -> Option<Intent> {
        self.question_scroll.set(self.question_scroll.get().saturating_add_signed(lines));
        None
    }

    fn edit(&mut self, key: KeyEvent, control: bool) {
        let input = &mut self.input;
        match (key.code, control) {
            (KeyCode::Char('a'), true) | (KeyCode::Home, _) => input.home(),
            (KeyCode::Char('e'), true) | (KeyCode::End, _) => input.end(),
            (KeyCode::Char('u'), true) => input.delete_to_start(),
            (KeyCode::Char('k'), true) => input.delete_to_end(),
            (KeyCode::Char('w'), true) => input.delete_word(),
            (KeyCode::Char('d'), true) | (KeyCode::Delete, _) => input.delete(),
            (KeyCode::Left, true) => input.word_left(),
            (KeyCode::Right, true) => input.word_right(),
            (KeyCode::Left, _) => input.left(),
            (KeyCode::Right, _) => input.right(),
            (KeyCode::Up, _) => input.up(),
            (KeyCode::Down, _) => input.down(),
            (KeyCode::Backspace, _) => input.backspace(),
            (KeyCode::Char(character), false) if !key.modifiers.contains(KeyModifiers::ALT) => {
                input.insert(character.encode_utf8(&mut [0; 4]));
            }
            _ => {}
        }
    }

    fn cancel(&mut self, armed: bool) -> Option<Intent> {
        if self.running.is_some() {
            if !self.queue.is_empty() {
                self.notice(&format!("queue of {} cleared", self.queue.len()));
                self.queue.clear();
            }
            return Some(Intent::Cancel);
        }
        if !self.input.is_empty() {
            self.input.set("");
            return None;
        }
        if armed {
            return Some(Intent::Quit);
        }
        self.armed_quit = true;
        None
    }

    /// Completes a command, or `@` and a part of a path.
    fn complete(&mut self) -> Option<Intent> {
        if let Some(part) = self.input.word().strip_prefix('@') {
            return Some(Intent::Complete(part.to_owned()));
        }
        let text = self.input.text().to_owned();
        if !text.starts_with('/') || text.contains(' ') {
            return None;
        }
        let found = commands::matching(&text);
        if let [one] = found[..] {
            self.input.set(format!("/{} ", one.name));
        } else if !found.is_empty() {
            let names: Vec<String> = found.iter().map(|row| format!("/{}", row.name)).collect();
            self.notice(&names.join("  "));
        }
        None
    }

    /// A key while a question is open and meant. Enter is no answer, it only confirms one; a key with
    /// Ctrl or Alt is never an answer.
    fn answer(&mut self, key: KeyEvent) -> Option<Intent> {
        let offers = self.questions.front().map(|question| question.offers.clone())?;
        if key.code == KeyCode::Enter {
            return self.chosen.take().map(|verdict| self.answered(verdict));
        }
        self.chosen = None;
        let rule = |at: usize| offers.get(at).cloned();
        // A yes is for what was seen.
        let may_allow = self.seen_whole.get() && self.has_room.get();
        match key.code {
            KeyCode::Char('y') if may_allow => return Some(self.answered(Verdict::Once)),
            KeyCode::Char('s') if may_allow => self.chosen = rule(0).map(Verdict::Session),
            KeyCode::Char('w') if may_allow => self.chosen = rule(1).map(Verdict::Session),
            KeyCode::Char('a') if may_allow => self.chosen = rule(0).map(Verdict::Always),
            KeyCode::Char('n') => return Some(self.answered(Verdict::No(None))),
            KeyCode::Char('t') => self.begin_denying(),
            _ => {}
        }
        None
    }

    fn answered(&mut self, verdict: Verdict) -> Intent {
        self.questions.pop_front();
        self.unsettle();
        Intent::Answer(verdict)
    }

    /// No, and why.
    fn deny(&mut self) -> Intent {
        let why = self.input.text().trim().to_owned();
        self.end_denying();
        self.answered(Verdict::No(Some(why).filter(|why| !why.is_empty())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands::Command;
    use super::*;
    use crate::agent::{AgentEvent, Approval};

    fn press(state: &mut State, keys: &str) -> Vec<Intent> {
        let key = |name: &str| match name {
            "<enter>" => KeyEvent::from(KeyCode::Enter),
            "<esc>" => KeyEvent::from(KeyCode::Esc),
            "<tab>" => KeyEvent::from(KeyCode::Tab),
            "<up>" => KeyEvent::from(KeyCode::Up),
            "<c-c>" => KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
            "<c-j>" => KeyEvent::new(KeyCode::Char('j'), KeyModifiers::CONTROL),
            other => KeyEvent::from(KeyCode::Char(other.chars().next().unwrap())),
        };
        let mut intents = Vec::new();
        let mut rest = keys;
        while !rest.is_empty() {
            let length = match rest.starts_with('<') {
                true => rest.find('>').unwrap() + 1,
                false => rest.chars().next().unwrap().len_utf8(),
            };
            intents.extend(state.key(key(&rest[..length])));
            rest = &rest[length..];
        }
        intents
    }

    fn question() -> Approval {
        Approval {
            tool: "bash".into(),
            of_sub_agent: false,
            what: "make".into(),
            directory: "/w".into(),
            diff: None,
            reason: "r".into(),
            arguments: Vec::new(),
            still_refused: "x".into(),
            offers: vec!["bash(make)".into()],
        }
    }

    #[test]
    fn lines_become_prompts_commands_or_errors() {
        let mut state = State::default();
        let sent = press(&mut state, "hi<c-j>you<enter>!ls<enter>/mode guarded<enter>/nope<enter>");
        assert_eq!(
            sent,
            [
                Intent::Prompt("hi\nyou".into()),
                Intent::Shell("ls".into()),
                Intent::Command(Command::Mode, "guarded".into()),
            ]
        );
        assert_eq!(state.input.text(), "/nope", "what was mistyped is not lost");
    }

    #[test]
    fn while_a_run_goes_text_is_queued_and_control_c_ends_it_all() {
        let mut state = State { running: Some(Default::default()), ..State::default() };
        assert!(press(&mut state, "next<enter>/new<enter>").is_empty());
        assert_eq!(state.queue, ["next"]);
        state.input.set("");
        assert_eq!(press(&mut state, "<c-c>"), [Intent::Cancel]);
        assert!(state.queue.is_empty());
        state.run_ended();
        assert_eq!(press(&mut state, "x<c-c><c-c><c-c>"), [Intent::Quit]);
    }

    fn asking() -> State {
        let mut state = State { running: Some(Default::default()), ..State::default() };
        state.ask(question());
        state.settled = true;
        state.seen_whole.set(true);
        state.has_room.set(true);
        state
    }

    #[test]
    fn a_question_takes_only_its_own_keys() {
        let mut state = asking();
        assert!(press(&mut state, "<enter>xqw<enter>").is_empty());
        // A rule is confirmed; any other key takes it back.
        assert!(press(&mut state, "sx<enter>").is_empty());
        assert_eq!(
            press(&mut state, "s<enter>"),
            [Intent::Answer(Verdict::Session("bash(make)".into()))]
        );
        let mut state = asking();
        state.key(KeyEvent::new(KeyCode::Char('a'), KeyModifiers::CONTROL));
        state.key(KeyEvent::new(KeyCode::Char('y'), KeyModifiers::ALT));
        assert!(state.chosen.is_none() && state.questions.len() == 1);
        state.input.set("");
        let sent = press(&mut state, "ttoo slow<enter>");
        assert_eq!(sent, [Intent::Answer(Verdict::No(Some("too slow".into())))]);
        assert!(state.questions.is_empty() && state.input.is_empty());
        state.on(AgentEvent::Text { text: "a\u{1b}[31mb".into() });
        assert_eq!(state.last_answer(), Some("a\\u{1b}[31mb"));
    }

    #[test]
    fn what_was_not_seen_or_is_typed_ahead_is_not_allowed() {
        let mut state = asking();
        state.settled = false;
        assert!(press(&mut state, "yay").is_empty());
        assert_eq!(state.input.text(), "yay", "a draft goes on");
        state.settled = true;
        assert!(press(&mut state, "y").is_empty(), "a draft has the keys");
        state.input.set("");
        state.seen_whole.set(false);
        assert!(press(&mut state, "ysa<enter>").is_empty());
        state.seen_whole.set(true);
        state.has_room.set(false);
        assert!(press(&mut state, "y").is_empty());
        assert_eq!(press(&mut state, "n"), [Intent::Answer(Verdict::No(None))]);
        // The next question starts unsettled.
        let mut state = asking();
        state.ask(question());
        assert_eq!(press(&mut state, "yy").len(), 1);
    }

    #[test]
    fn a_paste_or_an_image_is_no_command() {
        let mut state = State::default();
        state.input.paste(&"!rm -rf x\n".repeat(20));
        assert!(matches!(press(&mut state, "<enter>")[..], [Intent::Prompt(_)]));
        state.input.insert("![logo](a.png)");
        assert!(matches!(press(&mut state, "<enter>")[..], [Intent::Prompt(_)]));
    }

    #[test]
    fn tab_completes_a_command() {
        let mut state = State::default();
        press(&mut state, "/per<tab>");
        assert_eq!(state.input.text(), "/permissions ");
    }
}
