//! The enforcer: brings a [`Table`] into force in the kernel and reports what the kernel counts.
//!
//! Owns the eBPF programs, their maps, links and pins, and all of the agent's unsafe code. It never decides who may do what,
//! keeps no journal and knows no grants, only edits. All calls are synchronous and short, from one thread.
//!
//! What is in force outlives the process: pinned links keep the programs, and programs keep their maps. Each start loads fresh
//! programs and maps, fills them, and swaps them in under the pinned links (docs/decisions/0002-fresh-maps-at-each-start.md).

mod btf;
mod error;
mod kept;
mod knocks;
mod links;
mod pins;
mod place;
mod programs;
mod shared;
mod sheds;
mod sys;

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

use crate::keeper::Keeper;

pub use self::{
    error::EnforcerError,
    knocks::{Knock, Knocks, Observed},
    links::LayerState,
    pins::{ADVICE_PINS, DirState, PinDir, Pinned},
    programs::{CookieSource, Programs, Sizes},
    sheds::{ShedMode, ShedStatus},
    sys::{ignore_signals, ntp_error},
};
use self::{
    kept::Pins,
    links::{Attachment, Link},
    place::Target,
    sheds::Sheds,
};

const ADVICE_ATTACH: &str = "posternd does not run without both lock and cut; what was pinned before stays in force";

/// What the enforcer has to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on bpffs for the pinned links. Made if absent.
    pub pin_dir: PathBuf,
    /// Who keeps it for this process, which is not root then.
    pub keeper: Option<Keeper>,
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

/// Something that is not as it has to be in the kernel, because somebody or something changed it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which part: `lock`, `cut-ingress`, `cut-egress`, `shed NAME`, `pin-directory`.
    pub part: String,
    /// A stable name of what is wrong with it.
    pub state: &'static str,
}

impl Loss {
    fn new(part: impl Into<String>, state: &'static str) -> Self {
        Self { part: part.into(), state }
    }

    /// In words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { part, state } = self;
        match *state {
            BESIDE => "another sk_lookup program is attached to this network namespace: it can hand connections to a \
                       socket in spite of the lock; the cut holds them back"
                .to_owned(),
            "detached" => format!("the {part} is not attached"),
            "other-program" => format!("the {part} runs another program than ours"),
            "unpinned" => format!("the {part} is not pinned: it is in force only as long as posternd lives"),
            "foreign-pin" => format!("what is pinned as {part} is not ours"),
            "exposed" => format!("the {part} is open to others than root"),
            _ => format!("the {part} is {state}"),
        }
    }
}

/// Another program runs beside the lock.
const BESIDE: &str = "other-program-beside";
const PIN_DIRECTORY: &str = "pin-directory";

/// What [`Enforcer::close`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The ports are closed now.
    Now,
    /// They were: nothing was changed.
    Already,
}

type Loader = fn(Sizes, &Table) -> Result<Programs, EnforcerError>;

/// The programs in force.
pub struct Enforcer {
    programs: Programs,
    pins: Pins,
    layers: Vec<Layer>,
    sheds: Sheds,
    /// What the start found in the place of what it would have adopted.
    found: Vec<Loss>,
}

struct Layer {
    hook: Hook,
    target: Target,
    attach_type: u32,
    link: Link,
}

impl Layer {
    fn attachment(&self) -> Attachment<'_> {
        attachment(self.hook, &self.target, self.attach_type)
    }
}

fn attachment(hook: Hook, target: &Target, attach_type: u32) -> Attachment<'_> {
    Attachment { pin: hook.code(), place: target.place, target: target.number(), attach_type, flags: 0 }
}

