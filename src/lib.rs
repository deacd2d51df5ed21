//! zerostack: a coding agent whose tool calls run in cells that the kernel confines.
//!
//! `ARCHITECTURE.md` says which module may know which.

pub mod agent;
pub mod model;
pub mod policy;
pub mod tools;
pub mod wire;
pub mod worker;
