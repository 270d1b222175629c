//! `postern denied`: the denied attempts of the last minutes, by source.

use postern_proto::v1::ListDeniedRequest;

use super::{Env, Reading};
use crate::{failure::Result, target::Target, view};

pub(super) async fn run(env: &Env, host: Target) -> Result<()> {
    let at = Reading::open(env, host).await?;
    let found = at.ask(at.host().list_denied(ListDeniedRequest { read: at.read.clone() })).await?;
    if env.console.json {
        return env.console.out_json(&found);
    }
    if found.denied.is_empty() {
        return env.console.out("no denied attempts lately");
    }
    env.console.out(view::denied(&found.denied).join("\n"))
}
