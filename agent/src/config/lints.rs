//! Lints: settings that an administrator probably did not mean, such as rules that nobody can meet. No lint makes a configuration invalid.

use std::collections::BTreeSet;

use ipnet::IpNet;
use postern_core::envelope::Purpose;
use postern_core::grant::PortSpec;
use postern_core::key::UDP;
use postern_core::policy::{Policy, PortRule, Role, RoleRule};
use postern_core::time::Now;
use postern_core::trust::{Entry, Trust};

/// All lints, the most serious kinds first.
#[must_use]
pub fn of(policy: &Policy, trust: &Trust, now: &Now) -> Vec<String> {
    let at = now.wall.as_second();
    let ports = policy.ports.iter().flat_map(|rule| port(rule, policy, trust, at));
    let principals = principals(policy).into_iter().filter_map(|name| principal(name, policy, trust, at));
    let lines = trust.entries().filter_map(|entry| line(entry, policy, at));
    ports.chain(asked_from(policy)).chain(principals).chain(lines).collect()
}

/// UDP ports from which programs of the host are known to send queries without connecting their socket.
const ASKED_FROM: [(u16, &str); 9] = [
    (53, "a DNS server that asks from port 53"),
    (68, "DHCP clients"),
    (123, "ntpd, and other NTP clients that ask from port 123"),
    (319, "PTP"),
    (500, "IKE"),
    (546, "DHCPv6 clients"),
    (1194, "OpenVPN clients"),
    (4500, "IKE"),
    (5353, "mDNS"),
];

/// The protected UDP ports at which answers to the host's own queries are probably refused.
fn asked_from(policy: &Policy) -> Vec<String> {
    let protected: BTreeSet<(u8, u16)> = policy.protected().collect();
    let asked = ASKED_FROM.iter().filter(|(port, _)| protected.contains(&(UDP, *port)));
    let lint = |(port, who): &(u16, &str)| {
        format!(
            "{port}/udp is also the port from which this host may ask others ({who}): answers to a socket that is not connected are \
             refused without a grant for the other side; have the program connect its socket or use another port, or do not protect {port}/udp"
        )
    };
    asked.map(lint).collect()
}

fn principals(policy: &Policy) -> BTreeSet<&str> {
    policy.roles.iter().flat_map(|role| &role.principals).map(String::as_str).collect()
}

/// Whether a line of the trust file lets `principal` sign for `purpose` at `at` (seconds since the Unix epoch).
pub(crate) fn can_sign(trust: &Trust, principal: &str, purpose: Purpose, at: i64) -> bool {
    let usable = |entry: &Entry<'_>| !entry.is_revoked() && entry.check(at).is_ok();
    trust.entries().filter(usable).any(|e| e.names(principal) && e.purposes().any(|p| p == purpose))
}

/// The ports that nobody can request at `at` (seconds since the Unix epoch).
#[must_use]
pub fn unaskable(policy: &Policy, trust: &Trust, at: i64) -> Vec<PortSpec> {
    let askable = |rule: &&PortRule| {
        holders(policy, &[Role::Requester], rule).any(|name| can_sign(trust, name, Purpose::Request, at))
    };
    policy.ports.iter().filter(|rule| !askable(rule)).map(|rule| rule.port).collect()
}

fn port(rule: &PortRule, policy: &Policy, trust: &Trust, at: i64) -> Vec<String> {
    let port = rule.port;
    let askers: BTreeSet<&str> =
        holders(policy, &[Role::Requester], rule).filter(|name| can_sign(trust, name, Purpose::Request, at)).collect();
    let approvers: BTreeSet<&str> = holders(policy, &rule.approvals.roles, rule)
        .filter(|name| can_sign(trust, name, Purpose::Approve, at))
        .collect();
    let mut lints = Vec::new();
    if askers.is_empty() {
        lints.push(format!(
            "nobody may request {port}: no requester whom the trust file knows, and whose role and its limits cover it"
        ));
    }
    let needed = rule.approvals.count as usize;
    let others = |asker: &str| approvers.iter().filter(|name| **name != asker).count();
    let stuck: Vec<_> = askers.iter().copied().filter(|asker| others(asker) < needed).collect();
    if !stuck.is_empty() {
        let (who, able) = (stuck.join(", "), approvers.len());
        lints.push(format!(
            "{who} can never get {port}: it needs {needed} to approve, and of those who could ({able}) nobody approves their own"
        ));
    }
    for (field, limit) in [("first_use_within", rule.first_use_within), ("idle_timeout", rule.idle_timeout)] {
        if let Some(limit) = limit.filter(|limit| *limit >= rule.max_duration) {
            lints.push(format!(
                "{field} of {port} never matters: {limit} is not shorter than its max_duration, {}",
                rule.max_duration
            ));
        }
    }
    lints
}

