//! The loaded eBPF object: programs and maps.
//!
//! Owns loading and all map access, except that of `marks.rs`. It attaches nothing (`links.rs` does).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf},
    programs::{CgroupSkb, ProgramFd, SkLookup, Xdp},
};
use postern_core::{
    key::{
        Address, FlowValue, GrantKey, GrantValue, Lengths, Listener, ObservedValue, PROTECTED_WORDS, RefusedAt,
        SlotUsage, SynRate, protected_bit,
    },
    table::{Edit, Table, diff},
    verdict::{Fate, Hook, counter},
};

use super::{
    btf::Offsets,
    denied::{Ring, observed},
    marking::{MARKING, load_marking, shows_direction},
    marks::Marks,
    shared::Shared,
    sys,
};
use crate::enforcer::{
    Observed,
    error::{self, EnforcerError},
};

mod prefilter;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/postern-ebpf"));

pub(super) const ADVICE_LOAD: &str = "posternd needs root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and Linux 5.17 or newer with BTF; \
                           what was pinned before stays in force";

/// The sizes of the maps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The most entries in `GRANTS` for grants. Each takes about 120 bytes of kernel memory at the start.
    pub grants: u32,
    /// The most sessions that outlive their grant. Each takes about 100 bytes in `FLOWS` and an entry in `GRANTS`.
    pub flows: u32,
    /// The number of usage slots. Each takes 48 bytes for every CPU.
    pub slots: u32,
}

/// The source from which the cut gets a socket's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieSource {
    /// `bpf_get_netns_cookie`, if the kernel allows it in `cgroup_skb`.
    Helper,
    /// The socket's memory, at offsets from the kernel's BTF.
    KernelMemory,
}

/// The kernel features that the programs use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    cookie: CookieSource,
    /// Whether the cut judges MPTCP subflows by their connection.
    pub(super) subflows: bool,
}

impl Variant {
    /// All variants, the best first.
    fn all() -> impl Iterator<Item = Self> {
        let sources = [CookieSource::Helper, CookieSource::KernelMemory];
        [true, false].into_iter().flat_map(move |subflows| sources.map(|cookie| Self { cookie, subflows }))
    }
}

/// The loaded programs and their maps. An error is the kernel's refusal, unless a method names another one.
pub struct Programs {
    pub(super) ebpf: Ebpf,
    /// Programs that the kernel refused, and why.
    refused: Vec<(Hook, String)>,
    /// Why the kernel refused the programs that mark and list the host's own sockets.
    pub(super) marking_refused: Option<String>,
    /// Whether the cut marks the host's own TCP connections.
    pub(super) marks_streams: bool,
    variant: Variant,
    protected: Array<MapData, u64>,
    /// The present contents of `PROTECTED`.
    protected_words: Vec<u64>,
    lengths: Array<MapData, Shared<Lengths>>,
    grants: HashMap<MapData, Shared<GrantKey>, Shared<GrantValue>>,
    flows: HashMap<MapData, u64, Shared<FlowValue>>,
    local: HashMap<MapData, Shared<Address>, u8>,
    local_now: BTreeSet<Address>,
    listeners: HashMap<MapData, Shared<Listener>, Shared<SynRate>>,
    listeners_now: BTreeMap<Listener, SynRate>,
    counters: PerCpuArray<MapData, u64>,
    refused_at: HashMap<MapData, Shared<RefusedAt>, u64>,
    pressure: PerCpuArray<MapData, u64>,
    /// Why the kernel refused the prefilter's program for TCX.
    tcx_refused: Option<String>,
    usage: PerCpuArray<MapData, Shared<SlotUsage>>,
    denied: Option<Ring>,
    observe_from: Array<MapData, u64>,
    observed: PerCpuHashMap<MapData, Shared<GrantKey>, Shared<ObservedValue>>,
}

