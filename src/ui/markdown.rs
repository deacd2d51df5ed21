//! Markdown as lines, also while it is still being written.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::theme::Theme;
use super::wrap::Row;
use super::{highlight, text, wrap};

/// Levels of quotes and lists that are shown, and columns of a table.
const DEEPEST: usize = 12;
const COLUMNS: usize = 40;

/// Renders cleaned text.
pub fn render(text: &str, width: u16, theme: &Theme) -> Vec<Row> {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut page = Page::new(width, theme);
    for event in Parser::new_ext(text, options) {
        page.event(event);
    }
    page.end_block();
    while page.rows.last().is_some_and(is_empty) {
        page.rows.pop();
    }
    page.rows
}

fn is_empty(row: &Row) -> bool {
    row.line.spans.is_empty()
}

struct Page<'t> {
    rows: Vec<Row>,
    width: u16,
    theme: &'t Theme,
    /// The block under construction.
    spans: Vec<Span<'static>>,
    styles: Vec<Style>,
    /// What stands before the first line of the next block, and before its other lines.
    bullet: Option<String>,
    indents: Vec<String>,
    lists: Vec<Option<u64>>,
    code: Option<(String, String)>,
    link: Option<String>,
    table: Option<Table>,
}

#[derive(Default)]
struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<String>>,
}

