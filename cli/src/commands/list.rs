//! `postern list`: grants, the newest first.

use postern_proto::v1::{GrantState, ListGrantsRequest, ListGrantsResponse};

use super::{Env, Reading};
use crate::{
    args::List,
    failure::{Failure, Kind, Result},
    view,
};

const PAGE: u32 = 200;
/// A malicious host must not fill the memory of this machine with pages.
const MOST_PAGES: usize = 500;

pub(super) async fn run(env: &Env, args: List) -> Result<()> {
    let List { host, all } = args;
    let at = Reading::open(env, host).await?;
    let found = every(&at, all, &[]).await?;
    if env.console.json {
        return env.console.out_json(&found);
    }
    if found.grants.is_empty() {
        return env.console.out(if all { "no grants" } else { "no live grants" });
    }
    env.console.out(view::grants(found.grants.iter(), view::left_or_end).join("\n"))
}

/// All grants in one of `states`, or in any state if the list is empty.
pub(super) async fn every(at: &Reading, include_ended: bool, states: &[GrantState]) -> Result<ListGrantsResponse> {
    let mut found = ListGrantsResponse::default();
    pages(MOST_PAGES, async |page_token| {
        let call = ListGrantsRequest {
            read: at.read.clone(),
            include_ended,
            page_size: PAGE,
            page_token,
            states: states.iter().map(|state| i32::from(*state)).collect(),
        };
        let page = at.ask(at.session.access().list_grants(call)).await?;
        found.grants.extend(page.grants);
        Ok(page.next_page_token)
    })
    .await?;
    Ok(found)
}

/// Calls `fetch` with the token of each page until `fetch` returns an empty token.
pub(super) async fn pages(most: usize, mut fetch: impl AsyncFnMut(String) -> Result<String>) -> Result<()> {
    let mut token = String::new();
    for _ in 0..most {
        token = fetch(token).await?;
        if token.is_empty() {
            return Ok(());
        }
    }
    Err(Failure::new(Kind::HostFailed, format!("the host's answer has more than {most} pages")))
}
