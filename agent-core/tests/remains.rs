//! A broken trust file takes trust away, and gives none.

use jiff::tz::TimeZone;
use postern_core::envelope::{Purpose, Signer};
use postern_core::trust::{Remains, Revocations, Trust};
use proptest::prelude::*;

const BASE64: &str = "AAAAC3NzaC1lZDI1NTE5AAAAI";

/// A key of nobody: the number `n` in its last bytes.
fn key(n: u8) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    blob.extend([7; 31]);
    blob.push(n);
    let text = STANDARD.encode(blob);
    assert!(text.starts_with(BASE64));
    format!("ssh-ed25519 {text}")
}

fn good(text: &str) -> Trust {
    Trust::parse(&filled(text), b"").expect("a file that can be read")
}

/// `K1` to `K4` stand for keys.
fn filled(text: &str) -> String {
    (1..=4).fold(text.to_owned(), |text, n| text.replace(&format!("K{n}"), &key(n)))
}

fn signer(name: &str, n: u8) -> Signer {
    let fingerprint = good(&format!("x {}", key(n))).entries().next().expect("a line").fingerprint();
    Signer { principal: name.to_owned(), fingerprint, certificate: None }
}

fn trusts(trust: &Trust, name: &str, n: u8, role: Purpose) -> bool {
    trust.trusts(&signer(name, n), role, 1_781_524_800, true)
}

#[test]
fn what_a_broken_file_takes_away_and_what_it_does_not() {
    let last = good("a K1\nb K2\nc K3\n");
    // (the file, whether a, b, c and the new d may request)
    for (text, expected) in [
        ("a K1\nb K2\nc K3\nnonsense\n", [true, true, true, false]),
        ("a K1\nc K3\nnonsense\nd K4\n", [true, false, true, false]),
        // A line that cannot be read still lists its key; a comment does not.
        ("a K1\nb no-touch-required K2\n# c K3\n", [true, true, false, false]),
        ("a K1\nb valid-before=\"tomorrow\" K2\nc K3\n", [true, true, true, false]),
        // Names, purposes and times that lines give no more.
        (
            "x K1\nb namespaces=\"read@postern.v1\" K2\nc valid-before=\"20200101Z\" K3\n?\n",
            [false, false, false, false],
        ),
        ("a namespaces=\"*\" K1\nb,x K2\nc valid-after=\"20200101Z\" K3\n?\n", [true, true, true, false]),
        // What a line that can be read says of a key holds, whatever the others say.
        ("a namespaces=\"read@*\" K1\na oops K1\nb K2\nc K3\n", [false, true, true, false]),
        ("a cert-authority K1\nb K2\nc K3\n?\n", [false, true, true, false]),
        ("\u{0}\n", [false, false, false, false]),
    ] {
        let broken = Remains::of(filled(text).as_bytes(), None);
        assert!(!broken.errors().is_empty(), "{text}");
        let limited = last.limited_by(&broken);
        let may = [("a", 1), ("b", 2), ("c", 3), ("d", 4)].map(|(name, n)| trusts(&limited, name, n, Purpose::Request));
        assert_eq!(may, expected, "{text}");
        let missing = broken.missing(&last).count();
        assert_eq!(limited.len() + missing, 3, "{text}");
        // The copy that is kept from here on has no line of a key that went.
        let kept = broken.keep(&filled("# kept\na K1\nb K2\nc K3\n"), None);
        assert_eq!(
            (Trust::parse(&kept, b"").expect("as good as before").len(), kept.starts_with("# kept")),
            (limited.len(), true)
        );
    }
}

#[test]
fn a_second_broken_file_gives_nothing_back() {
    let once = good("a K1\nb K2\n").limited_by(&Remains::of(filled("a K1\n?\n").as_bytes(), None));
    let twice = once.limited_by(&Remains::of(filled("a K1\nb K2\n?\n").as_bytes(), None));
    assert!(trusts(&twice, "a", 1, Purpose::Request) && !trusts(&twice, "b", 2, Purpose::Request));
}

#[test]
fn a_broken_list_of_revoked_keys_revokes_what_can_be_read_of_it() {
    let revoked = |text: &str| Revocations::of(filled(text).as_bytes());
    let last = good("a K1\nb K2\nc K3\n").revoking(revoked("K1\n"));
    let broken = revoked("K2\nnonsense\n");
    assert!(broken.error().is_some_and(|error| error.line == 2));
    let now = last.also_revoking(broken);
    let may = [("a", 1), ("b", 2), ("c", 3)].map(|(name, n)| trusts(&now, name, n, Purpose::Request));
    assert_eq!(may, [false, false, true]);
    // A broken trust file leaves the revocations as they are.
    let both = now.limited_by(&Remains::of(filled("a K1\nb K2\nc K3\n?").as_bytes(), None));
    assert!(!trusts(&both, "a", 1, Purpose::Request) && trusts(&both, "c", 3, Purpose::Request));
}

proptest! {
    #[test]
    fn whatever_a_broken_file_holds_it_gives_nothing(
        last in prop::collection::vec((prop::sample::select(vec!["a", "b"]), 1..5_u8), 0..4),
        lines in prop::collection::vec(
            (prop::sample::select(vec!["a", "b", "a,b", "*", "?", "#"]),
             prop::sample::select(vec!["", "oops ", "namespaces=\"read@*\" ", "valid-before=\"20200101\" "]), 1..6_u8),
            0..6,
        ),
    ) {
        let text = |lines: Vec<String>| lines.join("\n");
        let last = good(&text(last.into_iter().map(|(who, n)| format!("{who} {}", key(n))).collect()));
        let broken = text(lines.into_iter().map(|(who, what, n)| format!("{who} {what}{}", key(n))).collect());
        let zone = TimeZone::UTC;
        let limited = last.limited_by(&Remains::of(broken.as_bytes(), Some(&zone)));
        for (name, n) in [("a", 1), ("a", 2), ("b", 3), ("b", 4), ("a", 5), ("b", 5)] {
            for role in Purpose::ALL {
                prop_assert!(!trusts(&limited, name, n, role) || trusts(&last, name, n, role), "{} {}", name, broken);
            }
        }
    }
}
