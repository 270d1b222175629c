//! `postern show`: one grant with everything that happened to it.

use postern_proto::v1::GetGrantRequest;

use super::{Env, Reading, grant_of};
use crate::{args::Show, failure::Result, view};

pub(super) async fn run(env: &Env, args: Show) -> Result<()> {
    let Show { host, grant_id } = args;
    let at = Reading::open(env, host).await?;
    let call = GetGrantRequest { read: at.read.clone(), id: grant_id.to_string() };
    let found = at.ask(at.session.access().get_grant(call)).await?;
    if env.console.json {
        return env.console.out_json(&found);
    }
    env.console.out(view::history(&grant_of(found.grant)?).join("\n"))
}