impl<'t> Page<'t> {
    fn new(width: u16, theme: &'t Theme) -> Page<'t> {
        Page {
            rows: Vec::new(),
            width,
            theme,
            spans: Vec::new(),
            styles: vec![theme.text],
            bullet: None,
            indents: Vec::new(),
            lists: Vec::new(),
            code: None,
            link: None,
            table: None,
        }
    }

    fn style(&self) -> Style {
        self.styles.last().copied().unwrap_or_default()
    }

    fn push_style(&mut self, change: impl FnOnce(Style) -> Style) {
        self.styles.push(change(self.style()));
    }

    fn text(&mut self, text: &str) {
        if let Some((_, code)) = &mut self.code {
            code.push_str(text);
        } else if let Some(cell) =
            self.table.as_mut().and_then(|table| table.rows.last_mut()?.last_mut())
        {
            // A cell is one line.
            cell.push_str(&text.replace(['\n', '\t'], " "));
        } else {
            self.spans.push(Span::styled(text.to_owned(), self.style()));
        }
    }

    /// Goes one level deeper; from some depth on it is not shown any more.
    fn indent(&mut self, indent: String) {
        let shown = self.indents.len() < DEEPEST;
        self.indents.push(if shown { indent } else { String::new() });
    }

    fn gap(&mut self) {
        if self.rows.last().is_some_and(|row| !is_empty(row)) {
            self.rows.push(Row::default());
        }
    }

    fn end_block(&mut self) {
        let spans = std::mem::take(&mut self.spans);
        if spans.is_empty() && self.bullet.is_none() {
            return;
        }
        let rest = self.indents.concat();
        let first = match self.bullet.take() {
            // The bullet takes the place of the innermost indent.
            Some(bullet) => {
                let outer = self.indents.len().saturating_sub(1);
                format!("{}{bullet}", self.indents[..outer].concat())
            }
            None => rest.clone(),
        };
        let (first, rest) =
            (Span::styled(first, self.theme.dim), Span::styled(rest, self.theme.dim));
        self.rows.extend(wrap::wrap(&spans, self.width, &first, &rest));
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            // What was written as an entity has not been through the gate.
            Event::Text(text) => self.text(&text::clean(&text)),
            Event::Code(text) if self.table.is_some() => self.text(&text),
            Event::Code(text) => self.spans.push(Span::styled(text.into_string(), self.theme.code)),
            Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::SoftBreak => self.text(" "),
            Event::HardBreak => self.text("\n"),
            Event::Rule => {
                self.gap();
                let rule = "─".repeat(usize::from(self.width.min(40)));
                self.rows.push(Line::styled(rule, self.theme.dim).into());
            }
            Event::TaskListMarker(done) => self.text(if done { "[x] " } else { "[ ] " }),
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag) {
        match tag {
            Tag::Heading { .. } => {
                self.gap();
                let accent = self.theme.accent;
                self.push_style(|_| accent);
            }
            Tag::Paragraph if self.lists.is_empty() => self.gap(),
            Tag::BlockQuote(_) => {
                self.end_block();
                if self.lists.is_empty() {
                    self.gap();
                }
                self.indent("│ ".into());
                let dim = self.theme.dim;
                self.push_style(|_| dim);
            }
            Tag::CodeBlock(kind) => {
                self.end_block();
                self.gap();
                let language = match kind {
                    CodeBlockKind::Fenced(language) => language.into_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some((language, String::new()));
            }
            Tag::List(first) => {
                self.end_block();
                if self.lists.is_empty() {
                    self.gap();
                }
                self.lists.push(first);
            }
            Tag::Item => {
                let bullet = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!("{}. ", *number - 1)
                    }
                    _ => "• ".into(),
                };
                self.indent(" ".repeat(bullet.width()));
                self.bullet = Some(bullet);
            }
            Tag::Emphasis => self.push_style(|style| style.add_modifier(Modifier::ITALIC)),
            Tag::Strong => self.push_style(|style| style.add_modifier(Modifier::BOLD)),
            Tag::Strikethrough => {
                self.push_style(|style| style.add_modifier(Modifier::CROSSED_OUT));
            }
            Tag::Link { dest_url, .. } => {
                self.link = Some(text::line(&dest_url, 2000));
                self.push_style(|style| style.add_modifier(Modifier::UNDERLINED));
            }
            Tag::Image { .. } => self.text("[image] "),
            Tag::Table(alignments) => {
                self.gap();
                self.table = Some(Table { alignments, rows: Vec::new() });
            }
            Tag::TableHead | Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.rows.push(Vec::new());
                }
            }
            Tag::TableCell => {
                if let Some(row) = self.table.as_mut().and_then(|table| table.rows.last_mut()) {
                    row.push(String::new());
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                self.end_block();
                self.styles.pop();
            }
            TagEnd::Paragraph => self.end_block(),
            TagEnd::BlockQuote(_) => {
                self.end_block();
                self.indents.pop();
                self.styles.pop();
            }
            TagEnd::CodeBlock => self.code_block(),
            TagEnd::List(_) => {
                self.lists.pop();
            }
            TagEnd::Item => {
                self.end_block();
                self.indents.pop();
            }
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => {
                self.styles.pop();
            }
            TagEnd::Link => {
                self.styles.pop();
                // Where a link leads is said: the text alone could lie.
                let Some(url) = self.link.take() else { return };
                if self.table.is_some() {
                    self.text(&format!(" ({url})"));
                } else if self.spans.last().is_none_or(|span| span.content != url) {
                    self.spans.push(Span::styled(format!(" ({url})"), self.theme.dim));
                }
            }
            TagEnd::Table => self.end_table(),
            _ => {}
        }
    }

    fn code_block(&mut self) {
        let Some((language, code)) = self.code.take() else { return };
        let indent = Span::styled(format!("{}  ", self.indents.concat()), self.theme.dim);
        for line in code.trim_end_matches('\n').split('\n') {
            let line = line.replace('\t', "    ");
            let spans = highlight::line(&language, &line, self.theme);
            self.rows.extend(wrap::wrap(&spans, self.width, &indent, &indent));
        }
        self.rows.push(Row::default());
    }

    fn end_table(&mut self) {
        let Some(Table { alignments, rows }) = self.table.take() else { return };
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0).min(COLUMNS);
        let widest = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.width())
                .max()
                .unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..columns).map(widest).collect();
        // Columns share what there is; the widest give first.
        let room = usize::from(self.width).saturating_sub(columns.saturating_sub(1) * 3);
        if widths.iter().sum::<usize>() > room {
            let fits = |most: &usize| widths.iter().map(|it| it.min(most)).sum::<usize>() <= room;
            let most = (4..room.max(5)).rev().find(fits).unwrap_or(4);
            widths.iter_mut().for_each(|width| *width = (*width).min(most));
        }
        let left_out = rows.iter().map(Vec::len).max().unwrap_or(0) - columns;
        for (number, row) in rows.iter().enumerate() {
            let mut spans = Vec::new();
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map(String::as_str).unwrap_or_default();
                let style = if number == 0 { self.theme.accent } else { self.theme.text };
                spans.push(Span::styled(padded(cell, *width, alignments.get(column)), style));
                if column + 1 < columns {
                    spans.push(Span::styled(" │ ", self.theme.dim));
                }
            }
            self.rows.push(Line::from(spans).into());
            if number == 0 {
                let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
                self.rows.push(Line::styled(rule.join("─┼─"), self.theme.dim).into());
            }
        }
        if left_out > 0 {
            let words = format!("… {left_out} more columns");
            self.rows.push(Line::styled(words, self.theme.dim).into());
        }
    }
}

