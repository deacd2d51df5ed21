//! `/mcp`: servers, their tools, and what is accepted of them.

use super::Ui;
use crate::supervisor::Session;

impl Ui {
    /// Says whether other tools are accepted now than before; that is only possible at rest.
    pub(super) fn mcp(&mut self, session: &Session, arguments: &str, at_rest: bool) -> bool {
        let servers = session.broker.servers();
        if servers.is_empty() {
            let words =
                "no MCP server can be used here; `zerostack mcp` lists those of your settings";
            self.state.notice(words);
            return false;
        }
        let (verb, name) = arguments.split_once(' ').unwrap_or((arguments, ""));
        let outcome = match (verb, name.trim()) {
            ("accept", name) if at_rest && !name.is_empty() => match servers.accept(name) {
                Ok(names) => {
                    self.state.notice(&format!("{name}: {} may be asked for", names.join(", ")));
                    return true;
                }
                Err(error) => Err(error),
            },
            ("stop", name) if !name.is_empty() => {
                servers.stop(name).map(|()| format!("{name} is stopped"))
            }
            ("accept" | "stop", _) => {
                Ok("/mcp accept NAME, while no agent runs, and /mcp stop NAME".into())
            }
            ("", _) => servers.describe(None),
            (name, _) => servers.describe(Some(name)),
        };
        match outcome {
            Ok(words) => self.state.page(&words),
            Err(error) => self.state.notice(&error.to_string()),
        }
        false
    }
}
