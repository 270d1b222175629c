//! Random policies, hosts and requests out of a world so small that they meet.

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use postern_core::envelope::Signer;
use postern_core::grant::{AccessRequest, End, Grant, Header, PortSpec, Protocol, Source};
use postern_core::policy::{Approvals, Justification, Live, Pattern, Policy, PortRule, Role, RoleRule};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{BootNanos, Now, Seconds};
use postern_core::wall::ClockState;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use uuid::Uuid;

use crate::twin::open;

const S: u64 = 1_000_000_000;
/// What the boot clock shows, in seconds.
const BOOT: u64 = 100;
const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dan"];
/// What the one pattern wants a justification to begin with.
pub const PATTERN_PREFIX: &str = "CHG-";

/// One question to the judge.
#[derive(Clone, Debug)]
pub struct Case {
    pub policy: Policy,
    pub asked: Asked,
    pub host: Host,
    pub now: Now,
}

/// Who asks for what, and who approved.
#[derive(Clone, Debug)]
pub struct Asked {
    pub who: String,
    pub approvers: Vec<Signer>,
    pub request: AccessRequest,
    /// Whether an extension copies asker, ports and sources from its grant, the lists the other way round.
    copies: bool,
}

impl Asked {
    /// An extension mostly names what the grant that it extends names.
    pub fn about(mut self, host: &Host) -> Self {
        let old = self.request.supersedes.and_then(|id| host.grants.iter().find(|grant| grant.id == id));
        if let Some(old) = old.filter(|_| self.copies) {
            self.who.clone_from(&old.signer.principal);
            self.request.ports = old.ports.iter().rev().copied().collect();
            self.request.sources = old.sources.iter().rev().copied().collect();
        }
        self
    }
}

/// What is granted already.
#[derive(Clone, Debug)]
pub struct Host {
    pub grants: Vec<Grant>,
    /// In nanoseconds.
    pub boot: u64,
}

impl Live for Host {
    fn count(&self, port: PortSpec, except: Option<Uuid>) -> usize {
        let counts = |grant: &&Grant| open(grant, self.boot) && Some(grant.id) != except;
        self.grants.iter().filter(counts).filter(|grant| grant.ports.iter().any(|p| p.number == port.number)).count()
    }

    fn extendable(&self, id: Uuid) -> Result<&Grant, Refusal> {
        let grant = self.grants.iter().find(|grant| grant.id == id);
        let grant = grant.ok_or_else(|| Refusal::new(Reason::GrantNotFound, id).at("supersedes"))?;
        if open(grant, self.boot) { Ok(grant) } else { Err(Refusal::new(Reason::GrantEnded, id).at("supersedes")) }
    }
}

fn port() -> impl Strategy<Value = PortSpec> {
    let protocol = prop_oneof![4 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp), 2 => Just(Protocol::Any)];
    (21..23u16, protocol).prop_map(|(number, protocol)| PortSpec { number, protocol })
}

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (0..3u8, 0..3u8, prop_oneof![1 => Just(0u8), 2 => Just(8), 2 => Just(16), 2 => Just(30), 4 => Just(32)])
        .prop_map(|(a, b, len)| IpNet::new([10, a, 0, b].into(), len).unwrap());
    let v6 = (0..3u16, prop_oneof![1 => Just(0u8), 4 => Just(32), 4 => Just(64), 4 => Just(128)])
        .prop_map(|(a, len)| IpNet::new([0x2001, a, 0, 0, 0, 0, 0, 9].into(), len).unwrap());
    prop_oneof![3 => v4, 1 => v6].prop_map(|net| net.trunc())
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> {
    let wide = Just(vec!["10.0.0.0/8".parse().unwrap(), "2001::/16".parse().unwrap()]);
    prop_oneof![2 => wide, 2 => prop::collection::vec(net(), 0..4)]
}

fn rarely<T: Clone + std::fmt::Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![2 => Just(None), 1 => some.prop_map(Some)]
}

