//! The central decision: may this source reach this port of the host now? Owns [`decide`], the [`Table`] that it reads, and the names of
//! all outcomes. The eBPF programs and the host tests compile this same code. It never reads a packet, a clock or a map.

use crate::{
    key::{Address, FlowValue, GrantKey, GrantValue, flow_tag},
    search::{Found, Search},
};

/// The data that the decision reads. The kernel implements this trait over the shared maps.
pub trait Table {
    /// Whether the port is closed without a grant.
    fn is_protected(&self, protocol: u8, port: u16) -> bool;
    /// Why a packet to a protected port is exempt from the decision.
    fn exemption(&self) -> Option<Exemption>;
    /// The prefix lengths in use, 64 to a word, as [`crate::key::Lengths`] has them. `word` is below 3 (IPv4: 0 only).
    fn lengths(&self, family: u8, word: u32) -> u64;
    /// The entry with this key. The implementation reads the expiry before the tags ([`GrantValue`]).
    fn grant(&self, key: &GrantKey) -> Option<GrantValue>;
    /// The packet's session as the hook knows it. Asked only if the source may keep its existing sessions.
    fn session(&self) -> Session;
    /// The entry of `FLOWS` for this cookie. The implementation reads the end before the tags ([`FlowValue`]).
    fn flow(&self, cookie: u64) -> Option<FlowValue>;
    /// `CLOCK_BOOTTIME` in nanoseconds.
    fn now(&self) -> u64;
    /// The moment, on the clock of [`Self::now`], from which refused packets pass; 0: never.
    fn observe_from(&self) -> u64;
    /// Takes all steps of `search`. The kernel overrides this with `bpf_loop`, whose callback its verifier checks only once.
    #[inline(always)]
    fn search(&self, search: &mut Search) {
        while search.step(|key| self.grant(key), || self.now()) {}
    }
}

/// The session of a packet, as a hook knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// A frame before the network stack: it may belong to any session; lock and cut check it later.
    Unknown,
    /// No session yet: a look-up for a new one, a listener, a handshake, an unconnected socket.
    New,
    /// An established session, whose socket has this cookie.
    Socket(u64),
}

/// Why a packet to a protected port is exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The host talks to itself.
    OwnTraffic,
    /// The socket belongs to another network namespace.
    OtherNamespace,
    /// The destination is not an address of this host (the prefilter).
    NotLocal,
    /// The host itself opened the socket's connection (the cut).
    OwnConnection,
}

/// The result of [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The port is not protected: pass.
    Unprotected,
    /// The packet is exempt: pass.
    Exempt(Exemption),
    /// A live entry covers the source: pass. The kernel counts the use in `slot`, with `now` as the last use.
    Granted {
        /// [`GrantValue::slot`].
        slot: u32,
        /// The time at which the entry was live, `CLOCK_BOOTTIME` in nanoseconds.
        now: u64,
    },
    /// The source may keep its existing sessions, and this packet belongs (or may belong) to one: pass.
    Established,
    /// The source may keep its existing sessions, and this packet belongs to none: drop.
    OnlyEstablished,
    /// No entry covers the source: drop.
    NoGrant,
    /// Entries cover the source, but each has ended: drop.
    Expired,
    /// A listener's packet without data, whose destination is unknown ([`crate::peer`]): pass.
    Handshake,
    /// The other side is unknown: drop.
    NoAddress,
}

/// Decides over `table` whether `source` may reach `port` (host byte order) by `protocol`. The time is read only after a key matches: a
/// miss needs no clock, and the time is as late as possible. Any live entry suffices: an expired narrow one never hides a live broad one.
#[inline(always)]
pub fn decide(table: &impl Table, protocol: u8, port: u16, source: Address) -> Verdict {
    match gate(table, protocol, port) {
        Some(verdict) => verdict,
        None => covered(table, protocol, port, source),
    }
}

