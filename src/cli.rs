//! The command line. Doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::EditSystem;
use crate::model::{Api, Thinking};
use crate::policy::Mode;
use crate::session::Format;

/// A coding agent that holds every tool call in a kernel sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "zerostack",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 done; 1 error; 2 usage; 3 the model or provider failed; 4 a needed approval was \
                  not given; 5 turn or cost limit; 6 the check of a loop never passed; 7 this machine cannot confine; 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunFlags,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run any command under a permission mode, with this terminal attached.
    Sandbox(SandboxFlags),
    /// Show what this machine can confine, and which providers are ready.
    Doctor {
        #[arg(long)]
        json: bool,
    },
    /// Look at the permission modes.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// List, search, export, rename, undo and delete saved sessions.
    Sessions {
        #[command(subcommand)]
        command: Option<SessionsCommand>,
    },
    /// Look at the settings.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at MCP servers, and accept what they describe.
    Mcp {
        /// A file with "mcpServers", as for a run.
        #[arg(long, value_name = "FILE", global = true)]
        mcp_config: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<McpCommand>,
    },
    /// Trust the files of this directory that concern zerostack, as they are now.
    Trust {
        /// Trust them no more.
        #[arg(long)]
        remove: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// All sessions, the newest first.
    List {
        /// Only those of this directory.
        #[arg(long)]
        here: bool,
        #[arg(long)]
        json: bool,
    },
    /// Sessions in which this text was said.
    Search { text: String },
    /// Print a session.
    Show { session: String },
    /// Name a session.
    Rename { session: String, name: String },
    /// Remove a session.
    Delete { session: String },
    /// Write a session in another form.
    Export {
        session: String,
        #[arg(long, value_enum, default_value = "markdown")]
        format: Format,
        /// Where to, default standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Take in a session that was exported as jsonl.
    Import { file: PathBuf },
    /// Take back the last prompts of a session: what was said, and the files that tools changed.
    Undo {
        /// Default the newest session of this directory.
        session: Option<String>,
        /// How many prompts.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        turns: u64,
        /// Also if some files were changed since; those stay as they are.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum McpCommand {
    /// All servers of the settings.
    List,
    /// Start a server and show its tools, and how they differ from what was accepted.
    Show { server: String },
    /// Accept the tools of a server as it describes them now.
    Accept { server: String },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every resolved setting and where it comes from.
    Show,
    /// Read the files and say what is wrong with them.
    Check,
    /// Where the files are.
    Path,
    /// Every key, as a table, or as JSON Schema.
    Schema {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print what a mode compiles to: mounts, Landlock rules, system calls, limits, environment.
    Show {
        /// One mode instead of all five.
        #[arg(long)]
        mode: Option<Mode>,
        #[arg(long)]
        json: bool,
    },
    /// Say what a mode and the rules make of one call, and why.
    Explain {
        /// For example 'bash(git push -f)' or 'read(src/main.rs)'.
        call: String,
        #[command(flatten)]
        mode: ModeFlags,
        #[command(flatten)]
        rules: RuleFlags,
    },
}

/// Rules of the user.
#[derive(Debug, Clone, Default, Args)]
pub struct RuleFlags {
    /// Allow a tool call without a question, e.g. 'bash(cargo test*)' or 'write(docs/**)'.
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// Ask for a tool call even where the mode would not.
    #[arg(long, value_name = "RULE")]
    pub ask: Vec<String>,
    /// Forbid a tool call in every mode, e.g. 'read(**/.env)'.
    #[arg(long, value_name = "RULE")]
    pub deny: Vec<String>,
}

/// The permission mode, by name or by its own flag.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
pub struct ModeFlags {
    /// Ask for every operation.
    #[arg(short = 'R', long)]
    restrictive: bool,
    /// Read the workspace, deny everything else.
    #[arg(long, alias = "readonly")]
    read_only: bool,
    /// Read the workspace, ask before changes and commands.
    #[arg(long)]
    guarded: bool,
    /// Work in the workspace, ask for the rest (the default).
    #[arg(long)]
    standard: bool,
    /// Work on the whole disk, ask for destructive commands only.
    #[arg(long)]
    yolo: bool,
    /// Permission mode by name.
    #[arg(long, value_name = "NAME")]
    mode: Option<Mode>,
}

impl ModeFlags {
    /// As if this mode had been typed.
    pub fn of(mode: Mode) -> ModeFlags {
        ModeFlags { mode: Some(mode), ..ModeFlags::default() }
    }

    /// The mode that was typed, if one was.
    pub fn typed(&self) -> Option<Mode> {
        let flags = [
            (self.restrictive, Mode::Restrictive),
            (self.read_only, Mode::Readonly),
            (self.guarded, Mode::Guarded),
            (self.standard, Mode::Standard),
            (self.yolo, Mode::Yolo),
        ];
        let flag = flags.iter().find(|(given, _)| *given).map(|(_, mode)| *mode);
        self.mode.or(flag)
    }
}

/// What a session may see and do besides its mode.
#[derive(Debug, Clone, Args)]
pub struct ScopeFlags {
    /// One more directory, writable as the workspace is, or read-only.
    #[arg(long = "add-dir", value_name = "DIR[:ro]")]
    pub add_dir: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SandboxFlags {
    #[command(flatten)]
    pub mode: ModeFlags,
    #[command(flatten)]
    pub scope: ScopeFlags,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
    StreamJson,
    /// The findings of review-security as SARIF 2.1.0.
    Sarif,
}

/// What is typed behind `/loop` in the terminal UI.
#[derive(Debug, Parser)]
#[command(name = "/loop", disable_help_flag = true)]
pub struct LoopFlags {
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
    #[arg(long)]
    pub run: Option<String>,
    #[arg(long, default_value = "LOOP_PLAN.md")]
    pub plan: PathBuf,
    pub task: Vec<String>,
}

/// Work in a worktree of the repository.
#[derive(Debug, Clone, Default, Args)]
pub struct WorktreeFlags {
    /// Work in the worktree of this branch; both are made if they are not there.
    #[arg(long, value_name = "NAME")]
    pub worktree: Option<String>,
    /// Work in a fresh worktree that is merged and removed at the end.
    #[arg(long, conflicts_with_all = ["worktree", "continue_", "session", "resume"])]
    pub parallel: bool,
    /// Merge the worktree at the end, and remove it.
    #[arg(long)]
    pub wt_auto_merge: bool,
    /// Where worktrees go, default beside the main checkout.
    #[arg(long, value_name = "DIR")]
    pub wt_base_dir: Option<PathBuf>,
    /// Remove a merged worktree also if something in it is in no commit.
    #[arg(long)]
    pub wt_force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Answer one prompt and exit. Piped input is added to it.
    #[arg(short, long)]
    pub print: bool,
    /// Form of the output of -p.
    #[arg(long, value_enum, default_value = "text")]
    pub output_format: OutputFormat,
    #[command(flatten)]
    pub mode: ModeFlags,
    #[command(flatten)]
    pub scope: ScopeFlags,
    #[command(flatten)]
    pub rules: RuleFlags,
    /// openrouter (default), openai, anthropic, gemini, ollama, a provider of your own, or demo: a
    /// built-in script that needs no key. [variable: ZS_PROVIDER]
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Address of the provider's server, up to and including /v1.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Protocol of the server, where it is not the provider's usual one.
    #[arg(long, value_enum, value_name = "STYLE")]
    pub api_style: Option<Api>,
    /// Model by its provider's name for it, or a quick model of your settings. [variable: ZS_MODEL]
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
    /// Provider and model by a short name of your settings.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["provider", "model"])]
    pub quick_model: Option<String>,
    /// The key; other users of this machine can see it here, a variable is better.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Most tokens of one answer.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Sampling temperature.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// How much the model is to think.
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub thinking: Option<Thinking>,
    /// Most model requests for one prompt (default 200).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_turns: Option<u64>,
    /// Most US dollars for one prompt.
    #[arg(long, value_name = "USD")]
    pub max_cost: Option<f64>,
    /// Only these tools, by name.
    #[arg(short, long, value_delimiter = ',', value_name = "A,B")]
    pub tools: Option<Vec<String>>,
    /// No tools at all.
    #[arg(long, conflicts_with = "tools")]
    pub no_tools: bool,
    /// How files are edited.
    #[arg(long, value_enum, value_name = "SYSTEM")]
    pub edit_system: Option<EditSystem>,
    /// The prompt to work under: code (default), plan, review, ask, …
    #[arg(long, value_name = "NAME")]
    pub load_prompt: Option<String>,
    /// Do not read AGENTS.md, CLAUDE.md and ARCHITECTURE.md.
    #[arg(short = 'n', long)]
    pub no_context_files: bool,
    /// Go on with the newest session of this directory.
    #[arg(short, long = "continue", conflicts_with_all = ["resume", "session"])]
    pub continue_: bool,
    /// Pick a session to go on with; without a terminal they are listed.
    #[arg(short, long, conflicts_with = "session")]
    pub resume: bool,
    /// Go on with the session that has this id, beginning of an id, or name.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Name the session.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Do not save the session.
    #[arg(long, conflicts_with_all = ["continue_", "session", "name"])]
    pub no_session: bool,
    /// Save every model exchange of the run to a file.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
    /// Play recorded exchanges back, without any network.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// The same task again and again, each time with a fresh conversation, until a check passes.
    #[arg(long = "loop", conflicts_with_all = ["continue_", "session", "resume"])]
    pub loop_: bool,
    /// The task of the loop.
    #[arg(long, value_name = "TEXT", requires = "loop_")]
    pub loop_prompt: Option<String>,
    /// The file in which the loop keeps its plan.
    #[arg(long, value_name = "FILE", default_value = "LOOP_PLAN.md")]
    pub loop_plan: PathBuf,
    /// Most rounds.
    #[arg(long, value_name = "N", requires = "loop_", value_parser = clap::value_parser!(u64).range(1..))]
    pub loop_max: Option<u64>,
    /// The check: a command that runs in a cell after each round; the loop ends when it exits with 0.
    #[arg(long, value_name = "CMD", requires = "loop_")]
    pub loop_run: Option<String>,
    /// MCP servers for this run: a file with "mcpServers", as other clients have it.
    #[arg(long, value_name = "FILE")]
    pub mcp_config: Option<PathBuf>,
    #[command(flatten)]
    pub worktree: WorktreeFlags,
    /// No colours in the terminal UI.
    #[arg(long)]
    pub no_color: bool,
    /// Print every resolved setting and where it comes from, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// The prompt.
    #[arg(value_name = "MESSAGE")]
    pub message: Vec<String>,
}

impl RunFlags {
    /// Files that were typed are meant from where that was, wherever the session goes.
    pub fn fix_paths(&mut self) {
        let files = [
            &mut self.record,
            &mut self.replay,
            &mut self.mcp_config,
            &mut self.worktree.wt_base_dir,
        ];
        for file in files.into_iter().flatten() {
            if let Ok(whole) = std::path::absolute(&*file) {
                *file = whole;
            }
        }
    }

    /// Another provider: what was typed for the one before, its key above all, is not for this one.
    pub fn go_to_provider(&mut self, name: &str) {
        self.provider = Some(name.to_owned());
        (self.model, self.quick_model) = (None, None);
        (self.api_key, self.base_url, self.api_style) = (None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_typed_for_one_provider_goes_to_another() {
        let typed = "zerostack --provider one --model m --api-key secret --base-url http://one \
                     --api-style messages --thinking low";
        let mut flags = Cli::try_parse_from(typed.split_whitespace()).unwrap().run;
        flags.quick_model = Some("q".into());
        flags.go_to_provider("two");
        let wanted = Cli::try_parse_from(["zerostack", "--provider", "two", "--thinking", "low"]);
        assert_eq!(format!("{flags:?}"), format!("{:?}", wanted.unwrap().run));
    }
}
