//! `postern enable`, `confirm` and `roll-back`: root on the host starts and ends a trial of enforcing.

use postern_proto::v1::{ConfirmRequest, EnableRequest, Mode, RollBackRequest, host_service_client::HostServiceClient};
use tonic::transport::Channel;

use super::Env;
use crate::{
    args::{Confirm, Enable, Own},
    failure::{Failure, Kind, Result},
    session::{Reach, Session, limited},
    target::Target,
    view,
};

pub(super) async fn enable(env: &Env, args: Enable) -> Result<()> {
    let Enable { own, confirm_within, only_while_running } = args;
    let (session, mut client) = open(env, own).await?;
    let call = EnableRequest { confirm_within: Some(confirm_within.into()), only_while_running };
    let answer = limited(client.enable(call), &session.address).await?;
    if env.console.json {
        return env.console.out_json(&answer);
    }
    env.console.out(view::mode(&of(answer.mode)?).join("\n"))?;
    env.console.note("now, from elsewhere: ask for access, open a new session, and run there: postern confirm");
    Ok(())
}

pub(super) async fn confirm(env: &Env, args: Confirm) -> Result<()> {
    let Confirm { own, without_proof } = args;
    let (session, mut client) = open(env, own).await?;
    let answer = limited(client.confirm(ConfirmRequest { without_proof }), &session.address).await?;
    if env.console.json {
        return env.console.out_json(&answer);
    }
    env.console.out(view::mode(&of(answer.mode)?).join("\n"))
}

pub(super) async fn roll_back(env: &Env, own: Own) -> Result<()> {
    let (session, mut client) = open(env, own).await?;
    let answer = limited(client.roll_back(RollBackRequest {}), &session.address).await?;
    if env.console.json {
        return env.console.out_json(&answer);
    }
    env.console.out(view::mode(&of(answer.mode)?).join("\n"))
}

async fn open(env: &Env, Own { host }: Own) -> Result<(Session, HostServiceClient<Channel>)> {
    if !matches!(host, Target::Unix(_)) {
        return Err(Failure::usage(format!("{host} is not a Unix socket; only root on the host itself may do this"))
            .next("log in on the host and run it there"));
    }
    let session = env.plan(host)?.open(Reach::Any).await?;
    let client = HostServiceClient::new(session.link().channel.clone());
    Ok((session, client))
}

fn of(mode: Option<Mode>) -> Result<Mode> {
    mode.ok_or_else(|| Failure::new(Kind::HostFailed, "the host did not say which mode it is in"))
}