/// The principals with a role of `kinds` whose limits still allow something of the port.
fn holders<'a>(policy: &'a Policy, kinds: &[Role], rule: &PortRule) -> impl Iterator<Item = &'a str> {
    let fits = |role: &&RoleRule| {
        kinds.contains(&role.kind) && leaves_port(role, rule) && leaves_sources(role.sources.as_deref(), rule)
    };
    let roles: Vec<_> = policy.roles.iter().filter(fits).collect();
    roles.into_iter().flat_map(|role| &role.principals).map(String::as_str)
}

fn leaves_port(role: &RoleRule, rule: &PortRule) -> bool {
    let (port, protocols) = (rule.port.number, rule.port.protocol.numbers());
    role.ports.as_ref().is_none_or(|ports| {
        ports.iter().any(|p| p.number == port && p.protocol.numbers().iter().any(|n| protocols.contains(n)))
    })
}

fn leaves_sources(limit: Option<&[IpNet]>, rule: &PortRule) -> bool {
    match (limit, rule.allowed_sources.as_deref()) {
        (None, None) => true,
        (Some(nets), None) | (None, Some(nets)) => !nets.is_empty(),
        (Some(one), Some(other)) => one.iter().any(|a| other.iter().any(|b| a.contains(b) || b.contains(a))),
    }
}

/// A lint about a principal with a role that none of their keys can use.
fn principal(name: &str, policy: &Policy, trust: &Trust, at: i64) -> Option<String> {
    if !trust.entries().any(|entry| entry.names(name)) {
        return Some(format!("{name} has a role, and no line of the trust file names them"));
    }
    let useless = |kind: Role| {
        let purposes: &[Purpose] = match kind {
            Role::Requester => &[Purpose::Request],
            Role::Approver => &[Purpose::Approve],
            Role::Viewer => &[Purpose::Read],
            Role::Admin => &[Purpose::Admin, Purpose::Revoke, Purpose::Read],
        };
        policy.holds(name, kind) && !purposes.iter().any(|purpose| can_sign(trust, name, *purpose, at))
    };
    let kinds = [Role::Requester, Role::Approver, Role::Admin, Role::Viewer];
    let useless: Vec<_> = kinds.into_iter().filter(|kind| useless(*kind)).map(Role::name).collect();
    (!useless.is_empty()).then(|| {
        let roles = useless.join(" and ");
        format!("{name} is {roles}, and no valid line of the trust file lets them sign for that (namespaces, dates, revoked keys)")
    })
}

fn line(entry: Entry<'_>, policy: &Policy, at: i64) -> Option<String> {
    let at_line = format!("line {} of the trust file ({})", entry.line(), entry.principals().join(", "));
    if entry.is_revoked() {
        return Some(format!("{at_line} is a revoked key"));
    }
    if let Err(refusal) = entry.check(at) {
        return Some(format!("{at_line} does not count today: {}", refusal.sentence()));
    }
    if entry.purposes().next().is_none() {
        return Some(format!("{at_line} may sign nothing for Postern: its namespaces are others'"));
    }
    let named = |name: &&str| entry.names(name);
    if principals(policy).iter().any(named) {
        return None;
    }
    let names = entry.principals();
    let later = names.iter().skip(1).find(|name| !entry.is_authority() && principals(policy).contains(&name[..]));
    Some(match later {
        Some(name) => format!("{at_line}: {name} has a role, but only the first name of a line counts"),
        None => format!("{at_line}: no role names them, so they may do nothing"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::grant::Protocol;

    #[test]
    fn a_port_that_the_host_asks_from_is_a_lint_for_udp_alone() {
        let policy = |protocol| {
            let port = PortSpec { number: 123, protocol };
            Policy { ports: vec![PortRule::new(port)], ..Policy::default() }
        };
        assert_eq!(asked_from(&policy(Protocol::Tcp)), Vec::<String>::new());
        for protocol in [Protocol::Udp, Protocol::Any] {
            let lints = asked_from(&policy(protocol));
            assert!(lints.len() == 1 && lints[0].starts_with("123/udp"), "{lints:?}");
        }
    }
}
