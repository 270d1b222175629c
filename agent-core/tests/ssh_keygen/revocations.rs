//! Revoked keys and certificates, listed in text and in binary revocation lists that `ssh-keygen -k` made. `ssh-keygen -Q` is a third
//! judge.

use std::path::Path;
use std::process::Command;

use postern_core::envelope::{Purpose, verify};
use postern_core::refusal::Reason;
use postern_core::trust::{Trust, TrustFile};

use crate::lab::{ALICE, Case, Key, Lab, NOON, PAYLOAD, reason, run, status, strings};

#[test]
fn revoked_keys_are_refused() {
    let lab = Lab::new();
    let (key, other) = (lab.key("key", "-t ed25519"), lab.key("other", "-t ecdsa"));
    let trust = format!("{ALICE} {}\n", key.public());
    let signature = key.sign(Purpose::Request, PAYLOAD);
    let judge = |revoked: &str| Case { revoked: revoked.as_bytes(), ..Case::new(&trust, &signature) }.agrees(&lab);
    judge(&format!("# none of ours\n\n{}\n", other.public())).expect("another key is revoked");
    let both = format!("{}\n{} with a comment\n", other.public(), key.public());
    assert_eq!(reason(judge(&both)), Reason::KeyRevoked);
    // Ours alone: ssh-keygen knows fingerprints in revocation lists only.
    let by_fingerprint = Trust::parse(&trust, key.fingerprint().as_bytes()).expect("a fingerprint");
    let answer = verify(&Case::new(&trust, &signature).envelope(), &by_fingerprint, NOON, true);
    assert_eq!(reason(answer), Reason::KeyRevoked);
    let error = Trust::parse(&trust, b"# fine\nSHA256:short\n").expect_err("a malformed fingerprint");
    assert_eq!(error.line, 2);
}

#[test]
fn revocation_reaches_certificates() {
    let lab = Lab::new();
    let (key, ca) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"));
    key.certify(&ca, &["-n", ALICE]);
    let trust = format!("* cert-authority {}\n", ca.public());
    let signature = key.sign_certified(Purpose::Request, PAYLOAD);
    for revoked in [key.public(), ca.public()] {
        let case = Case { revoked: revoked.as_bytes(), ..Case::new(&trust, &signature) };
        assert_eq!(reason(case.agrees(&lab)), Reason::KeyRevoked);
    }
}

/// Makes a revocation list. `authority` is what `-s` takes: a public key, or `none` for certificates of any.
fn krl(lab: &Lab, specification: &str, authority: Option<&Key<'_>>) -> Vec<u8> {
    let (path, input) = (lab.path("krl"), lab.write("specification", specification));
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-k", "-f"]).arg(&path).arg("-s");
    match authority {
        Some(key) => command.arg(key.public_path()),
        None => command.arg("none"),
    };
    run(command.arg(input), b"");
    std::fs::read(path).expect("the list that ssh-keygen made")
}

/// Asks all three judges whether `subject`, a public key or certificate that made `signature`, is revoked.
#[track_caller]
fn is_revoked(lab: &Lab, trust: &str, list: &[u8], subject: &Path, signature: &str) -> bool {
    let listed = !status(Command::new("ssh-keygen").arg("-Q").arg("-f").arg(lab.write("list", list)).arg(subject), b"");
    let answer = Case { revoked: list, ..Case::new(trust, signature) }.agrees(lab);
    let revoked = answer.as_ref().is_err_and(|refusal| refusal.reason == Reason::KeyRevoked);
    assert_eq!(revoked, answer.is_err(), "{answer:?}");
    assert_eq!(revoked, listed, "we say {revoked}, ssh-keygen -Q says {listed}");
    // The same after a reload, for a grant that was made before.
    let before = Case::new(trust, signature).ours().expect("not revoked without the list").signers.remove(0);
    let after = Trust::parse(trust, list).expect("the list").trusts(&before, Purpose::Request, NOON, true);
    assert_eq!(after, !revoked);
    revoked
}

#[test]
fn keys_are_revoked_in_each_form() {
    let lab = Lab::new();
    let (key, other, ca) = (lab.key("key", "-t ed25519"), lab.key("other", "-t ecdsa"), lab.key("ca", "-t ed25519"));
    let trust = format!("{ALICE} {}\n{ALICE} {}\n* cert-authority {}\n", key.public(), other.public(), ca.public());
    key.certify(&ca, &["-n", ALICE]);
    let certified = key.sign_certified(Purpose::Request, PAYLOAD);
    let (plain, others) = (key.sign(Purpose::Request, PAYLOAD), other.sign(Purpose::Request, PAYLOAD));
    for specification in [
        key.public(),
        format!("key: {}", key.public()),
        format!("sha256: {}", key.public()),
        format!("hash: {}", key.fingerprint()),
    ] {
        let list = krl(&lab, &format!("# a comment\n{specification}\n"), Some(&ca));
        assert!(is_revoked(&lab, &trust, &list, &key.public_path(), &plain), "{specification}");
        assert!(is_revoked(&lab, &trust, &list, &key.certificate_path(), &certified), "{specification}");
        assert!(!is_revoked(&lab, &trust, &list, &other.public_path(), &others), "{specification}");
    }
    let authority = krl(&lab, &format!("key: {}\n", ca.public()), Some(&other));
    assert!(is_revoked(&lab, &trust, &authority, &key.certificate_path(), &certified));
    assert!(!is_revoked(&lab, &trust, &authority, &key.public_path(), &plain));
    let empty = krl(&lab, "", Some(&ca));
    assert!(!is_revoked(&lab, &trust, &empty, &key.certificate_path(), &certified));
}

