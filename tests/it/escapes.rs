//! Runs the escape attempts of `fixtures/attempts.c` against the real kernel, in every mode and as
//! every account, and compares each answer with `fixtures/attempts.tsv`.
//!
//! A refusal proves something only if the same attempt succeeds elsewhere, so the same program runs
//! outside the sandbox first, as a positive control.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use crate::kill::left_over;
use crate::support::run::Output;
use crate::support::{Account, World, accounts};

/// Filling /tmp needs more memory than a test should take, and yolo mode would fill the host's.
const SKIPPED: [&str; 1] = ["J134-tmp"];

/// More than any mode allows, so that the limit answers.
const RESOURCES: [&str; 2] = ["ATT_NPROC=5000", "ATT_MEM_MIB=20000"];

/// What C43 and C44 leave behind writes after two seconds.
const DAEMON_WAIT: Duration = Duration::from_secs(4);

const CREDENTIALS: [&str; 12] = [
    ".ssh/id_test",
    ".aws/credentials",
    ".gnupg/secring.gpg",
    ".git-credentials",
    ".config/gh/hosts.yml",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".docker/config.json",
    ".kube/config",
    ".cargo/credentials.toml",
    ".bash_history",
];

macro_rules! modes {
    ($($name:ident $flag:literal,)*) => {$(
        mod $name {
            use super::Account;

            #[test]
            fn holds_the_current_account() {
                super::holds(stringify!($name), $flag, Account::Current);
            }

            #[test]
            fn holds_an_ordinary_account() {
                super::holds(stringify!($name), $flag, Account::Ordinary);
            }
        }
    )*};
}

modes! {
    restrictive "--restrictive",
    readonly "--read-only",
    guarded "--guarded",
    standard "--standard",
    yolo "--yolo",
}

