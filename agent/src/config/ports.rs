//! The `[[port]]` sections: which ports are closed, and what a request for them must be like. Never judges a request.

use std::collections::BTreeMap;

use ipnet::IpNet;
use postern_core::envelope::MOST_SIGNATURES;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::policy::{
    Approvals, DEFAULT_MAX_DURATION, Justification, OnExpiry, Pattern, PortRule, SESSIONS_MOST, default_ports,
};
use postern_core::time::Seconds;

use super::limits::Cap;
use super::value::{Section, Value};
use super::{keys, limits, roles, services};

pub(super) const PROTOCOLS: &[(&str, Protocol)] =
    &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("any", Protocol::Any)];
/// A drain may have any length; `10m` is the example in messages.
const ENDS: &[(&str, OnExpiry)] =
    &[("cut", OnExpiry::Cut), ("drain 10m", OnExpiry::Drain(Seconds::minutes(10))), ("keep", OnExpiry::Keep)];
const JUSTIFICATIONS: &[(&str, bool)] = &[("optional", false), ("required", true)];
/// A message has room for so many approvals besides the request's own signature.
const MOST_APPROVALS: u32 = MOST_SIGNATURES as u32 - 1;

/// The place in the file that names each (IP protocol, port).
pub(super) type Named<'a> = BTreeMap<(u8, u16), Value<'a>>;

/// All rules, and the places of their ports. A file without ports gets the four default ports.
pub(super) fn read<'a>(sections: &[Section<'a>], cap: &Cap, warn_before: &[Seconds]) -> (Vec<PortRule>, Named<'a>) {
    let mut named = Named::new();
    if sections.is_empty() {
        let own = |rule: PortRule| PortRule {
            max_duration: rule.max_duration.min(cap.most),
            warn_before: warn_before.to_vec(),
            ..rule
        };
        return (default_ports().into_iter().map(own).collect(), named);
    }
    let rules = sections.iter().filter_map(|section| rule(section, cap, warn_before, &mut named)).collect();
    (rules, named)
}

fn rule<'a>(section: &Section<'a>, cap: &Cap, warn_before: &[Seconds], named: &mut Named<'a>) -> Option<PortRule> {
    let at = section.need("number");
    let number = at.as_ref().and_then(port_number);
    let protocol = section.get("protocol").map_or(Some(Protocol::Tcp), |value| value.choice(PROTOCOLS));
    let service = at.as_ref().filter(|value| value.is_text()).and_then(Value::text).unwrap_or_default();
    let max_duration = section.get("max_duration").and_then(|value| cap.duration(&value));
    let limits = PortRule {
        name: section.get("name").map_or(Some(service), |value| value.text()).unwrap_or_default().to_owned(),
        max_duration: max_duration.unwrap_or(DEFAULT_MAX_DURATION.min(cap.most)),
        allowed_sources: section.get("allowed_sources").map(|value| prefixes(&value)),
        on_expiry: section.get("on_expiry").and_then(|value| on_expiry(&value)).unwrap_or_default(),
        justification: section.get("justification").and_then(|value| justification(&value)).unwrap_or_default(),
        max_grants: section.get("max_grants").and_then(|value| max_grants(&value)),
        approvals: section.get("approvals").and_then(|value| approvals(&value)).unwrap_or_default(),
        first_use_within: section.get("first_use_within").and_then(|value| some_time(&value)),
        idle_timeout: section.get("idle_timeout").and_then(|value| some_time(&value)),
        warn_before: limits::warn_before(section).unwrap_or_else(|| warn_before.to_vec()),
        ..PortRule::new(PortSpec { number: 0, protocol: Protocol::Tcp })
    };
    let port = PortSpec { number: number?, protocol: protocol? };
    note_twins(port, at?, named);
    Some(PortRule { port, ..limits })
}

