//! `posternd explain`: what the judge would say, from the files alone.
//!
//! Owns the question, and the answer for people and for programs. The judge is the one that real requests meet; grants that live,
//! which only the agent knows, are not counted.

use std::fmt;

use jiff::Timestamp;
use postern_core::envelope::{Purpose, Signer};
use postern_core::grant::{AccessRequest, End, Grant, Header, PortSpec, Source, checked_list};
use postern_core::policy::{Asking, Live, Policy};
use postern_core::refusal::{Reason, Refusal};
use postern_core::text;
use postern_core::time::{Now, Seconds};
use postern_core::trust::Trust;
use serde::Serialize;
use uuid::Uuid;

use crate::commands::run::Failure;
use crate::config::Config;
use crate::config::lints::can_sign;
use crate::engine::Rules;

/// Who asks for what.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// Who asks, as the trust file names them.
    #[arg(long)]
    pub principal: String,
    /// For example 22/tcp, or the name of a `[[port]]`; may be given several times.
    #[arg(long = "port", required = true)]
    pub ports: Vec<String>,
    /// A prefix that packets would come from; may be given several times.
    #[arg(long = "source", required = true)]
    pub sources: Vec<Source>,
    /// For how long, for example 90m; as long as the ports allow when left out.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Seconds>,
    /// From when on, for example 2026-11-21T18:00:00Z; at once when left out.
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<Timestamp>,
    /// The reason that the request would give.
    #[arg(long, default_value = "")]
    pub justification: String,
    /// Who would have approved it; may be given several times.
    #[arg(long = "approved-by", value_name = "PRINCIPAL")]
    pub approvers: Vec<String>,
}

fn duration(text: &str) -> Result<Seconds, String> {
    let wrong = || format!("'{text}' is not a duration in whole seconds, for example 90m");
    text::seconds(text).map(Seconds).ok_or_else(wrong)
}

/// What would become of the request.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Whether it would be granted as it is.
    pub allowed: bool,
    /// How many more would have to approve it first; the request waits for them where `waits` says so.
    pub missing_approvals: u32,
    /// For how many seconds it would wait for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Seconds>,
    /// Why it would be refused, or not granted yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Said>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// What was asked, in words.
    pub asked: String,
}

/// A refusal.
#[derive(Debug, Serialize)]
pub struct Said {
    /// Its stable code.
    pub reason: &'static str,
    /// The rule that refused.
    pub rule: String,
    /// For people.
    pub sentence: String,
}

impl From<Refusal> for Said {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason.code(), sentence: refusal.sentence(), rule: refusal.rule }
    }
}

/// A host on which nothing is granted.
struct Nothing;

impl Live for Nothing {
    fn count(&self, _: PortSpec, _: Option<Uuid>) -> usize {
        0
    }

    fn extendable(&self, id: Uuid) -> Result<&Grant, Refusal> {
        Err(Refusal::new(Reason::GrantNotFound, id).at("supersedes"))
    }
}

