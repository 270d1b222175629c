//! The host that the target `envelope` sends its messages to: who may do what there, what it is called, what time it is.
//!
//! Owns constants, which the seeds (tests/tests/seeds.rs) are made for as well.

use postern_core::message::{Challenger, Identity};
use postern_core::time::{BootNanos, Now};
use postern_core::wall::ClockState;
use uuid::Uuid;

/// One nanosecond is 1.
const SECOND: u64 = 1_000_000_000;

/// Its rules.
pub const CONFIG: &str = r#"
max_duration = "4h"

[[port]]
number = 22
name = "ssh"
protocol = "any"
allowed_sources = ["10.0.0.0/8", "2001:db8::/32"]
max_duration = "1h"

[[port]]
number = 3389
justification = { matches = "CHG-[0-9]+" }
approvals = 1
first_use_within = "5m"

[[role]]
name = "requester"
principals = ["alice@example.com", "bob"]

[[role]]
name = "approver"
principals = ["bob", "carol"]

[[role]]
name = "admin"
principals = ["carol"]
"#;

/// The trusted principals, by the seeds of their keys. Seed 2 is an authority, and the key of seed 5 is not trusted.
pub const TRUSTED: [(&str, u8); 4] =
    [("alice@example.com", 1), ("*@example.com cert-authority", 2), ("bob", 3), ("carol", 4)];

pub fn identity() -> Identity {
    let names = vec!["vm1".to_owned(), "vm1.example.com".to_owned()];
    let key = format!("SHA256:{}", "A".repeat(43));
    let tls_key = Some(format!("tls:SHA256:{}", "B".repeat(43)));
    Identity { host_id: Uuid::from_u128(7), names, host_keys: vec![key], tls_key }
}

pub fn challenger() -> Challenger {
    Challenger::new(&[7; 32])
}

/// 2027-01-15T08:00:00Z, a thousand seconds after the boot.
pub fn now(wall_trusted: bool) -> Now {
    let wall = jiff::Timestamp::from_second(1_800_000_000).expect("a moment");
    let clock = if wall_trusted { ClockState::Synchronised } else { ClockState::Unsynchronised };
    Now { boot: BootNanos(1000 * SECOND), wall, clock, boot_id: Uuid::from_u128(1) }
}
