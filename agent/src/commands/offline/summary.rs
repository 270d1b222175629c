//! The meaning of the configuration and the trust file, as `posternd check-config` prints it.
//!
//! Owns the output for people and for programs. It judges nothing: `config::lints` does.

use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use postern_core::envelope::Purpose;
use postern_core::policy::DEFAULT_WARN_BEFORE;
use postern_core::policy::{Justification, Policy, PortRule, Role, RoleRule};
use postern_core::time::{Now, Seconds};
use postern_core::trust::{Entry, Trust};
use serde::Serialize;

use super::machine;
use crate::config::lints;
use crate::config::{Config, PrefilterConfig};
use crate::engine::Rules;

/// The output of `posternd check-config`.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The configuration file.
    pub configuration: String,
    /// The trust file.
    pub trust_file: String,
    /// Settings of the whole host.
    pub host: Host,
    /// The protected ports.
    pub ports: Vec<Port>,
    /// The roles.
    pub roles: Vec<RoleHolders>,
    /// The lines of the trust file.
    pub signers: Vec<Signs>,
    /// The kernel tunnels on protected UDP ports, each with the promise that does not hold; or why they are unknown.
    pub tunnels: Vec<String>,
    /// Probable mistakes. posternd starts in spite of them.
    pub warnings: Vec<String>,
}

/// Settings of the whole host.
#[derive(Debug, Serialize)]
pub struct Host {
    /// The host's audiences besides its id.
    pub names: Vec<String>,
    /// The longest grant, in seconds.
    pub max_duration: Seconds,
    /// How long a request waits for approvals, in seconds; absent: it does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_ttl: Option<Seconds>,
    /// The addresses of the API.
    pub api: Vec<String>,
    /// The interfaces of the XDP prefilter: `off`, `auto` or names.
    pub xdp: String,
}

/// A protected port and its rules.
#[derive(Debug, Serialize)]
pub struct Port {
    /// For example `22/tcp`.
    pub port: String,
    /// The port's name; may be empty.
    pub name: String,
    /// The longest grant, in seconds.
    pub max_duration: Seconds,
    /// The allowed sources; absent: any prefix except a whole address family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_sources: Option<Vec<String>>,
    /// `optional`, `required`, or `matches REGEX`.
    pub justification: String,
    /// How many people must approve.
    pub approvals: u32,
    /// The roles of the approvers.
    pub approval_roles: Vec<&'static str>,
    /// The most live grants at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grants: Option<u32>,
    /// The time until the first use, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_use_within: Option<Seconds>,
    /// The time without use, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Seconds>,
    /// The times of the warnings before an end, in seconds, the longest first; empty: no warnings.
    pub warn_before: Vec<Seconds>,
}

/// A role and who holds it.
#[derive(Debug, Serialize)]
pub struct RoleHolders {
    /// The role's name.
    pub role: &'static str,
    /// The holders.
    pub principals: Vec<String>,
    /// The only ports; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// The only sources; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// The longest grant, in seconds; absent: the role sets no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Seconds>,
}

/// A line of the trust file.
#[derive(Debug, Serialize)]
pub struct Signs {
    /// The line's number, counted from 1.
    pub line: usize,
    /// The names of the holder, of which the first counts; or the patterns of an authority.
    pub principals: Vec<String>,
    /// The key's fingerprint: `SHA256:…`.
    pub fingerprint: String,
    /// Whether the key signs certificates.
    pub authority: bool,
    /// The purposes for which its signatures count.
    pub purposes: Vec<Purpose>,
    /// The start of its validity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_after: Option<Timestamp>,
    /// The end of its validity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_before: Option<Timestamp>,
    /// Whether the key is revoked.
    pub revoked: bool,
    /// The roles of its names.
    pub roles: Vec<&'static str>,
}

