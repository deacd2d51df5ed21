//! Which session a run goes on with, and where.

use toml::Table;

use super::start;
use crate::cli::RunFlags;
use crate::config::{Layer, Origin};
use crate::model::providers::DEMO;
use crate::report::Report;
use crate::session::{self, Journal, Loaded, State, Summary};
use crate::supervisor::Host;
use crate::ui::text;

/// A session that goes on, locked.
pub struct Resumed {
    pub loaded: Loaded,
    pub journal: Journal,
}

impl Resumed {
    /// Locked first: what is read then is what is gone on with.
    pub fn open(summary: &Summary) -> Result<Resumed, Report> {
        let journal = Journal::open(&summary.path).map_err(Report::error)?;
        let loaded = session::load(&summary.path).map_err(Report::error)?;
        Ok(Resumed { loaded, journal })
    }
}

/// What a session brings: its provider, model and prompt, and its mode where that is the stricter one.
pub fn layer(state: &State) -> Layer {
    let mut table = Table::new();
    let values = [
        ("provider", &state.provider),
        ("model", &state.model),
        ("mode", &state.mode),
        ("prompt", &state.prompt),
    ];
    // A recording or a script is nothing to go on with.
    let real = !matches!(state.provider.as_str(), "replay" | DEMO);
    for (key, value) in values {
        if !value.is_empty() && (real || !matches!(key, "provider" | "model")) {
            table.insert(key.into(), value.as_str().into());
        }
    }
    Layer { origin: Origin::Session, table }
}

/// Refuses to send a conversation to another place than it was held with, unless that was typed.
pub fn check_place(state: &State, base_url: &str, flags: &RunFlags) -> Result<(), Report> {
    let before = &state.base_url;
    let typed = flags.provider.is_some() || flags.base_url.is_some() || flags.quick_model.is_some();
    if typed || before.is_empty() || before == base_url {
        return Ok(());
    }
    let (before, base_url) = (text::clean(before), text::clean(base_url));
    Err(Report::usage(format!(
        "this session was held with {before}; going on would send all of it to {base_url}"
    ))
    .hint(format!("say where it is to go: --base-url {before}, or --provider NAME")))
}

/// The host as the run sees it, in the session's own directory if one goes on.
pub fn place(flags: &RunFlags) -> Result<(Host, Option<Resumed>), Report> {
    let host = start::host_of(flags)?;
    let Some(summary) = wanted(flags, &host)? else { return Ok((host, None)) };
    let resumed = Resumed::open(&summary)?;
    let directory = &resumed.loaded.header.directory;
    if *directory == host.workspace {
        return Ok((host, Some(resumed)));
    }
    std::env::set_current_dir(directory).map_err(|error| {
        Report::error(format!(
            "session {} worked in {}, which cannot be entered: {error}",
            summary.id,
            directory.display()
        ))
    })?;
    eprintln!(
        "zerostack: the session goes on in {}",
        text::clean(&directory.display().to_string())
    );
    Ok((start::host_of(flags)?, Some(resumed)))
}

fn wanted(flags: &RunFlags, host: &Host) -> Result<Option<Summary>, Report> {
    if let Some(name) = &flags.session {
        let hint = "`zerostack sessions` lists them";
        let found = session::find(&host.sessions(), name);
        return found.map(Some).map_err(|error| Report::usage(error).hint(hint));
    }
    if flags.continue_ {
        return newest(host).map(Some);
    }
    Ok(None)
}

/// The newest session of this directory.
pub fn newest(host: &Host) -> Result<Summary, Report> {
    let all = session::list(&host.sessions()).map_err(Report::error)?;
    all.into_iter().find(|summary| summary.directory == host.workspace).ok_or_else(|| {
        Report::usage("there is no session of this directory to go on with")
            .hint("`zerostack sessions` lists those of other directories")
    })
}
