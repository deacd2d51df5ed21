//! Worktrees: made, merged and removed by git in a cell, with real repositories.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::terminal::Terminal;
use crate::support::{Account, World, accounts};

/// Runs git as the world's account, outside of any cell; returns what it prints.
fn git(world: &World, directory: &Path, args: &[&str]) -> String {
    let mut command = world.account().command(Path::new("/usr/bin/git"));
    command.args(args).current_dir(directory).env("HOME", world.home());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "git {args:?}: {text}{:?}", output.stderr);
    text.trim().to_owned()
}

/// A workspace with a repository of one commit.
fn repository(account: Account) -> World {
    let world = World::new(account);
    world.write("a.txt", "one\ntwo\nthree\n");
    let here = world.workspace();
    git(&world, &here, &["init", "-q", "-b", "main"]);
    for (key, value) in [("user.name", "Tester"), ("user.email", "tester@example.com")] {
        git(&world, &here, &["config", key, value]);
    }
    git(&world, &here, &["add", "-A"]);
    git(&world, &here, &["commit", "-q", "-m", "first"]);
    world
}

fn log(world: &World) -> String {
    git(world, &world.workspace(), &["log", "--format=%s", "main"])
}

fn writes(id: &str, path: &str, content: &str) -> Vec<Reply> {
    let read = Reply::call("r", "read", json!({"path": path}));
    let write = Reply::call(id, "write", json!({"path": path, "content": content}));
    vec![read, write, Reply::text("Done.")]
}

/// One run of which the model writes a file, with these flags.
fn run(world: &World, path: &str, content: &str, flags: &[&str], code: i32) -> String {
    let server = ModelServer::start(writes("w", path, content));
    let output = world.ask(&server, &format!("write {path}")).args(flags).run().exits(code);
    server.finish();
    output.stderr.clone()
}

#[test]
fn work_in_a_worktree_leaves_the_main_checkout_alone_until_it_is_merged() {
    for account in accounts() {
        let world = repository(account);
        let server = ModelServer::start(vec![
            Reply::call("w", "write", json!({"path": "new.txt", "content": "new\n"})),
            Reply::calls(&[
                (
                    "s",
                    "bash",
                    json!({"command": "git status --short && git log --oneline | wc -l"}),
                ),
                ("h", "bash", json!({"command": "echo x > ../project/a.txt"})),
                ("o", "write", json!({"path": "../project/.git/hooks/post-merge", "content": "x"})),
            ]),
            Reply::text("Done."),
        ]);
        let flags = ["--worktree", "fix/it", "--allow", "bash"];
        world.ask(&server, "go").args(&flags).run().exits(4);
        let told = server.finish();
        assert!(told[0].said_by("system")[0].contains("home/project-fix-it\n"));
        let status = told[2].result("s");
        assert!(status.contains("?? new.txt") && status.contains('1'), "{status}");
        assert!(told[2].result("o").contains("denied"), "{}", told[2].result("o"));
        assert!(!world.has("new.txt") && !world.has(".git/hooks/post-merge"));
        assert_eq!(world.read("../project-fix-it/new.txt"), "new\n");
        assert_eq!(
            (world.read("a.txt").as_str(), log(&world).as_str()),
            ("one\ntwo\nthree\n", "first")
        );
        // The session goes on where it was.
        let server = ModelServer::start(writes("w", "more.txt", "more\n"));
        let server = server.allowing_summaries();
        world.ask(&server, "more").args(&["-c", "--wt-auto-merge"]).run().exits(0);
        server.finish();
        assert_eq!(
            (world.read("new.txt").as_str(), world.read("more.txt").as_str()),
            ("new\n", "more\n")
        );
        assert_eq!(log(&world), "go\nfirst");
        assert!(!world.has("../project-fix-it"));
        assert_eq!(
            git(&world, &world.workspace(), &["branch", "--format=%(refname:short)"]),
            "main"
        );
        assert_eq!(git(&world, &world.workspace(), &["status", "--short"]), "");
    }
}

#[test]
fn two_that_work_beside_each_other_are_both_merged() {
    let world = repository(Account::Current);
    // One that is there all the time: nothing that happens to others may remove it.
    git(&world, &world.workspace(), &["worktree", "add", "-q", "-b", "mine", "../mine"]);
    run(&world, "one.txt", "1\n", &["--worktree", "one"], 0);
    assert!(run(&world, "two.txt", "2\n", &["--parallel"], 0).contains("moved forward"));
    // main has moved on since `one` was made.
    let said = run(&world, "three.txt", "3\n", &["--worktree", "one", "--wt-auto-merge"], 0);
    assert!(said.contains("one is one commit in main"), "{said}");
    assert_eq!(log(&world).lines().count(), 3, "{}", log(&world));
    for name in ["one.txt", "two.txt", "three.txt"] {
        assert!(world.has(name), "{name}");
    }
    let left = git(&world, &world.workspace(), &["worktree", "list"]);
    assert_eq!(left.lines().count(), 2, "{left}");
    assert_eq!(git(&world, &world.home().join("mine"), &["status", "--short"]), "");
    // Without anything done there is nothing to merge, and nothing is left.
    let server = ModelServer::start(vec![Reply::text("Nothing to do.")]);
    let output = world.ask(&server, "go").args(&["--parallel"]).run().exits(0);
    server.finish();
    assert!(output.stderr.contains("has everything of parallel-"), "{}", output.stderr);
    assert_eq!(git(&world, &world.workspace(), &["worktree", "list"]).lines().count(), 2);
}

