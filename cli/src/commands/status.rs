//! `postern status`: what the host protects and how well.

use postern_proto::v1::GetStatusRequest;

use super::{Env, Reading};
use crate::{
    failure::{Failure, Kind, Result},
    target::Target,
    text::clean,
    view,
};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let status = at.ask(at.host().get_status(GetStatusRequest { read: at.read.clone() })).await?;
    if env.console.json {
        env.console.out_json(&status)?;
    } else {
        env.console.out(view::status(&status).join("\n"))?;
    }
    let codes: Vec<_> = status.conditions.iter().map(|condition| clean(&condition.code)).collect();
    if codes.is_empty() {
        return Ok(());
    }
    let why = format!("not all is well on this host: {}", codes.join(", "));
    Err(Failure::new(Kind::Degraded, why).next("each condition names what to do; docs/conditions.md lists the codes"))
}
