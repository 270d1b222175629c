//! The enforcer: brings a [`Table`] into force in the kernel and reports what the kernel counts.
//!
//! Owns the eBPF programs, their maps, links and pins, and all of the agent's unsafe code. It never decides who may do what,
//! keeps no journal and knows no grants, only edits. All calls are synchronous and short, from one thread.
//!
//! What is in force outlives the process: pinned links keep the programs, and programs keep their maps. Each start loads fresh
//! programs and maps, fills them, and swaps them in under the pinned links (docs/decisions/0002-fresh-maps-at-each-start.md).

mod btf;
mod denied;
mod error;
mod layers;
mod links;
mod loaded;
mod losses;
mod marking;
mod marks;
mod own;
mod pin_store;
mod pins;
mod place;
mod prefilters;
mod programs;
mod shared;
mod sys;
mod sys_maps;
mod tunnels;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use postern_core::{
    key::{SlotUsage, SynRate},
    table::{Edit, Table},
    verdict::{Fate, Hook},
};

use crate::sandbox::helper::Helper;

pub use self::{
    denied::{DeniedAttempt, DeniedAttempts, Observed},
    error::EnforcerError,
    links::LayerState,
    losses::Loss,
    own::OwnSockets,
    pins::{ADVICE_PINS, DirState, PinDir, Pinned},
    prefilters::{Unattached, XdpMode, XdpStatus},
    programs::{CookieSource, Programs, Sizes},
    sys::{ignore_signals, ntp_error},
    tunnels::{Tunnel, Tunnels, tunnels},
};
use self::{
    layers::{LAYERS, Layer},
    loaded::{Loaded, Loader},
    losses::{BESIDE, PIN_DIRECTORY, UNRECORDED},
    own::Connects,
    pin_store::Pins,
    prefilters::Prefilters,
    sys::Place,
};

/// How many times a lost layer is looked after before the kernel is asked again to take a program that it refused: that takes
/// milliseconds of the verifier's time.
const LOAD_AGAIN_EVERY: u32 = 20;

/// What the enforcer has to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on bpffs for the pinned links. Made if absent.
    pub pin_dir: PathBuf,
    /// Who keeps it for this process, which is not root then.
    pub helper: Option<Helper>,
    /// The cgroup whose sockets the cut judges; the root of cgroup v2 when absent.
    pub cgroup: Option<PathBuf>,
    /// Most entries of grants in the kernel's table.
    pub grants: u32,
    /// Most sessions that outlive their grant.
    pub flows: u32,
    /// Usage slots.
    pub slots: u32,
}

/// One layer as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// Which one: the lock, or the cut in one direction.
    pub hook: Hook,
    /// What the kernel says.
    pub state: LayerState,
}

/// What [`Enforcer::close`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The ports are closed now.
    Now,
    /// They were: nothing was changed.
    Already,
}

/// The programs in force.
pub struct Enforcer {
    programs: Loaded,
    pins: Pins,
    layers: [Layer; 3],
    prefilters: Prefilters,
    /// What marks the host's own UDP sockets.
    connects: Connects,
    /// Why the next start will not know the host's own sockets; empty when the marks are pinned.
    marks_unpinned: String,
    /// What the start found in the place of what it would have adopted.
    found: Vec<Loss>,
    /// Why the next start will not know our programs; empty when their tags are on record.
    unrecorded: String,
    /// How often programs that the kernel refused were due to be loaded again.
    rounds: u32,
}

impl Enforcer {
    /// Brings `table` into force in the calling thread's network namespace. Pinned links get the new programs by link
    /// update, so nothing opens in between; without pinned links it attaches and pins.
    ///
    /// A layer that cannot be brought into force takes no other one with it: [`Self::losses`] names it and the kernel's reason, and
    /// [`Self::heal`] tries again. There may be none at all, see [`Self::is_open`].
    ///
    /// # Errors
    /// Another agent holds the pins; nothing that was in force before is opened.
    pub fn start(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Self::start_with(settings, table, Programs::load)
    }

