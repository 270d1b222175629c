//! What has ended and is still shown.
//!
//! Owns which ended grant goes when there are too many: the oldest of the principal who has most, so that nobody pushes out what
//! others have. The journal keeps all of them.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::room::Room;

/// What one principal has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Owned {
    /// Bytes by the number of the record that made it.
    weights: OrdMap<u64, usize>,
    bytes: usize,
}

/// What has ended, by principal.
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

    /// Takes out the next one that has to go, if there are too many.
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
