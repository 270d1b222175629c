//! What an accepted configuration says, as a reader sees it who knows neither places nor problems: plain TOML values.
//!
//! Owns the comparison of each rule with what is written in its table.

use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::SignedDuration;
use postern_agent::config::Config;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::mode::Mode;
use postern_core::policy::{
    DEFAULT_MAX_DURATION, DEFAULT_PENDING_TTL, Justification, MAX_DURATION_RANGE, OnExpiry, Policy, PortRule, Role,
    RoleRule,
};
use postern_core::time::Seconds;
use toml::{Table, Value};

/// Compares all that decides who gets in.
pub fn compare(text: &str, config: &Config) {
    // Numbers beyond 63 bits are no values for this reader.
    let Ok(told) = text.parse::<Table>() else { return };
    let policy = config.policy();
    top(&told, config, &policy);
    let tables = |key: &str| told.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter();
    let tables = |key: &str| tables(key).map(|item| item.as_table().expect("a table")).collect::<Vec<_>>();
    let ports = tables("port");
    // Where the file names none, there are the default ones.
    assert!(ports.is_empty() && !policy.ports.is_empty() || ports.len() == policy.ports.len(), "a port is lost");
    ports.iter().zip(&policy.ports).for_each(|(told, rule)| port(told, rule, policy.max_duration));
    let roles = tables("role");
    assert_eq!(roles.len(), policy.roles.len(), "a role is lost, or made up");
    roles.iter().zip(&policy.roles).for_each(|(told, rule)| role(told, rule, &policy));
}

fn top(told: &Table, config: &Config, policy: &Policy) {
    assert_eq!(policy.max_duration, duration(told.get("max_duration")).unwrap_or(MAX_DURATION_RANGE.1));
    let waits = duration(told.get("pending_ttl")).unwrap_or(DEFAULT_PENDING_TTL);
    assert_eq!(policy.pending_ttl, Some(waits).filter(|waits| *waits != Seconds(0)));
    assert_eq!(policy.mode == Mode::Observe, text(told.get("mode")) == Some("observe"), "only who says so observes");
    assert_eq!(config.names, texts(told.get("names")).unwrap_or_default());
    let api = told.get("api").and_then(Value::as_table);
    let listeners = |key| Some(parsed::<SocketAddr>(api?.get(key))).flatten();
    assert!(listeners("tcp").is_none_or(|told| told == config.api.tcp), "other listeners");
    assert_eq!(config.api.plaintext, listeners("plaintext").unwrap_or_default());
}

fn port(told: &Table, rule: &PortRule, most: Seconds) {
    let get = |key: &str| told.get(key);
    if let Some(number) = get("number").and_then(Value::as_integer) {
        assert_eq!(i64::from(rule.port.number), number, "another port is closed");
    }
    let protocol = text(get("protocol")).unwrap_or("tcp");
    assert_eq!(rule.port.protocol, protocol_of(protocol));
    let service = text(get("number")).unwrap_or_default();
    assert_eq!(rule.name, text(get("name")).unwrap_or(service));
    assert_eq!(rule.max_duration, duration(get("max_duration")).unwrap_or(DEFAULT_MAX_DURATION.min(most)));
    assert_eq!(rule.allowed_sources, parsed::<IpNet>(get("allowed_sources")));
    assert_eq!(rule.max_grants.map(i64::from), get("max_grants").and_then(Value::as_integer));
    assert_eq!(rule.first_use_within, duration(get("first_use_within")));
    assert_eq!(rule.idle_timeout, duration(get("idle_timeout")));
    approvals(get("approvals"), rule);
    match (&rule.justification, get("justification")) {
        (Justification::Optional, None) => {}
        (Justification::Optional, told) => assert_eq!(text(told), Some("optional")),
        (Justification::Required, told) => assert_eq!(text(told), Some("required")),
        (Justification::Matching(pattern), told) => {
            assert_eq!(text(told.and_then(|told| told.get("matches"))), Some(pattern.as_str()));
        }
    }
    let ends = text(get("on_expiry")).unwrap_or("cut");
    match rule.on_expiry {
        OnExpiry::Cut => assert_eq!(ends, "cut"),
        OnExpiry::Keep => assert_eq!(ends, "keep"),
        OnExpiry::Drain(length) => {
            let told = ends.strip_prefix("drain ").expect("a drain");
            assert_eq!(length, duration(Some(&Value::String(told.trim().to_owned()))).expect("its length"));
        }
    }
}

fn approvals(told: Option<&Value>, rule: &PortRule) {
    let part = |key: &str| told.and_then(|told| told.get(key));
    let count = part("count").or(told).and_then(Value::as_integer).unwrap_or(0);
    assert_eq!(i64::from(rule.approvals.count), count, "approvals");
    let roles: Vec<&str> = rule.approvals.roles.iter().map(|role| role.name()).collect();
    assert_eq!(roles, texts(part("roles")).unwrap_or_else(|| vec!["approver".to_owned()]));
}

fn role(told: &Table, rule: &RoleRule, policy: &Policy) {
    let get = |key: &str| told.get(key);
    assert_eq!(Some(rule.kind.name()), text(get("name")));
    assert_eq!(Some(&rule.principals), texts(get("principals")).as_ref());
    assert_eq!(rule.sources, parsed::<IpNet>(get("sources")));
    assert_eq!(rule.max_duration, duration(get("max_duration")));
    let ports = texts(get("ports")).map(|ports| ports.iter().flat_map(|text| named(text, policy)).collect::<Vec<_>>());
    assert_eq!(rule.ports, ports);
    let narrowed = rule.ports.is_some() || rule.sources.is_some() || rule.max_duration.is_some();
    assert!(!narrowed || matches!(rule.kind, Role::Requester | Role::Approver), "narrowed in vain");
}

/// The ports of that name, or the one that is written as 22/tcp.
fn named(text: &str, policy: &Policy) -> Vec<PortSpec> {
    let found: Vec<_> = policy.ports.iter().filter(|rule| rule.name == text).map(|rule| rule.port).collect();
    if !found.is_empty() {
        return found;
    }
    let (number, protocol) = text.split_once('/').expect("a port");
    vec![PortSpec { number: number.parse().expect("a number"), protocol: protocol_of(protocol) }]
}

fn protocol_of(text: &str) -> Protocol {
    match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => {
            assert_eq!(other, "any");
            Protocol::Any
        }
    }
}

fn text(told: Option<&Value>) -> Option<&str> {
    told?.as_str()
}

fn texts(told: Option<&Value>) -> Option<Vec<String>> {
    Some(told?.as_array()?.iter().map(|item| item.as_str().expect("a text").to_owned()).collect())
}

fn parsed<T: std::str::FromStr>(told: Option<&Value>) -> Option<Vec<T>> {
    let read = |text: &String| text.parse().ok().expect("what was accepted");
    Some(texts(told)?.iter().map(read).collect())
}

/// In whole seconds, without a rest.
fn duration(told: Option<&Value>) -> Option<Seconds> {
    let told: SignedDuration = text(told)?.parse().expect("a duration");
    assert_eq!(told.as_nanos() % 1_000_000_000, 0, "a part of a second is lost");
    Some(Seconds(u64::try_from(told.as_secs()).expect("a length of time")))
}
