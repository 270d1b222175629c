//! Signatures by keys with a certificate.

use postern_core::envelope::Purpose;
use postern_core::refusal::Reason;
use postern_core::ssh::dearmor;

use crate::lab::{ALICE, Case, Lab, PAYLOAD, SecurityKey, TOUCHED, VERIFIED, armor, reason};

#[test]
fn certificates_of_every_algorithm_are_accepted() {
    let lab = Lab::new();
    let kinds =
        [("ed25519", "-t ed25519"), ("p256", "-t ecdsa -b 256"), ("p384", "-t ecdsa -b 384"), ("rsa", "-t rsa")];
    let authorities: Vec<_> = kinds.iter().map(|(name, options)| lab.key(&format!("ca-{name}"), options)).collect();
    for (at, (name, options)) in kinds.iter().enumerate() {
        let key = lab.key(name, options);
        for authority in [&authorities[at], &authorities[(at + 1) % kinds.len()]] {
            key.certify(authority, &["-n", "someone,alice@example.com", "-z", "42"]);
            let trust = format!("*@example.com,!eve@example.com cert-authority {}\n", authority.public());
            let signature = key.sign_certified(Purpose::Request, PAYLOAD);
            let verified = Case::new(&trust, &signature).agrees(&lab).expect(name);
            let signer = &verified.signers[0];
            assert_eq!((signer.principal.as_str(), &signer.fingerprint), (ALICE, &key.fingerprint()));
            let vouched = signer.certificate.as_ref().expect("the certificate's facts");
            assert_eq!((vouched.serial, vouched.key_id.as_str()), (42, "the key id"));
            assert_eq!(vouched.authority, authority.fingerprint());
        }
    }
}

#[test]
fn certificates_are_judged_as_ssh_keygen_does() {
    let lab = Lab::new();
    let (key, ca, other) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"), lab.key("other", "-t ed25519"));
    let any = format!("*@example.com cert-authority {}\n", ca.public());
    let of_other = format!("*@example.com cert-authority {}\n", other.public());
    let key_alone = format!("{ALICE} {}\n", key.public());
    let ca_as_key = format!("{ALICE} {}\n", ca.public());
    let but_eve = format!("*@example.com,!eve@example.com cert-authority {}\n", ca.public());
    let for_reading = format!("* cert-authority,namespaces=\"read@postern.v1\" {}\n", ca.public());
    let dated = format!("* cert-authority,valid-before=\"20260101Z\" {}\n", ca.public());
    let cases: &[(&[&str], &str, Result<&str, Reason>)] = &[
        (&["-n", ALICE], &any, Ok(ALICE)),
        (&["-n", "carol@example.com,alice@example.com"], &any, Ok("carol@example.com")),
        (&["-n", "root,eve@example.com,alice@example.com"], &but_eve, Ok(ALICE)),
        (&["-n", "eve@example.com"], &but_eve, Err(Reason::CertificateInvalid)),
        (&["-n", "alice@example.org"], &any, Err(Reason::CertificateInvalid)),
        (&[], &any, Err(Reason::CertificateInvalid)),
        (&["-n", "*@example.com"], &any, Ok("*@example.com")),
        (&["-n", ALICE], &of_other, Err(Reason::KeyUnknown)),
        (&["-n", ALICE], &key_alone, Err(Reason::KeyUnknown)),
        (&["-n", ALICE], &ca_as_key, Err(Reason::KeyUnknown)),
        (&["-n", ALICE], &for_reading, Err(Reason::RoleNotTrusted)),
        (&["-n", ALICE], &dated, Err(Reason::KeyExpired)),
        (&["-h", "-n", ALICE], &any, Err(Reason::CertificateInvalid)),
        (&["-n", ALICE, "-V", "20260101:20270101"], &any, Ok(ALICE)),
        (&["-n", ALICE, "-V", "20260615120000:20260615120001"], &any, Ok(ALICE)),
        (&["-n", ALICE, "-V", "20260615115959:20260615120000"], &any, Err(Reason::KeyExpired)),
        (&["-n", ALICE, "-V", "20260615120001:20270101"], &any, Err(Reason::KeyNotYetValid)),
        (&["-n", ALICE, "-O", "no-pty", "-O", "extension:x@example.com=1"], &any, Ok(ALICE)),
    ];
    let candidates = &[ALICE, "carol@example.com", "eve@example.com", "alice@example.org", "*@example.com"];
    for (options, trust, expected) in cases {
        key.certify(&ca, options);
        let signature = key.sign_certified(Purpose::Request, PAYLOAD);
        let case = Case { candidates, ..Case::new(trust, &signature) };
        let answer = case.agrees(&lab).map(|v| v.signers[0].principal.clone()).map_err(|r| r.reason);
        assert_eq!(answer, expected.map(str::to_owned), "{options:?} {trust}");
    }
}

#[test]
fn restricted_certificates_are_refused() {
    let lab = Lab::new();
    let (key, ca) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"));
    let trust = format!("* cert-authority {}\n", ca.public());
    // Stated exception: ssh-keygen -Y verify does not look at critical options.
    for option in ["force-command=ls", "source-address=192.0.2.0/24", "critical:x@example.com", "verify-required"] {
        key.certify(&ca, &["-n", ALICE, "-O", option]);
        let signature = key.sign_certified(Purpose::Request, PAYLOAD);
        let case = Case::new(&trust, &signature);
        assert_eq!(reason(case.ours()), Reason::CertificateInvalid, "{option}");
        assert!(lab.ssh_accepts(&case, ALICE, Purpose::Request.namespace()));
    }
}

#[test]
fn a_certificate_of_a_security_key_may_want_its_holder_checked() {
    let lab = Lab::new();
    let ca = lab.key("ca", "-t ed25519");
    let trust = format!("* cert-authority {}\n", ca.public());
    for (name, token) in [("sk1", SecurityKey::ed25519()), ("sk2", SecurityKey::p256())] {
        let key = lab.public_key(name, &token.public());
        let sign = |flags| token.sshsig(&key.certificate(), Purpose::Request.namespace(), flags, PAYLOAD);
        key.certify(&ca, &["-n", ALICE]);
        let verified = Case::new(&trust, &sign(TOUCHED)).agrees(&lab).expect("a touch is enough");
        assert_eq!(verified.signers[0].fingerprint, key.fingerprint());
        key.certify(&ca, &["-n", ALICE, "-O", "verify-required"]);
        assert_eq!(reason(Case::new(&trust, &sign(TOUCHED)).ours()), Reason::CertificateInvalid);
        Case::new(&trust, &sign(TOUCHED | VERIFIED)).agrees(&lab).expect("touch and PIN");
        key.certify(&ca, &["-n", ALICE, "-O", "force-command=ls", "-O", "verify-required"]);
        let restricted = sign(TOUCHED | VERIFIED);
        assert_eq!(reason(Case::new(&trust, &restricted).ours()), Reason::CertificateInvalid);
    }
}

#[test]
fn every_changed_byte_breaks_a_certificate() {
    let lab = Lab::new();
    let (key, ca) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"));
    key.certify(&ca, &["-n", ALICE]);
    let trust = format!("* cert-authority {}\n", ca.public());
    let signature = key.sign_certified(Purpose::Request, PAYLOAD);
    Case::new(&trust, &signature).agrees(&lab).expect("the signature as it is");
    let bytes = dearmor(&signature).expect("armor");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x80;
        Case::new(&trust, &armor(&changed)).agrees(&lab).expect_err("a changed byte");
    }
}
