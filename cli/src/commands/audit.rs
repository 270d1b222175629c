//! `postern audit`: the host's journal, the newest line first.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use postern_proto::v1::{AuditEntry, ListAuditRequest, ListAuditResponse, WatchAuditRequest, WatchAuditResponse};

use tonic::Streaming;

use super::{Env, Reading, list::pages, port_numbers, unique};
use crate::{
    args::Audit,
    failure::{Failure, Kind, Result},
    parse,
    payload::wire_time,
    ports, view,
};

const MOST_PER_PAGE: u32 = 1000;
/// 1000 long lines exceed tonic's default limit of 4 MiB.
const MOST_ANSWER: usize = 16 << 20;

/// The client holds an export in memory. Users fetch larger ones in parts, with --since and --until.
const MOST_EXPORTED: u32 = 5_000_000;

const USUAL_LINES: u32 = 100;

pub(super) async fn run(env: &Env, args: Audit) -> Result<()> {
    let Audit { host, principal, port, from, since, until, event, reason, grant, limit, follow, jsonl } = args;
    let mut call = ListAuditRequest {
        read: None,
        principal,
        port: String::new(),
        source: from.map(|net| net.to_string()).unwrap_or_default(),
        since: since.map(|text| moment("--since", &text)).transpose()?,
        until: until.map(|text| moment("--until", &text)).transpose()?,
        events: unique(event),
        reason,
        grant_id: grant.map(|id| id.to_string()).unwrap_or_default(),
        ..ListAuditRequest::default()
    };
    let at = Reading::about(env, host, port.as_slice()).await?;
    call.port = one_port(&port_numbers(env, &at.session)?)?;
    call.read.clone_from(&at.read);
    if follow {
        return self::follow(env, at, call, jsonl).await;
    }
    let usual = if jsonl { MOST_EXPORTED } else { USUAL_LINES };
    let found = fetch(&at, call, limit.unwrap_or(usual)).await?;
    if jsonl {
        // The host sends the newest line first; an export has the oldest first.
        found.entries.iter().rev().try_for_each(|entry| env.console.out_line(&entry.line))?;
    } else {
        show(env, &found)?;
    }
    judge(env, &found, jsonl)
}

/// The port of the filter, if any. The host accepts one.
fn one_port(ports: &[String]) -> Result<String> {
    match ports {
        [] => Ok(String::new()),
        [port] => Ok(port.clone()),
        [first, rest @ ..] if rest.iter().all(|port| ports::same(port, first)) => {
            Ok(format!("{}/any", first.split('/').next().unwrap_or_default()))
        }
        more => Err(Failure::usage(format!("--port means {} here; name one of them", more.join(" and ")))),
    }
}

async fn fetch(at: &Reading, call: ListAuditRequest, limit: u32) -> Result<ListAuditResponse> {
    let mut client = at.host().max_decoding_message_size(MOST_ANSWER);
    let mut found: Option<ListAuditResponse> = None;
    // Each page needs at least one line, so that a malicious host cannot keep the client busy.
    pages(limit.max(1) as usize, async |page_token| {
        let have = found.as_ref().map_or(0, |found| found.entries.len());
        let missing = limit.saturating_sub(u32::try_from(have).unwrap_or(u32::MAX));
        let call = ListAuditRequest { page_size: missing.min(MOST_PER_PAGE), page_token, ..call.clone() };
        let page = at.ask(client.list_audit(call)).await?;
        let is_last = page.entries.is_empty() || page.entries.len() >= missing as usize;
        let all = joined(found.take(), page);
        let next = if is_last { String::new() } else { all.next_page_token.clone() };
        found = Some(all);
        Ok(next)
    })
    .await?;
    Ok(found.unwrap_or_default())
}

/// Prints each new line. After the signed read expires, the client signs another and fetches the lines in between.
async fn follow(env: &Env, mut at: Reading, mut call: ListAuditRequest, jsonl: bool) -> Result<()> {
    let newest = ListAuditRequest { read: at.read.clone(), page_size: 1, ..ListAuditRequest::default() };
    let newest = at.ask(at.host().list_audit(newest)).await?;
    let mut last = newest.entries.first().map_or(0, |entry| entry.seq);
    loop {
        let mut stream = watch(&at, &call).await?;
        // The stream does not have lines from before its start.
        let missed = fetch(&at, call.clone(), MOST_PER_PAGE).await?;
        let known = last;
        for entry in missed.entries.into_iter().rev().filter(|entry| entry.seq > known) {
            last = entry.seq;
            line(env, entry, jsonl)?;
        }
        loop {
            match stream.message().await {
                Ok(Some(WatchAuditResponse { entry: Some(entry) })) if entry.seq > last => {
                    last = entry.seq;
                    line(env, entry, jsonl)?;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let gone = Failure::new(Kind::Unreachable, "the host ended the watch");
                    return Err(gone.next("start it again; postern audit shows what was written meanwhile"));
                }
                Err(status) => {
                    let failure = Failure::from_status(&status, &at.session.address);
                    if !failure.is_expired() {
                        return Err(failure);
                    }
                    break;
                }
            }
        }
        // The client does not call a host that ends each stream at once more often than this.
        tokio::time::sleep(Duration::from_secs(1)).await;
        at.session.refresh_older_than(Duration::ZERO).await?;
        at.read = env.read(&mut at.session, at.signer.as_ref()).await?;
        call.read.clone_from(&at.read);
    }
}

async fn watch(at: &Reading, call: &ListAuditRequest) -> Result<Streaming<WatchAuditResponse>> {
    let ListAuditRequest { read, principal, port, source, events, reason, grant_id, .. } = call.clone();
    let call = WatchAuditRequest { read, principal, port, source, events, reason, grant_id };
    at.ask(at.host().watch_audit(call)).await
}

fn line(env: &Env, entry: AuditEntry, jsonl: bool) -> Result<()> {
    if jsonl {
        env.console.out_line(&entry.line)
    } else if env.console.json {
        env.console.out_json(&WatchAuditResponse { entry: Some(entry) })
    } else {
        env.console.out(view::audit_line(&entry))
    }
}

fn moment(option: &str, text: &str) -> Result<pbjson_types::Timestamp> {
    let time = parse::past(text, Timestamp::now(), &TimeZone::system());
    time.map(wire_time).map_err(|error| Failure::usage(format!("{option} {error}")))
}

/// Joins two pages. The chain holds only if it held for both.
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
        return env.console.out_json(found);
    }
    if found.entries.is_empty() {
        env.console.out("no such lines")
    } else {
        env.console.out(view::audit(&found.entries).join("\n"))
    }
}

/// The exit code depends on whether the journal is intact.
fn judge(env: &Env, found: &ListAuditResponse, all: bool) -> Result<()> {
    if !found.next_page_token.is_empty() && !env.console.json {
        let more = if all { "--until fetches older ones" } else { "--limit shows more, --until older ones" };
        env.console.note(format!("older lines match too; {more}"));
    }
    if !found.chain_verified {
        let message = format!("the journal was changed or damaged: {}", crate::text::clean(&found.damage));
        return Err(
            Failure::new(Kind::HostFailed, message).next("keep the file as evidence, and do not trust what it says")
        );
    }
    if !env.console.json {
        let head = crate::text::clean(&found.head);
        // Hosts that are older than retention do not send this number; they keep all lines.
        let first = found.first_sequence.max(1);
        env.console.note(format!("the chain holds from line {first} to line {}, {head}", found.sequence));
    }
    Ok(())
}