    /// As [`Self::start`], on a kernel that refuses `bpf_get_netns_cookie` in `cgroup_skb`, or as if it did.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_without_helper(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Self::start_with(settings, table, Programs::load_without_helper)
    }

    fn start_with(settings: &Settings, table: &Table, load: Loader) -> Result<Self, EnforcerError> {
        let pins = Pins::open_if_usable(settings)?;
        let sizes = Sizes { grants: settings.grants, flows: settings.flows, slots: settings.slots };
        let mut this = Self {
            programs: Loaded::load(sizes, table, load, &pins),
            pins,
            layers: LAYERS.map(|hook| Layer::new(hook, settings.cgroup.as_deref())),
            prefilters: Prefilters::default(),
            connects: Connects::new(settings.cgroup.as_deref()),
            marks_unpinned: String::new(),
            found: Vec::new(),
            unrecorded: String::new(),
            rounds: 0,
        };
        // Before the first link runs them.
        this.record();
        // Before the first program counts on it: who is met is to be known to the next run.
        this.bring_own();
        this.found = LAYERS.into_iter().filter_map(|hook| this.bring(hook)).collect();
        if let Err(error) = Prefilters::clear_pins(&this.pins) {
            tracing::error!(%error, "an older prefilter could not be taken away: remove the pins named shed-*");
        }
        this.settle();
        Ok(this)
    }

    /// Notes in the directory of pins which programs are ours. What fails is tried again with the next healing.
    fn record(&mut self) {
        let failed = self.pins.expect(self.programs.tags()).err();
        self.unrecorded = failed.map(|error| error.to_string()).unwrap_or_default();
    }

    /// Forgets the programs of earlier runs, once none of them can be in force any more.
    fn settle(&mut self) {
        if self.layers().iter().all(|layer| layer.state == LayerState::InForce) {
            let failed = self.pins.settle(self.programs.tags()).err();
            self.unrecorded = failed.map(|error| error.to_string()).unwrap_or_default();
        }
    }

    /// Brings one layer into force. Says what its pin was instead of ours.
    fn bring(&mut self, hook: Hook) -> Option<Loss> {
        let program = self.programs.fd(hook).map(|fd| fd.as_fd());
        let layer = self.layers.iter_mut().find(|layer| layer.hook == hook)?;
        let found = layer.bring(&self.pins, program)?;
        Some(Loss::new(hook.code(), found.code()))
    }

    /// Brings `table` into force and lets go of it: links and programs stay. Where an agent runs, or all layers are in force
    /// already, nothing changes.
    ///
    /// # Errors
    /// As [`Self::start`], and [`EnforcerError::Partly`] where a layer is missing or not pinned; what came into force stays so.
    pub fn close(settings: &Settings, table: &Table) -> Result<Closed, EnforcerError> {
        match is_closed(settings) {
            false => Self::start(settings, table)?.whole().map(|()| Closed::Now),
            true => Ok(Closed::Already),
        }
    }

    /// Whether every layer will be in force without this process.
    fn whole(mut self) -> Result<(), EnforcerError> {
        let is_layer = |loss: &Loss| loss.state != BESIDE && !own::is_marking(&loss.part);
        if !self.losses().iter().any(is_layer) {
            return Ok(());
        }
        let healed = self.heal().err().map(|error| error.to_string());
        // What is not pinned ends with this process.
        let holds = |hook| self.layers().iter().any(|l| l.hook == hook && l.state == LayerState::InForce);
        let kept: Vec<_> = LAYERS.into_iter().filter(|hook| holds(*hook)).map(Hook::code).collect();
        let headline = match &kept[..] {
            [] => "nothing keeps the protected ports closed".to_owned(),
            kept => format!("of what keeps the protected ports closed only this is in force: {}", kept.join(", ")),
        };
        let said: Vec<_> = self.losses().iter().filter(|l| is_layer(l)).map(Loss::sentence).chain(healed).collect();
        if said.is_empty() { Ok(()) } else { Err(EnforcerError::Partly(format!("{headline}; {}", said.join("; ")))) }
    }

    /// Whether neither the lock nor the cut's inward half keeps anybody out, so that the protected ports are open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let inward = |l: &LayerStatus| l.hook != Hook::CutEgress;
        !self.layers().iter().filter(|l| inward(l)).any(|l| l.state.holds())
    }

    /// What the start found in the place of links that it would have adopted. It is in force as it has to be since.
    pub fn take_found(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.found)
    }

    /// Carries out `edits` in order. Each is in force when it returns.
    ///
    /// # Errors
    /// The index of the edit that failed: those before it are in force, it and those behind it are not.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.apply(edits)
    }

    /// What was counted under `slot` since it was reset, over all CPUs.
    #[must_use]
    pub fn usage(&self, slot: u32) -> SlotUsage {
        self.programs.get().map(|programs| programs.usage(slot)).unwrap_or_default()
    }

    /// Empties `slot` for the next grant.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.reset_usage(slot)
    }

    /// Every counter since the start, over all CPUs.
    #[must_use]
    pub fn counters(&self) -> Vec<(Hook, Fate, u64)> {
        self.programs.get().map(Programs::counters).unwrap_or_default()
    }

    /// What would have been dropped since the start, by source and port, as far as there was room to remember.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.programs.get().map(Programs::observed).unwrap_or_default()
    }

    /// Lock and cut as the kernel sees them now.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerStatus> {
        let state = |l: &Layer| l.state(&self.pins, self.programs.id(l.hook));
        self.layers.iter().map(|l| LayerStatus { hook: l.hook, state: state(l) }).collect()
    }

    /// What the cut leaves out, in words, where it is attached to a part of the host's cgroups.
    #[must_use]
    pub fn judged_part(&self) -> Option<String> {
        let cut = self.layers.iter().find(|layer| layer.hook == Hook::CutIngress)?;
        cut.target().and_then(|target| target.place.cgroup()).and_then(place::part)
    }

    /// What is not as it has to be now: layers, and the directory of pins. Some 40 system calls, none of which waits.
    #[must_use]
    pub fn losses(&self) -> Vec<Loss> {
        let directory = match self.pins.state() {
            DirState::Fine if self.unrecorded.is_empty() => None,
            DirState::Fine => Some(Loss::new(PIN_DIRECTORY, UNRECORDED).because(&self.unrecorded)),
            DirState::Gone => Some(Loss::new(PIN_DIRECTORY, "gone")),
            DirState::Exposed => Some(Loss::new(PIN_DIRECTORY, "exposed")),
        };
        let lost = |layer: &Layer| {
            let state = layer.state(&self.pins, self.programs.id(layer.hook));
            (state != LayerState::InForce).then(|| Loss::new(layer.hook.code(), state.code()).because(&layer.why))
        };
        let layers = self.layers.iter().filter_map(lost);
        directory.into_iter().chain(layers).chain(self.beside()).chain(self.own_losses()).collect()
    }

    /// Whether another `sk_lookup` program runs beside the lock, which may hand a packet that the lock refuses to a socket.
    #[must_use]
    pub fn is_beside_another(&self) -> bool {
        self.beside().is_some()
    }

    /// Whether somebody's program runs beside the lock: where one hands a packet to a socket, the lock's refusal does not count.
    fn beside(&self) -> Option<Loss> {
        let lock = self.layers.iter().find(|l| l.hook == Hook::Lock)?;
        let attached = sys::attached_programs(lock.target()?.fd(), sys::ATTACH_LOOKUP).ok()?;
        let own = u32::from(lock.is_attached());
        (attached > own).then(|| Loss::new("lookup", BESIDE))
    }

    /// Brings back into force what [`Self::losses`] shows, or brings it into force for the first time. Layers come first, so that
    /// nothing waits for their pins; why one of them stays lost is in its loss.
    ///
    /// # Errors
    /// The directory of pins could not be brought back; all else was.
    pub fn heal(&mut self) -> Result<(), EnforcerError> {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(LOAD_AGAIN_EVERY) {
            self.programs.load_again();
        }
        let directory = if self.pins.state() == DirState::Fine { Ok(()) } else { self.pins.heal() };
        if directory.is_ok() {
            // Pins that a failed healing left, or that a directory lacks which was not there at the start.
            self.record();
        }
        for hook in self.layers().into_iter().filter(|l| l.state != LayerState::InForce).map(|l| l.hook) {
            let _ = self.bring(hook);
        }
        self.bring_own();
        self.settle();
        directory
    }

    /// Makes `addresses` the set of the host's own addresses.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.set_local(addresses)
    }

    /// Has the cut, and under a flood the prefilter, limit how fast one source begins connections to `addresses`, and to no others.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.limit_syns(addresses, rate)
    }

    /// The reader of who was turned away; `None` once it was taken, or as long as no program is loaded.
    pub fn take_denied(&mut self) -> Option<DeniedAttempts> {
        self.programs.get_mut().ok()?.take_denied()
    }

    /// Whether the kernel has yet to take a program, for which it has to be asked with all rights.
    #[must_use]
    pub fn has_to_load(&self) -> bool {
        Hook::ALL.iter().any(|hook| self.programs.fd(*hook).is_err())
    }

    /// Whether the cut judges an MPTCP subflow by the connection that it belongs to (Linux 5.19). True where there is no cut: that
    /// is told by itself.
    #[must_use]
    pub fn judges_subflows(&self) -> bool {
        self.programs.get().map_or(true, Programs::judges_subflows)
    }

    /// How many new TCP connections were refused since the start, by whichever hook.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.programs.get().map_or(0, Programs::refused_connections)
    }

    /// Attaches the prefilter to a device, in the way of `mode`. Doing it again changes nothing.
    ///
    /// # Errors
    /// Why it is not attached.
    pub fn attach_prefilter(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), Unattached> {
        let program = match mode {
            XdpMode::Tcx => self.programs.get().and_then(Programs::tcx),
            _ => self.programs.fd(Hook::Prefilter),
        };
        let program = program.map_err(|error| Unattached::Refused(error.to_string()))?;
        self.prefilters.attach(program.as_fd(), ifindex, mode)
    }

    /// Takes the device's prefilter away at once, if it has one.
    pub fn detach_prefilter(&mut self, ifindex: u32) {
        self.prefilters.detach(ifindex);
    }

    /// Whether the device's prefilter is as it was attached, and nobody else wants its place.
    ///
    /// # Errors
    /// Why the prefilter has to give way.
    pub fn check_prefilter(&self, ifindex: u32) -> Result<(), Unattached> {
        self.prefilters.check(ifindex)
    }

    /// Opens the host: takes every link and pin away.
    ///
    /// # Errors
    /// A pin that could not be removed.
    pub fn unlock(self) -> Result<(), EnforcerError> {
        let Self { pins, layers, prefilters, connects, .. } = self;
        drop((layers, prefilters, connects));
        match pins {
            Pins::Own(pins) => clear(pins),
            Pins::Without(_) => Ok(()),
            // A helper is asked to keep closed, never to open.
            Pins::RetainedSession(_) => Err(EnforcerError::InUse("the part of posternd that stays root".to_owned())),
        }
    }
}

