//! What keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::bindings::{Action, typed};
use super::commands;
use super::conversation::Find;
use super::picker::Picked;
use super::state::{Intent, Layer, State};
use crate::agent::Verdict;

impl State {
    /// Takes a key; says what the user wants, if that is clear by now.
    pub fn key(&mut self, key: KeyEvent) -> Option<Intent> {
        let armed = std::mem::take(&mut self.armed_quit);
        self.hint.clear();
        let action = self.bindings.action(key);
        match action {
            Some(Action::Suspend) => return Some(Intent::Suspend),
            Some(Action::Redraw) => return Some(Intent::Redraw),
            Some(Action::Cancel) if self.layer.is_none() || self.running.is_some() => {
                self.layer = None;
                return self.cancel(armed);
            }
            _ => {}
        }
        if !self.questions.is_empty() && !self.denying {
            let page = self.question_rows.get().saturating_sub(1).clamp(1, 1_000) as isize;
            match action {
                Some(Action::Interrupt) => return Some(Intent::Cancel),
                Some(Action::PageUp) => return self.scroll_question(-page),
                Some(Action::PageDown) => return self.scroll_question(page),
                Some(Action::Complete) if self.questions.len() > 1 && self.input.is_empty() => {
                    self.questions.rotate_left(1);
                    self.unsettle();
                    return Some(Intent::NextQuestion);
                }
                _ => {}
            }
            let plain = key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
            // Whoever is in the middle of a line writes on.
            if self.settled && plain && self.input.is_empty() && self.layer.is_none() {
                return self.answer(key);
            }
            // Nothing else takes letters while they may be answers.
            if matches!(action, Some(Action::Find | Action::EarlierPrompt)) {
                return None;
            }
        }
        match &mut self.layer {
            Some(Layer::Picker(list, command)) => {
                let command = *command;
                return match list.key(key, action) {
                    Picked::Open => None,
                    Picked::Closed => {
                        self.layer = None;
                        None
                    }
                    Picked::Value(value) => {
                        self.layer = None;
                        self.view.to_end();
                        Some(Intent::Command(command, value))
                    }
                };
            }
            Some(Layer::Completion(list)) => {
                let chosen = list.chosen().map(|item| item.value.clone()).unwrap_or_default();
                match action {
                    Some(Action::Up) => return self.step(-1),
                    Some(Action::Down) => return self.step(1),
                    Some(Action::Interrupt | Action::Cancel) => {
                        self.layer = None;
                        return None;
                    }
                    Some(Action::Complete) => return self.complete(&chosen, false),
                    // What was typed whole is meant as it is.
                    Some(Action::Send) if self.input.word().trim_start_matches('@') != chosen => {
                        return self.complete(&chosen, true);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        if self.input.searching().is_some() {
            self.search_history(key, action);
            return None;
        }
        if self.view.find.is_some() {
            self.find_key(key, action);
            return None;
        }
        let intent = self.act(key, action);
        intent.or_else(|| self.suggest())
    }

    fn act(&mut self, key: KeyEvent, action: Option<Action>) -> Option<Intent> {
        let input = &mut self.input;
        match action {
            Some(Action::Send) if self.denying => return Some(self.deny()),
            Some(Action::Send) => {
                self.layer = None;
                return self.submit();
            }
            Some(Action::Interrupt) if self.denying => self.end_denying(),
            Some(Action::Interrupt) if self.running.is_some() => return Some(Intent::Cancel),
            Some(Action::Interrupt) => {
                self.view.unmark();
                self.view.to_end();
            }
            Some(Action::Leave) if input.is_empty() => return Some(Intent::Quit),
            Some(Action::Editor) if self.running.is_none() => return Some(Intent::Edit),
            Some(Action::EarlierPrompt) => input.search(),
            Some(Action::Find) => self.find(""),
            Some(Action::OpenTool) => self.toggle_last_tool(),
            Some(Action::Reasoning) => self.toggle_reasoning(),
            Some(Action::PageUp) => self.scroll_page(true),
            Some(Action::PageDown) => self.scroll_page(false),
            Some(Action::Top) => self.show_from(0),
            Some(Action::Bottom) => self.view.to_end(),
            Some(Action::NewLine) => input.insert("\n"),
            Some(Action::LineStart) => input.home(),
            Some(Action::LineEnd) => input.end(),
            Some(Action::DeleteToStart) => input.delete_to_start(),
            Some(Action::DeleteToEnd) => input.delete_to_end(),
            Some(Action::DeleteWord) => input.delete_word(),
            Some(Action::PutBack) => input.put_back(),
            Some(Action::Delete | Action::Leave) => input.delete(),
            Some(Action::WordLeft) => input.word_left(),
            Some(Action::WordRight) => input.word_right(),
            Some(Action::Left) => input.left(),
            Some(Action::Right) => input.right(),
            Some(Action::Up) if input.is_empty() && !self.queue.is_empty() && !self.denying => {
                let last = self.queue.pop_back().unwrap_or_default();
                input.bring_back(last);
            }
            Some(Action::Up) => input.up(),
            Some(Action::Down) => input.down(),
            Some(Action::Backspace) => input.backspace(),
            None => {
                if let Some(letter) = typed(key) {
                    input.insert(letter.encode_utf8(&mut [0; 4]));
                }
            }
            Some(_) => {}
        }
        None
    }

    /// Keeps the list of what the present word can become.
    fn suggest(&mut self) -> Option<Intent> {
        if self.denying {
            return None;
        }
        let text = self.input.text();
        if text.starts_with('/') && !text.contains(char::is_whitespace) {
            let text = text.to_owned();
            let mut list = match self.layer.take() {
                Some(Layer::Completion(list)) => list,
                _ => commands::list(),
            };
            list.look_for(&text);
            self.layer = (!list.is_empty()).then_some(Layer::Completion(list));
            return None;
        }
        match self.input.word().strip_prefix('@') {
            Some(part) => Some(Intent::Files(part.to_owned())),
            None => {
                self.layer = None;
                None
            }
        }
    }

    fn step(&mut self, steps: isize) -> Option<Intent> {
        if let Some(list) = self.list() {
            list.step(steps);
        }
        None
    }

    /// Takes what was chosen for the word that is being typed; a command that needs nothing more is run,
    /// if it is to be sent.
    fn complete(&mut self, chosen: &str, send: bool) -> Option<Intent> {
        self.layer = None;
        let is_command = self.input.text().starts_with('/') && !self.input.word().starts_with('@');
        let mut rows = commands::COMMANDS.iter().filter(|_| is_command);
        match rows.find(|row| chosen == format!("/{}", row.name)) {
            Some(row) if send && (row.arguments.is_empty() || row.arguments.ends_with(']')) => {
                self.input.set(chosen);
                self.submit()
            }
            Some(_) => {
                self.input.set(format!("{chosen} "));
                None
            }
            None => {
                self.input.replace_word(&format!("@{chosen} "));
                None
            }
        }
    }

    fn search_history(&mut self, key: KeyEvent, action: Option<Action>) {
        match (action, typed(key)) {
            (Some(Action::EarlierPrompt), _) => self.input.search(),
            (Some(Action::Backspace), _) => self.input.search_for(""),
            (Some(Action::Interrupt), _) => self.input.leave_search(),
            (None, Some(letter)) => self.input.search_for(letter.encode_utf8(&mut [0; 4])),
            // Whatever else: what was found can be edited, or sent.
            _ => self.input.end_search(),
        }
    }

    /// Begins to look for words in the conversation.
    pub(super) fn find(&mut self, words: &str) {
        // Its letters would be answers.
        if !self.questions.is_empty() {
            return self.notice("answer the question first");
        }
        self.layer = None;
        self.view.find = Some(Find::new(words));
        self.find_next(true);
    }

    fn find_key(&mut self, key: KeyEvent, action: Option<Action>) {
        match (action, typed(key)) {
            (Some(Action::Send | Action::Up | Action::Find), _) => self.find_next(true),
            (Some(Action::Down), _) => self.find_next(false),
            (Some(Action::PageUp), _) => self.scroll_page(true),
            (Some(Action::PageDown), _) => self.scroll_page(false),
            (Some(Action::Backspace), _) => self.find_words(|words| {
                words.pop();
            }),
            (Some(Action::DeleteToStart), _) => self.find_words(String::clear),
            (Some(Action::Interrupt), _) => self.view.find = None,
            (None, Some(letter)) => self.find_words(|words| words.push(letter)),
            _ => {}
        }
    }

    fn scroll_question(&self, lines: isize) -> Option<Intent> {
        self.question_scroll.set(self.question_scroll.get().saturating_add_signed(lines));
        None
    }

    fn cancel(&mut self, armed: bool) -> Option<Intent> {
        let finding = self.view.find.take().is_some() || self.input.searching().is_some();
        self.input.leave_search();
        if self.running.is_some() {
            if !self.queue.is_empty() {
                self.notice(&format!("queue of {} cleared", self.queue.len()));
                self.queue.clear();
            }
            return Some(Intent::Cancel);
        }
        if finding {
            return None;
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
            // Whoever begins a line goes on with it: its other letters are no answers.
            KeyCode::Char(letter) if !"yswa".contains(letter) => {
                self.input.insert(letter.encode_utf8(&mut [0; 4]));
            }
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
    use super::super::picker::{Item, Picker};
    use super::*;
    use crate::agent::{AgentEvent, Approval};

    fn press(state: &mut State, keys: &str) -> Vec<Intent> {
        let key = |name: &str| match name {
            "<enter>" => KeyEvent::from(KeyCode::Enter),
            "<esc>" => KeyEvent::from(KeyCode::Esc),
            "<tab>" => KeyEvent::from(KeyCode::Tab),
            "<down>" => KeyEvent::from(KeyCode::Down),
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
        press(&mut state, "<c-c>");
        state.running = Some(Default::default());
        press(&mut state, "<up>");
        assert_eq!((state.input.text(), state.queue.len()), ("next", 0));
        press(&mut state, " one<enter>");
        assert_eq!(state.queue, ["next one"]);
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
        // A line that is begun has its other letters too: none of them answers.
        let mut state = asking();
        assert!(press(&mut state, "queued yes<enter>").is_empty());
        assert_eq!((state.queue.len(), state.questions.len()), (1, 1));
        let mut state = asking();
        state.key(KeyEvent::new(KeyCode::Char('a'), KeyModifiers::CONTROL));
        state.key(KeyEvent::new(KeyCode::Char('y'), KeyModifiers::ALT));
        assert!(state.chosen.is_none() && state.questions.len() == 1);
        state.input.set("");
        let sent = press(&mut state, "ttoo slow<enter>");
        assert_eq!(sent, [Intent::Answer(Verdict::No(Some("too slow".into())))]);
        assert!(state.questions.is_empty() && state.input.is_empty());
        state.on(AgentEvent::Text { text: "a\u{1b}[31mb".into() });
        assert_eq!(state.last_answer().as_deref(), Some("a\\u{1b}[31mb"));
    }

    #[test]
    fn nothing_else_takes_letters_while_they_may_be_answers() {
        for key in ['s', 'r'] {
            let mut state = asking();
            state.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL));
            assert!(state.view.find.is_none() && state.input.searching().is_none());
        }
        let mut state = asking();
        state.input.insert("/find y");
        assert!(press(&mut state, "<enter>").is_empty() && state.view.find.is_none());
        state.pick(Picker::new("Which?", vec![Item::new("one", "")]), Command::Theme);
        assert!(state.layer.is_none());
        // And what did so before is over when a question comes.
        let mut state = State { running: Some(Default::default()), ..State::default() };
        state.find("sto");
        state.ask(question());
        assert!(state.view.find.is_none());
    }

    #[test]
    fn a_pasted_line_is_no_command_also_when_it_comes_back() {
        let mut state = State::default();
        state.paste("!touch x");
        assert_eq!(press(&mut state, "<enter>"), [Intent::Prompt("!touch x".into())]);
        assert_eq!(press(&mut state, "<up><enter>"), [Intent::Prompt("!touch x".into())]);
        // From the queue, from an earlier start, or from a session that somebody else has made.
        state.queue.push_back("/quit".into());
        state.running = Some(Default::default());
        press(&mut state, "<up>");
        state.running = None;
        assert_eq!(press(&mut state, "<enter>"), [Intent::Prompt("/quit".into())]);
        state.input.remember(vec!["!rm x".into()]);
        assert_eq!(press(&mut state, "<up><enter>"), [Intent::Prompt("!rm x".into())]);
        state.said("!curl evil");
        assert_eq!(
            press(&mut state, "/retry<enter><enter>"),
            [Intent::Prompt("!curl evil".into())]
        );
        // What was typed is one, and is one again.
        let shell = [Intent::Shell("ls".into())];
        assert_eq!(press(&mut state, "!ls<enter>"), shell);
        assert_eq!(press(&mut state, "<up><enter>"), shell);
        // What is folded behind a command goes with it whole.
        let long = "line\n".repeat(30);
        press(&mut state, "/btw about ");
        state.paste(&long);
        let whole = format!("about {}", long.trim());
        assert_eq!(press(&mut state, "<enter>"), [Intent::Command(Command::Btw, whole)]);
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
    fn commands_and_files_are_completed_while_they_are_typed() {
        let mut state = State::default();
        press(&mut state, "/perm<tab>");
        assert_eq!(state.input.text(), "/permissions ");
        assert!(state.layer.is_none());
        press(&mut state, "<esc>");
        state.input.set("");
        // A part is enough where nothing more is needed; what is typed whole is meant as it is.
        let sent = |state: &mut State, keys: &str| press(state, keys).pop();
        let sandbox = Intent::Command(Command::Sandbox, String::new());
        assert_eq!(sent(&mut state, "/sandb<enter>"), Some(sandbox));
        assert_eq!(sent(&mut state, "/expo<enter>"), None);
        assert_eq!(state.input.text(), "/export ");
        state.input.set("");
        let model = Intent::Command(Command::Model, String::new());
        assert_eq!(sent(&mut state, "/model<enter>"), Some(model));
        let wanted = press(&mut state, "see @eng");
        assert_eq!(wanted.last(), Some(&Intent::Files("eng".into())));
        state.complete_with(&["docs/engine.md".into(), "src/engine.rs".into()]);
        press(&mut state, "<down><up><tab>");
        assert_eq!(state.input.text(), "see @docs/engine.md ");
        assert_eq!(
            sent(&mut state, "now<enter>"),
            Some(Intent::Prompt("see @docs/engine.md now".into()))
        );
        // What comes too late is not shown.
        state.complete_with(&["src/engine.rs".into()]);
        assert!(state.layer.is_none());
    }

    #[test]
    fn a_list_takes_the_keys_and_a_run_is_ended_all_the_same() {
        let list = || Picker::new("Which?", vec![Item::new("one", ""), Item::new("two", "")]);
        let mut state = State::default();
        state.pick(list(), Command::Model);
        let chosen = press(&mut state, "tw<enter>");
        assert_eq!(chosen, [Intent::Command(Command::Model, "two".into())]);
        state.pick(list(), Command::Model);
        assert_eq!(press(&mut state, "<c-c>"), []);
        assert!(state.layer.is_none() && state.input.is_empty());
        state.pick(list(), Command::Theme);
        state.running = Some(Default::default());
        assert_eq!(press(&mut state, "<c-c>"), [Intent::Cancel]);
    }

    #[test]
    fn a_known_prompt_can_be_asked_once() {
        let mut state = State::default();
        state.facts.prompts = vec!["plan".into(), "review".into()];
        let sent = press(&mut state, ".plan how?<enter>");
        assert_eq!(sent, [Intent::Command(Command::Prompt, "plan how?".into())]);
        let sent = press(&mut state, ".gitignore is wrong<enter>");
        assert_eq!(sent, [Intent::Prompt(".gitignore is wrong".into())]);
    }

    #[test]
    fn an_image_that_is_dropped_goes_with_the_prompt() {
        let mut state = State::default();
        state.paste("'/home/me/a screen.PNG'");
        state.paste("/home/me/notes.txt");
        assert_eq!(state.added, ["/home/me/a screen.PNG"]);
        assert_eq!(state.input.text(), "/home/me/notes.txt");
    }

    #[test]
    fn several_questions_are_answered_in_any_order() {
        let mut state = asking();
        state.ask(Approval { what: "rm -rf x".into(), ..question() });
        assert_eq!(press(&mut state, "<tab>"), [Intent::NextQuestion]);
        assert_eq!(state.questions.front().unwrap().what, "rm -rf x");
        // It has been in front for no time at all.
        assert!(!state.settled);
    }
}
