//! The same packets to three judges: the loaded XDP program (`BPF_PROG_TEST_RUN`), the host build of the same code, and a
//! twin too simple to be wrong. Lock and cut are run as far as the kernel can run them without a socket.
//!
//! `POSTERN_SEED` repeats a run, `POSTERN_PACKETS` sets its length.

use postern_agent::enforcer::ebpf::{Programs, Sizes};
use postern_core::{
    key::{Address, GrantKey, TCP, UDP},
    packet::{Flow, NotSure, parse_ethernet},
    peer::{Header, Peer, decide_packet},
    table::{Edit, Entry, Flow as RetainedSession, Table, diff},
    time::BootNanos,
    verdict::{Fate, Hook, Session, Verdict, decide, observed_at},
};
use postern_tests::clock::boot_ns;
use std::net::IpAddr;

mod shapes;
mod syns;
use shapes::twin::{World, address, covers, ip, twin_flow};
use shapes::{Random, packet};

/// XDP's verdicts (enum xdp_action).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// TCX's verdicts (enum tcx_action_base).
const TCX_NEXT: u32 = u32::MAX;
const TCX_DROP: u32 = 2;
/// The device of a test run's packets.
const LOOPBACK: u32 = 1;
/// Packets of each random table.
const PER_TABLE: u64 = 20_000;

#[test]
fn kernel_host_and_twin_agree_on_a_million_packets() {
    let seed = from_environment("POSTERN_SEED").unwrap_or(0x706f_7374_6572_6e00);
    let wanted = from_environment("POSTERN_PACKETS").unwrap_or(1_000_000);
    println!("POSTERN_SEED={seed} POSTERN_PACKETS={wanted}");
    let mut random = Random::new(seed);
    let mut kernel = Kernel::load();
    let mut tally = Tally::default();
    while tally.packets < wanted {
        let case = world(&mut random);
        kernel.install(&case);
        let end = tally.packets + PER_TABLE;
        while tally.packets < end {
            let whole = packet(&mut random, &case.addresses());
            // Every truncation of one packet in four hundred, so that each shape is cut at each byte many times.
            let shortest = if random.below(400) == 0 { 14 } else { whole.len() };
            for len in shortest..=whole.len() {
                tally.add(&case, judge(&mut kernel, &case, &whole[..len]));
            }
        }
    }
    println!("{tally:?}");
    // Each fate was met often enough to mean something.
    assert!(tally.packets >= wanted && tally.not_sure > wanted / 50 && tally.unprotected > wanted / 50, "{tally:?}");
    let met = [tally.granted, tally.established, tally.dropped, tally.exempt, tally.observed];
    assert!(met.iter().all(|n| *n > wanted / 200), "{tally:?}");
}

#[test]
fn a_wrong_twin_is_found_out() {
    // The longest match alone, which is what a prefix trie would say: an expired narrow grant hides a live broad one.
    let longest_match_only = |case: &World, flow: &Flow| {
        let covering = case.table.grants.iter().filter(|(key, _)| covers(key, flow));
        covering.max_by_key(|(key, _)| key.prefix_len).is_some_and(|(_, entry)| case.now < entry.expires_boot_ns)
    };
    let mut random = Random::new(1);
    let mut differs = 0;
    for _ in 0..50 {
        let case = world(&mut random);
        for _ in 0..200 {
            if let Ok(flow) = parse_ethernet(packet(&mut random, &case.addresses()).as_slice())
                && case.table.protected.contains(&(flow.protocol, flow.port))
            {
                let verdict = decide(&case.view(&flow), flow.protocol, flow.port, flow.source);
                let exempt = matches!(verdict, Verdict::Exempt(_));
                let granted = matches!(verdict, Verdict::Granted { .. });
                differs += u32::from(!exempt && granted != longest_match_only(&case, &flow));
            }
        }
    }
    assert!(differs > 10, "{differs}");
}

