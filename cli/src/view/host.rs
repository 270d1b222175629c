//! Views of a host: its state, rules, denied attempts and use.

use std::time::Duration;

use postern_proto::v1::{
    Clock, Condition, DeniedAttempt, GetReportResponse, GetStatusResponse, Interface, Mode, Policy, PolicyProblem,
    PortReport, ProtectedPort, RoleBinding, XdpMode,
};

use super::{grants, joined, left_or_end, moment, or_dash};
use crate::text::{clean, left, local, sentence, table};

/// The table of denied attempts.
#[must_use]
pub fn denied(denied: &[DeniedAttempt]) -> Vec<String> {
    let row = |attempt: &DeniedAttempt| {
        let seen = attempt.last_seen.as_ref().map_or_else(|| "-".to_owned(), local);
        let fate = match (attempt.observed, attempt.new_flows) {
            (false, _) => "dropped".to_owned(),
            (true, 0) => "would be dropped".to_owned(),
            (true, new) => format!("would be dropped, {new} of them new"),
        };
        let (address, port) = (clean(&attempt.address), clean(&attempt.port));
        vec![address, port, format!("{} times", attempt.count), format!("last {seen}"), fate]
    };
    table(&denied.iter().map(row).collect::<Vec<_>>())
}

/// The mode of a host.
#[must_use]
pub fn mode(mode: &Mode) -> Vec<String> {
    let since = mode.since.as_ref().map(|since| format!(" since {}", local(since))).unwrap_or_default();
    let by = if mode.by.is_empty() { String::new() } else { format!(", by {}", clean(&mode.by)) };
    let mut out = vec![match mode.effective.as_str() {
        "observe" => format!("mode: OBSERVE{since}{by}: nothing is dropped, every protected port is open to everybody"),
        other => format!("mode: {}{since}{by}", clean(other)),
    }];
    if let Some(until) = &mode.until {
        out.push(format!("  ON TRIAL: open again at {} unless postern confirm comes first", local(until)));
    }
    if let Some(at) = &mode.rolled_back {
        out.push(format!("  nobody confirmed the last trial: open again since {}", local(at)));
    }
    if mode.file != mode.effective {
        out.push(format!("  the configuration file says {}, which holds after a boot", clean(&mode.file)));
    }
    out
}

/// The whole state of a host.
#[must_use]
pub fn status(host: &GetStatusResponse) -> Vec<String> {
    let mut out = vec![
        format!("host {} ({})", clean(&host.host_id), joined(&host.names)),
        format!(
            "posternd {}, backend {}, up since {}",
            clean(&host.version),
            clean(&host.backend),
            moment(host.started.as_ref())
        ),
        format!("live grants: {}", host.live_grants),
    ];
    out.extend(host.mode.iter().flat_map(mode));
    if !host.tls_fingerprint.is_empty() {
        out.push(format!("TLS fingerprint: {}", clean(&host.tls_fingerprint)));
    }
    out.extend(host.clock.as_ref().map(clock));
    section(&mut out, "protected ports", host.ports.iter().map(protected).collect());
    section(
        &mut out,
        "layers",
        host.layers
            .iter()
            .map(|l| {
                vec![
                    clean(&l.name),
                    if l.attached { "attached" } else { "NOT ATTACHED" }.to_owned(),
                    sentence(&l.detail),
                ]
            })
            .collect(),
    );
    section(&mut out, "xdp", host.interfaces.iter().map(xdp).collect());
    section(
        &mut out,
        "counters",
        host.counters
            .iter()
            .filter(|c| c.count > 0)
            .map(|c| vec![clean(&c.hook), clean(&c.reason), c.count.to_string()])
            .collect(),
    );
    if let Some(journal) = &host.journal {
        section(
            &mut out,
            "journal",
            vec![vec![clean(&journal.path), format!("line {}", journal.sequence), clean(&journal.head)]],
        );
    }
    section(&mut out, "DEGRADED", host.conditions.iter().map(condition).collect());
    if host.conditions.is_empty() {
        out.push("all is well".to_owned());
    }
    out
}

fn condition(condition: &Condition) -> Vec<String> {
    let since = condition.since.as_ref().map(|since| format!("since {}", local(since))).unwrap_or_default();
    vec![clean(&condition.code), since, sentence(&condition.detail)]
}

fn clock(clock: &Clock) -> String {
    let trusted = if clock.trusted { "" } else { ", NOT TRUSTED" };
    let needed = if clock.challenge_needed { "; messages need a challenge" } else { "" };
    let why = if clock.reason.is_empty() { String::new() } else { format!(" ({})", sentence(&clock.reason)) };
    let unnoticed = match sentence(&clock.restores_unnoticed) {
        why if why.is_empty() => String::new(),
        why => format!("; a restore from a snapshot would not be noticed ({why})"),
    };
    format!("wall clock: {}{trusted}{needed}{why}{unnoticed}", clean(&clock.state))
}

fn section(out: &mut Vec<String>, title: &str, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    out.push(format!("{title}:"));
    out.extend(table(&rows).into_iter().map(|line| format!("  {line}")));
}

