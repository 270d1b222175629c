//! Grants and hosts as text for people. Every string from the host passes [`clean`].

mod approval;
mod grant;
mod host;
mod record;

use std::time::Duration;

use postern_proto::v1::{ExplainResponse, Grant, GrantState};

pub use self::{
    approval::question,
    grant::{approved, ended, granted, grants, history, left_or_end, outcome, pending, revoked, warning},
    host::{denied, mode, policy, problem, report, status},
    record::{audit, audit_line},
};
use crate::{
    advice,
    text::{clean, local, sentence},
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

/// Whether the grant is open or may open later.
#[must_use]
pub fn lives(grant: &Grant) -> bool {
    matches!(state(grant), "pending" | "scheduled" | "active")
}

/// The time left by the host's boot clock; zero after the end.
#[must_use]
pub fn remaining(grant: &Grant) -> Duration {
    grant.remaining.and_then(|remaining| remaining.try_into().ok()).unwrap_or_default()
}

fn joined(items: &[String]) -> String {
    clean(&items.join(", "))
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn moment(time: Option<&pbjson_types::Timestamp>) -> String {
    time.map_or_else(|| "?".to_owned(), local)
}

/// Answers "why can't I connect?". The host's findings include the outcome of a request.
#[must_use]
pub fn explained(answer: &ExplainResponse, host: &str) -> Vec<String> {
    let mut out: Vec<String> = answer.findings.iter().map(|finding| sentence(finding)).collect();
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
    if !answer.denied.is_empty() {
        out.push(String::new());
        out.push("Recent denied attempts:".to_owned());
        out.extend(denied(&answer.denied));
    }
    out
}