#[test]
fn certificates_are_revoked_by_serial_and_key_id() {
    let lab = Lab::new();
    let (key, ca, other) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"), lab.key("other", "-t ed25519"));
    let trust = format!("* cert-authority {}\n* cert-authority {}\n", ca.public(), other.public());
    let scattered: Vec<u64> = (1000..1400).filter(|n| n % 3 == 0 || n % 7 == 0).collect();
    let lines = |serials: &[u64]| serials.iter().map(|n| format!("serial: {n}\n")).collect::<String>();
    let lists = [
        krl(&lab, "serial: 5\nserial: 70000-80000\nserial: 18446744073709551615\n", Some(&ca)),
        krl(&lab, &lines(&scattered), Some(&ca)),
        krl(&lab, &format!("{}serial: 1300-1500\nserial: 9000000\n", lines(&scattered)), None),
        krl(&lab, "id: the key id\n", Some(&other)),
        krl(&lab, "id: another key id\n", Some(&ca)),
    ];
    // 0x22 is a bitmap of serials: without one, that form would not have been tried.
    assert!(lists[1].contains(&0x22));
    let mut counts = [0; 2];
    for serial in [0, 1, 4, 5, 6, 999, 1000, 1001, 1002, 1008, 1399, 1400, 1500, 1501, 70_000, 80_000, 80_001, u64::MAX]
    {
        for authority in [&ca, &other] {
            key.certify(authority, &["-n", ALICE, "-z", &serial.to_string()]);
            let signature = key.sign_certified(Purpose::Request, PAYLOAD);
            for list in &lists {
                let revoked = is_revoked(&lab, &trust, list, &key.certificate_path(), &signature);
                counts[usize::from(revoked)] += 1;
            }
        }
    }
    assert!(counts[0] > 20 && counts[1] > 20, "both answers occur: {counts:?}");
}

#[test]
fn what_cannot_be_honoured_makes_the_list_invalid() {
    let lab = Lab::new();
    let (key, ca) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"));
    let good = krl(&lab, &format!("serial: 5\nkey: {}\n", key.public()), Some(&ca));
    let error = |list: &[u8]| Trust::parse("", list).expect_err("a refused list");
    let by_sha1 = error(&krl(&lab, &format!("sha1: {}\n", key.public()), Some(&ca)));
    assert!(by_sha1.file == TrustFile::Revoked && by_sha1.reason.contains("SHA-1"), "{by_sha1}");
    // Section 1 comes first, so cutting at the end of the header leaves an empty list that is valid.
    let header = 8 + 4 + 8 * 3 + 4 + 4;
    for length in (1..good.len()).filter(|length| *length != header) {
        let whole_sections = Trust::parse("", &good[..length]).is_ok();
        assert!(!whole_sections || good[length] == 2, "cut at {length}");
    }
    for (section, words) in [
        (&b"\x04\0\0\0\0"[..], "signed"),
        (b"\x06\0\0\0\0", "unknown"),
        (b"\xff\0\0\0\x0a\0\0\0\x01x\x01\0\0\0\0", "critical"),
        (b"\x05\0\0\0\x05\0\0\0\x01x", "hash is malformed"),
    ] {
        let reason = error(&[&good[..], section].concat()).reason;
        assert!(reason.contains(words), "{reason}");
    }
    // Serial 0 means that the authority does not count, so no list may name it; ssh-keygen reads none that does.
    let zero = 0_u64.to_be_bytes();
    let signature = key.sign(Purpose::Request, PAYLOAD);
    let trust = format!("{ALICE} {}\n", key.public());
    for part in [
        [&b"\x20\0\0\0\x08"[..], &zero].concat(),
        [&b"\x21\0\0\0\x10"[..], &zero, &5_u64.to_be_bytes()].concat(),
        [&b"\x22\0\0\0\x0d"[..], &zero, b"\0\0\0\x01\x03"].concat(),
        [&b"\x22\0\0\0\x0d"[..], &u64::MAX.to_be_bytes(), b"\0\0\0\x01\x02"].concat(),
    ] {
        let section = [&[0; 8][..], &part].concat();
        let list = [&krl(&lab, "", Some(&ca))[..], b"\x01", &strings(&[&section])].concat();
        assert!(error(&list).reason.contains("serial"), "{list:?}");
        let case = Case { revoked: &list, ..Case::new(&trust, &signature) };
        assert!(!lab.ssh_accepts(&case, ALICE, Purpose::Request.namespace()));
    }
    let harmless = [&good[..], b"\xff\0\0\0\x0a\0\0\0\x01x\0\0\0\0\0"].concat();
    Trust::parse("", &harmless).expect("an extension that is not critical");
}
