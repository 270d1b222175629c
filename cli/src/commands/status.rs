//! `postern status`: what the host protects and how well.

use postern_proto::v1::GetStatusRequest;

use super::{Env, Reading};
use crate::{failure::Result, target::Target, view};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let status = at.ask(at.host().get_status(GetStatusRequest { read: at.read.clone() })).await?;
    if env.console.json {
        return env.console.out_json(&status);
    }
    env.console.out(view::status(&status).join("\n"))
}
