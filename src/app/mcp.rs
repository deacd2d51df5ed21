//! MCP servers: from the settings to what a session needs, and `zerostack mcp`.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};
use zerostack_sandbox::Launcher;

use super::start;
use crate::cli::McpCommand;
use crate::config::{Config, McpServer};
use crate::policy::{Call, Decision, Judge, Subject};
use crate::report::Report;
use crate::supervisor::{Cells, Host, Named, PREFIX, ServerPlace, Servers, Starting};
use crate::ui::text;

/// The servers of the settings, those left out that are switched off.
pub fn named(config: &Config, host: &Host) -> Result<Vec<Named>, Report> {
    let on = config.mcp_servers.iter().filter(|(_, server)| !server.disabled);
    on.map(|(name, server)| one(name, server, host)).collect()
}

fn one(name: &str, server: &McpServer, host: &Host) -> Result<Named, Report> {
    let wrong = |why: &str| Err(Report::error(format!("mcp_servers.{name}: {why}")));
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let odd =
        name.is_empty() || name.contains("__") || name.starts_with('_') || name.ends_with('_');
    if odd || name.len() > 30 || !name.chars().all(plain) {
        return wrong("a name has at most 30 letters, digits, - and single _ between them");
    }
    if server.kind.as_deref() == Some("sse") {
        return wrong("the old transport sse is not spoken; streamable HTTP is");
    }
    let place = match (&server.command, &server.url) {
        (Some(command), None) => {
            let path = |text: &String| {
                let (path, write) = match text.strip_suffix(":rw") {
                    Some(path) => (path, true),
                    None => (text.strip_suffix(":ro").unwrap_or(text), false),
                };
                (host.written(path), write)
            };
            ServerPlace::Program {
                argv: std::iter::once(command).chain(&server.args).cloned().collect(),
                environment: server.env.clone(),
                paths: server.paths.iter().map(path).collect(),
            }
        }
        (None, Some(url)) if url.starts_with("https://") || url.starts_with("http://") => {
            ServerPlace::Address { url: url.clone(), headers: server.headers.clone() }
        }
        (None, Some(_)) => return wrong("the url must begin with http:// or https://"),
        _ => return wrong("give either a command or a url"),
    };
    Ok(Named { name: name.to_owned(), place, timeout: server.timeout })
}

/// The servers that a policy lets be used at all.
pub fn usable(named: Vec<Named>, judge: &Judge) -> Vec<Named> {
    let denied = |named: &Named| {
        let tool = format!("{PREFIX}{}__", named.name);
        let call = Call { tool, subject: Subject::Nothing };
        matches!(judge.decide(&call), Decision::Deny { .. })
    };
    named.into_iter().filter(|named| !denied(named)).collect()
}

/// The file of `--mcp-config`, in the shape of other clients, as settings.
pub fn from_file(path: &Path) -> Result<Table, Report> {
    let name = path.display();
    let failed = |why: &dyn std::fmt::Display| Report::usage(format!("--mcp-config {name}: {why}"));
    let read = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let mut read: serde_json::Value =
        serde_json::from_str(&read).map_err(|error| failed(&error))?;
    // Left out and null are the same there; here there is no null.
    without_null(&mut read);
    let mut read = Table::deserialize(read).map_err(|error| failed(&error))?;
    let servers = read.remove("mcpServers").or_else(|| read.remove("servers"));
    match servers {
        Some(servers @ Value::Table(_)) => Ok(Table::from_iter([("mcp_servers".into(), servers)])),
        _ => Err(failed(&"it has no table \"mcpServers\"")),
    }
}

fn without_null(value: &mut serde_json::Value) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(without_null);
    }
}

/// `zerostack mcp`.
pub fn run(
    launcher: Launcher,
    file: Option<&Path>,
    command: Option<McpCommand>,
) -> Result<u8, Report> {
    let mut host = start::host(&[])?;
    let mut config = start::user_settings(&host)?.config;
    if let Some(file) = file {
        let table = Config::deserialize(from_file(file)?).map_err(Report::usage)?;
        config.mcp_servers.extend(table.mcp_servers);
    }
    let servers = Servers::new(host.mcp_file(), named(&config, &host)?);
    if servers.is_empty() {
        say!("There are no MCP servers. In {}/config.toml:", host.configuration().display());
        say!("[mcp_servers.NAME]\ncommand = \"PROGRAM\"\nargs = []");
        return Ok(0);
    }
    let cells = Cells::new(launcher);
    let mode = start::mode(&host, &Default::default())?;
    let (groups, policy) = start::policy(mode, &host)?;
    let rules = start::rules(&config.allow, &config.ask, &config.deny, &host.workspace)?;
    start::scan(&cells, &Judge::new(policy.clone(), groups.clone(), rules), &mut host)?;
    let starting = Starting { cells: &cells, policy: &policy, groups: &groups, host: &host };
    let runtime = start::runtime()?;
    if let Some(McpCommand::Show { server } | McpCommand::Accept { server }) = &command {
        eprintln!("zerostack: starting the MCP server {} …", text::line(server, 60));
    }
    let shown = match command {
        None | Some(McpCommand::List) => servers.describe(None),
        Some(McpCommand::Show { server }) => runtime.block_on(async {
            servers.start(&server, starting).await?;
            servers.describe(Some(&server))
        }),
        Some(McpCommand::Accept { server }) => runtime.block_on(async {
            servers.start(&server, starting).await?;
            let names = servers.accept(&server)?;
            Ok(format!("accepted: {}", names.join(", ")))
        }),
    };
    say!("{}", text::clean(&shown.map_err(Report::error)?));
    Ok(0)
}

/// A rule of the user's that names no server there is would allow or forbid nothing.
pub fn unknown_rules(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for rule in [&config.allow, &config.ask, &config.deny].into_iter().flatten() {
        let Some(rest) = rule.strip_prefix(PREFIX) else { continue };
        let server = rest.split("__").next().unwrap_or(rest);
        if !server.contains('*') && !config.mcp_servers.contains_key(server) {
            warnings.push(format!("the rule {rule} names no MCP server of your settings"));
        }
    }
    warnings
}
