//! Who may open what.
//!
//! Owns [`Policy`] and [`Policy::judge`], the one judge for real requests and for `Explain`. Deny is the default at each step.
//! It never verifies signatures ([`crate::envelope`]) and never counts what is live: the ledger tells it.

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

/// How long before an end people are warned where the configuration says nothing.
pub const DEFAULT_WARN_BEFORE: [Seconds; 2] = [Seconds::minutes(5), Seconds::minutes(1)];
/// The longest grant where a port names no other (DESIGN 6, Azure's default).
pub const DEFAULT_MAX_DURATION: Seconds = Seconds::hours(3);
/// The range that a port's `max_duration` may be chosen from (DESIGN 6).
pub const MAX_DURATION_RANGE: (Seconds, Seconds) = (Seconds::minutes(5), Seconds::hours(24));
/// The shortest grant: less could end before its first packet arrives.
pub const MIN_DURATION: Seconds = Seconds(1);
/// How far away a request's `not_before` may be: a week plans any maintenance, and no boot is expected to last for ever.
pub const MAX_LEAD: Seconds = Seconds::hours(7 * 24);
/// How long a request waits for approvals where the configuration says nothing.
pub const DEFAULT_PENDING_TTL: Seconds = Seconds::hours(1);
/// The longest that it may be told to wait.
pub const MAX_PENDING_TTL: Seconds = Seconds::hours(24);

/// How long sessions may outlive their grant at the most: as long as the longest grant. So what one signature opened is over
/// two days later, and a session that somebody forgot gives its place in the kernel's table back.
pub const SESSIONS_MOST: Seconds = MAX_DURATION_RANGE.1;

/// What happens to sessions at the end of their grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// Packets stop, sockets are destroyed, so that both sides see it at once.
    #[default]
    Cut,
    /// Established sessions live this much longer.
    Drain(Seconds),
    /// Established sessions live on, for [`SESSIONS_MOST`] at the most.
    Keep,
}

impl OnExpiry {
    /// When the sessions of a grant that ends at `end` are over, if not with it.
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

/// What a request has to give as its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Justification {
    /// Nothing.
    #[default]
    Optional,
    /// More than blanks.
    Required,
    /// Something that this finds a match in.
    Matching(Pattern),
}

/// A regular expression, which takes linear time whatever it is shown. Two are equal when they are written alike.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Parses a regular expression.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let limited = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
        limited.map(Self).map_err(|error| error.to_string())
    }

    /// Whether it finds a match in `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// As it was written.
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

/// How many people must approve, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// How many; nobody approves their own request, and nobody counts twice.
    pub count: u32,
    /// Whose approvals count: who holds any of these.
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
    /// For people; may be empty.
    pub name: String,
    /// The longest grant.
    pub max_duration: Seconds,
    /// A request's source must lie inside one of these. `None`: anywhere but a whole address family at once.
    pub allowed_sources: Option<Vec<IpNet>>,
    /// What happens to sessions.
    pub on_expiry: OnExpiry,
    /// What a request must say.
    pub justification: Justification,
    /// The most grants that may be live for it at once.
    pub max_grants: Option<u32>,
    /// Who must have signed the same request.
    pub approvals: Approvals,
    /// A grant closes when it was not used within this time from its start.
    pub first_use_within: Option<Seconds>,
    /// A grant closes when it was not used for this long.
    pub idle_timeout: Option<Seconds>,
    /// How long before an end the people at the terminals of its sessions are warned. Empty: they are told nothing.
    pub warn_before: Vec<Seconds>,
}

impl PortRule {
    /// The rule that holds where the configuration says no more than the port.
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

/// What a role lets its principals do.
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
    /// As the configuration names it.
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
    /// What it allows.
    pub kind: Role,
    /// To whom, as the trust file names them.
    pub principals: Vec<String>,
    /// Only for ports that one of these covers.
    pub ports: Option<Vec<PortSpec>>,
    /// Only for sources inside one of these.
    pub sources: Option<Vec<IpNet>>,
    /// Only up to this long.
    pub max_duration: Option<Seconds>,
}

impl RoleRule {
    /// A role without limits of its own.
    #[must_use]
    pub const fn new(kind: Role, principals: Vec<String>) -> Self {
        Self { kind, principals, ports: None, sources: None, max_duration: None }
    }

    /// Whether `principal` holds it.
    #[must_use]
    pub fn binds(&self, principal: &str) -> bool {
        self.principals.iter().any(|p| p == principal)
    }
}

/// The rules of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The protected ports; no (port, transport) twice.
    pub ports: Vec<PortRule>,
    /// Who may do what.
    pub roles: Vec<RoleRule>,
    /// No grant is longer, whatever its port allows.
    pub max_duration: Seconds,
    /// How long a request waits for approvals; `None`: it does not wait.
    pub pending_ttl: Option<Seconds>,
    /// Whether what no grant lets in is dropped, or only counted.
    pub mode: Mode,
}

impl Default for Policy {
    /// Nothing is protected and nobody may do anything.
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
    /// Whether `principal` holds a role of `kind`, for whatever ports.
    #[must_use]
    pub fn holds(&self, principal: &str, kind: Role) -> bool {
        self.roles.iter().any(|r| r.kind == kind && r.binds(principal))
    }

    /// The rule for `port` and its index, if one covers it whole.
    #[must_use]
    pub fn rule(&self, port: PortSpec) -> Option<(usize, &PortRule)> {
        self.ports
            .iter()
            .enumerate()
            .find(|(_, r)| r.port.number == port.number && r.port.protocol.covers(port.protocol))
    }

    /// Everything that is closed by default: (IP protocol, port).
    pub fn protected(&self) -> impl Iterator<Item = (u8, u16)> + '_ {
        self.ports.iter().flat_map(|r| r.port.protocol.numbers().iter().map(|&n| (n, r.port.number)))
    }

    /// Whether a request that waits could still be granted: as [`Policy::still_allows`].
    #[must_use]
    pub fn still_lets_ask(&self, pending: &Pending) -> bool {
        let (asker, request) = (&pending.signer.principal, &pending.request);
        self.still_fits(asker, &request.ports, &request.sources)
    }

    /// Whether a grant made earlier would still be allowed to exist: its ports are ours, and its signer may still ask for
    /// them and for its sources. How long it is and who approved it was judged when it was made.
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

/// The rules that hold where the configuration names no port: tcp 22, 3389, 5985, 5986 (DESIGN 6).
#[must_use]
pub fn default_ports() -> Vec<PortRule> {
    let rule = |(number, name): (u16, &str)| PortRule {
        name: name.to_owned(),
        ..PortRule::new(PortSpec { number, protocol: Protocol::Tcp })
    };
    [(22, "ssh"), (3389, "rdp"), (5985, "winrm"), (5986, "winrm-https")].map(rule).into()
}