impl Summary {
    /// The meaning of `config` and `rules` at `now`.
    #[must_use]
    pub fn of(path: &Path, config: &Config, rules: &Rules, now: &Now) -> Self {
        let (policy, trust): (&Policy, &Trust) = (&rules.policy, &rules.trust);
        let api = &config.api;
        let unix = [api.unix.display().to_string()].into_iter();
        let listens = unix
            .chain(api.tcp.iter().map(|address| format!("{address} (TLS)")))
            .chain(api.plaintext.iter().map(|address| format!("{address} (plaintext)")));
        Self {
            configuration: path.display().to_string(),
            trust_file: config.trust_file.display().to_string(),
            host: Host {
                names: config.names.clone(),
                max_duration: policy.max_duration,
                pending_ttl: policy.pending_ttl,
                api: listens.collect(),
                xdp: match &config.xdp {
                    PrefilterConfig::Off => "off".to_owned(),
                    PrefilterConfig::Auto => "auto".to_owned(),
                    PrefilterConfig::List(names) => names.join(", "),
                    PrefilterConfig::Xdp(names, mode) => {
                        format!("{} (XDP, {})", names.join(", "), format!("{mode:?}").to_lowercase())
                    }
                },
            },
            ports: policy.ports.iter().map(Port::of).collect(),
            roles: policy.roles.iter().map(RoleHolders::of).collect(),
            signers: trust.entries().map(|entry| Signs::of(entry, policy)).collect(),
            tunnels: machine::tunnels(policy),
            warnings: lints::of(policy, trust, now)
                .into_iter()
                .chain(machine::user(&config.user))
                .chain(machine::addresses(api))
                .chain(machine::above(roots(path, config)))
                .collect(),
        }
    }
}