fn people() -> impl Strategy<Value = Vec<String>> {
    subsequence(PEOPLE.to_vec(), 0..=4).prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn kind() -> impl Strategy<Value = Role> {
    use Role::{Admin, Approver, Requester, Viewer};
    prop_oneof![4 => Just(Requester), 2 => Just(Approver), 1 => Just(Viewer), 1 => Just(Admin)]
}

fn rule() -> impl Strategy<Value = PortRule> {
    let pattern = Justification::Matching(Pattern::parse(&format!("^{PATTERN_PREFIX}")).unwrap());
    let justification =
        prop_oneof![3 => Just(Justification::Optional), 1 => Just(Justification::Required), 1 => Just(pattern)];
    let kinds = subsequence(vec![Role::Viewer, Role::Requester, Role::Approver, Role::Admin], 0..=4);
    let approvals = prop_oneof![
        2 => Just(Approvals::default()),
        2 => (0..4u32, kinds).prop_map(|(count, roles)| Approvals { count, roles }),
    ];
    let times = (rarely(1..9u64), rarely(1..9u64));
    (port(), rarely(nets()), 10..60u64, justification, rarely(1..3u32), approvals, times).prop_map(
        |(port, allowed_sources, max, justification, max_grants, approvals, (first, idle))| PortRule {
            max_duration: Seconds(max),
            allowed_sources,
            justification,
            max_grants,
            approvals,
            first_use_within: first.map(Seconds),
            idle_timeout: idle.map(Seconds),
            ..PortRule::new(port)
        },
    )
}

fn role() -> impl Strategy<Value = RoleRule> {
    let ports = rarely(prop::collection::vec(port(), 0..4));
    (kind(), people(), ports, rarely(nets()), rarely(1..30u64)).prop_map(|(kind, principals, ports, sources, most)| {
        RoleRule { ports, sources, max_duration: most.map(Seconds), ..RoleRule::new(kind, principals) }
    })
}

/// Somebody may ask; whom nothing lets in shows little.
fn requesters() -> impl Strategy<Value = RoleRule> {
    let limits = (rarely(nets()), rarely(5..30u64));
    (subsequence(PEOPLE.to_vec(), 2..=4), limits).prop_map(|(names, (sources, most))| {
        let role = RoleRule::new(Role::Requester, names.into_iter().map(str::to_owned).collect());
        RoleRule { sources, max_duration: most.map(Seconds), ..role }
    })
}

pub fn policy() -> impl Strategy<Value = Policy> {
    let roles = (requesters(), prop::collection::vec(role(), 0..6));
    (prop::collection::vec(rule(), 1..6), roles, 20..90u64).prop_map(|(rules, (first, others), cap)| {
        let mut seen = std::collections::BTreeSet::new();
        let mut fresh = |port: PortSpec| port.protocol.numbers().iter().all(|p| seen.insert((*p, port.number)));
        let ports = rules.into_iter().filter(|rule| fresh(rule.port)).collect();
        let roles = [first].into_iter().chain(others).collect();
        Policy { ports, roles, max_duration: Seconds(cap), ..Policy::default() }
    })
}

fn wall(boot_s: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + boot_s).unwrap()
}

fn now(wall_trusted: bool) -> Now {
    let clock = if wall_trusted { ClockState::Synchronised } else { ClockState::WentBack };
    Now { boot: BootNanos(BOOT * S), wall: wall(BOOT.cast_signed()), clock, boot_id: Uuid::from_u128(1) }
}

fn signer(principal: &str) -> Signer {
    Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None }
}

fn sources(nets: Vec<IpNet>) -> Vec<Source> {
    let mut nets = nets;
    nets.sort();
    nets.dedup();
    nets.iter().map(|net| net.to_string().parse().unwrap()).collect()
}

/// As many as an id tells apart below.
fn grant(id: u128) -> impl Strategy<Value = Grant> {
    let who = select(PEOPLE.to_vec());
    let span = (BOOT - 15..BOOT + 3, 5..40u64, rarely(0..15u64));
    let what = (prop::collection::vec(port(), 1..3), prop::collection::vec(net(), 1..3));
    (who, span, what).prop_map(move |(who, (starts, length, chain), (ports, nets))| Grant {
        ports,
        sources: sources(nets),
        starts_boot: BootNanos(starts * S),
        expires_boot: BootNanos((starts + length) * S),
        chain_boot: chain.map(|earlier| BootNanos((starts - earlier) * S)),
        ..Grant::of_nothing(Uuid::from_u128(id), signer(who), wall(0), Uuid::from_u128(1))
    })
}

pub fn host() -> impl Strategy<Value = Host> {
    (grant(1), grant(2), grant(3)).prop_map(|(one, two, three)| Host { grants: vec![one, two, three], boot: BOOT * S })
}

/// A request, and the clock that it meets.
pub fn asked() -> impl Strategy<Value = (Asked, Now)> {
    let who = prop_oneof![9 => select(PEOPLE.to_vec()), 1 => select(vec!["eve", "", "Alice"])];
    let ahead = |seconds: std::ops::Range<i64>| seconds.prop_map(|s| wall(BOOT.cast_signed() + s));
    let end = prop_oneof![
        4 => (0..25u64).prop_map(|s| End::After(Seconds(s))),
        1 => ahead(-2..40).prop_map(End::At),
        1 => select(vec![End::After(Seconds(u64::MAX)), End::At(Timestamp::MAX), End::At(Timestamp::MIN)]),
    ];
    let week = wall(BOOT.cast_signed()) + SignedDuration::from_hours(7 * 24);
    let start = prop_oneof![
        6 => ahead(-5..10),
        2 => select(vec![week, week + SignedDuration::from_secs(1), Timestamp::MAX, Timestamp::MIN]),
    ];
    let extends = prop_oneof![5 => Just(None), 3 => (1..5u128).prop_map(|id| Some(Uuid::from_u128(id)))];
    let why = select(vec!["", " ", "because", "CHG-17", " CHG-17 ", "see CHG-17"]);
    let what = (prop::collection::vec(port(), 1..3), prop::collection::vec(net(), 1..3));
    let when = (end, prop_oneof![4 => Just(None), 1 => start.prop_map(Some)]);
    let trusted = prop_oneof![9 => Just(true), 1 => Just(false)];
    (who, people(), what, when, extends, (why, any::<bool>()), trusted).prop_map(
        |(who, approvers, (ports, nets), (end, not_before), supersedes, (why, copies), trusted)| {
            let header = Header { id: Uuid::from_u128(9), audience: vec![], not_after: wall(200), challenge: None };
            let (justification, ticket) = (why.to_owned(), String::new());
            let request = AccessRequest {
                header,
                ports,
                sources: sources(nets),
                end,
                not_before,
                supersedes,
                justification,
                ticket,
            };
            let approvers = approvers.iter().map(|name| signer(name)).collect();
            (Asked { who: who.to_owned(), approvers, request, copies }, now(trusted))
        },
    )
}
