//! Trust files and revocation lists: errors name a line that is there; whom the files trust and revoke, a twin says too; and nobody
//! signs whom they do not trust. A file that is broken in places gives nothing to whom the file before it did not trust.
//!
//! The first byte says what follows: `t` a trust file, `r` a revocation list to a valid trust file, `b` a trust file, a zero byte
//! and a list; `w` bytes that stand for words of both, and `k` such as make a binary list (`trust_words.rs`).
//!
//! `cargo fuzz run trust_file`
#![no_main]

// Each target needs only some of it.
mod short;
mod trust_twin;
mod trust_words;
#[allow(dead_code, reason = "the target needs only some of it")]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use std::sync::LazyLock;

use jiff::tz::TimeZone;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use postern_core::envelope::{Envelope, Purpose, Signer, Vouched, verify};
use postern_core::trust::{Remains, Revocations, Trust, TrustError, TrustFile};

/// What is valid: trust files, with a signature under each, and who made it.
static VALID: LazyLock<Vec<(String, String, Signer)>> = LazyLock::new(|| {
    let signer = |(text, bytes): (String, Vec<u8>)| {
        let trust = Trust::parse(&text, b"").expect("a valid trust file");
        let armored = valid::armor(&bytes);
        let signer = signer(&armored, &trust, 0, true).expect("a valid signature");
        (text, armored, signer)
    };
    valid::texts().into_iter().map(signer).collect()
});

/// Those, and others who never signed: with other names, and with certificates that differ in serial and key id.
static SIGNERS: LazyLock<Vec<Signer>> = LazyLock::new(|| {
    let mut signers: Vec<_> = VALID.iter().map(|(.., signer)| signer.clone()).collect();
    let named = |name: &str| Signer { principal: name.to_owned(), ..signers[0].clone() };
    let certified = |serial: u64, key_id: &str| {
        let authority = signers[1].certificate.as_ref().expect("a certificate").authority.clone();
        let certificate = Some(Vouched { authority, serial, key_id: key_id.to_owned() });
        Signer { certificate, ..signers[1].clone() }
    };
    let mut others =
        vec![named("bob"), named("Alice Smith"), certified(1 << 40, "another"), certified(1 << 40, "key id")];
    let serials = (0..11).chain([99, 100, 102, 103, 107, 108, 115, 255, 256, u64::MAX]);
    others.extend(serials.map(|serial| certified(serial, "")));
    signers.splice(2..2, others);
    signers
});

/// Who signed, if the trust file lets him.
fn signer(armored: &str, trust: &Trust, now: i64, clock_trusted: bool) -> Option<Signer> {
    let payload_type = "application/vnd.postern.access-request.v1+json";
    let envelope = Envelope { payload: valid::PAYLOAD, payload_type, signatures: vec![armored] };
    verify(&envelope, trust, now, clock_trusted).ok()?.signers.into_iter().next()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind {
        b't' => judge(&String::from_utf8_lossy(rest), b""),
        b'r' => lists(rest),
        b'k' => lists(&trust_words::list(rest)),
        b'b' => {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
            judge(&text, parts.next().unwrap_or_default());
        }
        b'w' => {
            let (text, list) = trust_words::files(rest);
            judge(&text, list.as_bytes());
        }
        _ => {}
    }
});

/// A holder, an authority that names alice, both; with a list; and lists.
const RIGHT: [&[u8]; 6] = [
    b"w\0\0\0\0",
    b"w\x03\x03\0\x01",
    b"w\0\x05\x09\0\x03\x03\x0c\x01",
    b"w\0\0\0\0\x03\x03\0\x01\xff\0\x01",
    b"k\x01\x02\x09",
    b"k\0\x07\x09\x02\x64\x55\x03\0\0",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    short::mutate(data, size, max_size, seed, &RIGHT)
});

