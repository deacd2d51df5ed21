//! Which key does what: one table for the keyboard, for `/help` and for the settings.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::nearest::nearest;

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send,
    NewLine,
    Complete,
    Interrupt,
    Cancel,
    Leave,
    Suspend,
    Redraw,
    Editor,
    EarlierPrompt,
    Find,
    OpenTool,
    Reasoning,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Up,
    Down,
    Left,
    Right,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
    Backspace,
    Delete,
    DeleteWord,
    DeleteToStart,
    DeleteToEnd,
    PutBack,
}

/// Name in the settings, action, keys, and what `/help` says.
type Row = (&'static str, Action, &'static str, &'static str);

const ACTIONS: [Row; 31] = [
    ("send", Action::Send, "enter", "send; while the agent runs: queue"),
    ("new-line", Action::NewLine, "alt-enter ctrl-j", "a new line"),
    ("complete", Action::Complete, "tab", "complete a /command, or the path of an @file"),
    ("interrupt", Action::Interrupt, "esc", "interrupt; close what is open"),
    ("cancel", Action::Cancel, "ctrl-c", "cancel the run and clear the queue; twice: leave"),
    ("leave", Action::Leave, "ctrl-d", "leave, on an empty line; else delete"),
    ("suspend", Action::Suspend, "ctrl-z", "to the shell; `fg` comes back"),
    ("redraw", Action::Redraw, "ctrl-l", "draw the screen anew"),
    ("editor", Action::Editor, "ctrl-g", "write the prompt in $EDITOR"),
    ("earlier-prompt", Action::EarlierPrompt, "ctrl-r", "look for an earlier prompt"),
    ("find", Action::Find, "ctrl-s", "look for words in the conversation"),
    ("open-tool", Action::OpenTool, "ctrl-o", "open or close the last tool call"),
    ("reasoning", Action::Reasoning, "ctrl-t", "show or hide what the model thinks"),
    ("page-up", Action::PageUp, "pageup", "scroll up; the wheel does too"),
    ("page-down", Action::PageDown, "pagedown", "scroll down"),
    ("top", Action::Top, "ctrl-home", "to the beginning of the conversation"),
    ("bottom", Action::Bottom, "ctrl-end", "to its end"),
    ("up", Action::Up, "up ctrl-p", "a line up; an earlier prompt"),
    ("down", Action::Down, "down ctrl-n", "a line down; a later prompt"),
    ("left", Action::Left, "left ctrl-b", "a character to the left"),
    ("right", Action::Right, "right ctrl-f", "a character to the right"),
    ("word-left", Action::WordLeft, "ctrl-left alt-b alt-left", "a word to the left"),
    ("word-right", Action::WordRight, "ctrl-right alt-f alt-right", "a word to the right"),
    ("line-start", Action::LineStart, "home ctrl-a", "to the start of the line"),
    ("line-end", Action::LineEnd, "end ctrl-e", "to its end"),
    ("backspace", Action::Backspace, "backspace ctrl-h", "delete to the left"),
    ("delete", Action::Delete, "delete", "delete to the right"),
    ("delete-word", Action::DeleteWord, "ctrl-w alt-backspace", "delete a word to the left"),
    ("delete-to-start", Action::DeleteToStart, "ctrl-u", "delete to the start of the line"),
    ("delete-to-end", Action::DeleteToEnd, "ctrl-k", "delete to its end"),
    ("put-back", Action::PutBack, "ctrl-y", "put back what was deleted last"),
];

/// What is done with other things than keys of the table.
const OTHERS: [(&str, &str); 7] = [
    ("mouse", "select text: it is copied; a click opens or closes a tool call"),
    ("shift and mouse", "select as the terminal does it"),
    ("@part", "look for a file"),
    ("/part", "look for a command"),
    (".name [text]", "change the prompt, or ask once under it"),
    ("!command", "run a command of yours in a cell"),
    ("y s w a n t", "answers to a question, as it says"),
];

/// The table in force.
#[derive(Debug, Clone)]
pub struct Bindings(Vec<(KeyCode, KeyModifiers, Action)>);

impl Default for Bindings {
    fn default() -> Bindings {
        let keys = |(_, action, keys, _): &Row| {
            let action = *action;
            let parsed = keys.split(' ').filter_map(|key| parse(key).ok());
            parsed.map(move |(code, modifiers)| (code, modifiers, action)).collect::<Vec<_>>()
        };
        Bindings(ACTIONS.iter().flat_map(keys).collect())
    }
}

impl Bindings {
    /// The usual keys but for the actions that `own` names: keys by the name of the action. A key that
    /// is given to one action is taken from the others.
    pub fn with(own: &BTreeMap<String, Vec<String>>) -> Result<Bindings, String> {
        let mut all = Bindings::default().0;
        let mut given: Vec<(KeyCode, KeyModifiers, Action)> = Vec::new();
        for (name, keys) in own {
            let row = ACTIONS.iter().find(|(known, ..)| known == name);
            let Some((_, action, ..)) = row else {
                let near = nearest(name, ACTIONS.iter().map(|(known, ..)| *known));
                let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                return Err(format!("bindings.{name}: there is no such action{near}"));
            };
            all.retain(|(.., bound)| bound != action);
            for key in keys {
                let (code, modifiers) =
                    parse(key).map_err(|error| format!("bindings.{name}: {error}"))?;
                let same = |bound: &&(KeyCode, KeyModifiers, Action)| {
                    (bound.0, bound.1) == (code, modifiers)
                };
                if let Some((.., other)) = given.iter().find(same) {
                    let other = name_of(*other);
                    return Err(format!("bindings.{name}: {key} is given to {other} too"));
                }
                given.push((code, modifiers, *action));
            }
        }
        all.retain(|(code, modifiers, _)| {
            !given.iter().any(|(other, of, _)| (other, of) == (code, modifiers))
        });
        all.extend(given);
        // Without these nobody could send anything, stop a run or leave.
        for needed in [Action::Send, Action::Interrupt, Action::Cancel] {
            if !all.iter().any(|(.., action)| *action == needed) {
                let name = name_of(needed);
                return Err(format!("bindings: no key is left for {name}; give it one"));
            }
        }
        Ok(Bindings(all))
    }

    /// What a key does, if it is bound. A letter without Ctrl or Alt is always text.
    pub fn action(&self, key: KeyEvent) -> Option<Action> {
        let pressed = normal(key.code, key.modifiers);
        let found = self.0.iter().find(|(code, modifiers, _)| (*code, *modifiers) == pressed);
        found.map(|(.., action)| *action)
    }

    /// The first key of an action, as it is shown.
    pub fn key(&self, action: Action) -> String {
        self.0
            .iter()
            .find(|(.., bound)| *bound == action)
            .map(|(code, modifiers, _)| shown(*code, *modifiers))
            .unwrap_or_default()
    }

    /// The part of `/help` about keys.
    pub fn help(&self) -> String {
        let mut text = String::new();
        for (name, action, _, what) in ACTIONS {
            let bound = self.0.iter().filter(|(.., bound)| *bound == action);
            let keys: Vec<String> =
                bound.map(|(code, modifiers, _)| shown(*code, *modifiers)).collect();
            text.push_str(&format!("  {:<28} {what}  [{name}]\n", keys.join(", ")));
        }
        for (what, means) in OTHERS {
            text.push_str(&format!("  {what:<28} {means}\n"));
        }
        text
    }
}

/// The character that a key types.
pub(super) fn typed(key: KeyEvent) -> Option<char> {
    match key.code {
        KeyCode::Char(letter) if key.modifiers.difference(KeyModifiers::SHIFT).is_empty() => {
            Some(letter)
        }
        _ => None,
    }
}

fn name_of(action: Action) -> &'static str {
    ACTIONS.iter().find(|(_, known, ..)| *known == action).map_or("", |(name, ..)| name)
}

