//! The program in a pseudo terminal, with an emulator behind it that shows what a person would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::model_server::ModelServer;
use super::{KEY, World};

const LIMIT: Duration = Duration::from_secs(20);

fn cells(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

pub struct Terminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    /// All bytes that the program has written.
    pub raw: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub fn start(world: &World, server: Option<&ModelServer>, args: &[&str]) -> Terminal {
        Terminal::start_with(world, server, args, &[])
    }

    pub fn start_with(
        world: &World,
        server: Option<&ModelServer>,
        args: &[&str],
        variables: &[(&str, &Path)],
    ) -> Terminal {
        let mut command = world.account().command(&world.program());
        if let Some(server) = server {
            command.args([
                "--provider",
                "openai",
                "--base-url",
                &server.base_url(),
                "--model",
                "test-model",
            ]);
        }
        command.args(args).envs(variables.iter().copied());
        Terminal::of(world, command)
    }

    /// Any program with the environment of a world.
    pub fn of(world: &World, mut command: Command) -> Terminal {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let slave = pty.slave.try_clone().unwrap();
        let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, value) in [
            ("HOME", world.home().as_os_str()),
            ("TERM", "xterm-256color".as_ref()),
            ("LANG", "C.UTF-8".as_ref()),
            ("OPENAI_API_KEY", KEY.as_ref()),
        ] {
            if name == "HOME" || !given.iter().any(|known| known == name) {
                command.env(name, value);
            }
        }
        // The terminal is the program's own, as for a person.
        let setsid = ["setsid", "--ctty", "--wait"];
        let mut session = Command::new("/usr/bin/setsid");
        session.args(&setsid[1..]).arg(command.get_program()).args(command.get_args());
        session.env_clear().current_dir(world.workspace());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                session.env(name, value);
            }
        }
        session.stdin(stream()).stdout(stream()).stderr(stream()).process_group(0);
        let child = session.spawn().unwrap();
        drop(pty.slave);
        let master = File::from(pty.master);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(30), cells(100), 0)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shown, kept) = (master.try_clone().unwrap(), screen.clone(), raw.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..length]);
                kept.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Terminal { child, master, slave, screen, raw }
    }

    pub fn screen(&self) -> std::sync::MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap()
    }

    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    #[track_caller]
    pub fn wait_for(&self, words: &str) -> String {
        self.wait(&format!("{words:?}"), |text| text.contains(words))
    }

    #[track_caller]
    pub fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let text = self.text();
            if holds(&text) {
                return text;
            }
            assert!(Instant::now() < end, "no {what} on the screen:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        zerostack_sandbox::set_terminal_size(self.master.as_fd(), rows, columns).unwrap();
        self.screen.lock().unwrap().screen_mut().set_size(cells(rows), cells(columns));
    }

    /// Waits for the end, and checks that the terminal is as it was.
    #[track_caller]
    pub fn ended(mut self) -> (i32, String) {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        std::thread::sleep(Duration::from_millis(50));
        let modes = tcgetattr(&self.slave).unwrap();
        assert!(modes.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON), "still raw");
        let screen = self.screen.lock().unwrap();
        assert!(!screen.screen().alternate_screen() && !screen.screen().hide_cursor());
        assert!(!screen.screen().bracketed_paste());
        (status.code().unwrap_or(-1), screen.screen().contents())
    }

    /// The program itself, below `setsid`.
    pub fn program(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = std::fs::read_to_string(children).unwrap();
        Pid::from_raw(text.split_whitespace().next().unwrap_or("0").parse().unwrap())
    }
}
