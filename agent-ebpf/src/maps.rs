//! The shared maps, and how the decision reads them.
//!
//! Owns every map definition and the kernel's [`Table`]. It never decides.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_loop},
    macros::map,
    maps::{Array, HashMap, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf},
};
use postern_core::{
    key::{
        Address, DeniedEvent, FlowValue, GrantKey, GrantValue, Lengths, Listener, ObservedValue, PROTECTED_WORDS,
        RefusedAt, SlotUsage, SynRate, UDP, V4, max_prefix, protected_bit,
    },
    own::{MOST_MET, nobody},
    rate::{Buckets, take},
    search::{MOST_STEPS, Search},
    verdict::{COUNTERS as COUNTER_COUNT, Exemption, Fate, Hook, Session, Table, counter, observed_at},
};

#[map]
static PROTECTED: Array<u64> = Array::with_max_entries(PROTECTED_WORDS, 0);
#[map]
static LENGTHS: Array<Lengths> = Array::with_max_entries(1, 0);
/// Preallocated, so that a grant never waits for memory. No LRU, so that a full table removes no grant. The loader sets the size.
#[map]
static GRANTS: HashMap<GrantKey, GrantValue> = HashMap::with_max_entries(1024, 0);
/// Sessions that outlive their grant, by socket cookie. The loader sets the size.
#[map]
static FLOWS: HashMap<u64, FlowValue> = HashMap::with_max_entries(1024, 0);
#[map]
static LOCAL: HashMap<Address, u8> = HashMap::with_max_entries(4096, 0);
/// The addresses of the API, with the rate at which one source may begin connections.
#[map]
static LISTENERS: HashMap<Listener, SynRate> = HashMap::with_max_entries(64, 0);
/// The buckets of [`postern_core::rate`] by source. LRU: a removed bucket counts as full, so a flood only weakens the limit.
#[map]
static BUCKETS: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);
/// The buckets of the prefilter, separate so that no SYN counts twice in one bucket.
#[map]
static XDP_BUCKETS: LruHashMap<Address, u64> = LruHashMap::with_max_entries(16_384, 0);
/// The time of the last refusal of a new TCP connection by the lock or the cut. LRU: without an entry the prefilter drops nothing.
#[map]
static REFUSED: LruHashMap<RefusedAt, u64> = LruHashMap::with_max_entries(4096, 0);
/// The number of new TCP connections that the lock and the cut have refused: the load that the prefilter could take over.
#[map]
static PRESSURE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);
/// The loader sets the size.
#[map]
static USAGE: PerCpuArray<SlotUsage> = PerCpuArray::with_max_entries(1024, 0);
/// [`DeniedEvent`]s. A full buffer loses denied attempts, never packets.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
/// Per CPU: the present window, and the number of denied attempts reported in it.
#[map]
static DENIED_WINDOW: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The time from which refused packets pass because the host observes (`CLOCK_BOOTTIME` in nanoseconds). 0: never.
#[map]
static OBSERVE_FROM: Array<u64> = Array::with_max_entries(1, 0);
/// Packets that enforce mode would drop, by source and port. LRU: no decision reads this map, so forged sources displace only counts.
#[map]
static OBSERVED: LruPerCpuHashMap<GrantKey, ObservedValue> = LruPerCpuHashMap::with_max_entries(4096, 0);

/// The sockets that the host itself connected. The loader replaces it with a socket storage of earlier runs with values of
/// [`postern_core::own::OwnValue`], because the kernel makes no socket storage from this definition.
#[map]
pub static OWN: HashMap<u32, u64> = HashMap::with_max_entries(1, 0);
/// Known peers: sources of admitted datagrams to an unconnected socket of a protected port. The loader replaces it with the map of earlier
/// runs. No LRU: the host's answer to a forgotten peer would count as the host's own connection.
#[map]
static MET: HashMap<GrantKey, u8> = HashMap::with_max_entries(MOST_MET, 0);

/// How long the prefilter relies on a refusal, in nanoseconds. A new address translation, for example, takes effect within this time.
const TRUSTED_NS: u64 = 1_000_000_000;

/// The window in jiffies, as a power of two: 0.13 s at 1000 Hz, 1.3 s at 100 Hz.
const WINDOW_SHIFT: u32 = 7;
/// The most denied attempts that a CPU reports in a window. Beyond it a flood costs only a counter.
const DENIED_PER_WINDOW: u64 = 16;

/// The decision's view of the maps. Only the hook knows the two fields: the packet's exemption and its session.
pub struct Maps<E, S>(pub E, pub S);

impl<E: Fn() -> Option<Exemption>, S: Fn() -> Session> Table for Maps<E, S> {
    #[inline(always)]
    fn is_protected(&self, protocol: u8, port: u16) -> bool {
        is_protected(protocol, port)
    }

    #[inline(always)]
    fn exemption(&self) -> Option<Exemption> {
        (self.0)()
    }

    #[inline(always)]
    fn lengths(&self, family: u8, word: u32) -> u64 {
        let Some(lengths) = LENGTHS.get(0) else {
            return 0;
        };
        if family == V4 { lengths.v4 } else { lengths.v6.get(word as usize).copied().unwrap_or(0) }
    }

