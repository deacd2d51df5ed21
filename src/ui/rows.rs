//! An entry of the conversation as rows: who speaks, a call with what came of it, a change in colours.

use ratatui::style::Style;
use ratatui::text::Span;

use super::bindings::Action;
use super::state::{Kind, State, Tool};
use super::theme::Theme;
use super::wrap::{Row, plain, wrap};
use super::{highlight, markdown};
use crate::agent::{STOPPED, ToolStatus};

/// How much of an output is shown at its head and at its tail: of an open call, of one that failed, and
/// of a change.
const OPEN: (usize, usize) = (200, 200);
const FAILED: (usize, usize) = (3, 8);
const DIFF: (usize, usize) = (14, 0);
impl State {
    pub(super) fn fresh_rows(&self, kind: &Kind, width: u16) -> Vec<Row> {
        let theme = &self.theme;
        let with = |words: &str, style: Style, sign: &'static str, of: Style| {
            plain(words, style, width, &Span::styled(sign, of))
        };
        if self.is_hidden(kind) {
            return Vec::new();
        }
        match kind {
            Kind::User(words) => with(words, theme.user, "▌ ", theme.user),
            // The first column is the program's: whatever a model says, it stands behind a space.
            Kind::Answer(words) | Kind::Aside(words) => {
                markdown::render(words, width.saturating_sub(2).max(1), theme)
                    .into_iter()
                    .map(|row| row.behind(Span::raw("  ")))
                    .collect()
            }
            Kind::Reasoning(words) => with(words, theme.dim, "┆ ", theme.dim),
            // Words of others may be in it: only its first row has the sign.
            Kind::Notice(words) => {
                let mut rows = with(words, theme.warn, "! ", theme.warn);
                for row in rows.iter_mut().skip(1) {
                    if let Some(sign) = row.line.spans.first_mut() {
                        sign.content = "  ".into();
                    }
                }
                rows
            }
            Kind::Page(words) => with(words, theme.text, "┃ ", theme.accent),
            Kind::Tool(tool) => self.tool_rows(tool, width),
        }
    }

    /// A call as one calm line; what it printed below, much of it when it is open.
    fn tool_rows(&self, tool: &Tool, width: u16) -> Vec<Row> {
        let theme = &self.theme;
        let (sign, style) = match tool.status {
            None => ("◌ ", theme.warn),
            Some(ToolStatus::Ok) => ("● ", theme.good),
            Some(ToolStatus::Error) => ("✗ ", theme.bad),
            Some(ToolStatus::Denied) => ("⊘ ", theme.bad),
        };
        let of_task = tool.task.is_some();
        let outer = |rows: Vec<Row>| -> Vec<Row> {
            match of_task {
                true => {
                    rows.into_iter().map(|row| row.behind(Span::styled("╎ ", theme.dim))).collect()
                }
                false => rows,
            }
        };
        let width = if of_task { width.saturating_sub(2).max(1) } else { width };
        let mut head = vec![
            Span::styled(tool.name.clone(), theme.accent),
            Span::styled(format!(" {}", tool.what), theme.text),
        ];
        if tool.milliseconds >= 1000 && !tool.open {
            head.push(Span::styled(format!("  {}", seconds(tool.milliseconds)), theme.dim));
        }
        let mut rows = wrap(&head, width, &Span::styled(sign, style), &Span::raw("  "));
        let bar = Span::styled("│ ", theme.dim);
        let failed = matches!(tool.status, Some(ToolStatus::Error | ToolStatus::Denied));
        if tool.open && !tool.id.is_empty() {
            for fact in tool.facts(&self.facts.rung) {
                rows.extend(plain(&fact, theme.accent, width, &bar));
            }
        } else if failed && tool.because.starts_with(STOPPED) {
            rows.extend(plain(&tool.because, theme.bad, width, &bar));
        }
        // A terminal shows no images everywhere: what one is stands in its place.
        for attached in &tool.attached {
            rows.extend(plain(&format!("▣ {attached}"), theme.accent, width, &bar));
        }
        let is_diff = tool.output.starts_with("--- a/");
        let (first, last) = match (tool.open, is_diff, failed) {
            // What the user has asked for is shown whole.
            (true, ..) if tool.id.is_empty() => (usize::MAX, 0),
            (true, ..) => OPEN,
            (_, true, _) => DIFF,
            (_, _, true) => FAILED,
            _ => return outer(rows),
        };
        let all: Vec<&str> = tool.output.lines().collect();
        let hidden = all.len().saturating_sub(first.saturating_add(last));
        // A line that says that one line is hidden is no shorter.
        let hidden = if hidden <= 1 { 0 } else { hidden };
        let mut diff = Diff::default();
        for (number, line) in all.iter().enumerate() {
            let spans = if is_diff {
                diff.line(line, theme)
            } else {
                vec![Span::styled((*line).to_owned(), theme.dim)]
            };
            if hidden > 0 && number == first {
                let key = self.bindings.key(Action::OpenTool);
                let hint = if tool.open { String::new() } else { format!(" ({key} opens)") };
                let words = format!("… {hidden} lines{hint}");
                rows.extend(plain(&words, theme.dim, width, &bar));
            }
            if hidden == 0 || number < first || number >= first + hidden {
                rows.extend(wrap(&spans, width, &bar, &bar));
            }
        }
        outer(rows)
    }
}