/// Whether an agent runs, or every layer is pinned and in force, with programs of ours.
fn is_closed(settings: &Settings) -> bool {
    let pins = match Pins::open(settings) {
        Ok(pins) => pins,
        Err(error) => return matches!(error, EnforcerError::InUse(_)),
    };
    let cgroup = |attach_type| place::cgroup(settings.cgroup.as_deref(), attach_type).ok().map(|target| target.place);
    let places: [(Hook, Option<Place>); 3] = [
        (Hook::Lock, place::network_namespace().ok().map(|target| target.place)),
        (Hook::CutIngress, cgroup(sys::ATTACH_INGRESS)),
        (Hook::CutEgress, cgroup(sys::ATTACH_EGRESS)),
    ];
    let is_in_force = |hook: Hook, place| links::is_in_force(&pins, hook.code(), place);
    places.into_iter().all(|(hook, place)| place.is_some_and(|place| is_in_force(hook, place)))
}

/// Opens the host while no agent runs: takes every pin in `pin_dir` away. An absent directory is open already.
///
/// # Errors
/// An agent runs, or a pin could not be removed.
pub fn unlock(pin_dir: &Path) -> Result<(), EnforcerError> {
    hold_pins(pin_dir)?.unlock()
}

/// The directory of pins while no agent runs, and none can start before this is dropped.
pub struct HeldPins(Option<PinDir>);

