//! `[[port]]`: which ports are closed, and what a request for them must be like.
//!
//! Owns reading them into [`PortRule`]s. It never judges a request.

use std::collections::BTreeMap;

use ipnet::IpNet;
use postern_core::envelope::MOST_SIGNATURES;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::policy::{
    Approvals, DEFAULT_MAX_DURATION, Justification, MAX_DURATION_RANGE, OnExpiry, PortRule, default_ports,
};
use postern_core::time::Seconds;

use super::services;
use super::value::{Section, Value};

pub(super) const PROTOCOLS: &[(&str, Protocol)] =
    &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("any", Protocol::Any)];
const ENDS: &[(&str, OnExpiry)] = &[("cut", OnExpiry::Cut)];
/// Whether a justification is required.
const JUSTIFICATIONS: &[(&str, bool)] = &[("optional", false), ("required", true)];
/// A message has no room for more approvals beside the request's own signature.
const MOST_APPROVALS: u32 = MOST_SIGNATURES as u32 - 1;

/// Where each (IP protocol, port) was named.
pub(super) type Named<'a> = BTreeMap<(u8, u16), Value<'a>>;

/// All rules, and where their ports stand; Azure's four where the file names none.
pub(super) fn read<'a>(sections: &[Section<'a>]) -> (Vec<PortRule>, Named<'a>) {
    let mut named = Named::new();
    if sections.is_empty() {
        return (default_ports(), named);
    }
    let rules = sections.iter().filter_map(|section| rule(section, &mut named)).collect();
    (rules, named)
}

fn rule<'a>(section: &Section<'a>, named: &mut Named<'a>) -> Option<PortRule> {
    let at = section.need("number");
    let number = at.as_ref().and_then(port_number);
    let protocol = section.get("protocol").map_or(Some(Protocol::Tcp), |value| value.choice(PROTOCOLS));
    let service = at.as_ref().filter(|value| value.is_text()).and_then(Value::text).unwrap_or_default();
    let name = section.get("name").map_or(Some(service), |value| value.text()).unwrap_or_default().to_owned();
    let max_duration = section.get("max_duration").map_or(Some(DEFAULT_MAX_DURATION), |value| max_duration(&value));
    let allowed_sources = section.get("allowed_sources").map(|value| prefixes(&value));
    let on_expiry = section.get("on_expiry").and_then(|value| value.choice(ENDS)).unwrap_or_default();
    let required = section.get("justification").and_then(|value| value.choice(JUSTIFICATIONS)).unwrap_or_default();
    let justification = if required { Justification::Required } else { Justification::Optional };
    let max_grants = section.get("max_grants").and_then(|value| max_grants(&value));
    let approvals = section.get("approvals").and_then(|value| value.number(0..=MOST_APPROVALS)).unwrap_or_default();
    let port = PortSpec { number: number?, protocol: protocol? };
    note_twins(port, at?, named);
    Some(PortRule {
        name,
        max_duration: max_duration?,
        allowed_sources,
        on_expiry,
        justification,
        max_grants,
        approvals: Approvals { count: approvals, ..Approvals::default() },
        ..PortRule::new(port)
    })
}

/// A number, or the name of a service.
fn port_number(value: &Value<'_>) -> Option<u16> {
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

fn max_duration(value: &Value<'_>) -> Option<Seconds> {
    let (least, most) = MAX_DURATION_RANGE;
    let duration = value.duration()?;
    if duration < least || duration > most {
        value.wrong(format!("{duration} is not from {least} to {most}"));
    }
    Some(duration)
}

/// Prefixes without bits behind them.
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
