//! The rate limit of connections to the API for one source.
//! Owns the choice of counted frames and the arithmetic of a bucket. It never reads a clock or a map, and ignores protected ports
//! ([`crate::verdict`] decides those). Its refusals save work and guarantee nothing (docs/decisions/0034-syns-to-the-api.md).

use crate::{
    key::{Address, Listener, SynRate, V4},
    packet::Flow,
};

/// The data that the limit reads. The kernel implements this trait over the maps.
pub trait Buckets {
    /// Whether the host owns the address.
    fn is_local(&self, address: &Address) -> bool;
    /// The limit at this address and port; `None` if the API does not listen there or has no limit.
    fn rate(&self, listener: &Listener) -> Option<SynRate>;
    /// Calls [`take`] for the bucket of `source`; false for a refusal.
    fn take(&self, source: Address, rate: SynRate) -> bool;
}

/// Whether `flow`, to an unprotected port, exceeds the limit of its source.
#[inline(always)]
pub fn is_too_fast(buckets: &impl Buckets, flow: &Flow) -> bool {
    // The cheapest check first: almost all traffic of the host ends here.
    if !flow.begins() {
        return false;
    }
    let Some(rate) = rate(buckets, flow) else {
        return false;
    };
    buckets.is_local(&flow.destination) && !buckets.take(flow.source.network(), rate)
}

#[inline(always)]
fn rate(buckets: &impl Buckets, flow: &Flow) -> Option<SynRate> {
    let any = if flow.destination.family == V4 { Address::v4([0; 4]) } else { Address::v6([0; 16]) };
    // Not `or_else`: a closure over the trait needs too much of the kernel's stack.
    match buckets.rate(&Listener::new(flow.destination, flow.port)) {
        Some(rate) => Some(rate),
        None => buckets.rate(&Listener::new(any, flow.port)),
    }
}

/// Takes one SYN from a bucket at `now`: the bucket's new state, or `None` if the bucket is empty. A bucket is the moment at which it is
/// full again, in nanoseconds of the clock of `now`; 0 is a full one. This is the generic cell rate algorithm (ITU-T I.371): one number,
/// no timer, no rounding. A race with another CPU is harmless: no stored number is more than `burst` intervals ahead.
#[inline(always)]
#[must_use]
pub fn take(rate: SynRate, full_at: u64, now: u64) -> Option<u64> {
    let full_at = full_at.max(now);
    if full_at - now > rate.tolerance_ns { None } else { Some(full_at.saturating_add(rate.interval_ns)) }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::key::{TCP, UDP};
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    const SYN: u8 = 0x02;
    const HERE: Address = Address::v4([192, 0, 2, 1]);
    const RATE: SynRate = SynRate::new(20, 40);

    struct Maps {
        listeners: BTreeMap<Listener, SynRate>,
        local: Vec<Address>,
        buckets: RefCell<BTreeMap<Address, u64>>,
    }

    impl Maps {
        fn at(listeners: &[(Address, u16)]) -> Self {
            let listeners = listeners.iter().map(|&(address, port)| (Listener::new(address, port), RATE)).collect();
            Self { listeners, local: vec![HERE], buckets: RefCell::default() }
        }
    }

    impl Buckets for Maps {
        fn is_local(&self, address: &Address) -> bool {
            self.local.contains(address)
        }
        fn rate(&self, listener: &Listener) -> Option<SynRate> {
            self.listeners.get(listener).copied()
        }
        fn take(&self, source: Address, rate: SynRate) -> bool {
            let mut buckets = self.buckets.borrow_mut();
            let bucket = buckets.entry(source).or_default();
            take(rate, *bucket, 1_000_000_000).inspect(|full_at| *bucket = *full_at).is_some()
        }
    }

    fn syn() -> Flow {
        let source = Address::v4([192, 0, 2, 7]);
        Flow { protocol: TCP, port: 7322, source, destination: HERE, flags: SYN }
    }

    fn passed(maps: &Maps, flow: Flow) -> usize {
        (0..100).filter(|_| !is_too_fast(maps, &flow)).count()
    }

    #[test]
    fn only_syns_to_the_api_at_an_address_of_the_host_are_limited() {
        let any = Address::v4([0; 4]);
        let other = Address::v4([192, 0, 2, 2]);
        assert_eq!(passed(&Maps::at(&[(any, 7322)]), syn()), 40);
        assert_eq!(passed(&Maps::at(&[(HERE, 7322)]), syn()), 40);
        assert_eq!(passed(&Maps::at(&[(any, 7322)]), Flow { flags: SYN | 0xc8, ..syn() }), 40, "with ECE, CWR, PSH");
        for free in [
            Flow { flags: SYN | 0x10, ..syn() },
            Flow { flags: 0x10, ..syn() },
            Flow { flags: 0x04, ..syn() },
            Flow { protocol: UDP, flags: 0, ..syn() },
            Flow { port: 7323, ..syn() },
            Flow { destination: other, ..syn() },
        ] {
            assert_eq!(passed(&Maps::at(&[(any, 7322)]), free), 100, "{free:?}");
        }
        for listeners in [&[][..], &[(other, 7322)], &[(Address::v6([0; 16]), 7322)]] {
            assert_eq!(passed(&Maps::at(listeners), syn()), 100, "{listeners:?}");
        }
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_64_have_a_bucket_each() {
        let v6 = |network: u8, host: u8| {
            let mut bytes = [0x20, 1, 0xd, 0xb8, 0, 0, 0, network, 0, 0, 0, 0, 0, 0, 0, host];
            bytes[8] = host;
            Address::v6(bytes)
        };
        let mut maps = Maps::at(&[(Address::v4([0; 4]), 7322), (Address::v6([0; 16]), 7322)]);
        maps.local.push(v6(9, 9));
        let from =
            |source: Address| Flow { source, destination: if source.family == V4 { HERE } else { v6(9, 9) }, ..syn() };
        assert_eq!(passed(&maps, from(Address::v4([192, 0, 2, 7]))), 40);
        assert_eq!(passed(&maps, from(Address::v4([192, 0, 2, 8]))), 40);
        assert_eq!(passed(&maps, from(v6(1, 1))), 40);
        assert_eq!(passed(&maps, from(v6(1, 2))), 0, "the same /64");
        assert_eq!(passed(&maps, from(v6(2, 1))), 40);
    }

    #[test]
    fn no_rate_is_below_one() {
        assert_eq!(SynRate::new(0, 0), SynRate::new(1, 1));
        let most = SynRate::new(u32::MAX, u32::MAX);
        assert!(take(most, u64::MAX, 0).is_none() && take(most, 0, u64::MAX).is_some());
    }

    proptest! {
        /// Compares with a textbook bucket: whole tokens, and a refill in units of one interval.
        #[test]
        fn it_is_a_token_bucket(
            (per_second, burst) in (1u32..5000, 1u32..200),
            pauses in prop::collection::vec(0u64..400_000_000, 1..300),
        ) {
            let rate = SynRate::new(per_second, burst);
            let interval = u128::from(rate.interval_ns);
            let (mut full_at, mut now) = (0, 5_000_000_000);
            // In parts of a token; `interval` parts make one.
            let most = u128::from(burst) * interval;
            let mut parts = most;
            for pause in pauses {
                now += pause;
                parts = most.min(parts + u128::from(pause));
                let passes = parts >= interval;
                parts -= if passes { interval } else { 0 };
                let next = take(rate, full_at, now);
                prop_assert_eq!(next.is_some(), passes);
                full_at = next.unwrap_or(full_at);
                prop_assert!(full_at - now <= rate.tolerance_ns + rate.interval_ns);
            }
        }
    }
}