#[test]
fn what_cannot_be_merged_is_kept_whole() {
    let world = repository(Account::Current);
    let here = world.workspace();
    // Both sides have changed the same line.
    run(&world, "a.txt", "ONE\ntwo\nthree\n", &["--worktree", "fix"], 0);
    world.write("a.txt", "uno\ntwo\nthree\n");
    git(&world, &here, &["commit", "-qam", "other"]);
    let said = run(&world, "b.txt", "b\n", &["--worktree", "fix", "--wt-auto-merge"], 1);
    assert!(
        said.contains("conflicts with main in a.txt") && said.contains("project-fix"),
        "{said}"
    );
    assert_eq!(world.read("../project-fix/a.txt"), "ONE\ntwo\nthree\n");
    assert_eq!(
        (log(&world).as_str(), world.read("a.txt").as_str()),
        ("other\nfirst", "uno\ntwo\nthree\n")
    );
    assert_eq!(git(&world, &here, &["status", "--short"]), "");
    // What the user has changed and not committed is not overwritten.
    run(&world, "c.txt", "c\n", &["--worktree", "two"], 0);
    world.write("c.txt", "mine\n");
    let said = run(&world, "d.txt", "d\n", &["--worktree", "two", "--wt-auto-merge"], 1);
    assert!(said.contains("would be overwritten"), "{said}");
    assert_eq!(world.read("c.txt"), "mine\n");
    assert!(world.has("../project-two/d.txt"));
    // A secret is in no commit by accident.
    std::fs::remove_file(here.join("c.txt")).unwrap();
    world.write("../project-two/.env", "TOKEN=1\n");
    let said = run(&world, "e.txt", "e\n", &["--worktree", "two", "--wt-auto-merge"], 1);
    assert!(said.contains(".env looks like a secret"), "{said}");
    assert!(world.has("../project-two/.env"));
    // A run that did not end well merges nothing.
    let server = ModelServer::start(vec![
        Reply::call("c", "bash", json!({"command": "make"})),
        Reply::text("Done."),
    ]);
    let output = world.ask(&server, "go").args(&["--parallel"]).run().exits(4);
    server.finish();
    assert!(output.stderr.contains("not merged, because the run did not end well"));
}

