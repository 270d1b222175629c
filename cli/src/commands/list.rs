//! `postern list`: grants, the newest first.

use postern_proto::v1::{ListGrantsRequest, ListGrantsResponse};

use super::{Env, signed_by};
use crate::{
    args::List,
    failure::{Failure, Kind, Result},
    session::{Reach, limited},
    view,
};

const PAGE: u32 = 200;
/// A host that never stops paging must not fill this machine's memory.
const MOST_PAGES: usize = 500;

pub(super) async fn run(env: &Env, args: List) -> Result<()> {
    let List { host, all } = args;
    let signer = env.reader(&host).await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    let read = env.read(&mut session, signer.as_ref()).await?;
    let mut found = ListGrantsResponse::default();
    for _ in 0..MOST_PAGES {
        let page_token = std::mem::take(&mut found.next_page_token);
        let call = ListGrantsRequest {
            read: read.clone(),
            include_ended: all,
            page_size: PAGE,
            page_token,
            states: Vec::new(),
        };
        let page = limited(session.access().list_grants(call), &session.address).await;
        let page = page.map_err(signed_by(signer.as_ref()))?;
        found.grants.extend(page.grants);
        found.next_page_token = page.next_page_token;
        if found.next_page_token.is_empty() {
            return show(env, &found, all);
        }
    }
    Err(Failure::new(Kind::HostFailed, format!("the host's list has more than {MOST_PAGES} pages")))
}

fn show(env: &Env, found: &ListGrantsResponse, all: bool) -> Result<()> {
    if env.console.json {
        return env.console.out_json(found);
    }
    if found.grants.is_empty() {
        return env.console.out(if all { "no grants" } else { "no live grants" });
    }
    env.console.out(view::grants(found.grants.iter(), view::left_or_end).join("\n"))
}
