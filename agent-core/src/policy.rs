//! Who may open what.
//!
//! Owns [`Policy`] and [`Policy::judge`], the one judge for real requests and for `Explain`. Deny is the default at each step.
//! It never verifies signatures ([`crate::envelope`]) and never counts what is live: the ledger tells it.

use ipnet::IpNet;

use crate::envelope::Signer;
use crate::grant::{AccessRequest, End, Grant, PortSpec, Protocol, Source};
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now, Seconds};

/// The longest grant where a port names no other (DESIGN 6, Azure's default).
pub const DEFAULT_MAX_DURATION: Seconds = Seconds::hours(3);
/// The range that a port's `max_duration` may be chosen from (DESIGN 6).
pub const MAX_DURATION_RANGE: (Seconds, Seconds) = (Seconds::minutes(5), Seconds::hours(24));
/// The shortest grant: less could end before its first packet arrives.
pub const MIN_DURATION: Seconds = Seconds(1);

/// What happens to sessions at the end of their grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// Packets stop, sockets are destroyed, so that both sides see it at once.
    #[default]
    Cut,
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
    /// Whether a request must say why.
    pub justification_required: bool,
    /// The most grants that may be live for it at once.
    pub max_grants: Option<u32>,
    /// How many different approvers must have signed the same request; nobody approves their own.
    pub approvals: u32,
}

/// What a role lets its principals do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleKind {
    /// See everybody's grants.
    Viewer,
    /// Ask for access, give it back, see their own grants.
    Requester,
    /// Approve other people's requests, and revoke and see everybody's grants.
    Approver,
    /// Revoke and see everybody's grants.
    Admin,
}

/// One `[[role]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRule {
    /// What it allows.
    pub kind: RoleKind,
    /// To whom, as the trust file names them.
    pub principals: Vec<String>,
}

/// The rules of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The protected ports; no (port, transport) twice.
    pub ports: Vec<PortRule>,
    /// Who may do what.
    pub roles: Vec<RoleRule>,
}

/// Who stands behind a request.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The requester.
    pub principal: &'a str,
    /// Who else signed the same bytes, as approvers; no principal twice.
    pub approvers: &'a [Signer],
}

impl<'a> From<&'a str> for Asking<'a> {
    /// Somebody alone.
    fn from(principal: &'a str) -> Self {
        Self { principal, approvers: &[] }
    }
}

/// What the judge needs to know about the present state.
pub trait Live {
    /// How many live grants name the port.
    fn count(&self, port: PortSpec) -> usize;
}

/// A yes.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// When the grant will end.
    pub expires_boot: BootNanos,
}

impl Policy {
    /// Whether `principal` holds a role of `kind`.
    #[must_use]
    pub fn holds(&self, principal: &str, kind: RoleKind) -> bool {
        self.roles.iter().any(|r| r.kind == kind && r.principals.iter().any(|p| p == principal))
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

    /// Whether whoever is asking may have what `request` asks for, and until when. The first rule that refuses answers.
    ///
    /// # Errors
    /// The refusal, which names the rule.
    pub fn judge<'a>(
        &self,
        asking: impl Into<Asking<'a>>,
        request: &AccessRequest,
        live: &impl Live,
        now: &Now,
    ) -> Result<Judgement, Refusal> {
        let Asking { principal, approvers } = asking.into();
        if !self.holds(principal, RoleKind::Requester) {
            let detail = format!("{principal} is in no requester role");
            return Err(Refusal::new(Reason::NotPermitted, detail).at("role"));
        }
        let counts =
            |signer: &&Signer| signer.principal != principal && self.holds(&signer.principal, RoleKind::Approver);
        let approvals = approvers.iter().filter(counts).count();
        let duration = requested_duration(request.end, now)?;
        for &port in &request.ports {
            let Some((index, rule)) = self.rule(port) else {
                return Err(Refusal::new(Reason::PortNotProtected, port).at("port"));
            };
            judge_port(index, rule, request, duration, live)?;
            if approvals < rule.approvals as usize {
                let detail = format!("{approvals} of {} for {}", rule.approvals, rule.port);
                return Err(Refusal::new(Reason::ApprovalsMissing, detail).at(format!("port[{index}].approvals")));
            }
        }
        Ok(Judgement { expires_boot: now.boot.plus_nanos(duration) })
    }

