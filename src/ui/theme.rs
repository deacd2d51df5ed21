//! Colours by their role. A theme is data; nothing else names a colour.

use ratatui::style::{Color, Modifier, Style};

/// The styles of all roles.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// Ordinary text.
    pub text: Style,
    /// What matters less: hints, times, output of tools.
    pub dim: Style,
    /// What the user said, and where they type.
    pub user: Style,
    /// Headings, names, the thing that is chosen.
    pub accent: Style,
    pub good: Style,
    pub bad: Style,
    /// What wants attention: questions, warnings.
    pub warn: Style,
    pub added: Style,
    pub removed: Style,
    pub code: Style,
    pub keyword: Style,
    pub string: Style,
    pub comment: Style,
    pub number: Style,
    /// The status line.
    pub bar: Style,
}

impl Theme {
    /// No colours, or 16, so that the terminal's own palette decides how they look.
    pub fn choose(no_color: bool) -> Theme {
        if no_color { Theme::plain() } else { Theme::sixteen() }
    }

    fn sixteen() -> Theme {
        let of = |color: Color| Style::new().fg(color);
        Theme {
            text: Style::new(),
            dim: of(Color::DarkGray),
            user: of(Color::Cyan),
            accent: of(Color::Blue).add_modifier(Modifier::BOLD),
            good: of(Color::Green),
            bad: of(Color::Red),
            warn: of(Color::Yellow),
            added: of(Color::Green),
            removed: of(Color::Red),
            code: of(Color::Magenta),
            keyword: of(Color::Blue),
            string: of(Color::Green),
            comment: of(Color::DarkGray),
            number: of(Color::Yellow),
            bar: of(Color::DarkGray),
        }
    }

    /// No colours: weight and brightness alone.
    fn plain() -> Theme {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let dim = Style::new().add_modifier(Modifier::DIM);
        let text = Style::new();
        Theme {
            text,
            dim,
            user: bold,
            accent: bold,
            good: text,
            bad: bold,
            warn: bold,
            added: text,
            removed: dim,
            code: text,
            keyword: bold,
            string: text,
            comment: dim,
            number: text,
            bar: dim,
        }
    }
}
