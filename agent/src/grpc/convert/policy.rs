//! The rules, as protobuf.
//!
//! Owns the conversion. It leaves out nothing that decides about access.

use std::net::IpAddr;

use postern_core::grant::MOST_ITEMS;
use postern_core::policy::{Justification, OnExpiry, Policy, PortRule, Role, RoleRule};
use postern_core::refusal::Refusal;
use postern_core::time::Seconds;
use postern_proto::{MOST_PORT_TEXT, v1};

use super::view::duration;
use crate::config::{Config, Problem};
use crate::payload::{malformed, text};

/// The rules; `digest` is the digest of their files.
#[must_use]
pub fn policy(rules: &Policy, digest: &str) -> v1::Policy {
    let Policy { ports, roles, max_duration, pending_ttl, mode } = rules;
    v1::Policy {
        ports: ports.iter().map(protected_port).collect(),
        roles: roles.iter().map(role).collect(),
        max_duration: Some(duration(*max_duration)),
        pending_ttl: Some(duration(pending_ttl.unwrap_or(Seconds(0)))),
        digest: digest.to_owned(),
        mode: mode.name().to_owned(),
    }
}

/// The ports that each text means, and whether their rules admit the caller's `address`. Without an address all are admitted.
///
/// # Errors
/// Fails if there are too many texts, or if a text is too long or has control characters.
pub fn meanings(asked: Vec<String>, rules: &Policy, address: Option<IpAddr>) -> Result<Vec<v1::PortMeaning>, Refusal> {
    if asked.len() > MOST_ITEMS {
        return Err(malformed("ports", format!("it has {} items; {MOST_ITEMS} is the most", asked.len())));
    }
    let meaning = |(at, asked): (usize, String)| {
        let asked = text(asked, &format!("ports[{at}]"), MOST_PORT_TEXT)?;
        let ports = rules.meant(&asked);
        let admitted = address.is_none_or(|address| rules.ports_admit(&ports, address));
        Ok(v1::PortMeaning { asked, ports: ports.iter().map(ToString::to_string).collect(), admitted })
    };
    asked.into_iter().enumerate().map(meaning).collect()
}

/// The policy of a configuration, or its mistakes.
#[must_use]
pub fn validated(parsed: Result<Config, Vec<Problem>>) -> v1::ValidatePolicyResponse {
    match parsed {
        Ok(config) => v1::ValidatePolicyResponse { problems: Vec::new(), policy: Some(policy(&config.policy(), "")) },
        Err(problems) => {
            v1::ValidatePolicyResponse { problems: problems.into_iter().map(problem).collect(), policy: None }
        }
    }
}

fn problem(problem: Problem) -> v1::PolicyProblem {
    let Problem { line, column, field, message, excerpt: _, length: _ } = problem;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::PolicyProblem { line: number(line), column: number(column), field, message }
}

fn role(rule: &RoleRule) -> v1::RoleBinding {
    let RoleRule { kind, principals, ports, sources, max_duration } = rule;
    v1::RoleBinding {
        role: kind.name().to_owned(),
        principals: principals.clone(),
        ports: ports.iter().flatten().map(ToString::to_string).collect(),
        sources: sources.iter().flatten().map(ToString::to_string).collect(),
        max_duration: max_duration.map(duration),
    }
}

pub(super) fn protected_port(rule: &PortRule) -> v1::ProtectedPort {
    let PortRule {
        port,
        name,
        max_duration,
        allowed_sources,
        on_expiry,
        justification,
        max_grants,
        approvals,
        first_use_within,
        idle_timeout,
        warn_before,
    } = rule;
    v1::ProtectedPort {
        port: port.to_string(),
        name: name.clone(),
        max_duration_seconds: max_duration.0,
        allowed_sources: allowed_sources.iter().flatten().map(ToString::to_string).collect(),
        approvals: approvals.count,
        approver_roles: approvals.roles.iter().map(|role: &Role| role.name().to_owned()).collect(),
        justification: match justification {
            Justification::Optional => "optional".to_owned(),
            Justification::Required => "required".to_owned(),
            Justification::Matching(pattern) => pattern.as_str().to_owned(),
        },
        max_grants: max_grants.unwrap_or(0),
        first_use_within: first_use_within.map(duration),
        idle_timeout: idle_timeout.map(duration),
        warn_before: warn_before.iter().copied().map(duration).collect(),
        on_expiry: match on_expiry {
            OnExpiry::Cut => "cut".to_owned(),
            OnExpiry::Drain(seconds) => format!("drain {seconds}"),
            OnExpiry::Keep => "keep".to_owned(),
        },
    }
}
