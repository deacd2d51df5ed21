//! The system call filter: a list of refusals that holds in every cell, and a few that depend on
//! its [`Syscalls`].
//!
//! Refused calls fail with EPERM. Calls that programs know how to do without fail with ENOSYS, as do
//! all that are newer than this list. A call of another architecture kills the process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use crate::error::{Failure, Step};
use crate::spec::Syscalls;

/// The last system call this list was checked against (`file_setattr`, Linux 6.17).
const NEWEST_KNOWN: u32 = 469;

/// Calls by name and number.
type Calls = &'static [(&'static str, libc::c_long)];

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Refused always and everywhere, grouped by what they would give away.
#[rustfmt::skip]
const REFUSED: &[(&str, Calls)] = &[
    ("mounts and roots", calls![
        SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_move_mount SYS_open_tree
        SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr
    ]),
    ("namespaces", calls![SYS_setns SYS_unshare]),
    ("other processes", calls![
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp
        SYS_move_pages SYS_migrate_pages
    ]),
    ("kernel programs and observation", calls![
        SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_fanotify_init SYS_syslog
        SYS_lookup_dcookie
    ]),
    ("keyrings", calls![SYS_add_key SYS_request_key SYS_keyctl]),
    ("files by handle", calls![SYS_name_to_handle_at SYS_open_by_handle_at]),
    ("the machine", calls![
        SYS_reboot SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module
        SYS_delete_module SYS_swapon SYS_swapoff SYS_acct SYS_quotactl SYS_quotactl_fd
        SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_sethostname
        SYS_setdomainname SYS_vhangup SYS_nfsservctl
    ]),
    ("memory placement", calls![SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node]),
];

#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_HERE: Calls = calls![
        SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS__sysctl SYS_ustat SYS_sysfs
    ];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: Calls = &[];

/// Answered with ENOSYS, so that callers fall back to something the filter can read: the arguments
/// of `clone3` and `openat2` are in memory, and io_uring is a second system call table.
const ABSENT: [libc::c_long; 4] = [
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

const TERMINAL_REQUESTS: [libc::Ioctl; 3] = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Adds: refuse `call` if all `conditions` hold.
fn refuse_if(
    rules: &mut Rules,
    call: libc::c_long,
    conditions: &[(u8, SeccompCmpOp, u64)],
) -> Result<(), seccompiler::BackendError> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| condition(*argument, operator.clone(), *value))
        .collect::<Result<_, _>>()?;
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

/// Adds: refuse `call` if argument `argument` has any of `bits`.
fn refuse_bits(
    rules: &mut Rules,
    call: libc::c_long,
    argument: u8,
    bits: &[u64],
) -> Result<(), seccompiler::BackendError> {
    for bit in bits {
        refuse_if(rules, call, &[(argument, SeccompCmpOp::MaskedEq(*bit), *bit)])?;
    }
    Ok(())
}

/// Not in the libc crate yet: Linux 6.15.
const NEW_MOUNTS: Calls = &[("SYS_open_tree_attr", 467)];

fn refused() -> impl Iterator<Item = &'static (&'static str, libc::c_long)> {
    REFUSED.iter().flat_map(|(_, calls)| *calls).chain(REFUSED_HERE).chain(NEW_MOUNTS)
}

fn rules(calls: Syscalls) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for (_, call) in refused() {
        rules.insert(*call, Vec::new());
    }
    refuse_bits(&mut rules, libc::SYS_clone, 0, &NAMESPACE_FLAGS.map(|flag| flag as u64))?;
    for request in TERMINAL_REQUESTS {
        refuse_if(&mut rules, libc::SYS_ioctl, &[(1, SeccompCmpOp::Eq, request)])?;
    }
    // A filter with a listener could answer calls in the place of the kernel.
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    refuse_bits(&mut rules, libc::SYS_seccomp, 1, &[listener])?;
    set_id_files(&mut rules)?;
    sockets(&mut rules, calls.sockets)?;
    if !calls.personality {
        let query = u64::from(u32::MAX);
        let other = [(0, SeccompCmpOp::Ne, 0), (0, SeccompCmpOp::Ne, query)];
        refuse_if(&mut rules, libc::SYS_personality, &other)?;
    }
    if !calls.exec {
        rules.insert(libc::SYS_execve, Vec::new());
        rules.insert(libc::SYS_execveat, Vec::new());
    }
    Ok(rules)
}

/// No file may get a set-user-id or set-group-id bit: it would be there for the host to run.
fn set_id_files(rules: &mut Rules) -> Result<(), seccompiler::BackendError> {
    let bits = [u64::from(libc::S_ISUID), u64::from(libc::S_ISGID)];
    for (call, mode) in [
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (libc::SYS_fchmodat2, 2),
        (libc::SYS_openat, 3),
        (libc::SYS_mknodat, 2),
        (libc::SYS_mkdirat, 2),
    ] {
        refuse_bits(rules, call, mode, &bits)?;
    }
    #[cfg(target_arch = "x86_64")]
    for (call, mode) in [
        (libc::SYS_chmod, 1),
        (libc::SYS_open, 2),
        (libc::SYS_creat, 1),
        (libc::SYS_mknod, 1),
        (libc::SYS_mkdir, 1),
    ] {
        refuse_bits(rules, call, mode, &bits)?;
    }
    Ok(())
}

