//! The configuration file.
//!
//! Owns the TOML grammar and its checks, and hands out domain types ([`Policy`]). A file that others could have written
//! is refused. It never looks at anything but that file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use jiff::SignedDuration;
use postern_core::envelope::MOST_SIGNATURES;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::policy::{
    DEFAULT_MAX_DURATION, MAX_DURATION_RANGE, OnExpiry, Policy, PortRule, RoleKind, RoleRule, default_ports,
};
use postern_core::time::Seconds;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Why a configuration is refused. The text names the file, and the line and field where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ConfigError {
    path: PathBuf,
    reason: String,
}

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Audiences this host answers to, besides its id.
    #[serde(default)]
    pub names: Vec<String>,
    /// Journal, host id, TLS key.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Who is trusted: OpenSSH's `allowed_signers`.
    #[serde(default = "default_trust_file")]
    pub trust_file: PathBuf,
    /// Keys that are trusted no longer.
    #[serde(default)]
    pub revoked_keys: Option<PathBuf>,
    /// The directory with OpenSSH's host keys: one of them proves to clients who this host is.
    #[serde(default = "default_ssh_host_keys")]
    pub ssh_host_keys: PathBuf,
    /// Where links are pinned; below a bpffs.
    #[serde(default = "default_pin_dir")]
    pub pin_dir: PathBuf,
    /// The cgroup v2 directory whose sockets the cut covers; found in `/proc/mounts` when absent.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Where the shed is attached.
    #[serde(default)]
    pub shed: Shed,
    /// How people reach the agent.
    #[serde(default)]
    pub api: Api,
    /// How much the kernel's maps hold.
    #[serde(default)]
    pub limits: Limits,
    /// `[[port]]`: the protected ports; tcp 22, 3389, 5985 and 5986 when none is named.
    #[serde(default, rename = "port")]
    ports: Vec<PortEntry>,
    /// `[[role]]`: who may do what.
    #[serde(default, rename = "role")]
    roles: Vec<RoleEntry>,
}

/// `[api]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// The Unix socket; root may read there without a signature.
    #[serde(default = "default_socket")]
    pub unix: PathBuf,
    /// TLS 1.3 listeners.
    #[serde(default = "default_tcp")]
    pub tcp: Vec<SocketAddr>,
    /// Listeners without TLS; loopback addresses only.
    #[serde(default)]
    pub plaintext: Vec<SocketAddr>,
}

/// `[limits]`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most live grants at once.
    #[serde(default = "default_grants")]
    pub grants: u32,
    /// The most entries in the kernel's table: each grant takes one for each port, protocol and source.
    #[serde(default = "default_entries")]
    pub entries: u32,
}