impl Programs {
    /// Loads programs and maps for the calling thread's network namespace, and fills the maps. A refused program affects no other.
    ///
    /// # Errors
    /// No map could be made or filled.
    pub fn load(sizes: Sizes, table: &Table, marks: Option<&Marks>) -> Result<Self, EnforcerError> {
        // Older kernels refuse one helper or the other in cgroup_skb. The maps of one try are gone before the next try makes its own.
        let (mut best, mut first) = (None, None);
        for variant in Variant::all() {
            match Self::load_variant(sizes, table, variant, marks) {
                Ok(programs) if programs.refused.is_empty() => return Ok(programs),
                Ok(programs) => {
                    let refused = programs.refused.len();
                    if best.is_none_or(|(least, _)| refused < least) {
                        best = Some((refused, variant));
                    }
                }
                Err(error) => _ = first.get_or_insert(error),
            }
        }
        match best {
            Some((_, variant)) => Self::load_variant(sizes, table, variant, marks),
            None => Err(first.unwrap_or_else(|| missing("any variant"))),
        }
    }

    /// As [`Self::load`], for kernels that refuse `bpf_get_netns_cookie` in `cgroup_skb`.
    ///
    /// # Errors
    /// As [`Self::load`], or the kernel has no BTF.
    pub fn load_without_helper(sizes: Sizes, table: &Table, marks: Option<&Marks>) -> Result<Self, EnforcerError> {
        Self::load_variant(sizes, table, Variant { cookie: CookieSource::KernelMemory, subflows: true }, marks)
    }

    fn load_variant(
        sizes: Sizes,
        table: &Table,
        variant: Variant,
        marks: Option<&Marks>,
    ) -> Result<Self, EnforcerError> {
        let offsets = match (Offsets::of_running_kernel(), variant) {
            (Ok(offsets), _) => offsets,
            (Err(_), Variant { cookie: CookieSource::Helper, subflows: false }) => {
                // Without BTF the kernel may still have MPTCP.
                Offsets { mptcp: true, ..Offsets::default() }
            }
            (Err(error), _) => {
                return Err(EnforcerError::kernel("find the fields of a socket", &error, ADVICE_LOAD));
            }
        };
        let streams = marks.is_some() && shows_direction(variant, offsets);
        let ebpf = load_object(sizes, cookie()?, variant, offsets, marks)?;
        Self { marks_streams: streams, ..Self::with(ebpf, variant, marks.is_some())? }.filled(table)
    }

    /// Loads refused programs again: the kernel may have lacked memory.
    pub(super) fn load_again(&mut self) {
        let ebpf = &mut self.ebpf;
        self.refused.retain(|(hook, _)| load_program(ebpf, *hook).is_err());
        if self.tcx_refused.is_some() {
            self.tcx_refused = prefilter::load_tcx(ebpf).err();
        }
    }

    fn filled(mut self, table: &Table) -> Result<Self, EnforcerError> {
        diff(&Table::default(), table).iter().try_for_each(|edit| self.apply(edit))?;
        Ok(self)
    }

    fn with(mut ebpf: Ebpf, variant: Variant, marks: bool) -> Result<Self, EnforcerError> {
        let load = |hook: &Hook| load_program(&mut ebpf, *hook).err().map(|why| (*hook, why));
        let refused = Hook::ALL.iter().filter_map(load).collect();
        let marking_refused = if marks { load_marking(&mut ebpf) } else { None };
        let ring: RingBuf<MapData> = map(&mut ebpf, "EVENTS")?;
        Ok(Self {
            refused,
            marking_refused,
            marks_streams: false,
            variant,
            protected: map(&mut ebpf, "PROTECTED")?,
            protected_words: vec![0; PROTECTED_WORDS as usize],
            lengths: map(&mut ebpf, "LENGTHS")?,
            grants: map(&mut ebpf, "GRANTS")?,
            flows: map(&mut ebpf, "FLOWS")?,
            local: map(&mut ebpf, "LOCAL")?,
            local_now: BTreeSet::new(),
            listeners: map(&mut ebpf, "LISTENERS")?,
            listeners_now: BTreeMap::new(),
            counters: map(&mut ebpf, "COUNTERS")?,
            refused_at: map(&mut ebpf, "REFUSED")?,
            pressure: map(&mut ebpf, "PRESSURE")?,
            tcx_refused: prefilter::load_tcx(&mut ebpf).err(),
            usage: map(&mut ebpf, "USAGE")?,
            denied: Some(Ring(ring)),
            observe_from: map(&mut ebpf, "OBSERVE_FROM")?,
            observed: map(&mut ebpf, "OBSERVED")?,
            ebpf,
        })
    }

