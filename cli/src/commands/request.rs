//! `postern request`: asks for ports to be opened.

use std::sync::Arc;

use postern_proto::v1::{Grant, RequestAccessRequest, RequestAccessResponse};

use super::{
    Env, grant_of, narrow, port_numbers, signed_by,
    sources::{self, Ways, reach},
    wait, wish,
};
use crate::{
    args::Request,
    failure::{Failure, Kind, Result},
    keys::Signer,
    payload::{self, Purpose, Wish},
    session::{Reach, Session, limited},
    text, view,
};

pub(super) async fn run(env: &Env, args: Request) -> Result<()> {
    let Request { host, what, wait } = args;
    // Finds mistakes on the command line before any call.
    let from = what.from.clone();
    let mut wish = wish(what, Vec::new())?;
    let purposes = [Purpose::Request, Purpose::Read];
    let signer = env.signer(Some(&host), &purposes[..if wait { 2 } else { 1 }]).await?;
    let mut session = env.plan(host)?.about(&wish.ports).open(reach(&from)).await?;
    wish.ports = port_numbers(env, &session)?;
    let sources = sources::to_sign(env, &from, &session).await?;
    wish.source.clone_from(&sources.prefixes);
    tell(env, &session, &wish.source, reach(&from));
    let sent = sign_and_send(env, &mut session, &signer, wish.clone()).await;
    let sent = match sent {
        Err(failure) if narrow::may_help(&failure, &sources.of_my_ip) => {
            wish.source = narrow::by_the_hosts_answer(env, &mut session, &signer, (&wish, &sources), failure).await?;
            sign_and_send(env, &mut session, &signer, wish).await
        }
        sent => sent,
    };
    settled(env, &mut session, &signer, (sent?, Some(sources.ways)), wait).await
}

/// Signs, sends and prints the outcome; with `wait` after the request is settled.
pub(super) async fn send(env: &Env, session: &mut Session, signer: &Arc<Signer>, wish: Wish, wait: bool) -> Result<()> {
    let grant = sign_and_send(env, session, signer, wish).await?;
    settled(env, session, signer, (grant, None), wait).await
}

async fn sign_and_send(env: &Env, session: &mut Session, signer: &Arc<Signer>, wish: Wish) -> Result<Grant> {
    let mut id = String::new();
    let build = |binding| {
        let request = payload::access_request(wish.clone(), binding);
        id.clone_from(&request.id);
        payload::to_json(&request)
    };
    let message = env.seal(session, signer, Purpose::Request, build).await?;
    let call = RequestAccessRequest { message: Some(message) };
    let response = limited(session.access().request_access(call), &session.address).await;
    let response =
        response.map_err(signed_by(Some(signer))).map_err(|failure| perhaps_open(failure, &session.address, &id))?;
    grant_of(response.grant)
}

/// Prints the outcome of an accepted request. Only now the client remembers the dialled addresses.
async fn settled(
    env: &Env,
    session: &mut Session,
    signer: &Arc<Signer>,
    (mut grant, ways): (Grant, Option<Ways>),
    wait: bool,
) -> Result<()> {
    if let Some(ways) = ways.filter(|_| view::lives(&grant)) {
        ways.remember(env.console);
    }
    if wait && matches!(view::state(&grant), "pending" | "scheduled") {
        env.console.note(view::outcome(&grant, &session.address));
        grant = wait::until_settled(env, session, signer, grant).await?;
    }
    if env.console.json {
        env.console.out_json(&RequestAccessResponse { grant: Some(grant.clone()) })?;
    } else if view::lives(&grant) {
        env.console.out(view::outcome(&grant, &session.address))?;
    }
    if view::lives(&grant) { Ok(()) } else { Err(not_opened(&grant, &session.address)) }
}

fn not_opened(grant: &Grant, address: &str) -> Failure {
    let failure = Failure::new(Kind::Refused, format!("it was not opened: {}", view::ended(grant)));
    failure.next(format!("postern show {address} {} tells the whole story", text::clean(&grant.id)))
}

/// Shows the sources before the client signs.
fn tell(env: &Env, session: &Session, source: &[String], reach: Reach) {
    // The host as typed: a host may claim any name.
    let (host, id) = (&session.address, &session.said().host_id);
    match reach {
        Reach::All => env.console.note(format!("{host} (host {id}) sees you as {}", source.join(", "))),
        Reach::Any => env.console.note(format!("{host} (host {id}), for {}", source.join(", "))),
    }
    if reach == Reach::All {
        for silent in &session.silent {
            env.console.note(format!("  not included: the address you use towards {}", text::clean(silent)));
        }
    }
}

/// If the answer is lost, the grant may still exist.
fn perhaps_open(failure: Failure, address: &str, id: &str) -> Failure {
    if failure.kind != Kind::Unreachable {
        return failure;
    }
    failure.next(format!(
        "the request may have arrived: if `postern list {address}` shows grant {id}, it is there; else try again"
    ))
}
