//! Made-up trust files and revocation lists: no panic, and errors that name an existing line.
//!
//! `cargo +nightly fuzz run trust_file`
#![no_main]

// Each target needs only some of it.
#[allow(dead_code)]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use libfuzzer_sys::fuzz_target;
use postern_core::envelope::{Role, Signer, Vouched};
use postern_core::trust::{Trust, TrustFile};

#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    text: String,
    /// What follows a valid revocation list, or replaces its end.
    list: Vec<u8>,
    keep: u8,
    text_list: bool,
    serial: u64,
}

fuzz_target!(|input: Input| {
    let mut list = valid::revocation_list();
    list.truncate(if input.text_list { 0 } else { usize::from(input.keep) });
    list.extend(&input.list);
    let (valid_text, _) = valid::texts().remove(1);
    for text in [&input.text, &valid_text] {
        match Trust::parse(text, &list) {
            Ok(trust) => {
                let vouched = Vouched { authority: fingerprint(), serial: input.serial, key_id: "key id".to_owned() };
                let signer = Signer {
                    principal: "alice@example.com".to_owned(),
                    fingerprint: fingerprint(),
                    certificate: Some(vouched),
                };
                let _ = trust.trusts(&signer, Role::Request, 0, true);
            }
            Err(error) => {
                let lines = match error.file {
                    TrustFile::AllowedSigners => text.split('\n').count(),
                    TrustFile::Revoked => list.split(|byte| *byte == b'\n').count(),
                };
                assert!(error.line <= lines && !error.reason.is_empty());
            }
        }
    }
});

fn fingerprint() -> String {
    format!("SHA256:{}", "A".repeat(43))
}
