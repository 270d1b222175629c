//! Leaves out sources that the host would refuse, but never typed ones. The host's statement shows which sources a port's rules admit
//! ([`crate::session::Session::not_admitted`]). It reveals the sources of a role only to a signer.

use std::sync::Arc;

use postern_proto::v1::{ExplainRequest, ExplainResponse, SignedMessage};

use super::{Env, sources::Sources};
use crate::{
    failure::{Failure, Result},
    keys::Signer,
    payload::{Lifetime, Wish, wire_time},
    session::{Session, limited},
    text,
};

/// Whether the host refused because of sources, and saw several.
pub(super) fn may_help(failure: &Failure, of_my_ip: &[String]) -> bool {
    let reason = failure.reason.as_deref().unwrap_or_default();
    of_my_ip.len() > 1 && is_about_sources(reason, failure.rule.as_deref().unwrap_or_default())
}

pub(super) fn is_about_sources(reason: &str, rule: &str) -> bool {
    let of_role = reason == "NOT_PERMITTED" && rule.starts_with("role[") && rule.ends_with(".sources");
    reason == "SOURCE_NOT_ALLOWED" || of_role
}

/// Asks with a signed read, and returns the sources of `wish` that the host admits. Returns the error `refused` if that is none or all.
pub(super) async fn by_the_hosts_answer(
    env: &Env,
    session: &mut Session,
    signer: &Arc<Signer>,
    (wish, sources): (&Wish, &Sources),
    refused: Failure,
) -> Result<Vec<String>> {
    let read = env.read(session, Some(signer)).await?;
    let question = question(wish, read);
    let kept = which(session, &question, &sources.of_my_ip).await?;
    let out: Vec<_> = sources.of_my_ip.iter().filter(|source| !kept.contains(source)).cloned().collect();
    if out.is_empty() || (kept.is_empty() && out.len() == wish.source.len()) {
        return Err(refused);
    }
    say(env, &out, refused.rule.as_deref().unwrap_or_default());
    Ok(wish.source.iter().filter(|source| !out.contains(source)).cloned().collect())
}

/// Those of `sources` that are not the reason of a refusal.
pub(super) async fn which(session: &Session, question: &ExplainRequest, sources: &[String]) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for source in sources {
        let call = ExplainRequest { source: vec![source.clone()], ..question.clone() };
        let answer = limited(session.access().explain(call), &session.address).await?;
        if !refuses_sources(&answer) {
            kept.push(source.clone());
        }
    }
    Ok(kept)
}

pub(super) fn refuses_sources(answer: &ExplainResponse) -> bool {
    answer.refusal.as_ref().is_some_and(|refusal| is_about_sources(&refusal.reason, &refusal.rule))
}

pub(super) fn say(env: &Env, out: &[String], rule: &str) {
    let rule = text::clean(rule);
    env.console.note(format!("  not included: {}, for which the host does not let you ask ({rule})", out.join(", ")));
}

fn question(wish: &Wish, read: Option<SignedMessage>) -> ExplainRequest {
    let duration = match wish.lifetime {
        Lifetime::For(duration) => Some(duration.into()),
        Lifetime::Until(_) => None,
    };
    ExplainRequest {
        read,
        ports: wish.ports.clone(),
        source: Vec::new(),
        duration,
        justification: wish.justification.clone(),
        principal: String::new(),
        not_before: wish.not_before.map(wire_time),
        supersedes: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn only_refusals_because_of_sources_are_helped() {
        let two = ["10.0.0.2/32".to_owned(), "2001:db8::2/128".to_owned()];
        for (reason, rule, helped) in [
            ("SOURCE_NOT_ALLOWED", "port[0].allowed_sources", true),
            ("NOT_PERMITTED", "role[2].sources", true),
            ("NOT_PERMITTED", "role[2].ports", false),
            ("NOT_PERMITTED", "role", false),
            ("DURATION_TOO_LONG", "role[2].sources", false),
        ] {
            let mut failure = Failure::new(Kind::Refused, "no");
            (failure.reason, failure.rule) = (Some(reason.to_owned()), Some(rule.to_owned()));
            assert_eq!(may_help(&failure, &two), helped, "{reason} {rule}");
            assert!(!may_help(&failure, &two[..1]), "one source has nothing to leave out");
        }
    }
}
