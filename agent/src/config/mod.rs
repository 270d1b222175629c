//! The configuration file: its TOML grammar, its checks, and the domain types ([`Policy`]) that result.
//!
//! Refuses a file that others than root could have written. Only `effective` reads other files.

use std::fmt;
use std::path::{Path, PathBuf};

use postern_core::grant::{PortSpec, Protocol};
use postern_core::mode::Mode;
use postern_core::policy::DEFAULT_WARN_BEFORE;
use postern_core::policy::{Policy, PortRule};
use toml::de::DeTable;

mod api;
mod audit;
mod clock;
pub mod effective;
mod journal;
mod keys;
mod limits;
pub mod lints;
mod ports;
mod problem;
mod roles;
mod salvage;
mod services;
mod syntax;
mod value;
mod xdp;

pub use api::Api;
pub use audit::Audit;
pub use clock::Clock;
pub use limits::Limits;
pub use problem::Problem;
pub use salvage::Closing;
pub use xdp::{PrefilterConfig, Xdp};

use crate::journal::Settings;
use crate::system::files::{self, Contents};
use limits::Cap;
use problem::Report;
use value::{Section, Value};

/// Why a configuration is refused.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    File(String),
    Text(Vec<Problem>),
}

impl ConfigError {
    /// The problems in the text; empty if the file could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match &self.why {
            Why::File(_) => &[],
            Why::Text(problems) => problems,
        }
    }

    /// The first problem in one line, with file and line.
    #[must_use]
    pub fn brief(&self) -> String {
        let path = self.path.display();
        match &self.why {
            Why::File(reason) => format!("{path}: {reason}"),
            Why::Text(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                let more = problems.len().saturating_sub(1);
                let more = if more > 0 { format!(" (mistakes besides this one: {more})") } else { String::new() };
                format!("{path}:{first}{more}")
            }
        }
    }
}

