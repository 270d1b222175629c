//! Recent denied attempts: a bounded memory of dropped packets. The kernel limits the rate of its reports, so counts are lower bounds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use postern_core::grant::PortSpec;

use super::view::DeniedView;

/// How many (address, port) pairs are remembered. A new pair replaces the pair that was seen longest ago.
const MOST: usize = 4096;

/// The memory of denied attempts.
#[derive(Default)]
pub struct DeniedAttempts(Mutex<HashMap<(IpAddr, PortSpec), (Timestamp, u64)>>);

impl DeniedAttempts {
    /// Notes one dropped packet.
    pub fn note(&self, address: IpAddr, port: PortSpec, at: Timestamp) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MOST && !map.contains_key(&(address, port)) {
            let oldest = map.iter().min_by_key(|(_, (seen, _))| *seen).map(|(key, _)| *key);
            oldest.map(|key| map.remove(&key));
        }
        let entry = map.entry((address, port)).or_insert((at, 0));
        *entry = (at, entry.1 + 1);
    }

    /// Attempts at any of `ports`, the latest first.
    pub fn at(&self, ports: &[PortSpec]) -> Vec<DeniedView> {
        self.wanted(|p| ports.iter().any(|q| q.number == p.number && q.protocol.covers(p.protocol)))
    }

    /// All attempts, the latest first.
    pub fn all(&self) -> Vec<DeniedView> {
        self.wanted(|_| true)
    }

    fn wanted(&self, wanted: impl Fn(PortSpec) -> bool) -> Vec<DeniedView> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = map.iter().filter(|((_, port), _)| wanted(*port));
        let mut denied: Vec<_> = hits
            .map(|(&(address, port), &(last_seen, count))| DeniedView {
                address,
                port,
                last_seen,
                count,
                observed: false,
                new_flows: 0,
            })
            .collect();
        denied.sort_by_key(|k| std::cmp::Reverse(k.last_seen));
        denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let (denied, port) = (DeniedAttempts::default(), "22/tcp".parse().unwrap());
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        let at = |n: usize| Timestamp::from_second(i64::try_from(n).unwrap()).unwrap();
        for n in 0..=MOST {
            denied.note(address(n), port, at(n));
        }
        denied.note(address(MOST), port, at(MOST + 1));
        let seen = denied.at(&["22/any".parse().unwrap()]);
        assert_eq!(seen.len(), MOST);
        assert_eq!((seen[0].address, seen[0].count), (address(MOST), 2));
        assert!(seen.iter().all(|k| k.address != address(0)));
        assert!(denied.at(&["23/tcp".parse().unwrap()]).is_empty());
    }
}
