//! The privileged side: it holds the keys and the network, decides, and asks the launcher for cells.
//! It opens no project file on the model's behalf except to hand one granted descriptor to a worker,
//! and runs no command.

mod approval;
mod broker;
mod cells;
mod confine;
mod git;
mod host;
mod jobs;
mod mcp;
mod memory;
mod net;
mod outputs;
mod record;
mod repository;
mod rules_file;
mod run;
mod scan;
mod vault;

pub use crate::agent::{AgentEvent, Approval, Verdict};
pub use approval::{Approver, Question};
pub use broker::{Broker, Executed, Given, Grant, Options};
pub use cells::{Cells, CommandEnd, CommandRequest, Running};
pub use confine::{Rights, command, command_rights, file_worker, scanner};
pub use host::{Host, HostError, Linked, Root};
pub use mcp::{Named, PREFIX, Place as ServerPlace, ServerError, Servers, Starting};
pub use net::{Backend, Network, Recorder, is_listening};
pub use outputs::Outputs;
pub use record::{Record, Spent};
pub use repository::{How, Merged, Repository, WorktreeError};
pub use run::{CallRecord, Denial, RunResult, Session, TASKS_AT_ONCE, Tell, ran_by_user};
pub use scan::{Collected, scan};
pub use vault::{Key, KeyError, KeySource, Vault};
