//! What may happen: the five modes as data, the user's rules, and the decision. Pure: no I/O.

mod command;
mod decision;
mod rule;
mod schema;
mod shell;

pub use command::CommandLists;
pub use decision::{Call, Decision, Judge, Place, Subject};
pub use rule::{Action, Rule, RuleError};
pub use schema::{
    CommandView, DiskView, Groups, Limit, Mode, ModeRule, Policy, PolicyError, RootGroup, ViewHome,
    WorkspaceView,
};
pub use shell::{Shell, analyse};