#[test]
fn an_entry_ends_at_its_nanosecond() {
    let source = Address::v4([192, 0, 2, 7]);
    let key = GrantKey::new(source, 24, TCP, 22);
    for expires in [1, 2, 1_000_000, u64::MAX / 2, u64::MAX] {
        for (now, open) in [(expires - 1, true), (expires, false), (expires.saturating_add(1), false)] {
            let table = Table {
                protected: [(TCP, 22)].into(),
                grants: [(key, Entry { expires_boot_ns: expires, slot: 9, ..Entry::default() })].into(),
                ..Table::default()
            };
            let world = World { table, local: Vec::new(), now };
            let view = world.view_of(None, Session::New);
            let verdict = decide(&view, TCP, 22, source);
            assert_eq!(verdict, if open { Verdict::Granted { slot: 9, now } } else { Verdict::Expired });
        }
    }
}

/// The cut's part, which the kernel's test run has no sockets for: the host build against a loop over everything.
#[test]
fn host_and_twin_agree_on_sessions() {
    let mut random = Random::new(5);
    let mut passed = [0u32; 2];
    for _ in 0..2000 {
        let mut case = world(&mut random);
        let flow = Flow {
            protocol: if random.below(2) == 0 { TCP } else { UDP },
            port: random.port(),
            source: address(random.address()),
            destination: address(random.address()),
            flags: 0,
        };
        for cookie in 0..3 {
            // Mostly this very flow, else another's cookie.
            let peer = if random.below(4) == 0 { address(random.address()) } else { flow.source };
            let port = if random.below(4) == 0 { random.port() } else { flow.port };
            let until_boot_ns = if random.below(3) == 0 { 1 + random.below(1000) } else { u64::MAX };
            case.table.flows.insert(cookie, RetainedSession { protocol: flow.protocol, port, peer, until_boot_ns });
        }
        for session in [Session::New, Session::Unknown].into_iter().chain((0..4).map(Session::Socket)) {
            let view = case.view_of(None, session);
            let fate = decide(&view, flow.protocol, flow.port, flow.source).fate();
            assert_eq!(
                fate.is_none_or(Fate::passes),
                case.twin_passes(&flow, session),
                "{session:?} {flow:?} {case:?}"
            );
            passed[0] += u32::from(fate == Some(Fate::Established));
            passed[1] += u32::from(fate == Some(Fate::OnlyEstablished));
        }
    }
    assert!(passed.iter().all(|n| *n > 50), "{passed:?}");
}

/// Whose grant a packet of a socket needs, against a list of everybody who must have one.
#[test]
fn host_and_twin_agree_on_whose_packet_it_is() {
    let mut random = Random::new(9);
    let mut met = [0u32; 2];
    for _ in 0..20_000 {
        let case = world(&mut random);
        let (inwards, protocol) = (random.below(2) == 0, if random.below(2) == 0 { TCP } else { UDP });
        let (own, inside, port) = (address(random.address()), address(random.address()), random.port());
        let connected = (random.below(3) > 0).then_some(own);
        // Mostly the header is that of the socket's own peer.
        let header = match random.below(8) {
            0 => Header::Unreadable,
            1 | 2 => Header::Other,
            3..6 => Header::Own(own),
            _ => Header::Own(inside),
        };
        let peer = Peer::of(inwards, protocol, || header, || connected);
        let (verdict, _) = decide_packet(&case.view_of(None, Session::New), protocol, port, peer);
        let passes = verdict.fate().is_none_or(Fate::passes);
        assert_eq!(passes, twin_lets(&case, inwards, (protocol, port), header, connected), "{peer:?} {case:?}");
        met[usize::from(passes)] += 1;
    }
    assert!(met.iter().all(|n| *n > 2000), "{met:?}");
}

/// Everybody who must have a grant, has one.
fn twin_lets(case: &World, inwards: bool, to: (u8, u16), header: Header, connected: Option<Address>) -> bool {
    let (protocol, port) = to;
    let mut needed: Vec<Address> = connected.into_iter().filter(|_| !inwards).collect();
    if let Header::Own(address) = header
        && (needed.is_empty() || protocol == UDP)
    {
        needed.push(address);
    }
    let destination = Address::v4([0; 4]);
    let covered = |source: &Address| {
        case.twin_passes(&Flow { protocol, port, source: *source, destination, flags: 0 }, Session::New)
    };
    let listener = needed.is_empty() && protocol == TCP && !inwards;
    let known = !needed.is_empty() && needed.iter().all(covered);
    let readable = header != Header::Unreadable || !inwards && protocol == TCP && connected.is_some();
    !case.table.protected.contains(&to) || readable && (known || listener)
}