    /// The cut's source of a socket's network namespace on this kernel.
    #[must_use]
    pub fn cookie_source(&self) -> CookieSource {
        self.variant.cookie
    }

    /// Whether the cut judges an MPTCP subflow by its connection. True without MPTCP. Minimum kernel: 5.19 (`bpf_skc_to_mptcp_sock`).
    #[must_use]
    pub fn judges_subflows(&self) -> bool {
        self.variant.subflows
    }

    /// The reader of denied attempts. `None` after the first call.
    pub fn take_denied(&mut self) -> Option<Ring> {
        self.denied.take()
    }

    /// Carries out `edit`.
    ///
    /// # Errors
    /// The kernel refused the edit; nothing has changed.
    pub fn apply(&mut self, edit: &Edit) -> Result<(), EnforcerError> {
        self.write(edit).map_err(|error| refused(*edit, error))
    }

    fn write(&mut self, edit: &Edit) -> Result<(), MapError> {
        match *edit {
            Edit::Protect(protocol, port) => self.set_protected(protocol, port, true),
            Edit::Unprotect(protocol, port) => self.set_protected(protocol, port, false),
            Edit::Lengths(lengths) => self.lengths.set(0, Shared(lengths), 0),
            Edit::Remove(key) => absent_is_fine(self.grants.remove(&Shared(key))),
            Edit::Put(key, entry) => {
                let value = GrantValue::new(&key, entry.expires_boot_ns, entry.established_boot_ns, entry.slot);
                self.grants.insert(Shared(key), Shared(value), 0)
            }
            Edit::PutFlow(cookie, flow) => {
                let value = FlowValue::new(flow.tag(cookie), flow.until_boot_ns);
                self.flows.insert(cookie, Shared(value), 0)
            }
            Edit::RemoveFlow(cookie) => absent_is_fine(self.flows.remove(&cookie)),
            Edit::Observe(from) => self.observe_from.set(0, from, 0),
        }
    }