impl fmt::Display for ConfigError {
    /// Each problem with file, line, column, setting and the marked line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.why {
            Why::File(reason) => write!(f, "{path}: {reason}"),
            Why::Text(problems) => {
                for (index, problem) in problems.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{path}:{problem}\n{}", problem.picture())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// The content of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Audiences that this host answers to, besides its id.
    pub names: Vec<String>,
    /// The directory of journal, host id and TLS key.
    pub state_dir: PathBuf,
    /// The trust file, in the format of OpenSSH's `allowed_signers`.
    pub trust_file: PathBuf,
    /// The list of revoked keys.
    pub revoked_keys: Option<PathBuf>,
    /// The user of posternd after it has read its files; `root`: it stays root.
    pub user: String,
    /// The directory of OpenSSH's host keys, which prove to clients who this host is.
    pub ssh_host_keys: PathBuf,
    /// The directory of pinned links, below a bpffs.
    pub pin_dir: PathBuf,
    /// The cgroup v2 directory whose sockets the cut (cgroup hook) covers; `None`: the one in `/proc/mounts`.
    pub cgroup: Option<PathBuf>,
    /// Where the prefilter is attached.
    pub xdp: PrefilterConfig,
    /// How people reach the agent.
    pub api: Api,
    /// Limits of the whole host.
    pub limits: Limits,
    /// How long the record is kept.
    pub journal: Settings,
    /// Whether the journal's lines are exported too.
    pub audit: Audit,
    /// How far the wall clock is trusted.
    pub clock: Clock,
    policy: Policy,
}

const PIN_DIR: &str = "/sys/fs/bpf/postern";

/// The package creates this user.
const USER: &str = "postern";

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or has mistakes, or if others than root could have written it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of(path, &Contents::of(files::open(path)))
    }

    /// As [`Self::load`], for the content of the file at `path`.
    ///
    /// # Errors
    /// Fails as [`Self::load`] does.
    pub fn of(path: &Path, file: &Contents) -> Result<Self, ConfigError> {
        let fail = |why: Why| ConfigError { path: path.to_owned(), why };
        let bytes = file.owned().map_err(|reason| fail(Why::File(reason)))?;
        let text = std::str::from_utf8(bytes).map_err(|error| fail(Why::File(not_text(bytes, error))))?;
        Self::parse(text).map_err(|problems| fail(Why::Text(problems)))
    }

    /// As [`Self::parse`], for a last good copy: keys may have the names of earlier versions.
    ///
    /// # Errors
    /// Fails as [`Self::parse`] does.
    pub fn parse_copy(text: &str) -> Result<Self, Vec<Problem>> {
        Self::parse(&keys::with_present_names(text))
    }

    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// Fails if the text has mistakes. The error has all of them in the order of the text, or the first one if the text is not TOML.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let report = Report::of(text);
        let config = match DeTable::parse(text) {
            Ok(table) => {
                let field = String::new();
                Some(Self::read(&Section::new(table.get_ref(), 0..0, field, keys::TOP, &report)))
            }
            Err(error) => {
                syntax::note(&report, text, &error);
                None
            }
        };
        let problems = report.into_problems();
        config.filter(|_| problems.is_empty()).ok_or(problems)
    }

    /// A configuration from an invalid text, if there is no last good copy. Closes the default ports and all that can be read, has no
    /// roles, and listens on TCP only where the text says so.
    #[must_use]
    pub fn bare(text: &str) -> Self {
        let closing = Closing::from_text(text);
        let ports = closing.protected.iter().filter_map(|&(protocol, number)| {
            Some(PortRule::new(PortSpec { number, protocol: Protocol::of_number(protocol)? }))
        });
        salvage::with_top(text, |top| {
            let config = Self::read(top);
            let says = |key| top.get("api").and_then(|api| api.section(keys::API)?.get(key)).is_some();
            let own = |key, addresses: Vec<_>| if says(key) { addresses } else { Vec::new() };
            let api = Api {
                tcp: own("tcp", config.api.tcp.clone()),
                plaintext: own("plaintext", config.api.plaintext.clone()),
                ..config.api.clone()
            };
            let policy = Policy { roles: Vec::new(), ports: ports.collect(), ..config.policy.clone() };
            Self { api, policy, ..config }
        })
    }

    fn read(top: &Section<'_>) -> Self {
        let path = |key| top.get(key).and_then(|value| value.path());
        let or = |key, default: &str| path(key).unwrap_or_else(|| default.into());
        let cap = Cap::of(top);
        let warn_before = limits::warn_before(top).unwrap_or_else(|| DEFAULT_WARN_BEFORE.to_vec());
        let (ports, named) = ports::read(&top.tables("port", keys::PORT), &cap, &warn_before);
        let roles = top.tables("role", keys::ROLE);
        let limits = top.get("limits").map(|value| limits::read(&value)).unwrap_or_default();
        let journal = top.get("journal").map(|value| journal::read(&value)).unwrap_or_default();
        let api = top.get("api").and_then(|value| value.section(keys::API));
        Self {
            names: top.get("names").and_then(|value| names(&value)).unwrap_or_default(),
            state_dir: or("state_dir", "/var/lib/postern"),
            trust_file: or("trust_file", "/etc/postern/allowed_signers"),
            revoked_keys: path("revoked_keys"),
            user: top.get("user").and_then(|value| value.text()).unwrap_or(USER).to_owned(),
            ssh_host_keys: or("ssh_host_keys", "/etc/ssh"),
            pin_dir: or("pin_dir", PIN_DIR),
            cgroup: path("cgroup"),
            xdp: top.get("xdp").and_then(|value| xdp::read(&value)).unwrap_or_default(),
            journal: Settings { room: limits.room, ..journal },
            limits,
            audit: top.get("audit").map(|value| audit::read(&value)).unwrap_or_default(),
            clock: top.get("clock").map(|value| clock::read(&value)).unwrap_or_default(),
            api: api::read(api.as_ref(), &ports, &named),
            policy: Policy {
                roles: roles.iter().filter_map(|role| roles::read(role, &ports, &cap)).collect(),
                ports,
                max_duration: cap.most,
                pending_ttl: limits::pending_ttl(top),
                mode: mode(top),
            },
        }
    }

    /// The rules.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy.clone()
    }

    /// The same configuration with other rules.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }
}

/// Refuses names that look like a host id or a key: such an audience would match without that id or key.
fn names(value: &Value<'_>) -> Option<Vec<String>> {
    let names = value.texts()?;
    let is_key = |name: &str| ["sha256:", "tls:"].iter().any(|kind| name.to_ascii_lowercase().starts_with(kind));
    let is_id = |name: &str| name.len() == 36 && name.parse::<uuid::Uuid>().is_ok();
    if let Some(name) = names.iter().find(|name| is_key(name) || is_id(name)) {
        value.wrong(format!("'{name}' looks like a host id or a key; leave it out"));
        return None;
    }
    Some(names)
}

/// A missing or wrong value means `enforce`.
fn mode(top: &Section<'_>) -> Mode {
    let spelt = [Mode::Enforce, Mode::Observe].map(|mode| (mode.name(), mode));
    top.get("mode").and_then(|value| value.choice(&spelt)).unwrap_or_default()
}

fn not_text(bytes: &[u8], error: std::str::Utf8Error) -> String {
    let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("line {line}: is not UTF-8 text")
}

#[cfg(test)]
mod tests;