fn protected(port: &ProtectedPort) -> Vec<String> {
    let most = format!("at most {}", left(Duration::from_secs(port.max_duration_seconds)));
    let sources =
        if port.allowed_sources.is_empty() { "any address".to_owned() } else { joined(&port.allowed_sources) };
    vec![clean(&port.port), clean(&port.name), most, format!("from {sources}")]
}

fn xdp(interface: &Interface) -> Vec<String> {
    let mode = match XdpMode::try_from(interface.mode) {
        Ok(XdpMode::Native) => "native",
        Ok(XdpMode::Generic) => "generic",
        Ok(XdpMode::Tcx) => "tcx",
        Ok(XdpMode::Standby) => "standby",
        Ok(XdpMode::Off) => "off",
        Ok(XdpMode::Unspecified) | Err(_) => "unknown",
    };
    vec![clean(&interface.name), mode.to_owned(), sentence(&interface.reason)]
}

/// The rules of a host.
#[must_use]
pub fn policy(policy: &Policy) -> Vec<String> {
    let mut out = Vec::new();
    section(&mut out, "ports", policy.ports.iter().map(rule).collect());
    section(&mut out, "roles", policy.roles.iter().map(role).collect());
    if policy.mode == "observe" {
        out.push("mode: observe".to_owned());
    }
    if let Some(most) = span(policy.max_duration) {
        out.push(format!("no grant is longer than {most}"));
    }
    out.push(match span(policy.pending_ttl) {
        Some(ttl) => format!("requests wait {ttl} for approval"),
        None => "requests do not wait: approvals come with the request or not at all".to_owned(),
    });
    if !policy.digest.is_empty() {
        out.push(format!("digest {}", clean(&policy.digest)));
    }
    out
}

/// None if it is unset or zero.
fn span(duration: Option<pbjson_types::Duration>) -> Option<String> {
    let duration = Duration::try_from(duration?).ok()?;
    (!duration.is_zero()).then(|| left(duration))
}

fn rule(port: &ProtectedPort) -> Vec<String> {
    let mut row = protected(port);
    row.push(format!("then {}", or_dash(clean(&port.on_expiry))));
    row.push(demands(port).join(", "));
    row
}

/// The conditions of a port besides source and time.
fn demands(port: &ProtectedPort) -> Vec<String> {
    let mut out = Vec::new();
    match port.approvals {
        0 => {}
        1 => out.push(format!("1 approval by {}", port.approver_roles.join(" or "))),
        n => out.push(format!("{n} approvals by {}", port.approver_roles.join(" or "))),
    }
    match port.justification.as_str() {
        "" | "optional" => {}
        "required" => out.push("needs a reason".to_owned()),
        pattern => out.push(format!("needs a reason like {pattern}")),
    }
    if port.max_grants > 0 {
        out.push(format!("at most {} live grants", port.max_grants));
    }
    out.extend(span(port.first_use_within).map(|time| format!("closes when not used within {time}")));
    out.extend(span(port.idle_timeout).map(|time| format!("closes after {time} without use")));
    let moments: Vec<_> = port.warn_before.iter().filter_map(|before| span(Some(*before))).collect();
    out.extend((!moments.is_empty()).then(|| format!("warns {} before an end", moments.join(" and "))));
    out.into_iter().map(|text| clean(&text)).collect()
}

fn role(binding: &RoleBinding) -> Vec<String> {
    let only = |what: &str, items: &[String]| (!items.is_empty()).then(|| format!("{what} {}", joined(items)));
    let most = span(binding.max_duration).map(|most| format!("at most {most}"));
    let limits = [only("for", &binding.ports), only("from", &binding.sources), most];
    vec![clean(&binding.role), joined(&binding.principals), limits.into_iter().flatten().collect::<Vec<_>>().join(", ")]
}

/// A problem in a file in the form of compilers: `file:line:column: field: message`.
#[must_use]
pub fn problem(file: &str, problem: &PolicyProblem) -> String {
    let mut place = file.to_owned();
    for number in [problem.line, problem.column] {
        if number == 0 {
            break;
        }
        place.push_str(&format!(":{number}"));
    }
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", clean(&problem.field)) };
    format!("{place}: {field}{}", sentence(&problem.message))
}

/// The requests and use of each port.
#[must_use]
pub fn report(report: &GetReportResponse) -> Vec<String> {
    let mut out = vec![format!("from {} to {}", moment(report.since.as_ref()), moment(report.until.as_ref()))];
    let header = ["PORT", "NAME", "REQUESTS", "GRANTED", "REFUSED", "PENDING", "LIVE", "LAST ACCESS", "LAST USER"];
    let rows = std::iter::once(header.map(str::to_owned).to_vec()).chain(report.ports.iter().map(port_row));
    out.extend(table(&rows.collect::<Vec<_>>()));
    if !report.unused.is_empty() {
        out.push(String::new());
        out.push("Granted, and over without a single packet:".to_owned());
        out.extend(grants(report.unused.iter(), left_or_end));
    }
    out
}

fn port_row(port: &PortReport) -> Vec<String> {
    let numbers = [port.requests, port.granted, port.refused, port.pending, port.live];
    let mut row = vec![clean(&port.port), or_dash(clean(&port.name))];
    row.extend(numbers.map(|number| number.to_string()));
    row.push(port.last_access.as_ref().map_or_else(|| "-".to_owned(), local));
    row.push(or_dash(clean(&port.last_user)));
    row
}
