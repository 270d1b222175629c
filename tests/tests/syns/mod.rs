//! SYNs to the API before three judges: the loaded XDP program, the host build of the same code, and a twin that only counts.
//!
//! Owns the packets and the twin. Time stands still but for the last test: a SYN costs an hour.

use super::{Hook, Kernel, LOOPBACK, XDP_DROP, XDP_PASS, address, shapes::Random};
use postern_core::key::{Address, Listener, SynRate, TCP};
use postern_core::packet::parse_ethernet;
use postern_core::rate::{Buckets, is_too_fast, take};
use postern_core::table::{Edit, Table, diff};
use postern_core::verdict::Fate;
use postern_tests::frame::{self, Ipv4, Ipv6, Tcp, flag, protocol};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const BURST: u64 = 5;
const HOUR: u64 = 3_600_000_000_000;
const HOURLY: SynRate = SynRate { interval_ns: HOUR, tolerance_ns: HOUR * (BURST - 1) };
/// The API's port on every address, and the one on the first address alone.
const EVERYWHERE: u16 = 7322;
const FIRST_ALONE: u16 = 7324;
const PACKETS: u32 = 60_000;

/// The host's addresses, and one that is not its own.
const HERE: [[IpAddr; 3]; 2] =
    [[v4([192, 0, 2, 1]), v4([192, 0, 2, 2]), v4([192, 0, 2, 3])], [v6(1, 1), v6(1, 2), v6(1, 3)]];

const fn v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
}

const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, network, host, 0, 0, host))
}

/// One packet, as it was made: nothing here was parsed.
#[derive(Debug)]
struct Made {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    flags: u8,
    tags: usize,
    /// How many bytes of the frame there are.
    len: usize,
    /// Where the ports end and where the flags do.
    ends: (usize, usize),
    frame: Vec<u8>,
}

impl Made {
    fn new(source: IpAddr, destination: IpAddr, port: u16, flags: u8, tags: usize) -> Self {
        let tcp = Tcp { flags, ..Tcp::syn(40_000, port) }.segment(source, destination);
        let (kind, header, packet) = match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => (frame::IPV4, 20, Ipv4::new(from, to).packet(&tcp)),
            (IpAddr::V6(from), IpAddr::V6(to)) => (frame::IPV6, 40, Ipv6::new(from, to).packet(protocol::TCP, &tcp)),
            _ => unreachable!("one family"),
        };
        let plain = frame::ethernet([2; 6], [4; 6], kind, &packet);
        let frame = frame::tagged(&plain, &vec![(frame::VLAN, 7); tags]);
        let tcp_at = 14 + 4 * tags + header;
        Self { source, destination, port, flags, tags, len: frame.len(), ends: (tcp_at + 4, tcp_at + 14), frame }
    }

    fn random(random: &mut Random) -> Self {
        let family = random.below(2) as usize;
        let number = random.below(1500) as u16;
        let source = if family == 0 {
            v4([10, 0, (number >> 8) as u8, number as u8])
        } else {
            // Two hosts of each /64.
            v6(100 + number / 2, number % 2)
        };
        let destination = HERE[family][random.below(3) as usize];
        let port = [EVERYWHERE, EVERYWHERE, FIRST_ALONE, 22, 80][random.below(5) as usize];
        let flags = match random.below(6) {
            0 => random.next() as u8,
            1 => flag::ACK,
            2 => flag::SYN | flag::ACK,
            3 => flag::SYN | flag::ECE | flag::CWR,
            _ => flag::SYN,
        };
        let tags = random.below(9).saturating_sub(5) as usize;
        let mut made = Self::new(source, destination, port, flags, tags);
        if random.below(10) == 0 {
            made.len = 14 + random.below(made.frame.len() as u64 - 14) as usize;
        }
        made
    }

    fn bytes(&self) -> &[u8] {
        &self.frame[..self.len]
    }

    /// Whether the prefilter can know that it is a SYN to the API.
    fn counts(&self) -> bool {
        let own = usize::from(self.source.is_ipv6());
        let listens = self.port == EVERYWHERE || (self.port == FIRST_ALONE && self.destination == HERE[own][0]);
        listens && self.begins() && self.destination != HERE[own][2] && self.tags <= 2 && self.len >= self.ends.1
    }

    fn begins(&self) -> bool {
        self.flags & flag::SYN != 0 && self.flags & flag::ACK == 0
    }

    /// Whether it asks for a connection to the protected port, where nobody has a grant.
    fn is_for_nobody(&self) -> bool {
        let own = usize::from(self.source.is_ipv6());
        self.port == 22
            && self.begins()
            && self.destination != HERE[own][2]
            && self.tags <= 2
            && self.len >= self.ends.1
    }

    /// Whose bucket it takes from, in words.
    fn network(&self) -> String {
        match self.source {
            IpAddr::V4(source) => source.to_string(),
            IpAddr::V6(source) => format!("{:x?}", &source.segments()[..4]),
        }
    }
}

/// The host's side of the maps.
#[derive(Default)]
struct Host {
    listeners: BTreeMap<Listener, SynRate>,
    local: BTreeSet<Address>,
    buckets: RefCell<BTreeMap<Address, u64>>,
}

