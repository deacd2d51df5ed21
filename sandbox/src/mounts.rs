//! The cell's file system: an empty root on which only the listed trees appear.
//!
//! Every source is opened first and checked against its identity; from then on mounts are made by
//! descriptor, so nobody can swap a path between the check and the use.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::error::{AtStep, Failure, Step};
use crate::spec::{Access, Identity, Mount, Source};
use crate::sys;

/// Any directory of the host will do; the new root hides it for the moment it takes to pivot.
const STAGE: &str = "/tmp";
const COVER_DIRECTORY: &str = ".cover-directory";
const COVER_FILE: &str = ".cover-file";

/// Process 1 of a cell is ours; what a process may not trace, it does not see.
const HIDE_INIT: &str = "hidepid=ptraceable";

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// A detached tree for each mount that has a source, in the same order.
#[derive(Debug)]
pub(crate) struct Sources(Vec<Option<OwnedFd>>);

/// Opens all sources. Must run before anything is mounted.
pub(crate) fn open_sources(mounts: &[Mount]) -> Result<Sources, Failure> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .at(Step::Root)?;
    let open = |entry: &Mount| match entry {
        Mount::Tree { source, access, .. } => open_source(source, *access).map(Some),
        Mount::Copy { source, .. } => open_source(source, Access::ReadOnly).map(Some),
        _ => Ok(None),
    };
    mounts.iter().map(open).collect::<Result<_, _>>().map(Sources)
}

fn open_source(source: &Source, access: Access) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let file = open(&source.path, flags, Mode::empty()).on(Step::Source, &source.path)?;
    if let Some(expected) = source.identity {
        let found = fstat(&file).on(Step::Identity, &source.path)?;
        if (Identity { device: found.st_dev, inode: found.st_ino }) != expected {
            let gone = io::Error::from_raw_os_error(libc::ESTALE);
            return Err(Failure::new(Step::Identity, source.path.display().to_string(), &gone));
        }
    }
    let tree = sys::open_tree(file.as_fd(), Path::new(""), true).on(Step::Source, &source.path)?;
    set_access(tree.as_fd(), access).on(Step::Source, &source.path)?;
    Ok(tree)
}

fn set_access(tree: BorrowedFd, access: Access) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if access == Access::ReadOnly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    sys::set_mount_attributes(tree, set, true)
}

/// Builds the root with `mounts`, `/dev` and `/proc`, and makes it the root of this process.
pub(crate) fn enter_root(
    mounts: &[Mount],
    sources: Sources,
    processes: u64,
) -> Result<ProcessLimit, Failure> {
    let devices = open_devices()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), STAGE, Some("tmpfs"), flags, Some("size=4m,mode=0755")).at(Step::Root)?;
    let root = open(STAGE, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at(Step::Root)?;
    make_covers(root.as_fd()).at(Step::Cover)?;
    for (entry, tree) in mounts.iter().zip(sources.0) {
        apply(root.as_fd(), entry, tree)?;
    }
    remove_covers(root.as_fd()).at(Step::Cover)?;
    mount_devices(root.as_fd(), &devices)?;
    let limit = mount_proc(root.as_fd(), processes)?;
    sys::set_mount_attributes(root.as_fd(), libc::MOUNT_ATTR_RDONLY, false).at(Step::Root)?;
    pivot(root.as_fd()).at(Step::Pivot)?;
    Ok(limit)
}

fn apply(root: BorrowedFd, entry: &Mount, tree: Option<OwnedFd>) -> Result<(), Failure> {
    match (entry, tree) {
        (Mount::Tree { target, .. }, Some(tree)) => {
            attach(root, target, tree.as_fd()).on(Step::Attach, target)
        }
        (Mount::Copy { target, size_mib, .. }, Some(tree)) => {
            attach(root, target, tree.as_fd()).on(Step::Attach, target)?;
            copy_on_write(root, target, *size_mib).on(Step::Copy, target)
        }
        (Mount::Empty { target, size_mib, access }, _) => empty(root, target, *size_mib, 0o1777)
            .and_then(|()| set_access(look_up(root, target)?.as_fd(), *access))
            .on(Step::Attach, target),
        (Mount::Pin { tree, path, access }, _) => {
            pin(root, tree, path, *access).on(Step::Pin, &tree.join(path))
        }
        (Mount::Cover { tree, path }, _) => {
            cover(root, tree, path).on(Step::Cover, &tree.join(path))
        }
        (Mount::Link { target, to }, _) => link(root, target, to).on(Step::Attach, target),
        (entry, None) => Err(Failure::because(Step::Attach, format!("no source for {entry:?}"))),
    }
}

