//! Bringing a merged branch to its remote. A cell has neither network nor credentials, so this is the one thing
//! that git does outside of a cell: with the user's settings, in a directory that was made for it and has none of
//! the repository's, and only to an address that is nobody's program.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::cell::{At, text};
use super::merge::Merged;
use super::{Repository, WorktreeError};

/// Longest push.
const LIMIT: Duration = Duration::from_secs(120);

/// How much of what git says of a failure is kept, bytes.
const SAID_LIMIT: u64 = 4 * 1024;
/// What git, ssh and helpers for credentials need of the user's environment; a key of a model is not among it.
const VARIABLES: [&str; 20] = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "SHELL",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "GNUPGHOME",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "KRB5CCNAME",
];

/// Where a branch is pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub url: String,
    /// The name of the branch, here and there.
    pub branch: String,
    /// Another branch there that it follows: git itself would not push then.
    pub follows: Option<String>,
}

impl Remote {
    /// The address without a password.
    pub fn shown(&self) -> String {
        let Some((scheme, rest)) = self.url.split_once("://") else { return self.url.clone() };
        match rest.split('/').next().unwrap_or_default().rsplit_once('@') {
            Some((user, _)) => format!("{scheme}://{}", &rest[user.len() + 1..]),
            None => self.url.clone(),
        }
    }
}

impl Repository<'_> {
    /// Where git would push a branch to, if anywhere.
    pub fn remote_of(&self, branch: &str) -> Option<Remote> {
        let set = |key: String| {
            let found = self.own.iter().rev().find(|(known, _)| *known == key);
            found.map(|(_, value)| value.clone())
        };
        let upstream = set(format!("branch.{branch}.remote"));
        let name = set(format!("branch.{branch}.pushremote"))
            .or_else(|| set("remote.pushdefault".into()))
            .or_else(|| upstream.clone())
            .unwrap_or_else(|| "origin".into());
        let url =
            set(format!("remote.{name}.pushurl")).or_else(|| set(format!("remote.{name}.url")))?;
        let there = set(format!("branch.{branch}.merge")).filter(|_| upstream == Some(name));
        let there = there.and_then(|name| Some(name.strip_prefix("refs/heads/")?.to_owned()));
        Some(Remote { url, branch: branch.to_owned(), follows: there.filter(|it| it != branch) })
    }

    /// Pushes what was merged. The error says why not, in words.
    pub async fn push(&self, merged: &Merged, remote: &Remote) -> Result<(), String> {
        if !is_address(&remote.url) {
            return Err("an address must be https://… or one of ssh".into());
        }
        if let Some(other) = &remote.follows {
            return Err(format!(
                "{} follows {other} there, so where to is for you to say",
                remote.branch
            ));
        }
        let refspec = format!("{}:refs/heads/{}", merged.commit, remote.branch);
        let words = |error: WorktreeError| error.to_string();
        // The branch's name there comes from the repository too.
        self.git(&["check-ref-format", &format!("refs/heads/{}", remote.branch)], At::Main)
            .await
            .map_err(words)?;
        // Everything that is sent is the repository's own: nothing is looked for outside of it.
        let walk = ["rev-list", "--quiet", "--objects", &merged.commit];
        self.git(&walk, At::Main).await.map_err(words)?;
        let place = tempfile::Builder::new().prefix("push-").tempdir_in(self.host.cache());
        let place = place.map_err(|error| error.to_string())?;
        self.outside(place.path(), &["push", "--quiet", "--", &remote.url, &refspec]).await
    }

    /// Where programs are looked for: nowhere in the project, and nowhere that depends on where one is.
    fn foreign_path(&self) -> String {
        let path = self.host.environment.iter().find(|(name, _)| name == "PATH");
        let linked = self.host.linked.as_ref().map(|linked| linked.path.as_path());
        let is_foreign = |part: &&str| {
            let part = Path::new(part);
            let real = part.canonicalize().unwrap_or_else(|_| part.to_owned());
            let within = |root: &Path| part.starts_with(root) || real.starts_with(root);
            part.is_absolute() && !within(&self.top) && !linked.is_some_and(within)
        };
        let parts = path.iter().flat_map(|(_, path)| path.split(':'));
        parts.filter(is_foreign).collect::<Vec<_>>().join(":")
    }

    /// Runs git as the user, in a repository that is empty but for the objects.
    async fn outside(&self, place: &Path, args: &[&str]) -> Result<(), String> {
        let made =
            ["objects", "refs"].iter().try_for_each(|name| std::fs::create_dir(place.join(name)));
        let settings = self.settings.as_ref().map(tempfile::NamedTempFile::path);
        let copied = made
            .and_then(|()| std::fs::write(place.join("HEAD"), "ref: refs/heads/main\n"))
            .and_then(|()| {
                settings.map_or(Ok(0), |file| std::fs::copy(file, place.join("config")))
            });
        copied.map_err(|error| format!("{}: {error}", place.display()))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a push needs the user's network and credentials"
        )]
        let mut command = std::process::Command::new("git");
        command.env_clear();
        for (name, value) in &self.host.environment {
            if VARIABLES.contains(&name.as_str()) {
                command.env(name, value);
            }
        }
        command.env("PATH", self.foreign_path());
        let objects = self.top.join(".git/objects");
        let ssh = self.users.get("core.sshcommand").map_or("ssh", String::as_str);
        command
            .args(args)
            .current_dir(place)
            .env("GIT_DIR", place)
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", text(&objects).map_err(|it| it.to_string())?)
            .env("GIT_ALLOW_PROTOCOL", "https:ssh")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            // The terminal is taken: what would have to be asked there fails.
            .env("GIT_SSH_COMMAND", format!("{ssh} -o BatchMode=yes"))
            .env("SSH_ASKPASS_REQUIRE", "never")
            .env("GIT_ASKPASS", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("git cannot be started: {error}"))?;
        let mut said = Vec::new();
        let ended = async {
            if let Some(errors) = child.stderr.take() {
                let mut first = errors.take(SAID_LIMIT);
                first.read_to_end(&mut said).await?;
                // The rest is read, so that git comes to its end, and not kept.
                tokio::io::copy(&mut first.into_inner(), &mut tokio::io::sink()).await?;
            }
            child.wait().await
        };
        match timeout(LIMIT, ended).await {
            Err(_) => Err("git push did not come to an end in two minutes".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(String::from_utf8_lossy(&said).trim().to_owned()),
        }
    }
}

