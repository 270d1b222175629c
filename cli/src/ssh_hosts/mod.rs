//! The hosts that this person knows from ssh: `ssh_config` and OpenSSH's `known_hosts` files.
//!
//! Owns which lines speak about a host. It never writes those files and never decides whether to trust; that is
//! [`crate::proof`].

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
    /// Where ssh would look for the person who runs this process.
    OfUser,
    /// As [`Self::OfUser`], with what ssh has told about this one host already.
    Told(String, Box<Config>),
    /// In these files, without any `ssh_config`.
    Files(Vec<PathBuf>),
}

/// What is known about one host.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name as ssh looks for it: `host`, `[host]:port`, or the alias.
    pub name: String,
    /// What one of the principals of its certificate must be.
    pub principal: String,
    /// The lines with its name.
    pub own: Vec<Line>,
    /// The lines with its name but without the port. ssh looks at them when the others say nothing.
    pub portless: Vec<Line>,
    /// The lines with its name and some other port, or its name alone.
    pub elsewhere: Vec<Line>,
    /// Files with keys that are revoked for all hosts (`RevokedHostKeys`).
    pub revoked: Vec<PathBuf>,
    /// Whether the name leads to more than one machine, so that another key than the known one is no contradiction.
    pub leads_to_many: bool,
    /// Whether a `KnownHostsCommand` knows more, which is not run here.
    pub has_command: bool,
    /// With what its authorities may have signed; none for all that are checked here.
    pub authority_algorithms: Option<Vec<String>>,
    /// What ssh accepts of a host (`HostKeyAlgorithms`); none for all that are checked here.
    pub host_key_algorithms: Option<Vec<String>>,
}

impl SshHosts {
    /// These files.
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::Files(files.into_iter().collect())
    }

    /// What is configured for `host`, a name or an address as typed.
    ///
    /// # Errors
    /// When ssh is there but cannot tell.
    pub async fn config(&self, host: &str) -> Result<Config> {
        match self {
            Self::Told(known, config) if known == host => Ok(Config::clone(config)),
            Self::OfUser | Self::Told(..) => Config::of_ssh(host).await,
            Self::Files(files) => Ok(Config::plain(host, files.iter().cloned())),
        }
    }
}

impl Known {
    /// All lines about it.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        [&self.own, &self.portless, &self.elsewhere].into_iter().flatten()
    }

    /// The lines for the host of `config`.
    ///
    /// # Errors
    /// When a file is there but cannot be read: it might revoke a key.
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
                // It is known by that alone.
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
