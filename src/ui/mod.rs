//! What a person sees. For now only the gate that text passes on its way to a terminal.

pub mod text;