/// `shed = "off"` or `shed = { interfaces = … }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shed {
    /// No XDP at all; no promise is lost.
    Off,
    /// Interfaces that hardware or a hypervisor backs, or that carry a default route.
    #[default]
    Auto,
    /// These, by name.
    List(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEntry {
    number: u16,
    #[serde(default = "tcp")]
    protocol: Protocol,
    #[serde(default)]
    name: String,
    #[serde(default = "default_max_duration", deserialize_with = "duration")]
    max_duration: Seconds,
    #[serde(default)]
    allowed_sources: Option<Vec<IpNet>>,
    #[serde(default)]
    on_expiry: OnExpiryEntry,
    #[serde(default)]
    justification: Justification,
    #[serde(default)]
    max_grants: Option<u32>,
    #[serde(default)]
    approvals: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnExpiryEntry {
    #[default]
    Cut,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Justification {
    #[default]
    Optional,
    Required,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    name: RoleName,
    principals: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Viewer,
    Requester,
    Approver,
    Admin,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/postern".into()
}
fn default_trust_file() -> PathBuf {
    "/etc/postern/allowed_signers".into()
}
fn default_ssh_host_keys() -> PathBuf {
    "/etc/ssh".into()
}
fn default_pin_dir() -> PathBuf {
    "/sys/fs/bpf/postern".into()
}
fn default_socket() -> PathBuf {
    "/run/postern/posternd.sock".into()
}
fn default_tcp() -> Vec<SocketAddr> {
    vec![SocketAddr::from(([0u16; 8], 7322))]
}
const fn default_grants() -> u32 {
    4096
}
const fn default_entries() -> u32 {
    16_384
}
const fn default_max_duration() -> Seconds {
    DEFAULT_MAX_DURATION
}
const fn tcp() -> Protocol {
    Protocol::Tcp
}

impl Default for Api {
    fn default() -> Self {
        Self { unix: default_socket(), tcp: default_tcp(), plaintext: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { grants: default_grants(), entries: default_entries() }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || D::Error::custom(format!("'{text}' is not a duration in whole seconds, for example \"90m\" or \"3h\""));
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    let seconds = u64::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0);
    Ok(Seconds(seconds.ok_or_else(wrong)?))
}

impl<'de> Deserialize<'de> for Shed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Word(String),
            Table(Table),
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            interfaces: Interfaces,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Interfaces {
            Word(String),
            Names(Vec<String>),
        }
        let expected = r#"shed is "off", or has interfaces = "auto" or a list of names"#;
        match Form::deserialize(deserializer).map_err(|_| D::Error::custom(expected))? {
            Form::Word(word) if word == "off" => Ok(Self::Off),
            Form::Table(Table { interfaces: Interfaces::Word(word) }) if word == "auto" => Ok(Self::Auto),
            Form::Table(Table { interfaces: Interfaces::Names(names) }) => Ok(Self::List(names)),
            Form::Word(_) | Form::Table(_) => Err(D::Error::custom(expected)),
        }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, could have been written by others than root, or does not hold a valid configuration.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let fail = |reason: String| ConfigError { path: path.to_owned(), reason };
        let text = String::from_utf8(read_owned(path).map_err(fail)?).map_err(|_| fail("is not UTF-8 text".into()))?;
        Self::parse(&text).map_err(fail)
    }

    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// A sentence that names the line or the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        config.check_ports()?;
        config.check_roles()?;
        config.check_api()?;
        if config.limits.grants == 0 || config.limits.entries < config.limits.grants {
            return Err("limits: grants must be at least 1 and entries no fewer than grants".into());
        }
        Ok(config)
    }

    fn check_ports(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().enumerate() {
            let at = |field: &str| format!("port[{index}].{field}");
            if port.number == 0 {
                return Err(format!("{}: 0 is not a port", at("number")));
            }
            if !port.protocol.numbers().iter().all(|&protocol| seen.insert((protocol, port.number))) {
                return Err(format!("{}: port {} is named twice for one protocol", at("number"), port.number));
            }
            let (least, most) = MAX_DURATION_RANGE;
            if port.max_duration < least || port.max_duration > most {
                return Err(format!("{}: {} is not from {least} to {most}", at("max_duration"), port.max_duration));
            }
            if let Some(net) = port.allowed_sources.iter().flatten().find(|net| **net != net.trunc()) {
                let meant = net.trunc();
                return Err(format!(
                    "{}: {net} has bits set behind its prefix; did you mean {meant}?",
                    at("allowed_sources")
                ));
            }
            if port.approvals as usize > MOST_SIGNATURES - 1 {
                return Err(format!("{}: a message carries at most {} of them", at("approvals"), MOST_SIGNATURES - 1));
            }
            if port.max_grants == Some(0) {
                return Err(format!(
                    "{}: 0 would never let anybody in; leave the line out for no limit",
                    at("max_grants")
                ));
            }
        }
        Ok(())
    }

    fn check_roles(&self) -> Result<(), String> {
        let empty = self.roles.iter().position(|r| r.principals.iter().any(|p| p.trim().is_empty()));
        empty.map_or(Ok(()), |index| Err(format!("role[{index}].principals: an empty principal names nobody")))
    }

    fn check_api(&self) -> Result<(), String> {
        if let Some(address) = self.api.plaintext.iter().find(|a| !a.ip().is_loopback()) {
            return Err(format!("api.plaintext: {address} is not a loopback address; use api.tcp, which speaks TLS"));
        }
        let policy = self.policy();
        let listeners = self.api.tcp.iter().chain(&self.api.plaintext);
        let own = listeners.map(SocketAddr::port).find(|&port| port != 0 && policy.protected().any(|p| p == (6, port)));
        own.map_or(Ok(()), |port| {
            Err(format!("api: tcp port {port} is the API's own and a protected [[port]]: nobody could ask for it"))
        })
    }

    /// The rules.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let ports = match &self.ports[..] {
            [] => default_ports(),
            entries => entries.iter().map(PortEntry::rule).collect(),
        };
        let roles = self.roles.iter().map(|entry| RoleRule {
            kind: match entry.name {
                RoleName::Viewer => RoleKind::Viewer,
                RoleName::Requester => RoleKind::Requester,
                RoleName::Approver => RoleKind::Approver,
                RoleName::Admin => RoleKind::Admin,
            },
            principals: entry.principals.clone(),
        });
        Policy { ports, roles: roles.collect() }
    }
}

impl PortEntry {
    fn rule(&self) -> PortRule {
        let OnExpiryEntry::Cut = self.on_expiry;
        PortRule {
            port: PortSpec { number: self.number, protocol: self.protocol },
            name: self.name.clone(),
            max_duration: self.max_duration,
            allowed_sources: self.allowed_sources.clone(),
            on_expiry: OnExpiry::Cut,
            justification_required: self.justification == Justification::Required,
            max_grants: self.max_grants,
            approvals: self.approvals,
        }
    }
}

/// The most bytes of a configuration or trust file: a slip of the hand, not a limit anybody should meet.
const MOST_BYTES: u64 = 4 << 20;

/// The bytes of a file that nobody but root could have written.
///
/// # Errors
/// A sentence without the file's name: it cannot be read, is not a plain file, belongs to somebody else or can be written
/// by others. Owner and mode are those of the opened file, so that a swapped path gains nothing.
pub fn read_owned(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let meta = file.metadata().map_err(|e| format!("cannot be examined: {e}"))?;
    if !meta.is_file() {
        return Err("is not a plain file".into());
    }
    if meta.uid() != 0 {
        return Err(format!("belongs to user {} and must belong to root (chown root)", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("can be written by others (mode {:o}; chmod go-w)", meta.mode() & 0o7777));
    }
    if meta.len() > MOST_BYTES {
        return Err(format!("has {} bytes; at most {MOST_BYTES} are read", meta.len()));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
