//! The second wall around files: a Landlock domain that grants what the mounts grant and no more.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Step};
use crate::spec::{Access, Confinement, Mount, Network};

/// The newest ABI whose rights are used (6.12: both scopes). All of it must be there.
const NEEDED: ABI = ABI::V6;

/// What a Landlock rule grants below its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// List directories, nothing more.
    List,
    /// Read, list and execute.
    Read,
    /// Everything except device nodes.
    Write,
    /// Read, write and ioctl on existing device nodes.
    Device,
}

/// The rules of a cell, in the order they are added.
pub fn landlock_rules(confinement: &Confinement) -> Vec<(PathBuf, Grant)> {
    let mut rules: Vec<_> = confinement
        .mounts
        .iter()
        .filter_map(|entry| match entry {
            Mount::Tree { target, access, .. } | Mount::Empty { target, access, .. } => {
                let read_only = *access == Access::ReadOnly;
                Some((target.clone(), if read_only { Grant::Read } else { Grant::Write }))
            }
            Mount::Copy { target, .. } => Some((target.clone(), Grant::Write)),
            Mount::Pin { .. } | Mount::Cover { .. } | Mount::Link { .. } => None,
        })
        .collect();
    rules.push(("/".into(), Grant::List));
    rules.push(("/proc".into(), Grant::Read));
    rules.push(("/dev".into(), Grant::Device));
    rules.push(("/dev/shm".into(), Grant::Write));
    rules
}

fn rights(grant: Grant) -> BitFlags<AccessFs> {
    let read = AccessFs::from_read(NEEDED);
    match grant {
        Grant::List => AccessFs::ReadDir.into(),
        Grant::Read => read,
        Grant::Write => {
            let mut all = AccessFs::from_all(NEEDED);
            all.remove(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
            all
        }
        Grant::Device => {
            AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev
        }
    }
}

/// Restricts this process and its children for good.
pub(crate) fn restrict(confinement: &Confinement) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::because(Step::Landlock, error.to_string());
    let mut domain = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))
        .and_then(|rules| rules.scope(Scope::from_all(NEEDED)))
        .map_err(|error| failed(&error))?;
    if confinement.network == Network::None {
        // Handled and never granted: no TCP port can be bound or connected to.
        domain =
            domain.handle_access(AccessNet::from_all(NEEDED)).map_err(|error| failed(&error))?;
    }
    let mut domain = domain.create().map_err(|error| failed(&error))?;
    for (path, grant) in landlock_rules(confinement) {
        let file = match PathFd::new(&path) {
            Ok(file) => file,
            Err(error) => return Err(failed(&error)),
        };
        let rule =
            PathBeneath::new(file, applicable(&path, rights(grant)).map_err(|e| failed(&e))?);
        domain = domain.add_rule(rule).map_err(|error| failed(&error))?;
    }
    match domain.restrict_self() {
        Ok(RestrictionStatus {
            ruleset: RulesetStatus::FullyEnforced, no_new_privs: true, ..
        }) => Ok(()),
        Ok(status) => Err(failed(&format!("only partly enforced: {status:?}"))),
        Err(error) => Err(failed(&error)),
    }
}

/// A rule for a single file may only name rights that files have.
fn applicable(path: &Path, rights: BitFlags<AccessFs>) -> io::Result<BitFlags<AccessFs>> {
    let directory = std::fs::metadata(path)?.is_dir();
    Ok(if directory { rights } else { rights & AccessFs::from_file(NEEDED) })
}
