//! The eBPF backend: programs at the lock, the cut and the prefilter.
//!
//! Owns the programs, their maps, links and pins. Pinned links keep the programs, and these keep their maps, so the enforcement outlives
//! the process. Each start puts fresh ones under the pinned links (docs/decisions/0002). It never decides about access.

mod btf;
mod denied;
mod layers;
mod links;
mod loaded;
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

use self::{
    layers::{LAYERS, Layer},
    loaded::{Loaded, Loader},
    own::Connects,
    pin_store::Pins,
    pins::PinDir,
    prefilters::Prefilters,
    sys::Place,
};
pub use self::{
    pin_store::{DirState, PinError, PinReply, PinRequest, PinResult, PinStore},
    pins::Directory,
    programs::{CookieSource, Programs, Sizes},
    tunnels::{Tunnel, Tunnels, tunnels},
};
use super::{
    Backend, Closed, DeniedReader, EnforcerError, LayerState, LayerStatus, Loss, Observed, Settings, Unattached,
    XdpMode,
    losses::{BESIDE, PIN_DIRECTORY, UNRECORDED},
};
use crate::system::sessions::OwnSockets;

/// Every so many repairs, posternd loads a refused program again. Each load costs milliseconds in the verifier.
const LOAD_AGAIN_EVERY: u32 = 20;

/// The eBPF backend.
pub struct Ebpf {
    programs: Loaded,
    pins: Pins,
    pin_dir: PathBuf,
    layers: [Layer; 3],
    prefilters: Prefilters,
    connects: Connects,
    /// Why the next start will not recognise the host's own sockets. Empty if the marks are pinned.
    marks_unpinned: String,
    /// Foreign or lost pins that the start found in place of its own layers.
    found: Vec<Loss>,
    /// Why the next start will not recognise Postern's programs. Empty if their tags are on record.
    unrecorded: String,
    rounds: u32,
}

impl Ebpf {
    /// As [`super::Enforcer::start`]. Updates pinned links with the new programs. Without pinned links it attaches and pins.
    pub(super) fn start(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Self::start_with(settings, table, Programs::load)
    }

    pub(super) fn start_without_helper(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Self::start_with(settings, table, Programs::load_without_helper)
    }

    fn start_with(settings: &Settings, table: &Table, load: Loader) -> Result<Self, EnforcerError> {
        let pins = Pins::of(settings);
        pins.open_if_usable()?;
        let sizes = Sizes { grants: settings.grants, flows: settings.flows, slots: settings.slots };
        let mut this = Self {
            programs: Loaded::load(sizes, table, load, &pins),
            pins,
            pin_dir: settings.pin_dir.clone(),
            layers: LAYERS.map(|hook| Layer::new(hook, settings.cgroup.as_deref())),
            prefilters: Prefilters::default(),
            connects: Connects::new(settings.cgroup.as_deref()),
            marks_unpinned: String::new(),
            found: Vec::new(),
            unrecorded: String::new(),
            rounds: 0,
        };
        // This must precede the first link that runs the programs.
        this.record();
        // This must precede the first known peer that a program records, because the next run needs that record.
        this.bring_own();
        this.found = LAYERS.into_iter().filter_map(|hook| this.bring(hook)).collect();
        if let Err(error) = Prefilters::clear_pins(&this.pins) {
            tracing::error!(%error, "the prefilter of an older version could not be removed: remove the pins named shed-*");
        }
        this.settle();
        Ok(this)
    }

    /// Records in the pin directory which programs are Postern's. The next repair tries again after a failure.
    fn record(&mut self) {
        let failed = self.pins.expect(self.programs.tags()).err();
        self.unrecorded = failed.map(|error| error.to_string()).unwrap_or_default();
    }

    /// Removes the programs of earlier runs from the record once none of them can be in force.
    fn settle(&mut self) {
        if self.layers().iter().all(|layer| layer.state == LayerState::InForce) {
            let failed = self.pins.settle(self.programs.tags()).err();
            self.unrecorded = failed.map(|error| error.to_string()).unwrap_or_default();
        }
    }