impl Enforcer {
    /// Brings `table` into force in the calling thread's network namespace. Pinned links get the new programs by link
    /// update, so nothing opens in between; without pinned links it attaches and pins.
    ///
    /// # Errors
    /// Without both lock and cut it fails; nothing that was in force before is opened, and nothing new is left behind.
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
        let mut pins = Pins::open(settings)?;
        let (namespace, cgroup) = (place::network_namespace()?, place::cgroup(settings.cgroup.as_deref())?);
        let programs = load(Sizes { grants: settings.grants, flows: settings.flows, slots: settings.slots }, table)?;
        pins.expect(programs.tags())?;
        let (layers, found) = hold_layers(&pins, &programs, namespace, &cgroup)?;
        let sheds = programs.fd(Hook::Shed)?;
        let sheds = Sheds::adopt(&pins, sheds.as_fd())
            .map_err(|e| EnforcerError::kernel("take over the pinned sheds", &e, "remove the pins named shed-*"))?;
        pins.settle(programs.tags())?;
        Ok(Self { programs, pins, layers, sheds, found })
    }

    /// Brings `table` into force and lets go of it: links and programs stay. Where an agent runs, or all layers are in force
    /// already, nothing changes.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn close(settings: &Settings, table: &Table) -> Result<Closed, EnforcerError> {
        match is_closed(settings) {
            Ok(false) => {}
            Ok(true) | Err(EnforcerError::InUse(_)) => return Ok(Closed::Already),
            Err(error) => return Err(error),
        }
        Self::start(settings, table).map(|_| Closed::Now)
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
        self.programs.apply(edits)
    }

    /// What was counted under `slot` since it was reset, over all CPUs.
    #[must_use]
    pub fn usage(&self, slot: u32) -> SlotUsage {
        self.programs.usage(slot)
    }

    /// Empties `slot` for the next grant.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError> {
        self.programs.reset_usage(slot)
    }

    /// Every counter since the start, over all CPUs.
    #[must_use]
    pub fn counters(&self) -> Vec<(Hook, Fate, u64)> {
        self.programs.counters()
    }

    /// What would have been dropped since the start, by source and port, as far as there was room to remember.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.programs.observed()
    }

    /// Lock and cut as the kernel sees them now.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerStatus> {
        let state = |l: &Layer| l.link.state(&self.pins, l.attachment(), self.programs.id(l.hook));
        self.layers.iter().map(|l| LayerStatus { hook: l.hook, state: state(l) }).collect()
    }

    /// What is not as it has to be now: layers, sheds, and the directory of pins. Some 40 system calls, none of which waits.
    #[must_use]
    pub fn losses(&self) -> Vec<Loss> {
        let directory = match self.pins.state() {
            DirState::Fine => None,
            DirState::Gone => Some(Loss::new(PIN_DIRECTORY, "gone")),
            DirState::Exposed => Some(Loss::new(PIN_DIRECTORY, "exposed")),
        };
        let layers = self.layers().into_iter().filter(|l| l.state != LayerState::InForce);
        let layers = layers.map(|l| Loss::new(l.hook.code(), l.state.code()));
        directory.into_iter().chain(layers).chain(self.beside()).chain(self.lost_sheds()).collect()
    }

    /// Whether somebody's program runs beside the lock: where one hands a packet to a socket, the lock's refusal does not count.
    fn beside(&self) -> Option<Loss> {
        let lock = self.layers.iter().find(|l| l.hook == Hook::Lock)?;
        let attached = sys::attached_programs(lock.target.fd(), sys::ATTACH_LOOKUP).ok()?;
        let own = u32::from(lock.link.is_at(lock.target.place));
        (attached > own).then(|| Loss::new("lookup", BESIDE))
    }

    fn lost_sheds(&self) -> impl Iterator<Item = Loss> {
        let lost = |s: ShedStatus| s.state.filter(|state| *state != LayerState::InForce).map(|state| (s.name, state));
        self.sheds().into_iter().filter_map(lost).map(|(name, state)| Loss::new(format!("shed {name}"), state.code()))
    }

    /// Brings back into force what [`Self::losses`] shows. Layers come first, so that nothing waits for their pins.
    ///
    /// # Errors
    /// The first thing that could not be brought back; all else was.
    pub fn heal(&mut self) -> Result<(), EnforcerError> {
        let directory = if self.pins.state() == DirState::Fine { Ok(()) } else { self.pins.heal() };
        let mut outcome = Ok(());
        for hook in self.layers().into_iter().filter(|l| l.state != LayerState::InForce).map(|l| l.hook) {
            outcome = outcome.and(self.heal_layer(hook));
        }
        let shed = self.programs.fd(Hook::Shed)?;
        self.sheds.heal(&self.pins, shed.as_fd(), self.programs.id(Hook::Shed));
        directory.and(outcome)
    }

    fn heal_layer(&mut self, hook: Hook) -> Result<(), EnforcerError> {
        let program = self.programs.fd(hook)?;
        let Some(layer) = self.layers.iter_mut().find(|l| l.hook == hook) else { return Ok(()) };
        let attachment = attachment(hook, &layer.target, layer.attach_type);
        let healed = layer.link.heal(&self.pins, attachment, program.as_fd());
        healed.map_err(|e| EnforcerError::kernel(format!("bring back the {}", hook.code()), &e, ADVICE_ATTACH))
    }

    /// Makes `addresses` the set of the host's own addresses.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError> {
        self.programs.set_local(addresses)
    }

    /// Has the shed limit how fast one source begins connections to `addresses`, and to no others.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError> {
        self.programs.limit_syns(addresses, rate)
    }

    /// The reader of who was turned away; `None` once it was taken.
    pub fn take_knocks(&mut self) -> Option<Knocks> {
        self.programs.take_knocks()
    }

    /// How the cut learns a socket's network namespace on this kernel.
    #[must_use]
    pub fn cookie_source(&self) -> CookieSource {
        self.programs.cookie_source()
    }

    /// Attaches a shed to the interface: native, else generic, else none with the reasons. Doing it again changes nothing.
    pub fn attach_shed(&mut self, ifindex: u32, name: &str) -> ShedStatus {
        match self.programs.fd(Hook::Shed) {
            Ok(program) => self.sheds.attach(&self.pins, program.as_fd(), ifindex, name),
            Err(error) => ShedStatus {
                ifindex,
                name: name.to_owned(),
                mode: ShedMode::Off,
                reason: error.to_string(),
                state: None,
            },
        }
    }

    /// Takes the interface's shed away, if it has one.
    pub fn detach_shed(&mut self, ifindex: u32) {
        self.sheds.detach(&self.pins, ifindex);
    }

    /// The attached sheds as the kernel sees them now, also those adopted from an earlier run.
    #[must_use]
    pub fn sheds(&self) -> Vec<ShedStatus> {
        self.sheds.status(&self.pins, self.programs.id(Hook::Shed))
    }

    /// Opens the host: takes every link and pin away.
    ///
    /// # Errors
    /// A pin that could not be removed.
    pub fn unlock(self) -> Result<(), EnforcerError> {
        let Self { pins, layers, sheds, .. } = self;
        drop((layers, sheds));
        match pins {
            Pins::Own(pins) => clear(pins),
            // A keeper is asked to keep closed, never to open.
            Pins::Kept(_) => Err(EnforcerError::InUse("the part of posternd that stays root".to_owned())),
        }
    }
}