#[test]
fn lock_and_cut_run_in_the_kernel() {
    let mut kernel = Kernel::load();
    let case = World { table: Table { protected: [(TCP, 22)].into(), ..Table::default() }, local: Vec::new(), now: 0 };
    kernel.install(&case);
    // struct bpf_sk_lookup in words: socket (2), family, protocol, remote_ip4, remote_ip6 (4), remote_port, local_ip4,
    // local_ip6 (4), local_port, ingress_ifindex (the kernel's test run wants 0), padding.
    let context = |family: u32, protocol: u32, local: [u8; 4], port: u32| {
        let mut words = [0u32; 18];
        (words[2], words[3], words[4]) = (family, protocol, u32::from_ne_bytes([192, 0, 2, 7]));
        (words[5], words[11]) = (1, u32::from_ne_bytes(local));
        (words[10], words[15]) = (u32::from_ne_bytes(local), port);
        words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>()
    };
    let (other, own) = ([192, 0, 2, 1], [192, 0, 2, 7]);
    // SK_DROP is 0, SK_PASS is 1.
    for (family, protocol, local, port, passes) in
        [(2, 6, other, 22, 0), (10, 6, other, 22, 0), (2, 17, other, 22, 1), (2, 6, other, 23, 1), (2, 6, own, 22, 1)]
    {
        let result = kernel.programs.test_run(Hook::Lock, &[], &context(family, protocol, local, port));
        assert_eq!(result.expect("sk_lookup runs"), passes, "{family} {protocol} {local:?} {port}");
    }
    assert_eq!((kernel.count(Hook::Lock, Fate::NoGrant), kernel.count(Hook::Lock, Fate::OwnTraffic)), (2, 1));
    // A source that keeps its sessions gets no new one.
    let kept = RetainedSession { protocol: TCP, port: 22, peer: Address::v4([192, 0, 2, 7]), until_boot_ns: u64::MAX };
    let keeping = World { table: case.table.clone().keeping([(7, kept)], BootNanos(1)), local: Vec::new(), now: 0 };
    kernel.install(&keeping);
    let result = kernel.programs.test_run(Hook::Lock, &[], &context(2, 6, other, 22));
    assert_eq!((result.expect("sk_lookup runs"), kernel.count(Hook::Lock, Fate::OnlyEstablished)), (0, 1));
    lock_observes(&mut kernel, &case, &context(2, 6, other, 22), &context(10, 17, other, 3389));
    // The test run's socket has no port, so the cut lets everything by.
    let frame = packet(&mut Random::new(3), &case.addresses());
    for hook in [Hook::CutIngress, Hook::CutEgress] {
        assert_eq!(kernel.programs.test_run(hook, &frame, &[]).expect("cgroup_skb runs"), 1);
    }
}

/// A refusal passes from its moment on, and counts for its source and port (docs/decisions/0032).
fn lock_observes(kernel: &mut Kernel, case: &World, tcp4: &[u8], udp6: &[u8]) {
    let observing =
        |observe_from| Table { protected: [(TCP, 22), (UDP, 3389)].into(), observe_from, ..case.table.clone() };
    let mut run = |observe_from, context: &[u8]| {
        kernel.install(&World { table: observing(observe_from), local: Vec::new(), now: 0 });
        let passes = kernel.programs.test_run(Hook::Lock, &[], context).expect("sk_lookup runs");
        (passes, kernel.count(Hook::Lock, Fate::Observed))
    };
    assert_eq!(run(0, tcp4), (0, 0), "0 means closed");
    assert_eq!(run(u64::MAX, tcp4), (0, 0), "not yet");
    assert_eq!((run(1, tcp4), run(1, udp6), run(boot_ns(), tcp4)), ((1, 1), (1, 2), (1, 3)));
    // Its moment comes without anybody's doing.
    let soon = boot_ns() + 200_000_000;
    assert_eq!(run(soon, tcp4), (0, 3));
    postern_tests::until("the moment has come", || boot_ns() >= soon);
    assert_eq!(kernel.programs.test_run(Hook::Lock, &[], tcp4).expect("sk_lookup runs"), 1);
    let mut seen: Vec<_> =
        kernel.programs.observed().into_iter().map(|o| (o.port, o.protocol, o.lookups, o.packets)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(22, TCP, 3, 0), (3389, UDP, 1, 0)]);
    let last = kernel.programs.observed().into_iter().map(|o| (o.source, o.last_boot_ns)).max_by_key(|o| o.1);
    assert!(last.is_some_and(|(source, at)| source == IpAddr::from([192, 0, 2, 7]) && at >= soon), "{last:?}");
}

