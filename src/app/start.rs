//! What every front end needs before it can start: the host, the policy, the rules.

use std::path::Path;

use zerostack_sandbox::{Failure, StartError};

use crate::cli::RunFlags;
use crate::policy::{Action, Groups, Mode, Policy, Rule};
use crate::report::{ExitKind, Report};
use crate::supervisor::{self, Cells, Host, HostError};

/// Facts of the host, or why this place is no workspace.
pub fn host(add_dir: &[String]) -> Result<Host, Report> {
    Host::find(std::env::vars_os(), add_dir).map_err(|error| match error {
        HostError::TooWide(_) | HostError::NotText(_) | HostError::AddedDirectory(..) => {
            Report::usage(error)
        }
        HostError::NoHome | HostError::NoDirectory(_) => Report::error(error),
    })
}

/// The groups and one policy: the user's own file for the mode if there is one, the built-in one
/// otherwise. A policy that does not load ends the program.
pub fn policy(mode: Mode, host: &Host) -> Result<(Groups, Policy), Report> {
    let groups = Groups::load().map_err(Report::error)?;
    let file = host.configuration().join("policies").join(format!("{mode}.toml"));
    let name = file.display().to_string();
    let unreadable = |error: std::io::Error| Report::error(format!("cannot read {name}: {error}"));
    let policy = match std::fs::symlink_metadata(&file) {
        // A link could lead into a workspace, where a command may write.
        Ok(facts) if !facts.is_file() => {
            return Err(Report::error(format!("{name} must be a regular file, not a link")));
        }
        Ok(_) => {
            let text = std::fs::read_to_string(&file).map_err(unreadable)?;
            Policy::parse(&name, &text, &groups)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Policy::load(mode, &groups),
        Err(error) => return Err(unreadable(error)),
    };
    let policy = policy.map_err(|error| {
        Report::error(error)
            .hint("`zerostack policy show` prints the policies; a file with an error is never used")
    })?;
    if policy.name != mode {
        return Err(Report::error(format!("{name} says that it is mode {}", policy.name)));
    }
    Ok((groups, policy))
}

/// Looks through the workspace for names to protect.
pub fn scan(
    cells: &Cells,
    policy: &Policy,
    groups: &Groups,
    host: &mut Host,
) -> Result<(), Report> {
    let found = runtime()?.block_on(supervisor::scan(cells, policy, groups, Vec::new(), host));
    found.map_err(|error| start_report(&error))?;
    warn_incomplete(host);
    Ok(())
}

/// Says which directories were too large to look through.
pub fn warn_incomplete(host: &Host) {
    for root in host.roots.iter().filter(|root| root.found.incomplete) {
        let path = root.path.display();
        eprintln!(
            "warning: {path} could not be looked through completely: deep in it, secrets are not covered and .git is not protected"
        );
    }
}

/// One thread is enough: the work is done in cells and by the model's server.
pub fn runtime() -> Result<tokio::runtime::Runtime, Report> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Report::error(format!("cannot start: {error}")))
}

/// The rules of the command line.
pub fn rules(flags: &RunFlags, workspace: &Path) -> Result<Vec<Rule>, Report> {
    let lists =
        [(&flags.deny, Action::Deny), (&flags.ask, Action::Ask), (&flags.allow, Action::Allow)];
    let parse = |(texts, action): (&Vec<String>, Action)| {
        let texts = texts.clone();
        texts.into_iter().map(move |text| Rule::parse(action, &text, workspace))
    };
    lists.into_iter().flat_map(parse).collect::<Result<_, _>>().map_err(Report::usage)
}

/// A cell that could not be started, in words.
pub fn start_report(error: &StartError) -> Report {
    match error {
        StartError::Refused(failure) => failure_report(failure),
        StartError::Channel(_) => Report::new(ExitKind::CannotConfine, error)
            .hint("`zerostack doctor` shows what this machine can confine"),
    }
}

pub fn failure_report(failure: &Failure) -> Report {
    if !failure.cannot_confine() {
        return Report::error(failure);
    }
    let report =
        Report::new(ExitKind::CannotConfine, format!("this machine cannot confine: {failure}"));
    match failure.hint() {
        Some(hint) => report.hint(hint),
        None => report.hint("`zerostack doctor` shows what this machine can confine"),
    }
}
