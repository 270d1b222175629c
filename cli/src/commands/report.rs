//! `postern report`: who asked for and used which port lately, and what was granted and never used.

use std::time::Duration;

use postern_proto::v1::GetReportRequest;

use super::{Env, Reading};
use crate::{
    args::Report,
    failure::{Failure, Kind, Result},
    view,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(env: &Env, args: Report) -> Result<()> {
    let Report { host, days } = args;
    let at = Reading::open(env, host).await?;
    let call = GetReportRequest { read: at.read.clone(), period: Some((DAY * days).into()) };
    let report = at.ask(at.host().get_report(call)).await?;
    if env.console.json {
        env.console.out_json(&report)?;
    } else {
        env.console.out(view::report(&report).join("\n"))?;
    }
    if report.chain_verified {
        return Ok(());
    }
    let failure = Failure::new(Kind::HostFailed, "the journal behind this report was changed or damaged");
    Err(failure.next(format!("postern audit {} names the line", at.session.address)))
}
