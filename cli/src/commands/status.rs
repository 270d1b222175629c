//! `postern status`: what the host protects and how well.

use postern_proto::v1::{GetStatusRequest, host_service_client::HostServiceClient};

use super::{Env, signed_by};
use crate::{
    failure::Result,
    session::{Reach, limited},
    target::Target,
    view,
};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let signer = env.reader(&host).await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    let read = env.read(&mut session, signer.as_ref()).await?;
    let mut client = HostServiceClient::new(session.link().channel.clone());
    let status = limited(client.get_status(GetStatusRequest { read }), &session.address).await;
    let status = status.map_err(signed_by(signer.as_ref()))?;
    if env.console.json {
        return env.console.out_json(&status);
    }
    env.console.out(view::status(&status).join("\n"))
}
