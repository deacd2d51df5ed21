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
            return self.answer(key);
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
            (KeyCode::Esc, _) if self.denying => self.denying = false,
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
            (KeyCode::Char(character), false) => input.insert(character.encode_utf8(&mut [0; 4])),
            _ => {}
        }
    }

    fn cancel(&mut self, armed: bool) -> Option<Intent> {
        if self.running.is_some() {
            self.queue.clear();
            self.denying = false;
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

    /// A key while a question is open. Enter means nothing here: it may have been typed for the input.
    fn answer(&mut self, key: KeyEvent) -> Option<Intent> {
        let offers = self.questions.front().map(|question| question.offers.clone())?;
        let rule = |at: usize| offers.get(at).cloned();
        let verdict = match key.code {
            KeyCode::Char('y') => Verdict::Once,
            KeyCode::Char('s') => Verdict::Session(rule(0)?),
            KeyCode::Char('w') => Verdict::Session(rule(1)?),
            KeyCode::Char('a') => Verdict::Always(rule(0)?),
            KeyCode::Char('n') => Verdict::No(None),
            KeyCode::Char('t') => {
                self.denying = true;
                return None;
            }
            KeyCode::Esc => return Some(Intent::Cancel),
            _ => return None,
        };
        self.questions.pop_front();
        Some(Intent::Answer(verdict))
    }

    /// No, and why.
    fn deny(&mut self) -> Intent {
        self.denying = false;
        self.questions.pop_front();
        let why = self.input.take();
        Intent::Answer(Verdict::No(Some(why).filter(|why| !why.trim().is_empty())))
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
            what: "make".into(),
            directory: "/w".into(),
            diff: None,
            reason: "r".into(),
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

    #[test]
    fn a_question_takes_only_its_own_keys() {
        let mut state = State { running: Some(Default::default()), ..State::default() };
        state.questions.push_back(question());
        assert!(press(&mut state, "<enter>xqw").is_empty());
        assert_eq!(press(&mut state, "s"), [Intent::Answer(Verdict::Session("bash(make)".into()))]);
        state.questions.push_back(question());
        let sent = press(&mut state, "ttoo slow<enter>");
        assert_eq!(sent, [Intent::Answer(Verdict::No(Some("too slow".into())))]);
        assert!(state.questions.is_empty() && state.input.is_empty());
        state.on(AgentEvent::Text { text: "a\u{1b}[31mb".into() });
        assert_eq!(state.last_answer(), Some("a\\u{1b}[31mb"));
    }

    #[test]
    fn tab_completes_a_command() {
        let mut state = State::default();
        press(&mut state, "/per<tab>");
        assert_eq!(state.input.text(), "/permissions ");
    }
}
