//! Views of grants: tables, the outcome of a request, the history.

use std::time::Duration;

use postern_proto::v1::{EndWarning, Grant, GrantStep, Usage};

use super::{joined, moment, or_dash, remaining, state};
use crate::text::{bytes, clean, left, local, table};

/// A table of grants with its header. `time` gives the column WHEN.
#[must_use]
pub fn grants<'a>(grants: impl Iterator<Item = &'a Grant>, time: impl Fn(&Grant) -> String) -> Vec<String> {
    let header = ["STATE", "WHEN", "PORTS", "SOURCE", "WHO", "GRANT"].map(str::to_owned).to_vec();
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

/// The time left of an active grant, the event that a waiting one waits for, or the end.
#[must_use]
pub fn left_or_end(grant: &Grant) -> String {
    match (&grant.ended, state(grant)) {
        (_, "active") => left(remaining(grant)),
        (None, "pending") => format!("needs {}", approvals(grant)),
        (None, "scheduled") => format!("opens {}", moment(grant.not_before.as_ref())),
        (Some(ended), _) => format!("ended {}", local(ended)),
        _ => "-".to_owned(),
    }
}

/// `1 more until 18:00:00`
fn approvals(grant: &Grant) -> String {
    format!("{} more until {}", grant.approvals_missing, moment(grant.lapses.as_ref()))
}

/// `1 more approval until 18:00:00`
fn more_approvals(grant: &Grant) -> String {
    let plural = if grant.approvals_missing == 1 { "" } else { "s" };
    format!("{} more approval{plural} until {}", grant.approvals_missing, moment(grant.lapses.as_ref()))
}

/// The warning before a grant, or a session that outlived it, ends. Names a remedy.
#[must_use]
pub fn warning(grant: &Grant, warning: &EndWarning, host: &str) -> String {
    let span = warning.left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
    let what = if warning.sessions { "sessions are cut" } else { "ends" };
    let (ports, source, who) = (joined(&warning.ports), joined(&grant.source), clean(&grant.principal));
    let remedy = match (warning.sessions, grant.key_fingerprint.is_empty()) {
        (false, false) => format!("extend with: postern extend {host} {} --for 1h", clean(&grant.id)),
        _ => format!("to stay: postern request {host} --for 1h"),
    };
    let consequence = if warning.sessions { String::new() } else { format!("{} ", clean(&warning.consequence)) };
    format!("{what} in {}: {ports} for {source} ({who}). {consequence}{remedy}", left(span))
}

/// The outcome of a request: open, waiting, planned or refused.
#[must_use]
pub fn outcome(grant: &Grant, host: &str) -> String {
    match state(grant) {
        "pending" => waiting(grant, host),
        "scheduled" => scheduled(grant, host),
        "active" => granted(grant, host),
        _ => ended(grant),
    }
}

/// An open grant, and the command that ends it.
#[must_use]
pub fn granted(grant: &Grant, host: &str) -> String {
    let id = clean(&grant.id);
    let verb = match (grant.supersedes.is_empty(), grant.break_glass) {
        (false, _) => "extended",
        (true, true) => "BREAK-GLASS, open without a signature",
        (true, false) => "open",
    };
    let mut out = format!(
        "{verb}: {} for {}\n  until {} ({} left)\n  grant {id}",
        joined(&grant.ports),
        joined(&grant.source),
        moment(grant.expires.as_ref()),
        left(remaining(grant)),
    );
    if !grant.approvers.is_empty() {
        out.push_str(&format!("\n  approved by {}", joined(&grant.approvers)));
    }
    let first = grant.first_use_within.and_then(|time| std::time::Duration::try_from(time).ok());
    if let Some(within) = first.filter(|within| !within.is_zero()) {
        out.push_str(&format!("\n  it closes again unless it is used within {}", left(within)));
    }
    let command = if grant.break_glass { "revoke" } else { "give-back" };
    out.push_str(&format!("\nend it early: postern {command} {host} {id}"));
    out
}

fn waiting(grant: &Grant, host: &str) -> String {
    let id = clean(&grant.id);
    let mut out = format!(
        "not open yet: {} for {} waits for {}\n  request {id}",
        joined(&grant.ports),
        joined(&grant.source),
        more_approvals(grant),
    );
    if !grant.approvers.is_empty() {
        out.push_str(&format!("\n  approved so far by {}", joined(&grant.approvers)));
    }
    if let Some(start) = &grant.not_before {
        out.push_str(&format!("\n  opens {} at the earliest", local(start)));
    }
    out.push_str(&format!(
        "\nothers approve with: postern approve {host} {id}\ntake it back with:   postern give-back {host} {id}"
    ));
    out
}

fn scheduled(grant: &Grant, host: &str) -> String {
    let id = clean(&grant.id);
    format!(
        "planned: {} for {} opens {} and closes {}\n  grant {id}\ntake it back with: postern give-back {host} {id}",
        joined(&grant.ports),
        joined(&grant.source),
        moment(grant.not_before.as_ref()),
        moment(grant.expires.as_ref()),
    )
}

/// The end of a grant in one line: `refused by carol@example.com: use the test host`.
#[must_use]
pub fn ended(grant: &Grant) -> String {
    let by = if grant.ended_by.is_empty() { String::new() } else { format!(" by {}", clean(&grant.ended_by)) };
    let why = if grant.end_reason.is_empty() { String::new() } else { format!(": {}", clean(&grant.end_reason)) };
    format!("{}{by}{why}", state(grant))
}

/// The result of an approval.
#[must_use]
pub fn approved(grant: &Grant) -> String {
    let what = format!("{} for {}, {}", joined(&grant.ports), joined(&grant.source), clean(&grant.principal));
    match state(grant) {
        "pending" => format!("approved; {what}: waits for {}", more_approvals(grant)),
        "scheduled" => format!("approved; {what}: opens {}", moment(grant.not_before.as_ref())),
        "active" => format!("approved and open; {what}: until {}", moment(grant.expires.as_ref())),
        _ => format!("approved, but {what}: {}", ended(grant)),
    }
}

/// The table of requests that wait for approval, with its header.
#[must_use]
pub fn pending(grants: &[Grant]) -> Vec<String> {
    let header = ["REQUEST", "WHO", "PORTS", "SOURCE", "NEEDS", "APPROVED BY", "WHY", "TICKET"];
    let row = |grant: &Grant| {
        vec![
            clean(&grant.id),
            clean(&grant.principal),
            joined(&grant.ports),
            joined(&grant.source),
            approvals(grant),
            or_dash(joined(&grant.approvers)),
            or_dash(clean(&grant.justification)),
            or_dash(clean(&grant.ticket)),
        ]
    };
    let rows = std::iter::once(header.map(str::to_owned).to_vec()).chain(grants.iter().map(row));
    table(&rows.collect::<Vec<_>>())
}

/// The result of a revocation.
#[must_use]
pub fn revoked(grant: &Grant) -> String {
    let what = format!("{} for {}", joined(&grant.ports), joined(&grant.source));
    let id = clean(&grant.id);
    let opened = grant.expires.is_some();
    let mut out = match state(grant) {
        "refused" => format!("declined: {what}, request {id} of {}", clean(&grant.principal)),
        "withdrawn" if opened => format!("given back: {what}, grant {id}"),
        "withdrawn" => format!("taken back: {what}, request {id}"),
        _ => format!("closed: {what}, grant {id}"),
    };
    if opened && let Some(usage) = &grant.usage {
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

/// One grant with its whole history.
#[must_use]
pub fn history(grant: &Grant) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut say = |name: &str, text: String| {
        if !text.is_empty() {
            rows.push(vec![name.to_owned(), text]);
        }
    };
    let time = |time: Option<&pbjson_types::Timestamp>| time.map(local).unwrap_or_default();
    say("grant", clean(&grant.id));
    say("state", format!("{}{}", state(grant), if grant.break_glass { " (break-glass)" } else { "" }));
    say("who", clean(&grant.principal));
    say("key", clean(&grant.key_fingerprint));
    say("approved by", joined(&grant.approvers));
    say("ports", joined(&grant.ports));
    say("source", joined(&grant.source));
    say("why", clean(&grant.justification));
    say("ticket", clean(&grant.ticket));
    say("asked", time(grant.created.as_ref()));
    say("opens", time(grant.not_before.as_ref()));
    let over = grant.ended.is_some();
    say(if over { "closed" } else { "closes" }, time(grant.expires.as_ref()));
    if state(grant) == "active" {
        say("left", left(remaining(grant)));
    }
    if state(grant) == "pending" {
        say("needs", more_approvals(grant));
    }
    say("extends", clean(&grant.supersedes));
    say("extended by", clean(&grant.superseded_by));
    if let (Some(usage), true) = (&grant.usage, grant.expires.is_some()) {
        say("use", used(usage));
    }
    let mut out = table(&rows);
    if !grant.history.is_empty() {
        out.push(String::new());
        out.push("what happened:".to_owned());
        let steps: Vec<_> = grant.history.iter().map(step).collect();
        out.extend(table(&steps).into_iter().map(|line| format!("  {line}")));
    }
    out
}

fn step(step: &GrantStep) -> Vec<String> {
    let named = Grant { state: step.state, ..Grant::default() };
    let by = if step.by.is_empty() { "the host".to_owned() } else { clean(&step.by) };
    vec![moment(step.time.as_ref()), state(&named).to_owned(), by, clean(&step.reason)]
}
