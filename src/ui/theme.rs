//! Colours by their role, as data: `themes/`. Nothing else names a colour.

use std::str::FromStr;

use ratatui::style::{Color, Modifier, Style};
use toml::{Table, Value};

use crate::nearest::nearest;

/// The built-in themes.
const BUILT_IN: [(&str, &str); 5] = [
    ("dark", include_str!("../../themes/dark.toml")),
    ("light", include_str!("../../themes/light.toml")),
    ("contrast", include_str!("../../themes/contrast.toml")),
    ("sixteen", include_str!("../../themes/sixteen.toml")),
    ("none", include_str!("../../themes/none.toml")),
];

/// How many colours a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    None,
    Sixteen,
    Indexed,
    Full,
}

/// The styles of all roles; `themes/README.md` says what each is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Theme {
    pub text: Style,
    pub dim: Style,
    pub user: Style,
    pub accent: Style,
    pub good: Style,
    pub bad: Style,
    pub warn: Style,
    pub added: Style,
    pub removed: Style,
    pub code: Style,
    pub keyword: Style,
    pub string: Style,
    pub comment: Style,
    pub number: Style,
    pub bar: Style,
    pub found: Style,
}

impl Theme {
    /// Names of the built-in themes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The one for a terminal of which nothing else is known.
    pub fn usual(depth: Depth, light: bool) -> &'static str {
        match (depth, light) {
            (Depth::None, _) => "none",
            (Depth::Sixteen | Depth::Indexed, _) => "sixteen",
            (Depth::Full, true) => "light",
            (Depth::Full, false) => "dark",
        }
    }

    /// A built-in theme, as a terminal can show it.
    pub fn named(name: &str, depth: Depth) -> Result<Theme, String> {
        let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            let near = nearest(name, Theme::names());
            let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            let names: Vec<&str> = Theme::names().collect();
            return Err(format!("there is no theme {name:?}{near} (of {})", names.join(", ")));
        };
        Theme::parse(text, depth)
    }

    /// A theme of the user's own.
    pub fn parse(text: &str, depth: Depth) -> Result<Theme, String> {
        let mut table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut theme = match table.remove("base") {
            Some(Value::String(base)) => Theme::named(&base, Depth::Full)?,
            Some(other) => return Err(format!("base = {other}: a name is wanted")),
            None => Theme::default(),
        };
        for (name, value) in table {
            let Value::String(words) = &value else {
                return Err(format!("{name} = {value}: a style is a text, such as \"blue bold\""));
            };
            let style = style(words).map_err(|error| format!("{name} = {words:?}: {error}"))?;
            let role = theme.roles().into_iter().find(|(role, _)| *role == name);
            match role {
                Some((_, role)) => *role = style,
                None => {
                    let near = nearest(&name, Theme::default().roles().map(|(role, _)| role));
                    let near =
                        near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
                    return Err(format!("there is no role `{name}`{near}"));
                }
            }
        }
        for (_, style) in theme.roles() {
            style.fg = style.fg.and_then(|color| fitted(color, depth));
            style.bg = style.bg.and_then(|color| fitted(color, depth));
        }
        Ok(theme)
    }

    fn roles(&mut self) -> [(&'static str, &mut Style); 16] {
        [
            ("text", &mut self.text),
            ("dim", &mut self.dim),
            ("user", &mut self.user),
            ("accent", &mut self.accent),
            ("good", &mut self.good),
            ("bad", &mut self.bad),
            ("warn", &mut self.warn),
            ("added", &mut self.added),
            ("removed", &mut self.removed),
            ("code", &mut self.code),
            ("keyword", &mut self.keyword),
            ("string", &mut self.string),
            ("comment", &mut self.comment),
            ("number", &mut self.number),
            ("bar", &mut self.bar),
            ("found", &mut self.found),
        ]
    }
}

fn style(words: &str) -> Result<Style, String> {
    let mut style = Style::new();
    let mut words = words.split_whitespace();
    while let Some(word) = words.next() {
        let modifier = match word {
            "bold" => Modifier::BOLD,
            "dim" => Modifier::DIM,
            "italic" => Modifier::ITALIC,
            "underlined" => Modifier::UNDERLINED,
            "reversed" => Modifier::REVERSED,
            "on" => {
                style.bg = Some(color(words.next().unwrap_or_default())?);
                continue;
            }
            word => {
                style.fg = Some(color(word)?);
                continue;
            }
        };
        style = style.add_modifier(modifier);
    }
    Ok(style)
}

fn color(word: &str) -> Result<Color, String> {
    Color::from_str(word).map_err(|_| format!("{word:?} is no colour"))
}

/// The nearest colour that a terminal has.
fn fitted(color: Color, depth: Depth) -> Option<Color> {
    match (depth, color) {
        (Depth::None, _) => None,
        (Depth::Indexed, Color::Rgb(red, green, blue)) => {
            // A cube of 6 × 6 × 6 stands behind the sixteen.
            // Its steps are 0, 95, 135, 175, 215 and 255.
            let step = |part: u8| (part.saturating_sub(35) / 40).min(5);
            Some(Color::Indexed(16 + 36 * step(red) + 6 * step(green) + step(blue)))
        }
        (Depth::Sixteen, Color::Rgb(red, green, blue)) => {
            let light = u16::from(red) + u16::from(green) + u16::from(blue) > 380;
            let most = red.max(green).max(blue);
            let has = |part: u8| u16::from(part) * 4 > u16::from(most) * 3;
            let bits = u8::from(has(red)) | u8::from(has(green)) << 1 | u8::from(has(blue)) << 2;
            Some(Color::Indexed(if most < 40 { 0 } else { bits + if light { 8 } else { 0 } }))
        }
        (_, color) => Some(color),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_theme_gives_every_role() {
        let page = include_str!("../../themes/README.md");
        for (name, text) in BUILT_IN {
            let table: Table = toml::from_str(text).unwrap();
            for (role, _) in Theme::default().roles() {
                assert!(table.contains_key(role), "{name} has no {role}");
                assert!(page.contains(&format!("`{role}`")), "{role}");
            }
            let theme = Theme::named(name, Depth::Full).unwrap();
            // What was added and what was removed look different in every theme.
            assert_ne!(theme.added, theme.removed, "{name}");
        }
    }

    #[test]
    fn colours_fit_the_terminal_and_mistakes_are_told() {
        let of = |depth| Theme::named("dark", depth).unwrap().bad.fg;
        assert_eq!(of(Depth::Full), Some(Color::Rgb(0xff, 0x80, 0x80)));
        assert_eq!(of(Depth::Indexed), Some(Color::Indexed(210)));
        assert_eq!(of(Depth::Sixteen), Some(Color::Indexed(9)));
        assert_eq!(of(Depth::None), None);
        let own =
            Theme::parse("base = \"light\"\nuser = \"red on black bold\"", Depth::Full).unwrap();
        assert_eq!((own.user.fg, own.user.bg), (Some(Color::Red), Some(Color::Black)));
        assert_eq!(own.bad, Theme::named("light", Depth::Full).unwrap().bad);
        let wrong = |text: &str| Theme::parse(text, Depth::Full).unwrap_err();
        assert!(wrong("usr = \"red\"").contains("did you mean `user`"));
        assert!(wrong("user = \"rde\"").contains("no colour"));
        assert!(wrong("user = 3").contains("a style is a text"));
        assert!(Theme::named("drak", Depth::Full).unwrap_err().contains("did you mean dark"));
    }
}
