//! Tests of the conversions in both directions.

use postern_core::grant::{AccessRequest, End};
use postern_core::refusal::Reason;
use postern_core::text::is_hidden;
use postern_core::time::Seconds;

use super::*;
use crate::payload::access::{access_request, read_request, revoke_request};

const ID: &str = "7d0c0d0e-3b1a-4a53-9a3d-0123456789ab";

/// A good access request with `from` replaced by `to` in its text.
fn with(from: &str, to: &str) -> Vec<u8> {
    let good = format!(
        r#"{{"id":"{ID}","audience":["vm1"],"notAfter":"2026-11-21T09:00:00Z","ports":["22/tcp"],"source":["192.0.2.7/32"],"duration":"1800s","justification":"why","ticket":"T-1"}}"#
    );
    assert!(good.contains(from), "{from}");
    good.replacen(from, to, 1).into_bytes()
}

fn refused(payload: &[u8]) -> Refusal {
    match access_request(payload) {
        Err(refusal) => refusal,
        Ok(request) => panic!("{} became {request:?}", String::from_utf8_lossy(payload)),
    }
}

#[test]
fn a_good_request_is_taken_as_it_is() {
    let AccessRequest { header, ports, sources, end, not_before, supersedes, justification, ticket } =
        access_request(&with("", "")).unwrap();
    assert_eq!((not_before, supersedes), (None, None));
    assert_eq!(header.id.to_string(), ID);
    assert_eq!(header.audience, ["vm1"]);
    assert_eq!(header.not_after.to_string(), "2026-11-21T09:00:00Z");
    assert_eq!(header.challenge, None);
    assert_eq!((ports[0].to_string(), sources[0].to_string()), ("22/tcp".into(), "192.0.2.7/32".into()));
    assert_eq!(end, End::After(Seconds(1800)));
    assert_eq!((justification.as_str(), ticket.as_str()), ("why", "T-1"));
}