impl Tool {
    /// How it ran: time, exit, what held it, and why it was let through.
    fn facts(&self, rung: &str) -> Vec<String> {
        let mut facts = Vec::new();
        let end = self.output.lines().rev().find(|line| line.starts_with("(exit "));
        if let Some(exit) = end.filter(|_| self.name == "bash") {
            facts.push(exit.trim_matches(['(', ')']).to_owned());
        }
        if self.milliseconds > 0 {
            facts.push(seconds(self.milliseconds));
        }
        if self.status.is_some() && !rung.is_empty() {
            facts.push(format!("{rung} sandbox"));
        }
        let mut lines = vec![facts.join(" · ")];
        if !self.because.is_empty() {
            lines.push(self.because.clone());
        }
        lines.retain(|line| !line.is_empty());
        lines
    }
}

fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        10_000..120_000 => format!("{} s", milliseconds / 1000),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

/// Colours for the lines of a unified diff, in the language of the file it is about.
#[derive(Debug, Default)]
pub(super) struct Diff {
    language: String,
}

impl Diff {
    pub fn line(&mut self, line: &str, theme: &Theme) -> Vec<Span<'static>> {
        if let Some(path) = line.strip_prefix("+++ ").or(line.strip_prefix("--- ")) {
            self.language = path.rsplit('.').next().unwrap_or_default().to_owned();
            return vec![Span::styled(line.to_owned(), theme.dim)];
        }
        let (style, sign) = match line.as_bytes().first() {
            Some(b'+') => (theme.added, "+"),
            Some(b'-') => (theme.removed, "-"),
            Some(b'@') => return vec![Span::styled(line.to_owned(), theme.accent)],
            Some(b' ') => (theme.dim, " "),
            _ => return vec![Span::styled(line.to_owned(), theme.dim)],
        };
        let mut spans = vec![Span::styled(sign, style)];
        if sign == " " {
            spans.push(Span::styled(line[1..].to_owned(), style));
            return spans;
        }
        let code = line[1..].replace('\t', "    ");
        let known = [theme.keyword, theme.string, theme.comment, theme.number];
        for span in highlight::line(&self.language, &code, theme) {
            let of = if known.contains(&span.style) && span.style != Style::new() {
                span.style
            } else {
                style
            };
            spans.push(Span::styled(span.content.into_owned(), of));
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::super::theme::Depth;
    use super::*;

    #[test]
    fn changes_are_coloured_in_their_language() {
        let theme = Theme::named("dark", Depth::Full).unwrap();
        let mut diff = Diff::default();
        diff.line("+++ b/src/main.rs", &theme);
        let spans = diff.line("+    let x = \"text\";", &theme);
        let of = |text: &str| spans.iter().find(|span| span.content == text).unwrap().style;
        assert_eq!((of("+"), of("let"), of("x")), (theme.added, theme.keyword, theme.added));
        assert_eq!(of("\"text\""), theme.string);
        let spans = diff.line("-fn old() {}", &theme);
        assert_eq!(spans[0].style, theme.removed);
    }
}