    fn set_protected(&mut self, protocol: u8, port: u16, closed: bool) -> Result<(), MapError> {
        let Some((word, bit)) = protected_bit(protocol, port) else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "only TCP and UDP ports can be protected");
            return Err(MapError::IoError(error));
        };
        let old = self.protected_words[word as usize];
        let new = if closed { old | 1 << bit } else { old & !(1 << bit) };
        self.protected.set(word, new, 0)?;
        self.protected_words[word as usize] = new;
        Ok(())
    }

    /// Replaces the set of the host's own addresses.
    ///
    /// # Errors
    /// The kernel refused a change. The changes before it are in force.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError> {
        let wanted: BTreeSet<Address> = addresses.iter().map(|a| address(*a)).collect();
        let failed =
            |e: MapError| EnforcerError::kernel("note the host's addresses", &e, "the prefilter drops less until then");
        for gone in self.local_now.difference(&wanted).copied().collect::<Vec<_>>() {
            absent_is_fine(self.local.remove(&Shared(gone))).map_err(failed)?;
            self.local_now.remove(&gone);
        }
        for new in wanted {
            if !self.local_now.contains(&new) {
                self.local.insert(Shared(new), 1, 0).map_err(failed)?;
                self.local_now.insert(new);
            }
        }
        Ok(())
    }

    /// Limits how fast one source begins connections to `addresses`, and to no others. An unspecified address stands for its whole family.
    ///
    /// # Errors
    /// The kernel refused a change. The changes before it are in force.
    pub fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError> {
        let at = |a: &SocketAddr| (Listener::new(address(a.ip()), a.port()), rate);
        let wanted: BTreeMap<Listener, SynRate> = addresses.iter().map(at).collect();
        let failed = |e: MapError| {
            EnforcerError::kernel("limit the rate of SYNs to the API", &e, "the API's own limits hold without it")
        };
        let gone: Vec<_> = self.listeners_now.keys().filter(|at| !wanted.contains_key(at)).copied().collect();
        for listener in gone {
            absent_is_fine(self.listeners.remove(&Shared(listener))).map_err(failed)?;
            self.listeners_now.remove(&listener);
        }
        for (listener, rate) in wanted {
            self.listeners.insert(Shared(listener), Shared(rate), 0).map_err(failed)?;
            self.listeners_now.insert(listener, rate);
        }
        Ok(())
    }

    /// Traffic under `slot` since its last reset, over all CPUs. An unknown slot has none.
    #[must_use]
    pub fn usage(&self, slot: u32) -> SlotUsage {
        let parts = self.usage.get(&slot, 0);
        parts.map_or_else(|_| SlotUsage::default(), |p| p.iter().fold(SlotUsage::default(), |sum, v| sum.merge(v.0)))
    }

    /// Resets `slot` for the next grant.
    ///
    /// # Errors
    /// Fails if the kernel refuses the write, or if the number of CPUs is unknown.
    pub fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError> {
        let failed = |e: &dyn std::error::Error| {
            EnforcerError::kernel(format!("reset usage slot {slot}"), e, "the slot counts on from its last grant")
        };
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed(&e))?;
        let zeros = PerCpuValues::try_from(vec![Shared(SlotUsage::default()); cpus]).map_err(|e| failed(&e))?;
        self.usage.set(slot, zeros, 0).map_err(|e| failed(&e))
    }

    /// Every counter, over all CPUs, including those at 0.
    #[must_use]
    pub fn counters(&self) -> Vec<(Hook, Fate, u64)> {
        let read = |hook, fate| {
            let parts = self.counters.get(&counter(hook, fate), 0);
            parts.map_or(0, |p| p.iter().fold(0u64, |sum, n| sum.wrapping_add(*n)))
        };
        let pairs = Hook::ALL.iter().flat_map(|&hook| Fate::ALL.iter().map(move |&fate| (hook, fate)));
        pairs.map(|(hook, fate)| (hook, fate, read(hook, fate))).collect()
    }

    /// Traffic since the start that enforce mode would drop, by source and port. The memory for it is limited.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        let sum = |parts: PerCpuValues<Shared<ObservedValue>>| {
            parts.iter().fold(ObservedValue::default(), |sum, part| sum.merge(part.0))
        };
        let entries = self.observed.iter().flatten();
        entries.map(|(key, parts)| observed(&key.0, sum(parts))).collect()
    }

    /// The descriptor of a hook's program, or the reason why the kernel refused the program.
    pub(super) fn fd(&self, hook: Hook) -> Result<&ProgramFd, EnforcerError> {
        let name = program_name(hook);
        if let Some((_, why)) = self.refused.iter().find(|(refused, _)| *refused == hook) {
            let what = format!("load the program {name}");
            return Err(EnforcerError::Kernel { what, cause: why.clone(), advice: ADVICE_LOAD });
        }
        let program = self.ebpf.program(name).ok_or_else(|| missing(name))?;
        program.fd().map_err(|e| EnforcerError::kernel(format!("use program {name}"), &e, ADVICE_LOAD))
    }

    pub(super) fn id(&self, hook: Hook) -> Option<u32> {
        self.ebpf.program(program_name(hook))?.info().ok().map(|info| info.id())
    }

    /// The number of instructions that the verifier walked for a hook's program. Its limit is a million. `None` before Linux 5.16.
    #[must_use]
    pub fn verified_instructions(&self, hook: Hook) -> Option<u32> {
        self.ebpf.program(program_name(hook))?.info().ok()?.verified_instruction_count()
    }

    /// The tags of all programs, in the form of a link's `fdinfo`.
    pub(super) fn tags(&self) -> Vec<String> {
        let tag = |name: &str| Some(format!("{:016x}", self.ebpf.program(name)?.info().ok()?.tag()));
        Hook::ALL.iter().map(|hook| program_name(*hook)).chain(MARKING).filter_map(tag).collect()
    }

    /// Runs a hook's program once on `packet` and `context` (`BPF_PROG_TEST_RUN`), and returns its result.
    ///
    /// # Errors
    /// Fails if the kernel has refused to load the program, or refuses to run it.
    pub fn test_run(&self, hook: Hook, packet: &[u8], context: &[u8]) -> Result<u32, EnforcerError> {
        let result = sys::test_run(self.fd(hook)?.as_fd(), packet, context);
        result.map_err(|e| EnforcerError::kernel(format!("run {}", hook.code()), &e, "see the kernel's message"))
    }
}