/// Shift is part of a letter, not a key beside it.
fn normal(code: KeyCode, modifiers: KeyModifiers) -> (KeyCode, KeyModifiers) {
    match code {
        KeyCode::Char(letter) => {
            let letter = letter.to_ascii_lowercase();
            (KeyCode::Char(letter), modifiers - KeyModifiers::SHIFT)
        }
        code => (code, modifiers),
    }
}

const NAMED: [(&str, KeyCode); 15] = [
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("insert", KeyCode::Insert),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("backtab", KeyCode::BackTab),
];

/// A key as it is written in the settings, such as `ctrl-x`, `alt-enter` or `f5`.
fn parse(text: &str) -> Result<(KeyCode, KeyModifiers), String> {
    let lower = text.to_ascii_lowercase();
    let (mut rest, mut modifiers) = (lower.as_str(), KeyModifiers::NONE);
    loop {
        let known = [
            ("ctrl-", KeyModifiers::CONTROL),
            ("alt-", KeyModifiers::ALT),
            ("shift-", KeyModifiers::SHIFT),
        ];
        let Some((after, modifier)) =
            known.iter().find_map(|(name, of)| rest.strip_prefix(name).map(|rest| (rest, *of)))
        else {
            break;
        };
        (rest, modifiers) = (after, modifiers | modifier);
    }
    let named = NAMED.iter().find(|(name, _)| *name == rest).map(|(_, code)| *code);
    let function = rest.strip_prefix('f').and_then(|number| number.parse().ok());
    let mut letters = rest.chars();
    let code = match (named, function, (letters.next(), letters.next())) {
        (Some(code), ..) => code,
        (_, Some(number @ 1..=24), _) => KeyCode::F(number),
        (.., (Some(letter), None)) => KeyCode::Char(letter),
        _ => return Err(format!("{text:?} is no key (such as ctrl-x, alt-enter, f5)")),
    };
    if matches!(code, KeyCode::Char(_)) && (modifiers - KeyModifiers::SHIFT).is_empty() {
        return Err(format!("{text:?} is what one types; take it with ctrl- or alt-"));
    }
    Ok((code, modifiers))
}

