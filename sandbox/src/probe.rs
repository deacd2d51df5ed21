//! What the running kernel offers, as text for people. What a cell really gets is found out by
//! entering one, never from here.

use serde::Serialize;

use crate::sys;

/// Facts about the running kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    pub release: String,
    /// `None` if Landlock is absent or switched off.
    pub landlock_abi: Option<u32>,
    /// Settings that decide whether namespaces may be made; absent ones are left out.
    pub settings: Vec<(String, String)>,
}

const SETTINGS: [&str; 5] = [
    "user/max_user_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/seccomp/actions_avail",
    "dev/tty/legacy_tiocsti",
];

pub fn probe_kernel() -> Kernel {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).ok();
    let settings = SETTINGS
        .iter()
        .filter_map(|name| Some((name.replace('/', "."), read(name)?.trim().to_owned())))
        .collect();
    Kernel {
        release: read("kernel/osrelease").unwrap_or_default().trim().to_owned(),
        landlock_abi: sys::landlock_abi().ok(),
        settings,
    }
}
