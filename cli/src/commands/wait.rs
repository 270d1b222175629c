//! Waits until a request is settled, also while the host is away for a short time. The end of the wait does not change the request.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use postern_proto::v1::{GetGrantRequest, Grant, WatchGrantsRequest, WatchGrantsResponse};
use tokio::time::{sleep, timeout};

use super::{Env, grant_of, signed_by};
use crate::{
    console,
    failure::{Failure, Kind, Result},
    keys::Signer,
    session::{CALL_LIMIT, Session, limited},
    text, view,
};

/// The client waits this long for a host that went away, for example to restart posternd.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `grant` is open or has ended. Fails if the host stays away or refuses; the request stays as it is.
pub(super) async fn until_settled(
    env: &Env,
    session: &mut Session,
    signer: &Arc<Signer>,
    grant: Grant,
) -> Result<Grant> {
    let (address, id) = (session.address.clone(), text::clean(&grant.id));
    let leave = format!(
        "the request {id} stays as it is; see it with: postern show {address} {id}\n\
         take it back with: postern give-back {address} {id}"
    );
    console::at_signal(env.console, &leave);
    let mut last = grant;
    let mut away: Option<Instant> = None;
    loop {
        let failure = match watch(env, session, signer, &mut last, &mut away).await {
            Ok(()) => {
                console::at_signal(env.console, "");
                return Ok(last);
            }
            Err(failure) if failure.kind == Kind::Unreachable => failure,
            // The stream worked until its signed read expired. The client signs another.
            Err(failure) if failure.is_expired() && away.is_none() => {
                sleep(Duration::from_secs(1)).await;
                // Set until the next stream starts, so that the client gives up if the host refuses the new read too.
                away = Some(Instant::now());
                continue;
            }
            Err(failure) => return Err(signed_by(Some(signer))(failure).next(leave)),
        };
        if away.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(failure.next(leave));
        }
        env.console.note(format!("{failure}; trying again"));
        sleep(Duration::from_secs(2)).await;
    }
}

async fn watch(
    env: &Env,
    session: &mut Session,
    signer: &Arc<Signer>,
    last: &mut Grant,
    away: &mut Option<Instant>,
) -> Result<()> {
    session.refresh_older_than(Duration::ZERO).await?;
    let read = env.read(session, Some(signer)).await?;
    let address = session.address.clone();
    let late = |_| Failure::new(Kind::Unreachable, "the host does not answer");
    let call = WatchGrantsRequest { read: read.clone() };
    let stream = timeout(CALL_LIMIT, session.access().watch_grants(call)).await.map_err(late)?;
    let mut stream = stream.map_err(|status| Failure::from_status(&status, &address))?.into_inner();
    *away = None;
    // The stream does not have changes from before its start.
    let call = GetGrantRequest { read, id: last.id.clone() };
    let now = grant_of(limited(session.access().get_grant(call), &address).await?.grant)?;
    if take(env, last, now) {
        return Ok(());
    }
    loop {
        match stream.message().await {
            Ok(Some(WatchGrantsResponse { grant: Some(grant), .. })) if grant.id == last.id => {
                if take(env, last, grant) {
                    return Ok(());
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(Failure::new(Kind::Unreachable, "the host ended the watch")),
            Err(status) => return Err(Failure::from_status(&status, &address)),
        }
    }
}

/// Stores the current state; true if the grant is settled.
fn take(env: &Env, last: &mut Grant, now: Grant) -> bool {
    let settled = !matches!(view::state(&now), "pending" | "scheduled");
    let news = now.state != last.state || now.approvers != last.approvers;
    *last = now;
    if news && !settled {
        let by = if last.approvers.is_empty() { String::new() } else { last.approvers.join(", ") };
        let by = if by.is_empty() { by } else { format!(" (approved by {})", text::clean(&by)) };
        env.console.note(format!("{}: {}{by}", view::state(last), view::left_or_end(last)));
    }
    settled
}
