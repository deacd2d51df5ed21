//! The key is in the supervisor and nowhere else: looked for in the memory and environment of every
//! process of a run.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::model_server::ModelServer;
use crate::support::script::Reply;
use crate::support::{Account, KEY, World};

/// Whether `needle` is in the readable memory of a process.
fn in_memory(process: &Path, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(process.join("maps")).unwrap();
    let memory = File::open(process.join("mem")).unwrap();
    maps.lines().any(|line| {
        let mut parts = line.split_whitespace();
        let (range, rights) = (parts.next().unwrap(), parts.next().unwrap());
        if !rights.starts_with('r') {
            return false;
        }
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // Some mappings, such as vvar, cannot be read.
        memory.read_exact_at(&mut bytes, start).is_ok()
            && bytes.windows(needle.len()).any(|window| window == needle)
    })
}

/// The processes below `parent`, itself first.
fn tree(parent: u32) -> Vec<u32> {
    let mut found = vec![parent];
    let mut next = 0;
    while next < found.len() {
        let children = format!("/proc/{0}/task/{0}/children", found[next]);
        let children = fs::read_to_string(children).unwrap_or_default();
        found.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        next += 1;
    }
    found
}

#[test]
fn the_key_is_in_the_memory_of_the_supervisor_alone() {
    if !nix::unistd::geteuid().is_root() {
        // Reading the memory of a process that is not dumpable takes root; what an ordinary user may
        // look into is covered by `escapes`.
        assert!(File::open("/proc/self/mem").is_ok());
        return;
    }
    let world = World::new(Account::Current);
    let server = ModelServer::start(vec![Reply::hang()]);
    let child = world.ask(&server, "wait").spawn();
    server.wait_for_requests(1);

    let mut with_key = Vec::new();
    let processes = tree(child.id());
    let launcher = Path::new("/proc").join(processes[1].to_string());
    assert_eq!(fs::read(launcher.join("environ")).unwrap(), b"", "the launcher has an environment");
    assert_eq!(fs::read_dir(launcher.join("task")).unwrap().count(), 1, "the launcher has threads");
    for pid in &processes {
        let process = Path::new("/proc").join(pid.to_string());
        let environment = fs::read(process.join("environ")).unwrap();
        let key = KEY.as_bytes();
        let in_environment = environment.windows(key.len()).any(|window| window == key);
        if in_environment || in_memory(&process, key) {
            with_key.push(*pid);
        }
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    crate::support::run::wait(child).exits(130);
    // Supervisor, launcher, file worker: the first one is the control.
    assert!(processes.len() >= 3, "{processes:?}");
    assert_eq!(with_key, [processes[0]]);
    server.finish();
}
