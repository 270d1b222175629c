//! `postern pending`: which requests wait for approval.

use postern_proto::v1::GrantState;

use super::{Env, Reading, list};
use crate::{failure::Result, target::Target, view};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let mut found = list::every(&at, false, &[GrantState::Pending]).await?;
    // The request that lapses first comes first.
    found.grants.sort_by_key(|grant| grant.lapses.map(|time| time.seconds));
    if env.console.json {
        return env.console.out_json(&found);
    }
    if found.grants.is_empty() {
        return env.console.out("nothing waits for approval");
    }
    env.console.out(view::pending(&found.grants).join("\n"))?;
    env.console.note(format!("approve with: postern approve {} REQUEST", at.session.address));
    Ok(())
}
