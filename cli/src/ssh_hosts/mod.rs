//! The hosts in the user's `ssh_config` and OpenSSH's `known_hosts` files.
//!
//! Owns which lines are about a host. Never writes those files. [`crate::proof`] judges the host.

pub mod config;
pub mod expand;
pub mod identities;
pub mod lines;
mod names;

use std::path::PathBuf;

use self::{
    config::{Config, SSH_PORT},
    lines::Line,
};
use crate::failure::Result;

/// Where to look.
#[derive(Clone, Debug)]
pub enum SshHosts {
    /// In the ssh configuration of the user of this process.
    OfUser,
    /// As [`Self::OfUser`], with the configuration of one host that ssh has already printed.
    Told(String, Box<Config>),
    /// In these files, without any `ssh_config`.
    Files(Vec<PathBuf>),
}

/// What the files hold about one host.
#[derive(Clone, Debug)]
pub struct Known {
    /// The name that ssh looks up: `host`, `[host]:port`, or the alias.
    pub name: String,
    /// The principal that the host's certificate must have.
    pub principal: String,
    /// The lines with its name.
    pub own: Vec<Line>,
    /// The lines with its name without the port. ssh uses them if `own` gives no result.
    pub portless: Vec<Line>,
    /// The lines with its name and another port, or with its name alone.
    pub elsewhere: Vec<Line>,
    /// `RevokedHostKeys`: files of keys that are revoked for all hosts.
    pub revoked: Vec<PathBuf>,
    /// Whether the name may lead to several machines. Then a key that differs from the recorded one is no contradiction.
    pub leads_to_many: bool,
    /// Whether the configuration has a `KnownHostsCommand`, which the client does not run.
    pub has_command: bool,
    /// The algorithms that authorities may sign with; none means all that the client can check.
    pub authority_algorithms: Option<Vec<String>>,
    /// `HostKeyAlgorithms`; none means all that the client can check.
    pub host_key_algorithms: Option<Vec<String>>,
}

impl SshHosts {
    /// [`Self::Files`].
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::Files(files.into_iter().collect())
    }

    /// The configuration for `host`, a name or an address as typed.
    ///
    /// # Errors
    /// Fails if ssh is installed but fails.
    pub async fn config(&self, host: &str) -> Result<Config> {
        match self {
            Self::Told(known, config) if known == host => Ok(Config::clone(config)),
            Self::OfUser | Self::Told(..) => Config::of_ssh(host).await,
            Self::Files(files) => Ok(Config::plain(host, files.iter().cloned())),
        }
    }
}

impl Known {
    /// All lines about the host.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        [&self.own, &self.portless, &self.elsewhere].into_iter().flatten()
    }

    /// The lines for the host of `config`.
    ///
    /// # Errors
    /// Fails if an existing file is unreadable: it might revoke a key.
    pub fn find(config: &Config) -> Result<Self> {
        let Config {
            hostname,
            port,
            alias,
            files,
            revoked,
            authority_algorithms,
            host_key_algorithms,
            has_command,
            identities: _,
        } = config;
        let hostname = &hostname.to_ascii_lowercase();
        let name = alias.clone().unwrap_or_else(|| names::with_port(hostname, *port));
        let principal = alias.as_ref().unwrap_or(hostname).clone();
        let mut known = Self {
            own: Vec::new(),
            portless: Vec::new(),
            elsewhere: Vec::new(),
            revoked: revoked.clone(),
            leads_to_many: false,
            has_command: *has_command,
            authority_algorithms: authority_algorithms.clone(),
            host_key_algorithms: host_key_algorithms.clone(),
            name,
            principal,
        };
        for (patterns, line) in lines::all(files)? {
            if names::match_name(&patterns, &known.name) {
                known.own.push(line);
            } else if alias.is_some() {
                // With an alias, ssh looks up only the alias.
            } else if *port != SSH_PORT && names::match_name(&patterns, hostname) {
                known.portless.push(line);
            } else if names::match_any_port(&patterns, hostname) {
                known.elsewhere.push(line);
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests;
