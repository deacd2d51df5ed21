//! Confinement of one worker process by the Linux kernel.
//!
//! A **launcher** ([`run_launcher`]) is started before anything secret is read. On request of the
//! supervisor ([`Launcher::spawn`]) it clones itself into a **cell**: new user, mount, pid, network,
//! IPC, UTS and cgroup namespaces, an empty root on which only the listed trees appear, no
//! capabilities, a Landlock domain and a system call filter. The cell tries what must fail, reports
//! what is enforced ([`Enforced`]), and only then runs its program.
//!
//! Everything a cell may do is in one value, [`Confinement`], which has no default. This crate knows
//! the kernel and nothing of agents, tools, models or configuration.

mod channel;
mod enter;
mod error;
mod init;
mod launch;
mod limits;
mod mounts;
mod paths;
mod privileges;
mod probe;
mod spec;
mod sys;
mod syscalls;
mod verify;

pub use channel::{BULK_LIMIT, Channel, ChannelError, FRAME_LIMIT};
pub use enter::Enforced;
pub use error::{Failure, Step};
pub use init::Exit;
pub use launch::{Cell, Launcher, Report, StartError, harden, is_launcher, run_launcher};
pub use mounts::ProcessLimit;
pub use paths::{Grant, landlock_rules};
pub use probe::{Kernel, probe_kernel};
pub use spec::{
    Access, Confinement, Identity, Limits, Mount, Network, Program, Source, Stdio, Syscalls,
};
pub use sys::{set_terminal_size, terminal_size};
pub use syscalls::refused_calls;
pub use verify::Canary;