/// Whether an address is one of another machine, by a protocol that runs nothing of the repository's.
fn is_address(url: &str) -> bool {
    let plain =
        |text: &str| !text.starts_with('-') && !text.chars().any(|it| it.is_control() || it == ' ');
    let host = |rest: &str| {
        let host = rest.split('/').next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        !host.is_empty() && plain(host) && plain(rest)
    };
    if let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("ssh://")) {
        return host(rest);
    }
    // user@host:path, which is ssh.
    match url.split_once(':') {
        Some((before, path)) => {
            before.contains('@')
                && !before.contains('/')
                && !path.starts_with(':')
                && host(before)
                && plain(path)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn only_addresses_of_other_machines_are_pushed_to() {
        for url in [
            "https://example.com/a.git",
            "ssh://git@example.com:22/a",
            "git@example.com:team/a.git",
        ] {
            assert!(is_address(url), "{url}");
        }
        for url in [
            "",
            "/srv/a.git",
            "../a",
            "file:///srv/a",
            "ext::sh -c id",
            "http://example.com/a",
            "git://x/a",
            "ssh://-oProxyCommand=id/a",
            "-oProxyCommand=id@x:a",
            "git@-oProxyCommand=id:a",
            "a:b",
            "x::y@z:a",
            "https://",
            "git@x: a",
            "fd::7/x@y",
            "git@ext::sh",
        ] {
            assert!(!is_address(url), "{url}");
        }
    }
}
