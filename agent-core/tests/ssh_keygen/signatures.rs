//! Signatures by plain keys: algorithms, changed bytes, armor, namespaces.

use postern_core::envelope::{Envelope, Purpose, verify};
use postern_core::refusal::{Attribution, Reason};
use postern_core::ssh::dearmor;
use postern_core::trust::Trust;

use crate::lab::{
    ALICE, Case, Lab, NOON, PAYLOAD, REQUEST, SecurityKey, TOUCHED, VERIFIED, armor, reason, sshsig, strings,
};

#[test]
fn every_algorithm_on_the_list_is_accepted() {
    let lab = Lab::new();
    for (name, options) in [
        ("ed25519", "-t ed25519"),
        ("p256", "-t ecdsa -b 256"),
        ("p384", "-t ecdsa -b 384"),
        ("rsa3072", "-t rsa -b 3072"),
        ("rsa4096", "-t rsa -b 4096"),
    ] {
        let key = lab.key(name, options);
        let trust = format!("{ALICE} {}\n", key.public());
        let signature = key.sign(Purpose::Request, PAYLOAD);
        let verified = Case::new(&trust, &signature).agrees(&lab).expect(name);
        assert_eq!(verified.role, Purpose::Request);
        assert_eq!(verified.payload_digest[..], *ring::digest::digest(&ring::digest::SHA256, PAYLOAD).as_ref());
        let [signer] = &verified.signers[..] else { panic!("{verified:?}") };
        assert_eq!((signer.principal.as_str(), &signer.fingerprint), (ALICE, &key.fingerprint()));
        assert_eq!(signer.certificate, None);
        // Shells strip the last line's end.
        Case::new(&trust, signature.trim_end()).ours().expect("the same without its last line end");
    }
}

#[test]
fn both_hash_algorithms_are_accepted() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ed25519");
    let trust = format!("{ALICE} {}\n", key.public());
    for hash in ["sha256", "sha512"] {
        let option = format!("hashalg={hash}");
        let signature = key.sign_as(Purpose::Request.namespace(), PAYLOAD, &["-O", &option]);
        Case::new(&trust, &signature).agrees(&lab).expect(hash);
    }
}

#[test]
fn security_keys_are_accepted_when_touched() {
    let lab = Lab::new();
    for (name, token) in [("sk1", SecurityKey::ed25519()), ("sk2", SecurityKey::p256())] {
        let key = lab.public_key(name, &token.public());
        let trust = format!("{ALICE} {}\n", token.public());
        let sign = |flags| token.sshsig(&key.blob(), Purpose::Request.namespace(), flags, PAYLOAD);
        let verified = Case::new(&trust, &sign(TOUCHED)).agrees(&lab).expect(name);
        assert_eq!(verified.signers[0].fingerprint, key.fingerprint());
        Case::new(&trust, &sign(TOUCHED | VERIFIED)).agrees(&lab).expect(name);
        // Stated exception: ssh-keygen does not ask for the touch.
        for untouched in [0, VERIFIED] {
            let signature = sign(untouched);
            let case = Case::new(&trust, &signature);
            assert_eq!(reason(case.ours()), Reason::UserPresenceMissing);
            assert!(lab.ssh_accepts(&case, ALICE, Purpose::Request.namespace()), "the signature itself is right");
        }
        let touched = sign(TOUCHED);
        let tampered = Case { payload: b"{}", ..Case::new(&trust, &touched) };
        assert_eq!(reason(tampered.agrees(&lab)), Reason::SignatureInvalid);
    }
}

#[test]
fn algorithms_off_the_list_are_refused_in_the_file_and_in_the_signature() {
    let lab = Lab::new();
    let good = lab.key("good", "-t ed25519");
    let good_line = format!("{ALICE} {}\n", good.public());
    // Stated exception: ssh-keygen accepts these.
    for (name, options, words) in [
        ("p521", "-t ecdsa -b 521", "ecdsa-sha2-nistp521 keys are not accepted"),
        ("rsa2048", "-t rsa -b 2048", "RSA keys of 2048 bits"),
    ] {
        let key = lab.key(name, options);
        let line = format!("{ALICE} {}\n", key.public());
        let error = Trust::parse(&format!("{good_line}{line}"), b"").expect_err(name);
        assert!(error.line == 2 && error.reason.contains(words), "{error}");
        let signature = key.sign(Purpose::Request, PAYLOAD);
        assert_eq!(reason(Case::new(&good_line, &signature).ours()), Reason::AlgorithmNotAllowed);
        assert!(lab.ssh_accepts(&Case::new(&line, &signature), ALICE, Purpose::Request.namespace()));
    }
}

