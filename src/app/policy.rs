//! `zerostack policy show`: what a mode compiles to on this machine.

use std::fmt::Write as _;

use serde_json::{Value, json};
use zerostack_sandbox::{
    Access, Confinement, Grant, Launcher, Mount, landlock_rules, refused_calls,
};

use super::start;
use crate::cli::{ModeFlags, RuleFlags};
use crate::policy::{Action, Call, Decision, Groups, Mode, Policy, Rule, Subject, analyse};
use crate::report::Report;
use crate::supervisor::{Cells, Host, PREFIX, Rights, command, command_rights, file_worker};
use crate::ui::text;

pub fn show(launcher: Launcher, mode: Option<Mode>, json: bool) -> Result<u8, Report> {
    let mut host = start::host(&[])?;
    let cells = Cells::new(launcher);
    let judge = start::judge(&host, &ModeFlags::default(), &RuleFlags::default())?;
    start::scan(&cells, &judge, &mut host)?;
    let modes = mode.map_or_else(|| Mode::ALL.to_vec(), |mode| vec![mode]);
    let mut shown = Vec::new();
    for mode in modes {
        let (groups, policy) = start::policy(mode, &host)?;
        shown.push((workers(&policy, &groups, &host), policy));
    }
    if json {
        let values: Vec<Value> =
            shown.iter().map(|(workers, policy)| as_json(workers, policy)).collect();
        let one = values.first().filter(|_| mode.is_some()).cloned();
        say!("{:#}", one.unwrap_or(Value::Array(values)));
    } else {
        let texts: Vec<String> =
            shown.iter().map(|(workers, policy)| as_text(workers, policy)).collect();
        say!("{}", text::clean(texts.join("\n").trim_end()));
    }
    Ok(0)
}

/// What would become of one call, and why.
pub fn explain(call: &str, mode: &ModeFlags, rules: &RuleFlags) -> Result<u8, Report> {
    let host = start::host(&[])?;
    let judge = start::judge(&host, mode, rules)?;
    // The form of a call is the form of a rule, and so are its errors.
    Rule::parse(Action::Allow, call, &host.workspace).map_err(Report::usage)?;
    let (tool, what) = match call.split_once('(') {
        Some((tool, rest)) => (tool, rest.strip_suffix(')').unwrap_or(rest)),
        None => (call, ""),
    };
    let subject = match tool {
        "bash" => Subject::Command(what.to_owned()),
        "todo_write" | "task" | "jobs" => Subject::Nothing,
        server if server.starts_with(PREFIX) => Subject::Nothing,
        memory if memory.starts_with("memory_") => match what {
            "" => Subject::Nothing,
            name => Subject::Name(name.to_owned()),
        },
        _ => Subject::Path(host.resolve(if what.is_empty() { "." } else { what })),
    };
    let decision = judge.decide(&Call { tool: tool.to_owned(), subject: subject.clone() });
    let (word, why) = match &decision {
        Decision::Allow { reason } => ("allow", reason.clone()),
        Decision::Grant { rule } => ("allow", format!("Your rule allows it: {rule}")),
        Decision::Ask { reason } => ("ask", reason.clone()),
        Decision::Deny { reason } => ("deny", reason.clone()),
    };
    say!("{word} in {} mode: {}", judge.policy().name, text::clean(&why));
    match &subject {
        Subject::Path(place) => say!("path: {}", text::clean(&place.path.display().to_string())),
        Subject::Command(command) => {
            for part in analyse(command).commands {
                let words: Vec<String> = part
                    .into_iter()
                    .map(|word| word.unwrap_or_else(|| "(known only when it runs)".into()))
                    .collect();
                say!("runs: {}", text::clean(&words.join(" ")));
            }
        }
        Subject::Nothing | Subject::Name(_) => {}
    }
    Ok(0)
}

/// A worker's name, what it is for, and its confinement.
type Worker = (&'static str, &'static str, Confinement);

fn workers(policy: &Policy, groups: &Groups, host: &Host) -> Vec<Worker> {
    let mut workers =
        vec![("file_worker", "un-asked file tools", file_worker(policy, groups, host, None))];
    if command_rights(policy, Rights::Unasked) != crate::policy::WorkspaceView::None {
        let cell = command(policy, groups, host, Rights::Unasked);
        workers.push(("command_unasked", "commands that need no question", cell));
    }
    let cell = command(policy, groups, host, Rights::Granted);
    workers.push(("command_granted", "commands after a yes", cell));
    workers
}