fn sockets(rules: &mut Rules, allowed: bool) -> Result<(), seccompiler::BackendError> {
    if !allowed {
        rules.insert(libc::SYS_socket, Vec::new());
        return Ok(());
    }
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
    let other = known.map(|family| (0, SeccompCmpOp::Ne, family as u64));
    refuse_if(rules, libc::SYS_socket, &other)?;
    let kind = 0xf; // the type without SOCK_CLOEXEC and SOCK_NONBLOCK
    for raw in [libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_DCCP] {
        refuse_if(rules, libc::SYS_socket, &[(1, SeccompCmpOp::MaskedEq(kind), raw as u64)])?;
    }
    // Only plain TCP and UDP: MPTCP, SCTP and ping sockets are other ways past a TCP rule.
    let plain = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    let other = plain.map(|protocol| (2, SeccompCmpOp::Ne, protocol as u64));
    refuse_if(rules, libc::SYS_socket, &other)?;
    let fast_open = libc::MSG_FASTOPEN as u64;
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        refuse_bits(rules, call, flags, &[fast_open])?;
    }
    Ok(())
}

/// Calls whose numbers share a part of the filter. The kernel walks a filter once for every call
/// number when it is installed, so a chain of all rules would cost a third of a millisecond a cell.
const PART: u32 = 32;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Compiles the filter of a cell: the call number chooses a part, and the part is a complete filter
/// (with its own check of the architecture) for the rules of its numbers.
pub(crate) fn compile(calls: Syscalls) -> Result<BpfProgram, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::because(Step::Filter, error.to_string());
    let rules = rules(calls).map_err(|error| failed(&error))?;
    let mut absent: Vec<u32> = ABSENT.iter().map(|call| *call as u32).collect();
    if calls.exec {
        // Our own worker needs openat2, whose mode argument the filter cannot see; it starts nothing.
        absent.push(libc::SYS_openat2 as u32);
    }
    let mut parts = Vec::new();
    for first in (0..=NEWEST_KNOWN).step_by(PART as usize) {
        let own = |number: u32| (first..first + PART).contains(&number);
        let rules: Rules = rules
            .iter()
            .filter(|(call, _)| own(**call as u32))
            .map(|(call, rules)| (*call, rules.clone()))
            .collect();
        let absent: Vec<u32> = absent.iter().copied().filter(|call| own(*call)).collect();
        parts.push(part(rules, &absent).map_err(|error| failed(&error))?);
    }
    Ok(dispatched(parts))
}

/// One part: ENOSYS for the absent calls, then what seccompiler makes of the rules.
fn part(rules: Rules, absent: &[u32]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut program = Vec::new();
    for call in absent {
        program.push(step(JUMP_EQUAL, 0, 1, *call));
        program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)?;
    program.append(&mut BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Joins the parts behind a table: two steps for each, and ENOSYS for numbers beyond the last.
fn dispatched(parts: Vec<BpfProgram>) -> BpfProgram {
    let mut program = vec![step(LOAD, 0, 0, 0)];
    // Of the table's last entry: the answer for every number that no part has claimed.
    let table_end = 1 + 2 * parts.len() + 1;
    let mut start = table_end;
    let (count, mut last) = (parts.len(), 0);
    for (number, part) in parts.iter().enumerate() {
        last += PART;
        let newest = if number + 1 == count { NEWEST_KNOWN } else { last - 1 };
        program.push(step(JUMP_ABOVE, 1, 0, newest));
        let next = program.len() + 1;
        program.push(step(JUMP, 0, 0, (start - next) as u32));
        start += part.len();
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    program.extend(parts.into_iter().flatten());
    program
}

/// Installs a compiled filter on this process, for good.
pub(crate) fn install(program: &BpfProgram) -> Result<(), Failure> {
    seccompiler::apply_filter(program)
        .map_err(|error| Failure::because(Step::Filter, error.to_string()))
}

/// What the filter of a cell refuses, in words, for people who review a policy.
pub fn refused_calls(calls: Syscalls) -> Vec<String> {
    let names = |calls: Calls| {
        let names: Vec<&str> =
            calls.iter().map(|(name, _)| name.trim_start_matches("SYS_")).collect();
        names.join(" ")
    };
    let mut lines: Vec<String> =
        REFUSED.iter().map(|(group, calls)| format!("{group}: {}", names(calls))).collect();
    lines.push(format!("more: {} {}", names(REFUSED_HERE), names(NEW_MOUNTS)));
    lines.push(
        "clone with namespace flags; clone3, io_uring and calls newer than 469 (ENOSYS)".into(),
    );
    lines.push("terminal injection: TIOCSTI, TIOCLINUX, TIOCSETD".into());
    lines.push("set-user-id and set-group-id bits on files".into());
    lines.push("a filter listener of its own; calls of another architecture (killed)".into());
    if calls.sockets {
        lines.push("sockets other than local, TCP and UDP; TCP fast open".into());
    } else {
        lines.push("every socket".into());
    }
    if !calls.personality {
        lines.push("other execution domains (personality)".into());
    }
    if !calls.exec {
        lines.push("starting programs (execve, execveat)".into());
    }
    lines
}
