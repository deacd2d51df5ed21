//! Resource limits of a cell.

use nix::sys::resource::{Resource, setrlimit};

use crate::error::{AtStep, Failure, Step};
use crate::spec::Limits;

const MIB: u64 = 1024 * 1024;

pub(crate) fn apply(limits: &Limits) -> Result<(), Failure> {
    set(Resource::RLIMIT_CORE, "core files", 0)?;
    set(Resource::RLIMIT_NPROC, "processes", limits.processes)?;
    set(Resource::RLIMIT_NOFILE, "open files", limits.descriptors)?;
    set(Resource::RLIMIT_MSGQUEUE, "message queues", 0)?;
    if let Some(mib) = limits.memory_mib {
        set(Resource::RLIMIT_AS, "address space", mib * MIB)?;
    }
    if let Some(mib) = limits.file_mib {
        set(Resource::RLIMIT_FSIZE, "file size", mib * MIB)?;
    }
    if let Some(seconds) = limits.cpu_seconds {
        set(Resource::RLIMIT_CPU, "CPU time", seconds)?;
    }
    Ok(())
}

/// Sets soft and hard limit, or leaves a hard limit that is already lower.
fn set(resource: Resource, name: &str, value: u64) -> Result<(), Failure> {
    let (_, hard) = nix::sys::resource::getrlimit(resource).named(Step::Limit, name)?;
    let value = value.min(hard);
    setrlimit(resource, value, value).named(Step::Limit, name)
}
