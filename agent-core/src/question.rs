//! A client's question before it signs: which of its keys would count? Owns the answer ([`counts`]) and the rate limit of each source
//! ([`Askers`]). It never checks a signature or reads a clock, and answers only yes or no
//! (docs/decisions/0055-the-keys-that-are-offered.md).

use std::collections::HashMap;
use std::hash::Hash;

use crate::key::SynRate;
use crate::policy::{Policy, Role};
use crate::rate;
use crate::refusal::{Reason, Refusal};
use crate::signer::{Claims, Presented, Purpose};
use crate::ssh::Fingerprint;
use crate::time::BootNanos;
use crate::trust::{Moment, Trust};

/// The most keys in one question. A person has a few; a client with more asks again.
pub const MOST_KEYS: usize = 16;
/// The most names in one certificate of a question. The host compares each name with each pattern of the authority's lines.
pub const MOST_PRINCIPALS: usize = 64;
/// The longest name and the longest key id, in bytes, as in a certificate that counts.
pub const MOST_TEXT: usize = 255;

/// Questions that one source may ask in a minute, also all at once. One command asks once or twice.
const PER_MINUTE: u32 = 60;
/// Sources with a bucket each. All others share one.
const MOST_SOURCES: usize = 4096;
const RATE: SynRate = SynRate::new(1, PER_MINUTE);

/// A key that a client claims to hold, and the contents of its certificate. Nothing is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyToJudge {
    /// The fingerprint of the plain key.
    pub key: Fingerprint,
    /// The contents of the certificate; none for a plain key.
    pub certificate: Option<Claims>,
}

/// Whether a signature of `asked` in `role` would count at `now` (seconds since the Unix epoch), by the trust file, the revocations and
/// the policy's roles. Ports and sources are not judged.
#[must_use]
pub fn counts(
    trust: &Trust,
    policy: &Policy,
    role: Purpose,
    asked: &KeyToJudge,
    now: i64,
    clock_trusted: bool,
) -> bool {
    let presented = Presented { role, key: asked.key, certificate: asked.certificate.clone() };
    let admitted = trust.admit(&presented, Moment::new(now, clock_trusted));
    admitted.is_ok_and(|signer| may_send(policy, &signer.principal, role))
}

fn may_send(policy: &Policy, principal: &str, role: Purpose) -> bool {
    use Role::{Admin, Approver, Requester, Viewer};
    let needed: &[Role] = match role {
        Purpose::Request => &[Requester],
        Purpose::Approve => &[Approver, Admin],
        Purpose::Admin => &[Admin],
        Purpose::Read => &[Viewer, Requester, Approver, Admin],
        // People may end their own access even after they lose every role.
        Purpose::Revoke => return true,
    };
    needed.iter().any(|kind| policy.holds(principal, *kind))
}

/// The rate limits of all sources.
#[derive(Clone, Debug)]
pub struct Askers<S> {
    /// The moment at which each bucket is full again, in nanoseconds of the boot clock.
    full_at: HashMap<S, u64>,
    others: u64,
}

impl<S> Default for Askers<S> {
    fn default() -> Self {
        Self { full_at: HashMap::new(), others: 0 }
    }
}

impl<S: Copy + Eq + Hash> Askers<S> {
    /// Takes one question of `source`.
    /// # Errors
    /// [`Reason::RateLimited`]; then the bucket does not change.
    pub fn take(&mut self, source: S, now: BootNanos) -> Result<(), Refusal> {
        let full_at = self.bucket(source, now.0);
        let Some(next) = rate::take(RATE, *full_at, now.0) else {
            let detail =
                format!("a source may ask {PER_MINUTE} times a minute which keys count; try again in a second");
            return Err(Refusal::new(Reason::RateLimited, detail));
        };
        *full_at = next;
        Ok(())
    }

    fn bucket(&mut self, source: S, now: u64) -> &mut u64 {
        if !self.full_at.contains_key(&source) && self.full_at.len() >= MOST_SOURCES {
            // A full bucket equals a new one.
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MOST_SOURCES {
                return &mut self.others;
            }
        }
        self.full_at.entry(source).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_source_asks_a_minutes_worth_at_once_and_then_one_a_second() {
        let mut askers = Askers::default();
        let mut answered = |source: u32, seconds: u64| {
            let now = BootNanos(seconds * SECOND);
            (0..1000).take_while(|_| askers.take(source, now).is_ok()).count()
        };
        assert_eq!(answered(1, 100), 60);
        assert_eq!(answered(2, 100), 60, "another source has its own");
        assert_eq!((answered(1, 100), answered(1, 101), answered(1, 105)), (0, 1, 4));
        assert_eq!(answered(1, 1000), 60);
    }

    #[test]
    fn many_sources_take_bounded_room_and_those_without_room_share() {
        let mut askers = Askers::default();
        let most = u32::try_from(MOST_SOURCES).unwrap();
        for source in 0..2 * most {
            let _ = askers.take(source, BootNanos(SECOND));
        }
        assert_eq!(askers.full_at.len(), MOST_SOURCES);
        assert!(askers.take(3 * most, BootNanos(SECOND)).is_err(), "the rest has one bucket");
        assert!(askers.take(1, BootNanos(SECOND)).is_ok(), "who has a bucket keeps it");
        assert!(askers.take(3 * most, BootNanos(100 * SECOND)).is_ok(), "there is room again");
        assert_eq!(askers.full_at.len(), 1);
    }
}
