//! The wanted contents of the kernel's maps, and the edits that lead there. Owns [`Table`], [`Edit`], [`compile`] and [`diff`].
//! `agent/src/enforcer` applies the edits to the kernel.

use std::collections::{BTreeMap, BTreeSet};

use crate::grant::Grant;
use crate::key::{Address, GrantKey, Lengths, flow_tag, max_prefix};
use crate::policy::Policy;
use crate::time::BootNanos;

/// One live entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The end, `CLOCK_BOOTTIME` in nanoseconds.
    pub expires_boot_ns: u64,
    /// As `expires_boot_ns`, but only for the sessions in [`Table::flows`]; 0 without such sessions.
    pub established_boot_ns: u64,
    /// The index of the kernel's usage counters.
    pub slot: u32,
}

/// A session that may outlive its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// The other side's address.
    pub peer: Address,
    /// The end, `CLOCK_BOOTTIME` in nanoseconds.
    pub until_boot_ns: u64,
}

impl Flow {
    /// The key of the entry that makes prefilter and cut look for the session.
    #[must_use]
    pub fn key(&self) -> GrantKey {
        GrantKey::new(self.peer, max_prefix(self.peer.family), self.protocol, self.port)
    }

    /// The tag of the kernel's value for `cookie`.
    #[must_use]
    pub fn tag(&self, cookie: u64) -> u64 {
        flow_tag(cookie, self.peer, self.protocol, self.port)
    }

    /// The ends may differ.
    fn is(&self, other: &Self) -> bool {
        Self { until_boot_ns: other.until_boot_ns, ..*self } == *other
    }
}

/// The kernel's maps of policy and grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The protected (IP protocol, port) pairs.
    pub protected: BTreeSet<(u8, u16)>,
    /// The allow entries.
    pub grants: BTreeMap<GrantKey, Entry>,
    /// Sessions that may outlive their grant, by the cookie of their socket.
    pub flows: BTreeMap<u64, Flow>,
    /// The moment, in nanoseconds of `CLOCK_BOOTTIME`, from which refused packets pass; 0: never.
    pub observe_from: u64,
}

/// One step of a change. Edits apply in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Protects a port: (IP protocol, port).
    Protect(u8, u16),
    /// Removes an entry.
    Remove(GrantKey),
    /// Replaces the set of prefix lengths for look-ups.
    Lengths(Lengths),
    /// Adds or replaces an entry.
    Put(GrantKey, Entry),
    /// Removes the retained session with this cookie.
    RemoveFlow(u64),
    /// Adds or replaces the retained session with this cookie.
    PutFlow(u64, Flow),
    /// Ends the protection of a port.
    Unprotect(u8, u16),
    /// Sets [`Table::observe_from`].
    Observe(u64),
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

    /// Applies one edit. [`Edit::Lengths`] changes nothing here: lengths follow from the entries.
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
            Edit::PutFlow(cookie, flow) => {
                self.flows.insert(cookie, flow);
            }
            Edit::RemoveFlow(cookie) => {
                self.flows.remove(&cookie);
            }
            Edit::Observe(from) => self.observe_from = from,
            Edit::Lengths(_) => {}
        }
    }

    /// Adds the sessions in `flows` that are not over at `now` and whose ports are protected. An entry lives until the last of their ends.
    #[must_use]
    pub fn keeping(mut self, flows: impl IntoIterator<Item = (u64, Flow)>, now: BootNanos) -> Self {
        for (cookie, flow) in flows {
            if flow.until_boot_ns <= now.0 || !self.protected.contains(&(flow.protocol, flow.port)) {
                continue;
            }
            let entry = self.grants.entry(flow.key()).or_default();
            entry.established_boot_ns = entry.established_boot_ns.max(flow.until_boot_ns);
            self.flows.insert(cookie, flow);
        }
        self
    }
}

/// The table for `policy` and the live grants at `now`. If two grants share a key, the later end counts.
#[must_use]
pub fn compile<'a>(policy: &Policy, grants: impl Iterator<Item = &'a Grant>, now: BootNanos) -> Table {
    let protected: BTreeSet<_> = policy.protected().collect();
    let mut table = Table { protected, ..Table::default() };
    for grant in grants.filter(|g| g.is_live(now)) {
        let entry = Entry { expires_boot_ns: grant.expires_boot.0, slot: grant.slot, ..Entry::default() };
        for key in grant.keys().filter(|k| table.protected.contains(&(k.protocol, u16::from_be_bytes(k.port)))) {
            let held = table.grants.entry(key).or_insert(entry);
            if held.expires_boot_ns < entry.expires_boot_ns {
                *held = entry;
            }
        }
    }
    table
}

