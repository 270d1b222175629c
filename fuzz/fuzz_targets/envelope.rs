//! Changed and made-up signatures: no panic, and nothing is accepted but what was signed.
//!
//! `cargo +nightly fuzz run envelope`
#![no_main]

// Each target needs only some of it.
#[allow(dead_code)]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern_core::envelope::{Envelope, SshSig, dearmor, verify};
use postern_core::trust::Trust;

static VALID: LazyLock<Vec<(Trust, Vec<u8>)>> = LazyLock::new(|| {
    let texts = valid::texts().into_iter();
    texts.map(|(text, bytes)| (Trust::parse(&text, b"").expect("a valid trust file"), bytes)).collect()
});

#[derive(Debug, arbitrary::Arbitrary)]
enum Input {
    Armor(String),
    Bytes(Vec<u8>),
    /// Which valid signature, and where it gets which bytes instead of how many.
    Changed(bool, Vec<(u16, u8, Vec<u8>)>),
}

fn accepted(trust: &Trust, armored: &str) -> bool {
    let payload_type = "application/vnd.postern.access-request.v1+json";
    let envelope = Envelope { payload: valid::PAYLOAD, payload_type, signatures: vec![armored] };
    verify(&envelope, trust, 0, false).is_ok()
}

fuzz_target!(|input: Input| match input {
    Input::Armor(text) => {
        for (trust, original) in VALID.iter() {
            let same = dearmor(&text).is_ok_and(|bytes| bytes == *original);
            assert_eq!(accepted(trust, &text), same);
        }
    }
    Input::Bytes(bytes) => {
        let _ = SshSig::parse(&bytes).map(|signature| signature.verify(valid::PAYLOAD));
        for (trust, original) in VALID.iter() {
            assert_eq!(accepted(trust, &valid::armor(&bytes)), bytes == *original);
        }
    }
    Input::Changed(certified, edits) => {
        let (trust, original) = &VALID[usize::from(certified)];
        let mut bytes = original.clone();
        for (at, remove, insert) in edits {
            let start = usize::from(at) % (bytes.len() + 1);
            let end = bytes.len().min(start + usize::from(remove));
            bytes.splice(start..end, insert);
        }
        assert_eq!(accepted(trust, &valid::armor(&bytes)), bytes == *original);
    }
});
