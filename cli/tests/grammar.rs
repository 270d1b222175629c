//! Whatever people type, the grammars answer with a value or an error, and what they accept has one canonical form.

use jiff::{Timestamp, tz::TimeZone};
use postern_cli::{parse, target::Target, text, tls::fingerprint};
use proptest::prelude::*;

/// Text near the grammars, so that the cases reach beyond the first character.
fn near() -> impl Strategy<Value = String> {
    let pieces = [
        "http://",
        "unix://",
        "https://",
        "[",
        "]",
        ":",
        "::",
        "::1",
        "::ffff:",
        "192.0.2.7",
        "2001:db8::",
        "/24",
        "/",
        "%",
        "eth0",
        "127.0.0.1",
        "localhost",
        "vm1",
        ".",
        "-",
        "7322",
        "65536",
        "0",
        "22",
        "tcp",
        "ssh",
        "30m",
        "1h",
        "18:00",
        "2026-11-21",
        "T",
        "Z",
        " ",
        "SHA256:",
        "my-ip",
        "\0",
        "é",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat()),
        ".*",
    ]
}

proptest! {
    #[test]
    fn hosts_have_one_canonical_form(typed in near()) {
        if let Ok(target) = typed.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        }
    }

    #[test]
    fn plaintext_is_loopback_only(typed in near()) {
        if let Ok(Target::Plaintext(address)) = typed.parse() {
            prop_assert!(address.ip().is_loopback());
        }
    }

    #[test]
    fn accepted_ports_have_one_form_and_numbers_are_what_the_host_accepts(typed in near()) {
        if let Ok(port) = parse::port(&typed) {
            // What a name means, and which protocol a number alone, is for the host to say.
            let number = port.split('/').next().unwrap_or_default();
            if number.bytes().all(|byte| byte.is_ascii_digit()) {
                let whole = if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
                prop_assert!(whole.parse::<postern_core::grant::PortSpec>().is_ok(), "{}", port);
            }
            prop_assert_eq!(parse::port(&port), Ok(port));
        }
    }

    #[test]
    fn accepted_sources_are_what_the_host_accepts(typed in near()) {
        if let Ok(parse::From::Prefix(net)) = typed.parse() {
            prop_assert_eq!(net.trunc(), net);
            prop_assert_eq!(net.to_string().parse(), Ok(parse::From::Prefix(net)));
        }
    }

    #[test]
    fn times_are_in_the_future_and_spans_positive(typed in near(), now in -1_000_000_000_i64..4_000_000_000) {
        let now = Timestamp::from_second(now).unwrap();
        if let Ok(time) = parse::until(&typed, now, &TimeZone::UTC) {
            prop_assert!(time > now);
        }
        if let Ok(span) = parse::duration(&typed) {
            prop_assert!(span.as_secs() > 0 && span.subsec_nanos() == 0);
        }
    }

    #[test]
    fn fingerprints_and_shown_text_never_panic(typed in near()) {
        let _ = fingerprint(&typed);
        let shown = text::clean(&typed);
        prop_assert!(!shown.chars().any(char::is_control));
        prop_assert!(shown.chars().count() >= typed.chars().count(), "nothing is dropped");
    }
}