#[test]
fn other_good_forms() {
    for (from, to) in [
        ("notAfter", "not_after"),
        (r#""duration":"1800s""#, r#""end":"2200-01-01T00:00:00.5+01:00""#),
        (r#""duration":"1800s""#, r#""duration":"000000000001s""#),
        (r#""ports":["22/tcp"]"#, r#""ports":["22/tcp","53/any"]"#),
        ("why", "\u{fc}ber, \u{65e5}\u{672c} \\u00e9 \\\" \\\\"),
        (r#""id""#, r#""challenge":"AAAA-_","id""#),
        (r#","ticket":"T-1""#, ""),
        ("{", " \n\t{ "),
        (r#""id""#, r#""\u0069d""#),
    ] {
        assert!(access_request(&with(from, to)).is_ok(), "{to}");
    }
}

#[test]
fn malformed_json_is_refused() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_object = r#"{"a":"#.repeat(10_000);
    let long_number = "9".repeat(10_000);
    let cases = [
        // not JSON, or not all of it
        ("{", ""),
        ("{", "["),
        ("{", "{{"),
        ("{", "\u{feff}{"),
        ("{", "{,"),
        ("}", ""),
        ("}", "]"),
        ("}", ",}"),
        ("}", "}}"),
        ("}", "} x"),
        ("}", "}\0"),
        ("}", "}{}"),
        ("\"id\"", "id"),
        ("\"id\"", "'id'"),
        ("\"id\"", "// c\n\"id\""),
        ("\"id\"", "/**/\"id\""),
        (":", "="),
        (":", "::"),
        (",", ",,"),
        (",", ";"),
        ("why", "why\n"),
        ("why", "\t"),
        ("why", "\\x41"),
        ("why", "\\u12"),
        ("why", "\\ud800"),
        ("why", "\\"),
        // other types
        (r#""why""#, "null"),
        (r#""why""#, "1"),
        (r#""why""#, "true"),
        (r#""why""#, "NaN"),
        (r#""why""#, "Infinity"),
        (r#""why""#, "-Infinity"),
        (r#""why""#, "{}"),
        (r#""why""#, "[]"),
        (r#""why""#, r#"["why"]"#),
        (r#""why""#, "1e999"),
        (r#""why""#, "18446744073709551616"),
        (r#""why""#, "-1"),
        (r#""why""#, "0x1"),
        (r#""why""#, &long_number),
        (r#""why""#, &deep),
        (r#""why""#, &deep_object),
        (r#""why""#, ""),
        (r#"["22/tcp"]"#, r#""22/tcp""#),
        (r#"["22/tcp"]"#, "[22]"),
        (r#"["22/tcp"]"#, "[null]"),
        (r#"["22/tcp"]"#, "null"),
        (r#"["22/tcp"]"#, "{}"),
        (r#"["22/tcp"]"#, r#"[["22/tcp"]]"#),
        (r#"["22/tcp"]"#, r#"["22/tcp",]"#),
        (r#"["22/tcp"]"#, r#"["22/tcp",null]"#),
        (r#"["vm1"]"#, r#""vm1""#),
        (r#"["192.0.2.7/32"]"#, r#"{"0":"192.0.2.7/32"}"#),
        (r#""1800s""#, "1800"),
        (r#""1800s""#, "null"),
        (r#""1800s""#, r#"["1800s"]"#),
        (r#""1800s""#, r#"{"seconds":1800}"#),
        (r#""2026-11-21T09:00:00Z""#, "1795251600"),
        (r#""2026-11-21T09:00:00Z""#, "null"),
        (r#""2026-11-21T09:00:00Z""#, r#"{"seconds":1}"#),
        // unknown, doubled, aliased fields
        (r#""id""#, r#""ID":"x","id""#),
        (r#""id""#, r#""":"x","id""#),
        (r#""id""#, r#""notBeforeHand":"2026-11-21T09:00:00Z","id""#),
        (r#""id""#, r#""id":"7d0c0d0e-3b1a-4a53-9a3d-0123456789ab","id""#),
        (r#""id""#, r#""id":"x","\u0069d""#),
        (r#""ports""#, r#""ports":["23/tcp"],"ports""#),
        (r#""ports""#, r#""ports":[],"ports""#),
        (r#""source""#, r#""source":["10.0.0.0/8"],"source""#),
        (r#""duration""#, r#""duration":"1s","duration""#),
        (r#""duration""#, r#""duration":null,"duration""#),
        (r#""duration":"1800s""#, r#""duration":"1800s","duration":null"#),
        (r#""notAfter""#, r#""not_after":"2026-11-21T09:00:00Z","notAfter""#),
        (r#""notAfter""#, r#""not_after":null,"notAfter""#),
        (r#""notAfter""#, r#""NotAfter""#),
        (r#""notAfter""#, r#""not-after""#),
        (r#""ports""#, r#""port""#),
        (r#""ports""#, r#""Ports""#),
        (r#""id""#, r#""@type":"x","id""#),
        (r#""id""#, r#""1":"x","id""#),
        (r#""ticket":"T-1""#, r#""ticket":"T-1","ticket":"T-1""#),
        (r#""ticket":"T-1""#, r#""__proto__":"T-1""#),
        // durations
        ("1800s", ""),
        ("1800s", "s"),
        ("1800s", "1800"),
        ("1800s", "30m"),
        ("1800s", "-1800s"),
        ("1800s", "--1800s"),
        ("1800s", "+1800s"),
        ("1800s", " 1800s"),
        ("1800s", "1800 s"),
        ("1800s", "1800S"),
        ("1800s", "1800.5s"),
        ("1800s", "1800.0s"),
        ("1800s", "0.000000001s"),
        ("1800s", "1e3s"),
        ("1800s", "0x10s"),
        ("1800s", "9223372036854775807s"),
        ("1800s", "--9223372036854775808s"),
        ("1800s", "18446744073709551616s"),
        ("1800s", "\u{661}s"),
        ("1800s", "NaNs"),
        // moments
        ("2026-11-21T09:00:00Z", ""),
        ("2026-11-21T09:00:00Z", "2026-11-21"),
        ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00"),
        ("2026-11-21T09:00:00Z", "now"),
        ("2026-11-21T09:00:00Z", "2026-13-21T09:00:00Z"),
        ("2026-11-21T09:00:00Z", "2026-02-30T09:00:00Z"),
        ("2026-11-21T09:00:00Z", "2026-11-21T25:00:00Z"),
        ("2026-11-21T09:00:00Z", "10000-01-01T00:00:00Z"),
        ("2026-11-21T09:00:00Z", "-0001-01-01T00:00:00Z"),
        ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00+99:00"),
    ];
    for (from, to) in cases {
        let refusal = refused(&with(from, to));
        assert_eq!((refusal.reason, refusal.rule.as_str()), (Reason::PayloadMalformed, "payload"), "{to}: {refusal}");
        assert!(refusal.detail.len() < 1000 && !refusal.detail.chars().any(is_hidden), "{to}: {refusal}");
    }
    for bytes in [
        &b""[..],
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"{\"id\":\"\xff\"}",
        b"{\"id\":\"\xc0\x80\"}",
        b"\"\"",
        b"null",
        b"1",
        b"[]",
        b"\0",
    ] {
        assert_eq!(refused(bytes).rule, "payload", "{bytes:?}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let good = with("", "");
    for end in 0..good.len() {
        refused(&good[..end]);
    }
}

#[test]
fn values_are_refused_by_field() {
    let long = |n: usize| "x".repeat(n);
    let many = |item: &str, n: usize| vec![format!("\"{item}\""); n].join(",");
    let hosts = (0..17).map(|n| format!("\"h{n}\"")).collect::<Vec<_>>().join(",");
    let ports = (1..=33).map(|n| format!("\"{n}/tcp\"")).collect::<Vec<_>>().join(",");
    let nets = (1..=33).map(|n| format!("\"10.0.{n}.0/24\"")).collect::<Vec<_>>().join(",");
    let cases = [
        (ID, String::new(), "id"),
        (ID, ID.to_uppercase(), "id"),
        (ID, ID.replace('-', ""), "id"),
        (ID, format!("{{{ID}}}"), "id"),
        (ID, format!("urn:uuid:{ID}"), "id"),
        (ID, format!("{ID} "), "id"),
        (ID, ID[1..].to_owned(), "id"),
        ("\"id\"", "\"ticket\"".to_owned(), "payload"),
        (r#"["vm1"]"#, "[]".to_owned(), "audience"),
        ("\"vm1\"", hosts, "audience"),
        ("vm1", String::new(), "audience[0]"),
        ("vm1", long(256), "audience[0]"),
        ("vm1", "vm\\n1".to_owned(), "audience[0]"),
        (r#""notAfter":"2026-11-21T09:00:00Z","#, String::new(), "not_after"),
        ("2026-11-21T09:00:00Z", "2026-12-31T23:59:60Z".to_owned(), "not_after"),
        ("\"id\"", format!("\"challenge\":\"{}\",\"id\"", long(129)), "challenge"),
        ("\"id\"", "\"challenge\":\"a\\u0000\",\"id\"".to_owned(), "challenge"),
        (r#"["22/tcp"]"#, "[]".to_owned(), "ports"),
        ("\"22/tcp\"", many("22/tcp", 2), "ports"),
        ("\"22/tcp\"", ports, "ports"),
        ("22/tcp", "0/tcp".to_owned(), "ports[0]"),
        ("22/tcp", "65536/tcp".to_owned(), "ports[0]"),
        ("22/tcp", "ssh".to_owned(), "ports[0]"),
        ("22/tcp", "22/sctp".to_owned(), "ports[0]"),
        ("22/tcp", "22/tcp\\n".to_owned(), "ports[0]"),
        ("\"22/tcp\"", "\"22/tcp\",\"-1/tcp\"".to_owned(), "ports[1]"),
        (r#"["192.0.2.7/32"]"#, "[]".to_owned(), "source"),
        ("\"192.0.2.7/32\"", many("192.0.2.7/32", 2), "source"),
        ("\"192.0.2.7/32\"", nets, "source"),
        (r#""duration":"1800s","#, String::new(), "duration"),
        ("\"id\"", "\"end\":\"2030-01-01T00:00:00Z\",\"id\"".to_owned(), "duration"),
        ("1800s", "0s".to_owned(), "duration"),
        ("1800s", "999999999999s".to_owned(), "duration"),
        ("why", long(1001), "justification"),
        ("why", "\\u001b[2J".to_owned(), "justification"),
        ("why", "a\\r\\nb".to_owned(), "justification"),
        ("why", "\\u202egnorw".to_owned(), "justification"),
        ("why", "\\u2028".to_owned(), "justification"),
        ("why", "\\u0085".to_owned(), "justification"),
        ("T-1", long(201), "ticket"),
        ("T-1", "\\u0007".to_owned(), "ticket"),
    ];
    for (from, to, field) in cases {
        let refusal = refused(&with(from, &to));
        assert_eq!((refusal.reason, refusal.rule.as_str()), (Reason::PayloadMalformed, field), "{to}: {refusal}");
    }
    for bad in
        ["192.0.2.7", "192.0.2.7/24", "127.0.0.1/32", "::ffff:1.2.3.4/128", "224.0.0.0/4", "fe80::1%eth0/128", ""]
    {
        let refusal = refused(&with("192.0.2.7/32", bad));
        assert_eq!((refusal.reason, refusal.rule.as_str()), (Reason::SourceInvalid, "source[0]"), "{bad}: {refusal}");
    }
}

#[test]
fn lengths_count_characters_and_their_bounds_are_kept() {
    for (from, fits) in [("why", "\u{fc}".repeat(1000)), ("T-1", "x".repeat(200)), ("vm1", "x".repeat(255))] {
        assert!(access_request(&with(from, &fits)).is_ok(), "{from}");
    }
}

#[test]
fn the_other_payloads_are_as_strict() {
    let header = format!(r#""id":"{ID}","audience":["vm1"],"notAfter":"2026-11-21T09:00:00Z""#);
    let read = format!("{{{header}}}");
    assert_eq!(read_request(read.as_bytes()).unwrap().id.to_string(), ID);
    let revoke = format!(r#"{{{header},"grantId":"{ID}","reason":"lost"}}"#);
    assert_eq!(revoke_request(revoke.as_bytes()).unwrap().reason, "lost");
    // A payload of one kind is refused as another kind.
    assert!(read_request(revoke.as_bytes()).is_err() && read_request(&with("", "")).is_err());
    assert!(revoke_request(&with("", "")).is_err() && access_request(revoke.as_bytes()).is_err());
    assert_eq!(revoke_request(read.as_bytes()).unwrap_err().rule, "grant_id");
    assert_eq!(access_request(read.as_bytes()).unwrap_err().rule, "ports");
    let both = format!(r#"{{{header},"grantId":"{ID}","grant_id":"{ID}"}}"#);
    assert_eq!(revoke_request(both.as_bytes()).unwrap_err().rule, "payload");
}

#[test]
fn pages() {
    assert_eq!(page(0, ""), Ok((DEFAULT_PAGE, None)));
    assert_eq!(page(1000, "18446744073709551615"), Ok((1000, Some(u64::MAX))));
    for (size, token) in
        [(1001, ""), (u32::MAX, ""), (1, "x"), (1, "-1"), (1, "+1"), (1, " 1"), (1, "18446744073709551616")]
    {
        assert!(page(size, token).is_err(), "{size} {token}");
    }
}

#[test]
fn explain_takes_the_callers_address_where_there_is_one() {
    let ask = |source: Vec<String>, caller: Option<&str>| {
        let request = v1::ExplainRequest { ports: vec!["22/tcp".into()], source, ..Default::default() };
        query(request, caller.map(|c| c.parse().unwrap())).map(|q| q.sources[0].to_string()).map_err(|r| r.reason)
    };
    assert_eq!(ask(vec![], Some("192.0.2.9")), Ok("192.0.2.9/32".into()));
    assert_eq!(ask(vec![], Some("2001:db8::9")), Ok("2001:db8::9/128".into()));
    assert_eq!(ask(vec!["10.0.0.0/8".into()], Some("192.0.2.9")), Ok("10.0.0.0/8".into()));
    assert_eq!(ask(vec![], None), Err(Reason::SourceInvalid));
    assert_eq!(ask(vec![], Some("127.0.0.1")), Err(Reason::SourceInvalid));
}
