//! Canaries: five things that must fail, tried from inside before the cell is released.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Step};
use crate::spec::Confinement;
use crate::sys;

/// One attempt and the error it was refused with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub attempt: String,
    /// The errno of the refusal.
    pub refused_with: i32,
}

/// Tries everything; an attempt that works, or fails for a reason that is no refusal, is a failure.
pub(crate) fn canaries(
    confinement: &Confinement,
    not_a_terminal: BorrowedFd,
) -> Result<Vec<Canary>, Failure> {
    let mut refused = vec![
        expect("create a file in /", &REFUSALS, create_in_root())?,
        expect("connect to another host", &REFUSALS, connect_out())?,
        expect("enter a nested user namespace", &REFUSALS, sys::unshare_user())?,
        // On something that is no terminal, an open filter would answer ENOTTY.
        expect(
            "inject terminal input",
            &[Errno::EPERM],
            sys::inject_terminal_input(not_a_terminal),
        )?,
    ];
    for path in &confinement.unreachable {
        let attempt = format!("open {}", path.display());
        refused.push(expect(&attempt, &REFUSALS, open_path(path))?);
    }
    Ok(refused)
}

const REFUSALS: [Errno; 7] = [
    Errno::EPERM,
    Errno::EACCES,
    Errno::EROFS,
    Errno::ENOENT,
    Errno::ENETUNREACH,
    Errno::ENOSPC,
    Errno::ENOTDIR,
];

fn expect(attempt: &str, refusals: &[Errno], outcome: io::Result<()>) -> Result<Canary, Failure> {
    let failed = |what: String| Err(Failure::because(Step::Verify, what));
    match outcome {
        Ok(()) => failed(format!("it was possible to {attempt}")),
        Err(error) => match error.raw_os_error() {
            Some(code) if refusals.contains(&Errno::from_raw(code)) => {
                Ok(Canary { attempt: attempt.to_owned(), refused_with: code })
            }
            _ => failed(format!("the attempt to {attempt} ended in: {error}")),
        },
    }
}

fn create_in_root() -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    open("/.zerostack-canary", flags, Mode::empty())?;
    Ok(())
}

fn connect_out() -> io::Result<()> {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Inet, SockType::Stream, kind, None)?;
    // TEST-NET-1: routed nowhere, so even a success harms nobody.
    let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
    match connect(stream.as_fd().as_raw_fd(), &SockaddrIn::from(address)) {
        Err(Errno::EINPROGRESS) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

fn open_path(path: &Path) -> io::Result<()> {
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())?;
    Ok(())
}
