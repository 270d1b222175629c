//! What the kernel should hold, as a value, and the edits that lead there.
//!
//! Owns [`Table`], [`Edit`], [`compile`] and [`diff`]. It never talks to the kernel: `agent/src/enforcer` carries edits out.

use std::collections::{BTreeMap, BTreeSet};

use crate::grant::Grant;
use crate::key::{GrantKey, Lengths};
use crate::policy::Policy;
use crate::time::BootNanos;

/// One live entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `CLOCK_BOOTTIME` in nanoseconds at which the entry is closed.
    pub expires_boot_ns: u64,
    /// Where the kernel counts its use.
    pub slot: u32,
}

/// Everything that the kernel's maps hold about policy and grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Closed unless granted: (IP protocol, port).
    pub protected: BTreeSet<(u8, u16)>,
    /// The allow entries.
    pub grants: BTreeMap<GrantKey, Entry>,
}

/// One step of a change. A list of edits is applied in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Close a port: (IP protocol, port).
    Protect(u8, u16),
    /// Take the entry out.
    Remove(GrantKey),
    /// Replace the set of prefix lengths that look-ups try.
    Lengths(Lengths),
    /// Put the entry in, in the place of any other with its key.
    Put(GrantKey, Entry),
    /// The port is no longer ours.
    Unprotect(u8, u16),
}

impl Table {
    /// The prefix lengths in use.
    #[must_use]
    pub fn lengths(&self) -> Lengths {
        let mut lengths = Lengths::default();
        for key in self.grants.keys() {
            lengths.insert(key.family, key.prefix_len);
        }
        lengths
    }
}

/// The table for `policy` with the grants that are live at `now`. Where two grants share a key, the later end wins.
#[must_use]
pub fn compile<'a>(policy: &Policy, grants: impl Iterator<Item = &'a Grant>, now: BootNanos) -> Table {
    let protected: BTreeSet<_> = policy.protected().collect();
    let mut table = Table { protected, grants: BTreeMap::new() };
    for grant in grants.filter(|g| g.is_live(now)) {
        let entry = Entry { expires_boot_ns: grant.expires_boot.0, slot: grant.slot };
        for key in grant.keys().filter(|k| table.protected.contains(&(k.protocol, u16::from_be_bytes(k.port)))) {
            let held = table.grants.entry(key).or_insert(entry);
            if held.expires_boot_ns < entry.expires_boot_ns {
                *held = entry;
            }
        }
    }
    table
}

/// The edits that turn `installed` into `wanted`.
///
/// No state in between opens more than `installed` or `wanted` does: first all that closes, then all that opens. A look-up
/// tries a length before its first entry is there and until its last one is gone.
#[must_use]
pub fn diff(installed: &Table, wanted: &Table) -> Vec<Edit> {
    let mut edits = Vec::new();
    edits.extend(wanted.protected.difference(&installed.protected).map(|&(t, p)| Edit::Protect(t, p)));
    edits.extend(installed.grants.keys().filter(|k| !wanted.grants.contains_key(k)).map(|k| Edit::Remove(*k)));
    let (before, after) = (installed.lengths(), wanted.lengths());
    if before.union(after) != before {
        edits.push(Edit::Lengths(before.union(after)));
    }
    let changed = wanted.grants.iter().filter(|(k, e)| installed.grants.get(k) != Some(e));
    edits.extend(changed.map(|(k, e)| Edit::Put(*k, *e)));
    if before.union(after) != after {
        edits.push(Edit::Lengths(after));
    }
    edits.extend(installed.protected.difference(&wanted.protected).map(|&(t, p)| Edit::Unprotect(t, p)));
    edits
}
