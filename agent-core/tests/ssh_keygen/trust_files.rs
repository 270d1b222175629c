//! What the trust file says, at the time of a signature and after a reload.

use postern_core::envelope::{Purpose, verify};
use postern_core::refusal::Reason;
use postern_core::trust::Trust;
use proptest::prelude::*;

use crate::lab::{ALICE, Case, Lab, NOON, PAYLOAD, reason};

#[test]
fn the_trust_file_says_who_may_sign_what() {
    let lab = Lab::new();
    let (key, other) = (lab.key("key", "-t ed25519"), lab.key("other", "-t ed25519"));
    let (public, stranger) = (key.public(), other.public());
    let signature = key.sign(Purpose::Request, PAYLOAD);
    let cases: &[(&str, Result<&str, Reason>)] = &[
        ("", Err(Reason::KeyUnknown)),
        ("alice@example.com STRANGER", Err(Reason::KeyUnknown)),
        ("alice@example.com cert-authority KEY", Err(Reason::KeyUnknown)),
        ("# a comment\n\nalice@example.com STRANGER\nalice@example.com KEY\n", Ok(ALICE)),
        ("alice@example.com,bob@example.com KEY a comment", Ok(ALICE)),
        ("bob@example.com,alice@example.com KEY", Ok("bob@example.com")),
        ("\"alice@example.com\" KEY", Ok(ALICE)),
        ("alice@example.com namespaces=\"request@postern.v1\" KEY", Ok(ALICE)),
        ("alice@example.com NameSpaces=\"read@postern.v1,request@*\" KEY", Ok(ALICE)),
        ("alice@example.com namespaces=\"*@postern.v1,!request@postern.v1\" KEY", Err(Reason::RoleNotTrusted)),
        ("alice@example.com namespaces=\"re?d@postern.v1\" KEY", Err(Reason::RoleNotTrusted)),
        ("alice@example.com namespaces=\"read@postern.v1\" KEY\nbob@example.com KEY", Ok("bob@example.com")),
        ("alice@example.com valid-after=\"20260615Z\",valid-before=\"20260616Z\" KEY", Ok(ALICE)),
        ("alice@example.com valid-after=\"20260615120000Z\" KEY", Ok(ALICE)),
        ("alice@example.com valid-after=\"20260615120001Z\" KEY", Err(Reason::KeyNotYetValid)),
        ("alice@example.com valid-before=\"202606151200Z\" KEY", Ok(ALICE)),
        ("alice@example.com valid-before=\"20260615115959Z\" KEY", Err(Reason::KeyExpired)),
        ("alice@example.com valid-before=\"20200101Z\" KEY\nbob@example.com KEY", Ok("bob@example.com")),
    ];
    for (trust, expected) in cases {
        let trust = trust.replace("KEY", &public).replace("STRANGER", &stranger);
        let case = Case { candidates: &[ALICE, "bob@example.com"], ..Case::new(&trust, &signature) };
        let answer = case.agrees(&lab).map(|v| v.signers[0].principal.clone()).map_err(|r| r.reason);
        assert_eq!(answer, expected.map(str::to_owned), "{trust}");
    }
}

/// Random trust files out of pieces that both judges read; KEY, OTHER and CA stand for keys.
fn trust_files() -> impl Strategy<Value = String> {
    let who = "(\"?)(alice|bob|a\\*|\\*|!bob|al\\?ce)(,(alice|bob|\\*b|!alice|!bob)){0,2}";
    let when = [
        "valid-after=\"20260615Z\"",
        "valid-after=\"20260616Z\"",
        "valid-before=\"202606151200Z\"",
        "Valid-Before=\"20260614Z\"",
    ];
    let what = [
        "namespaces=\"request@postern.v1\"",
        "namespaces=\"re*,!read@*\"",
        "namespaces=\"*,!request@*\"",
        "NAMESPACES=\"a b\"",
    ];
    let option = prop_oneof![
        2 => Just("cert-authority".to_owned()),
        1 => prop::sample::select(when.to_vec()).prop_map(str::to_owned),
        1 => prop::sample::select(what.to_vec()).prop_map(str::to_owned),
    ];
    let options = prop::collection::vec(option, 0..3).prop_map(|list| list.join(","));
    let key = prop::sample::select(vec!["KEY", "KEY", "OTHER", "CA", "CA", "KEY # comment"]);
    let blank = || prop::sample::select(vec![" ", "  ", "\t"]);
    let line = (who, blank(), options, blank(), key).prop_map(|(who, b1, options, b2, key)| {
        let close = if who.starts_with('"') { "\"" } else { "" };
        let options = if options.is_empty() { String::new() } else { format!("{options}{b2}") };
        format!("{who}{close}{b1}{options}{key}")
    });
    prop::collection::vec(prop_oneof![9 => line, 1 => Just("# a comment".to_owned())], 1..4)
        .prop_map(|lines| lines.join("\n"))
}

