//! Runs a command in a cell that sees the system read-only and one directory writable:
//! `cargo run --example confine -- DIRECTORY COMMAND [ARGUMENT…]`. A complete use of the crate.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zerostack_sandbox::{
    Access, Confinement, Launcher, Limits, Mount, Network, Program, Report, Source, Stdio, Syscalls,
};

fn system() -> Vec<Mount> {
    let mut mounts = Vec::new();
    for path in ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"]
    {
        let target = PathBuf::from(path);
        match std::fs::read_link(path) {
            Ok(to) => mounts.push(Mount::Link { target, to }),
            Err(_) if !target.exists() => {}
            Err(_) => mounts.push(Mount::Tree {
                source: Source::fixed(path),
                target,
                access: Access::ReadOnly,
            }),
        }
    }
    mounts
}

fn run(directory: &str, command: Vec<String>) -> Result<i32, Box<dyn std::error::Error>> {
    let mut mounts = system();
    mounts.push(Mount::Empty { target: "/tmp".into(), size_mib: 64, access: Access::ReadWrite });
    mounts.push(Mount::Tree {
        source: Source::fixed(directory),
        target: directory.into(),
        access: Access::ReadWrite,
    });
    let confinement = Confinement {
        mounts,
        directory: directory.into(),
        network: Network::Loopback,
        syscalls: Syscalls { exec: true, sockets: true, personality: false },
        limits: Limits {
            processes: 200,
            memory_mib: Some(4096),
            file_mib: Some(1024),
            cpu_seconds: Some(60),
            descriptors: 1024,
        },
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        unreachable: vec!["/root".into()],
    };
    let launcher = Launcher::start(Path::new("/proc/self/exe"))?;
    let argv = command.into_iter().map(String::into_bytes).collect();
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    let mut cell = launcher.spawn(&confinement, &Program::Command)?;
    eprintln!("{:?}", cell.started(true)?);
    cell.run(argv, Stdio::Passed, &streams)?;
    loop {
        match cell.control().recv()?.0 {
            Report::Running => {}
            Report::Exited(exit) => return Ok(exit.status()),
            Report::Failed(failure) => return Err(failure.into()),
            Report::Started(_) => return Err("started twice".into()),
        }
    }
}

fn main() -> ExitCode {
    if zerostack_sandbox::is_launcher() {
        return ExitCode::from(zerostack_sandbox::run_launcher(|_| ()) as u8);
    }
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: confine DIRECTORY COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    match run(&directory, arguments.collect()) {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            eprintln!("confine: {error}");
            ExitCode::FAILURE
        }
    }
}
