//! `postern knocks`: who knocked in vain lately.

use postern_proto::v1::ListKnocksRequest;

use super::{Env, Reading};
use crate::{failure::Result, target::Target, view};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let found = at.ask(at.host().list_knocks(ListKnocksRequest { read: at.read.clone() })).await?;
    if env.console.json {
        return env.console.out_json(&found);
    }
    if found.knocks.is_empty() {
        return env.console.out("nobody knocked in vain lately");
    }
    env.console.out(view::knocks(&found.knocks).join("\n"))
}
