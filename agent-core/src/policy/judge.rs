//! The judge. Owns the order of its questions: role, length, start, each port's rule, extension, approvals. The refusal names the first
//! rule that refuses. It keeps no state.

use std::collections::BTreeSet;

use super::{Justification, MAX_LEAD, MIN_DURATION, Policy, PortRule, Role, RoleRule};
use crate::grant::{AccessRequest, End, Grant, PortSpec, Source};
use crate::refusal::{Reason, Refusal};
use crate::signer::Signer;
use crate::time::{BootNanos, Now, Seconds};
use uuid::Uuid;

const SECOND: u64 = 1_000_000_000;

/// The people behind a request.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The requester.
    pub principal: &'a str,
    /// The approvers, who signed the same bytes; no principal twice.
    pub approvers: &'a [Signer],
}

impl<'a> From<&'a str> for Asking<'a> {
    fn from(principal: &'a str) -> Self {
        Self { principal, approvers: &[] }
    }
}

/// The state that the judge needs.
pub trait Live {
    /// The number of live grants for the port, without the grant `except`.
    fn count(&self, port: PortSpec, except: Option<Uuid>) -> usize;

    /// The grant to extend.
    /// # Errors
    /// [`Reason::GrantNotFound`], or [`Reason::GrantEnded`] for a grant that is over.
    fn extendable(&self, id: Uuid) -> Result<&Grant, Refusal>;
}

/// Approvals that a request still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// How many more.
    pub count: u32,
    /// The refusal for hosts on which requests do not wait.
    pub refusal: Refusal,
}

/// A permission, if no approval is [`Judgement::missing`].
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The grant's start: now, or the later moment in the request.
    pub starts_boot: BootNanos,
    /// The grant's end.
    pub expires_boot: BootNanos,
    /// The start of the chain of extensions.
    pub chain_boot: Option<BootNanos>,
    /// The missing approvals.
    pub missing: Option<Missing>,
    /// The shortest limit of its ports.
    pub first_use_within: Option<Seconds>,
    /// The shortest limit of its ports.
    pub idle_timeout: Option<Seconds>,
}

