//! `zerostack doctor`: what this machine can confine, found out by doing it, and what is set up.

use serde_json::{Value, json};
use zerostack_sandbox::{Enforced, Kernel, Launcher, Program, StartError, probe_kernel};

use super::start;
use crate::model::providers::{OLLAMA_PORT, Provider, built_in};
use crate::policy::Mode;
use crate::report::{ExitKind, Report};
use crate::supervisor::{Host, Rights, Vault, command, is_listening};
use crate::ui::text;

pub fn run(launcher: Result<Launcher, Report>, json: bool) -> Result<u8, Report> {
    let host = start::host(&[])?;
    let kernel = probe_kernel();
    let confined = launcher.and_then(|launcher| probe(&launcher, &host));
    let providers = providers(&host);
    if json {
        let problem = confined.as_ref().err();
        say!(
            "{:#}",
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "kernel": kernel,
                "rung": if confined.is_ok() { "native" } else { "none" },
                "enforced": confined.as_ref().ok(),
                "problem": problem.map(|report| &report.message),
                "hint": problem.and_then(|report| report.hint.as_ref()),
                "providers": providers,
            })
        );
    } else {
        print_text(&kernel, &confined, &providers);
    }
    Ok(if confined.is_ok() { 0 } else { ExitKind::CannotConfine.code() })
}

/// Enters a command cell of every mode; the report is that of the default mode.
fn probe(launcher: &Launcher, host: &Host) -> Result<Enforced, Report> {
    let mut enforced = None;
    for mode in Mode::ALL {
        let (groups, policy) = start::policy(mode, host)?;
        let confinement = command(&policy, &groups, host, Rights::Granted);
        let started = launcher
            .spawn(&confinement, &Program::Probe)
            .map_err(StartError::from)
            .and_then(|mut cell| cell.started(true));
        match started {
            Ok(found) if mode == Mode::Standard => enforced = Some(found),
            Ok(_) => {}
            Err(error) => {
                let mut report = start::start_report(&error);
                report.message = format!("mode {mode}: {}", report.message);
                return Err(report);
            }
        }
    }
    enforced.ok_or_else(|| Report::error("the default mode was not tried"))
}

fn providers(host: &Host) -> Vec<Value> {
    let vault = Vault::new(&host.environment, &host.home, None);
    let provider = |provider: &Provider| {
        let ready = match &provider.key_variable {
            Some(_) => vault.has(provider),
            None => is_listening(OLLAMA_PORT),
        };
        json!({"name": provider.name, "ready": ready, "key_variable": provider.key_variable,
            "base_url": provider.base_url})
    };
    let demo = json!({"name": "demo", "ready": true, "key_variable": null, "base_url": null});
    built_in().iter().map(provider).chain([demo]).collect()
}

fn print_text(kernel: &Kernel, confined: &Result<Enforced, Report>, providers: &[Value]) {
    let abi = kernel.landlock_abi.map_or("absent".to_owned(), |abi| format!("ABI {abi}"));
    say!("Kernel      {}, Landlock {abi}", kernel.release);
    for (name, value) in &kernel.settings {
        say!("            {name} = {value}");
    }
    match confined {
        Ok(enforced) => {
            say!("Sandbox     native: a cell of each of the five modes was entered and verified");
            say!("            namespaces: {}", enforced.namespaces.join(", "));
            say!(
                "            Landlock ABI {}, system call filter of {} instructions",
                enforced.landlock_abi,
                enforced.filter_length
            );
            say!(
                "            process limit: {}",
                match enforced.process_limit {
                    zerostack_sandbox::ProcessLimit::Namespace => "pid namespace and rlimit",
                    zerostack_sandbox::ProcessLimit::Rlimit => "rlimit only (does not bind root)",
                }
            );
            say!("Canaries    tried inside a cell, all refused:");
            for canary in &enforced.canaries {
                let reason = std::io::Error::from_raw_os_error(canary.refused_with);
                say!("            {}: {reason}", text::clean(&canary.attempt));
            }
        }
        Err(report) => {
            let report = text::clean(&report.to_string());
            say!("Sandbox     none: every tool is refused\n{report}");
        }
    }
    say!("Providers");
    for provider in providers {
        let ready = provider["ready"] == true;
        let name = provider["name"].as_str().unwrap_or_default();
        let missing = provider["key_variable"].as_str().map(|name| format!("set {name}"));
        let missing = missing.unwrap_or_else(|| "not running on 127.0.0.1:11434".into());
        say!("            {name:<11} {}", if ready { "ready".into() } else { missing });
    }
}
