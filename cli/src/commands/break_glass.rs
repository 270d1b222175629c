//! `postern break-glass`: root on the host opens ports without anybody's signature.

use postern_proto::v1::{BreakGlassRequest, host_service_client::HostServiceClient};

use super::{Env, grant_of, port_numbers, unique};
use crate::{
    args::BreakGlass,
    failure::{Failure, Result},
    session::{Reach, limited},
    target::Target,
    view,
};

pub(super) async fn run(env: &Env, args: BreakGlass) -> Result<()> {
    let BreakGlass { host, ports, from, duration, reason } = args;
    if !matches!(host, Target::Unix(_)) {
        return Err(Failure::usage(format!(
            "{host} is not a Unix socket; only root on the host itself breaks the glass"
        ))
        .next("log in on the host's console and run it there"));
    }
    if reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty. Give a reason; it is written to the journal"));
    }
    let session = env.plan(host)?.about(&ports).open(Reach::Any).await?;
    let ports = port_numbers(env, &session)?;
    let source = unique(from.iter().map(ToString::to_string));
    let call = BreakGlassRequest { ports, source, duration: Some(duration.into()), reason };
    let mut client = HostServiceClient::new(session.link().channel.clone());
    let opened = limited(client.break_glass(call), &session.address).await?;
    if env.console.json {
        return env.console.out_json(&opened);
    }
    env.console.out(view::granted(&grant_of(opened.grant)?, &session.address))?;
    env.console.note("this stands in the journal and in the system log, under the name root");
    Ok(())
}
