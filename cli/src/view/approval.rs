//! The question to an approver. All of it comes from the bytes to sign, except the requester's name and key, which the host states.

use std::time::Duration;

use ipnet::IpNet;
use postern_proto::v1::AccessRequest;

use super::joined;
use crate::text::{clean, left, local, table};

/// The request line by line, with a warning for each wide source.
#[must_use]
pub fn question(request: &AccessRequest, who: &str, key: &str) -> Vec<String> {
    let mut rows = vec![
        vec!["who".to_owned(), format!("{}, key {}", clean(who), clean(key))],
        vec!["ports".to_owned(), joined(&request.ports)],
        vec!["from".to_owned(), joined(&request.source)],
        vec!["how long".to_owned(), how_long(request)],
        vec!["opens".to_owned(), opens(request)],
        vec!["why".to_owned(), said(&request.justification)],
        vec!["ticket".to_owned(), said(&request.ticket)],
    ];
    if !request.supersedes.is_empty() {
        rows.push(vec!["extends".to_owned(), format!("the live grant {}", clean(&request.supersedes))]);
    }
    let mut out: Vec<String> = table(&rows).into_iter().map(|line| format!("  {line}")).collect();
    out.extend(request.source.iter().filter_map(|source| wide(source)));
    out
}

fn said(text: &str) -> String {
    if text.is_empty() { "(not said)".to_owned() } else { clean(text) }
}

fn how_long(request: &AccessRequest) -> String {
    let span = request.duration.and_then(|duration| Duration::try_from(duration).ok()).map(left);
    let end = request.end.as_ref().map(|end| format!("until {}", local(end)));
    span.or(end).unwrap_or_else(|| "(not said)".to_owned())
}

fn opens(request: &AccessRequest) -> String {
    request.not_before.as_ref().map_or_else(|| "at once, with the last approval".to_owned(), local)
}

/// A warning if a source is more than one address.
fn wide(source: &str) -> Option<String> {
    let net: IpNet = source.parse().ok()?;
    let spare = net.max_prefix_len() - net.prefix_len();
    let many = match spare {
        0 => return None,
        1..=20 => format!("{} addresses", 1_u32 << spare),
        _ => format!("2^{spare} addresses"),
    };
    Some(format!("  WARNING: {} is not one machine: it opens for {many}", clean(source)))
}
