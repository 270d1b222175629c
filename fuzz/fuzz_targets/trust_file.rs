//! Trust files and revocation lists: errors name a line that is there, and a revocation only ever takes trust away.
//!
//! The first byte says what follows: `t` a trust file, `r` a revocation list to a valid trust file, `b` a trust file, a zero byte
//! and a list.
//!
//! `cargo fuzz run trust_file`
#![no_main]

// Each target needs only some of it.
#[allow(dead_code)]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern_core::envelope::{Envelope, Role, Signer, verify};
use postern_core::trust::{Trust, TrustError, TrustFile};

/// What is valid: trust files, with somebody who signed under each.
static VALID: LazyLock<Vec<(String, Signer)>> = LazyLock::new(|| {
    let signer = |(text, bytes): (String, Vec<u8>)| {
        let trust = Trust::parse(&text, b"").expect("a valid trust file");
        let (payload_type, armored) = ("application/vnd.postern.access-request.v1+json", valid::armor(&bytes));
        let envelope = Envelope { payload: valid::PAYLOAD, payload_type, signatures: vec![&armored] };
        let verified = verify(&envelope, &trust, 0, true).expect("a valid signature");
        (text, verified.signers.into_iter().next().expect("a signer"))
    };
    valid::texts().into_iter().map(signer).collect()
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind {
        b't' => judge(&String::from_utf8_lossy(rest), b""),
        b'r' => VALID.iter().for_each(|(text, _)| judge(text, rest)),
        b'b' => {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
            judge(&text, parts.next().unwrap_or_default());
        }
        _ => {}
    }
});

fn judge(text: &str, list: &[u8]) {
    let with = match Trust::parse(text, list) {
        Ok(trust) => trust,
        Err(error) => return located(&error, text, list),
    };
    let without = Trust::parse(text, b"").expect("no revocation list makes a trust file valid");
    shown(text, &with);
    VALID.iter().for_each(|(_, signer)| takes_away(&with, &without, signer));
}

fn located(error: &TrustError, text: &str, list: &[u8]) {
    let lines = match error.file {
        TrustFile::AllowedSigners => text.split('\n').count(),
        TrustFile::Revoked => list.split(|byte| *byte == b'\n').count(),
    };
    assert!(error.line <= lines && !error.reason.is_empty(), "{error:?} of {lines} lines");
    assert!(error.file == TrustFile::Revoked || error.line > 0, "{error:?}");
    // It goes to a terminal and into a log.
    assert!(!error.reason.chars().any(char::is_control), "{error:?}");
}

/// What `check-config` shows of it.
fn shown(text: &str, trust: &Trust) {
    let lines = text.split('\n').count();
    assert!(trust.len() <= lines && trust.entries().count() == trust.len());
    for entry in trust.entries() {
        assert!((1..=lines).contains(&entry.line()) && entry.fingerprint().starts_with("SHA256:"));
        assert!(!entry.principals().is_empty() && entry.purposes().count() <= Role::ALL.len());
        let first = entry.principals().into_iter().next().unwrap_or_default();
        assert!(entry.is_authority() || entry.names(&first), "a holder who does not hold his key");
        let _ = (entry.valid_after(), entry.valid_before(), entry.is_revoked());
        let _ = entry.check(0);
    }
}

fn takes_away(with: &Trust, without: &Trust, signer: &Signer) {
    for role in Role::ALL {
        for (now, clock_trusted) in [(0, true), (i64::MAX, true), (i64::MIN, true), (1_767_225_600, true), (0, false)] {
            let trusted = |trust: &Trust| trust.trusts(signer, role, now, clock_trusted);
            assert!(!trusted(with) || trusted(without), "a revocation list makes {signer:?} trusted");
        }
    }
}