/// Whether every layer is pinned and in force, with programs of ours.
fn is_closed(settings: &Settings) -> Result<bool, EnforcerError> {
    let pins = Pins::open(settings)?;
    let (namespace, cgroup) = (place::network_namespace()?, place::cgroup(settings.cgroup.as_deref())?);
    let places = [
        (Hook::Lock, namespace.place),
        (Hook::CutIngress, cgroup.place),
        (Hook::CutEgress, cgroup.place.with_attach_type(sys::ATTACH_EGRESS)),
    ];
    Ok(places.into_iter().all(|(hook, place)| links::is_in_force(&pins, hook.code(), place)))
}

/// Opens the host while no agent runs: takes every pin in `pin_dir` away. An absent directory is open already.
///
/// # Errors
/// An agent runs, or a pin could not be removed.
pub fn unlock(pin_dir: &Path) -> Result<(), EnforcerError> {
    if !pin_dir.exists() {
        return Ok(());
    }
    clear(PinDir::take(pin_dir)?)
}

/// Whether a layer of an earlier run is pinned: then the host was not open until now.
#[must_use]
pub fn is_pinned(settings: &Settings) -> bool {
    settings.keeper.as_ref().map_or_else(|| is_pinned_in(&settings.pin_dir), Keeper::is_pinned)
}

/// Whether this process may open pins as it is: kernels before 5.19 ask for CAP_BPF.
pub(crate) fn can_open_pins() -> bool {
    let opened = sys::open_pinned(Path::new("/nothing"));
    !opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

pub(crate) fn is_pinned_in(pin_dir: &Path) -> bool {
    [Hook::Lock, Hook::CutIngress, Hook::CutEgress].iter().any(|hook| pin_dir.join(hook.code()).exists())
}

fn clear(pins: PinDir) -> Result<(), EnforcerError> {
    pins.clear()
        .map_err(|e| EnforcerError::kernel("remove the pins", &e, "remove them by hand: rm -r the pin directory"))
}

/// Lock and cut, in this order. If one fails, those that this call has made are given up again.
fn hold_layers(
    pins: &Pins,
    programs: &Programs,
    namespace: Target,
    cgroup: &Target,
) -> Result<(Vec<Layer>, Vec<Loss>), EnforcerError> {
    let clone = |attach_type| {
        let target = cgroup.with_attach_type(attach_type);
        target.map_err(|e: io::Error| EnforcerError::kernel("hold the cgroup open", &e, ADVICE_ATTACH))
    };
    let wanted = [
        (Hook::Lock, namespace, sys::ATTACH_LOOKUP),
        (Hook::CutIngress, clone(sys::ATTACH_INGRESS)?, sys::ATTACH_INGRESS),
        (Hook::CutEgress, clone(sys::ATTACH_EGRESS)?, sys::ATTACH_EGRESS),
    ];
    let (mut layers, mut lost): (Vec<Layer>, Vec<Loss>) = (Vec::new(), Vec::new());
    for (hook, target, attach_type) in wanted {
        let program = programs.fd(hook)?;
        match Link::hold(pins, attachment(hook, &target, attach_type), program.as_fd()) {
            Ok((link, found)) => {
                lost.extend(found.map(|state| Loss::new(hook.code(), state.code())));
                layers.push(Layer { hook, target, attach_type, link });
            }
            Err(error) => {
                for layer in layers.iter().filter(|l| l.link.fresh) {
                    // The error below is the one to report.
                    let _ = pins.remove(layer.hook.code());
                }
                return Err(EnforcerError::kernel(format!("attach the {}", hook.code()), &error, ADVICE_ATTACH));
            }
        }
    }
    Ok((layers, lost))
}