impl Policy {
    /// Decides `request`, with its start and end.
    /// # Errors
    /// The refusal, which names the rule. Missing approvals are no error: they may still come.
    pub fn judge<'a>(
        &self,
        asking: impl Into<Asking<'a>>,
        request: &AccessRequest,
        live: &impl Live,
        now: &Now,
    ) -> Result<Judgement, Refusal> {
        let asking = asking.into();
        let asker = asking.principal;
        if !self.holds(asker, Role::Requester) {
            let detail = format!("{asker} is in no requester role");
            return Err(Refusal::new(Reason::NotPermitted, detail).at("role"));
        }
        let span = Span::of(request, now)?;
        let extended = request.supersedes.map(|id| live.extendable(id)).transpose()?;
        let length = match extended {
            Some(old) => extension(asker, request, old, &span)?,
            None => span.length(),
        };
        let mut judgement = span.judgement(extended);
        for &port in &request.ports {
            let Some((index, rule)) = self.rule(port) else {
                return Err(Refusal::new(Reason::PortNotProtected, port).at("port"));
            };
            judge_port(index, rule, request, length, live)?;
            self.judge_role(asker, port, request, length)?;
            let missing = self.missing((index, rule), asking, request, port, length);
            judgement.missing = judgement.missing.into_iter().chain(missing).max_by_key(|m| m.count);
            judgement.first_use_within = shorter(judgement.first_use_within, rule.first_use_within);
            judgement.idle_timeout = shorter(judgement.idle_timeout, rule.idle_timeout);
        }
        // After the ports, whose own limits are more precise.
        self.judge_length(length)?;
        Ok(judgement)
    }

    /// Whether the approval of `principal` would count now for a port of `request`.
    #[must_use]
    pub fn may_approve(&self, principal: &str, request: &AccessRequest, now: &Now) -> bool {
        // A request without a valid length gets its refusal later.
        let length = Span::of(request, now).map_or(0, |span| span.length());
        request.ports.iter().any(|&port| {
            self.rule(port).is_some_and(|(_, rule)| {
                rule.approvals.roles.iter().any(|&kind| self.permits(principal, kind, port, &request.sources, length))
            })
        })
    }

    fn judge_length(&self, length: u64) -> Result<(), Refusal> {
        if length > nanos(self.max_duration) {
            let detail = format!("this host allows {}", self.max_duration);
            return Err(Refusal::new(Reason::DurationTooLong, detail).at("max_duration"));
        }
        Ok(())
    }

    fn judge_role(&self, asker: &str, port: PortSpec, request: &AccessRequest, length: u64) -> Result<(), Refusal> {
        let mut nearest = None;
        for (index, role) in self.roles.iter().enumerate().filter(|(_, r)| r.kind == Role::Requester) {
            if !role.binds(asker) {
                continue;
            }
            let at = |field: &str| format!("role[{index}].{field}");
            let limit = match () {
                () if !covers(role.ports.as_deref(), port) => (0, at("ports"), format!("{port} is not {asker}'s")),
                () if !contains(role.sources.as_deref(), &request.sources) => {
                    (1, at("sources"), format!("not for {asker} and these sources"))
                }
                () if !lasts(role, length) => {
                    let most = role.max_duration.unwrap_or_default();
                    (2, at("max_duration"), format!("{asker} may have {port} for {most}"))
                }
                () => return Ok(()),
            };
            // The role that comes nearest explains the refusal best.
            nearest = nearest.into_iter().chain([limit]).max_by_key(|(near, ..)| *near);
        }
        let (_, rule, detail) = nearest.unwrap_or_default();
        Err(Refusal::new(Reason::NotPermitted, detail).at(rule))
    }

    fn missing(
        &self,
        (index, rule): (usize, &PortRule),
        asking: Asking<'_>,
        request: &AccessRequest,
        port: PortSpec,
        length: u64,
    ) -> Option<Missing> {
        let needed = rule.approvals.count;
        let counts = |signer: &&Signer| {
            let may = |&kind: &Role| self.permits(&signer.principal, kind, port, &request.sources, length);
            signer.principal != asking.principal && rule.approvals.roles.iter().any(may)
        };
        let given = u32::try_from(asking.approvers.iter().filter(counts).count()).unwrap_or(u32::MAX);
        (given < needed).then(|| {
            let detail = format!("{given} of {needed} for {}", rule.port);
            let refusal = Refusal::new(Reason::ApprovalsMissing, detail).at(format!("port[{index}].approvals"));
            Missing { count: needed - given, refusal }
        })
    }

    /// Whether `principal` holds a role of `kind` that covers the port, the sources and `length` nanoseconds.
    pub(super) fn permits(&self, principal: &str, kind: Role, port: PortSpec, sources: &[Source], length: u64) -> bool {
        self.roles
            .iter()
            .filter(|role| role.kind == kind && role.binds(principal))
            .any(|r| covers(r.ports.as_deref(), port) && contains(r.sources.as_deref(), sources) && lasts(r, length))
    }
}

fn covers(limit: Option<&[PortSpec]>, port: PortSpec) -> bool {
    limit.is_none_or(|ports| ports.iter().any(|p| p.number == port.number && p.protocol.covers(port.protocol)))
}

fn contains(limit: Option<&[ipnet::IpNet]>, sources: &[Source]) -> bool {
    limit.is_none_or(|nets| sources.iter().all(|source| nets.iter().any(|net| net.contains(&source.net()))))
}

fn lasts(role: &RoleRule, length: u64) -> bool {
    role.max_duration.is_none_or(|most| length <= nanos(most))
}

fn shorter(one: Option<Seconds>, other: Option<Seconds>) -> Option<Seconds> {
    one.into_iter().chain(other).min()
}

const fn nanos(seconds: Seconds) -> u64 {
    seconds.0.saturating_mul(SECOND)
}

struct Span {
    starts: BootNanos,
    expires: BootNanos,
}