impl Buckets for Host {
    fn is_local(&self, address: &Address) -> bool {
        self.local.contains(address)
    }

    fn rate(&self, listener: &Listener) -> Option<SynRate> {
        self.listeners.get(listener).copied()
    }

    fn take(&self, source: Address, rate: SynRate) -> bool {
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry(source).or_default();
        take(rate, *bucket, HOUR).inspect(|full_at| *bucket = *full_at).is_some()
    }
}

fn listening() -> Vec<SocketAddr> {
    let any = [v4([0; 4]), IpAddr::V6(Ipv6Addr::UNSPECIFIED)].map(|ip| SocketAddr::new(ip, EVERYWHERE));
    any.into_iter().chain(HERE.map(|own| SocketAddr::new(own[0], FIRST_ALONE))).collect()
}

/// A kernel with the API at those addresses and a protected port beside.
fn limited(rate: SynRate) -> Kernel {
    let mut kernel = Kernel::load();
    let table = Table { protected: [(TCP, 22)].into(), ..Table::default() };
    let edits: Vec<Edit> = diff(&Table::default(), &table);
    edits.iter().try_for_each(|edit| kernel.programs.apply(edit)).expect("a table");
    kernel.programs.set_local(&HERE.map(|own| [own[0], own[1]]).concat()).expect("addresses");
    kernel.programs.limit_syns(&listening(), rate).expect("limits");
    for (address, port) in HERE.iter().flatten().flat_map(|a| [22, EVERYWHERE, FIRST_ALONE].map(|port| (*a, port))) {
        kernel.programs.note_refusal((address, port).into(), LOOPBACK, u64::MAX).expect("a refusal");
    }
    kernel
}

fn passes(kernel: &Kernel, frame: &[u8]) -> bool {
    match kernel.programs.test_run(Hook::Prefilter, frame, &[]).expect("XDP runs") {
        XDP_PASS => true,
        XDP_DROP => false,
        other => panic!("{other}"),
    }
}

#[test]
fn kernel_host_and_twin_agree_on_syns_to_the_api() {
    let kernel = limited(HOURLY);
    let host = Host {
        listeners: listening().iter().map(|a| (Listener::new(address(a.ip()), a.port()), HOURLY)).collect(),
        local: HERE.iter().flat_map(|own| [address(own[0]), address(own[1])]).collect(),
        ..Host::default()
    };
    let mut random = Random::new(7322);
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    let (mut refused, mut counted, mut closed) = (0u64, 0u64, 0u64);
    for _ in 0..PACKETS {
        let made = Made::random(&mut random);
        let of_network = taken.entry(made.network()).or_default();
        let too_fast = made.counts() && *of_network == BURST;
        *of_network += u64::from(made.counts() && !too_fast);
        let flow = parse_ethernet(made.bytes());
        assert_eq!(flow.is_ok_and(|f| is_too_fast(&host, &f)), too_fast, "the host differs: {made:?}");
        assert_eq!(passes(&kernel, made.bytes()), !too_fast && !made.is_for_nobody(), "the kernel differs: {made:?}");
        refused += u64::from(too_fast);
        counted += u64::from(made.counts());
        closed += u64::from(made.is_for_nobody());
    }
    println!("{counted} SYNs to the API, {refused} refused, {closed} to a closed port");
    assert!(refused > 1000 && counted - refused > 3000 && closed > 1000);
    assert_eq!(
        (kernel.count(Hook::Prefilter, Fate::SynRate), kernel.count(Hook::Prefilter, Fate::NoGrant)),
        (refused, closed)
    );
}

#[test]
fn a_flood_from_everywhere_keeps_no_source_out() {
    let kernel = limited(HOURLY);
    let syn = |source: IpAddr| Made::new(source, HERE[0][0], EVERYWHERE, flag::SYN, 0).frame;
    // Six times as many sources as there are buckets.
    for number in 0..100_000u32 {
        let [_, a, b, c] = number.to_be_bytes();
        assert!(passes(&kernel, &syn(v4([11, a, b, c]))), "source {number} is new");
    }
    let honest = syn(v4([10, 0, 0, 1]));
    assert_eq!((0..2 * BURST).filter(|_| passes(&kernel, &honest)).count() as u64, BURST);
}

#[test]
fn a_bucket_fills_by_the_kernels_clock_and_without_limit_there_is_none() {
    let mut kernel = limited(SynRate { interval_ns: 50_000_000, tolerance_ns: 0 });
    let syn = Made::new(v4([10, 0, 0, 1]), HERE[0][0], EVERYWHERE, flag::SYN, 0).frame;
    let (mut passed, mut dropped) = (0, 0);
    postern_tests::until("four pass and others are dropped", || {
        // More at once than the bucket holds.
        for _ in 0..4 {
            *(if passes(&kernel, &syn) { &mut passed } else { &mut dropped }) += 1;
        }
        passed >= 4 && dropped > 0
    });
    kernel.programs.limit_syns(&[], HOURLY).expect("no limits");
    assert!((0..1000).all(|_| passes(&kernel, &syn)));
}
