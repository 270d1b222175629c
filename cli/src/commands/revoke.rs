//! `postern revoke`, `give-back` and `decline`: the same signed message for three purposes.

use postern_proto::v1::{GrantState, RevokeAccessRequest, RevokeAccessResponse};

use super::{Env, Reading, grant_of, own, signed_by};
use crate::{
    args::{Decline, GiveBack, Revoke},
    failure::{Failure, Result},
    keys::Signer,
    payload::{self, Purpose},
    session::{Reach, Session, limited},
    view,
};

pub(super) async fn run(env: &Env, args: Revoke) -> Result<()> {
    let Revoke { host, grant_id, reason } = args;
    let signer = env.signer(Some(&host), &[Purpose::Revoke]).await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    let ended = end(env, &mut session, &signer, grant_id.to_string(), reason).await?;
    tell(env, ended)
}

pub(super) async fn decline(env: &Env, args: Decline) -> Result<()> {
    let Decline { host, grant_id, reason } = args;
    if reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty. Give a reason; the requester reads it"));
    }
    let signer = env.signer(Some(&host), &[Purpose::Revoke]).await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    let ended = end(env, &mut session, &signer, grant_id.to_string(), reason).await?;
    tell(env, ended)
}

pub(super) async fn give_back(env: &Env, args: GiveBack) -> Result<()> {
    let GiveBack { host, grant_id, reason } = args;
    // The same user requested the grant, so a key that may request comes first.
    let purposes = [Purpose::Revoke, Purpose::Request, Purpose::Read];
    let signer = env.signer(Some(&host), &purposes[..if grant_id.is_none() { 3 } else { 2 }]).await?;
    let (mut session, id) = match grant_id {
        Some(id) => (env.plan(host)?.open(Reach::Any).await?, id.to_string()),
        None => {
            let at = Reading::with(env, host, Some(signer.clone())).await?;
            let states = [GrantState::Active, GrantState::Scheduled, GrantState::Pending];
            let grant = own::only(&at, &states, "give-back").await?;
            (at.session, grant.id)
        }
    };
    let ended = end(env, &mut session, &signer, id, reason).await?;
    tell(env, ended)
}

async fn end(
    env: &Env,
    session: &mut Session,
    signer: &std::sync::Arc<Signer>,
    id: String,
    reason: String,
) -> Result<RevokeAccessResponse> {
    let build = |binding| payload::to_json(&payload::revoke_request(id.clone(), reason.clone(), binding));
    let message = env.seal(session, signer, Purpose::Revoke, build).await?;
    let call = RevokeAccessRequest { message: Some(message) };
    limited(session.access().revoke_access(call), &session.address).await.map_err(signed_by(Some(signer)))
}

fn tell(env: &Env, ended: RevokeAccessResponse) -> Result<()> {
    if env.console.json {
        return env.console.out_json(&ended);
    }
    env.console.out(view::revoked(&grant_of(ended.grant)?))
}
