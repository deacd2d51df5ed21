//! What a person sees and types. It knows what happens in a run and what the user wants, nothing of the
//! supervisor: events in ([`State::on`], [`State::key`]), intents out ([`Intent`]), and a screen ([`draw`]).

mod commands;
mod highlight;
mod input;
mod keys;
mod markdown;
mod state;
pub mod term;
pub mod text;
mod theme;
mod view;
mod wrap;

pub use commands::{COMMANDS, Command};
pub use state::{Facts, Intent, State};
pub use theme::Theme;
pub use view::{draw, draw_list};
