//! Ended requests and grants that `ListGrants` still shows. Owns their order of removal: the oldest of the principal with the most, so
//! that no principal displaces the grants of others. The journal keeps all.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::room::Room;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Owned {
    /// Bytes by the number of the first record.
    weights: OrdMap<u64, usize>,
    bytes: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    owners: OrdMap<String, Owned>,
    count: usize,
    bytes: usize,
}

impl History {
    pub(super) fn add(&mut self, owner: &str, seq: u64, weight: usize) {
        let owned = self.owners.entry(owner.to_owned()).or_default();
        if owned.weights.insert(seq, weight).is_none() {
            owned.bytes += weight;
            (self.count, self.bytes) = (self.count + 1, self.bytes + weight);
        }
    }

    /// Removes and returns the next excess entry.
    pub(super) fn pop_excess(&mut self, room: &Room) -> Option<u64> {
        let most = match () {
            () if self.count > room.history => self.owners.iter().max_by_key(|(_, owned)| owned.weights.len()),
            () if self.bytes > room.history_bytes => self.owners.iter().max_by_key(|(_, owned)| owned.bytes),
            () => None,
        };
        let owner = most?.0.clone();
        let owned = self.owners.get_mut(&owner)?;
        let (seq, weight) = owned.weights.get_min().copied()?;
        owned.weights.remove(&seq);
        owned.bytes = owned.bytes.saturating_sub(weight);
        if owned.weights.is_empty() {
            self.owners.remove(&owner);
        }
        (self.count, self.bytes) = (self.count.saturating_sub(1), self.bytes.saturating_sub(weight));
        Some(seq)
    }
}
