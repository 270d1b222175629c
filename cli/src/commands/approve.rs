//! `postern approve`: signs the same bytes that the requester signed. The display comes from these bytes, but for the requester and key.

use postern_proto::v1::{AccessRequest, ApproveAccessRequest, GetGrantRequest, GetGrantResponse, SignedMessage};

use super::{Env, Reading, grant_of, signed_by};
use crate::{
    args::Approve,
    failure::{Failure, Kind, Result},
    payload::{self, Purpose},
    session::{Session, limited},
    text, view,
};

pub(super) async fn run(env: &Env, args: Approve) -> Result<()> {
    let Approve { host, grant_id, yes, audience } = args;
    if !yes && !env.console.can_ask() {
        return Err(Failure::usage("nobody is there to look at the request and say yes")
            .next("run it on a terminal, or look at it with postern pending and pass --yes"));
    }
    let signer = env.signer(Some(&host), &[Purpose::Read, Purpose::Approve]).await?;
    let at = Reading::with(env, host, Some(signer.clone())).await?;
    let id = grant_id.to_string();
    let call = GetGrantRequest { read: at.read.clone(), id: id.clone() };
    let found = at.ask(at.session.access().get_grant(call)).await?;
    let (request, payload) = examine(found.clone(), &id, &at.session)?;
    check_audience(&request, &audience, &at.session)?;
    let grant = grant_of(found.grant)?;
    env.console.note(format!(
        "{} asks {} (host {}):",
        text::clean(&grant.principal),
        at.session.address,
        at.session.said().host_id
    ));
    for line in view::question(&request, &grant.principal, &grant.key_fingerprint) {
        env.console.note(line);
    }
    if !yes && !env.console.confirm("Approve this?".to_owned()).await? {
        return Err(Failure::new(Kind::Refused, "not approved; the request still waits")
            .next(format!("decline it with postern decline {} {id} --reason …", at.session.address)));
    }
    let mut session = at.session;
    let message = env.seal(&mut session, &signer, Purpose::Approve, |_| Ok(payload.clone())).await?;
    let call = ApproveAccessRequest { message: Some(message) };
    // The host may have closed the connection while a person was thinking.
    session.refresh().await?;
    let approved = limited(session.access().approve_access(call), &session.address).await;
    let approved = approved.map_err(signed_by(Some(&signer)))?;
    if env.console.json {
        return env.console.out_json(&approved);
    }
    let grant = grant_of(approved.grant)?;
    env.console.out(view::approved(&grant))
}

/// An approval counts on every host that the request names. So each entry must be a key that this host proved on this connection, its
/// stated id, or an entry of `--audience`. The host's names are no proof: any host can claim any name.
fn check_audience(request: &AccessRequest, written: &[String], session: &Session) -> Result<()> {
    let proved = session.proved()?;
    let is_own = |entry: &String| proved.contains(entry) || written.contains(entry);
    let address = &session.address;
    match request.audience.iter().find(|entry| !is_own(entry)) {
        None if request.audience.is_empty() => Err(Failure::new(Kind::Identity, "the request names no host")),
        None => Ok(()),
        Some(foreign) => {
            let foreign = text::clean(foreign);
            let message = format!(
                "the request is also for {foreign:?}, which {address} has not proved to be. Your approval would count there too. Nothing was signed"
            );
            Err(Failure::new(Kind::Identity, message).next(format!(
                "ask the requester for a request to {address} alone (postern request {address} …). Only if you know {foreign} and mean \
                 it as well: add --audience {foreign}"
            )))
        }
    }
}

/// The request and its exact bytes, if it is strict and has this id.
fn examine(found: GetGrantResponse, id: &str, session: &Session) -> Result<(AccessRequest, Vec<u8>)> {
    let Some(SignedMessage { payload, payload_type, .. }) = found.request else {
        let grant = grant_of(found.grant)?;
        let failure =
            Failure::new(Kind::Refused, format!("it does not wait for approval: it is {}", view::ended(&grant)));
        return Err(failure.next(format!("postern show {} {id} tells what happened", session.address)));
    };
    let wrong = |why: String| {
        Failure::new(Kind::Identity, format!("the host shows bytes that are not this request: {why}"))
            .next("sign nothing, and ask the host's administrator")
    };
    if payload_type != Purpose::Approve.payload_type() {
        return Err(wrong(format!("they are of type \"{}\"", text::clean(&payload_type))));
    }
    let request = payload::approvable(&payload, id).map_err(wrong)?;
    Ok((request, payload))
}
