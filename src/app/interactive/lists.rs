//! What there is to choose from, for commands without an argument.

use std::collections::HashSet;

use super::Ui;
use crate::app::prepare::Prepared;
use crate::app::{pick, sessions, start};
use crate::model::catalog;
use crate::policy::Mode;
use crate::report::Report;
use crate::session::Turn;
use crate::supervisor::{Session, ran_by_user};
use crate::ui::{Command, Item, Picker};

/// Most prompts that `/rewind` offers.
const TURNS: usize = 30;

impl Ui {
    /// Shows the list of a command; `false` if it has none.
    pub(super) async fn list(
        &mut self,
        session: &Prepared,
        command: Command,
    ) -> Result<bool, Report> {
        let host = session.inner.broker.host();
        let facts = self.state.facts.clone();
        let list = match command {
            Command::Model => {
                self.state.hint("asking the server for its models …");
                self.draw().map_err(Report::error)?;
                models(session).await?.at(&facts.model)
            }
            Command::Provider => {
                let config = start::user_settings(host)?.config;
                let items = pick::providers(&config, host)?;
                Picker::new("Which provider?", items).at(&facts.provider)
            }
            Command::Thinking => levels().at(&facts.thinking),
            Command::Mode => modes(session)?.at(&facts.mode),
            Command::Prompt => {
                let item = |(name, description): &(String, String)| Item::new(name, description);
                let items = session.prompts.iter().map(item).collect();
                Picker::new("Which prompt?", items).at(&facts.prompt)
            }
            Command::Sessions => {
                let present = session.inner.record.id();
                let list = pick::sessions(host, Some(present.as_deref().unwrap_or_default()))?;
                if list.is_empty() {
                    return Err(Report::error("there is no other session of this directory"));
                }
                list
            }
            Command::Rewind => turns(&session.inner).await?,
            _ => return Ok(false),
        };
        self.state.pick(list, command);
        Ok(true)
    }

    /// The list of themes: also while the agent runs.
    pub(super) fn list_themes(&mut self, session: &Session) {
        let names = pick::themes(session.broker.host());
        let items = names.iter().map(|name| Item::new(name, "")).collect();
        self.state.pick(Picker::new("Which colours?", items).at(&self.theme), Command::Theme);
    }
}

/// What the server has; what is known of each is shown beside it. A server that does not tell is no
/// reason not to choose.
async fn models(session: &Prepared) -> Result<Picker, Report> {
    let project = start::user_settings(session.inner.broker.host())?;
    let (mut names, why) = match session.inner.backend.models().await {
        Ok(names) => (names, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    names.sort();
    let own = project.config.quick_models.keys().cloned();
    let mut all: Vec<String> = own.collect();
    all.push(session.inner.settings.model.clone());
    all.extend(names);
    let (mut items, mut seen) = (Vec::new(), HashSet::new());
    for name in all {
        if !seen.insert(name.clone()) {
            continue;
        }
        let facts = catalog::Facts::of(&name, &project.config.models);
        let mut known = Vec::new();
        known.extend(facts.window.map(|window| format!("{}k window", window / 1000)));
        known.extend(facts.price.map(|price| format!("${} / ${}", price.input, price.output)));
        items.push(Item::new(&name, &known.join("  ")));
    }
    let title = match why {
        Some(why) => format!("Which model? (the server does not say what it has: {why})"),
        None => "Which model? ($ for a million tokens in / out)".into(),
    };
    Ok(Picker::new(&title, items))
}

fn levels() -> Picker {
    let levels = [
        ("auto", "as the model does by itself"),
        ("off", "answer at once"),
        ("low", "a little"),
        ("medium", "more"),
        ("high", "much: slow, and it costs"),
    ];
    let items = levels.iter().map(|(level, what)| Item::new(level, what)).collect();
    Picker::new("How much is the model to think?", items)
}

fn modes(session: &Prepared) -> Result<Picker, Report> {
    let mut items = Vec::new();
    for mode in Mode::ALL {
        let (_, policy) = start::policy(mode, session.inner.broker.host())?;
        items.push(Item::new(mode.name(), &policy.summary).with_preview(&policy.summary));
    }
    Ok(Picker::new("Which permission mode?", items))
}

/// The prompts of the session, the last one first, each with what taking it back does to files.
async fn turns(session: &Session) -> Result<Picker, Report> {
    let loaded = sessions::loaded(session)?;
    let mut items = Vec::new();
    for (back, turn) in loaded.turns.iter().rev().enumerate().take(TURNS) {
        let count = back + 1;
        let preview = effect(session, &loaded.turns, count).await;
        let said = loaded.prompt_of(turn);
        let command = ran_by_user(said).map(|(command, _)| format!("!{command}"));
        let prompt = command.as_deref().unwrap_or(said).lines().next().unwrap_or_default();
        let detail = if count == 1 { "the last one".into() } else { format!("{count} prompts") };
        items.push(Item::new(&count.to_string(), &detail).labelled(prompt).with_preview(&preview));
    }
    if items.is_empty() {
        return Err(Report::error("there is no prompt to take back"));
    }
    Ok(Picker::new("Back to before which prompt? What it does to files is shown", items))
}

/// What taking back so many turns would do to files.
async fn effect(session: &Session, turns: &[Turn], count: usize) -> String {
    let changes = sessions::net_changes(turns, count);
    let mut words = match changes.len() {
        0 => "no file was changed by a tool".to_owned(),
        1 => "1 file goes back to what it was".into(),
        number => format!("{number} files go back to what they were"),
    };
    for change in &changes {
        match session.broker.restore(change, true).await {
            Ok(restored) => words.push_str(&format!("\n{}", restored.diff.trim_end())),
            Err(why) => words.push_str(&format!("\nnot possible: {why}")),
        }
    }
    words
}