/// The verdict that needs no address: the port is not protected, or the packet is exempt.
#[inline(always)]
pub(crate) fn gate(table: &impl Table, protocol: u8, port: u16) -> Option<Verdict> {
    if !table.is_protected(protocol, port) {
        return Some(Verdict::Unprotected);
    }
    table.exemption().map(Verdict::Exempt)
}

#[inline(always)]
pub(crate) fn covered(table: &impl Table, protocol: u8, port: u16, source: Address) -> Verdict {
    let mut search = Search::new(source, protocol, port, |word| table.lengths(source.family, word));
    if search.goes_on() {
        table.search(&mut search);
    }
    match search.found() {
        Found::Live { slot, now } => Verdict::Granted { slot, now },
        Found::Sessions => established(table, protocol, port, source),
        Found::Ended => Verdict::Expired,
        Found::Nothing => Verdict::NoGrant,
    }
}

/// The present, if refused packets pass because the host only observes; `None` if a refusal holds. Called only after a refusal.
#[inline(always)]
pub fn observed_at(table: &impl Table) -> Option<u64> {
    let from = table.observe_from();
    if from == 0 {
        return None;
    }
    let now = table.now();
    if now < from { None } else { Some(now) }
}

/// The verdict if the source may keep its existing sessions. A cookie counts only for its own port and source.
#[inline(always)]
fn established(table: &impl Table, protocol: u8, port: u16, source: Address) -> Verdict {
    let cookie = match table.session() {
        Session::Unknown => return Verdict::Established,
        Session::New => return Verdict::OnlyEstablished,
        Session::Socket(cookie) => cookie,
    };
    let Some(value) = table.flow(cookie) else {
        return Verdict::OnlyEstablished;
    };
    let tag = flow_tag(cookie, source, protocol, port);
    if value.tag_front == tag && value.tag_back == tag && table.now() < value.until_boot_ns {
        return Verdict::Established;
    }
    Verdict::OnlyEstablished
}