/// The edits that turn `installed` into `wanted`. No intermediate state opens more than either: closing edits come first. A prefix length
/// is active before its first entry exists and until its last one is gone. A session needs both its entry and its flow: flows are
/// shortened before the entries change, and lengthened after. The mode comes last: all grants are in the table before an observing host
/// enforces, and all else is final before an enforcing host observes.
#[must_use]
pub fn diff(installed: &Table, wanted: &Table) -> Vec<Edit> {
    let mut edits = Vec::new();
    edits.extend(wanted.protected.difference(&installed.protected).map(|&(t, p)| Edit::Protect(t, p)));
    for (&cookie, held) in &installed.flows {
        match wanted.flows.get(&cookie) {
            Some(flow) if flow.is(held) && flow.until_boot_ns >= held.until_boot_ns => {}
            Some(flow) if flow.is(held) => edits.push(Edit::PutFlow(cookie, *flow)),
            _ => edits.push(Edit::RemoveFlow(cookie)),
        }
    }
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
    let stays = |cookie: &u64, flow: &Flow| {
        installed.flows.get(cookie).is_some_and(|held| flow.is(held) && flow.until_boot_ns <= held.until_boot_ns)
    };
    edits.extend(wanted.flows.iter().filter(|(c, f)| !stays(c, f)).map(|(c, f)| Edit::PutFlow(*c, *f)));
    edits.extend(installed.protected.difference(&wanted.protected).map(|&(t, p)| Edit::Unprotect(t, p)));
    if installed.observe_from != wanted.observe_from {
        edits.push(Edit::Observe(wanted.observe_from));
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Address, TCP, UDP};
    use proptest::prelude::*;

    /// Small tables, so that keys and ports collide often.
    fn tables() -> impl Strategy<Value = Table> {
        let port = (prop_oneof![Just(TCP), Just(UDP)], 20..24u16);
        let key = (port.clone(), 0..4u8, prop_oneof![Just(8u8), Just(24), Just(32)])
            .prop_map(|((protocol, port), net, len)| GrantKey::new(Address::v4([net, 0, 0, 0]), len, protocol, port));
        let entry = (0..5u64, 0..5u64, 0..4u32).prop_map(|(expires_boot_ns, established_boot_ns, slot)| Entry {
            expires_boot_ns,
            established_boot_ns,
            slot,
        });
        let flow = (port.clone(), 0..4u8, 1..5u64).prop_map(|((protocol, port), net, until_boot_ns)| Flow {
            protocol,
            port,
            peer: Address::v4([net, 0, 0, 0]),
            until_boot_ns,
        });
        let ports = prop::collection::btree_set(port, 0..5);
        let entries = prop::collection::btree_map(key, entry, 0..12);
        let flows = prop::collection::btree_map(0..COOKIES, flow, 0..4);
        // Mostly enforcing, else observing from the beginning or from some moment on.
        let observe_from = prop_oneof![3 => Just(0), 2 => 1..5u64];
        (ports, entries, flows, observe_from).prop_map(|(protected, grants, flows, observe_from)| Table {
            protected,
            grants,
            flows,
            observe_from,
        })
    }

    const COOKIES: u64 = 3;

    type Packet = (u8, u16, u8, Option<u64>);

    /// A simple model of the kernel's decision.
    fn is_open(table: &Table, lengths: Lengths, (protocol, port, source, cookie): Packet, now: u64) -> bool {
        let tried = |len: u8| lengths.v4 >> len & 1 == 1;
        let peer = Address::v4([source, 0, 0, 0]);
        let flow = cookie.and_then(|cookie| table.flows.get(&cookie)).is_some_and(|flow| {
            (flow.protocol, flow.port, flow.peer) == (protocol, port, peer) && now < flow.until_boot_ns
        });
        !table.protected.contains(&(protocol, port))
            || table.observe_from != 0 && table.observe_from <= now
            || (0..=32).filter(|len| tried(*len)).any(|len| {
                let entry = table.grants.get(&GrantKey::new(peer, len, protocol, port));
                entry.is_some_and(|e| now < e.expires_boot_ns || flow && now < e.established_boot_ns)
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
                for (packet, now) in probes() {
                    let open = |t: &Table| is_open(t, t.lengths(), packet, now);
                    let between = is_open(&table, lengths, packet, now);
                    prop_assert!(!between || open(&from) || open(&to), "{edit:?} opens {packet:?}");
                }
            }
            prop_assert_eq!(&table, &to);
            prop_assert_eq!(lengths, to.lengths());
            prop_assert_eq!(diff(&to, &to), vec![]);
        }
    }

    fn probes() -> impl Iterator<Item = (Packet, u64)> {
        let ports = [TCP, UDP].into_iter().flat_map(|protocol| (20..24u16).map(move |port| (protocol, port)));
        let cookies = || (0..COOKIES).map(Some).chain([None]);
        let packets =
            ports.flat_map(move |(t, p)| (0..4).flat_map(move |s| cookies().map(move |cookie| (t, p, s, cookie))));
        packets.flat_map(|packet| (0..5u64).map(move |now| (packet, now)))
    }

    #[test]
    fn a_source_keeps_its_sessions_as_long_as_the_last_of_them() {
        let peer = Address::v4([192, 0, 2, 7]);
        let flow = |port, until_boot_ns| Flow { protocol: TCP, port, peer, until_boot_ns };
        let key = flow(22, 0).key();
        let granted = Entry { expires_boot_ns: 5, slot: 3, ..Entry::default() };
        let table = Table { protected: [(TCP, 22)].into(), grants: [(key, granted)].into(), ..Table::default() };
        let table =
            table.keeping([(1, flow(22, 9)), (2, flow(22, 7)), (3, flow(22, 4)), (4, flow(23, 9))], BootNanos(4));
        assert_eq!(table.grants, [(key, Entry { established_boot_ns: 9, ..granted })].into());
        assert_eq!(table.flows, [(1, flow(22, 9)), (2, flow(22, 7))].into());
    }
}