/// A cell in its width: cut with a sign, or filled up.
fn padded(cell: &str, width: usize, alignment: Option<&Alignment>) -> String {
    let mut shown = String::new();
    for character in cell.chars() {
        if format!("{shown}{character}").width() > width {
            while format!("{shown}…").width() > width && shown.pop().is_some() {}
            shown.push('…');
            break;
        }
        shown.push(character);
    }
    let gap = width.saturating_sub(shown.width());
    match alignment {
        Some(Alignment::Right) => format!("{}{shown}", " ".repeat(gap)),
        Some(Alignment::Center) => {
            format!("{}{shown}{}", " ".repeat(gap / 2), " ".repeat(gap - gap / 2))
        }
        _ => format!("{shown}{}", " ".repeat(gap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str, width: u16) -> Vec<String> {
        let rows = render(text, width, &Theme::default());
        rows.iter().map(|row| row.line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn the_usual_things_look_as_they_should() {
        let text = "# Title\n\nSome *words* and `code`.\n\n- one\n- two\n  - deeper\n\n1. a\n2. b\n\n> quoted\n\n\
                    ```rust\nlet x = 1;\n```\n\n[here](http://there)\n";
        let expected = [
            "Title",
            "",
            "Some words and code.",
            "",
            "• one",
            "• two",
            "  • deeper",
            "",
            "1. a",
            "2. b",
            "",
            "│ quoted",
            "",
            "  let x = 1;",
            "",
            "here (http://there)",
        ];
        assert_eq!(shown(text, 60), expected);
    }

    #[test]
    fn tables_fit_and_unfinished_blocks_are_shown() {
        let table = "| name | what |\n|---|--:|\n| a | a long description of it |\n";
        assert_eq!(
            shown(table, 24),
            ["name │              what", "─────┼──────────────────", "a    │ a long descripti…"]
        );
        assert_eq!(shown("```py\nprint(1)", 40), ["  print(1)"]);
        assert_eq!(shown("so **far", 40), ["so **far"]);
        assert_eq!(shown("- two\n  > three", 40), ["• two", "  │ three"]);
    }

    #[test]
    fn hostile_text_costs_no_more_than_its_length() {
        // Each of these took seconds or gigabytes when it was a product of two lengths.
        let quotes = format!("```rust\n{}\n```", "'\\".repeat(200_000));
        assert!(shown(&quotes, 80).len() > 1000);
        let cells = "twenty letters here |".repeat(20_000);
        let table = format!("|{cells}\n|{}\n|{cells}\n", "---|".repeat(20_000));
        assert!(shown(&table, 80).iter().any(|line| line == "… 19960 more columns"));
        let deep = format!("{} {}", ">".repeat(3_000), "word ".repeat(20_000));
        assert!(shown(&deep, 80).iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn links_and_cells_hide_nothing() {
        let table = "| a |\n|---|\n| make&#10;curl [x](http://e) |\n\nnext";
        let lines = shown(table, 60);
        assert!(lines.contains(&"make curl x (http://e)".to_owned()), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("next"));
        let link = shown("[good](http://a&#27;]0;x&#7;&#8238;b)", 80).concat();
        assert_eq!(link, "good (http://a\\u{1b}]0;x\\u{7}\\u{202e}b)");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_too_wide(
            text in "([#*_`>|\\[\\]()!~a-z0-9 \n-]{0,12}|\n```\n|\n\\| a \\| b \\|\n\\|--\\|--\\|\n|世界){0,12}",
            width in 8..60_u16,
        ) {
            for row in render(&text, width, &Theme::default()) {
                prop_assert!(row.line.width() <= usize::from(width) + 40, "{}", row.line);
            }
        }
    }
}