    #[inline(always)]
    fn grant(&self, key: &GrantKey) -> Option<GrantValue> {
        grant(key)
    }

    #[inline(always)]
    fn search(&self, search: &mut Search) {
        // SAFETY: `step` is what the helper calls, with this very pointer, which is valid until the helper returns. An error of
        // the helper (there is none for these arguments) leaves a search that has found nothing.
        unsafe { bpf_loop(MOST_STEPS, step as *mut c_void, (&raw mut *search).cast(), 0) };
    }

    #[inline(always)]
    fn session(&self) -> Session {
        (self.1)()
    }

    #[inline(always)]
    fn flow(&self, cookie: u64) -> Option<FlowValue> {
        let value = FLOWS.get_ptr(cookie)?;
        // SAFETY: as in `grant`.
        unsafe {
            let until_boot_ns = (&raw const (*value).until_boot_ns).read_volatile();
            let tag_front = (&raw const (*value).tag_front).read_volatile();
            let tag_back = (&raw const (*value).tag_back).read_volatile();
            Some(FlowValue { tag_front, until_boot_ns, tag_back })
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }

    #[inline(always)]
    fn observe_from(&self) -> u64 {
        OBSERVE_FROM.get(0).copied().unwrap_or(0)
    }
}

/// One round of `bpf_loop` (minimum kernel: 5.17). The result 1 ends the loop.
unsafe extern "C" fn step(_round: u64, search: *mut c_void) -> i64 {
    // SAFETY: what `search` gave to the helper, which nobody else uses until it returns.
    let search = unsafe { &mut *search.cast::<Search>() };
    i64::from(!search.step(grant, now))
}

#[inline(always)]
fn grant(key: &GrantKey) -> Option<GrantValue> {
    let value = GRANTS.get_ptr(key)?;
    // SAFETY: the look-up returned a pointer to a whole value, which stays mapped until the program ends.
    // Volatile, one by one: another CPU may be writing, and the ends have to be read before the tags.
    unsafe {
        let expires_boot_ns = (&raw const (*value).expires_boot_ns).read_volatile();
        let established_boot_ns = (&raw const (*value).established_boot_ns).read_volatile();
        let slot = (&raw const (*value).slot).read_volatile();
        let tag_front = (&raw const (*value).tag_front).read_volatile();
        let tag_back = (&raw const (*value).tag_back).read_volatile();
        Some(GrantValue { tag_front, expires_boot_ns, established_boot_ns, slot, zero: 0, tag_back })
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The rate limit's view of the maps: the buckets of the cut or of the prefilter.
pub struct Limits<const PREFILTER: bool>;

impl<const PREFILTER: bool> Buckets for Limits<PREFILTER> {
    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        is_local(address)
    }

    #[inline(always)]
    fn rate(&self, listener: &Listener) -> Option<SynRate> {
        let value = LISTENERS.get_ptr(listener)?;
        // SAFETY: the look-up returned a pointer to a whole value, which stays mapped until the program ends. Whatever is read
        // while the agent writes is a limit for one packet.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn take(&self, source: Address, rate: SynRate) -> bool {
        let now = now();
        let buckets = if PREFILTER { &XDP_BUCKETS } else { &BUCKETS };
        let Some(bucket) = buckets.get_ptr_mut(&source) else {
            // Without room the source is not limited.
            let _ = take(rate, 0, now).map(|full_at| buckets.insert(&source, &full_at, 0));
            return true;
        };
        // SAFETY: as in `rate`. Two CPUs at once may count one packet for two, and an element that has just become another source's
        // gets a moment that is as harmless there (see `postern_core::rate::take`).
        unsafe {
            let full_at = take(rate, bucket.read_volatile(), now);
            full_at.map(|full_at| bucket.write_volatile(full_at)).is_some()
        }
    }
}

/// Records a known peer: a datagram of `source` was admitted to an unconnected socket of UDP port `port`.
#[inline(never)]
pub fn note_met(port: u16, source: &Address) {
    let key = GrantKey::new(*source, max_prefix(source.family), UDP, port);
    if MET.get_ptr(&key).is_some() || MET.insert(&key, &1, 0).is_ok() {
        return;
    }
    if let Some(full) = MET.get_ptr_mut(&nobody()) {
        // SAFETY: every writer sets this number to 1 and to nothing else.
        unsafe { full.write_volatile(1) };
    }
}

/// Whether `peer` is a known peer of UDP port `port`. Also true once the record was full.
#[inline(always)]
pub fn was_met(port: u16, peer: Address) -> bool {
    let key = GrantKey::new(peer, max_prefix(peer.family), UDP, port);
    // SAFETY: the look-up returned a pointer to a whole value, which stays mapped until the program ends.
    let full = MET.get_ptr(&nobody()).is_none_or(|full| unsafe { full.read_volatile() } != 0);
    full || MET.get_ptr(&key).is_some()
}

#[inline(always)]
pub fn is_protected(protocol: u8, port: u16) -> bool {
    let Some((word, bit)) = protected_bit(protocol, port) else {
        return false;
    };
    PROTECTED.get(word).is_some_and(|bits| bits >> bit & 1 == 1)
}

#[inline(always)]
pub fn is_local(address: &Address) -> bool {
    LOCAL.get_ptr(address).is_some()
}

/// Records that the lock or the cut refused a new TCP connection to `address` and `port` over the device `ifindex`.
#[inline(always)]
pub fn note_refusal(address: Address, port: u16, ifindex: u32) {
    if let Some(cell) = PRESSURE.get_ptr_mut(0) {
        // SAFETY: this CPU's own cell of a per-CPU map.
        unsafe { *cell = (*cell).wrapping_add(1) };
    }
    let (at, now) = (RefusedAt::new(address, port, ifindex), now());
    match REFUSED.get_ptr_mut(&at) {
        // SAFETY: the look-up returned a pointer to a whole value, which stays mapped until the program ends. An element that has
        // just become another place's makes the prefilter drop there for a second at most what lock and cut judge as usual.
        Some(last) => unsafe { last.write_volatile(now) },
        // Without room the prefilter drops nothing.
        None => {
            let _ = REFUSED.insert(&at, &now, 0);
        }
    }
}

/// Whether the lock or the cut refused a new TCP connection there within the last [`TRUSTED_NS`].
#[inline(always)]
pub fn is_refused(address: Address, port: u16, ifindex: u32) -> bool {
    let Some(last) = REFUSED.get_ptr(&RefusedAt::new(address, port, ifindex)) else {
        return false;
    };
    // SAFETY: as in `note_refusal`.
    let last = unsafe { last.read_volatile() };
    now().saturating_sub(last) < TRUSTED_NS
}

#[inline(always)]
pub fn count(hook: Hook, fate: Fate) {
    if let Some(cell) = COUNTERS.get_ptr_mut(counter(hook, fate)) {
        // SAFETY: this CPU's own cell of a per-CPU map.
        unsafe { *cell = (*cell).wrapping_add(1) };
    }
}

#[inline(always)]
pub fn used(slot: u32, now: u64, bytes: u64, inwards: bool) {
    let Some(usage) = USAGE.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: this CPU's own value of a per-CPU map.
    let usage = unsafe { &mut *usage };
    if inwards {
        usage.packets_in = usage.packets_in.wrapping_add(1);
        usage.bytes_in = usage.bytes_in.wrapping_add(bytes);
    } else {
        usage.packets_out = usage.packets_out.wrapping_add(1);
        usage.bytes_out = usage.bytes_out.wrapping_add(bytes);
    }
    if usage.first_boot_ns == 0 {
        usage.first_boot_ns = now;
    }
    usage.last_boot_ns = now;
}

/// The fate of a packet that the decision refuses. It is dropped and reported; on a host that observes it passes and is counted for its
/// source. The prefilter counts no source, because the lock and the cut will see the packet.
#[inline(always)]
pub fn refuse(table: &impl Table, hook: Hook, fate: Fate, protocol: u8, port: u16, source: Address) -> Fate {
    let Some(now) = observed_at(table) else {
        if hook as u8 != Hook::CutEgress as u8 {
            report(hook, fate, protocol, port, source);
        }
        return fate;
    };
    if let Hook::Lock | Hook::CutIngress = hook {
        observed(hook, protocol, port, source, now);
    }
    Fate::Observed
}

#[inline(always)]
fn observed(hook: Hook, protocol: u8, port: u16, source: Address, now: u64) {
    let key = GrantKey::new(source, max_prefix(source.family), protocol, port);
    let found = OBSERVED.get_ptr_mut(&key).or_else(|| {
        // Another CPU may have inserted it first. Without room only `COUNTERS` counts the packet.
        let _ = OBSERVED.insert(&key, &ObservedValue::default(), 1);
        OBSERVED.get_ptr_mut(&key)
    });
    let Some(value) = found else {
        return;
    };
    // SAFETY: this CPU's own value of a per-CPU map.
    let value = unsafe { &mut *value };
    if let Hook::Lock = hook {
        value.lookups = value.lookups.wrapping_add(1);
    } else {
        value.packets = value.packets.wrapping_add(1);
    }
    value.last_boot_ns = now;
}

#[inline(always)]
fn report(hook: Hook, fate: Fate, protocol: u8, port: u16, source: Address) {
    if !within_rate() {
        return;
    }
    let event = DeniedEvent {
        family: source.family,
        protocol,
        hook: hook as u8,
        fate: fate as u8,
        port: port.to_be_bytes(),
        zero: [0; 2],
        source: source.bytes(),
    };
    // A full buffer loses the event, but the counter has the packet.
    let _ = EVENTS.output::<DeniedEvent>(&event, 0);
}

#[inline(always)]
fn within_rate() -> bool {
    // SAFETY: the helper takes nothing and cannot fail.
    let window = unsafe { bpf_jiffies64() } >> WINDOW_SHIFT;
    let Some(state) = DENIED_WINDOW.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value of a per-CPU map.
    let state = unsafe { &mut *state };
    if state[0] != window {
        *state = [window, 0];
    }
    state[1] += 1;
    state[1] <= DENIED_PER_WINDOW
}