    /// Brings one layer into force. Returns a loss if its pin was not a link of Postern's in the right place.
    fn bring(&mut self, hook: Hook) -> Option<Loss> {
        let program = self.programs.fd(hook).map(|fd| fd.as_fd());
        let layer = self.layers.iter_mut().find(|layer| layer.hook == hook)?;
        let found = layer.bring(&self.pins, program)?;
        Some(Loss::new(hook.code(), found.code()))
    }

    /// Checks that every layer will stay in force without this process.
    fn whole(mut self) -> Result<(), EnforcerError> {
        let is_layer = |loss: &Loss| loss.state != BESIDE && !own::is_marking(&loss.part);
        if !self.losses().iter().any(is_layer) {
            return Ok(());
        }
        let healed = self.heal().err().map(|error| error.to_string());
        let holds = |hook| self.layers().iter().any(|l| l.hook == hook && l.state == LayerState::InForce);
        let kept: Vec<_> = LAYERS.into_iter().filter(|hook| holds(*hook)).map(Hook::code).collect();
        let headline = match &kept[..] {
            [] => "nothing keeps the protected ports closed".to_owned(),
            kept => format!("of what keeps the protected ports closed only this is in force: {}", kept.join(", ")),
        };
        let said: Vec<_> = self.losses().iter().filter(|l| is_layer(l)).map(Loss::sentence).chain(healed).collect();
        if said.is_empty() { Ok(()) } else { Err(EnforcerError::Partly(format!("{headline}; {}", said.join("; ")))) }
    }

    /// The loss of another `sk_lookup` program beside the lock: if it hands a packet to a socket, the lock's refusal has no effect.
    fn beside(&self) -> Option<Loss> {
        let lock = self.layers.iter().find(|l| l.hook == Hook::Lock)?;
        let attached = sys::attached_programs(lock.target()?.fd(), sys::ATTACH_LOOKUP).ok()?;
        let own = u32::from(lock.is_attached());
        (attached > own).then(|| Loss::new("lookup", BESIDE))
    }
}

impl Backend for Ebpf {
    fn apply(&mut self, edit: &Edit) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.apply(edit)
    }

    fn usage(&self, slot: u32) -> SlotUsage {
        self.programs.get().map(|programs| programs.usage(slot)).unwrap_or_default()
    }

    fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.reset_usage(slot)
    }

    fn counters(&self) -> Vec<(Hook, Fate, u64)> {
        self.programs.get().map(Programs::counters).unwrap_or_default()
    }

    fn refused_connections(&self) -> u64 {
        self.programs.get().map_or(0, Programs::refused_connections)
    }

    fn observed(&self) -> Vec<Observed> {
        self.programs.get().map(Programs::observed).unwrap_or_default()
    }

    fn take_denied(&mut self) -> Option<DeniedReader> {
        Some(Box::new(self.programs.get_mut().ok()?.take_denied()?))
    }

    fn own_sockets(&self) -> io::Result<OwnSockets> {
        self.marked_sockets()
    }

    fn layers(&self) -> Vec<LayerStatus> {
        let state = |l: &Layer| l.state(&self.pins, self.programs.id(l.hook));
        self.layers.iter().map(|l| LayerStatus { hook: l.hook, state: state(l) }).collect()
    }

    fn losses(&self) -> Vec<Loss> {
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

    fn take_found(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.found)
    }

    fn heal(&mut self) -> Result<(), EnforcerError> {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(LOAD_AGAIN_EVERY) {
            self.programs.load_again();
        }
        let directory = if self.pins.state() == DirState::Fine { Ok(()) } else { self.pins.heal() };
        if directory.is_ok() {
            // The record may be missing after a failed repair, or if the start had no directory.
            self.record();
        }
        for hook in self.layers().into_iter().filter(|l| l.state != LayerState::InForce).map(|l| l.hook) {
            let _ = self.bring(hook);
        }
        self.bring_own();
        self.settle();
        directory
    }

    fn has_to_load(&self) -> bool {
        Hook::ALL.iter().any(|hook| self.programs.fd(*hook).is_err())
    }

    fn judged_part(&self) -> Option<String> {
        let cut = self.layers.iter().find(|layer| layer.hook == Hook::CutIngress)?;
        cut.target().and_then(|target| target.place.cgroup()).and_then(place::part)
    }

    fn judges_subflows(&self) -> bool {
        self.programs.get().map_or(true, Programs::judges_subflows)
    }

    fn bypass(&self) -> Option<&'static str> {
        self.beside().map(|_| "another sk_lookup program")
    }

    fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.set_local(addresses)
    }

    fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError> {
        self.programs.get_mut()?.limit_syns(addresses, rate)
    }

    fn attach_prefilter(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), Unattached> {
        let program = match mode {
            XdpMode::Tcx => self.programs.get().and_then(Programs::tcx),
            _ => self.programs.fd(Hook::Prefilter),
        };
        let program = program.map_err(|error| Unattached::Refused(error.to_string()))?;
        self.prefilters.attach(program.as_fd(), ifindex, mode)
    }

    fn detach_prefilter(&mut self, ifindex: u32) {
        self.prefilters.detach(ifindex);
    }

    fn check_prefilter(&self, ifindex: u32) -> Result<(), Unattached> {
        self.prefilters.check(ifindex)
    }

    fn unlock(self: Box<Self>) -> Result<(), EnforcerError> {
        let pin_dir = self.pin_dir.clone();
        // The directory must be free. A helper still holds it, and never opens the host.
        drop(self);
        unlock(&pin_dir)
    }
}

