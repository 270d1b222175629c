//! The enforcer: brings a [`Table`] into force in the kernel and reports what the kernel counts.
//!
//! Owns the eBPF programs, their maps, links and pins, and all of the agent's unsafe code. It never decides who may do what,
//! keeps no journal and knows no grants, only edits. All calls are synchronous and short, from one thread.
//!
//! What is in force outlives the process: pinned links keep the programs, and programs keep their maps. Each start loads fresh
//! programs and maps, fills them, and swaps them in under the pinned links (docs/decisions/0002-fresh-maps-at-each-start.md).

mod btf;
mod error;
mod knocks;
mod links;
mod place;
mod programs;
mod shared;
mod sheds;
mod sys;

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use postern_core::{
    key::SlotUsage,
    table::{Edit, Table},
    verdict::{Fate, Hook},
};

pub use self::{
    error::EnforcerError,
    knocks::{Knock, Knocks},
    links::LayerState,
    programs::{CookieSource, Programs, Sizes},
    sheds::{ShedMode, ShedStatus},
};
use self::{
    links::{Attachment, Link},
    place::{PinDir, Target},
    sheds::Sheds,
};

const ADVICE_ATTACH: &str = "posternd does not run without both lock and cut; what was pinned before stays in force";

/// What the enforcer has to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on bpffs for the pinned links. Made if absent.
    pub pin_dir: PathBuf,
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

type Loader = fn(Sizes, &Table) -> Result<Programs, EnforcerError>;

/// The programs in force.
pub struct Enforcer {
    programs: Programs,
    pins: PinDir,
    layers: Vec<Layer>,
    sheds: Sheds,
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
        let pins = PinDir::open(&settings.pin_dir)?;
        let (namespace, cgroup) = (place::network_namespace()?, place::cgroup(settings.cgroup.as_deref())?);
        let programs = load(Sizes { grants: settings.grants, flows: settings.flows, slots: settings.slots }, table)?;
        let layers = hold_layers(&pins, &programs, namespace, &cgroup)?;
        let sheds = programs.fd(Hook::Shed)?;
        let sheds = Sheds::adopt(&pins, sheds.as_fd())
            .map_err(|e| EnforcerError::kernel("take over the pinned sheds", &e, "remove the pins named shed-*"))?;
        Ok(Self { programs, pins, layers, sheds })
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

    /// Lock and cut as the kernel sees them now.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerStatus> {
        let state = |l: &Layer| l.link.state(&self.pins, l.attachment(), self.programs.id(l.hook));
        self.layers.iter().map(|l| LayerStatus { hook: l.hook, state: state(l) }).collect()
    }

    /// Brings back into force what [`Self::layers`] shows otherwise, and says which layers that were.
    ///
    /// # Errors
    /// The first layer that could not be brought back.
    pub fn heal(&mut self) -> Result<Vec<LayerStatus>, EnforcerError> {
        let lost: Vec<LayerStatus> = self.layers().into_iter().filter(|l| l.state != LayerState::InForce).collect();
        for layer in self.layers.iter_mut().filter(|l| lost.iter().any(|lost| lost.hook == l.hook)) {
            let program = self.programs.fd(layer.hook)?;
            let attachment = attachment(layer.hook, &layer.target, layer.attach_type);
            layer.link.heal(&self.pins, attachment, program.as_fd()).map_err(|e| {
                EnforcerError::kernel(format!("bring back the {}", layer.hook.code()), &e, ADVICE_ATTACH)
            })?;
        }
        Ok(lost)
    }

    /// Makes `addresses` the set of the host's own addresses.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError> {
        self.programs.set_local(addresses)
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
        clear(pins)
    }
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

fn clear(pins: PinDir) -> Result<(), EnforcerError> {
    pins.clear()
        .map_err(|e| EnforcerError::kernel("remove the pins", &e, "remove them by hand: rm -r the pin directory"))
}

/// Lock and cut, in this order. If one fails, those that this call has made are given up again.
fn hold_layers(
    pins: &PinDir,
    programs: &Programs,
    namespace: Target,
    cgroup: &Target,
) -> Result<Vec<Layer>, EnforcerError> {
    let clone = |attach_type| {
        let target = cgroup.with_attach_type(attach_type);
        target.map_err(|e: io::Error| EnforcerError::kernel("hold the cgroup open", &e, ADVICE_ATTACH))
    };
    let wanted = [
        (Hook::Lock, namespace, sys::ATTACH_LOOKUP),
        (Hook::CutIngress, clone(sys::ATTACH_INGRESS)?, sys::ATTACH_INGRESS),
        (Hook::CutEgress, clone(sys::ATTACH_EGRESS)?, sys::ATTACH_EGRESS),
    ];
    let mut layers: Vec<Layer> = Vec::new();
    for (hook, target, attach_type) in wanted {
        let program = programs.fd(hook)?;
        match Link::hold(pins, attachment(hook, &target, attach_type), program.as_fd()) {
            Ok(link) => layers.push(Layer { hook, target, attach_type, link }),
            Err(error) => {
                for layer in layers.iter().filter(|l| l.link.fresh) {
                    // The error below is the one to report.
                    let _ = pins.remove(layer.hook.code());
                }
                return Err(EnforcerError::kernel(format!("attach the {}", hook.code()), &error, ADVICE_ATTACH));
            }
        }
    }
    Ok(layers)
}
