//! Right payloads for the host of the target `envelope`.
//!
//! Owns their texts; signers and moments are chosen by the input.

use postern_core::message::Challenger;
use postern_core::time::BootNanos;

use crate::host::{challenger, now};

/// Right payloads, with the types that they have. `CHALLENGE` stands for one that the host gave away some seconds ago, or another
/// host; `CHARACTER`, `SOURCE` and `END` for what is right, or is not.
const PAYLOADS: [(&str, &str); 8] = [
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
    ("access", r#""ports":["22/any"],"source":["10.1.0.10/32","SOURCE"],"duration":"600s""#),
];

/// Within what the port's rule allows, and not.
const SOURCES: [&str; 8] = [
    "10.2.0.0/24",
    "192.0.2.7/32",
    "2001:db8::7/128",
    "2001:db9::/32",
    "10.0.0.0/7",
    "0.0.0.0/0",
    "::ffff:10.0.0.1/128",
    "::/0",
];

/// Ends of a message's life: within a quarter of an hour, and not.
const ENDS: [&str; 8] =
    ["08:10:00", "08:05:00", "08:15:00", "08:15:01", "08:00:00", "08:00:01", "07:59:59", "23:59:59"];

const CHARACTERS: [&str; 8] = ["1", "\\n", "\\u0000", "\\u007f", "\\u009b", "\u{202e}", "\\u2028", "\\ufeff"];

/// One of the host's right payloads and its type; `what` chooses the age of a challenge in seconds, and the rest.
pub fn payload(which: u8, what: u8) -> (String, String) {
    let (kind, fields) = PAYLOADS[usize::from(which) % PAYLOADS.len()];
    let given = BootNanos(now(true).boot.0 - u64::from(what % 128) * 1_000_000_000);
    let challenger = if what < 128 { challenger() } else { Challenger::new(&[8; 32]) };
    let header = r#""id":"7d0c0d0e-3b1a-4a53-9a3d-0123456789ab","audience":["vm1"],"notAfter":"2027-01-15TENDZ""#;
    let payload = format!("{{{header},{fields}}}").replace("CHALLENGE", &challenger.issue(given));
    let payload = payload.replace("CHARACTER", CHARACTERS[usize::from(what) % 8]);
    let payload =
        payload.replace("SOURCE", SOURCES[usize::from(what) % 8]).replace("END", ENDS[usize::from(what / 16) % 8]);
    (format!("application/vnd.postern.{kind}-request.v1+json"), payload)
}
