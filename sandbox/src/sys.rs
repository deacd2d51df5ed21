//! The only `unsafe` in the workspace: one small function for each system call that no crate in the
//! tree offers. Nothing here decides anything; each function is one call and its error.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sched::CloneFlags;
use nix::unistd::Pid;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_fd(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor to us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Takes ownership of descriptors that `recvmsg` has put into this process.
pub(crate) fn adopt(fds: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the numbers come from SCM_RIGHTS of a message just received; the kernel made them for
    // us and no other value owns them.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Forks into new namespaces: `None` in the child, its process id in the parent.
pub(crate) fn clone_process(namespaces: CloneFlags) -> io::Result<Option<Pid>> {
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is fork(2). The callers (launcher and cell)
    // have one thread, so the child inherits no lock that a lost thread holds.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok((pid != 0).then(|| Pid::from_raw(pid as libc::pid_t)))
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: only called in a fresh child, before any owner of a descriptor above `first` lives on.
    check(unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, u32::MAX, 0) })?;
    Ok(())
}

/// Moves a descriptor to the number `to` and marks it close-on-exec there.
pub(crate) fn move_fd(fd: OwnedFd, to: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() == to {
        return Ok(fd);
    }
    // SAFETY: dup3 replaces whatever `to` named; callers pick numbers that they own.
    check_fd(libc::c_long::from(unsafe { libc::dup3(fd.as_raw_fd(), to, libc::O_CLOEXEC) }))
}

/// A detached copy of the mounts at `path` below `dir` (`path` may be empty: `dir` itself).
pub(crate) fn open_tree(dir: BorrowedFd, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | recursive) as libc::c_uint;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    check_fd(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Sets mount attributes (`MOUNT_ATTR_*`) on the tree behind `tree`.
pub(crate) fn set_mount_attributes(tree: BorrowedFd, set: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure and the empty string live through the call, and its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Attaches the detached `tree` on exactly the file or directory that `target` refers to.
pub(crate) fn move_mount(tree: BorrowedFd, target: BorrowedFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty strings, both descriptors are open.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })?;
    Ok(())
}

/// Gives the process a session keyring of its own, so that it cannot search the user's.
pub(crate) fn fresh_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) })?;
    Ok(())
}

/// Brings up `lo` in the current network namespace.
pub(crate) fn loopback_up(socket: BorrowedFd) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request structure is complete and lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))?;
    Ok(())
}

/// A descriptor for the calling process, by which another process can kill it.
pub(crate) fn pidfd_of_self() -> io::Result<OwnedFd> {
    let pid = libc::c_long::from(std::process::id());
    // SAFETY: no memory is passed.
    check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends `signal` to the process behind a pidfd.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd, signal: nix::sys::signal::Signal) -> io::Result<()> {
    let signal = signal as libc::c_int;
    // SAFETY: a null siginfo is allowed and means "as kill(2)".
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0) })?;
    Ok(())
}

/// Allows the other side of a pseudo terminal to be opened.
pub(crate) fn unlock_pty(master: BorrowedFd) -> io::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads one int from the pointer.
    check(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
    }))?;
    Ok(())
}

/// Opens the other side of a pseudo terminal's master, without a path.
pub(crate) fn pty_peer(master: BorrowedFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes its flags by value.
    check_fd(libc::c_long::from(unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags)
    }))
}

/// Makes `terminal` the controlling terminal of the calling session leader.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes its argument by value.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }))?;
    Ok(())
}

/// The size of the terminal behind `terminal`: rows and columns.
pub fn terminal_size(terminal: BorrowedFd) -> io::Result<(u16, u16)> {
    // SAFETY: an all-zero `winsize` is valid.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structure, which lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size)
    }))?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets the size of the terminal behind `terminal`.
pub fn set_terminal_size(terminal: BorrowedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel only reads the structure, which lives through the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))?;
    Ok(())
}

/// Canary: tries to push one byte into the input queue of `terminal`.
pub(crate) fn inject_terminal_input(terminal: BorrowedFd) -> io::Result<()> {
    let byte = 0u8;
    // SAFETY: the kernel reads one byte from the pointer.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, &raw const byte)
    }))?;
    Ok(())
}

/// Canary: tries to enter a user namespace of its own.
pub(crate) fn unshare_user() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) })?;
    Ok(())
}

/// The Landlock ABI version of the running kernel.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_long = 1;
    // SAFETY: with this flag the pointer must be null and the size zero.
    let abi = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION)
    })?;
    Ok(abi as u32)
}

/// Puts back the default action of signals that the Rust runtime or the launcher ignores.
pub(crate) fn default_signals() {
    for signal in [libc::SIGPIPE, libc::SIGCHLD] {
        // SAFETY: SIG_DFL is always a valid action for these signals.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Lets the kernel reap children of this process.
pub(crate) fn ignore_children() {
    // SAFETY: SIG_IGN is a valid action for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ends the process at once, without running exit handlers copied from the parent by fork.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Replaces the environment-free image by `path`, as execve(2). Returns only on failure.
pub(crate) fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut list: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer and their strings live through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}
