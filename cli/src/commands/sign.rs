//! `postern sign`: prints the message of a request, a revocation or a read.

use std::{path::Path, sync::Arc};

use postern_proto::v1::SignedMessage;
use serde_json::json;

use super::{
    Env, files, port_numbers,
    sources::{self, reach},
    told, wish,
};
use crate::{
    args::Sign,
    failure::{Failure, Result},
    keys::Signer,
    parse::From,
    payload::{self, Binding, Purpose, Wish},
    ports,
    target::Target,
};

/// The largest payload that a host reads.
const MOST_BYTES: u64 = 32 * 1024;

#[derive(Clone)]
enum Draft {
    Access(Wish),
    Revoke(String, String),
    Read,
}

impl Draft {
    const fn purpose(&self) -> Purpose {
        match self {
            Self::Access(_) => Purpose::Request,
            Self::Revoke(..) => Purpose::Revoke,
            Self::Read => Purpose::Read,
        }
    }

    fn bind(self, binding: Binding) -> Result<Vec<u8>> {
        match self {
            Self::Access(wish) => payload::to_json(&payload::access_request(wish, binding)),
            Self::Revoke(id, reason) => payload::to_json(&payload::revoke_request(id, reason, binding)),
            Self::Read => payload::to_json(&payload::read_request(binding)),
        }
    }
}

pub(super) async fn run(env: &Env, args: Sign) -> Result<()> {
    let Sign { host, what, revoke, read, payload: file, kind, audience } = args;
    if let Some(path) = file {
        return sign_file(env, &path, kind).await;
    }
    let from = what.from.clone();
    let draft = match revoke {
        Some(id) => Draft::Revoke(id.to_string(), what.reason),
        None if read => Draft::Read,
        None => Draft::Access(wish(what, Vec::new())?),
    };
    let signer = env.signer(host.as_ref(), &[draft.purpose()]).await?;
    let (purpose, message) = match host {
        Some(host) => (draft.purpose(), for_host(env, host, draft, &from, &signer).await?),
        None => (draft.purpose(), offline(env, audience, draft, &from, &signer).await?),
    };
    print(env, purpose, message)
}

async fn for_host(
    env: &Env,
    host: Target,
    mut draft: Draft,
    from: &[From],
    signer: &Arc<Signer>,
) -> Result<SignedMessage> {
    let typed = if let Draft::Access(wish) = &draft { &wish.ports[..] } else { &[] };
    let mut session = env.plan(host)?.about(typed).open(reach(from)).await?;
    let mut ways = None;
    if let Draft::Access(wish) = &mut draft {
        wish.ports = port_numbers(env, &session)?;
        let sources = sources::to_sign(env, from, &session).await?;
        wish.source = sources.prefixes;
        ways = Some(sources.ways);
        env.console.note(format!("signed for {}", wish.source.join(", ")));
    }
    let purpose = draft.purpose();
    let message = env.seal(&mut session, signer, purpose, |binding| draft.clone().bind(binding)).await?;
    // No host confirms here, so the signed message counts as success.
    if let Some(ways) = ways {
        ways.remember(env.console);
    }
    Ok(message)
}

async fn offline(
    env: &Env,
    audience: Vec<String>,
    mut draft: Draft,
    from: &[From],
    signer: &Arc<Signer>,
) -> Result<SignedMessage> {
    if audience.is_empty() {
        return Err(Failure::usage("for which host?").next("name a HOST to ask, or its id or name with --audience"));
    }
    if let Draft::Access(wish) = &mut draft {
        wish.ports = told(env, &ports::offline(&wish.ports)?)?;
        let explicit = |one: &From| match one {
            From::Prefix(net) => Some(net.to_string()),
            From::MyIp => None,
        };
        let found: Option<Vec<String>> = from.iter().map(explicit).collect();
        wish.source = found.filter(|found| !found.is_empty()).ok_or_else(|| {
            Failure::usage("my-ip needs a host that sees it")
                .next("name the address: --from 192.0.2.7, or a HOST to ask")
        })?;
    }
    let purpose = draft.purpose();
    env.seal_offline(signer, purpose, || draft.bind(Binding::offline(audience, purpose))).await
}

async fn sign_file(env: &Env, path: &Path, kind: Option<Purpose>) -> Result<()> {
    let bytes = files::read(path, MOST_BYTES)?;
    let purpose = payload::recognise(&bytes, kind)?;
    let signer = env.signer(None, &[purpose]).await?;
    print(env, purpose, env.seal_offline(&signer, purpose, || Ok(bytes)).await?)
}

/// The API has a field `read` for reads, and `message` for all others.
fn print(env: &Env, purpose: Purpose, message: SignedMessage) -> Result<()> {
    let field = if purpose == Purpose::Read { "read" } else { "message" };
    env.console.out_json(&json!({ field: message }))
}
