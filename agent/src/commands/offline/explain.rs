//! `posternd explain`: the outcome of a request, from the files alone.
//!
//! Owns the question and the output. The engine explains, as for `postern explain`, but with an empty ledger.

use jiff::Timestamp;
use postern_core::envelope::{Purpose, Signer};
use postern_core::grant::{PortSpec, Source, checked_list};
use postern_core::ledger::Ledger;
use postern_core::mode::Mode;
use postern_core::policy::Policy;
use postern_core::refusal::{Reason, Refusal};
use postern_core::text;
use postern_core::time::{Now, Seconds};
use serde_json::json;

use crate::commands::run::Failure;
use crate::config::lints::can_sign;
use crate::engine::{ExplainQuery, Explanation, Reader, Rules, Seen, explain};

/// Who asks for what.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// The requester's name, as in the trust file.
    #[arg(long)]
    pub principal: String,
    /// For example 22/tcp, or the name of a `[[port]]`; may be given several times.
    #[arg(long = "port", required = true)]
    pub ports: Vec<String>,
    /// A prefix of source addresses; may be given several times.
    #[arg(long = "source", required = true)]
    pub sources: Vec<Source>,
    /// How long, for example 90m; without this option as long as the ports allow.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Seconds>,
    /// When the grant starts, for example 2026-11-21T18:00:00Z; without this option at once.
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<Timestamp>,
    /// The reason that the request gives.
    #[arg(long, default_value = "")]
    pub justification: String,
    /// A person who approves the request; may be given several times.
    #[arg(long = "approved-by", value_name = "PRINCIPAL")]
    pub approvers: Vec<String>,
}

fn duration(text: &str) -> Result<Seconds, String> {
    let wrong = || format!("'{text}' is not a duration in whole seconds, for example 90m");
    text::seconds(text).map(Seconds).ok_or_else(wrong)
}

/// Explains `question` under `rules` as if no grant were live. Returns the explanation, and the question in words.
///
/// # Errors
/// [`Failure::Usage`]: the policy does not know a port, or a source is given twice.
pub fn answer(question: &Question, rules: &Rules, now: &Now) -> Result<(Explanation, String), Failure> {
    let (policy, trust, at) = (&rules.policy, &rules.trust, now.wall.as_second());
    let query = query(question, policy).map_err(Failure::Usage)?;
    let (approvers, others): (Vec<_>, Vec<_>) =
        question.approvers.iter().cloned().partition(|name| can_sign(trust, name, Purpose::Approve, at));
    let signer = |principal| Signer { principal, fingerprint: String::new(), certificate: None };
    let approvers: Vec<_> = approvers.into_iter().map(signer).collect();
    // The host checks the signature before the policy.
    let unsigned = (!can_sign(trust, &query.principal, Purpose::Request, at)).then(|| {
        let detail = format!("no valid line of the trust file lets {} sign requests", query.principal);
        Refusal::new(Reason::RoleNotTrusted, detail).at("trust_file")
    });
    let seen = Seen {
        policy,
        ledger: &Ledger::default(),
        grants: Vec::new(),
        denied: Vec::new(),
        approvers: &approvers,
        unsigned,
        now,
        observes: policy.mode == Mode::Observe,
    };
    let mut explanation = explain(&query, &Reader::Root, seen);
    let ignored = others.iter().map(|name| format!("No valid line of the trust file lets {name} approve requests."));
    explanation.findings.extend(ignored);
    let capped = query.ports.iter().filter_map(|port| policy.rule(*port)).find(|(_, rule)| rule.max_grants.is_some());
    explanation.findings.extend(capped.map(|(_, rule)| {
        format!("max_grants of {} was not checked: only a running posternd knows the live grants.", rule.port)
    }));
    explanation.findings.push("This answer is from the files alone. No running posternd was asked.".to_owned());
    Ok((explanation, described(question, &query)))
}

/// Whether such a request is granted without further approvals.
#[must_use]
pub fn is_allowed(explanation: &Explanation) -> bool {
    explanation.refusal.is_none() && explanation.missing.is_none()
}

/// The answer as JSON.
#[must_use]
pub fn json(explanation: &Explanation, asked: &str, policy: &Policy) -> serde_json::Value {
    let Explanation { refusal, missing, findings, .. } = explanation;
    let reason = refusal.as_ref().or_else(|| missing.as_ref().map(|missing| &missing.refusal));
    let reason = reason.map(|why| json!({ "reason": why.reason.code(), "rule": why.rule, "sentence": why.sentence() }));
    json!({
        "allowed": is_allowed(explanation),
        "missing_approvals": missing.as_ref().map_or(0, |missing| missing.count),
        "waits": policy.pending_ttl.filter(|_| missing.is_some()),
        "refusal": reason,
        "findings": findings,
        "asked": asked,
    })
}

/// The answer as text.
#[must_use]
pub fn text(explanation: &Explanation, asked: &str) -> String {
    let Explanation { refusal, missing, findings, .. } = explanation;
    let reason = refusal.as_ref().or_else(|| missing.as_ref().map(|missing| &missing.refusal));
    let reason = reason.map(|why| format!("{} ({}): {}", why.reason.code(), why.rule, why.sentence()));
    let lines = [asked].into_iter().chain(reason.as_deref()).chain(findings.iter().map(String::as_str));
    lines.collect::<Vec<_>>().join("\n")
}

fn query(question: &Question, policy: &Policy) -> Result<ExplainQuery, String> {
    let ports = checked_list(ports(&question.ports, policy)?, "port").map_err(|refusal| refusal.sentence())?;
    let sources = checked_list(question.sources.clone(), "source").map_err(|refusal| refusal.sentence())?;
    Ok(ExplainQuery {
        principal: question.principal.clone(),
        ports,
        sources,
        duration: question.duration,
        justification: question.justification.clone(),
        not_before: question.not_before,
        supersedes: None,
    })
}

/// The ports that the texts mean under this policy, each once.
fn ports(texts: &[String], policy: &Policy) -> Result<Vec<PortSpec>, String> {
    let mut found = Vec::new();
    for text in texts {
        let meant = policy.meant(text);
        if meant.is_empty() {
            return Err(format!("'{text}' is neither a port like 22/tcp nor the name of a [[port]] or of a service"));
        }
        meant.into_iter().for_each(|port| {
            if !found.contains(&port) {
                found.push(port);
            }
        });
    }
    Ok(found)
}

fn described(question: &Question, query: &ExplainQuery) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let ports = list(query.ports.iter().map(ToString::to_string).collect());
    let sources = list(query.sources.iter().map(ToString::to_string).collect());
    let duration = query.duration.map(|duration| format!(" for {duration}")).unwrap_or_default();
    let start = query.not_before.map(|time| format!(", not before {time}")).unwrap_or_default();
    let approved = if question.approvers.is_empty() {
        String::new()
    } else {
        format!(", approved by {}", question.approvers.join(", "))
    };
    format!("{} requests {ports} from {sources}{duration}{start}{approved}", query.principal)
}
