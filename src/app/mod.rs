//! The front ends. They only connect parts: a command line to a session, and what happens to a screen.

/// `println!` for which a closed pipe is the reader's wish to hear no more.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arguments)*);
    }};
}

mod doctor;
mod findings;
mod headless;
mod history;
mod interactive;
mod mcp;
mod model;
mod pick;
mod policy;
mod prepare;
mod resume;
mod rounds;
mod sandbox;
mod sessions;
mod settings;
mod start;
mod worktree;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use zerostack_sandbox::Launcher;

use crate::cli::{Cli, Command, PolicyCommand};
use crate::report::{ExitKind, Report};

/// The program, after `main` has ruled out that this process is the launcher.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a broken pipe is no reason to complain.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(report) => {
            eprintln!("{}", crate::ui::text::clean(&report.to_string()));
            ExitCode::from(report.kind.code())
        }
    }
}

fn dispatch(mut cli: Cli) -> Result<u8, Report> {
    cli.run.fix_paths();
    match cli.command {
        Some(Command::Policy { command: PolicyCommand::Show { mode, json } }) => {
            policy::show(launcher()?, mode, json)
        }
        Some(Command::Policy { command: PolicyCommand::Explain { call, mode, rules } }) => {
            policy::explain(&call, &mode, &rules)
        }
        Some(Command::Sessions { command }) => sessions::run(launcher, command),
        Some(Command::Config { command }) => settings::run(command),
        Some(Command::Mcp { mcp_config, command }) => {
            mcp::run(launcher()?, mcp_config.as_deref(), command)
        }
        Some(Command::Trust { remove }) => settings::trust(launcher()?, remove),
        Some(Command::Sandbox(flags)) => sandbox::run(launcher()?, &flags),
        Some(Command::Doctor { json }) => doctor::run(launcher(), json),
        None if cli.run.print_config => settings::print_config(launcher()?, &cli.run),
        None if cli.run.resume && (cli.run.print || !std::io::stdout().is_terminal()) => {
            let host = start::host(&[])?;
            sessions::list(&host.sessions(), true, false)
        }
        None if cli.run.print || cli.run.loop_ => headless::run(launcher()?, cli.run),
        None => interactive::run(launcher()?, cli.run),
    }
}

/// Starts the launcher: before the runtime, before any thread, before a key is read.
fn launcher() -> Result<Launcher, Report> {
    let hardened = zerostack_sandbox::harden();
    hardened.map_err(|error| Report::error(format!("cannot protect this process: {error}")))?;
    Launcher::start(Path::new("/proc/self/exe"))
        .map_err(|failure| Report::new(ExitKind::CannotConfine, failure))
}
