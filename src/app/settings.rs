//! `zerostack config` and `zerostack trust`.

use zerostack_sandbox::Launcher;

use super::start;
use crate::cli::{ConfigCommand, RunFlags};
use crate::config::{self, Resolved, Trust};
use crate::report::Report;
use crate::supervisor::Cells;
use crate::ui::text;

pub fn run(command: ConfigCommand) -> Result<u8, Report> {
    match command {
        ConfigCommand::Schema { json: true } => say!("{:#}", config::schema()),
        ConfigCommand::Schema { json: false } => {
            for (key, kind, meaning) in config::keys() {
                say!("{key:<28} {meaning} [{kind}]");
            }
        }
        ConfigCommand::Path => {
            let host = start::host(&[])?;
            start::config_files(&host).iter().for_each(|path| say!("{}", path.display()));
        }
        ConfigCommand::Show => print(&start::user_settings(&start::host(&[])?)?),
        ConfigCommand::Check => {
            let host = start::host(&[])?;
            let resolved = start::user_settings(&host)?;
            let Resolved { config, warnings, .. } = &resolved;
            start::rules(&config.allow, &config.ask, &config.deny, &host.workspace)?;
            super::model::providers(config)?;
            warnings.iter().for_each(|warning| eprintln!("warning: {}", text::clean(warning)));
            say!("{}", if warnings.is_empty() { "ok" } else { "ok, with warnings" });
        }
    }
    Ok(0)
}

/// `--print-config`: as a run with these flags would see it.
pub fn print_config(launcher: Launcher, flags: &RunFlags) -> Result<u8, Report> {
    let mut host = start::host_of(flags)?;
    let cells = Cells::new(launcher);
    let project = start::project(&cells, &mut host, flags, None);
    let resolved = start::runtime()?.block_on(project)?.resolved;
    resolved.warnings.iter().for_each(|warning| eprintln!("warning: {}", text::clean(warning)));
    print(&resolved);
    Ok(0)
}

fn print(resolved: &Resolved) {
    for (key, (value, origin)) in &resolved.values {
        // Whatever may hold a secret is not shown: headers, bodies, the words of a helper, and names or
        // passwords in an address.
        let parts: Vec<&str> = key.split('.').collect();
        let hidden = |part: &&str| match *part {
            "headers" | "extra_body" | "env" | "args" => true,
            // Of a server it is a program, of a key a helper with its words.
            "command" => !key.starts_with("mcp_servers."),
            _ => false,
        };
        let address = value.as_str().is_some_and(|url| url.contains(['@', '?']));
        let secret = parts.iter().any(hidden) || (key.ends_with("url") && address);
        let shown = if secret { "(not shown)".to_owned() } else { value.to_string() };
        say!(
            "{} = {}  # {}",
            text::clean(key),
            text::clean(&shown),
            text::clean(&origin.to_string())
        );
    }
}

/// Trusts the files of this project that concern zerostack, each by its present content.
pub fn trust(launcher: Launcher, remove: bool) -> Result<u8, Report> {
    let mut host = start::host(&[])?;
    let mut trust = Trust::load(host.trust_file());
    trust.forget_below(&host.workspace);
    if !remove {
        let workspace = host.workspace.clone();
        let mut collected = start::collect(&Cells::new(launcher), &mut host)?;
        collected.retain(|(path, _)| path.starts_with(&workspace));
        for (path, text) in collected {
            trust.add(&path, &text);
            say!("trusted as it is now: {}", text::clean(&path.display().to_string()));
        }
    }
    let failed =
        |error| Report::error(format!("cannot write {}: {error}", host.trust_file().display()));
    trust.save().map_err(failed)?;
    Ok(0)
}
