//! The child side: from a fresh clone of the launcher to a confined program, one step after another.
//!
//! The order matters. Sources are opened before anything is mounted; mounts come before the
//! capabilities that make them are dropped; Landlock comes after the last mount, the filter last.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use seccompiler::BpfProgram;
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::error::{AtStep, Failure, Step};
use crate::mounts::{self, ProcessLimit};
use crate::spec::{Confinement, Network};
use crate::verify::{self, Canary};
use crate::{limits, paths, privileges, sys, syscalls};

/// What the kernel really holds a cell to, found out from inside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    pub namespaces: Vec<String>,
    pub landlock_abi: u32,
    /// Instructions of the system call filter.
    pub filter_length: u32,
    pub process_limit: ProcessLimit,
    pub canaries: Vec<Canary>,
}

/// The number of the only descriptor, besides the standard streams, that a cell keeps.
const CONTROL: i32 = 3;

/// Confines this process for good. Of the descriptors only `control` may be open.
pub(crate) fn enter(
    confinement: &Confinement,
    filter: &BpfProgram,
    identity: (Uid, Gid),
    control: &Channel,
) -> Result<Enforced, Failure> {
    // 1. Who we are: the same user, with power over the new namespaces only. The maps can be
    //    written by a dumpable process alone, and the launcher is none.
    nix::sys::prctl::set_dumpable(true).at(Step::UserMap)?;
    map_user(identity)?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).at(Step::Namespaces)?;

    // 2. What we see.
    let sources = mounts::open_sources(&confinement.mounts)?;
    let process_limit =
        mounts::enter_root(&confinement.mounts, sources, confinement.limits.processes)?;
    nix::unistd::chdir(&confinement.directory).on(Step::Attach, &confinement.directory)?;
    nix::unistd::sethostname("cell").at(Step::Namespaces)?;
    if confinement.network == Network::Loopback {
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .at(Step::Loopback)?;
        sys::loopback_up(any.as_fd()).at(Step::Loopback)?;
    }

    // 3. What we hold.
    sys::fresh_session_keyring().at(Step::Keyring)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    limits::apply(&confinement.limits)?;

    // 4. What we may do.
    privileges::drop_all()?;
    paths::restrict(confinement)?;
    syscalls::install(filter)?;
    // Dropping privileges clears the parent-death signal.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).at(Step::Namespaces)?;

    // 5. Is it true?
    let canaries = verify::canaries(confinement, control.as_fd())?;
    Ok(Enforced {
        namespaces: ["user", "mount", "pid", "net", "ipc", "uts", "cgroup"]
            .map(String::from)
            .into(),
        landlock_abi: sys::landlock_abi().at(Step::Landlock)?,
        filter_length: filter.len() as u32,
        process_limit,
        canaries,
    })
}

/// Maps the one user and group that the launcher ran as, and no other.
fn map_user((uid, gid): (Uid, Gid)) -> Result<(), Failure> {
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ] {
        std::fs::write(file, text).named(Step::UserMap, file)?;
    }
    Ok(())
}

/// Closes every descriptor but the control channel's, which becomes [`CONTROL`]. The standard streams
/// become `/dev/null` until a command gets its own.
pub(crate) fn keep_only(control: OwnedFd) -> Result<Channel, Failure> {
    let null =
        open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).at(Step::Descriptors)?;
    nix::unistd::dup2_stdin(&null).at(Step::Descriptors)?;
    nix::unistd::dup2_stdout(&null).at(Step::Descriptors)?;
    nix::unistd::dup2_stderr(&null).at(Step::Descriptors)?;
    drop(null);
    let control = sys::move_fd(control, CONTROL).at(Step::Descriptors)?;
    sys::close_from(CONTROL + 1).at(Step::Descriptors)?;
    Ok(Channel::from_socket(control))
}