#[test]
fn random_trust_files_are_read_as_ssh_keygen_reads_them() {
    let lab = Lab::new();
    let (key, ca, other) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"), lab.key("other", "-t ed25519"));
    key.certify(&ca, &["-n", "bob,alice"]);
    let signatures = [key.sign(Purpose::Request, PAYLOAD), key.sign_certified(Purpose::Request, PAYLOAD)];
    let mut judged = std::collections::BTreeMap::new();
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let judged_ref = std::cell::RefCell::new(&mut judged);
    let outcome = runner.run(&trust_files(), |text| {
        let text = text.replace("KEY", &key.public()).replace("OTHER", &other.public()).replace("CA", &ca.public());
        // What ssh-keygen would skip, we refuse as a whole: nothing to compare.
        prop_assume!(Trust::parse(&text, b"").is_ok());
        for signature in &signatures {
            let case = Case { candidates: &["alice", "bob"], ..Case::new(&text, signature) };
            let answer = case.agrees(&lab).map(drop).map_err(|refusal| refusal.reason);
            *judged_ref.borrow_mut().entry(format!("{answer:?}")).or_insert(0) += 1;
        }
        Ok(())
    });
    outcome.expect("no disagreement");
    // The comparison is worth something only if it saw acceptance and each kind of refusal.
    assert!(judged.len() >= 5, "too few kinds of answers: {judged:?}");
}

#[test]
fn an_untrusted_clock_leaves_only_keys_without_dates() {
    let lab = Lab::new();
    let (key, ca) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"));
    let signature = key.sign(Purpose::Request, PAYLOAD);
    let judge = |options: &str, signature: &str| {
        let trust = format!("{ALICE}{options} {}\n{ALICE} cert-authority {}\n", key.public(), ca.public());
        let trust = Trust::parse(&trust, b"").expect("a trust file");
        verify(&Case::new("", signature).envelope(), &trust, 0, false)
    };
    judge("", &signature).expect("a key without dates");
    assert_eq!(reason(judge(" valid-before=\"20991231Z\"", &signature)), Reason::KeyWindowUnknowable);
    assert_eq!(reason(judge(" valid-after=\"20000101Z\"", &signature)), Reason::KeyWindowUnknowable);
    key.certify(&ca, &["-n", ALICE]);
    judge("", &key.sign_certified(Purpose::Request, PAYLOAD)).expect("a certificate for ever");
    key.certify(&ca, &["-n", ALICE, "-V", "20260101:20270101"]);
    let dated = judge("", &key.sign_certified(Purpose::Request, PAYLOAD));
    assert_eq!(reason(dated), Reason::KeyWindowUnknowable);
}

#[test]
fn a_reload_ends_trust_in_those_who_were_taken_out() {
    let lab = Lab::new();
    let (key, ca, other) = (lab.key("key", "-t ed25519"), lab.key("ca", "-t ed25519"), lab.key("other", "-t ed25519"));
    let fill =
        |text: &str| text.replace("CA", &ca.public()).replace("KEY", &key.public()).replace("OTHER", &other.public());
    let first = fill("alice@example.com KEY\n*@example.com cert-authority CA\n");
    key.certify(&ca, &["-n", ALICE, "-V", "20260101:20260616"]);
    let plain =
        Case::new(&first, &key.sign(Purpose::Request, PAYLOAD)).ours().expect("the plain key").signers.remove(0);
    let certified = key.sign_certified(Purpose::Request, PAYLOAD);
    let certified = Case::new(&first, &certified).ours().expect("the certificate").signers.remove(0);
    let stored = |signer| serde_json::from_str(&serde_json::to_string(&signer).expect("JSON")).expect("the same");
    let (plain, certified) = (stored(plain), stored(certified));
    // (trust file, revoked, is the plain key still trusted, is the certificate)
    for (text, revoked, by_key, by_certificate) in [
        ("alice@example.com KEY\n*@example.com cert-authority CA", "", true, true),
        ("alice@example.com KEY", "", true, false),
        ("*@example.com cert-authority CA", "", false, true),
        ("", "", false, false),
        ("alice@example.com OTHER\n*@example.com cert-authority OTHER", "", false, false),
        ("bob@example.com KEY\n*@example.com,!alice@example.com cert-authority CA", "", false, false),
        ("alice@example.com namespaces=\"read@*\" KEY\n* cert-authority,namespaces=\"read@*\" CA", "", false, false),
        (
            "alice@example.com valid-before=\"20260101Z\" KEY\n* cert-authority,valid-before=\"20260101Z\" CA",
            "",
            false,
            false,
        ),
        ("alice@example.com KEY\n*@example.com cert-authority CA", "KEY", false, false),
        ("alice@example.com KEY\n*@example.com cert-authority CA", "CA", true, false),
    ] {
        let trust = Trust::parse(&fill(text), fill(revoked).as_bytes()).expect(text);
        let judge = |signer| trust.trusts(signer, Purpose::Request, NOON, true);
        assert_eq!((judge(&plain), judge(&certified)), (by_key, by_certificate), "{text:?}, revoked {revoked:?}");
    }
    // The certificate has ended, the grant that it asked for has not.
    let trust = Trust::parse(&first, b"").expect("the first file");
    assert!(trust.trusts(&certified, Purpose::Request, NOON + 10 * 86_400, true));
    // A clock that is not trusted ends nothing that runs.
    let dated = Trust::parse(&fill("alice@example.com valid-before=\"20260101Z\" KEY"), b"").expect("dates");
    assert!(dated.trusts(&plain, Purpose::Request, 0, false));
}
