//! What the tests share: the accounts, a private world per test, one run of the program.

pub mod dialect;
pub mod model_server;
pub mod protocol;
pub mod run;
pub mod script;
pub mod terminal;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use dialect::Dialect;
use model_server::ModelServer;
use nix::unistd::{Uid, User};
use run::Run;
use tempfile::TempDir;

/// The key that every scripted run carries. It may appear in one place: the request's header.
pub const KEY: &str = "sk-test-canary-123";

const ORDINARY: &str = "zerostack-test";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program under test, as cargo built it.
pub fn binary() -> PathBuf {
    // Set where these tests run themselves as another user, who may not see the build directory.
    let named = std::env::var_os("ZEROSTACK_UNDER_TEST").map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_zerostack").into())
}

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Whoever runs the tests.
    Current,
    /// A user without any right, made for the tests. Needs root.
    Ordinary,
}

/// Root proves little about confinement by itself, and an ordinary user proves nothing about
/// root: where both can be had, both are tried.
pub fn accounts() -> Vec<Account> {
    if Uid::effective().is_root() {
        vec![Account::Current, Account::Ordinary]
    } else {
        vec![Account::Current]
    }
}

impl Account {
    /// `program` as a command of this account, with nothing in its environment but `PATH`.
    pub fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Account::Current => Command::new(program),
            Account::Ordinary => {
                let user = ordinary();
                let mut command = Command::new("/usr/bin/setpriv");
                command
                    .args(["--reuid", &user.uid.to_string()])
                    .args(["--regid", &user.gid.to_string()])
                    .args(["--clear-groups", "--"])
                    .arg(program);
                command
            }
        };
        command.env_clear().env("PATH", PATH);
        command
    }

    pub fn uid(self) -> u32 {
        self.user().uid.as_raw()
    }

    pub fn name(self) -> String {
        self.user().name
    }

    fn user(self) -> User {
        match self {
            Account::Current => User::from_uid(Uid::effective()).unwrap().unwrap(),
            Account::Ordinary => ordinary().clone(),
        }
    }

    fn give(self, path: &Path) {
        if self == Account::Ordinary {
            let user = ordinary();
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }
}

fn ordinary() -> &'static User {
    static USER: OnceLock<User> = OnceLock::new();
    USER.get_or_init(|| find_ordinary().unwrap_or_else(make_ordinary))
}

fn find_ordinary() -> Option<User> {
    User::from_name(ORDINARY).unwrap()
}

fn make_ordinary() -> User {
    let made = Command::new("useradd")
        .args(["--no-create-home", "--home-dir", "/nonexistent"])
        .args(["--shell", "/bin/sh", ORDINARY])
        .output()
        .expect("useradd starts");
    // Another test program may have been faster: the user counts, not who made it.
    find_ordinary().unwrap_or_else(|| {
        let reason = String::from_utf8_lossy(&made.stderr);
        panic!("useradd {ORDINARY}: {reason}")
    })
}

/// A home, a workspace and a copy of the program that no other test sees.
#[derive(Debug)]
pub struct World {
    directory: TempDir,
    account: Account,
}

impl World {
    pub fn new(account: Account) -> World {
        // /var/tmp: a private /tmp, ours or a cell's, cannot hide it.
        let directory = tempfile::Builder::new()
            .prefix("zerostack-it-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/var/tmp")
            .unwrap();
        let world = World { directory, account };
        world.make_directory(&world.root().join("bin"));
        world.make_directory(&world.home());
        world.make_directory(&world.workspace());
        // As after a first start: zerostack makes its own directory, so that no cell can.
        world.make_directory(&world.home().join(".config"));
        world.make_directory(&world.home().join(".config/zerostack"));
        world.install();
        world
    }

    pub fn account(&self) -> Account {
        self.account
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    pub fn workspace(&self) -> PathBuf {
        self.home().join("project")
    }

    /// The program of this world, which every account can execute.
    pub fn program(&self) -> PathBuf {
        self.root().join("bin/zerostack")
    }

    /// Writes a file of the workspace (or, with `../`, of the home), owned by the account.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.workspace().join(name);
        self.make_directory(path.parent().unwrap());
        fs::write(&path, text).unwrap();
        self.account.give(&path);
    }

    /// Reads a file of the workspace.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.workspace().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.workspace().join(name).symlink_metadata().is_ok()
    }

    /// Every file and directory below the home, relative to it.
    pub fn listing(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.home()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                found.push(entry.path().strip_prefix(self.home()).unwrap().to_owned());
            }
        }
        found.sort();
        found
    }

    /// One run of the program, in the workspace.
    pub fn zerostack(&self, args: &[&str]) -> Run<'_> {
        Run::new(self).args(args)
    }

    /// One headless run against a scripted model, with the key in its environment.
    pub fn ask(&self, server: &ModelServer, prompt: &str) -> Run<'_> {
        self.ask_at(&server.base_url(), prompt)
    }

    /// One headless run against a scripted model that speaks this protocol.
    pub fn ask_in(&self, dialect: Dialect, server: &ModelServer, prompt: &str) -> Run<'_> {
        let flags = dialect.flags(&server.address());
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let run = self.zerostack(&flags).prompt(prompt);
        match dialect.key_variable() {
            Some(variable) => run.env(variable, KEY),
            None => run,
        }
    }

    /// Writes the user's settings.
    pub fn configure(&self, text: &str) {
        self.write("../.config/zerostack/config.toml", text);
    }

    /// The same against any address.
    pub fn ask_at(&self, base_url: &str, prompt: &str) -> Run<'_> {
        self.zerostack(&["--provider", "openai", "--base-url", base_url])
            .args(&["--model", "test-model"])
            .env("OPENAI_API_KEY", KEY)
            .prompt(prompt)
    }

    fn make_directory(&self, path: &Path) {
        if path.is_dir() {
            return;
        }
        self.make_directory(path.parent().unwrap());
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self.account.give(path);
    }

    fn install(&self) {
        if fs::hard_link(binary(), self.program()).is_ok() {
            return;
        }
        // Copied by another process: a descriptor of ours that is open for writing would be
        // inherited by a parallel test's child and make this program "text file busy".
        let copied = Command::new("cp")
            .arg(binary())
            .arg(self.program())
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(copied.success(), "cannot copy {}", binary().display());
    }
}