/// Opens `path` (absolute, as seen in the cell) without leaving the new root.
fn look_up(root: BorrowedFd, path: &Path) -> nix::Result<OwnedFd> {
    let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(inside);
    openat2(root, path, how)
}

/// Opens `path` below `tree`, following no link at all: the last name may be a link itself.
fn look_up_beneath(root: BorrowedFd, tree: &Path, path: &Path) -> nix::Result<OwnedFd> {
    let tree = look_up(root, tree)?;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat2(&tree, path, OpenHow::new().flags(flags).resolve(beneath))
}

/// Like [`look_up`], making the missing part of the path.
fn ensure(root: BorrowedFd, path: &Path, directory: bool) -> nix::Result<OwnedFd> {
    match look_up(root, path) {
        Err(Errno::ENOENT) => {}
        found => return found,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    let parent = ensure(root, parent, true)?;
    if directory {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(&parent, name, flags, Mode::from_bits_truncate(0o444))?;
    }
    look_up(root, path)
}

fn is_directory(file: BorrowedFd) -> nix::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR)
}

fn attach(root: BorrowedFd, target: &Path, tree: BorrowedFd) -> io::Result<()> {
    let place = ensure(root, target, is_directory(tree)?)?;
    if target == Path::new("/") {
        return Err(Errno::EINVAL.into());
    }
    sys::move_mount(tree, place.as_fd())
}

/// The path by which mount(2) reaches an open descriptor.
fn by_descriptor(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn empty(root: BorrowedFd, target: &Path, size_mib: u64, mode: u32) -> io::Result<()> {
    let place = ensure(root, target, true)?;
    let options = format!("size={size_mib}m,nr_inodes={},mode={mode:o}", 1024 + size_mib * 64);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &by_descriptor(&place), Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Puts an overlay over the read-only tree at `target`, whose changes live in memory.
fn copy_on_write(root: BorrowedFd, target: &Path, size_mib: u64) -> io::Result<()> {
    let scratch = Path::new("/.scratch");
    empty(root, scratch, size_mib, 0o700)?;
    let memory = look_up(root, scratch)?;
    let mode = Mode::from_bits_truncate(0o755);
    mkdirat(&memory, "upper", mode)?;
    mkdirat(&memory, "work", mode)?;
    let place = look_up(root, target)?;
    let (lower, memory_path) = (by_descriptor(&place), by_descriptor(&memory));
    let options = format!(
        "lowerdir={lower},upperdir={memory}/upper,workdir={memory}/work,userxattr",
        lower = lower.display(),
        memory = memory_path.display(),
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), &lower, Some("overlay"), flags, Some(options.as_str()))?;
    umount2(&memory_path, MntFlags::MNT_DETACH)?;
    unlinkat(root, ".scratch", UnlinkatFlags::RemoveDir)?;
    Ok(())
}

fn pin(root: BorrowedFd, tree: &Path, path: &Path, access: Access) -> io::Result<()> {
    let place = match look_up_beneath(root, tree, path) {
        Ok(place) => place,
        // Gone since the policy was compiled: there is nothing left to protect.
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let copy = sys::open_tree(place.as_fd(), Path::new(""), true)?;
    set_access(copy.as_fd(), access)?;
    sys::move_mount(copy.as_fd(), place.as_fd())
}

fn make_covers(root: BorrowedFd) -> io::Result<()> {
    mkdirat(root, COVER_DIRECTORY, Mode::empty())?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(root, COVER_FILE, flags, Mode::empty())?;
    Ok(())
}

/// The covers stay where they are mounted; only their names in the root go away.
fn remove_covers(root: BorrowedFd) -> io::Result<()> {
    unlinkat(root, COVER_DIRECTORY, UnlinkatFlags::RemoveDir)?;
    unlinkat(root, COVER_FILE, UnlinkatFlags::NoRemoveDir)?;
    Ok(())
}

fn cover(root: BorrowedFd, tree: &Path, path: &Path) -> io::Result<()> {
    let place = match look_up_beneath(root, tree, path) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let name = if is_directory(place.as_fd())? { COVER_DIRECTORY } else { COVER_FILE };
    let copy = sys::open_tree(root, Path::new(name), false)?;
    set_access(copy.as_fd(), Access::ReadOnly)?;
    sys::move_mount(copy.as_fd(), place.as_fd())
}

fn link(root: BorrowedFd, target: &Path, to: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Errno::EINVAL.into());
    };
    symlinkat(to, ensure(root, parent, true)?, name)?;
    Ok(())
}