#[test]
fn outside_the_sandbox_the_attempts_succeed() {
    let mut wrong = Vec::new();
    for account in accounts() {
        let scene = Scene::new(account);
        let daemon = scene.home.join("daemon");
        let mut outside = account.command(Path::new("/usr/bin/env"));
        outside.args(scene.variables(&daemon));
        // Descriptor 9 is what F101 finds.
        outside.args(["sh", "-c", r#"exec "$0" "$@" 9</dev/null"#, &scene.program, "all"]);
        outside.env("FAKE_API_KEY", &scene.mark).current_dir(&scene.workspace).stdin(Stdio::null());
        let output = {
            let _turn = one_at_a_time();
            outside.output().unwrap()
        };
        let account = if account.uid() == 0 { "root" } else { "user" };
        compare(account, account, &String::from_utf8_lossy(&output.stdout), &mut wrong);
        if !output.status.success() {
            wrong.push(format!(
                "{account}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ));
        }

        // Without this, the absence of these files inside would prove nothing.
        sleep(DAEMON_WAIT);
        for file in daemon_files(&daemon) {
            if !file.exists() {
                wrong.push(format!("{account}: {} was never written", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} controls failed:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn most_attempts_have_a_control() {
    let rows = table();
    for account in ["root", "user"] {
        let with = rows.iter().filter(|row| row[account] != "-").count();
        println!("{with} of {} attempts have a control as {account}", rows.len());
        assert!(with * 100 >= rows.len() * 60, "{with} controls as {account} are too few");
    }
    let without = rows.iter().filter(|row| row["root"] == "-" && row["user"] == "-").count();
    println!("{without} of {} attempts have no control at all", rows.len());
}

#[test]
fn the_table_has_every_attempt() {
    let scene = Scene::new(Account::Current);
    let listed = succeed(Account::Current.command(Path::new(&scene.program)).arg("list"));
    let listed: Vec<&str> = listed.lines().collect();
    let expected: Vec<&str> = table().iter().map(|row| row["id"]).collect();
    assert_eq!(listed, expected);
}

/// Runs every attempt in the mode and compares the answers and what is left afterwards.
fn holds(mode: &str, flag: &str, account: Account) {
    if !accounts().contains(&account) {
        eprintln!("skipped: only root can run as another account");
        return;
    }
    let scene = Scene::new(account);
    let writes_workspace = matches!(mode, "standard" | "yolo");
    // Where the cell can write: a daemon that could not write anyway would go unnoticed.
    let daemon = if writes_workspace { scene.workspace.clone() } else { PathBuf::from("/tmp") };
    let daemon = daemon.join(format!("att-daemon-{}", scene.mark));
    let mut kept = vec![scene.out.clone()];
    if !writes_workspace {
        kept.push(scene.workspace.clone());
    }
    let before: Vec<Listing> = kept.iter().map(|directory| listing(directory)).collect();

    let mut wrong = Vec::new();
    let output = {
        let _turn = one_at_a_time();
        let output = scene.inside(flag, &daemon, &["all"]);
        // The daemons of that run may have ended by themselves by now, these cannot have.
        scene.inside(flag, &daemon, &["C43", "C44"]);
        for process in left_over(&scene.root, &scene.victim_pids, Duration::from_secs(1)) {
            wrong.push(format!("{mode}: still running: {process}"));
        }
        output
    };
    compare(mode, mode, &output.stdout, &mut wrong);
    if output.status != 0 {
        wrong.push(format!("{mode}: status {}: {}", output.status, output.stderr));
    }

    sleep(DAEMON_WAIT);
    for file in daemon_files(&daemon) {
        if file.exists() {
            wrong.push(format!("{mode}: a daemon lived on and wrote {}", file.display()));
        }
    }
    for (directory, before) in kept.iter().zip(&before) {
        wrong.extend(
            changes(before, &listing(directory))
                .into_iter()
                .map(|change| format!("{mode}: {change}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "{} attempts not held as expected:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What one account has on its machine: a workspace, things beside it, and a process to attack.
struct Scene {
    victim: Child,
    victim_variables: Vec<String>,
    victim_pids: Vec<u32>,
    program: String,
    mark: String,
    root: PathBuf,
    home: PathBuf,
    workspace: PathBuf,
    out: PathBuf,
    world: World,
}

impl Scene {
    fn new(account: Account) -> Scene {
        let world = World::new(account);
        let root = world.root().to_path_buf();
        let home = world.home();
        let workspace = world.workspace();
        let out = home.join("other");
        let mark = format!("mark-{}", root.file_name().unwrap().display());

        for name in CREDENTIALS {
            place(&home.join(name), "a secret\n");
        }
        place(&workspace.join("file.txt"), "a file of the workspace\n");
        place(&workspace.join("sub/file.txt"), "a file further down\n");
        place(&workspace.join(".git/HEAD"), "ref: refs/heads/main\n");
        place(&workspace.join(".git/config"), "[core]\n\tbare = false\n");
        place(&workspace.join(".git/hooks/pre-commit.sample"), "#!/bin/sh\n");
        place(&workspace.join(".git/info/exclude"), "\n");
        place(&out.join("victim.txt"), "a file beside the workspace\n");
        place(&out.join("linked.txt"), "one file, two names\n");
        fs::hard_link(out.join("linked.txt"), workspace.join("linked.txt")).unwrap();

        let program = workspace.join("attempts");
        let copy = workspace.join("attempts.new");
        fs::write(&copy, attempts()).unwrap();
        give_to_owner(&home);
        // Another process writes the file that will run: a descriptor of ours, open for writing, could be
        // inherited by a test that starts something just now, and the kernel would answer ETXTBSY.
        let program = program.to_str().unwrap().to_owned();
        succeed(
            account
                .command(Path::new("/usr/bin/install"))
                .args(["-m", "755"])
                .arg(&copy)
                .arg(&program),
        );
        fs::remove_file(copy).unwrap();

        let mut victim = account
            .command(Path::new(&program))
            .arg("victim")
            .env("ATT_OUT", &out)
            .env("ATT_MARK", &mark)
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let victim_variables: Vec<String> = BufReader::new(victim.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .take_while(|line| !line.is_empty())
            .collect();
        let pid = victim_variables.iter().find_map(|line| line.strip_prefix("ATT_PID="));
        let pid = pid.expect("the victim did not start").parse().unwrap();
        let victim_pids = vec![pid, victim.id()];
        Scene {
            victim,
            victim_variables,
            victim_pids,
            program,
            mark,
            root,
            home,
            workspace,
            out,
            world,
        }
    }

    /// Everything the attempts want to know, as `NAME=value`.
    fn variables(&self, daemon: &Path) -> Vec<String> {
        let places = [
            ("WS", &*self.workspace),
            ("HOME", &self.home),
            ("OUT", &self.out),
            ("DAEMON", daemon),
        ];
        let mut variables: Vec<String> =
            places.iter().map(|(name, path)| format!("ATT_{name}={}", path.display())).collect();
        variables.push(format!("ATT_MARK={}", self.mark));
        variables.extend(self.victim_variables.iter().cloned());
        variables.extend(RESOURCES.map(str::to_owned));
        variables
    }

    /// Runs attempts in the sandbox. The supervisor has keys in its environment that must not arrive.
    fn inside(&self, flag: &str, daemon: &Path, ids: &[&str]) -> Output {
        let variables = self.variables(daemon);
        let mut arguments = vec!["sandbox", flag, "--", "/usr/bin/env"];
        arguments.extend(variables.iter().map(String::as_str));
        arguments.push(&self.program);
        arguments.extend(ids);
        self.world
            .zerostack(&arguments)
            .env("FAKE_API_KEY", &self.mark)
            .env("ANTHROPIC_API_KEY", &self.mark)
            .in_dir(&self.workspace)
            .run()
    }
}

impl Drop for Scene {
    /// The victim takes its shared memory, queues and keys away when its standard input ends.
    fn drop(&mut self) {
        drop(self.victim.stdin.take());
        let _ = self.victim.wait();
    }
}

/// The compiled attempts, as bytes: each world gets a file of its own.
fn attempts() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/attempts.c");
        let world = World::new(Account::Current);
        let binary = world.root().join("attempts");
        succeed(
            Account::Current.command(Path::new("cc")).arg("-O1").arg("-o").arg(&binary).arg(source),
        );
        fs::read(binary).unwrap()
    })
}

/// Thousands of processes and attempts that end after five seconds: two runs at once would disturb each other.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of the table, each a map from column name to cell.
fn table() -> Vec<HashMap<&'static str, &'static str>> {
    let mut lines = include_str!("../fixtures/attempts.tsv").lines();
    let columns: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('\t').collect();
        assert_eq!(cells.len(), columns.len(), "{line}");
        columns.iter().copied().zip(cells).collect()
    };
    lines.map(row).collect()
}

/// Adds a line to `wrong` for each attempt whose answer is not one of those in the table's column.
fn compare(label: &str, column: &str, stdout: &str, wrong: &mut Vec<String>) {
    let mut answers = HashMap::new();
    for line in stdout.lines() {
        let mut cells = line.splitn(3, '\t');
        if let (Some(id), Some(result)) = (cells.next(), cells.next()) {
            answers.insert(id, (result, cells.next().unwrap_or_default()));
        }
    }
    for row in table() {
        let (id, expected) = (row["id"], row[column]);
        if expected == "-" || SKIPPED.contains(&id) {
            continue;
        }
        match answers.get(id) {
            None => wrong.push(format!("{label} {id}: expected {expected}, got no answer")),
            Some((result, detail)) if !expected.split('|').any(|one| one == *result) => {
                wrong.push(format!("{label} {id}: expected {expected}, got {result} ({detail})"));
            }
            Some(_) => {}
        }
    }
}

fn daemon_files(daemon: &Path) -> [PathBuf; 2] {
    [daemon.to_path_buf(), PathBuf::from(format!("{}.double", daemon.display()))]
}

/// Mode, size and hash of the content by path. Directories and sockets have no content to compare.
type Listing = BTreeMap<PathBuf, (u32, u64, u64)>;

fn listing(directory: &Path) -> Listing {
    let mut found = Listing::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut hasher = DefaultHasher::new();
        if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            fs::read(&path).unwrap().hash(&mut hasher);
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().hash(&mut hasher);
        }
        let size = if meta.is_file() { meta.len() } else { 0 };
        found.insert(path, (meta.permissions().mode(), size, hasher.finish()));
    }
    found
}

fn changes(before: &Listing, after: &Listing) -> Vec<String> {
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    let gone = gone.map(|path| format!("{} is gone", path.display()));
    let new = after.keys().filter(|path| !before.contains_key(*path));
    let new = new.map(|path| format!("{} is new", path.display()));
    let other = before.iter().filter(|(path, was)| after.get(*path).is_some_and(|is| is != *was));
    let other = other.map(|(path, _)| format!("{} was changed", path.display()));
    gone.chain(new).chain(other).collect()
}

fn place(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// Makes everything in the home belong to its owner.
fn give_to_owner(home: &Path) {
    let owner = fs::metadata(home).unwrap();
    for file in listing(home).keys() {
        lchown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

/// What the command prints.
fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
