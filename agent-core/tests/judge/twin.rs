//! The judge again: one plain question after the other, about everything at once.

use std::collections::BTreeSet;

use ipnet::IpNet;
use postern_core::grant::{End, Grant, PortSpec, Source};
use postern_core::policy::{Justification, PortRule, Role, RoleRule};
use postern_core::refusal::Reason;

use crate::random::{Case, PATTERN_PREFIX};

const S: i128 = 1_000_000_000;
const WEEK: i128 = 7 * 24 * 3600 * S;

/// What the twin thinks of a request.
#[derive(Debug, Default)]
pub struct Opinion {
    /// Everything that is wrong with it.
    pub wrong: BTreeSet<Reason>,
    /// How many more people must approve.
    pub missing: u32,
    /// In nanoseconds of the boot clock.
    pub starts: i128,
    pub expires: i128,
    /// In seconds.
    pub first_use_within: Option<u64>,
    pub idle_timeout: Option<u64>,
}

pub fn judge(case: &Case) -> Opinion {
    let Case { policy, asked, host, now } = case;
    let (who, request) = (&asked.who, &asked.request);
    let mut opinion = Opinion::default();
    let mut wrong = BTreeSet::new();
    let mut unless = |fine: bool, reason| {
        if !fine {
            wrong.insert(reason);
        }
    };

    let requester = |role: &RoleRule| role.kind == Role::Requester && role.principals.contains(who);
    unless(policy.roles.iter().any(requester), Reason::NotPermitted);

    // From when until when.
    let (wall, boot) = (now.wall.as_nanosecond(), i128::from(now.boot.0));
    let names_a_moment = request.not_before.is_some() || matches!(request.end, End::At(_));
    unless(now.wall_trusted() || !names_a_moment, Reason::ClockUntrusted);
    let lead = request.not_before.map_or(0, |moment| (moment.as_nanosecond() - wall).max(0));
    unless(lead <= WEEK, Reason::StartTooFar);
    let starts = boot + lead;
    let expires = match request.end {
        End::After(seconds) => starts + i128::from(seconds.0) * S,
        End::At(moment) => (boot + (moment.as_nanosecond() - wall).max(0)).max(starts),
    };
    unless(expires - starts >= S, Reason::DurationTooShort);
    (opinion.starts, opinion.expires) = (starts, expires);

    // From when the limits count.
    let mut from = starts;
    if let Some(id) = request.supersedes {
        let old = host.grants.iter().find(|grant| grant.id == id);
        unless(old.is_some_and(|grant| grant.signer.principal == *who), Reason::GrantNotFound);
        unless(old.is_none_or(|grant| open(grant, host.boot)), Reason::GrantEnded);
        unless(request.not_before.is_none(), Reason::ExtensionMismatch);
        if let Some(old) = old {
            let ports = |ports: &[PortSpec]| ports.iter().copied().collect::<BTreeSet<_>>();
            let sources = |sources: &[Source]| sources.iter().copied().collect::<BTreeSet<_>>();
            let same = ports(&old.ports) == ports(&request.ports) && sources(&old.sources) == sources(&request.sources);
            unless(same, Reason::ExtensionMismatch);
            unless(expires > i128::from(old.expires_boot.0), Reason::WouldShorten);
            from = i128::from(old.chain_boot.unwrap_or(old.starts_boot).0);
        }
    }
    let fits = |most: u64| expires - from <= i128::from(most) * S;
    unless(fits(policy.max_duration.0), Reason::DurationTooLong);

    for port in &request.ports {
        let Some(rule) = policy.ports.iter().find(|rule| inside(*port, rule.port)) else {
            unless(false, Reason::PortNotProtected);
            continue;
        };
        unless(request.sources.iter().all(|source| admitted(rule, *source)), Reason::SourceNotAllowed);
        unless(fits(rule.max_duration.0), Reason::DurationTooLong);
        unless(justified(rule, &request.justification), Reason::JustificationRequired);
        let others = host.grants.iter().filter(|g| open(g, host.boot) && Some(g.id) != request.supersedes);
        let live = others.filter(|grant| grant.ports.iter().any(|p| p.number == rule.port.number)).count();
        unless(rule.max_grants.is_none_or(|most| live < most as usize), Reason::TooManyGrants);

        // Somebody's role is for this request if it names none of its limits or keeps them.
        let for_this = |role: &RoleRule| {
            role.ports.as_ref().is_none_or(|ports| ports.iter().any(|limit| inside(*port, *limit)))
                && request.sources.iter().all(|s| role.sources.as_ref().is_none_or(|nets| within(nets, *s)))
                && role.max_duration.is_none_or(|most| fits(most.0))
        };
        unless(policy.roles.iter().any(|role| requester(role) && for_this(role)), Reason::NotPermitted);
        let mut approved = BTreeSet::new();
        for approver in &asked.approvers {
            let counts = |role: &RoleRule| {
                rule.approvals.roles.contains(&role.kind)
                    && role.principals.contains(&approver.principal)
                    && for_this(role)
            };
            if approver.principal != *who && policy.roles.iter().any(counts) {
                approved.insert(&approver.principal);
            }
        }
        opinion.missing = opinion.missing.max(rule.approvals.count.saturating_sub(approved.len() as u32));
        let least = |one: Option<u64>, other: Option<u64>| one.map_or(other, |a| Some(other.map_or(a, |b| a.min(b))));
        opinion.first_use_within = least(opinion.first_use_within, rule.first_use_within.map(|s| s.0));
        opinion.idle_timeout = least(opinion.idle_timeout, rule.idle_timeout.map(|s| s.0));
    }
    opinion.wrong = wrong;
    opinion
}

/// Whether the grant is open at `boot`, in nanoseconds.
pub fn open(grant: &Grant, boot: u64) -> bool {
    grant.starts_boot.0 <= boot && boot < grant.expires_boot.0
}

fn inside(port: PortSpec, other: PortSpec) -> bool {
    port.number == other.number && port.protocol.numbers().iter().all(|n| other.protocol.numbers().contains(n))
}

fn within(nets: &[IpNet], source: Source) -> bool {
    let (first, last) = (source.net().network(), source.net().broadcast());
    nets.iter().any(|net| net.contains(&first) && net.contains(&last))
}

fn admitted(rule: &PortRule, source: Source) -> bool {
    match &rule.allowed_sources {
        None => source.net().prefix_len() > 0,
        Some(nets) => within(nets, source),
    }
}

fn justified(rule: &PortRule, said: &str) -> bool {
    match rule.justification {
        Justification::Optional => true,
        Justification::Required => !said.trim().is_empty(),
        Justification::Matching(_) => said.trim().starts_with(PATTERN_PREFIX),
    }
}
