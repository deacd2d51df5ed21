//! The pictures of the README, taken of the program itself: with `ZS_PICTURES=docs/pictures` they are
//! written there, without it only made. `tests/pictures.sh` does it.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::terminal::Terminal;
use crate::support::{Account, World};

/// Size of a cell of the screen, and the colours of a terminal that has no wishes.
const CELL: (f32, f32) = (8.4, 18.0);
const PAPER: &str = "#1c1f26";
const INK: &str = "#d8dee9";
const SIXTEEN: [&str; 16] = [
    "#2e3440", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d8dee9",
    "#5c6370", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#ffffff",
];

fn color(color: vt100::Color, other: &str) -> String {
    match color {
        vt100::Color::Default => other.to_owned(),
        vt100::Color::Idx(at) => SIXTEEN.get(usize::from(at)).map_or(other, |it| it).to_owned(),
        vt100::Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

/// The screen as a picture in which the directories of the test have the names that a user's would have.
fn picture(terminal: &Terminal, world: &World) -> String {
    let parser = terminal.screen();
    let screen = parser.screen();
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (f32::from(columns) * CELL.0 + 16.0, f32::from(rows) * CELL.1 + 16.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"ui-monospace, \
         'DejaVu Sans Mono', Menlo, monospace\" font-size=\"14\" xml:space=\"preserve\">\n<rect width=\"100%\" \
         height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let style = |column: u16| {
                let cell = screen.cell(row, column)?;
                let (mut ink, mut paper) = (cell.fgcolor(), cell.bgcolor());
                if cell.inverse() {
                    (ink, paper) = (paper, ink);
                }
                Some((ink, paper, cell.bold(), cell.italic(), cell.underline()))
            };
            let first = column;
            let of = style(first);
            let mut text = String::new();
            while column < columns && style(column) == of {
                let contents = screen.cell(row, column).map(|cell| cell.contents().to_owned());
                let contents = contents.filter(|it| !it.is_empty()).unwrap_or_else(|| " ".into());
                text.push_str(&contents);
                column += 1;
            }
            let Some((ink, paper, bold, italic, underline)) = of else { continue };
            let (x, y) = (f32::from(first) * CELL.0 + 8.0, f32::from(row) * CELL.1 + 8.0);
            let wide = f32::from(column - first) * CELL.0;
            if paper != vt100::Color::Default {
                let fill = color(paper, PAPER);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{}\" fill=\"{fill}\"/>",
                    CELL.1
                );
            }
            // What follows a path keeps its place.
            let short = text
                .replace(world.home().to_str().unwrap(), "/home/me")
                .replace(world.root().to_str().unwrap(), "");
            let kept = text.chars().count() - short.trim_end().chars().count();
            let text = format!("{}{}", short.trim_end(), " ".repeat(kept));
            if text.trim().is_empty() {
                continue;
            }
            let mut more = String::new();
            for (holds, attribute) in [
                (bold, " font-weight=\"bold\""),
                (italic, " font-style=\"italic\""),
                (underline, " text-decoration=\"underline\""),
            ] {
                if holds {
                    more.push_str(attribute);
                }
            }
            let fill = color(ink, INK);
            // Each word has its place, whatever font there is.
            let mut at = 0;
            for word in text.split(' ') {
                let long = word.chars().count();
                if long > 0 {
                    let escaped =
                        word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                    let _ = writeln!(
                        svg,
                        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{fill}\" textLength=\"{:.1}\" \
                         lengthAdjust=\"spacingAndGlyphs\"{more}>{escaped}</text>",
                        x + at as f32 * CELL.0,
                        y + 13.5,
                        long as f32 * CELL.0,
                    );
                }
                at += long + 1;
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Takes a picture, writes it if that is wanted, and gives its text back.
fn take(terminal: &Terminal, world: &World, name: &str) {
    let svg = picture(terminal, world);
    assert!(svg.starts_with("<svg") && svg.matches("<text").count() > 10, "{svg}");
    assert!(!svg.contains("zerostack-it-"), "a path of the test is in the picture:\n{svg}");
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&format!("docs/pictures/{name}.svg")), "the README has no {name}");
    if let Some(directory) = std::env::var_os("ZS_PICTURES") {
        std::fs::write(Path::new(&directory).join(format!("{name}.svg")), svg).unwrap();
    }
}

fn started(world: &World, server: Option<&ModelServer>, args: &[&str]) -> Terminal {
    Terminal::start_with(world, server, args, &[("COLORTERM", Path::new("truecolor"))])
}

fn ended(mut terminal: Terminal) {
    terminal.send("\x15\x04");
    terminal.ended();
}

#[test]
fn a_conversation_with_a_change_and_a_question() {
    let world = World::new(Account::Current);
    world.write(
        "src/parse.rs",
        "pub fn lines(text: &str) -> usize {\n    let mut lines = 0;\n    for at in 0..text.len() - 1 {\n        \
         if text.as_bytes()[at] == b'\\n' {\n            lines += 1;\n        }\n    }\n    lines\n}\n",
    );
    let edits = json!([{"old": "0..text.len() - 1", "new": "0..text.len()"}]);
    let answer = "The loop left out the **last byte**, so a final line end was never counted.\n\n\
                  | file | change |\n|---|---|\n| `src/parse.rs` | the bound of the loop |\n\nShall I run the tests?";
    let server = ModelServer::start(vec![
        Reply::call("r", "read", json!({"path": "src/parse.rs"}))
            .thinking("The bound of the loop looks wrong."),
        Reply::call("e", "edit", json!({"path": "src/parse.rs", "edits": edits})),
        Reply::text(answer),
        Reply::call(
            "b",
            "bash",
            json!({"command": "cargo test --offline parse && git diff --stat"}),
        ),
        Reply::text("All pass."),
    ]);
    let mut terminal = started(&world, Some(&server), &["Why is lines() one short?"]);
    terminal.wait_for("Shall I run the tests?");
    terminal.wait("rest", |text| !text.contains("working"));
    take(&terminal, &world, "conversation");
    terminal.send("Yes\r");
    terminal.wait_for("Answer with a key.");
    take(&terminal, &world, "question");
    terminal.send("n");
    terminal.wait_for("All pass.");
    ended(terminal);
    server.finish();
}

#[test]
fn a_refusal_with_its_layer_and_what_is_enforced() {
    let world = World::new(Account::Current);
    let fetch = "curl -sS http://93.184.216.34/install.sh";
    let server = ModelServer::start(vec![
        Reply::call("b", "bash", json!({"command": fetch})),
        Reply::call("r", "read", json!({"path": "../.ssh/id_ed25519"})),
        Reply::text("I can reach neither the network nor your keys."),
    ]);
    let args = ["--allow", "bash(curl *)", "--deny", "read(../.ssh/**)", "Fetch the installer"];
    let mut terminal = started(&world, Some(&server), &args);
    terminal.wait_for("I can reach neither");
    terminal.wait("rest", |text| !text.contains("working"));
    terminal.wait_for("stopped by the sandbox: cells have no network");
    take(&terminal, &world, "refusal");
    terminal.send("/new\r");
    terminal.wait_for("Say what you want");
    terminal.send("/sandbox\r");
    terminal.wait_for("network: none in any cell");
    take(&terminal, &world, "sandbox");
    ended(terminal);
    server.finish();
}

#[test]
fn the_tour() {
    let world = World::new(Account::Current);
    world.write("README.md", "# A cake shop\n\nOrders cakes.\n");
    world.write("src/main.rs", "fn main() {\n    println!(\"cake\");\n}\n");
    world.write(".env", "TOKEN=secret\n");
    let terminal = started(&world, None, &["--provider", "demo", "Explain this project"]);
    terminal.wait_for("To work with a real model");
    terminal.wait("rest", |text| !text.contains("working"));
    take(&terminal, &world, "tour");
    ended(terminal);
}