impl Span {
    fn of(request: &AccessRequest, now: &Now) -> Result<Self, Refusal> {
        let clock = |field: &str, instead: &str| {
            let asked = Refusal::new(Reason::ClockUntrusted, instead).at(field);
            if now.wall_trusted() { Ok(()) } else { Err(asked) }
        };
        let ahead = |wall: jiff::Timestamp| {
            let left = wall.as_nanosecond().saturating_sub(now.wall.as_nanosecond());
            u64::try_from(left.max(0)).unwrap_or(u64::MAX)
        };
        let lead = match request.not_before {
            None => 0,
            Some(moment) => {
                clock("not_before", "leave out not_before")?;
                ahead(moment)
            }
        };
        if lead > nanos(MAX_LEAD) {
            let detail = format!("at most {MAX_LEAD} from now");
            return Err(Refusal::new(Reason::StartTooFar, detail).at("not_before"));
        }
        let length = match request.end {
            End::After(seconds) => nanos(seconds),
            End::At(end) => {
                clock("end", "ask for a duration instead of an end")?;
                ahead(end).saturating_sub(lead)
            }
        };
        if length < nanos(MIN_DURATION) {
            let detail = format!("the shortest is {MIN_DURATION}");
            return Err(Refusal::new(Reason::DurationTooShort, detail).at("duration"));
        }
        let starts = now.boot.plus_nanos(lead);
        Ok(Self { starts, expires: starts.plus_nanos(length) })
    }

    const fn length(&self) -> u64 {
        self.starts.until(self.expires)
    }

    fn judgement(&self, extended: Option<&Grant>) -> Judgement {
        Judgement {
            starts_boot: self.starts,
            expires_boot: self.expires,
            chain_boot: extended.map(Grant::chain_start),
            missing: None,
            first_use_within: None,
            idle_timeout: None,
        }
    }
}

/// The length of the whole chain from its first start: the policy limits the chain, so extensions cannot exceed the limits.
fn extension(asker: &str, request: &AccessRequest, old: &Grant, span: &Span) -> Result<u64, Refusal> {
    let refuse = |reason, detail: String| Err(Refusal::new(reason, detail).at("supersedes"));
    if old.signer.principal != asker {
        return refuse(Reason::GrantNotFound, old.id.to_string());
    }
    if request.not_before.is_some() {
        return refuse(Reason::ExtensionMismatch, "an extension has no not_before".into());
    }
    if !same(&old.ports, &request.ports) || !same(&old.sources, &request.sources) {
        return refuse(Reason::ExtensionMismatch, format!("{} has others", old.id));
    }
    if span.expires <= old.expires_boot {
        let left = Seconds(span.starts.until(old.expires_boot) / SECOND);
        return refuse(Reason::WouldShorten, format!("{} lasts for another {left}", old.id));
    }
    Ok(old.chain_start().until(span.expires))
}

fn same<T: Ord>(one: &[T], other: &[T]) -> bool {
    let set = |items| BTreeSet::from_iter(items);
    set(one.iter()) == set(other.iter())
}

fn judge_port(
    index: usize,
    rule: &PortRule,
    request: &AccessRequest,
    length: u64,
    live: &impl Live,
) -> Result<(), Refusal> {
    let at = |field: &str| format!("port[{index}].{field}");
    if let Some(source) = request.sources.iter().find(|s| !rule.admits(**s)) {
        let detail = format!("{source} for {}", rule.port);
        return Err(Refusal::new(Reason::SourceNotAllowed, detail).at(at("allowed_sources")));
    }
    if length > nanos(rule.max_duration) {
        let chained = if request.supersedes.is_some() { " with all extensions" } else { "" };
        let detail = format!("{} allows {}{chained}", rule.port, rule.max_duration);
        return Err(Refusal::new(Reason::DurationTooLong, detail).at(at("max_duration")));
    }
    let said = request.justification.trim();
    let (fits, wanted) = match &rule.justification {
        Justification::Optional => (true, String::new()),
        Justification::Required => (!said.is_empty(), format!("for {}", rule.port)),
        Justification::Matching(pattern) => {
            (pattern.matches(said), format!("for {} it has to match {}", rule.port, pattern.as_str()))
        }
    };
    if !fits {
        return Err(Refusal::new(Reason::JustificationRequired, wanted).at(at("justification")));
    }
    let count = live.count(rule.port, request.supersedes);
    if rule.max_grants.is_some_and(|most| count >= most as usize) {
        let detail = format!("{count} for {}", rule.port);
        return Err(Refusal::new(Reason::TooManyGrants, detail).at(at("max_grants")));
    }
    Ok(())
}
