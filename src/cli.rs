//! The command line. Doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::policy::Mode;

/// A coding agent that holds every tool call in a kernel sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "zerostack",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 done; 1 error; 2 usage; 3 the model or provider failed; 4 a needed approval was \
                  not given; 5 turn limit; 7 this machine cannot confine; 130 interrupted."
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
}

/// The permission mode, by name or by its own flag.
#[derive(Debug, Args)]
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
    pub fn mode(&self) -> Mode {
        let flags = [
            (self.restrictive, Mode::Restrictive),
            (self.read_only, Mode::Readonly),
            (self.guarded, Mode::Guarded),
            (self.yolo, Mode::Yolo),
        ];
        let flag = flags.iter().find(|(given, _)| *given).map(|(_, mode)| *mode);
        self.mode.or(flag).unwrap_or(Mode::Standard)
    }
}

/// What a session may see and do besides its mode.
#[derive(Debug, Args)]
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
}

#[derive(Debug, Args)]
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
    /// Allow a tool call without a question, e.g. 'bash(cargo test*)' or 'write(docs/**)'.
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// Ask for a tool call even where the mode would not.
    #[arg(long, value_name = "RULE")]
    pub ask: Vec<String>,
    /// Forbid a tool call in every mode, e.g. 'read(**/.env)'.
    #[arg(long, value_name = "RULE")]
    pub deny: Vec<String>,
    /// openrouter (default), openai, ollama, or demo: a built-in script that needs no key.
    #[arg(long, env = "ZS_PROVIDER")]
    pub provider: Option<String>,
    /// Address of a server that speaks chat completions, up to and including /v1.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,
    /// Model by its provider's name for it.
    #[arg(long, env = "ZS_MODEL")]
    pub model: Option<String>,
    /// The key; other users of this machine can see it here, a variable is better.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Most tokens of one answer.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Sampling temperature.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Most model requests for one prompt.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_turns: u64,
    /// Only these tools, by name.
    #[arg(short, long, value_delimiter = ',', value_name = "A,B")]
    pub tools: Option<Vec<String>>,
    /// No tools at all.
    #[arg(long, conflicts_with = "tools")]
    pub no_tools: bool,
    /// Do not save the session (sessions are not saved yet).
    #[arg(long)]
    pub no_session: bool,
    /// Save every model exchange of the run to a file.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,
    /// Play recorded exchanges back, without any network.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// The prompt.
    #[arg(value_name = "MESSAGE")]
    pub message: Vec<String>,
}
