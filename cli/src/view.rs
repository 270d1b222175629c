//! Grants and hosts as people read them.
//!
//! Owns the wording. Every string from the host passes [`clean`] on its way here.

use std::time::Duration;

use postern_proto::v1::{
    AuditEntry, ExplainResponse, GetStatusResponse, Grant, GrantState, Interface, Knock, ProtectedPort, ShedMode, Usage,
};

use crate::{
    advice,
    text::{bytes, clean, left, local, table},
};

/// A grant's state in one word.
#[must_use]
pub fn state(grant: &Grant) -> &'static str {
    match GrantState::try_from(grant.state) {
        Ok(GrantState::Active) => "active",
        Ok(GrantState::Expired) => "expired",
        Ok(GrantState::Revoked) => "revoked",
        Ok(GrantState::Pending) => "pending",
        Ok(GrantState::Scheduled) => "scheduled",
        Ok(GrantState::Superseded) => "superseded",
        Ok(GrantState::Refused) => "refused",
        Ok(GrantState::Withdrawn) => "withdrawn",
        Ok(GrantState::Unspecified) | Err(_) => "unknown",
    }
}

/// What is left of a grant, by the host's boot clock; zero once it ended.
#[must_use]
pub fn remaining(grant: &Grant) -> Duration {
    grant.remaining.and_then(|remaining| remaining.try_into().ok()).unwrap_or_default()
}

fn joined(items: &[String]) -> String {
    clean(&items.join(", "))
}

/// A table of grants with its header. `time` tells what stands under LEFT.
#[must_use]
pub fn grants<'a>(grants: impl Iterator<Item = &'a Grant>, time: impl Fn(&Grant) -> String) -> Vec<String> {
    let header = ["STATE", "LEFT", "PORTS", "SOURCE", "WHO", "GRANT"].map(str::to_owned).to_vec();
    let row = |grant: &Grant| {
        vec![
            state(grant).to_owned(),
            time(grant),
            joined(&grant.ports),
            joined(&grant.source),
            clean(&grant.principal),
            clean(&grant.id),
        ]
    };
    table(&std::iter::once(header).chain(grants.map(row)).collect::<Vec<_>>())
}

/// Lines of the journal as a table with its header.
#[must_use]
pub fn audit(entries: &[AuditEntry]) -> Vec<String> {
    let header = ["LINE", "TIME", "EVENT", "WHO", "PORTS", "SOURCE", "GRANT", "WHY"].map(str::to_owned).to_vec();
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |entry: &AuditEntry| {
        vec![
            entry.seq.to_string(),
            entry.time.as_ref().map_or_else(|| "?".to_owned(), local),
            clean(&entry.event),
            or_dash(clean(&entry.principal)),
            or_dash(joined(&entry.ports)),
            or_dash(joined(&entry.source)),
            or_dash(clean(&entry.grant_id)),
            clean(&entry.reason),
        ]
    };
    table(&std::iter::once(header).chain(entries.iter().map(row)).collect::<Vec<_>>())
}

/// Time left of an active grant, or when it ended.
#[must_use]
pub fn left_or_end(grant: &Grant) -> String {
    match (&grant.ended, state(grant)) {
        (_, "active") => left(remaining(grant)),
        (Some(ended), _) => format!("ended {}", local(ended)),
        _ => "-".to_owned(),
    }
}

/// What was opened, and how to end it.
#[must_use]
pub fn granted(grant: &Grant, host: &str) -> String {
    let until = grant.expires.as_ref().map_or_else(|| "?".to_owned(), local);
    format!(
        "open: {} for {}\n  until {until} ({} left)\n  grant {}\nend it early: postern revoke {host} {}",
        joined(&grant.ports),
        joined(&grant.source),
        left(remaining(grant)),
        clean(&grant.id),
        clean(&grant.id),
    )
}