impl HeldPins {
    /// Opens the host: takes every pin away.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn unlock(self) -> Result<(), EnforcerError> {
        self.0.map_or(Ok(()), clear)
    }
}

/// Takes the directory of pins for this process. An absent one holds nothing.
///
/// # Errors
/// An agent runs, or the directory cannot be opened.
pub fn hold_pins(pin_dir: &Path) -> Result<HeldPins, EnforcerError> {
    let found = pin_dir.try_exists();
    let found =
        found.map_err(|e| EnforcerError::kernel("look for the directory of pins", &e, "run this command as root"))?;
    Ok(HeldPins(if found { Some(PinDir::take(pin_dir)?) } else { None }))
}

/// Whether a layer of an earlier run is pinned: then the host was not open until now. One layer is enough: whoever was connected
/// while others were missing is nobody whose session was there before Postern.
#[must_use]
pub fn is_pinned(settings: &Settings) -> bool {
    settings.helper.as_ref().map_or_else(|| is_pinned_in(&settings.pin_dir), Helper::is_pinned)
}

/// Whether this process may open pins as it is: kernels before 5.19 ask for CAP_BPF.
pub(crate) fn can_open_pins() -> bool {
    let opened = sys::open_pinned(Path::new("/nothing"));
    !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

pub(crate) fn is_pinned_in(pin_dir: &Path) -> bool {
    LAYERS.iter().any(|hook| pin_dir.join(hook.code()).exists())
}

fn clear(pins: PinDir) -> Result<(), EnforcerError> {
    pins.clear()
        .map_err(|e| EnforcerError::kernel("remove the pins", &e, "remove them by hand: rm -r the pin directory"))
}
