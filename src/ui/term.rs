//! The terminal: taken over, given back, also after a panic. The only file that knows how.

use std::io::{self, Stdout, Write, stdout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture, Event,
    EventStream,
};
use crossterm::execute;
use crossterm::terminal::{
    DisableLineWrap, EnableLineWrap, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use futures_util::StreamExt;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::theme::Depth;

/// The one stream of what is typed. Where one is dropped, the next is woken by that, and what was typed at the
/// same moment would wait there for another key.
static INPUT: Mutex<Option<EventStream>> = Mutex::new(None);

/// What is typed, for whoever reads it now.
#[derive(Debug)]
pub struct Keys(Option<EventStream>);

impl Keys {
    pub fn take() -> Keys {
        let before = INPUT.lock().ok().and_then(|mut input| input.take());
        Keys(Some(before.unwrap_or_default()))
    }

    /// The next event; nothing reads between two calls.
    pub async fn next(&mut self) -> Option<io::Result<Event>> {
        self.0.as_mut()?.next().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Ok(mut input) = INPUT.lock() {
            *input = self.0.take();
        }
    }
}

/// The screen while it is ours. Dropping it gives it back.
#[derive(Debug)]
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub fn take() -> io::Result<Screen> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // First the terminal, then the words: they would be lost on the other screen.
            give_back();
            before(panic);
        }));
        take_over()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Screen { terminal })
    }

    /// Gives the terminal back for a while and takes it again, for Ctrl-Z.
    pub fn pause(&mut self, during: impl FnOnce()) -> io::Result<()> {
        give_back();
        during();
        take_over()?;
        // Made anew: everything is drawn again, and no answer of the terminal is waited for.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether it is ours now. What is given back twice would put the cursor where it was before, over words
/// that were written since.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn take_over() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(
        stdout(),
        EnterAlternateScreen,
        // A character that is wider than it was thought to be stays on its row.
        DisableLineWrap,
        EnableBracketedPaste,
        EnableMouseCapture
    )
}

fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(stdout(), DisableMouseCapture, DisableBracketedPaste, EnableLineWrap);
    let _ = execute!(stdout(), LeaveAlternateScreen);
    let _ = execute!(stdout(), crossterm::cursor::Show);
    let _ = disable_raw_mode();
}

/// How many colours the terminal has, from what it says about itself.
pub fn depth(no_color: bool) -> Depth {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let term = variable("TERM");
    let full = matches!(variable("COLORTERM").as_str(), "truecolor" | "24bit");
    match () {
        () if no_color || term == "dumb" => Depth::None,
        () if full || term.ends_with("-direct") => Depth::Full,
        () if term.contains("256color") => Depth::Indexed,
        () => Depth::Sixteen,
    }
}

/// Whether its background is light, where it says so.
pub fn is_light() -> bool {
    let colors = std::env::var("COLORFGBG").unwrap_or_default();
    matches!(colors.rsplit(';').next(), Some("7" | "15"))
}

/// Calls the user who looks elsewhere, by the bell or by a notification of the terminal (OSC 9). The
/// words are the program's own.
pub fn call(desktop: bool, words: &str) -> io::Result<()> {
    match desktop {
        true => write!(stdout(), "\x1b]9;zerostack: {words}\x07")?,
        false => write!(stdout(), "\x07")?,
    }
    stdout().flush()
}

/// Puts text on the clipboard of whoever sees the terminal, also over SSH (OSC 52).
pub fn copy(text: &str) -> io::Result<()> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    write!(stdout(), "\x1b]52;c;{encoded}\x07")?;
    stdout().flush()
}
