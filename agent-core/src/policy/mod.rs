//! The policy: who may open which ports. Owns [`Policy`] and [`Policy::judge`], which decides both real requests and `Explain`. Each step
//! refuses by default. It never verifies signatures ([`crate::envelope`] does) and never counts live grants (the ledger does).

mod judge;
mod mode;
mod named;

use ipnet::IpNet;
use regex::Regex;

use crate::grant::{Grant, PortSpec, Protocol, Source};
use crate::request::Pending;
use crate::time::{BootNanos, Seconds};

pub use judge::{Asking, Judgement, Live, Missing};
pub use mode::Mode;

/// The default times of warnings before an end.
pub const DEFAULT_WARN_BEFORE: [Seconds; 2] = [Seconds::minutes(5), Seconds::minutes(1)];
/// The default limit of a port (DESIGN 6, Azure's default).
pub const DEFAULT_MAX_DURATION: Seconds = Seconds::hours(3);
/// The allowed range of a port's `max_duration` (DESIGN 6).
pub const MAX_DURATION_RANGE: (Seconds, Seconds) = (Seconds::minutes(5), Seconds::hours(24));
/// The shortest grant: a shorter one could end before its first packet arrives.
pub const MIN_DURATION: Seconds = Seconds(1);
/// The longest time until a request's `not_before`: a week suffices to plan maintenance.
pub const MAX_LEAD: Seconds = Seconds::hours(7 * 24);
/// The default time that a request waits for approvals.
pub const DEFAULT_PENDING_TTL: Seconds = Seconds::hours(1);
/// The longest time that a request may wait.
pub const MAX_PENDING_TTL: Seconds = Seconds::hours(24);

/// The longest time that sessions may outlive their grant, so that forgotten sessions leave the kernel's map.
pub const SESSIONS_MOST: Seconds = MAX_DURATION_RANGE.1;

/// What happens to sessions at the end of their grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// Packets stop and posternd destroys the sockets, so that both sides notice at once.
    #[default]
    Cut,
    /// Established sessions live this much longer.
    Drain(Seconds),
    /// Established sessions live on, for at most [`SESSIONS_MOST`].
    Keep,
}

impl OnExpiry {
    /// The end of a grant's sessions, if it is later than the grant's `end`.
    #[must_use]
    pub const fn sessions_end(self, end: BootNanos) -> Option<BootNanos> {
        let most = end.plus_nanos(SESSIONS_MOST.0 * 1_000_000_000);
        match self {
            Self::Cut => None,
            Self::Keep => Some(most),
            Self::Drain(seconds) => {
                let end = end.plus_nanos(seconds.0.saturating_mul(1_000_000_000));
                Some(if end.0 < most.0 { end } else { most })
            }
        }
    }
}

/// The justification that a request needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Justification {
    /// Nothing.
    #[default]
    Optional,
    /// More than blanks.
    Required,
    /// A text in which this pattern matches.
    Matching(Pattern),
}

/// A regular expression with linear run time. Two are equal if their texts are equal.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Parses a regular expression.
    /// # Errors
    /// The error as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let limited = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
        limited.map(Self).map_err(|error| error.to_string())
    }

    /// Whether the pattern matches in `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The text of the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

/// The approvals that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How many. Nobody approves their own request, and nobody counts twice.
    pub count: u32,
    /// The roles whose holders may approve.
    pub roles: Vec<Role>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { count: 0, roles: vec![Role::Approver] }
    }
}

/// One `[[port]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// The port.
    pub port: PortSpec,
    /// The name for people; may be empty.
    pub name: String,
    /// The longest grant.
    pub max_duration: Seconds,
    /// The prefixes that a request's source must lie inside. `None`: any source except a whole address family.
    pub allowed_sources: Option<Vec<IpNet>>,
    /// The fate of sessions at the end of a grant.
    pub on_expiry: OnExpiry,
    /// The justification that a request needs.
    pub justification: Justification,
    /// The most live grants for this port.
    pub max_grants: Option<u32>,
    /// The approvals that a request needs.
    pub approvals: Approvals,
    /// A grant closes without a use in this time from its start.
    pub first_use_within: Option<Seconds>,
    /// A grant closes after this long without use.
    pub idle_timeout: Option<Seconds>,
    /// The times before an end at which people at terminals get a warning. Empty: no warnings.
    pub warn_before: Vec<Seconds>,
}

impl PortRule {
    /// The rule with all defaults.
    #[must_use]
    pub fn new(port: PortSpec) -> Self {
        Self {
            port,
            name: String::new(),
            max_duration: DEFAULT_MAX_DURATION,
            allowed_sources: None,
            on_expiry: OnExpiry::Cut,
            justification: Justification::Optional,
            max_grants: None,
            approvals: Approvals::default(),
            first_use_within: None,
            idle_timeout: None,
            warn_before: DEFAULT_WARN_BEFORE.to_vec(),
        }
    }