fn shown(code: KeyCode, modifiers: KeyModifiers) -> String {
    let mut text = String::new();
    for (modifier, name) in [
        (KeyModifiers::CONTROL, "Ctrl-"),
        (KeyModifiers::ALT, "Alt-"),
        (KeyModifiers::SHIFT, "Shift-"),
    ] {
        if modifiers.contains(modifier) {
            text.push_str(name);
        }
    }
    let named = NAMED.iter().find(|(_, known)| *known == code).map(|(name, _)| *name);
    match (named, code) {
        (_, KeyCode::PageUp) => text.push_str("PageUp"),
        (_, KeyCode::PageDown) => text.push_str("PageDown"),
        (Some(name), _) => {
            text.extend(name.chars().next().map(|first| first.to_ascii_uppercase()));
            text.push_str(&name[1..]);
        }
        (None, KeyCode::Char(letter)) => text.extend(letter.to_uppercase()),
        (None, KeyCode::F(number)) => text.push_str(&format!("F{number}")),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, keys: &[&str]) -> Result<Bindings, String> {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Bindings::with(&BTreeMap::from([(name.to_owned(), keys)]))
    }

    #[test]
    fn every_action_has_a_key_of_its_own() {
        let bindings = Bindings::default();
        for (name, action, keys, what) in ACTIONS {
            assert!(!bindings.key(action).is_empty() && bindings.help().contains(what), "{name}");
            for key in keys.split(' ') {
                let (code, modifiers) = parse(key).unwrap();
                let event = KeyEvent::new(code, modifiers);
                assert_eq!(bindings.action(event), Some(action), "{key}");
            }
        }
    }

    #[test]
    fn own_keys_take_the_place_of_the_usual_ones() {
        let bindings = own("find", &["F5", "ctrl-t"]).unwrap();
        let pressed = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        assert_eq!(bindings.action(KeyCode::F(5).into()), Some(Action::Find));
        assert_eq!(bindings.action(pressed('t')), Some(Action::Find));
        assert_eq!(bindings.action(pressed('s')), None);
        assert!(bindings.help().contains("F5, Ctrl-T"));
        assert_eq!(bindings.action(KeyCode::Char('t').into()), None);
    }

    #[test]
    fn mistakes_are_told() {
        let error = |name: &str, keys: &[&str]| own(name, keys).unwrap_err();
        assert!(error("fnid", &["f5"]).contains("did you mean find?"));
        assert!(error("find", &["hyper-x"]).contains("is no key"));
        assert!(error("find", &["x"]).contains("what one types"));
        assert!(error("send", &[]).contains("no key is left for send"));
        assert!(error("find", &["ctrl-c"]).contains("no key is left for cancel"));
        let twice = BTreeMap::from([
            ("find".to_owned(), vec!["f5".to_owned()]),
            ("top".to_owned(), vec!["f5".to_owned()]),
        ]);
        assert!(Bindings::with(&twice).unwrap_err().contains("given to find too"));
    }
}
