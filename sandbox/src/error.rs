//! One error for each step of entering a cell, with its object and the kernel's reason.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A step on the way into a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Step {
    #[error("start the launcher")]
    Launcher,
    #[error("create the namespaces")]
    Namespaces,
    #[error("map the user into the namespace")]
    UserMap,
    #[error("open the source")]
    Source,
    #[error("check that the source is the one that was approved")]
    Identity,
    #[error("mount the new root")]
    Root,
    #[error("attach")]
    Attach,
    #[error("make a private copy of")]
    Copy,
    #[error("protect")]
    Pin,
    #[error("cover")]
    Cover,
    #[error("set up the device")]
    Device,
    #[error("mount a fresh /proc")]
    Proc,
    #[error("switch to the new root")]
    Pivot,
    #[error("bring up the loopback interface")]
    Loopback,
    #[error("forbid nested user namespaces")]
    NestedNamespaces,
    #[error("get a fresh session keyring")]
    Keyring,
    #[error("set the limit on")]
    Limit,
    #[error("set up the terminal")]
    Terminal,
    #[error("close inherited descriptors")]
    Descriptors,
    #[error("drop all capabilities")]
    Capabilities,
    #[error("restrict paths with Landlock")]
    Landlock,
    #[error("install the system call filter")]
    Filter,
    #[error("verify the confinement")]
    Verify,
    #[error("start the command")]
    Exec,
    #[error("talk to the cell")]
    Channel,
}

/// Why a cell could not be entered or its program not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub step: Step,
    /// The path or name the step was about; empty if the step says it all.
    pub object: String,
    /// The kernel's reason; 0 if the reason is in `detail`.
    pub errno: i32,
    pub detail: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {}", self.step)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        match (self.errno, self.detail.as_str()) {
            (0, detail) => write!(f, ": {detail}"),
            (errno, "") => write!(f, ": {}", io::Error::from_raw_os_error(errno)),
            (errno, detail) => write!(f, ": {detail}: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(step: Step, object: impl Into<String>, error: &io::Error) -> Failure {
        let errno = error.raw_os_error().unwrap_or(0);
        let detail = if errno == 0 { error.to_string() } else { String::new() };
        Failure { step, object: object.into(), errno, detail }
    }

    pub(crate) fn because(step: Step, detail: impl Into<String>) -> Failure {
        Failure { step, object: String::new(), errno: 0, detail: detail.into() }
    }

    /// Whether the machine, and not this one request, cannot confine.
    pub fn cannot_confine(&self) -> bool {
        !matches!(self.step, Step::Exec | Step::Source | Step::Identity | Step::Channel)
    }

    /// What the user can do about it, if that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self.step {
            Step::Namespaces | Step::UserMap | Step::Root | Step::Loopback => Some(
                "user namespaces must be allowed: look at `sysctl user.max_user_namespaces` (not 0), \
                 `kernel.unprivileged_userns_clone` (1), `kernel.apparmor_restrict_unprivileged_userns` \
                 (0, or an AppArmor profile with `userns,` for this program); in a container its \
                 seccomp profile must allow clone, unshare and mount",
            ),
            Step::Proc => Some(
                "a fresh /proc needs a host /proc without masked entries: in a container start it \
                 with an unmasked /proc (for Docker: --security-opt systempaths=unconfined)",
            ),
            Step::Landlock => Some(
                "Landlock must be built in and listed in the kernel's `lsm=` parameter (Linux 6.12 or \
                 newer, ABI 6)",
            ),
            Step::Filter => Some("the kernel must be built with CONFIG_SECCOMP_FILTER"),
            Step::Copy => Some(
                "a private copy of the workspace needs overlayfs with user attributes on tmpfs \
                 (Linux 6.6 or newer) and a workspace that is not itself an overlay or a network \
                 file system",
            ),
            Step::Verify => Some(
                "something that must be refused was possible; please report this with the output of \
                 `zerostack doctor`",
            ),
            _ => None,
        }
    }
}

/// Attaches step and object to an error of the operating system.
pub(crate) trait AtStep<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
    fn on(self, step: Step, path: &Path) -> Result<T, Failure>;
    fn named(self, step: Step, name: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> AtStep<T> for Result<T, E> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.named(step, "")
    }

    fn on(self, step: Step, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, path.display().to_string(), &error.into()))
    }

    fn named(self, step: Step, name: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, name, &error.into()))
    }
}