/// The kernel repeats a step by a helper that takes a number of rounds: every length that there can be gets its own.
#[test]
fn the_kernel_takes_a_step_for_each_prefix_length() {
    let mut kernel = Kernel::load();
    for source in [IpAddr::from([192, 0, 2, 7]), IpAddr::from([0x20; 16])] {
        let most = if source.is_ipv4() { 32u8 } else { 128 };
        // struct bpf_sk_lookup in words, as above.
        let mut words = [0u32; 18];
        (words[2], words[3], words[15]) = (if most == 32 { 2 } else { 10 }, 6, 22);
        if most == 32 {
            words[4] = u32::from_ne_bytes([192, 0, 2, 7])
        } else {
            words[5..9].fill(0x2020_2020)
        }
        let context: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        for live in (0..=most).map(Some).chain([None]) {
            let ends = |len| if Some(len) == live { u64::MAX } else { 1 };
            let key = |len| GrantKey::new(address(source), len, TCP, 22);
            let grants = (0..=most).map(|len| (key(len), Entry { expires_boot_ns: ends(len), ..Entry::default() }));
            let table = Table { protected: [(TCP, 22)].into(), grants: grants.collect(), ..Table::default() };
            kernel.install(&World { table, local: Vec::new(), now: 0 });
            let result = kernel.programs.test_run(Hook::Lock, &[], &context).expect("sk_lookup runs");
            assert_eq!(result, u32::from(live.is_some()), "{source}/{live:?}");
        }
    }
}

/// docs/decisions/0006: of a million instructions that the verifier may walk, at most. What it walks is what a start takes.
#[test]
fn the_verifier_has_room_to_spare() {
    let sizes = Sizes { grants: 1, flows: 1, slots: 1 };
    let mut walked = Vec::new();
    for load in [Programs::load, Programs::load_without_helper] {
        let programs = load(sizes, &Table::default(), None).expect("to load (takes root)");
        for &hook in Hook::ALL {
            let number = programs.verified_instructions(hook).expect("a number (Linux 5.16)");
            println!("{}: {number} instructions ({:?})", hook.code(), programs.cookie_source());
            walked.push(number);
        }
    }
    assert!(walked.iter().all(|number| *number < 50_000), "{walked:?}");
}

/// What each judge said of one packet, once they agree.
fn judge(kernel: &mut Kernel, case: &World, frame: &[u8]) -> Result<Verdict, NotSure> {
    let host = parse_ethernet(frame).map(|f| (f, decide(&case.view(&f), f.protocol, f.port, f.source)));
    let drops = host.is_ok_and(|(f, v)| {
        f.begins() && v.fate().is_some_and(|fate| !fate.passes()) && observed_at(&case.view(&f)).is_none()
    });
    let context = || format!("{frame:02x?}\n{case:?}\nhost: {host:?}");
    let twin = twin_flow(frame);
    assert_eq!(
        twin,
        host.ok().map(|(flow, _)| (flow.protocol, flow.port, ip(flow.source), ip(flow.destination))),
        "{}",
        context()
    );
    assert_eq!(host.is_ok_and(|(flow, _)| case.twin_drops(&flow)), drops, "the twin differs: {}", context());
    let action = kernel.programs.test_run(Hook::Prefilter, frame, &[]).expect("XDP runs");
    assert_eq!(action, if drops { XDP_DROP } else { XDP_PASS }, "the kernel differs: {}", context());
    // The same code again, so some are enough: to another hardware address than the loopback device's, and to that one.
    if frame.len().is_multiple_of(16) {
        for (mac, drops) in [([2; 6], false), ([0; 6], drops)] {
            let addressed = [&mac, &frame[6..]].concat();
            // The kernel builds no packet whose IP header is cut off.
            let Ok(verdict) = kernel.programs.test_run_tcx(&addressed) else { continue };
            assert_eq!(verdict, if drops { TCX_DROP } else { TCX_NEXT }, "TCX differs: {}", context());
        }
    }
    host.map(|(_, verdict)| verdict)
}

