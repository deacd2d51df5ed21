//! What is asked before a session begins: which one goes on, which provider answers, and whether the
//! files of the project are trusted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use crossterm::event::{Event, KeyEventKind};

use super::interactive::{SETTLED, ended};
use super::model;
use super::sessions::age;
use super::start::{self, Project};
use crate::config::{Config, Origin, Trust};
use crate::model::Api;
use crate::model::providers::{DEMO, OLLAMA_PORT};
use crate::report::Report;
use crate::session::{self, Summary};
use crate::supervisor::{Host, Vault, is_listening};
use crate::ui::term::{self, Keys, Screen};
use crate::ui::{Bindings, Item, Picked, Picker, Theme, draw_picker};

/// Sessions whose end is shown beside the list.
const PREVIEWS: usize = 60;

/// The colours: those of the settings if there are any, else those that the terminal seems to have.
pub fn theme(name: Option<&str>, host: &Host, no_color: bool) -> Result<Theme, Report> {
    let depth = term::depth(no_color);
    let usual = Theme::usual(depth, term::is_light());
    let name = if no_color { usual } else { name.unwrap_or(usual) };
    let simple = name.chars().all(|it| it.is_alphanumeric() || "-_".contains(it));
    let file = host.configuration().join("themes").join(format!("{name}.toml"));
    let own = if simple { std::fs::read_to_string(&file).ok() } else { None };
    match own {
        Some(text) => Theme::parse(&text, depth)
            .map_err(|error| Report::error(format!("{}: {error}", file.display()))),
        None => Theme::named(name, depth).map_err(|error| {
            Report::usage(error).hint("your own themes are in ~/.config/zerostack/themes")
        }),
    }
}

/// Names of all themes, the user's own included.
pub fn themes(host: &Host) -> Vec<String> {
    let own = std::fs::read_dir(host.configuration().join("themes")).into_iter().flatten();
    let own = own.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let own: BTreeSet<String> =
        own.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect();
    let built_in = Theme::names().map(str::to_owned).filter(|name| !own.contains(name));
    built_in.chain(own.clone()).collect()
}

/// Shows a list on the whole screen; what was chosen, if anything was. What was typed before it was there
/// chooses nothing.
async fn choose(mut list: Picker, hint: &str, theme: &Theme) -> Result<Option<String>, Report> {
    let failed = |error: std::io::Error| Report::error(format!("cannot use the terminal: {error}"));
    let mut end = std::pin::pin!(ended().map_err(failed)?);
    let mut screen = Screen::take().map_err(failed)?;
    let (mut keys, bindings) = (Keys::take(), Bindings::default());
    let (mut quiet, mut settled) = (Instant::now(), false);
    loop {
        let drawn = screen
            .terminal
            .draw(|frame| draw_picker(frame, frame.area(), &list, Some(hint), theme));
        drawn.map_err(failed)?;
        let event = tokio::select! {
            event = keys.next() => event,
            () = &mut end => None,
        };
        match event.transpose().map_err(failed)? {
            None => return Ok(None),
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                if !settled && quiet.elapsed() < SETTLED {
                    quiet = Instant::now();
                    continue;
                }
                settled = true;
                match list.key(key, bindings.action(key)) {
                    Picked::Open => {}
                    Picked::Closed => return Ok(None),
                    Picked::Value(value) => return Ok(Some(value)),
                }
            }
            Some(_) => {}
        }
    }
}

/// The sessions in which something was said, those of this directory first; with `but`, only those of
/// this directory, without the present one.
pub fn sessions(host: &Host, but: Option<&str>) -> Result<Picker, Report> {
    let mut all = session::list(&host.sessions()).map_err(Report::error)?;
    all.retain(|summary| summary.state.turns > 0);
    if let Some(present) = but {
        all.retain(|it| it.directory == host.origin() && it.id != present);
    }
    // Stable: the newest first in each of the two groups.
    all.sort_by_key(|summary| summary.directory != host.origin());
    let item = |(at, summary): (usize, &Summary)| {
        let mut detail = format!("{}, {} prompts", age(summary), summary.state.turns);
        if summary.directory != host.origin() {
            detail.push_str(&format!("  {}", summary.directory.display()));
        }
        let item = Item::new(&summary.id, &detail).labelled(summary.label());
        if at < PREVIEWS { item.with_preview(&session::tail(&summary.path)) } else { item }
    };
    let items = all.iter().enumerate().map(item).collect();
    Ok(Picker::new("Go on with which session?", items))
}

/// The id of the session to go on with.
pub async fn session(host: &Host, theme: &Theme) -> Result<Option<String>, Report> {
    let list = sessions(host, None)?;
    if list.is_empty() {
        return Err(Report::usage("there are no sessions to go on with"));
    }
    choose(list, "type to search, Enter to choose, Esc to leave", theme).await
}