    /// Whether a grant made earlier would still be allowed to exist: its ports are ours and its signer may ask.
    #[must_use]
    pub fn still_allows(&self, grant: &Grant) -> bool {
        let Signer { principal, .. } = &grant.signer;
        self.holds(principal, RoleKind::Requester)
            && grant
                .ports
                .iter()
                .all(|&port| self.rule(port).is_some_and(|(_, rule)| grant.sources.iter().all(|&s| rule.admits(s))))
    }
}

impl PortRule {
    /// Whether `source` lies inside an allowed one.
    #[must_use]
    pub fn admits(&self, source: Source) -> bool {
        match &self.allowed_sources {
            None => !source.is_everything(),
            Some(allowed) => allowed.iter().any(|net| net.contains(&source.net())),
        }
    }
}

/// The length of the grant in nanoseconds.
fn requested_duration(end: End, now: &Now) -> Result<u64, Refusal> {
    let nanos = match end {
        End::After(seconds) => seconds.0.saturating_mul(1_000_000_000),
        End::At(_) if !now.wall_trusted => {
            return Err(Refusal::new(Reason::ClockUntrusted, "ask for a duration instead of an end").at("end"));
        }
        End::At(end) => {
            let left = end.as_nanosecond().saturating_sub(now.wall.as_nanosecond());
            u64::try_from(left.max(0)).unwrap_or(u64::MAX)
        }
    };
    if nanos < MIN_DURATION.0 * 1_000_000_000 {
        let detail = format!("the shortest is {MIN_DURATION}");
        return Err(Refusal::new(Reason::DurationTooShort, detail).at("duration"));
    }
    Ok(nanos)
}

fn judge_port(
    index: usize,
    rule: &PortRule,
    request: &AccessRequest,
    duration: u64,
    live: &impl Live,
) -> Result<(), Refusal> {
    let at = |field: &str| format!("port[{index}].{field}");
    if let Some(source) = request.sources.iter().find(|s| !rule.admits(**s)) {
        let detail = format!("{source} for {}", rule.port);
        return Err(Refusal::new(Reason::SourceNotAllowed, detail).at(at("allowed_sources")));
    }
    if duration > rule.max_duration.0.saturating_mul(1_000_000_000) {
        let detail = format!("{} allows {}", rule.port, rule.max_duration);
        return Err(Refusal::new(Reason::DurationTooLong, detail).at(at("max_duration")));
    }
    if rule.justification_required && request.justification.trim().is_empty() {
        let detail = format!("for {}", rule.port);
        return Err(Refusal::new(Reason::JustificationRequired, detail).at(at("justification")));
    }
    if rule.max_grants.is_some_and(|most| live.count(rule.port) >= most as usize) {
        let detail = format!("{} for {}", live.count(rule.port), rule.port);
        return Err(Refusal::new(Reason::TooManyGrants, detail).at(at("max_grants")));
    }
    Ok(())
}

/// The rules that hold where the configuration names no port: tcp 22, 3389, 5985, 5986 (DESIGN 6).
#[must_use]
pub fn default_ports() -> Vec<PortRule> {
    [(22, "ssh"), (3389, "rdp"), (5985, "winrm"), (5986, "winrm-https")]
        .into_iter()
        .map(|(number, name)| PortRule {
            port: PortSpec { number, protocol: Protocol::Tcp },
            name: name.to_owned(),
            max_duration: DEFAULT_MAX_DURATION,
            allowed_sources: None,
            on_expiry: OnExpiry::Cut,
            justification_required: false,
            max_grants: None,
            approvals: 0,
        })
        .collect()
}