/// A random world. Few ports and few addresses, so that packets, grants and addresses meet often. Entries have ended long
/// ago or end far away, because the kernel's clock is its own.
fn world(random: &mut Random) -> World {
    let mut table = Table::default();
    for port in [22, 23, 3389] {
        for protocol in [TCP, UDP] {
            if random.below(3) > 0 {
                table.protected.insert((protocol, port));
            }
        }
    }
    for _ in 0..random.below(40) {
        let source = random.address();
        let most = if source.is_ipv4() { 32 } else { 128 };
        let length = if random.below(4) == 0 { random.below(most + 1) } else { most - random.below(9) };
        let protocol = if random.below(2) == 0 { TCP } else { UDP };
        let key = GrantKey::new(address(source), length as u8, protocol, random.port());
        let mut end = || if random.below(2) == 0 { random.below(1000) } else { u64::MAX - random.below(1000) };
        let (expires_boot_ns, established_boot_ns) = (end(), end());
        // One in four has nothing but its own end; of the others some are for established sessions alone.
        let established_boot_ns = if random.below(4) == 0 { 0 } else { established_boot_ns };
        table.grants.insert(key, Entry { expires_boot_ns, established_boot_ns, slot: random.below(8) as u32 });
    }
    // Half of them enforce; the others observe since long ago, or will in ages.
    if random.below(2) == 0 {
        table.observe_from = if random.below(2) == 0 { 1 + random.below(1000) } else { u64::MAX - random.below(1000) };
    }
    let local = (0..random.below(12)).map(|_| random.address()).collect();
    World { table, local, now: 1_000_000 }
}

/// The loaded programs and what their maps hold.
struct Kernel {
    programs: Programs,
    installed: Table,
}

impl Kernel {
    fn load() -> Self {
        let programs = Programs::load(Sizes { grants: 256, flows: 8, slots: 8 }, &Table::default(), None);
        Self { programs: programs.expect("to load (takes root)"), installed: Table::default() }
    }

    fn install(&mut self, case: &World) {
        let edits: Vec<Edit> = diff(&self.installed, &case.table);
        edits.iter().try_for_each(|edit| self.programs.apply(edit)).expect("a table");
        self.programs.set_local(&case.local).expect("addresses");
        // Everywhere the lock has refused somebody, for good: where it has not, the prefilter drops nothing.
        for (address, port) in case.local.iter().flat_map(|address| [22, 23, 3389].map(|port| (*address, port))) {
            self.programs.note_refusal((address, port).into(), LOOPBACK, u64::MAX).expect("a refusal");
        }
        self.installed = case.table.clone();
    }

    fn count(&self, hook: Hook, fate: Fate) -> u64 {
        self.programs.counters().iter().filter(|c| (c.0, c.1) == (hook, fate)).map(|c| c.2).sum()
    }
}

#[derive(Debug, Default)]
struct Tally {
    packets: u64,
    not_sure: u64,
    unprotected: u64,
    exempt: u64,
    granted: u64,
    established: u64,
    dropped: u64,
    observed: u64,
}

impl Tally {
    fn add(&mut self, case: &World, judged: Result<Verdict, NotSure>) {
        self.packets += 1;
        let observes = case.table.observe_from != 0 && case.table.observe_from <= case.now;
        *match judged {
            Err(NotSure) => &mut self.not_sure,
            Ok(Verdict::Unprotected) => &mut self.unprotected,
            Ok(Verdict::Exempt(_)) => &mut self.exempt,
            Ok(Verdict::Granted { .. }) => &mut self.granted,
            Ok(Verdict::Established) => &mut self.established,
            Ok(verdict) if observes && !verdict.fate().is_none_or(Fate::passes) => &mut self.observed,
            Ok(_) => &mut self.dropped,
        } += 1;
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}