fn cookie() -> Result<u64, EnforcerError> {
    sys::netns_cookie().map_err(|e| EnforcerError::kernel("read the network namespace's cookie", &e, ADVICE_LOAD))
}

fn load_object(
    sizes: Sizes,
    cookie: u64,
    variant: Variant,
    offsets: Offsets,
    marks: Option<&Marks>,
) -> Result<Ebpf, EnforcerError> {
    let by_helper = u64::from(variant.cookie == CookieSource::Helper);
    let skc_num = offsets.skc_num.filter(|_| variant.subflows).unwrap_or(0);
    let server_side = offsets.server_side.filter(|_| variant.subflows).unwrap_or(0);
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("GRANTS", sizes.grants.saturating_add(sizes.flows).max(1))
        .map_max_entries("FLOWS", sizes.flows.max(1))
        .map_max_entries("USAGE", sizes.slots.max(1))
        .override_global("NETNS_COOKIE", &cookie, true)
        .override_global("COOKIE_BY_HELPER", &by_helper, true)
        .override_global("SKC_NET_OFFSET", &offsets.skc_net, true)
        .override_global("NET_COOKIE_OFFSET", &offsets.net_cookie, true)
        .override_global("SKC_NUM_OFFSET", &skc_num, true)
        .override_global("VRF_OFFSETS", &offsets.vrf, true)
        .override_global("SERVER_SIDE_OFFSET", &server_side, true)
        .override_global("MARKS", &u64::from(marks.is_some()), true)
        .override_global("MARKS_TCP", &u64::from(shows_direction(variant, offsets)), true)
        .load(OBJECT)
        .map_err(|e| EnforcerError::kernel("create the kernel's maps", &e, ADVICE_LOAD))?;
    if let Some(marks) = marks {
        let failed = |e| EnforcerError::kernel("use the maps of earlier runs", &e, ADVICE_LOAD);
        marks.put_into(&mut ebpf).map_err(failed)?;
    }
    Ok(ebpf)
}

/// Loads one program. The error is the reason in words.
fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<(), String> {
    let name = program_name(hook);
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name).to_string())?;
    let loaded = match hook {
        Hook::Lock => <&mut SkLookup>::try_from(program).and_then(|p| p.load()),
        Hook::CutIngress | Hook::CutEgress => <&mut CgroupSkb>::try_from(program).and_then(|p| p.load()),
        Hook::Prefilter => <&mut Xdp>::try_from(program).and_then(|p| p.load()),
    };
    loaded.map_err(|e| error::chain(&e))
}

const fn program_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Lock => "lock",
        Hook::CutIngress => "cut_ingress",
        Hook::CutEgress => "cut_egress",
        Hook::Prefilter => "prefilter_xdp",
    }
}

pub(super) fn missing(name: &str) -> EnforcerError {
    let cause = io::Error::other("the embedded object does not hold it");
    EnforcerError::kernel(format!("find {name}"), &cause, "build the object again: cargo xtask build-ebpf")
}

fn map<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, EnforcerError> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    M::try_from(map).map_err(|e| EnforcerError::kernel(format!("use map {name}"), &e, ADVICE_LOAD))
}

fn refused(edit: Edit, error: MapError) -> EnforcerError {
    let source = match error {
        MapError::SyscallError(e) => e.io_error,
        MapError::IoError(e) => e,
        other => io::Error::other(other),
    };
    // A full preallocated hash map returns E2BIG; other maps return ENOSPC or ENOMEM.
    match source.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => EnforcerError::TableFull(edit),
        _ => EnforcerError::Edit { edit, source },
    }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}