#[test]
fn rsa_with_sha256_is_refused() {
    let lab = Lab::new();
    let key = lab.key("rsa", "-t rsa -b 3072 -m PKCS8");
    let pem: String = lab.read("rsa").lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, pem).expect("a PEM file");
    let pair = ring::signature::RsaKeyPair::from_pkcs8(&der).expect("an RSA key");
    let sign = |name: &[u8], padding: &'static dyn ring::signature::RsaEncoding| {
        sshsig(&key.blob(), Purpose::Request.namespace(), PAYLOAD, |message| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(padding, &ring::rand::SystemRandom::new(), message, &mut signature).expect("a signature");
            strings(&[name, &signature])
        })
    };
    let trust = format!("{ALICE} {}\n", key.public());
    let sha512 = sign(b"rsa-sha2-512", &ring::signature::RSA_PKCS1_SHA512);
    Case::new(&trust, &sha512).agrees(&lab).expect("the same way with SHA-512");
    // Stated exception: ssh-keygen accepts it.
    let sha256 = sign(b"rsa-sha2-256", &ring::signature::RSA_PKCS1_SHA256);
    let case = Case::new(&trust, &sha256);
    assert_eq!(reason(case.ours()), Reason::AlgorithmNotAllowed);
    assert!(lab.ssh_accepts(&case, ALICE, Purpose::Request.namespace()));
}

#[test]
fn every_changed_byte_breaks_a_signature() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ecdsa -b 256");
    let trust = format!("{ALICE} {}\n", key.public());
    let signature = key.sign(Purpose::Request, PAYLOAD);
    let bytes = dearmor(&signature).expect("armor");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x80;
        let armored = armor(&changed);
        let refusal = Case::new(&trust, &armored).agrees(&lab).expect_err("a changed byte");
        assert_eq!(refusal.reason.attribution(), Attribution::Unverified, "{refusal:?}");
    }
    for length in 0..bytes.len() {
        Case::new(&trust, &armor(&bytes[..length])).ours().expect_err("a truncated signature");
    }
    let trailing = armor(&[&bytes[..], b"\0"].concat());
    assert_eq!(reason(Case::new(&trust, &trailing).agrees(&lab)), Reason::SignatureMalformed);
    for payload in [&b""[..], b"{}", &PAYLOAD[1..]] {
        let case = Case { payload, ..Case::new(&trust, &signature) };
        assert_eq!(reason(case.agrees(&lab)), Reason::SignatureInvalid);
    }
}

#[test]
fn a_signature_has_one_encoding() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ecdsa -b 256");
    let trust = format!("{ALICE} {}\n", key.public());
    let bytes = dearmor(&key.sign(Purpose::Request, PAYLOAD)).expect("armor");
    let version_0 = [b"SSHSIG\0\0\0\0", &bytes[10..]].concat();
    let with_reserved = {
        let namespace = strings(&[Purpose::Request.namespace().as_bytes()]);
        let after =
            bytes.windows(namespace.len()).position(|w| w == namespace).expect("the namespace") + namespace.len();
        [&bytes[..after], &strings(&[b"reserved"]), &bytes[after + 4..]].concat()
    };
    let padded_number = {
        // The signature is the last string; in it the algorithm, then r and s in a string of their own.
        let head = strings(&[&b"ecdsa-sha2-nistp256"[..]]);
        let at = bytes.windows(head.len()).rposition(|w| w == head).expect("the algorithm") + head.len();
        let numbers = &bytes[at + 4..];
        let r_length = usize::from(numbers[3]);
        let (r, s) = (&numbers[4..4 + r_length], &numbers[8 + r_length..]);
        let padded = strings(&[&[&[0], r].concat(), s]);
        let signature = [&head[..], &strings(&[&padded])].concat();
        [&bytes[..at - head.len() - 4], &strings(&[&signature])].concat()
    };
    // Stated exceptions: ssh-keygen accepts these.
    for (other, name) in [(version_0, "version 0"), (with_reserved, "reserved"), (padded_number, "padded r")] {
        let armored = armor(&other);
        let case = Case::new(&trust, &armored);
        assert_eq!(reason(case.ours()), Reason::SignatureMalformed, "{name}");
        assert!(lab.ssh_accepts(&case, ALICE, Purpose::Request.namespace()), "{name}");
    }
}