#[test]
fn nothing_that_a_repository_names_runs() {
    for account in accounts() {
        let world = repository(account);
        let here = world.workspace();
        let traps = world.home().join("traps");
        world.write("../traps/.here", "");
        // Wherever a trap is sprung, on the host or in a cell: it leaves a file.
        let trap = |name: &str| {
            format!("touch {}/{name} {}/trap-{name} trap-{name}", traps.display(), here.display())
        };
        for hook in [
            "post-checkout",
            "pre-commit",
            "post-commit",
            "commit-msg",
            "prepare-commit-msg",
            "post-merge",
            "pre-merge-commit",
            "reference-transaction",
            "post-index-change",
        ] {
            world.write(&format!(".git/hooks/{hook}"), &format!("#!/bin/sh\n{}\n", trap(hook)));
            let path = here.join(".git/hooks").join(hook);
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let set = |key: &str, value: &str| git(&world, &here, &["config", key, value]);
        set("core.fsmonitor", &format!("{}; false", trap("fsmonitor")));
        for (key, name) in [
            ("filter.f=g.clean", "clean"),
            ("filter.f=g.smudge", "smudge"),
            ("merge.m.driver", "driver"),
            ("gpg.program", "gpg"),
        ] {
            set(key, &format!("{}; cat", trap(name)));
        }
        set("filter.f=g.required", "true");
        world.write(".gitattributes", "*.txt filter=f=g merge=m\n*.c merge=m\n");
        world.write(".gitignore", "trap-*\n");
        world.write("t.txt", "t\n");
        // The traps work where a person runs git.
        git(&world, &here, &["add", "-A"]);
        git(&world, &here, &["commit", "-q", "-m", "traps"]);
        for name in ["clean", "pre-commit", "fsmonitor", "reference-transaction"] {
            assert!(traps.join(name).exists(), "{name} is no trap");
        }
        let plain = |args: &[&str]| {
            let off = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"];
            git(&world, &here, &[&off[..], args].concat())
        };
        world.write("b.md", "b\n");
        plain(&["add", "b.md"]);
        let sprung = || {
            let found = world.listing();
            let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
            let is_trap =
                |path: &Path| name(path).starts_with("trap-") || path.starts_with("traps/");
            let mut found: Vec<_> = found.into_iter().filter(|path| is_trap(path)).collect();
            found.retain(|path| !matches!(name(path).as_str(), ".here" | "traps"));
            found
        };
        let mend = || {
            let all = sprung();
            all.iter().for_each(|path| std::fs::remove_file(world.home().join(path)).unwrap());
        };
        mend();
        set("commit.gpgSign", "true");
        run(&world, "n.c", "n\n", &["--worktree", "fix"], 0);
        assert!(sprung().is_empty(), "{:?}", sprung());
        plain(&["-c", "commit.gpgSign=false", "commit", "-q", "-m", "b"]);
        mend();
        let said = run(&world, "c.c", "c\n", &["--worktree", "fix", "--wt-auto-merge"], 0);
        assert!(said.contains("fix is one commit in main"), "{said}");
        assert!(world.has("c.c") && world.has("n.c"));
        // What goes through a filter would be merged without: it is not.
        let said = run(&world, "x.txt", "x\n", &["--parallel"], 1);
        assert!(said.contains("x.txt goes through the filter f=g"), "{said}");
        assert!(!world.has("x.txt"));
        assert!(sprung().is_empty(), "{:?}", sprung());
    }
}

#[test]
fn settings_of_the_repository_name_nothing_that_runs() {
    for account in accounts() {
        let world = repository(account);
        let here = world.workspace();
        let traps = world.home().join("traps");
        world.write("../traps/.here", "");
        let script = format!(
            "#!/bin/sh\ntouch {0}/$1 {1}/trap-$1 trap-$1\ncat\n",
            traps.display(),
            here.display()
        );
        for name in ["trap", "bin/git", "bin/find", "bin/bash"] {
            world.write(name, &script);
            std::fs::set_permissions(here.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let trap = here.join("trap").display().to_string();
        world.write(".gitignore", "trap-*\n");
        world.write(".gitattributes", "*.txt filter=x\n*.md filter=y\n");
        world.write("b.md", "b\n");
        git(&world, &here, &["add", "-A"]);
        git(&world, &here, &["commit", "-q", "-m", "traps"]);
        let config = here.join(".git/config");
        let mut text = std::fs::read(&config).unwrap();
        text.extend(
            format!(
                "[includeIf \"gitdir:**/worktrees/**\"]\n\tpath = evil.conf\n[include]\n\tpath = evil.conf\n\
                 [protocol \"ext\"]\n\tallow = always\n[remote \"o\"]\n\turl = \"ext::{trap} ext\"\n\tpromisor = true\n\
                 [merge]\n\tverifySignatures = true\n[gpg \"ssh\"]\n\tprogram = {trap} gpg\n[branch \"main\"]\n\
                 \tmergeOptions = --autostash\n[core]\n\tsshCommand = {trap} ssh\n\tpager = {trap} pager\n\
                 [credential]\n\thelper = !{trap} helper\n[filter \""
            )
            .bytes(),
        );
        // A name that is no text: as a setting it could not even be named.
        text.extend(*b"\xff\"]\n\tclean = ");
        text.extend(format!("{trap} bytes\n").bytes());
        std::fs::write(&config, text).unwrap();
        let filters = format!("[filter \"x\"]\n\tclean = {trap} clean\n\tsmudge = {trap} smudge\n");
        world.write(".git/evil.conf", &filters);
        // The trap works where a person runs git.
        world.write("t.txt", "t\n");
        git(&world, &here, &["add", "t.txt"]);
        assert!(traps.join("clean").exists());
        git(&world, &here, &["commit", "-q", "-m", "t"]);
        for trap in [traps.join("clean"), here.join("trap-clean")] {
            std::fs::remove_file(trap).unwrap();
        }
        let path = format!("{}/bin:/usr/bin:/bin", here.display());
        for (file, flags) in [("n.c", &[][..]), ("m.c", &["--wt-auto-merge"])] {
            let server = ModelServer::start(writes("w", file, "n\n"));
            let flags = [&["--worktree", "fix"], flags].concat();
            world.ask(&server, "go").args(&flags).env("PATH", &path).run().exits(0);
            server.finish();
        }
        assert!(world.has("n.c") && world.has("m.c"));
        let sprung: Vec<_> = world
            .listing()
            .into_iter()
            .filter(|path| path.starts_with("traps") || path.to_string_lossy().contains("trap-"))
            .collect();
        assert_eq!(sprung.len(), 2, "{sprung:?}");
        // What would have to be understood, and is not.
        for (key, value) in [
            ("core.worktree", "/x"),
            ("extensions.partialClone", "o"),
            ("core.sparseCheckout", "true"),
            ("core.sharedRepository", "group"),
        ] {
            git(&world, &here, &["config", key, value]);
            let server = ModelServer::start(Vec::new());
            let output = world.ask(&server, "go").args(&["--worktree", "no"]).run().exits(1);
            drop(server.finish_loosely());
            assert!(output.stderr.contains("cannot have worktrees here"), "{}", output.stderr);
            git(&world, &here, &["-c", "core.worktree=.", "config", "--unset", key]);
        }
    }
}

#[test]
fn only_a_whole_worktree_of_this_repository_is_entered() {
    let world = repository(Account::Current);
    let here = world.workspace();
    let refused = |name: &str, words: &str| {
        let server = ModelServer::start(Vec::new());
        let flags = ["--worktree", name, "--wt-auto-merge"];
        let output = world.ask(&server, "go").args(&flags).run().exits(1);
        drop(server.finish_loosely());
        assert!(output.stderr.contains(words), "{name}: {}", output.stderr);
        assert_eq!((log(&world).as_str(), world.has("a.txt")), ("first", true), "{name}");
        assert_eq!(git(&world, &here, &["status", "--short"]), "", "{name}");
    };
    // One whose files were never written: everything would look deleted.
    git(&world, &here, &["worktree", "add", "-q", "--no-checkout", "-b", "x", "../project-x"]);
    refused("x", "not made to its end");
    // One that lost its tie: git would look for the repository elsewhere.
    git(&world, &here, &["worktree", "add", "-q", "-b", "y", "../project-y"]);
    std::fs::remove_file(world.home().join("project-y/.git")).unwrap();
    refused("y", "not tied to this repository");
    world.write("../project-y/.git", "gitdir: .g\n");
    refused("y", "not tied to this repository");
    // The repository says that a directory of the user's is one.
    world.write("../project-backup/precious", "x");
    for (name, text) in [
        ("gitdir", format!("{}/project-backup/.git\n", world.home().display())),
        ("commondir", "../..\n".into()),
        ("HEAD", "ref: refs/heads/backup\n".into()),
    ] {
        world.write(&format!(".git/worktrees/project-backup/{name}"), &text);
    }
    git(&world, &here, &["branch", "backup"]);
    refused("backup", "not tied to this repository");
    assert!(world.has("../project-backup/precious"));
    git(&world, &here, &["worktree", "add", "-q", "--detach", "../project-z"]);
    refused("z", "another commit or branch");
    git(&world, &here, &["worktree", "add", "-q", "-b", "gone", "../project-gone"]);
    std::fs::remove_dir_all(world.home().join("project-gone")).unwrap();
    refused("gone", "already registered");
    // A directory of the branch that is a link to anywhere, zerostack's own files included.
    world.write("sub/x", "x");
    git(&world, &here, &["add", "-A"]);
    git(&world, &here, &["commit", "-q", "-m", "sub"]);
    git(&world, &here, &["checkout", "-q", "-b", "evil"]);
    std::fs::remove_dir_all(here.join("sub")).unwrap();
    std::os::unix::fs::symlink(world.home().join(".config/zerostack"), here.join("sub")).unwrap();
    git(&world, &here, &["add", "-A"]);
    git(&world, &here, &["commit", "-q", "-m", "evil"]);
    git(&world, &here, &["checkout", "-q", "main"]);
    let server = ModelServer::start(Vec::new());
    let run = world.ask(&server, "go").args(&["--worktree", "evil"]).in_dir(here.join("sub"));
    let output = run.run().exits(1);
    drop(server.finish_loosely());
    assert!(output.stderr.contains("sub is no directory in the branch evil"), "{}", output.stderr);
}

#[test]
fn nothing_of_the_users_is_lost_by_a_merge() {
    let world = repository(Account::Current);
    let (here, there) = (world.workspace(), world.home().join("project-fix"));
    let fix = ["--worktree", "fix"];
    let merge = ["--worktree", "fix", "--wt-auto-merge"];
    // Ignored in the main checkout and precious; the branch brings a file of that name.
    world.write(".gitignore", "local.conf\nbuild/\n");
    git(&world, &here, &["add", "-A"]);
    git(&world, &here, &["commit", "-q", "-m", "ignore"]);
    world.write("local.conf", "mine\n");
    run(&world, "x.txt", "x\n", &fix, 0);
    world.write("../project-fix/.gitignore", "build/\n");
    world.write("../project-fix/local.conf", "theirs\n");
    let said = run(&world, "y.txt", "y\n", &merge, 1);
    assert!(said.contains("local.conf"), "{said}");
    assert_eq!(world.read("local.conf"), "mine\n");
    std::fs::remove_file(here.join("local.conf")).unwrap();
    git(&world, &there, &["reset", "-q", "--hard", "main"]);
    // What is in no commit of the worktree keeps it: ignored files, hidden changes, other repositories.
    for (make, words) in [
        ("ignored", "local.conf is in no commit"),
        ("hidden", "not to look at a.txt"),
        ("nested", "repository of its own"),
    ] {
        run(&world, "x.txt", "x\n", &fix, 0);
        match make {
            "ignored" => {
                world.write("../project-fix/.gitignore", "local.conf\nbuild/\n");
                world.write("../project-fix/local.conf", "only here\n");
            }
            "hidden" => {
                git(&world, &there, &["update-index", "--skip-worktree", "a.txt"]);
                world.write("../project-fix/a.txt", "only here\n");
            }
            _ => {
                world.write("../project-fix/build/sub/f", "f");
                git(&world, &there.join("build/sub"), &["init", "-q"]);
            }
        }
        let said = run(&world, &format!("{make}.txt"), "x\n", &merge, 0);
        assert!(
            said.contains("the worktree is still there") && said.contains(words),
            "{make}: {said}"
        );
        assert!(there.is_dir() && world.has(&format!("{make}.txt")), "{make}");
        let said = run(&world, "x.txt", "x\n", &[&merge[..], &["--wt-force"]].concat(), 0);
        assert!(said.contains("the worktree is removed") && !there.exists(), "{make}: {said}");
    }
    // Another repository among the files would become a commit that nobody has.
    run(&world, "x.txt", "x\n", &fix, 0);
    world.write("../project-fix/sub/f", "f");
    let sub = there.join("sub");
    git(&world, &sub, &["init", "-q"]);
    git(&world, &sub, &["add", "-A"]);
    git(&world, &sub, &["-c", "user.name=T", "-c", "user.email=t@e", "commit", "-q", "-m", "s"]);
    let said = run(&world, "x.txt", "x\n", &merge, 1);
    assert!(
        said.contains("sub is a repository of its own") || said.contains("sub/ is a repository"),
        "{said}"
    );
    assert!(sub.join("f").exists());
    std::fs::remove_dir_all(&sub).unwrap();
    // Commits that are on no branch, a merge that is not finished, a lock.
    git(&world, &there, &["checkout", "-q", "--detach"]);
    let server = ModelServer::start(Vec::new());
    world.ask(&server, "go").args(&merge).run().exits(1).says("another commit or branch");
    drop(server.finish_loosely());
    git(&world, &there, &["checkout", "-q", "fix"]);
    git(&world, &there, &["commit", "-q", "--allow-empty", "-m", "x"]);
    world.write("a.txt", "uno\ntwo\nthree\n");
    git(&world, &here, &["commit", "-qam", "other"]);
    world.write("../project-fix/a.txt", "ONE\ntwo\nthree\n");
    git(&world, &there, &["commit", "-qam", "mine"]);
    let mut conflict = world.account().command(Path::new("/usr/bin/git"));
    assert!(
        !conflict
            .args(["merge", "main"])
            .current_dir(&there)
            .env("HOME", world.home())
            .output()
            .unwrap()
            .status
            .success()
    );
    let said = run(&world, "q.txt", "q\n", &merge, 1);
    assert!(said.contains("is not finished in it"), "{said}");
    assert!(!world.read("a.txt").contains("<<<<"));
    git(&world, &there, &["merge", "--abort"]);
    git(&world, &there, &["reset", "-q", "--hard", "HEAD~1"]);
    git(&world, &here, &["worktree", "lock", "../project-fix"]);
    let said = run(&world, "z.txt", "z\n", &merge, 0);
    assert!(said.contains("it is locked") && there.join("z.txt").exists(), "{said}");
    // A branch of the user's own outlives its worktree where it became another commit.
    git(&world, &here, &["branch", "own", "HEAD~1"]);
    let said = run(&world, "own.txt", "o\n", &["--worktree", "own", "--wt-auto-merge"], 0);
    assert!(said.contains("own is one commit in main"), "{said}");
    git(&world, &here, &["rev-parse", "--verify", "own"]);
    assert_eq!(git(&world, &here, &["for-each-ref", "refs/zerostack/made/own"]), "");
}

#[test]
fn a_submodule_is_not_looked_into() {
    let world = repository(Account::Current);
    let here = world.workspace();
    // A submodule of the main checkout, and in the worktree a repository in its place that names a filter.
    world.write("../library/s.txt", "s\n");
    let library = world.home().join("library");
    git(&world, &library, &["init", "-q", "-b", "main"]);
    git(&world, &library, &["add", "-A"]);
    git(
        &world,
        &library,
        &["-c", "user.name=T", "-c", "user.email=t@e", "commit", "-q", "-m", "s"],
    );
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../library", "sub"];
    git(&world, &here, &add);
    git(&world, &here, &["commit", "-q", "-m", "sub"]);
    run(&world, "n.c", "n\n", &["--worktree", "fix"], 0);
    let sub = world.home().join("project-fix/sub");
    git(&world, &world.home(), &["clone", "-q", "library", sub.to_str().unwrap()]);
    let trap = format!(
        "touch {0}/trap {1}/.git/trap ../trap; cat",
        world.home().display(),
        here.display()
    );
    git(&world, &sub, &["config", "filter.x.clean", &trap]);
    world.write("../project-fix/sub/.gitattributes", "* filter=x\n");
    world.write("../project-fix/sub/s.txt", "t\n");
    // The trap works where a person looks.
    git(&world, &sub, &["status", "--short"]);
    let traps = || world.listing().iter().filter(|path| path.ends_with("trap")).count();
    assert!(traps() > 0);
    for path in world.listing().iter().filter(|path| path.ends_with("trap")) {
        std::fs::remove_file(world.home().join(path)).unwrap();
    }
    world.write("../project-fix/sub/s.txt", "u\n");
    let merge = ["--worktree", "fix", "--wt-auto-merge"];
    let said = run(&world, "m.c", "m\n", &merge, 1);
    assert!(said.contains("sub is a repository of its own"), "{said}");
    assert!(sub.join("s.txt").exists() && !world.has("m.c"));
    // Whatever else lies there would be in no commit.
    std::fs::remove_dir_all(&sub).unwrap();
    world.write("../project-fix/sub/precious", "p\n");
    let said = run(&world, "o.c", "o\n", &merge, 1);
    assert!(
        said.contains("sub is a repository of its own") && sub.join("precious").exists(),
        "{said}"
    );
    std::fs::remove_dir_all(&sub).unwrap();
    let said = run(&world, "p.c", "p\n", &merge, 0);
    assert!(said.contains("the worktree is removed") && world.has("p.c"), "{said}");
    assert_eq!(traps(), 0);
}

#[test]
fn what_the_user_ignores_and_where_files_are_typed_is_kept() {
    // A directory that git does not name its own directory like.
    let outer = World::new(Account::Current);
    outer.write("my .repo/a.txt", "a\n");
    let here = outer.workspace().join("my .repo");
    git(&outer, &here, &["init", "-q", "-b", "main"]);
    for (key, value) in [("user.name", "T"), ("user.email", "t@e")] {
        git(&outer, &here, &["config", key, value]);
    }
    // The user's ignore file is a file of this repository, and the merge changes it.
    outer.write("my .repo/ignore", "*.swp\n");
    let ignore = here.join("ignore").display().to_string();
    outer.write("../.gitconfig", &format!("[core]\n\texcludesFile = {ignore:?}\n"));
    git(&outer, &here, &["add", "-A"]);
    git(&outer, &here, &["commit", "-q", "-m", "first"]);
    let server = ModelServer::start(vec![
        Reply::call("r", "read", json!({"path": "ignore"})),
        Reply::calls(&[
            ("w", "write", json!({"path": "ignore", "content": "*.swp\n*.swo\n"})),
            ("s", "write", json!({"path": "b.swp", "content": "x"})),
            ("n", "write", json!({"path": "new.txt", "content": "x\n"})),
        ]),
        Reply::text("Done."),
    ]);
    let flags = ["--worktree", "fix", "--wt-auto-merge", "--record", "tape.jsonl"];
    let output = outer.ask(&server, "go").args(&flags).in_dir(&here).run().exits(0);
    server.finish();
    assert!(output.stderr.contains("main is moved forward to fix"), "{}", output.stderr);
    assert!(output.stderr.contains("b.swp is in no commit"), "{}", output.stderr);
    assert_eq!(outer.read("my .repo/ignore"), "*.swp\n*.swo\n");
    assert_eq!(git(&outer, &here, &["ls-files"]), "a.txt\nignore\nnew.txt");
    // What was typed as a file is where it was typed, and in no commit.
    assert!(here.join("tape.jsonl").exists());
}

#[test]
fn what_is_forbidden_in_the_main_checkout_is_so_from_its_worktrees() {
    let world = repository(Account::Current);
    world.write("private/k", "key\n");
    git(&world, &world.workspace(), &["add", "-A"]);
    git(&world, &world.workspace(), &["commit", "-q", "-m", "private"]);
    let main = world.workspace().join("private/k").display().to_string();
    let there = world.home().join("project-fix/private/k").display().to_string();
    for rule in [
        "read(private/**)".to_owned(),
        format!("read({}/**)", world.workspace().join("private").display()),
    ] {
        let server = ModelServer::start(vec![
            Reply::calls(&[
                ("m", "read", json!({"path": main})),
                ("t", "read", json!({"path": there})),
                ("a", "read", json!({"path": world.workspace().join("a.txt")})),
            ]),
            Reply::text("Done."),
        ]);
        world
            .ask(&server, "go")
            .args(&["--yolo", "--worktree", "fix", "--deny", &rule])
            .run()
            .exits(0);
        let told = server.finish();
        assert!(told[1].result("a").contains("one"), "{}", told[1].result("a"));
        for id in ["m", "t"] {
            assert!(told[1].result(id).contains("denied"), "{rule}: {}", told[1].result(id));
        }
    }
}

#[test]
fn nothing_of_the_session_writes_while_it_is_merged() {
    let world = repository(Account::Current);
    let writes = "while :; do date > job.txt; sleep 0.01; done";
    let job = || Reply::call("j", "bash", json!({"command": writes, "background": true}));
    let server = ModelServer::start(vec![job(), Reply::text("Done.")]);
    let output = world.ask(&server, "go").args(&["--parallel", "--allow", "bash"]).run().exits(0);
    server.finish();
    assert!(output.stderr.contains("the worktree is removed"), "{}", output.stderr);
    let server = ModelServer::start(vec![job(), Reply::text("Done.")]).allowing_summaries();
    let mut terminal =
        Terminal::start(&world, Some(&server), &["--worktree", "fix", "--allow", "bash", "go"]);
    terminal.wait_for("Done.");
    terminal.send("/wt-merge\r");
    terminal.wait_for("background commands could write");
    terminal.send("/jobs stop 1\r");
    terminal.wait_for("stopped");
    terminal.send("/wt-merge\r");
    terminal.wait_for("the worktree and its branch are removed");
    terminal.send("\x15\x04");
    assert_eq!(terminal.ended().0, 0);
    server.finish();
}

#[test]
fn what_git_on_the_host_obeys_stays_as_it_is_in_a_worktree() {
    let world = repository(Account::Current);
    let here = world.workspace();
    world.write("ci/pre-commit", "#!/bin/sh\n");
    world.write("shared.conf", "[user]\n\tname = T\n");
    git(&world, &here, &["config", "core.hooksPath", "ci"]);
    git(&world, &here, &["config", "include.path", "../shared.conf"]);
    git(&world, &here, &["add", "-A"]);
    git(&world, &here, &["commit", "-q", "-m", "hooks"]);
    let write = "echo evil >> ci/pre-commit; echo evil >> shared.conf; echo fine > a.txt";
    for flags in [&[][..], &["--worktree", "fix"]] {
        let server = ModelServer::start(vec![
            Reply::call("c", "bash", json!({"command": write})),
            Reply::text("Done."),
        ]);
        world.ask(&server, "go").args(&["--allow", "bash"]).args(flags).run().exits(0);
        let told = server.finish()[1].result("c");
        let refused = told.matches("Read-only file system").count();
        assert_eq!(refused, if flags.is_empty() { 2 } else { 1 }, "{flags:?}: {told}");
    }
    // A relative `include` is meant from the settings of the main checkout: there it is held.
    assert!(
        !world.read("shared.conf").contains("evil")
            && !world.read("ci/pre-commit").contains("evil")
    );
    assert!(!world.read("../project-fix/ci/pre-commit").contains("evil"));
    assert_eq!(world.read("../project-fix/a.txt"), "fine\n");
}

#[test]
fn a_branch_of_the_users_is_theirs_whatever_it_was_called_before() {
    let world = repository(Account::Current);
    let here = world.workspace();
    run(&world, "x.txt", "x\n", &["--worktree", "w"], 0);
    git(&world, &here, &["worktree", "remove", "--force", "../project-w"]);
    git(&world, &here, &["branch", "-q", "-D", "w"]);
    git(&world, &here, &["checkout", "-q", "-b", "w"]);
    git(&world, &here, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    git(&world, &here, &["checkout", "-q", "main"]);
    git(&world, &here, &["commit", "-q", "--allow-empty", "-m", "other"]);
    let said = run(&world, "y.txt", "y\n", &["--worktree", "w", "--wt-auto-merge"], 0);
    assert!(said.contains("w is one commit in main"), "{said}");
    assert_eq!(git(&world, &here, &["log", "-1", "--format=%s", "w~1"]), "mine");
    // What is made is the user's, as their umask has it.
    let mut command = world.account().command(Path::new("/bin/sh"));
    let server = ModelServer::start(writes("w", "z.txt", "z\n"));
    let start = format!(
        "umask 077; {} --provider openai --base-url {} --model m -p go --parallel",
        world.program().display(),
        server.base_url()
    );
    command.args(["-c", &start]).current_dir(&here).env("HOME", world.home());
    command.env("OPENAI_API_KEY", crate::support::KEY);
    assert!(command.output().unwrap().status.success());
    server.finish();
    let mode = std::fs::metadata(here.join("z.txt")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn many_that_end_at_once_are_all_merged() {
    let world = repository(Account::Current);
    let servers: Vec<_> =
        (0..6).map(|n| ModelServer::start(writes("w", &format!("n{n}.txt"), "n\n"))).collect();
    let runs: Vec<_> = servers
        .iter()
        .map(|server| world.ask(server, "go").args(&["--parallel"]).spawn())
        .collect();
    for child in runs {
        crate::support::run::wait(child).exits(0);
    }
    servers.into_iter().for_each(|server| drop(server.finish()));
    let here = world.workspace();
    assert_eq!(log(&world).lines().count(), 7, "{}", log(&world));
    assert_eq!(git(&world, &here, &["status", "--short"]), "");
    assert!((0..6).all(|n| world.has(&format!("n{n}.txt"))));
    assert_eq!(git(&world, &here, &["worktree", "list"]).lines().count(), 1);
    assert_eq!(git(&world, &here, &["for-each-ref", "refs/zerostack"]), "");
}

#[test]
fn names_and_places_are_looked_at() {
    let world = repository(Account::Current);
    let fails = |flags: &[&str], code: i32| {
        let server = ModelServer::start(Vec::new());
        let output = world.ask(&server, "go").args(flags).run().exits(code);
        drop(server.finish_loosely());
        output.stderr.clone()
    };
    for name in [
        "--worktree=-b",
        "--worktree=a..b",
        "--worktree=a b",
        "--worktree=@{-1}",
        "--worktree=HEAD",
    ] {
        assert!(fails(&[name], 2).contains("cannot be the name of a branch"), "{name}");
    }
    world.write("../project-taken/x", "x");
    assert!(fails(&["--worktree", "taken"], 1).contains("is there already and is no worktree"));
    assert!(world.has("../project-taken/x"));
    // What the repository itself says of its worktrees leads nowhere.
    let registered = world.workspace().join(".git/worktrees/evil");
    git(&world, &world.workspace(), &["worktree", "add", "-q", "-b", "evil", "../evil"]);
    let target = world.home().join("project-evil");
    std::os::unix::fs::symlink(world.home().join(".config"), &target).unwrap();
    std::fs::write(registered.join("gitdir"), format!("{}/.git\n", target.display())).unwrap();
    assert!(fails(&["--worktree", "evil"], 1).contains("is there already"));
    let bare = World::new(Account::Current);
    let server = ModelServer::start(Vec::new());
    let output = bare.ask(&server, "go").args(&["--worktree", "x"]).run().exits(1);
    drop(server.finish_loosely());
    assert!(output.stderr.contains("there is no git repository here"));
}

#[test]
fn a_worktree_is_as_tight_as_the_main_checkout() {
    let world = repository(Account::Current);
    world.write(".zerostack/config.toml", "deny = [\"write(secret/**)\"]");
    world.zerostack(&["trust"]).run().exits(0);
    // It is in no commit: the worktree would be without it.
    let server = ModelServer::start(Vec::new());
    let output = world.ask(&server, "go").args(&["--worktree", "one"]).run().exits(1);
    drop(server.finish_loosely());
    assert!(output.stderr.contains("does not have .zerostack/config.toml"), "{}", output.stderr);
    git(&world, &world.workspace(), &["add", "-A"]);
    git(&world, &world.workspace(), &["commit", "-qm", "settings"]);
    let server = ModelServer::start(writes("w", "secret/x", "x"));
    world.ask(&server, "go").args(&["--worktree", "two"]).run().exits(0);
    let denied = server.finish()[2].result("w");
    assert!(denied.contains("write(secret/**)"), "{denied}");
}

#[test]
fn what_was_merged_is_pushed_where_the_user_wants_that() {
    for account in accounts() {
        let world = repository(account);
        let here = world.workspace();
        let remote = world.home().join("remote.git");
        git(&world, &world.home(), &["init", "-q", "--bare", "-b", "main", "remote.git"]);
        git(
            &world,
            &here,
            &[
                "remote",
                "add",
                "origin",
                &format!("ssh://git:pass@example.com{}", remote.display()),
            ],
        );
        // The user's own way to the other machine; here it stays on this one.
        let script = "#!/bin/bash\nenv > $HOME/ssh.env\necho \"$@\" >> $HOME/ssh.log\nexec sh -c \"${@: -1}\"\n";
        world.write("../ssh.sh", script);
        world.write("bin/git", "#!/bin/sh\ntouch $HOME/trap\n");
        world.write(".git/hooks/pre-push", "#!/bin/sh\ntouch $HOME/trap\n");
        for name in ["../ssh.sh", "bin/git", ".git/hooks/pre-push"] {
            std::fs::set_permissions(here.join(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        world.write(
            "../.gitconfig",
            &format!("[core]\n\tsshCommand = {}/ssh.sh\n", world.home().display()),
        );
        git(&world, &here, &["config", "core.sshCommand", "touch $HOME/trap; false"]);
        git(
            &world,
            &here,
            &["config", "remote.origin.receivepack", "touch $HOME/trap; git-receive-pack"],
        );
        let said = run(&world, "one.txt", "1\n", &["--parallel"], 0);
        assert!(said.contains("not pushed to ssh://example.com/"), "{said}");
        assert!(!said.contains("pass@") && !world.has("../ssh.log"));
        world.configure("push = true");
        let path = format!("{}/bin:bin:/usr/bin:/bin", here.display());
        let server = ModelServer::start(writes("w", "two.txt", "2\n"));
        let output =
            world.ask(&server, "go").args(&["--parallel"]).env("PATH", &path).run().exits(0);
        server.finish();
        assert!(output.stderr.contains("; pushed to ssh://example.com/"), "{}", output.stderr);
        let (ours, theirs) = (
            git(&world, &here, &["rev-parse", "main"]),
            git(&world, &remote, &["rev-parse", "main"]),
        );
        assert_eq!(ours, theirs);
        assert!(!world.has("../trap"));
        let environment = world.read("../ssh.env");
        assert!(
            !environment.contains("OPENAI_API_KEY") && environment.contains("HOME="),
            "{environment}"
        );
        assert!(world.read("../ssh.log").contains("BatchMode=yes"));
        // A project can keep itself from being pushed.
        world.write(".zerostack/config.toml", "push = false\n");
        world.zerostack(&["trust"]).run().exits(0);
        git(&world, &here, &["add", "-A"]);
        git(&world, &here, &["-c", "core.sshCommand=ssh", "commit", "-q", "-m", "settings"]);
        let said = run(&world, "kept.txt", "k\n", &["--parallel"], 0);
        assert!(said.contains("not pushed to ssh://example.com/"), "{said}");
        world.zerostack(&["trust", "--remove"]).run().exits(0);
        world.write(".zerostack/config.toml", "");
        git(&world, &here, &["commit", "-q", "-a", "-m", "no settings"]);
        // A branch that follows another one is not pushed there.
        git(&world, &here, &["config", "branch.main.remote", "origin"]);
        git(&world, &here, &["config", "branch.main.merge", "refs/heads/trunk"]);
        let said = run(&world, "follows.txt", "f\n", &["--parallel"], 0);
        assert!(said.contains("main follows trunk there"), "{said}");
        git(&world, &here, &["config", "--unset", "branch.main.merge"]);
        // What cannot be pushed is merged all the same, and said.
        git(&world, &here, &["config", "remote.origin.url", &remote.display().to_string()]);
        let said = run(&world, "three.txt", "3\n", &["--parallel"], 0);
        assert!(said.contains("not pushed") && said.contains("must be https"), "{said}");
        assert!(world.has("three.txt"));
        git(&world, &here, &["config", "remote.origin.url", "ssh://example.com/no/such.git"]);
        let said = run(&world, "four.txt", "4\n", &["--parallel"], 0);
        assert!(said.contains("; not pushed to ssh://example.com/no/such.git (main): "), "{said}");
        let left = std::fs::read_dir(world.home().join(".cache/zerostack")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            left.iter().all(|name| name.to_string_lossy().starts_with("worktrees")),
            "{left:?}"
        );
    }
}

#[test]
fn the_terminal_moves_to_a_worktree_and_back() {
    for account in accounts() {
        let world = repository(account);
        let mut replies = writes("w1", "n.txt", "n\n");
        replies.extend(writes("w2", "m.txt", "m\n"));
        let server = ModelServer::start(replies).allowing_summaries();
        let mut terminal = Terminal::start(&world, Some(&server), &[]);
        terminal.wait_for("· main");
        terminal.send("/wt-merge\r");
        terminal.wait_for("the session is in no worktree");
        terminal.send("/worktree fix\r");
        terminal.wait_for("project-fix now");
        terminal.wait_for("· fix");
        terminal.send("write it\r");
        terminal.wait_for("Done.");
        assert!(!world.has("n.txt") && world.has("../project-fix/n.txt"));
        terminal.send("/wt-exit\r");
        terminal.wait_for("/worktree fix goes there again");
        terminal.wait_for("· main");
        terminal.send("and another\r");
        terminal.wait("the second answer", |text| text.matches("Done.").count() > 1);
        assert!(world.has("m.txt") && !world.has("../project-fix/m.txt"));
        terminal.send("/worktree fix\r");
        terminal.wait_for("· fix");
        terminal.send("/wt-merge nowhere\r");
        terminal.wait_for("there is no branch nowhere");
        terminal.send("/wt-merge\r");
        terminal.wait_for("the worktree and its branch are removed");
        terminal.wait_for("· main");
        assert!(world.has("n.txt") && !world.has("../project-fix"));
        assert_eq!(log(&world), "write it\nfirst");
        terminal.send("\x15\x04");
        assert_eq!(terminal.ended().0, 0);
        server.finish();
    }
}