macro_rules! counted {
    ($(#[$enum_doc:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $index:literal $code:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $index,)* }

        impl $name {
            /// All variants, in order of their index.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The stable name.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $($name::$variant => $code,)* } }

            /// The stable index.
            #[must_use]
            pub const fn index(self) -> u32 { self as u32 }

            /// The variant with this index.
            #[must_use]
            pub fn from_index(index: u8) -> Option<Self> {
                match index { $($index => Some($name::$variant),)* _ => None }
            }
        }
    };
}

counted! {
    /// The hooks; the cut has one for each direction.
    Hook {
        /// `sk_lookup`: look-ups of listening and unconnected sockets.
        Lock = 0 "lock",
        /// `cgroup_skb` ingress: packets to a socket.
        CutIngress = 1 "cut-ingress",
        /// `cgroup_skb` egress: packets from a socket.
        CutEgress = 2 "cut-egress",
        /// The prefilter (TCX or XDP): frames before the stack.
        Prefilter = 3 "xdp",
    }
}

counted! {
    /// The outcomes that are counted. Packets of unprotected ports are not counted, to save time.
    Fate {
        /// Passed: a live entry covers the source.
        Granted = 0 "granted",
        /// Dropped: no entry covers the source.
        NoGrant = 1 "no-grant",
        /// Dropped: each entry that covers the source has ended.
        Expired = 2 "expired",
        /// Passed: the host sent it to itself.
        OwnTraffic = 3 "own-traffic",
        /// Passed: the socket belongs to another network namespace.
        OtherNamespace = 4 "other-namespace",
        /// Passed by the prefilter: the destination is not an address of this host.
        NotLocal = 5 "not-local",
        /// Passed by the prefilter: the parser is not sure of the packet's shape.
        NotSure = 6 "not-sure",
        /// Passed by the cut: an outgoing TCP reset, so that the other side notices the end of its session.
        ResetOut = 7 "reset-out",
        /// Dropped by the cut: the remote address is unknown.
        Unreadable = 8 "unreadable",
        /// Passed: the grant is over, but its established sessions may go on, and this is one of them (for the prefilter: may be).
        Established = 9 "established",
        /// Dropped: the grant is over, its established sessions may go on, and this is none of them.
        OnlyEstablished = 10 "only-established",
        /// Dropped by the cut, or by the prefilter during a flood: the source opens connections to the API too fast ([`crate::rate`]).
        SynRate = 11 "syn-rate",
        /// Passed because the host only observes; otherwise the packet would be dropped.
        Observed = 12 "observed",
        /// Passed by the cut: a listener's packet without data, inside an encapsulation that hides its destination.
        HandshakeOut = 13 "handshake-out",
        /// Passed by the cut: the host itself opened the connection.
        OwnConnection = 14 "own-connection",
    }
}

impl Fate {
    /// Whether the packet passes.
    #[inline(always)]
    #[must_use]
    pub const fn passes(self) -> bool {
        match self {
            Self::NoGrant | Self::Expired | Self::Unreadable | Self::OnlyEstablished | Self::SynRate => false,
            Self::Granted
            | Self::OwnTraffic
            | Self::OtherNamespace
            | Self::NotLocal
            | Self::NotSure
            | Self::ResetOut
            | Self::Established
            | Self::Observed
            | Self::HandshakeOut
            | Self::OwnConnection => true,
        }
    }
}

impl Verdict {
    /// The counter for this verdict; `None` for an unprotected port.
    #[inline(always)]
    #[must_use]
    pub const fn fate(self) -> Option<Fate> {
        match self {
            Self::Unprotected => None,
            Self::Exempt(Exemption::OwnTraffic) => Some(Fate::OwnTraffic),
            Self::Exempt(Exemption::OtherNamespace) => Some(Fate::OtherNamespace),
            Self::Exempt(Exemption::NotLocal) => Some(Fate::NotLocal),
            Self::Exempt(Exemption::OwnConnection) => Some(Fate::OwnConnection),
            Self::Granted { .. } => Some(Fate::Granted),
            Self::Established => Some(Fate::Established),
            Self::OnlyEstablished => Some(Fate::OnlyEstablished),
            Self::NoGrant => Some(Fate::NoGrant),
            Self::Expired => Some(Fate::Expired),
            Self::Handshake => Some(Fate::HandshakeOut),
            Self::NoAddress => Some(Fate::Unreadable),
        }
    }
}

/// Room in `COUNTERS` for each hook: more than there are fates.
const FATES_PER_HOOK: u32 = 16;

/// The size of the map `COUNTERS`.
pub const COUNTERS: u32 = 4 * FATES_PER_HOOK;

/// The index into `COUNTERS`.
#[inline(always)]
#[must_use]
pub const fn counter(hook: Hook, fate: Fate) -> u32 {
    hook.index() * FATES_PER_HOOK + fate.index()
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::key::{Lengths, TCP, UDP, V4};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    /// Values may carry the tag of another key, as after a torn read.
    struct Maps {
        grants: BTreeMap<GrantKey, GrantValue>,
        flows: BTreeMap<u64, FlowValue>,
        session: Session,
        exempt: Option<Exemption>,
        now: u64,
        observe_from: u64,
        clock_reads: Cell<u32>,
    }

    impl Maps {
        fn new(grants: &[(GrantKey, u64)], now: u64) -> Self {
            let value = |(n, &(key, end)): (usize, &(GrantKey, u64))| (key, GrantValue::new(&key, end, 0, n as u32));
            let grants = grants.iter().enumerate().map(value).collect();
            let (flows, clock_reads) = (BTreeMap::new(), Cell::new(0));
            Self { grants, flows, session: Session::New, exempt: None, now, observe_from: 0, clock_reads }
        }
    }

    impl Table for Maps {
        fn is_protected(&self, protocol: u8, port: u16) -> bool {
            protocol == TCP && port == 22
        }
        fn exemption(&self) -> Option<Exemption> {
            self.exempt
        }
        fn lengths(&self, family: u8, word: u32) -> u64 {
            let mut lengths = Lengths::default();
            self.grants.keys().for_each(|key| lengths.insert(key.family, key.prefix_len));
            if family == V4 { lengths.v4 } else { lengths.v6[word as usize] }
        }
        fn grant(&self, key: &GrantKey) -> Option<GrantValue> {
            self.grants.get(key).copied()
        }
        fn session(&self) -> Session {
            self.session
        }
        fn flow(&self, cookie: u64) -> Option<FlowValue> {
            self.flows.get(&cookie).copied()
        }
        fn now(&self) -> u64 {
            self.clock_reads.set(self.clock_reads.get() + 1);
            self.now
        }
        fn observe_from(&self) -> u64 {
            self.observe_from
        }
    }

    const SOURCE: Address = Address::v4([192, 0, 2, 7]);

    fn grant(len: u8, end: u64) -> (GrantKey, u64) {
        (GrantKey::new(SOURCE, len, TCP, 22), end)
    }

    #[test]
    fn a_deny_needs_no_clock_and_an_expired_narrow_grant_hides_no_live_broad_one() {
        let maps = Maps::new(&[], 10);
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::NoGrant);
        assert_eq!(maps.clock_reads.get(), 0);
        let maps = Maps::new(&[grant(32, 10), grant(8, 11)], 10);
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::Granted { slot: 1, now: 10 });
        let maps = Maps::new(&[grant(32, 10), grant(8, 9), grant(0, 0)], 10);
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::Expired);
    }

    #[test]
    fn only_a_protected_port_is_judged_and_only_if_nothing_exempts_it() {
        let mut maps = Maps::new(&[], 10);
        assert_eq!(decide(&maps, UDP, 22, SOURCE), Verdict::Unprotected);
        assert_eq!(decide(&maps, TCP, 23, SOURCE), Verdict::Unprotected);
        maps.exempt = Some(Exemption::OtherNamespace);
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::Exempt(Exemption::OtherNamespace));
        assert_eq!(decide(&maps, TCP, 23, SOURCE), Verdict::Unprotected);
    }

    #[test]
    fn a_refusal_holds_until_the_host_only_observes() {
        let mut maps = Maps::new(&[], 10);
        assert_eq!((observed_at(&maps), maps.clock_reads.get()), (None, 0), "0 means closed, and costs no clock");
        for (from, observed) in [(1, Some(10)), (10, Some(10)), (11, None), (u64::MAX, None)] {
            maps.observe_from = from;
            assert_eq!(observed_at(&maps), observed, "{from}");
        }
    }

    #[test]
    fn a_value_of_another_key_is_no_entry() {
        let mut maps = Maps::new(&[grant(32, u64::MAX)], 10);
        let value = maps.grants.values_mut().next().unwrap();
        let whole = *value;
        for torn in [GrantValue { tag_front: 1, ..whole }, GrantValue { tag_back: 1, ..whole }] {
            *maps.grants.values_mut().next().unwrap() = torn;
            assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::NoGrant);
        }
    }

    /// An entry that ended at 10, except for the sessions in `FLOWS`.
    fn keeping(until: u64) -> Maps {
        let mut maps = Maps::new(&[grant(32, 10)], 10);
        maps.grants.values_mut().for_each(|value| value.established_boot_ns = until);
        maps.flows.insert(7, FlowValue::new(flow_tag(7, SOURCE, TCP, 22), 13));
        maps
    }

    #[test]
    fn a_session_may_outlive_its_grant_and_nothing_else_does() {
        let mut maps = keeping(12);
        for (session, verdict) in [
            (Session::Unknown, Verdict::Established),
            (Session::New, Verdict::OnlyEstablished),
            (Session::Socket(7), Verdict::Established),
            (Session::Socket(8), Verdict::OnlyEstablished),
        ] {
            maps.session = session;
            assert_eq!(decide(&maps, TCP, 22, SOURCE), verdict, "{session:?}");
        }
        // The end of the entry and the end of the session both count.
        (maps.session, maps.now) = (Session::Socket(7), 12);
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::Expired);
        let mut maps = Maps { session: Session::Socket(7), ..keeping(u64::MAX) };
        for (now, verdict) in [(12, Verdict::Established), (13, Verdict::OnlyEstablished)] {
            maps.now = now;
            assert_eq!(decide(&maps, TCP, 22, SOURCE), verdict, "{now}");
        }
        // With a live entry, the decision reads no session.
        maps.now = 9;
        assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::Granted { slot: 0, now: 9 });
    }

    #[test]
    fn a_cookie_counts_for_its_own_port_and_source_alone() {
        let other = Address::v4([192, 0, 2, 8]);
        let mut maps = Maps { session: Session::Socket(7), ..keeping(12) };
        let whole = maps.flows[&7];
        for flow in [
            FlowValue::new(flow_tag(7, other, TCP, 22), 13),
            FlowValue::new(flow_tag(7, SOURCE, TCP, 23), 13),
            FlowValue::new(flow_tag(7, SOURCE, UDP, 22), 13),
            FlowValue::new(flow_tag(8, SOURCE, TCP, 22), 13),
            FlowValue { tag_front: 1, ..whole },
            FlowValue { tag_back: 1, ..whole },
        ] {
            maps.flows.insert(7, flow);
            assert_eq!(decide(&maps, TCP, 22, SOURCE), Verdict::OnlyEstablished, "{flow:?}");
        }
    }

    #[test]
    fn indices_and_codes_are_unique_and_come_back() {
        let mut seen = std::collections::HashSet::new();
        for &hook in Hook::ALL {
            assert_eq!(Hook::from_index(hook as u8), Some(hook));
            for &fate in Fate::ALL {
                assert!(counter(hook, fate) < COUNTERS && seen.insert(counter(hook, fate)));
                assert_eq!(Fate::from_index(fate as u8), Some(fate));
            }
        }
        let codes: std::collections::HashSet<_> = Fate::ALL.iter().map(|f| f.code()).collect();
        assert_eq!(codes.len(), Fate::ALL.len());
    }

    fn address() -> impl Strategy<Value = Address> {
        // Few bits differ, so that prefixes often cover addresses.
        prop_oneof![
            any::<[bool; 3]>().prop_map(|b| Address::v4([u8::from(b[0]) << 7, 0, u8::from(b[1]), u8::from(b[2])])),
            (0..4usize, any::<[bool; 2]>()).prop_map(|(at, b)| {
                let mut bytes = [0x20; 16];
                bytes[at * 5] ^= u8::from(b[0]);
                bytes[15] ^= u8::from(b[1]) << 3;
                Address::v6(bytes)
            }),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_loop_over_all_grants(
            grants in prop::collection::vec((address(), 0..=130u8, 0..4u64), 0..12),
            source in address(),
            now in 0..4u64,
        ) {
            let grants: BTreeMap<_, _> = grants.iter().map(|&(a, len, end)| (GrantKey::new(a, len, TCP, 22), end)).collect();
            let maps = Maps::new(&grants.iter().map(|(k, e)| (*k, *e)).collect::<Vec<_>>(), now);
            let bit = |a: Address, n: usize| a.bytes()[n / 8] >> (7 - n % 8) & 1;
            let covers = |key: &GrantKey| key.family == source.family
                && (0..usize::from(key.prefix_len)).all(|n| bit(key.source(), n) == bit(source, n));
            let covering: Vec<_> = grants.iter().filter(|(key, _)| covers(key)).collect();
            let wanted = match &covering[..] {
                [] => Fate::NoGrant,
                some if some.iter().any(|(_, end)| now < **end) => Fate::Granted,
                _ => Fate::Expired,
            };
            prop_assert_eq!(decide(&maps, TCP, 22, source).fate(), Some(wanted));
        }
    }
}
