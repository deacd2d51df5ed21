//! Capabilities: all five sets emptied, and the kernel asked whether they are.

use std::io;

use caps::CapSet;

use crate::error::{Failure, Step};

const SETS: [CapSet; 5] =
    [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted];

/// Drops every capability for good and refuses new ones on exec.
pub(crate) fn drop_all() -> Result<(), Failure> {
    nix::sys::prctl::set_no_new_privs()
        .map_err(|errno| Failure::new(Step::Capabilities, "", &io::Error::from(errno)))?;
    let failed =
        |error: caps::errors::CapsError| Failure::because(Step::Capabilities, error.to_string());
    for set in SETS {
        caps::clear(None, set).map_err(failed)?;
    }
    for set in SETS {
        let left = caps::read(None, set).map_err(failed)?;
        if !left.is_empty() {
            return Err(Failure::because(
                Step::Capabilities,
                format!("{set:?} still has {left:?}"),
            ));
        }
    }
    Ok(())
}
