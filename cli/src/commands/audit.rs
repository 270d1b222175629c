//! `postern audit`: the host's journal, the newest line first.

use jiff::{Timestamp, tz::TimeZone};
use postern_proto::v1::{ListAuditRequest, ListAuditResponse, host_service_client::HostServiceClient};

use super::{Env, signed_by, unique};
use crate::{
    args::Audit,
    failure::{Failure, Kind, Result},
    parse,
    payload::wire_time,
    session::{Reach, limited},
    view,
};

/// The most lines that one answer holds.
const MOST_PER_PAGE: u32 = 1000;
/// An answer of 1000 long lines is larger than tonic's usual limit of 4 MiB would allow.
const MOST_ANSWER: usize = 16 << 20;

pub(super) async fn run(env: &Env, args: Audit) -> Result<()> {
    let Audit { host, principal, port, from, since, until, event, limit } = args;
    let mut call = ListAuditRequest {
        read: None,
        principal,
        port: port.unwrap_or_default(),
        source: from.map(|net| net.to_string()).unwrap_or_default(),
        since: since.map(|text| moment("--since", &text)).transpose()?,
        until: until.map(|text| moment("--until", &text)).transpose()?,
        events: unique(event),
        page_size: 0,
        page_token: String::new(),
    };
    let signer = env.reader(&host).await?;
    let mut session = env.plan(host)?.open(Reach::Any).await?;
    call.read = env.read(&mut session, signer.as_ref()).await?;
    let mut client = HostServiceClient::new(session.link().channel.clone()).max_decoding_message_size(MOST_ANSWER);
    let mut found: Option<ListAuditResponse> = None;
    loop {
        let have = found.as_ref().map_or(0, |found| found.entries.len());
        let missing = limit.saturating_sub(u32::try_from(have).unwrap_or(u32::MAX));
        call.page_size = missing.min(MOST_PER_PAGE);
        let page = limited(client.list_audit(call.clone()), &session.address).await;
        let page = page.map_err(signed_by(signer.as_ref()))?;
        call.page_token.clone_from(&page.next_page_token);
        // A host that pages without end, or without lines, must not keep this machine busy.
        let done = page.next_page_token.is_empty() || page.entries.is_empty() || page.entries.len() >= missing as usize;
        found = Some(joined(found, page));
        if done {
            break;
        }
    }
    show(env, &found.unwrap_or_default())
}

fn moment(option: &str, text: &str) -> Result<pbjson_types::Timestamp> {
    let time = parse::past(text, Timestamp::now(), &TimeZone::system());
    time.map(wire_time).map_err(|error| Failure::usage(format!("{option} {error}")))
}

/// Both pages as one. The chain holds only if it held each time.
fn joined(before: Option<ListAuditResponse>, page: ListAuditResponse) -> ListAuditResponse {
    let Some(mut all) = before else { return page };
    all.entries.extend(page.entries);
    all.next_page_token = page.next_page_token;
    if all.chain_verified {
        all.chain_verified = page.chain_verified;
        all.damage = page.damage;
        all.sequence = page.sequence;
        all.head = page.head;
    }
    all
}

fn show(env: &Env, found: &ListAuditResponse) -> Result<()> {
    if env.console.json {
        env.console.out_json(found)?;
    } else if found.entries.is_empty() {
        env.console.out("no such lines")?;
    } else {
        env.console.out(view::audit(&found.entries).join("\n"))?;
    }
    if !found.next_page_token.is_empty() && !env.console.json {
        env.console.note("older lines match too; --limit shows more, --until older ones");
    }
    if !found.chain_verified {
        let message = format!("the journal was changed or damaged: {}", crate::text::clean(&found.damage));
        return Err(
            Failure::new(Kind::HostFailed, message).next("keep the file as evidence, and do not trust what it says")
        );
    }
    if !env.console.json {
        let head = crate::text::clean(&found.head);
        env.console.note(format!("the chain holds from line 1 to line {}, {head}", found.sequence));
    }
    Ok(())
}
