//! The search for a live entry that covers a source: one step for each prefix length in use. Owns the steps and their result. It never
//! reads a map or a clock. The caller repeats the steps: the kernel's verifier walks each round of a loop, but checks a callback of
//! `bpf_loop` once (docs/decisions/0006-the-kernel-repeats-the-look-up.md).

use crate::key::{Address, GrantKey, GrantValue, V4};

/// The most steps of a search: the prefix lengths of IPv6, `/0` to `/128`.
pub const MOST_STEPS: u32 = 129;

/// A search for the entries of one source, protocol and port. The fields are whole words, which the kernel's verifier tracks. The initial
/// values are not adjacent zeros, because the compiler would write these in a loop over bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Search {
    source: [u64; 2],
    /// Family, protocol and port, from the highest bits to the lowest.
    head: u64,
    /// The prefix lengths left to try, as in [`crate::key::Lengths`].
    bits: [u64; 3],
    /// The slot of the live entry, or [`NO_SLOT`].
    slot: u64,
    now: u64,
    /// [`NOTHING`], plus [`ENDED`] and [`SESSIONS`] for entries that are over.
    dead: u64,
}

/// No slot has this number: slots have 32 bits.
const NO_SLOT: u64 = u64::MAX;
// Bits of `dead`. `NOTHING` avoids a zero: see `Search`.
const NOTHING: u64 = 1;
const ENDED: u64 = 2;
const SESSIONS: u64 = 4;

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A live entry.
    Live {
        /// [`GrantValue::slot`].
        slot: u32,
        /// The time at which the entry was live, `CLOCK_BOOTTIME` in nanoseconds.
        now: u64,
    },
    /// Entries that are over, except for the sessions of the source.
    Sessions,
    /// Entries that are over.
    Ended,
    /// No entry.
    Nothing,
}

impl Search {
    /// A search before its first step. `lengths` returns the prefix lengths in use, 64 to a word (IPv4: only word 0).
    #[inline(always)]
    #[must_use]
    pub fn new(source: Address, protocol: u8, port: u16, lengths: impl Fn(u32) -> u64) -> Self {
        let bits = if source.family == V4 { [lengths(0), 0, 0] } else { [lengths(0), lengths(1), lengths(2) & 1] };
        let head = u64::from(source.family) << 32 | u64::from(protocol) << 16 | u64::from(port);
        Self { source: source.words, head, bits, slot: NO_SLOT, now: 0, dead: NOTHING }
    }

    /// Whether a further step is left.
    #[inline(always)]
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.bits[0] | self.bits[1] | self.bits[2] != 0
    }

    /// Tries the shortest prefix length left, and returns whether a further step is left. `grant` reads the expiry before the tags
    /// ([`GrantValue`]); the time is read after each match.
    #[inline(always)]
    pub fn step(&mut self, grant: impl FnOnce(&GrantKey) -> Option<GrantValue>, now: impl FnOnce() -> u64) -> bool {
        let Some(len) = self.next_length() else {
            return false;
        };
        let source = Address { family: (self.head >> 32) as u8, zero: [0; 7], words: self.source };
        let key = GrantKey::with_len(source, len, (self.head >> 16) as u8, self.head as u16);
        let tag = key.tag();
        // The kernel may reuse a replaced element during the read (docs/decisions/0001-tags-against-torn-reads.md).
        if let Some(value) = grant(&key)
            && value.tag_front == tag
            && value.tag_back == tag
        {
            let now = now();
            if now < value.expires_boot_ns {
                (self.slot, self.now) = (u64::from(value.slot), now);
                return false;
            }
            self.dead |= if now < value.established_boot_ns { ENDED | SESSIONS } else { ENDED };
        }
        self.goes_on()
    }

    /// The result of the steps so far.
    #[inline(always)]
    #[must_use]
    pub fn found(&self) -> Found {
        if self.slot != NO_SLOT {
            return Found::Live { slot: self.slot as u32, now: self.now };
        }
        if self.dead & SESSIONS != 0 {
            return Found::Sessions;
        }
        if self.dead & ENDED != 0 { Found::Ended } else { Found::Nothing }
    }

    #[inline(always)]
    fn next_length(&mut self) -> Option<u8> {
        let word = self.bits.iter().position(|bits| *bits != 0)?;
        let bits = self.bits[word];
        self.bits[word] = bits & (bits - 1);
        Some((word as u32 * 64 + bits.trailing_zeros()) as u8)
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::key::{Lengths, TCP, V6};
    use proptest::prelude::*;

    const SOURCE: Address = Address::v6([0x20; 16]);

    proptest! {
        /// A search tries each length in use once, the shortest first, within the kernel's number of steps.
        #[test]
        fn a_search_asks_for_each_length_once(family in prop::sample::select(vec![V4, V6]), words: [u64; 3], all: bool) {
            let words = if all { [u64::MAX; 3] } else { words };
            let most = if family == V4 { 64 } else { u64::from(MOST_STEPS) };
            let used = |len: &u64| words[*len as usize / 64] >> (len % 64) & 1 == 1;
            let wanted: Vec<u64> = (0..most).filter(used).collect();
            let mut search = Search::new(Address { family, ..SOURCE }, TCP, 22, |word| words[word as usize]);
            prop_assert_eq!(search.goes_on(), !wanted.is_empty());
            let mut asked = Vec::new();
            let mut steps = 0;
            while steps < MOST_STEPS {
                steps += 1;
                let grant = |key: &GrantKey| {
                    asked.push(u64::from(key.prefix_len));
                    None
                };
                if !search.step(grant, || unreachable!("a miss needs no clock")) {
                    break;
                }
            }
            prop_assert_eq!((asked, search.found(), search.goes_on()), (wanted, Found::Nothing, false));
        }
    }

    #[test]
    fn a_search_ends_at_the_first_live_entry() {
        let mut lengths = Lengths::default();
        [0, 64, 128].iter().for_each(|len| lengths.insert(V6, *len));
        let mut search = Search::new(SOURCE, TCP, 22, |word| lengths.v6[word as usize]);
        let value =
            |key: &GrantKey, ends, sessions| Some(GrantValue::new(key, ends, sessions, u32::from(key.prefix_len)));
        assert!(search.step(|key| value(key, 10, 10), || 10));
        assert_eq!(search.found(), Found::Ended);
        assert!(search.step(|key| value(key, 10, 11), || 10));
        assert_eq!(search.found(), Found::Sessions);
        assert!(!search.step(|key| value(key, 11, 0), || 10));
        assert_eq!(search.found(), Found::Live { slot: 128, now: 10 });
    }
}