#[test]
fn the_armor_is_taken_strictly() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ed25519");
    let trust = format!("{ALICE} {}\n", key.public());
    let good = key.sign(Purpose::Request, PAYLOAD);
    Case::new(&trust, &good).agrees(&lab).expect("the signature as it is");
    for bad in [
        String::new(),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}{good}"),
        good.replace('\n', "\r\n"),
        good.replace('\n', ""),
        good.replace("BEGIN SSH", "BEGIN"),
        good.replace("-----END", "\n-----END"),
        good.replacen("U1NIU0lH", "U1NI U0lH", 1),
        good.replacen("U1NIU0lH", "U1NIU0l", 1),
        good.replacen("U1NIU0lH", "____", 1),
    ] {
        assert_eq!(reason(Case::new(&trust, &bad).ours()), Reason::SignatureMalformed, "{bad:?}");
    }
    let huge = good.replace("-----END", &format!("{}\n-----END", "A".repeat(70 * 300)));
    assert_eq!(reason(Case::new(&trust, &huge).ours()), Reason::MessageTooLarge);
}

#[test]
fn a_signature_for_one_purpose_does_not_serve_another() {
    let lab = Lab::new();
    let key = lab.key("key", "-t ed25519");
    let trust = format!("{ALICE} {}\n", key.public());
    for namespace in ["approve@postern.v1", "revoke@postern.v1", "admin@postern.v1", "read@postern.v1", "file", "git"] {
        let signature = key.sign_as(namespace, PAYLOAD, &[]);
        let reason = reason(Case::new(&trust, &signature).agrees(&lab));
        // An approval alone is in place on a request, but it is not one.
        let expected =
            if namespace.starts_with("approve") { Reason::EnvelopeMalformed } else { Reason::NamespaceMismatch };
        assert_eq!(reason, expected, "{namespace}");
    }
    let trust = Trust::parse(&trust, b"").expect("a trust file");
    for (payload_type, role) in [
        (REQUEST, Purpose::Request),
        ("application/vnd.postern.revoke-request.v1+json", Purpose::Revoke),
        ("application/vnd.postern.read-request.v1+json", Purpose::Read),
    ] {
        for signed in Purpose::ALL {
            let signature = key.sign(signed, PAYLOAD);
            let envelope = Envelope { payload: PAYLOAD, payload_type, signatures: vec![&signature] };
            let answer = verify(&envelope, &trust, NOON, true);
            assert_eq!(answer.is_ok(), signed == role, "{payload_type} signed as {signed:?}: {answer:?}");
        }
    }
}

#[test]
fn approvals_stand_beside_one_request() {
    let lab = Lab::new();
    let (alice, bob) = (lab.key("alice", "-t ed25519"), lab.key("bob", "-t ed25519"));
    let trust = format!("{ALICE} {}\nbob@example.com {}\n", alice.public(), bob.public());
    let trust = Trust::parse(&trust, b"").expect("a trust file");
    let request = alice.sign(Purpose::Request, PAYLOAD);
    let (approval, own) = (bob.sign(Purpose::Approve, PAYLOAD), alice.sign(Purpose::Approve, PAYLOAD));
    let second = bob.sign(Purpose::Request, PAYLOAD);
    let stray = bob.sign(Purpose::Approve, b"other bytes");
    let judge = |signatures: &[&String]| {
        let signatures = signatures.iter().map(|s| s.as_str()).collect();
        verify(&Envelope { payload: PAYLOAD, payload_type: REQUEST, signatures }, &trust, NOON, true)
    };
    for order in [[&request, &approval], [&approval, &request]] {
        let names: Vec<_> = judge(&order).expect("a request with its approval").signers;
        let names: Vec<_> = names.iter().map(|s| s.principal.as_str()).collect();
        assert_eq!(names, [ALICE, "bob@example.com"]);
    }
    assert_eq!(reason(judge(&[&request, &own])), Reason::EnvelopeMalformed);
    assert_eq!(reason(judge(&[&request, &second])), Reason::EnvelopeMalformed);
    assert_eq!(reason(judge(&[&approval])), Reason::EnvelopeMalformed);
    assert_eq!(reason(judge(&[&request, &stray])), Reason::SignatureInvalid);
    assert_eq!(reason(judge(&[])), Reason::Unsigned);
    assert_eq!(reason(judge(&[&request; 9])), Reason::MessageTooLarge);
}