fn as_json(workers: &[Worker], policy: &Policy) -> Value {
    let mut value =
        json!({"mode": policy.name.name(), "summary": policy.summary, "reason": policy.reason});
    let rule = |rule: &crate::policy::ModeRule| {
        json!({"tools": rule.tools, "when": format!("{:?}", rule.when).to_lowercase(),
            "action": rule.action, "reason": rule.reason})
    };
    value["rules"] = policy.rules.iter().map(rule).collect();
    value["otherwise"] =
        json!({"action": policy.otherwise.action, "reason": policy.otherwise.reason});
    value["command_seconds"] = policy.limits.seconds.into();
    for (name, _, cell) in workers {
        let landlock: Vec<Value> = landlock_rules(cell)
            .into_iter()
            .map(|(path, grant)| json!({"path": path, "grant": grant}))
            .collect();
        value[name] = json!({
            "mounts": cell.mounts,
            "directory": cell.directory,
            "landlock": landlock,
            "refused_calls": refused_calls(cell.syscalls),
            "limits": cell.limits,
            "environment": cell.environment.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "network": cell.network,
            "unreachable": cell.unreachable,
        });
    }
    value
}

fn as_text(workers: &[Worker], policy: &Policy) -> String {
    let mut text = format!(
        "# {}: {}\n{}\n\nRules, the first that fits decides:\n",
        policy.name, policy.summary, policy.reason
    );
    for rule in &policy.rules {
        let when = format!("{:?}", rule.when).to_lowercase();
        let _ = writeln!(
            text,
            "  {:?} {} when {when}: {}",
            rule.action,
            rule.tools.join(" "),
            rule.reason
        );
    }
    let _ = writeln!(
        text,
        "  {:?} everything else: {}",
        policy.otherwise.action, policy.otherwise.reason
    );
    for (_, what, cell) in workers {
        let _ = writeln!(text, "\n## Worker for {what}");
        for mount in &cell.mounts {
            let _ = writeln!(text, "  {}", mount_line(mount));
        }
        let _ = writeln!(text, "  Landlock:");
        for (path, grant) in landlock_rules(cell) {
            let _ = writeln!(text, "    {:<6} {}", grant_word(grant), path.display());
        }
        let _ = writeln!(text, "  Refused system calls:");
        for line in refused_calls(cell.syscalls) {
            let _ = writeln!(text, "    {line}");
        }
        let limits = &cell.limits;
        let number = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
        let _ = writeln!(
            text,
            "  Limits: {} processes, {} MiB memory, {} MiB file, {} s CPU, {} descriptors, {} s in all",
            limits.processes,
            number(limits.memory_mib),
            number(limits.file_mib),
            number(limits.cpu_seconds),
            limits.descriptors,
            policy.limits.seconds,
        );
        let names: Vec<&str> = cell.environment.iter().map(|(name, _)| name.as_str()).collect();
        let names = if names.is_empty() { "empty".to_owned() } else { names.join(" ") };
        let _ = writeln!(text, "  Environment: {names}");
        let _ = writeln!(text, "  Network: {}", network_word(cell.network));
    }
    text
}

fn network_word(network: zerostack_sandbox::Network) -> &'static str {
    match network {
        zerostack_sandbox::Network::None => "none",
        zerostack_sandbox::Network::Loopback => "its own loopback only, no way out",
    }
}

fn grant_word(grant: Grant) -> &'static str {
    match grant {
        Grant::List => "list",
        Grant::Read => "read",
        Grant::Write => "write",
        Grant::Device => "device",
    }
}

fn access_word(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read-only ",
        Access::ReadWrite => "read-write",
    }
}

fn mount_line(mount: &Mount) -> String {
    let target = mount.target();
    let target = target.display();
    match mount {
        Mount::Tree { access, .. } => format!("{} {target}", access_word(*access)),
        Mount::Copy { size_mib, .. } => {
            format!("copy       {target} (changes in memory, {size_mib} MiB)")
        }
        Mount::Empty { access, .. } => {
            format!("empty      {target} ({})", access_word(*access).trim())
        }
        Mount::Pin { access, .. } => {
            format!("pinned     {target} ({})", access_word(*access).trim())
        }
        Mount::Cover { .. } => format!("covered    {target}"),
        Mount::Link { to, .. } => format!("link       {target} -> {}", to.display()),
    }
}