fn open_devices() -> Result<Vec<(PathBuf, OwnedFd)>, Failure> {
    let open_device = |name: &&str| {
        let path = Path::new("/dev").join(name);
        let file =
            open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).on(Step::Device, &path)?;
        let tree = sys::open_tree(file.as_fd(), Path::new(""), false).on(Step::Device, &path)?;
        // Read-only keeps the node's mode, owner and times, which are the host's; it does not keep
        // anyone from writing to the device.
        let fixed = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        sys::set_mount_attributes(tree.as_fd(), fixed, false).on(Step::Device, &path)?;
        Ok((path, tree))
    };
    DEVICES.iter().map(open_device).collect()
}

fn mount_devices(root: BorrowedFd, devices: &[(PathBuf, OwnedFd)]) -> Result<(), Failure> {
    let dev = Path::new("/dev");
    // Not sticky and world-writable: there the kernel refuses `> /dev/null` to all but its owner.
    empty(root, dev, 1, 0o755).on(Step::Device, dev)?;
    for (path, tree) in devices {
        attach(root, path, tree.as_fd()).on(Step::Device, path)?;
    }
    let pts = Path::new("/dev/pts");
    let place = ensure(root, pts, true).on(Step::Device, pts)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), &by_descriptor(&place), Some("devpts"), flags, options)
        .on(Step::Device, pts)?;
    let shared = Path::new("/dev/shm");
    empty(root, shared, 256, 0o1777).on(Step::Device, shared)?;
    for (name, to) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        link(root, Path::new(name), Path::new(to)).on(Step::Device, Path::new(name))?;
    }
    let place = look_up(root, dev).on(Step::Device, dev)?;
    sys::set_mount_attributes(place.as_fd(), libc::MOUNT_ATTR_RDONLY, false).on(Step::Device, dev)
}

/// How the number of processes in a cell is held down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessLimit {
    /// `RLIMIT_NPROC` of the cell's user namespace, and the cell's own `pid_max` (Linux 6.14).
    Namespace,
    /// `RLIMIT_NPROC` alone, which does not bind the superuser.
    Rlimit,
}

/// Mounts `/proc`, uses it to set the two limits that live there, and makes it read-only: it holds
/// settings of the whole machine that uid 0 may write without any capability.
fn mount_proc(root: BorrowedFd, processes: u64) -> Result<ProcessLimit, Failure> {
    let proc = Path::new("/proc");
    let place = ensure(root, proc, true).on(Step::Proc, proc)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &by_descriptor(&place), Some("proc"), flags, Some(HIDE_INIT))
        .at(Step::Proc)?;
    let fresh = look_up(root, proc).at(Step::Proc)?;
    write_setting(&fresh, "sys/user/max_user_namespaces", "0").at(Step::NestedNamespaces)?;
    // 300 is what the kernel keeps for itself; a smaller value is refused.
    let most = (processes + 2).max(301).to_string();
    let limit = match write_setting(&fresh, "sys/kernel/pid_max", &most) {
        Ok(()) => ProcessLimit::Namespace,
        Err(_) => ProcessLimit::Rlimit,
    };
    sys::set_mount_attributes(fresh.as_fd(), libc::MOUNT_ATTR_RDONLY, false).at(Step::Proc)?;
    Ok(limit)
}

fn write_setting(proc: &OwnedFd, name: &str, value: &str) -> io::Result<()> {
    let file = openat(proc, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, value.as_bytes())?;
    Ok(())
}

fn pivot(root: BorrowedFd) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}
