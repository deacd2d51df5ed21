//! zerostack: a coding agent whose tool calls run in cells that the kernel confines.
//!
//! `ARCHITECTURE.md` says which module may know which.

pub mod agent;
pub mod app;
pub mod cli;
pub mod config;
pub mod mcp;
pub mod memory;
pub mod model;
mod nearest;
pub mod policy;
pub mod prompt;
pub mod report;
pub mod session;
pub mod supervisor;
pub mod tools;
pub mod ui;
pub mod wire;
pub mod worker;