/// Paths that users other than root must not be able to replace.
fn roots<'a>(path: &'a Path, config: &'a Config) -> impl Iterator<Item = &'a Path> {
    let named = [path, &config.trust_file, &config.state_dir, &config.ssh_host_keys, &config.api.unix];
    named.into_iter().chain(config.revoked_keys.as_deref())
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

impl Port {
    fn of(rule: &PortRule) -> Self {
        Self {
            port: rule.port.to_string(),
            name: rule.name.clone(),
            max_duration: rule.max_duration,
            allowed_sources: rule.allowed_sources.as_deref().map(texts),
            justification: match &rule.justification {
                Justification::Optional => "optional".to_owned(),
                Justification::Required => "required".to_owned(),
                Justification::Matching(pattern) => format!("matches {}", pattern.as_str()),
            },
            approvals: rule.approvals.count,
            approval_roles: rule.approvals.roles.iter().map(|kind| kind.name()).collect(),
            max_grants: rule.max_grants,
            first_use_within: rule.first_use_within,
            idle_timeout: rule.idle_timeout,
            warn_before: rule.warn_before.clone(),
        }
    }
}

impl RoleHolders {
    fn of(role: &RoleRule) -> Self {
        Self {
            role: role.kind.name(),
            principals: role.principals.clone(),
            ports: role.ports.as_deref().map(texts),
            sources: role.sources.as_deref().map(texts),
            max_duration: role.max_duration,
        }
    }
}

impl Signs {
    fn of(entry: Entry<'_>, policy: &Policy) -> Self {
        let mut held: Vec<Role> = policy
            .roles
            .iter()
            .filter(|role| role.principals.iter().any(|name| entry.names(name)))
            .map(|role| role.kind)
            .collect();
        held.sort();
        held.dedup();
        Self {
            line: entry.line(),
            principals: entry.principals(),
            fingerprint: entry.fingerprint(),
            authority: entry.is_authority(),
            purposes: entry.purposes().collect(),
            valid_after: entry.valid_after(),
            valid_before: entry.valid_before(),
            revoked: entry.is_revoked(),
            roles: held.into_iter().map(Role::name).collect(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { names, max_duration, pending_ttl, api, xdp } = &self.host;
        writeln!(f, "{} and {} are valid.\n\nHost", self.configuration, self.trust_file)?;
        writeln!(f, "  names          {}", or(names.join(", "), "only its id and its SSH host key"))?;
        writeln!(f, "  longest grant  {max_duration}")?;
        let waits =
            pending_ttl.map_or("do not wait for approvals".to_owned(), |ttl| format!("wait {ttl} for approvals"));
        writeln!(f, "  requests       {waits}")?;
        writeln!(f, "  API            {}", api.join(", "))?;
        writeln!(f, "  xdp            {xdp}\n\nPorts, closed without a grant")?;
        self.ports.iter().try_for_each(|port| port.write(f))?;
        writeln!(f, "\nRoles")?;
        self.roles.iter().try_for_each(|role| role.write(f))?;
        none(f, self.roles.is_empty(), "nobody may do anything: add a [[role]]")?;
        writeln!(f, "\nWhose signatures count")?;
        self.signers.iter().try_for_each(|signer| signer.write(f))?;
        none(f, self.signers.is_empty(), "nobody's: the trust file is empty")?;
        if !self.tunnels.is_empty() {
            writeln!(f, "\nKernel tunnels on protected UDP ports")?;
            self.tunnels.iter().try_for_each(|tunnel| writeln!(f, "  - {tunnel}"))?;
        }
        writeln!(f, "\nWarnings")?;
        let warnings: Vec<_> = self.warnings.iter().map(|warning| format!("  - {warning}")).collect();
        f.write_str(&or(warnings.join("\n"), "  none"))
    }
}

fn none(f: &mut fmt::Formatter<'_>, is_empty: bool, sentence: &str) -> fmt::Result {
    if is_empty { writeln!(f, "  {sentence}") } else { Ok(()) }
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text }
}

impl Port {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match &self.allowed_sources {
            None => "from any address".to_owned(),
            Some(nets) if nets.is_empty() => "from nowhere".to_owned(),
            Some(nets) => format!("from {}", nets.join(", ")),
        };
        writeln!(f, "  {:<14} up to {}, {from}", format!("{} {}", self.port, self.name), self.max_duration)?;
        let mut rules = Vec::new();
        if self.justification != "optional" {
            rules.push(format!("justification {}", self.justification));
        }
        if self.approvals > 0 {
            rules.push(format!("{} must approve, of role {}", self.approvals, self.approval_roles.join(" or ")));
        }
        rules.extend(self.max_grants.map(|most| format!("at most {most} grants at once")));
        rules.extend(self.first_use_within.map(|time| format!("closes when not used within {time}")));
        rules.extend(self.idle_timeout.map(|time| format!("closes when idle for {time}")));
        let moments = self.warn_before.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &self.warn_before[..] {
            [] => rules.push("nobody is warned before an end".to_owned()),
            own if own != DEFAULT_WARN_BEFORE => rules.push(format!("warns {moments} before an end")),
            _ => {}
        }
        rules.iter().try_for_each(|rule| writeln!(f, "  {:<14} {rule}", ""))
    }
}

impl RoleHolders {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = format!("  {:<14} {}", self.role, or(self.principals.join(", "), "nobody"));
        let mut limit = |what: &str, items: &Option<Vec<String>>| {
            if let Some(items) = items {
                line += &format!("; only {what} {}", or(items.join(", "), "none"));
            }
        };
        limit("for", &self.ports);
        limit("from", &self.sources);
        if let Some(most) = self.max_duration {
            line += &format!("; up to {most}");
        }
        writeln!(f, "{line}")
    }
}

impl Signs {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.principals.join(", ");
        let whose = if self.authority { format!("certificates for {who}") } else { who };
        writeln!(f, "  {:<14} {whose}", format!("line {}", self.line))?;
        let purposes: Vec<_> =
            self.purposes.iter().map(|p| p.namespace().split('@').next().unwrap_or_default()).collect();
        writeln!(f, "  {:<14} {}", "", self.fingerprint)?;
        writeln!(f, "  {:<14} may sign: {}", "", or(purposes.join(", "), "nothing for Postern"))?;
        writeln!(f, "  {:<14} roles: {}", "", or(self.roles.join(", "), "none"))?;
        let dates = [self.valid_after.map(|t| format!("from {t}")), self.valid_before.map(|t| format!("until {t}"))];
        let dates: Vec<_> = dates.into_iter().flatten().collect();
        if !dates.is_empty() {
            writeln!(f, "  {:<14} valid {}", "", dates.join(" "))?;
        }
        if self.revoked { writeln!(f, "  {:<14} REVOKED", "") } else { Ok(()) }
    }
}
