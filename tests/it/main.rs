//! The one integration test program. It drives the built binary; only `workers` uses the library, to
//! force decisions that the program would not make.
//!
//! Every test has a private world (home, workspace, binary) and, where it needs a model, a
//! scripted server on loopback that checks each request. Run as root, the tests run twice:
//! as root and as an ordinary user made for them.

#![allow(clippy::disallowed_methods, reason = "tests start the product and its peers as programs")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod approvals;
mod bad_input;
mod borders;
mod engine;
mod escapes;
mod headless;
mod holes;
mod keys;
mod kill;
mod mcp;
mod memory;
mod model;
mod pictures;
mod probes;
mod protocols;
mod screen;
mod sessions;
mod settings;
#[allow(dead_code, reason = "one tool box for all modules")]
mod support;
mod terminal;
mod workers;
mod worktree;

use std::fs;
use std::path::Path;

/// A test file that no `mod` line names would be compiled by nobody and pass for ever.
#[test]
fn every_test_file_is_declared() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    assert_declared(&here, "main.rs");
    assert_declared(&here.join("support"), "mod.rs");
}

fn assert_declared(directory: &Path, root: &str) {
    let text = fs::read_to_string(directory.join(root)).unwrap();
    let declared: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
        .filter_map(|rest| rest.strip_suffix(';'))
        .collect();
    assert!(!declared.is_empty(), "{root} declares no module");

    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let source = path.extension().is_some_and(|kind| kind == "rs");
        let module = path.join("mod.rs").exists();
        if !(source || module) || path.file_name().unwrap() == root {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            declared.contains(&name),
            "{} is not declared in {root}: its tests never run",
            path.display()
        );
    }
}
