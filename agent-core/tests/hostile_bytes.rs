//! No bytes make the parsers panic, and no bytes but the signer's own are accepted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::envelope::{Envelope, Fingerprint, PublicKey, Role, Signer, SshSig, Verified, dearmor, verify};
use postern_core::refusal::Refusal;
use postern_core::trust::{Trust, TrustFile};
use proptest::prelude::*;
use ring::{digest, signature};
use signature::KeyPair as _;

const REQUEST: &str = "application/vnd.postern.access-request.v1+json";
const PAYLOAD: &[u8] = b"{}";

fn strings(values: &[&[u8]]) -> Vec<u8> {
    let with_length = |v: &&[u8]| [&u32::try_from(v.len()).expect("short").to_be_bytes()[..], v].concat();
    values.iter().flat_map(with_length).collect()
}

fn armor(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<_> = encoded.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

/// Trust files, and the bytes of SSHSIGs that are valid under them: by a key, and by a certificate.
fn valid() -> Vec<(Trust, Vec<u8>)> {
    valid_texts()
        .into_iter()
        .map(|(text, bytes)| (Trust::parse(&text, b"").expect("a valid trust file"), bytes))
        .collect()
}

fn valid_texts() -> Vec<(String, Vec<u8>)> {
    let (holder, authority) = (ed25519(1), ed25519(2));
    let blob = |pair: &signature::Ed25519KeyPair| strings(&[b"ssh-ed25519", pair.public_key().as_ref()]);
    let line = |start: &str, pair| format!("{start} ssh-ed25519 {}\n", STANDARD.encode(blob(pair)));
    vec![
        (line("alice@example.com", &holder), sshsig(&blob(&holder), &holder)),
        (
            line("*@example.com cert-authority", &authority),
            sshsig(&certificate(&holder, &authority, &blob(&authority)), &holder),
        ),
    ]
}

fn ed25519(seed: u8) -> signature::Ed25519KeyPair {
    signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed")
}

fn sshsig(key: &[u8], signer: &signature::Ed25519KeyPair) -> Vec<u8> {
    let namespace = Role::Request.namespace().as_bytes();
    let hash = digest::digest(&digest::SHA512, PAYLOAD);
    let signed = [&b"SSHSIG"[..], &strings(&[namespace, b"", b"sha512", hash.as_ref()])].concat();
    let signature = strings(&[b"ssh-ed25519", signer.sign(&signed).as_ref()]);
    [&b"SSHSIG\0\0\0\x01"[..], &strings(&[key, namespace, b"", b"sha512", &signature])].concat()
}

fn certificate(holder: &signature::Ed25519KeyPair, by: &signature::Ed25519KeyPair, authority: &[u8]) -> Vec<u8> {
    let mut out = strings(&[b"ssh-ed25519-cert-v01@openssh.com", &[7; 32], holder.public_key().as_ref()]);
    out.extend(7_u64.to_be_bytes());
    out.extend(1_u32.to_be_bytes());
    out.extend(strings(&[b"key id", &strings(&[b"alice@example.com"])]));
    out.extend(0_u64.to_be_bytes());
    out.extend(u64::MAX.to_be_bytes());
    out.extend(strings(&[b"", &strings(&[b"permit-pty", b""]), b"", authority]));
    let signature = strings(&[b"ssh-ed25519", by.sign(&out).as_ref()]);
    out.extend(strings(&[&signature]));
    out
}

/// A binary revocation list with each kind of entry.
fn revocation_list() -> Vec<u8> {
    let section = |kind: u8, content: &[u8]| [&[kind][..], &strings(&[content])].concat();
    let serials = [7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
    let bitmap = [&100_u64.to_be_bytes()[..], &strings(&[&[0x55, 0xaa]])].concat();
    let certificates = [
        strings(&[b"", b""]),
        section(0x20, &serials),
        section(0x21, &serials),
        section(0x22, &bitmap),
        section(0x23, &strings(&[b"key id", b"another"])),
    ];
    let header = [&b"SSHKRL\n\0\0\0\0\x01"[..], &[0; 24], &strings(&[b"", b"comment"])].concat();
    let keys =
        [section(2, &strings(&[b"a key"])), section(5, &strings(&[&[1; 32]])), section(1, &certificates.concat())];
    [header, keys.concat()].concat()
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
    let (text, _) = &valid_texts()[1];
    let trusts =
        |revoked: &[u8]| Trust::parse(text, revoked).expect("both files").trusts(&certified(), Role::Request, 0, true);
    assert!(trusts(b"") && !trusts(&revocation_list()));
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
        let _ = SshSig::parse(&bytes).map(|signature| signature.verify(PAYLOAD));
        let _ = PublicKey::parse(&bytes);
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
        let (text, _) = &valid_texts()[1];
        if let Ok(trust) = Trust::parse(text, &bytes) {
            let _ = trust.trusts(&certified(), Role::Request, 0, true);
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
