//! Any frame meets any table: the parser, the prefilter's verdict and that of lock and cut against twins that share nothing with them.
//!
//! A byte says how many entries follow, eight bytes each; then come a byte of settings and the frame. Entries are made from the
//! frame's own flow, so that they concern it.
//!
//! `cargo fuzz run packet`
#![no_main]

#[allow(dead_code, reason = "the target needs only some of it")]
#[path = "../../tests/tests/shapes/twin.rs"]
mod twin;

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use postern_core::key::{Address, FlowValue, GrantKey, GrantValue, Listener, SynRate, TCP, UDP, max_prefix};
use postern_core::packet::{Flow, parse_ethernet};
use postern_core::rate::{Buckets, is_too_fast};
use postern_core::table::{Entry, Flow as RetainedSession, Table};
use postern_core::verdict::{Exemption, Fate, Session, Table as View, Verdict, decide, observed_at};
use twin::{Host, World, ip, twin_flow};

/// The time. Ends lie around it.
const NOW: u64 = 8;
const ENTRY: usize = 8;
const MOST_ENTRIES: usize = 7;

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let Some((entries, rest)) = rest.split_at_checked(usize::from(count) % (MOST_ENTRIES + 1) * ENTRY) else { return };
    let Some((&settings, frame)) = rest.split_first() else { return };
    let flow = parse_ethernet(frame).ok();
    let told = flow.map(|flow| (flow.protocol, flow.port, ip(flow.source), ip(flow.destination)));
    assert_eq!(told, twin_flow(frame), "the parsers differ");
    // What is not sure passes the prefilter.
    let Some(flow) = flow else { return };
    let (world, torn) = world(&flow, entries, settings);
    xdp(&world, &torn, &flow);
    lock_and_cut(&world, &torn, &flow);
    assert_eq!(flow.flags, twin_flags(frame, flow.protocol), "TCP's flags of {frame:?}");
    // An API at every address, or at one, in whose buckets there is nothing.
    let listens = if settings & 8 == 0 { any(flow.source) } else { flow.source };
    let too_fast = is_too_fast(&Empty { world: &world, at: Listener::new(listens, flow.port) }, &flow);
    let begins = flow.protocol == TCP && flow.flags & 0x12 == 0x02;
    let (here, asked) =
        (world.local.contains(&ip(flow.destination)), [any(flow.source), flow.destination].contains(&listens));
    assert_eq!(too_fast, begins && here && asked, "{flow:?}");
});

/// What a frame of a sure shape says behind its ports: byte 13 of a TCP header, where the frame goes that far.
fn twin_flags(frame: &[u8], protocol: u8) -> u8 {
    let is_tag = |tag: &&[u8]| tag.starts_with(&[0x81, 0x00]) || tag.starts_with(&[0x88, 0xa8]);
    let ip = 14 + 4 * frame[12..].chunks(4).take(2).take_while(is_tag).count();
    let header = if frame[ip] >> 4 == 6 { 40 } else { 4 * usize::from(frame[ip] & 15) };
    if protocol == TCP { frame.get(ip + header + 13).copied().unwrap_or(0) } else { 0 }
}

/// Every address of a family.
fn any(like: Address) -> Address {
    if max_prefix(like.family) == 32 { Address::v4([0; 4]) } else { Address::v6([0; 16]) }
}

/// An API whose callers' buckets are all empty.
struct Empty<'a> {
    world: &'a World,
    at: Listener,
}

impl Buckets for Empty<'_> {
    fn is_local(&self, address: &Address) -> bool {
        self.world.local.contains(&ip(*address))
    }

    fn rate(&self, listener: &Listener) -> Option<SynRate> {
        (*listener == self.at).then(|| SynRate::new(1, 1))
    }

    fn take(&self, _: Address, _: SynRate) -> bool {
        false
    }
}