/// What was ended.
#[must_use]
pub fn revoked(grant: &Grant) -> String {
    let mut out = format!("closed: {} for {}, grant {}", joined(&grant.ports), joined(&grant.source), clean(&grant.id));
    if let Some(usage) = &grant.usage {
        out.push_str(&format!("\n  {}", used(usage)));
    }
    out
}

fn used(usage: &Usage) -> String {
    let Some(first) = &usage.first_use else { return "it was never used".to_owned() };
    let last = usage.last_use.as_ref().unwrap_or(first);
    format!(
        "used from {} to {}: {} in, {} out",
        local(first),
        local(last),
        bytes(usage.bytes_in),
        bytes(usage.bytes_out)
    )
}

/// Answers "why can't I connect?". The host's findings say by themselves what a request would come to.
#[must_use]
pub fn explained(answer: &ExplainResponse, host: &str) -> Vec<String> {
    let mut out: Vec<String> = answer.findings.iter().map(|finding| clean(finding)).collect();
    if let Some(refusal) = &answer.refusal {
        let rule = if refusal.rule.is_empty() { String::new() } else { format!(", rule {}", clean(&refusal.rule)) };
        out.push(format!("  reason: {}{rule}", clean(&refusal.reason)));
        out.extend(advice::next_step(&refusal.reason, host).map(|next| format!("  next: {next}")));
    }
    if !answer.grants.is_empty() {
        out.push(String::new());
        out.push("Your live grants for it:".to_owned());
        out.extend(grants(answer.grants.iter(), left_or_end));
    }
    if !answer.knocks.is_empty() {
        out.push(String::new());
        out.push("Knocked in vain lately:".to_owned());
        out.extend(knocks(&answer.knocks));
    }
    out
}

fn knocks(knocks: &[Knock]) -> Vec<String> {
    let row = |knock: &Knock| {
        let seen = knock.last_seen.as_ref().map_or_else(|| "-".to_owned(), local);
        vec![clean(&knock.address), clean(&knock.port), format!("{} times", knock.count), format!("last {seen}")]
    };
    table(&knocks.iter().map(row).collect::<Vec<_>>())
}

/// The state of a host.
#[must_use]
pub fn status(host: &GetStatusResponse) -> Vec<String> {
    let mut out = vec![
        format!("host {} ({})", clean(&host.host_id), joined(&host.names)),
        format!(
            "posternd {}, backend {}, up since {}",
            clean(&host.version),
            clean(&host.backend),
            host.started.as_ref().map_or_else(|| "?".to_owned(), local)
        ),
        format!("live grants: {}", host.live_grants),
    ];
    if !host.tls_fingerprint.is_empty() {
        out.push(format!("TLS fingerprint: {}", clean(&host.tls_fingerprint)));
    }
    section(&mut out, "protected ports", host.ports.iter().map(protected).collect());
    section(
        &mut out,
        "layers",
        host.layers
            .iter()
            .map(|l| {
                vec![clean(&l.name), if l.attached { "attached" } else { "NOT ATTACHED" }.to_owned(), clean(&l.detail)]
            })
            .collect(),
    );
    section(&mut out, "shed", host.interfaces.iter().map(shed).collect());
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
    match host.degraded.as_slice() {
        [] => out.push("all is well".to_owned()),
        reasons => section(&mut out, "DEGRADED", reasons.iter().map(|reason| vec![clean(reason)]).collect()),
    }
    out
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
    let sources = if port.allowed_sources.is_empty() { "-".to_owned() } else { joined(&port.allowed_sources) };
    vec![clean(&port.port), clean(&port.name), most, format!("from {sources}")]
}

fn shed(interface: &Interface) -> Vec<String> {
    let mode = match ShedMode::try_from(interface.mode) {
        Ok(ShedMode::Native) => "native",
        Ok(ShedMode::Generic) => "generic",
        Ok(ShedMode::Off) => "off",
        Ok(ShedMode::Unspecified) | Err(_) => "unknown",
    };
    vec![clean(&interface.name), mode.to_owned(), clean(&interface.reason)]
}
