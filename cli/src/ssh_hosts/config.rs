//! What the person's `ssh_config` says about a host, told by ssh itself.
//!
//! Owns running `ssh -G HOST` and reading what it prints; without ssh on this machine, its documented defaults. It never
//! parses `ssh_config`, and runs nothing that `ssh HOST` would not run as well (`Match exec`).

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::{
    failure::{Failure, Kind, Result},
    text,
};

/// What `ssh -G` may take: it asks the name service where `CanonicalizeHostname` wants it.
const LIMIT: Duration = Duration::from_secs(10);

/// sshd's port where nothing else is said.
pub const SSH_PORT: u16 = 22;

/// Those of ssh's own defaults (`GlobalKnownHostsFile`, ssh_config(5)).
const OF_SYSTEM: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// Those in the home directory (`UserKnownHostsFile`).
const OF_USER: [&str; 2] = [".ssh/known_hosts", ".ssh/known_hosts2"];

/// Where ssh would go, under which name it would look for the host's key, and in which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `HostName`: the real name or address.
    pub hostname: String,
    /// `Port`, of sshd.
    pub port: u16,
    /// `HostKeyAlias`, in lower case.
    pub alias: Option<String>,
    /// `UserKnownHostsFile` and `GlobalKnownHostsFile`, in the order in which ssh reads them. None need exist.
    pub files: Vec<PathBuf>,
    /// `RevokedHostKeys`: these must exist.
    pub revoked: Vec<PathBuf>,
    /// `CASignatureAlgorithms`; none where ssh is not there to ask.
    pub authority_algorithms: Option<Vec<String>>,
    /// `HostKeyAlgorithms`; none where ssh is not there to ask.
    pub host_key_algorithms: Option<Vec<String>>,
}

impl Config {
    /// These files for `host`, and nothing configured.
    pub fn plain(host: &str, files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter().collect();
        Self {
            hostname: host.to_owned(),
            port: SSH_PORT,
            alias: None,
            files,
            revoked: Vec::new(),
            authority_algorithms: None,
            host_key_algorithms: None,
        }
    }

    /// What `ssh HOST` would do.
    ///
    /// # Errors
    /// [`Kind::Local`] when ssh is there but cannot tell: it would not connect either, and without its configuration it is
    /// not known which keys the person trusts.
    pub async fn of_ssh(host: &str) -> Result<Self> {
        let mut command = Command::new("ssh");
        command.args(["-G", "--", host]).stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default_of(host)),
            Ok(Err(error)) => return Err(untold(host, &error.to_string())),
            Err(_) => return Err(untold(host, &format!("no answer within {} s", LIMIT.as_secs()))),
        };
        if !output.status.success() {
            return Err(untold(host, String::from_utf8_lossy(&output.stderr).trim()));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| untold(host, "it is not understood"))
    }

    fn default_of(host: &str) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let own = home.iter().flat_map(|home| OF_USER.map(|file| home.join(file)));
        Self::plain(host, own.chain(OF_SYSTEM.map(PathBuf::from)))
    }

    /// Reads what `ssh -G` prints, lines of `keyword value`. None where that is not what it is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value = |keyword: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
            pairs.find(|(name, _)| *name == keyword).map(|(_, value)| value)
        };
        let files = |keyword| value(keyword).map(paths).unwrap_or_default();
        Some(Self {
            hostname: value("hostname")?.to_owned(),
            port: value("port")?.parse().ok()?,
            alias: value("hostkeyalias").map(str::to_ascii_lowercase),
            files: [files("userknownhostsfile"), files("globalknownhostsfile")].concat(),
            revoked: value("revokedhostkeys").filter(|file| *file != "none").map(PathBuf::from).into_iter().collect(),
            authority_algorithms: value("casignaturealgorithms").map(names),
            host_key_algorithms: value("hostkeyalgorithms").map(names),
        })
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// ssh prints lists of files without quotes. What does not begin as a whole path does goes on with the one before.
fn paths(list: &str) -> Vec<PathBuf> {
    let mut paths: Vec<String> = Vec::new();
    for word in list.split(' ') {
        match paths.last_mut() {
            Some(last) if !word.starts_with('/') => {
                last.push(' ');
                last.push_str(word);
            }
            _ => paths.push(word.to_owned()),
        }
    }
    paths.into_iter().filter(|path| path != "none").map(PathBuf::from).collect()
}

fn untold(host: &str, why: &str) -> Failure {
    let message = format!("ssh does not tell what your ssh_config says about {host}: {}", text::clean(why));
    Failure::new(Kind::Local, message)
        .next(format!("try: ssh -G {host}; until then it is not known which host keys you trust"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_prints_is_read() {
        let text = "host web\nhostname VM1.example.com\nport 2222\nhostkeyalias web\nrevokedhostkeys /x/revoked\n\
                    globalknownhostsfile none\nuserknownhostsfile /home/a/one /home/a/with a blank /home/a/two\n";
        let config = Config::parse(text).unwrap();
        assert_eq!((config.hostname.as_str(), config.port), ("VM1.example.com", 2222));
        assert_eq!(config.alias.as_deref(), Some("web"));
        assert_eq!(config.files, ["/home/a/one", "/home/a/with a blank", "/home/a/two"].map(PathBuf::from));
        assert_eq!(config.revoked, [PathBuf::from("/x/revoked")]);
        assert_eq!(Config::parse("hostname a\n"), None, "no port");
    }
}
