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

    /// The table after one edit. [`Edit::Lengths`] changes nothing here: lengths follow from the entries.
    pub fn apply(&mut self, edit: &Edit) {
        match *edit {
            Edit::Protect(protocol, port) => {
                self.protected.insert((protocol, port));
            }
            Edit::Unprotect(protocol, port) => {
                self.protected.remove(&(protocol, port));
            }
            Edit::Put(key, entry) => {
                self.grants.insert(key, entry);
            }
            Edit::Remove(key) => {
                self.grants.remove(&key);
            }
            Edit::Lengths(_) => {}
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Address, TCP, UDP};
    use proptest::prelude::*;

    /// Small worlds, so that keys and ports collide often.
    fn tables() -> impl Strategy<Value = Table> {
        let port = (prop_oneof![Just(TCP), Just(UDP)], 20..24u16);
        let key = (port.clone(), 0..4u8, prop_oneof![Just(8u8), Just(24), Just(32)])
            .prop_map(|((protocol, port), net, len)| GrantKey::new(Address::v4([net, 0, 0, 0]), len, protocol, port));
        let entry = (1..5u64, 0..4u32).prop_map(|(expires_boot_ns, slot)| Entry { expires_boot_ns, slot });
        (prop::collection::btree_set(port, 0..5), prop::collection::btree_map(key, entry, 0..12))
            .prop_map(|(protected, grants)| Table { protected, grants })
    }

    /// What the kernel does with a table, as simply as it can be said.
    fn is_open(table: &Table, lengths: Lengths, protocol: u8, port: u16, source: u8, now: u64) -> bool {
        let tried = |len: u8| lengths.v4 >> len & 1 == 1;
        !table.protected.contains(&(protocol, port))
            || (0..=32).filter(|len| tried(*len)).any(|len| {
                let key = GrantKey::new(Address::v4([source, 0, 0, 0]), len, protocol, port);
                table.grants.get(&key).is_some_and(|entry| now < entry.expires_boot_ns)
            })
    }

    proptest! {
        #[test]
        fn edits_lead_to_the_wanted_table_and_open_nothing_more_on_the_way(from in tables(), to in tables()) {
            let (mut table, mut lengths) = (from.clone(), from.lengths());
            for edit in diff(&from, &to) {
                table.apply(&edit);
                if let Edit::Lengths(new) = edit {
                    lengths = new;
                }
                for (protocol, port, source, now) in probes(4) {
                    let open = |t: &Table| is_open(t, t.lengths(), protocol, port, source, now);
                    let between = is_open(&table, lengths, protocol, port, source, now);
                    prop_assert!(!between || open(&from) || open(&to), "{edit:?} opens {protocol}/{port} for {source}");
                }
            }
            prop_assert_eq!(&table, &to);
            prop_assert_eq!(lengths, to.lengths());
            prop_assert_eq!(diff(&to, &to), vec![]);
        }
    }

    fn probes(n: u8) -> impl Iterator<Item = (u8, u16, u8, u64)> {
        let ports = [TCP, UDP].into_iter().flat_map(|protocol| (20..24u16).map(move |port| (protocol, port)));
        ports.flat_map(move |(t, p)| (0..n).flat_map(move |s| (0..5u64).map(move |now| (t, p, s, now))))
    }
}
