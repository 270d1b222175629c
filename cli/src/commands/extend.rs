//! `postern extend`: the same ports and sources, a later end.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use postern_proto::v1::{GetGrantRequest, Grant, GrantState};

use super::{Env, Reading, grant_of, lifetime, own, request};
use crate::{
    args::Extend,
    failure::{Failure, Kind, Result},
    payload::{Lifetime, Purpose, Wish},
    text, view,
};

pub(super) async fn run(env: &Env, args: Extend) -> Result<()> {
    let Extend { host, grant_id, duration, until, reason, wait } = args;
    let lifetime = lifetime(duration, until.as_deref())?;
    let signer = env.signer(Some(&host), &[Purpose::Read, Purpose::Request]).await?;
    let mut at = Reading::with(env, host, Some(Arc::clone(&signer))).await?;
    let old = match grant_id {
        Some(id) => {
            let call = GetGrantRequest { read: at.read.clone(), id: id.to_string() };
            grant_of(at.ask(at.session.access().get_grant(call)).await?.grant)?
        }
        None => own::only(&at, &[GrantState::Active], "extend").await?,
    };
    check(&old, lifetime, &at)?;
    env.console.note(format!(
        "extends {} for {}, which ends {}",
        text::clean(&old.ports.join(", ")),
        text::clean(&old.source.join(", ")),
        old.expires.as_ref().map_or_else(|| "?".to_owned(), text::local),
    ));
    let wish = Wish {
        ports: old.ports,
        source: old.source,
        lifetime,
        not_before: None,
        supersedes: Some(old.id),
        justification: reason.unwrap_or(old.justification),
        ticket: old.ticket,
    };
    // The grant already has these ports and sources, so there is no question, and no new connection to remember.
    request::send(env, &mut at.session, &signer, wish, wait).await
}

/// Reports a certain refusal before the user has to touch a key.
fn check(old: &Grant, lifetime: Lifetime, at: &Reading) -> Result<()> {
    let host = &at.session.address;
    if view::state(old) != "active" {
        let failure =
            Failure::new(Kind::Refused, format!("the grant cannot be extended: the grant is {}", view::ended(old)));
        return Err(failure.next("make a new request with postern request"));
    }
    let remaining = view::remaining(old);
    let wanted = match lifetime {
        Lifetime::For(duration) => duration,
        Lifetime::Until(end) => Duration::try_from(end.duration_since(host_now(at))).unwrap_or_default(),
    };
    if wanted > remaining {
        return Ok(());
    }
    let failure = Failure::new(
        Kind::Refused,
        format!("that would not be longer: it is open for another {} as it is", text::left(remaining)),
    );
    Err(failure.next(format!("ask for more, or end it early with postern give-back {host} {}", text::clean(&old.id))))
}

/// The host judges the end by its own clock.
fn host_now(at: &Reading) -> Timestamp {
    at.session.said().host_time
}
