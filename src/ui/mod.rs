//! What a person sees and types. It knows what happens in a run and what the user wants, nothing of the
//! supervisor: events in ([`State::on`], [`State::key`]), intents out ([`Intent`]), and a screen ([`draw`]).

mod bindings;
mod commands;
mod conversation;
mod highlight;
mod input;
mod keys;
mod markdown;
mod picker;
mod question;
mod rows;
mod state;
pub mod term;
pub mod text;
mod theme;
mod view;
mod wrap;

pub use bindings::Bindings;
pub use commands::{COMMANDS, Command};
pub use picker::{Item, Picked, Picker};
pub use state::{Facts, Intent, Running, State};
pub use theme::{Depth, Theme};
pub use view::{draw, draw_picker};