/// `"cut"`, `"keep"`, or `"drain TIME"`.
fn on_expiry(value: &Value<'_>) -> Option<OnExpiry> {
    let Some(length) = value.text()?.strip_prefix("drain ") else { return value.choice(ENDS) };
    match value.duration_of(length.trim())? {
        Seconds(0) => value.wrong("drains for 0s; write \"cut\""),
        longer if longer > SESSIONS_MOST => value.wrong(format!("drains for {longer}; {SESSIONS_MOST} is the most")),
        seconds => return Some(OnExpiry::Drain(seconds)),
    }
    None
}

/// A number, or the name of a service.
pub(super) fn port_number(value: &Value<'_>) -> Option<u16> {
    if value.is_text() {
        return services::port_of(value.text()?).map_err(|sentence| value.wrong(sentence)).ok();
    }
    u16::try_from(value.number(1..=u16::MAX.into())?).ok()
}

fn note_twins<'a>(port: PortSpec, at: Value<'a>, named: &mut Named<'a>) {
    let taken = port.protocol.numbers().iter().find_map(|&protocol| named.get(&(protocol, port.number)));
    if let Some(first) = taken {
        at.wrong(format!("port {} is named twice for one protocol, first in line {}", port.number, first.line()));
    }
    for &protocol in port.protocol.numbers() {
        named.entry((protocol, port.number)).or_insert_with(|| at.clone());
    }
}

/// `"optional"`, `"required"`, or `{ matches = "REGEX" }`.
fn justification(value: &Value<'_>) -> Option<Justification> {
    if !value.is_table() {
        let required = value.choice(JUSTIFICATIONS)?;
        return Some(if required { Justification::Required } else { Justification::Optional });
    }
    let matches = value.section(keys::JUSTIFICATION)?.need("matches")?;
    let pattern = Pattern::parse(matches.text()?).map_err(|error| matches.wrong(bad_pattern(&error)));
    pattern.ok().map(Justification::Matching)
}

/// The regex crate draws a picture over several lines; the last line has the reason.
fn bad_pattern(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    format!("is not a regular expression: {}", last.trim_start_matches("error: "))
}

/// A number of approvers, or `{ count = 2, roles = ["approver", "admin"] }`.
fn approvals(value: &Value<'_>) -> Option<Approvals> {
    let own = Approvals::default();
    if !value.is_table() {
        return Some(Approvals { count: value.number(0..=MOST_APPROVALS)?, ..own });
    }
    let section = value.section(keys::APPROVALS)?;
    let count = section.need("count")?.number(0..=MOST_APPROVALS)?;
    let Some(at) = section.get("roles") else { return Some(Approvals { count, ..own }) };
    let kinds = at.list(|item| item.choice(roles::ROLES))?;
    if at.items()?.is_empty() && count > 0 {
        at.wrong("names no role, so nobody could approve; leave it out for approvers");
    }
    Some(Approvals { count, roles: kinds })
}

/// A length of time that is not zero.
fn some_time(value: &Value<'_>) -> Option<Seconds> {
    let duration = value.duration()?;
    if duration == Seconds(0) {
        value.wrong("0s would end every grant at once; leave the line out for no limit");
    }
    Some(duration)
}

/// Prefixes without host bits.
pub(super) fn prefixes(value: &Value<'_>) -> Vec<IpNet> {
    let read = |item: &Value<'_>| {
        let net: IpNet = item.parsed("a prefix, for example \"10.0.0.0/8\" or \"2001:db8::/32\"")?;
        let meant = net.trunc();
        if net != meant {
            item.wrong(format!("{net} has bits set behind its prefix; did you mean {meant}?"));
        }
        Some(meant)
    };
    value.list(read).unwrap_or_default()
}

fn max_grants(value: &Value<'_>) -> Option<u32> {
    let number = value.number(0..=u32::MAX)?;
    if number == 0 {
        value.wrong("0 would never let anybody in; leave the line out for no limit");
    }
    Some(number)
}