pub(super) fn close(settings: &Settings, table: &Table) -> Result<Closed, EnforcerError> {
    match is_closed(settings) {
        false => Ebpf::start(settings, table)?.whole().map(|()| Closed::Now),
        true => Ok(Closed::Already),
    }
}

/// Whether an agent runs, or every layer is pinned and in force with Postern's programs.
fn is_closed(settings: &Settings) -> bool {
    let pins = Pins::of(settings);
    if let Err(error) = pins.open() {
        return matches!(error, EnforcerError::InUse(_));
    }
    let cgroup = |attach_type| place::cgroup(settings.cgroup.as_deref(), attach_type).ok().map(|target| target.place);
    let places: [(Hook, Option<Place>); 3] = [
        (Hook::Lock, place::network_namespace().ok().map(|target| target.place)),
        (Hook::CutIngress, cgroup(sys::ATTACH_INGRESS)),
        (Hook::CutEgress, cgroup(sys::ATTACH_EGRESS)),
    ];
    let is_in_force = |hook: Hook, place| links::is_in_force(&pins, hook.code(), place);
    places.into_iter().all(|(hook, place)| place.is_some_and(|place| is_in_force(hook, place)))
}

/// Opens the host while no agent runs: removes every pin in `pin_dir`. Without the directory the host is open already.
///
/// # Errors
/// An agent runs, or a pin could not be removed.
pub fn unlock(pin_dir: &Path) -> Result<(), EnforcerError> {
    hold_pins(pin_dir)?.unlock()
}

/// The pin directory while no agent runs. No agent can start before this is dropped.
pub struct PinsLock(Option<PinDir>);

impl PinsLock {
    /// Opens the host: removes every pin.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn unlock(self) -> Result<(), EnforcerError> {
        let cleared = self.0.map_or(Ok(()), PinDir::clear);
        cleared
            .map_err(|e| EnforcerError::kernel("remove the pins", &e, "remove them by hand: rm -r the pin directory"))
    }
}

/// Takes the pin directory for this process. A missing directory has no pins.
///
/// # Errors
/// An agent runs, or the directory cannot be opened.
pub fn hold_pins(pin_dir: &Path) -> Result<PinsLock, EnforcerError> {
    let found = pin_dir.try_exists();
    let found =
        found.map_err(|e| EnforcerError::kernel("look for the directory of pins", &e, "run this command as root"))?;
    Ok(PinsLock(if found { Some(PinDir::take(pin_dir)?) } else { None }))
}

/// Whether a layer of an earlier run is pinned, so that the host was not open. One is enough: no later session is older than Postern.
#[must_use]
pub fn is_pinned(settings: &Settings) -> bool {
    Pins::of(settings).is_pinned()
}

/// Whether this process may open pins with its present rights. Kernels before 5.19 require CAP_BPF.
pub(crate) fn can_open_pins() -> bool {
    let opened = sys::open_pinned(Path::new("/nothing"));
    !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn is_pinned_in(pin_dir: &Path) -> bool {
    LAYERS.iter().any(|hook| pin_dir.join(hook.code()).exists())
}