/// The providers to choose from, those that are ready first.
pub fn providers(config: &Config, host: &Host) -> Result<Vec<Item>, Report> {
    let vault = Vault::new(&host.environment, &host.home, None);
    let mut items = Vec::new();
    for provider in model::providers(config)? {
        let variable = provider.key_variable.as_deref();
        let own = config.keys.contains_key(&provider.name);
        let ollama = provider.api == Api::Ollama;
        let (ready, detail) = match variable {
            _ if own => (true, "ready: your settings say where its key is".into()),
            Some(variable) if vault.has(&provider) => {
                (true, format!("ready: there is a key in {variable}"))
            }
            Some(variable) => {
                let page = provider.key_page.as_deref().unwrap_or_default();
                (false, format!("needs a key: export {variable}=…  {page}"))
            }
            None if ollama && is_listening(OLLAMA_PORT) => {
                (true, "ready: it is running here; nothing leaves this machine".into())
            }
            None if ollama => (false, format!("not running on 127.0.0.1:{OLLAMA_PORT}")),
            None => (true, provider.base_url.clone()),
        };
        items.push((!ready, Item::new(&provider.name, &detail)));
    }
    let tour = "ready: a built-in script gives a tour of this project, without a key or a network";
    items.push((false, Item::new(DEMO, tour)));
    // Stable: the usual one first in each of the two groups.
    items.sort_by_key(|(missing, _)| *missing);
    Ok(items.into_iter().map(|(_, item)| item).collect())
}

/// Without any choice of a provider, and without a key for the usual one: what is there, to choose from.
/// `None` leaves.
pub async fn provider(
    project: &Project,
    host: &Host,
    theme: &Theme,
) -> Result<Option<String>, Report> {
    let items = providers(&project.resolved.config, host)?;
    let list = Picker::new("Welcome. Which provider is to answer?", items);
    let hint =
        "Enter chooses, Esc leaves; another server: zerostack --provider openai --base-url URL";
    choose(list, hint, theme).await
}

/// Whether nobody has said which provider is wanted, and the usual one has no key.
pub fn needs_provider(project: &Project, host: &Host, api_key: Option<&str>) -> bool {
    let config: &Config = &project.resolved.config;
    let chosen = project.resolved.values.get("provider");
    let nobodys = chosen.is_none_or(|(_, origin)| *origin == Origin::BuiltIn);
    let own = config.base_url.is_some() || config.model.is_some() || api_key.is_some();
    let name = config.provider.as_deref().unwrap_or_default();
    let vault = Vault::new(&host.environment, &host.home, None);
    let has_key = crate::model::providers::built_in()
        .iter()
        .any(|provider| provider.name == name && vault.has(provider));
    nobodys && !own && !has_key && !config.keys.contains_key(name)
}

/// Writes the first choice down, unless there are settings already. Says where.
pub fn remember(provider: &str, host: &Host) -> Option<String> {
    let files = start::config_files(host);
    if provider == DEMO || files[..2].iter().any(|file| file.exists()) {
        return None;
    }
    let text = format!("provider = {}\n", toml::Value::from(provider));
    // Whatever the umask: a file that others can change is not taken at the next start.
    match super::sessions::write_new(&files[1], &text) {
        Ok(()) => Some(format!("provider = {provider} is written to {}", files[1].display())),
        Err(report) => Some(format!("the choice is not kept: {}", report.message)),
    }
}

/// Files in the workspace that nobody has decided about as they are now.
fn undecided<'a>(project: &'a Project, host: &Host) -> Vec<&'a (PathBuf, String)> {
    project.undecided.iter().filter(|(path, _)| path.starts_with(&host.workspace)).collect()
}

pub fn needs_trust(project: &Project, host: &Host) -> bool {
    !undecided(project, host).is_empty()
}

/// Asks about files of the project that nobody has decided about as they are now. The answer is kept;
/// `true` if they are trusted. `None` leaves.
pub async fn trust(project: &Project, host: &Host, theme: &Theme) -> Result<Option<bool>, Report> {
    let files = undecided(project, host);
    let (no, yes) = ("no", "yes");
    let mut items = vec![
        Item::new(no, "they are data: what they ask for is not followed, settings are not used"),
        Item::new(yes, "as they are now: the model may follow them; settings can only tighten"),
    ];
    for (path, text) in &files {
        let name = path.strip_prefix(&host.workspace).unwrap_or(path).display().to_string();
        items.push(Item::new(&name, "look at it").with_preview(text));
    }
    let mut at = no.to_owned();
    let answer = loop {
        let list =
            Picker::new("This project brings files for an agent. Trust them?", items.clone());
        let hint = "Enter chooses, Esc leaves; a file that changes is asked about again";
        match choose(list.at(&at).fixed(), hint, theme).await?.as_deref() {
            None => return Ok(None),
            Some("no") => break false,
            Some("yes") => break true,
            Some(file) => at = file.to_owned(),
        }
    };
    let mut trust = Trust::load(host.trust_file());
    for (path, text) in files {
        match answer {
            true => trust.add(path, text),
            false => trust.decline(path, text),
        }
    }
    let failed =
        |error| Report::error(format!("cannot write {}: {error}", host.trust_file().display()));
    trust.save().map_err(failed)?;
    Ok(Some(answer))
}
