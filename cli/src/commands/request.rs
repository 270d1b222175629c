//! `postern request`: opens ports.

use postern_proto::v1::RequestAccessRequest;

use super::{Env, reach, signed_by, sources, wish};
use crate::{
    args::Request,
    failure::{Failure, Kind, Result},
    payload::{self, Purpose},
    session::{Reach, Session, limited},
    text, view,
};

pub(super) async fn run(env: &Env, args: Request) -> Result<()> {
    let Request { host, what } = args;
    // Everything that can be wrong here is found before the host is asked.
    let from = what.from.clone();
    let mut wish = wish(what, Vec::new())?;
    let signer = env.signer().await?;
    let mut session = env.plan(host)?.open(reach(&from)).await?;
    wish.source = sources(&from, &session)?;
    tell(env, &session, &wish.source, reach(&from));

    let mut id = String::new();
    let build = |binding| {
        let request = payload::access_request(wish, binding);
        id.clone_from(&request.id);
        payload::to_json(&request)
    };
    let message = env.seal(&mut session, &signer, Purpose::Request, build).await?;
    let call = RequestAccessRequest { message: Some(message) };
    let response = limited(session.access().request_access(call), &session.address).await;
    let response =
        response.map_err(signed_by(Some(&signer))).map_err(|failure| perhaps_open(failure, &session.address, &id))?;
    if env.console.json {
        return env.console.out_json(&response);
    }
    let grant = response.grant.ok_or_else(|| Failure::new(Kind::HostFailed, "the host's answer has no grant"))?;
    env.console.out(view::granted(&grant, &session.address))
}

/// Shows what the host saw before it is signed.
fn tell(env: &Env, session: &Session, source: &[String], reach: Reach) {
    // Fingerprints of SSH host keys are audiences too, but no name that people know.
    let mut names = session.who().names.iter().filter(|name| !name.starts_with("SHA256:"));
    let host = names.next().map_or_else(|| session.address.clone(), |name| text::clean(name));
    match reach {
        Reach::All => {
            env.console.note(format!("{host} (host {}) sees you as {}", session.who().host_id, source.join(", ")))
        }
        Reach::Any => env.console.note(format!("{host} (host {}), for {}", session.who().host_id, source.join(", "))),
    }
    if reach == Reach::All {
        for silent in &session.silent {
            env.console.note(format!("  not included: the address you use towards {}", text::clean(silent)));
        }
    }
}

/// When the answer is lost on the way, the grant may exist all the same.
fn perhaps_open(failure: Failure, address: &str, id: &str) -> Failure {
    if failure.kind != Kind::Unreachable {
        return failure;
    }
    failure.next(format!(
        "the request may have arrived: if `postern list {address}` shows grant {id}, it is open; else try again"
    ))
}
