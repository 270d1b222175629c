//! No bytes make the parsers panic, and no bytes but the signer's own are accepted.

mod valid;

use postern_core::envelope::{Envelope, Purpose, Signature, Signer, Verified, verify};
use postern_core::refusal::Refusal;
use postern_core::ssh::{Accept, Certificate, Fingerprint, PublicKey, dearmor};
use postern_core::trust::{Trust, TrustFile};
use proptest::prelude::*;
use valid::{PAYLOAD, armor, revocation_list, sign_forged, texts};

const REQUEST: &str = "application/vnd.postern.access-request.v1+json";

/// Trust files, and the bytes of SSHSIGs that are valid under them: by a key, and by a certificate.
fn valid() -> Vec<(Trust, Vec<u8>)> {
    texts().into_iter().map(|(text, bytes)| (Trust::parse(&text, b"").expect("a valid trust file"), bytes)).collect()
}

fn judge(trust: &Trust, armored: &str) -> Result<Verified, Refusal> {
    let envelope = Envelope { payload: PAYLOAD, payload_type: REQUEST, signatures: vec![armored] };
    verify(&envelope, trust, 0, false)
}

fn accepted(trust: &Trust, armored: &str) -> bool {
    judge(trust, armored).is_ok()
}

/// Who signed with the certificate.
fn certified() -> Signer {
    let (trust, bytes) = valid().remove(1);
    judge(&trust, &armor(&bytes)).expect("a valid signature").signers.remove(0)
}

#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    Append(Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Set(at, to) => *at.get_mut(bytes) = *to,
            Self::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Self::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Append(more) => bytes.extend(more),
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(i, b)| Change::Set(i, b)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), any::<u8>()).prop_map(|(i, b)| Change::Insert(i, b)),
        1 => at().prop_map(Change::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..8).prop_map(Change::Append),
        1 => (at(), at()).prop_map(|(i, j)| Change::Repeat(i, j)),
    ]
}

/// Pieces of trust files, so that random ones get deep into the grammar.
fn trust_text() -> impl Strategy<Value = String> {
    let pieces = [
        "alice@example.com",
        "*",
        "!bob",
        ",",
        " ",
        "\t",
        "\n",
        "\r",
        "\"",
        "\\",
        "\\\"",
        "#",
        "=",
        "cert-authority",
        "namespaces=",
        "valid-after=",
        "valid-before=",
        "\"request@postern.v1\"",
        "\"20260101Z\"",
        "\"20261399Z\"",
        "ssh-ed25519",
        "ssh-rsa",
        "ssh-ed25519-cert-v01@openssh.com",
        "SHA256:",
        "\u{fc}",
        "\0",
        "AAAAC3NzaC1lZDI1NTE5AAAAIPU1aQ9rUqUTbjZhUGbXrJpLGbYqZ8M+1rPmTf5dMhhO",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..16).prop_map(|words| words.concat())
}

#[test]
fn the_unchanged_bytes_are_accepted() {
    for (trust, bytes) in valid() {
        assert!(accepted(&trust, &armor(&bytes)));
    }
    let (text, _) = &texts()[1];
    let trusts = |revoked: &[u8]| {
        Trust::parse(text, revoked).expect("both files").trusts(&certified(), Purpose::Request, 0, true)
    };
    assert!(trusts(b"") && !trusts(&revocation_list()));
}

#[test]
fn a_certificate_counts_for_nothing_without_its_authority() {
    let (trust, original) = valid().remove(1);
    assert_eq!(armor(&sign_forged(1, 2, 2, Purpose::Request, PAYLOAD)), armor(&original));
    assert!(!accepted(&trust, &armor(&sign_forged(1, 5, 2, Purpose::Request, PAYLOAD))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    /// An ed25519 signature over canonical bytes has no second form, so whatever is accepted is what was signed.
    #[test]
    fn changed_bytes_are_refused(changes in prop::collection::vec(change(), 1..4)) {
        for (trust, original) in valid() {
            let mut bytes = original.clone();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            prop_assert_eq!(accepted(&trust, &armor(&bytes)), bytes == original);
        }
    }

    #[test]
    fn changed_armor_is_refused(changes in prop::collection::vec(change(), 1..4)) {
        for (trust, original) in valid() {
            let armored = armor(&original);
            let mut bytes = armored.clone().into_bytes();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let same = dearmor(&text).is_ok_and(|bytes| bytes == original);
            prop_assert_eq!(accepted(&trust, &text), same);
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..512), text in ".{0,256}") {
        let _ = dearmor(&text);
        let _ = Signature::parse(&bytes).map(|signature| signature.verify(PAYLOAD));
        for accept in [Accept::Signers, Accept::HostKeys, Accept::All] {
            let _ = PublicKey::parse(&bytes, accept);
            let _ = Certificate::parse(&bytes, accept).map(|certificate| certificate.verify(accept));
        }
        let _ = text.parse::<Fingerprint>();
        let _ = Trust::parse(&text, &bytes);
        let _ = Trust::parse("", &[&b"SSHKRL\n\0"[..], &bytes].concat());
        let (trust, _) = &valid()[0];
        prop_assert!(!accepted(trust, &armor(&bytes)));
    }

    #[test]
    fn changed_revocation_lists_do_no_harm(changes in prop::collection::vec(change(), 1..6)) {
        let mut bytes = revocation_list();
        changes.iter().for_each(|change| change.apply(&mut bytes));
        let (text, _) = &texts()[1];
        if let Ok(trust) = Trust::parse(text, &bytes) {
            let _ = trust.trusts(&certified(), Purpose::Request, 0, true);
        }
    }

    #[test]
    fn random_trust_files_do_no_harm(text in trust_text(), revoked in trust_text()) {
        match Trust::parse(&text, revoked.as_bytes()) {
            Ok(trust) => prop_assert!(trust.len() <= text.lines().count()),
            Err(error) => {
                let file = if error.file == TrustFile::Revoked { &revoked } else { &text };
                prop_assert!(error.line <= file.split('\n').count());
                prop_assert!(!error.reason.is_empty());
            }
        }
    }
}