    /// Whether `source` lies inside an allowed one.
    #[must_use]
    pub fn admits(&self, source: Source) -> bool {
        match &self.allowed_sources {
            None => !source.is_everything(),
            Some(allowed) => allowed.iter().any(|net| net.contains(&source.net())),
        }
    }
}

/// The rights of a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See everybody's grants.
    Viewer,
    /// Ask for access, give it back, see their own grants.
    Requester,
    /// Approve other people's requests, and revoke and see everybody's grants.
    Approver,
    /// Revoke and see everybody's grants, and read the journal.
    Admin,
}

impl Role {
    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Requester => "requester",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

/// One `[[role]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRule {
    /// The role.
    pub kind: Role,
    /// The principals, as the trust file names them.
    pub principals: Vec<String>,
    /// The limit to ports that one of these covers.
    pub ports: Option<Vec<PortSpec>>,
    /// The limit to sources inside one of these.
    pub sources: Option<Vec<IpNet>>,
    /// The limit of the duration.
    pub max_duration: Option<Seconds>,
}

impl RoleRule {
    /// A role without limits.
    #[must_use]
    pub const fn new(kind: Role, principals: Vec<String>) -> Self {
        Self { kind, principals, ports: None, sources: None, max_duration: None }
    }

    /// Whether `principal` holds the role.
    #[must_use]
    pub fn binds(&self, principal: &str) -> bool {
        self.principals.iter().any(|p| p == principal)
    }
}

/// The policy of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The protected ports; no (port, transport) twice.
    pub ports: Vec<PortRule>,
    /// The roles.
    pub roles: Vec<RoleRule>,
    /// The longest grant on this host, for any port.
    pub max_duration: Seconds,
    /// How long a request waits for approvals; `None`: it does not wait.
    pub pending_ttl: Option<Seconds>,
    /// Whether the host drops packets without a grant, or only counts them.
    pub mode: Mode,
}

impl Default for Policy {
    /// No port is protected, and nobody may do anything.
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            roles: Vec::new(),
            max_duration: MAX_DURATION_RANGE.1,
            pending_ttl: Some(DEFAULT_PENDING_TTL),
            mode: Mode::Enforce,
        }
    }
}

impl Policy {
    /// Whether `principal` holds a role of `kind`, for any ports.
    #[must_use]
    pub fn holds(&self, principal: &str, kind: Role) -> bool {
        self.roles.iter().any(|r| r.kind == kind && r.binds(principal))
    }

    /// The rule that covers all of `port`, and its index.
    #[must_use]
    pub fn rule(&self, port: PortSpec) -> Option<(usize, &PortRule)> {
        self.ports
            .iter()
            .enumerate()
            .find(|(_, r)| r.port.number == port.number && r.port.protocol.covers(port.protocol))
    }

    /// The protected (IP protocol, port) pairs.
    pub fn protected(&self) -> impl Iterator<Item = (u8, u16)> + '_ {
        self.ports.iter().flat_map(|r| r.port.protocol.numbers().iter().map(|&n| (n, r.port.number)))
    }

    /// Whether a waiting request could still be granted: as [`Policy::still_allows`].
    #[must_use]
    pub fn still_lets_ask(&self, pending: &Pending) -> bool {
        let (asker, request) = (&pending.signer.principal, &pending.request);
        self.still_fits(asker, &request.ports, &request.sources)
    }

    /// Whether an earlier grant may go on: its ports are protected, and its signer may still ask for these ports and sources.
    #[must_use]
    pub fn still_allows(&self, grant: &Grant) -> bool {
        let Grant { signer, ports, sources, .. } = grant;
        if grant.is_unsigned() {
            return ports.iter().all(|&port| self.rule(port).is_some());
        }
        self.still_fits(&signer.principal, ports, sources)
    }

    fn still_fits(&self, asker: &str, ports: &[PortSpec], sources: &[Source]) -> bool {
        ports.iter().all(|&port| {
            let ours = self.rule(port).is_some_and(|(_, rule)| sources.iter().all(|&source| rule.admits(source)));
            ours && self.permits(asker, Role::Requester, port, sources, 0)
        })
    }
}

/// The rules if the configuration names no port: tcp 22, 3389, 5985, 5986 (DESIGN 6).
#[must_use]
pub fn default_ports() -> Vec<PortRule> {
    let rule = |(number, name): (u16, &str)| PortRule {
        name: name.to_owned(),
        ..PortRule::new(PortSpec { number, protocol: Protocol::Tcp })
    };
    [(22, "ssh"), (3389, "rdp"), (5985, "winrm"), (5986, "winrm-https")].map(rule).into()
}