/// The world, and the keys whose values are torn.
fn world(flow: &Flow, entries: &[u8], settings: u8) -> (World, BTreeSet<GrantKey>) {
    let (mut table, mut torn) = (Table::default(), BTreeSet::new());
    for entry in entries.chunks_exact(ENTRY) {
        let &[shape, flip, length, expires, established, cookie, until, slot] = entry else { continue };
        let port = if shape & 1 == 0 { flow.port } else { flow.port ^ 1 };
        let protocol = if shape & 2 == 0 { flow.protocol } else { TCP ^ UDP ^ flow.protocol };
        let source = if shape & 4 == 0 { flow.source } else { flipped(flow.source, flip) };
        let length = length % (max_prefix(source.family) + 1);
        let key = GrantKey::new(source, length, protocol, port);
        let (expires_boot_ns, established_boot_ns) = (u64::from(expires % 17), u64::from(established % 17));
        table.grants.insert(key, Entry { expires_boot_ns, established_boot_ns, slot: u32::from(slot) });
        if shape & 8 != 0 {
            torn.insert(key);
        }
        if shape & 16 != 0 {
            let kept = RetainedSession { protocol, port, peer: source, until_boot_ns: u64::from(until % 17) };
            table.flows.insert(u64::from(cookie % 4), kept);
        }
        if shape & 32 != 0 {
            table.protected.insert((protocol, port));
        }
    }
    if settings & 1 == 0 {
        table.protected.insert((flow.protocol, flow.port));
    }
    if settings & 4 != 0 {
        table.observe_from = u64::from(settings >> 4);
    }
    let local = if settings & 2 == 0 { vec![ip(flow.destination)] } else { vec![ip(flow.source)] };
    (World { table, local, now: NOW }, torn)
}

fn flipped(address: Address, bit: u8) -> Address {
    let mut bytes = address.bytes();
    let bit = usize::from(bit % max_prefix(address.family));
    bytes[bit / 8] ^= 0x80 >> (bit % 8);
    if max_prefix(address.family) == 32 {
        Address::v4([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        Address::v6(bytes)
    }
}

/// The same without the torn entries, which are no entries.
fn whole(world: &World, torn: &BTreeSet<GrantKey>) -> World {
    let mut table = world.table.clone();
    table.grants.retain(|key, _| !torn.contains(key));
    World { table, local: world.local.clone(), now: world.now }
}

/// The prefilter drops what is protected, for an address of the host, and covered by nothing that lives; nothing else.
fn xdp(world: &World, torn: &BTreeSet<GrantKey>, flow: &Flow) {
    let maps = Maps { host: world.view(flow), torn };
    let verdict = decide(&maps, flow.protocol, flow.port, flow.source);
    let drops = flow.begins() && verdict.fate().is_some_and(|fate| !fate.passes()) && observed_at(&maps).is_none();
    assert_eq!(
        drops,
        whole(world, torn).twin_drops(flow),
        "the prefilter: {verdict:?} for {flow:?} in {world:?}, {torn:?}"
    );
    if drops {
        assert!(world.local.contains(&ip(flow.destination)), "not for this host");
        assert!(world.table.protected.contains(&(flow.protocol, flow.port)), "not protected");
    }
}

fn lock_and_cut(world: &World, torn: &BTreeSet<GrantKey>, flow: &Flow) {
    let whole = whole(world, torn);
    for session in [Session::New, Session::Unknown].into_iter().chain((0..5).map(Session::Socket)) {
        let maps = Maps { host: world.view_of(None, session), torn };
        let verdict = decide(&maps, flow.protocol, flow.port, flow.source);
        let passes = verdict.fate().is_none_or(Fate::passes);
        assert_eq!(passes, whole.twin_passes(flow, session), "{verdict:?} for {flow:?}, {session:?} in {world:?}");
        if let Verdict::Granted { slot, now } = verdict {
            let of_slot = |(key, entry): (&GrantKey, &Entry)| entry.slot == slot && twin::covers(key, flow);
            assert!(now == NOW && whole.table.grants.iter().any(of_slot), "use is counted for another grant");
        }
    }
    for exemption in [Exemption::OwnTraffic, Exemption::OtherNamespace] {
        let maps = Maps { host: world.view_of(Some(exemption), Session::New), torn };
        assert!(decide(&maps, flow.protocol, flow.port, flow.source).fate().is_none_or(Fate::passes));
    }
}

/// The host's view, in which some values carry the tag of another key, as after a torn read.
struct Maps<'a> {
    host: Host<'a>,
    torn: &'a BTreeSet<GrantKey>,
}

impl View for Maps<'_> {
    fn is_protected(&self, protocol: u8, port: u16) -> bool {
        self.host.is_protected(protocol, port)
    }

    fn exemption(&self) -> Option<Exemption> {
        self.host.exemption()
    }

    fn lengths(&self, family: u8, word: u32) -> u64 {
        self.host.lengths(family, word)
    }

    fn grant(&self, key: &GrantKey) -> Option<GrantValue> {
        let value = self.host.grant(key)?;
        Some(if self.torn.contains(key) { GrantValue { tag_back: !value.tag_back, ..value } } else { value })
    }

    fn session(&self) -> Session {
        self.host.session()
    }

    fn flow(&self, cookie: u64) -> Option<FlowValue> {
        self.host.flow(cookie)
    }

    fn now(&self) -> u64 {
        self.host.now()
    }

    fn observe_from(&self) -> u64 {
        self.host.observe_from()
    }
}