/// A file that is broken in places, in place of one that is not: it gives nothing, and what is missing is named.
fn limits(text: &str, list: &[u8]) {
    // Summer time, and moments that are left out.
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
    let broken = Remains::of(text.as_bytes(), Some(&zone));
    if let Ok(whole) = Trust::parse(text, b"") {
        assert!(broken.errors().is_empty() && Trust::parse_in(text, b"", Some(&zone)) == Ok(whole));
    }
    for (good, ..) in VALID.iter() {
        let last = Trust::parse(good, b"").expect("a valid trust file");
        let limited = last.limited_by(&broken).also_revoking(Revocations::of(list));
        assert_eq!(limited.len() + broken.missing(&last).count(), last.len());
        let kept = Trust::parse(&broken.keep(good, Some(&zone)), b"").expect("lines of a valid trust file");
        assert_eq!(kept.len(), limited.len());
        for (signer, role) in SIGNERS.iter().flat_map(|signer| Purpose::ALL.map(|role| (signer, role))) {
            let trusts = |trust: &Trust| trust.trusts(signer, role, 1_781_524_800, true);
            assert!(!trusts(&limited) || trusts(&last), "{signer:?} {role:?}");
        }
    }
}

fn judge(text: &str, list: &[u8]) {
    limits(text, list);
    let with = match Trust::parse(text, list) {
        Ok(trust) => trust,
        Err(error) => return located(&error, text, list),
    };
    let without = Trust::parse(text, b"").expect("no revocation list makes a trust file valid");
    shown(text, &with);
    revokes(&with, &without, list);
    let lines = trust_twin::lines(text);
    assert_eq!(lines.len(), with.len());
    SIGNERS.iter().take(4).for_each(|signer| as_written(&lines, &without, signer));
}

/// A list besides trust files that are known.
fn lists(list: &[u8]) {
    for (text, ..) in VALID.iter() {
        match Trust::parse(text, list) {
            Ok(with) => revokes(&with, &Trust::parse(text, b"").expect("a valid trust file"), list),
            Err(error) => return located(&error, text, list),
        }
    }
}

fn revokes(with: &Trust, without: &Trust, list: &[u8]) {
    SIGNERS.iter().for_each(|signer| takes_away(with, without, signer, list));
    VALID.iter().for_each(|(_, armored, _)| signs(armored, with));
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
        assert!(!entry.principals().is_empty() && entry.purposes().count() <= Purpose::ALL.len());
        let first = entry.principals().into_iter().next().unwrap_or_default();
        assert!(entry.is_authority() || entry.names(&first), "a holder who does not hold his key");
        let _ = (entry.valid_after(), entry.valid_before(), entry.is_revoked());
        let _ = entry.check(0);
    }
}

/// Moments at which dates are tried, with a clock that is trusted or not: the second in which 2026 begins, its neighbours, and noon.
const MOMENTS: [(i64, bool); 8] = [
    (0, true),
    (i64::MAX, true),
    (i64::MIN, true),
    (1_767_225_599, true),
    (1_767_225_600, true),
    (1_767_225_601, true),
    (1_767_268_800, true),
    (0, false),
];

/// A revocation list takes away the keys that it names, and no others.
fn takes_away(with: &Trust, without: &Trust, signer: &Signer, list: &[u8]) {
    // No date counts with this clock.
    let trusted = |trust: &Trust| trust.trusts(signer, Purpose::Request, 0, false);
    let left = trusted(without) && !trust_twin::revokes(list, signer);
    assert_eq!(trusted(with), left, "{signer:?}");
}

fn as_written(lines: &[trust_twin::Line], trust: &Trust, signer: &Signer) {
    for role in [Purpose::Request, Purpose::Read, Purpose::Admin] {
        for (now, clock_trusted) in MOMENTS {
            let twin = lines.iter().any(|line| line.trusts(signer, role, now, clock_trusted));
            let trusted = trust.trusts(signer, role, now, clock_trusted);
            assert_eq!(trusted, twin, "{signer:?} as {role:?} at {now}, {clock_trusted}");
        }
    }
}

/// A key that can sign is still trusted on the line after it, under each name that the file gives.
fn signs(armored: &str, trust: &Trust) {
    for (now, clock_trusted) in [MOMENTS[4], MOMENTS[7]] {
        if let Some(signer) = signer(armored, trust, now, clock_trusted) {
            assert!(trust.trusts(&signer, Purpose::Request, now, clock_trusted), "{signer:?} signed at {now}");
        }
    }
}
