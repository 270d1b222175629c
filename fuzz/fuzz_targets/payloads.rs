//! Right payloads for the host of the target `envelope`.
//!
//! Owns their texts; signers and moments are chosen by the input.

use postern_core::message::Challenger;
use postern_core::time::BootNanos;

use crate::host::{challenger, now};

/// Right payloads, with the types that they have. `CHALLENGE` stands for one that the host gave away some seconds ago, or another
/// host; `CHARACTER` for one that must not get into a log, or may.
const PAYLOADS: [(&str, &str); 7] = [
    ("access", r#""ports":["22/tcp"],"source":["10.1.0.10/32"],"duration":"600s""#),
    ("access", r#""ports":["22/tcp"],"source":["10.1.0.10/32"],"duration":"600s","challenge":"CHALLENGE""#),
    ("access", r#""ports":["3389/tcp"],"source":["10.1.0.10/32"],"duration":"1200s","justification":"CHG-17""#),
    (
        "access",
        r#""ports":["22/udp"],"source":["2001:db8::7/128"],"notBefore":"2027-01-15T08:05:00Z","end":"2027-01-15T08:30:00Z""#,
    ),
    ("revoke", r#""grantId":"7d0c0d0e-3b1a-4a53-9a3d-0123456789ac","challenge":"CHALLENGE""#),
    ("read", r#""challenge":"CHALLENGE""#),
    ("access", r#""ports":["22/tcp"],"source":["10.1.0.10/32"],"duration":"600s","ticket":"T-CHARACTER""#),
];

const CHARACTERS: [&str; 8] = ["1", "\\n", "\\u0000", "\\u007f", "\\u009b", "\u{202e}", "\\u2028", "\\ufeff"];

/// One of the host's right payloads and its type; `what` chooses the age of a challenge in seconds, and the character.
pub fn payload(which: u8, what: u8) -> (String, String) {
    let (kind, fields) = PAYLOADS[usize::from(which) % PAYLOADS.len()];
    let given = BootNanos(now(true).boot.0 - u64::from(what % 128) * 1_000_000_000);
    let challenger = if what < 128 { challenger() } else { Challenger::new(&[8; 32]) };
    let header = r#""id":"7d0c0d0e-3b1a-4a53-9a3d-0123456789ab","audience":["vm1"],"notAfter":"2027-01-15T08:10:00Z""#;
    let payload = format!("{{{header},{fields}}}").replace("CHALLENGE", &challenger.issue(given));
    let payload = payload.replace("CHARACTER", CHARACTERS[usize::from(what) % CHARACTERS.len()]);
    (format!("application/vnd.postern.{kind}-request.v1+json"), payload)
}
