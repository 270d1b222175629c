//! `postern explain`: why a connection fails, why a request is refused, or what a reason code means.

use postern_proto::v1::{ExplainRequest, ExplainResponse};

use super::{
    Env, future, lifetime, narrow, port_numbers, signed_by,
    sources::{self, reach},
    unique,
};
use crate::{
    advice::{self, Advice},
    args::Explain,
    failure::{Failure, Kind, Result},
    payload::{Lifetime, wire_time},
    session::{Reach, Session, limited},
    target::Target,
    view,
};

pub(super) async fn run(env: &Env, args: Explain) -> Result<()> {
    if args.what.ports.is_empty() {
        return code(env, &args.host);
    }
    let Explain { host, what, principal } = args;
    let host: Target = host.parse().map_err(Failure::usage)?;
    let duration = match (what.duration, &what.until) {
        (None, None) => None,
        _ => Some(span(lifetime(what.duration, what.until.as_deref())?)?),
    };
    let not_before = what.not_before.as_deref().map(|text| future("--not-before", text)).transpose()?;
    let signer = env.reader(&host).await?;
    let mut session = env.plan(host)?.about(&unique(what.ports)).open(reach(&what.from)).await?;
    let ports = port_numbers(env, &session)?;
    let (source, of_my_ip) = match sources::to_ask_about(env, &what.from, &session) {
        // Without a source address the host can still judge the rest.
        Err(_) if what.from.is_empty() => (Vec::new(), Vec::new()),
        found => found?,
    };
    let read = env.read(&mut session, signer.as_ref()).await?;
    let call = ExplainRequest {
        read,
        ports,
        source,
        duration: duration.map(Into::into),
        justification: what.reason,
        principal,
        not_before: not_before.map(wire_time),
        supersedes: String::new(),
    };
    let answer = limited(session.access().explain(call.clone()), &session.address).await;
    let answer = answer.map_err(signed_by(signer.as_ref()))?;
    let answer = narrowed(env, &session, (call, answer), &of_my_ip).await?;
    if env.console.json {
        return env.console.out_json(&answer);
    }
    env.console.out(view::explained(&answer, &session.address).join("\n"))?;
    if reach(&what.from) == Reach::All {
        session.silent.iter().for_each(|silent| env.console.note(format!("no answer from {silent}")));
    }
    Ok(())
}

/// Asks again without the sources that a request would leave out, if that changes the answer.
async fn narrowed(
    env: &Env,
    session: &Session,
    (call, answer): (ExplainRequest, ExplainResponse),
    of_my_ip: &[String],
) -> Result<ExplainResponse> {
    if of_my_ip.len() < 2 || !narrow::refuses_sources(&answer) {
        return Ok(answer);
    }
    let kept = narrow::which(session, &call, of_my_ip).await?;
    let out: Vec<_> = of_my_ip.iter().filter(|source| !kept.contains(source)).cloned().collect();
    let source: Vec<_> = call.source.iter().filter(|source| !out.contains(source)).cloned().collect();
    if out.is_empty() || source.is_empty() {
        return Ok(answer);
    }
    narrow::say(env, &out, answer.refusal.as_ref().map(|refusal| &refusal.rule[..]).unwrap_or_default());
    limited(session.access().explain(ExplainRequest { source, ..call }), &session.address).await
}

/// The API judges time spans only.
fn span(lifetime: Lifetime) -> Result<std::time::Duration> {
    match lifetime {
        Lifetime::For(duration) => Ok(duration),
        Lifetime::Until(time) => std::time::Duration::try_from(time.duration_since(jiff::Timestamp::now()))
            .map_err(|_| Failure::usage("--until lies in the past")),
    }
}

fn code(env: &Env, text: &str) -> Result<()> {
    let Some(Advice { code, meaning, next, host_failure }) = advice::find(text) else {
        let failure =
            Failure::usage(format!("{text} is no reason code, and without a port there is nothing to explain"));
        return Err(failure.next("postern explain HOST --port ssh, or postern explain REASON_CODE"));
    };
    let next = next.replace("{host}", "HOST");
    if env.console.json {
        let kind = if *host_failure { Kind::HostFailed } else { Kind::Refused };
        return env.console.out_json(&serde_json::json!({
            "reason": code, "kind": kind.name(), "exitCode": kind.exit_code(), "message": meaning, "next": next,
        }));
    }
    env.console.out(format!("{code}: {meaning}\n  next: {next}"))
}
