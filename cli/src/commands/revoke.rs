//! `postern revoke`: ends a grant.

use postern_proto::v1::RevokeAccessRequest;

use super::{Env, signed_by};
use crate::{
    args::Revoke,
    failure::{Failure, Kind, Result},
    payload::{self, Purpose},
    session::{Reach, limited},
    view,
};

pub(super) async fn run(env: &Env, args: Revoke) -> Result<()> {
    let Revoke { host, grant_id, reason } = args;
    let signer = env.signer().await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    let build = |binding| payload::to_json(&payload::revoke_request(grant_id.to_string(), reason, binding));
    let message = env.seal(&mut session, &signer, Purpose::Revoke, build).await?;
    let call = RevokeAccessRequest { message: Some(message) };
    let response = limited(session.access().revoke_access(call), &session.address).await;
    let response = response.map_err(signed_by(Some(&signer)))?;
    if env.console.json {
        return env.console.out_json(&response);
    }
    let grant = response.grant.ok_or_else(|| Failure::new(Kind::HostFailed, "the host's answer has no grant"))?;
    env.console.out(view::revoked(&grant))
}