/// Asks the judge.
///
/// # Errors
/// [`Failure::Usage`] when the question makes no sense: a port that is none, the same source twice.
pub fn answer(question: &Question, config: &Config, rules: &Rules, now: &Now) -> Result<Answer, Failure> {
    let (policy, trust): (&Policy, &Trust) = (&rules.policy, &rules.trust);
    let request = request(question, policy).map_err(Failure::Usage)?;
    let at = now.wall.as_second();
    let mut notes = Vec::new();
    let approvers: Vec<Signer> = question
        .approvers
        .iter()
        .filter(|name| {
            let counts = can_sign(trust, name, Purpose::Approve, at);
            if !counts {
                notes.push(format!("{name} does not count: no valid line of the trust file lets them approve"));
            }
            counts
        })
        .map(|name| Signer { principal: name.clone(), fingerprint: String::new(), certificate: None })
        .collect();
    let asking = Asking { principal: &question.principal, approvers: &approvers };
    let judged = policy.judge(asking, &request, &Nothing, now);
    let unsigned = (!can_sign(trust, &question.principal, Purpose::Request, at)).then(|| {
        let detail = format!("no valid line of the trust file lets {} sign requests", question.principal);
        Refusal::new(Reason::RoleNotTrusted, detail).at("trust_file")
    });
    let missing = judged.as_ref().ok().and_then(|judgement| judgement.missing.clone());
    let missing_approvals = missing.as_ref().map_or(0, |missing| missing.count);
    // As the host asks: the signature before the policy.
    let refusal = unsigned.or(judged.err()).or_else(|| missing.map(|missing| missing.refusal));
    let capped = request.ports.iter().filter_map(|port| policy.rule(*port)).find(|(_, rule)| rule.max_grants.is_some());
    notes.extend(
        capped.map(|(_, rule)| {
            format!("max_grants of {} is not looked at: only the agent knows how many live", rule.port)
        }),
    );
    notes.push(format!(
        "Answered from the files alone ({} for the signatures), not by a running agent.",
        config.trust_file.display()
    ));
    Ok(Answer {
        allowed: refusal.is_none(),
        missing_approvals,
        waits: policy.pending_ttl.filter(|_| missing_approvals > 0 && refusal.as_ref().is_some_and(waits)),
        refusal: refusal.map(Said::from),
        notes,
        asked: described(question, &request),
    })
}

fn waits(refusal: &Refusal) -> bool {
    refusal.reason == Reason::ApprovalsMissing
}

fn request(question: &Question, policy: &Policy) -> Result<AccessRequest, String> {
    let ports = checked_list(ports(&question.ports, policy)?, "port").map_err(|refusal| refusal.sentence())?;
    let sources = checked_list(question.sources.clone(), "source").map_err(|refusal| refusal.sentence())?;
    let most = ports.iter().filter_map(|port| policy.rule(*port)).map(|(_, rule)| rule.max_duration).min();
    let duration = question.duration.or(most).unwrap_or(policy.max_duration);
    Ok(AccessRequest {
        header: Header { id: Uuid::nil(), audience: Vec::new(), not_after: Timestamp::MAX, challenge: None },
        ports,
        sources,
        end: End::After(duration),
        not_before: question.not_before,
        supersedes: None,
        justification: question.justification.clone(),
        ticket: String::new(),
    })
}

/// The ports that the texts mean on the host with this policy, each once.
fn ports(texts: &[String], policy: &Policy) -> Result<Vec<PortSpec>, String> {
    let mut found = Vec::new();
    for text in texts {
        let meant = policy.meant(text);
        if meant.is_empty() {
            return Err(format!("'{text}' is neither a port as 22/tcp nor the name of a [[port]] or of a service"));
        }
        meant.into_iter().for_each(|port| {
            if !found.contains(&port) {
                found.push(port);
            }
        });
    }
    Ok(found)
}

fn described(question: &Question, request: &AccessRequest) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let ports = list(request.ports.iter().map(ToString::to_string).collect());
    let sources = list(request.sources.iter().map(ToString::to_string).collect());
    let End::After(duration) = request.end else { return String::new() };
    let start = request.not_before.map(|time| format!(", not before {time}")).unwrap_or_default();
    let approved = if question.approvers.is_empty() {
        String::new()
    } else {
        format!(", approved by {}", question.approvers.join(", "))
    };
    format!("{} for {ports} from {sources} for {duration}{start}{approved}", question.principal)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.asked)?;
        match (&self.refusal, self.waits) {
            (None, _) => writeln!(f, "would be granted.")?,
            (Some(said), Some(ttl)) => {
                writeln!(
                    f,
                    "would wait up to {ttl} for approvals: {} ({}, {})",
                    said.sentence, said.rule, said.reason
                )?;
            }
            (Some(said), None) => writeln!(f, "would be refused: {} ({}, {})", said.sentence, said.rule, said.reason)?,
        }
        f.write_str(&self.notes.join("\n"))
    }
}
