//! Which session a run goes on with, and where.

use toml::Table;

use super::start;
use crate::cli::RunFlags;
use crate::config::{Layer, Origin};
use crate::report::Report;
use crate::session::{self, Loaded, Summary};
use crate::supervisor::Host;
use crate::ui::text;

/// A session that goes on.
pub struct Resumed {
    pub loaded: Loaded,
}

impl Resumed {
    /// What it brings: its provider, model and prompt, and its mode where that is the stricter one.
    pub fn layer(&self) -> Layer {
        let state = &self.loaded.state;
        let mut table = Table::new();
        let values = [
            ("provider", &state.provider),
            ("model", &state.model),
            ("mode", &state.mode),
            ("prompt", &state.prompt),
        ];
        for (key, value) in values {
            // A recording is no provider to go on with.
            if !value.is_empty() && value != "replay" {
                table.insert(key.into(), value.as_str().into());
            }
        }
        Layer { origin: Origin::Session, table }
    }
}

/// The host as the run sees it, in the session's own directory if one goes on.
pub fn place(flags: &RunFlags) -> Result<(Host, Option<Resumed>), Report> {
    let host = start::host(&flags.scope.add_dir)?;
    let Some(summary) = wanted(flags, &host)? else { return Ok((host, None)) };
    let loaded = session::load(&summary.path).map_err(Report::error)?;
    let directory = &loaded.header.directory;
    if *directory == host.workspace {
        return Ok((host, Some(Resumed { loaded })));
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
    Ok((start::host(&flags.scope.add_dir)?, Some(Resumed { loaded })))
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
