//! The enforcer: brings a [`Table`] into force in the kernel, and reports what the kernel counts.
//!
//! Owns the words that the engine uses for every backend, the choice of the backend, and all unsafe code of the agent. It never decides
//! about access, keeps no journal and knows no grants. All calls are synchronous and short, and come from one thread.
//!
//! What is in force outlives the process. eBPF ([`ebpf`]) is the only backend so far; another one implements [`Backend`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::Arc,
};

use postern_core::{
    key::{SlotUsage, SynRate},
    table::{Edit, Table},
    verdict::{Fate, Hook},
};

use crate::system::sessions::OwnSockets;

mod denied;
pub mod ebpf;
mod error;
mod losses;
mod prefilter;
mod sys;

pub use self::{
    denied::{DeniedAttempt, DeniedAttempts, DeniedReader, Observed},
    ebpf::{PinsLock, Tunnel, Tunnels, hold_pins, is_pinned, tunnels, unlock},
    error::EnforcerError,
    losses::{LayerState, LayerStatus, Loss},
    prefilter::{Unattached, XdpMode, XdpStatus},
    sys::{ignore_signals, ntp_error},
};

/// How a backend starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory on bpffs for pins. posternd makes it if it is missing.
    pub pin_dir: PathBuf,
    /// The store of pins in another process, where this process is not root.
    pub pins: Option<Arc<dyn ebpf::PinStore>>,
    /// The cgroup whose sockets the cut judges; the root of cgroup v2 when absent.
    pub cgroup: Option<PathBuf>,
    /// Most entries of grants in the kernel's table.
    pub grants: u32,
    /// Most sessions that outlive their grant.
    pub flows: u32,
    /// Usage slots.
    pub slots: u32,
}

/// What [`Enforcer::close`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It closed the ports.
    Now,
    /// It changed nothing: the ports were closed.
    Already,
}

/// A way to enforce a table in the kernel.
pub trait Backend: Send {
    /// Carries out `edit`, which is in force when this returns.
    ///
    /// # Errors
    /// The kernel refused the edit, and nothing has changed.
    fn apply(&mut self, edit: &Edit) -> Result<(), EnforcerError>;

    /// Traffic that was counted under `slot` since it was reset, over all CPUs.
    fn usage(&self, slot: u32) -> SlotUsage;

    /// Empties `slot` for the next grant.
    ///
    /// # Errors
    /// What the kernel refused.
    fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError>;

    /// Every counter since the start, over all CPUs, also those at 0.
    fn counters(&self) -> Vec<(Hook, Fate, u64)>;

    /// How many new TCP connections were refused since the start, by all layers together.
    fn refused_connections(&self) -> u64;

    /// What would have been dropped since the start, by source and port. The memory for it is limited.
    fn observed(&self) -> Vec<Observed>;

    /// The reader of denied attempts. `None` once it was taken, or where the kernel reports none.
    fn take_denied(&mut self) -> Option<DeniedReader>;

    /// The sockets that the host itself connected, as far as they are marked.
    ///
    /// # Errors
    /// The kernel could not be asked.
    fn own_sockets(&self) -> io::Result<OwnSockets>;

    /// The state of each layer now.
    fn layers(&self) -> Vec<LayerStatus>;

    /// Everything that is not in order now. The calls take well under a millisecond, and none of them waits.
    fn losses(&self) -> Vec<Loss>;

    /// What the start found in place of its own layers. It has replaced them since.
    fn take_found(&mut self) -> Vec<Loss>;

    /// Repairs what [`Self::losses`] shows, or brings it into force for the first time. Layers come first. A layer that stays lost has
    /// the reason in its loss.
    ///
    /// # Errors
    /// What makes the layers last could not be repaired; the rest was.
    fn heal(&mut self) -> Result<(), EnforcerError>;

    /// Whether a later [`Self::heal`] needs all rights of a start.
    fn has_to_load(&self) -> bool;

    /// In words, what the cut leaves out, where it judges a part of the host's sockets only.
    fn judged_part(&self) -> Option<String>;

    /// Whether the cut judges an MPTCP subflow by the connection to which it belongs. True where there is no cut.
    fn judges_subflows(&self) -> bool;

    /// In words, another program that may hand packets to a socket although the lock refuses them.
    fn bypass(&self) -> Option<&'static str>;

    /// Makes `addresses` the set of the host's own addresses.
    ///
    /// # Errors
    /// What the kernel refused.
    fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError>;

    /// Limits how fast one source begins connections to `addresses`, and to no others.
    ///
    /// # Errors
    /// What the kernel refused.
    fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError>;

    /// Attaches the prefilter to a device, in the way of `mode`. A repeated call changes nothing.
    ///
    /// # Errors
    /// Why the prefilter is not attached.
    fn attach_prefilter(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), Unattached>;

    /// Detaches the device's prefilter at once, if it has one.
    fn detach_prefilter(&mut self, ifindex: u32);

    /// Checks that the device's prefilter is as it was attached, and that no other program wants its place.
    ///
    /// # Errors
    /// Why the prefilter must be detached.
    fn check_prefilter(&self, ifindex: u32) -> Result<(), Unattached>;

    /// Opens the host: removes everything from the kernel.
    ///
    /// # Errors
    /// What could not be removed.
    fn unlock(self: Box<Self>) -> Result<(), EnforcerError>;

    /// Whether neither the lock nor the inward half of the cut is in force, so that the protected ports are open.
    fn is_open(&self) -> bool {
        let inward = |l: &LayerStatus| l.hook != Hook::CutEgress;
        !self.layers().iter().filter(|l| inward(l)).any(|l| l.state.holds())
    }
}

/// The backend in force.
pub struct Enforcer(Box<dyn Backend>);

impl Enforcer {
    /// Brings `table` into force in the calling thread's network namespace. It takes over from an earlier run, and nothing opens in
    /// between.
    ///
    /// A layer that cannot be brought into force does not affect another layer: [`Backend::losses`] names it and the kernel's reason,
    /// and [`Backend::heal`] tries again. All layers may be missing, see [`Backend::is_open`].
    ///
    /// # Errors
    /// Another agent runs; nothing that was in force before is opened.
    pub fn start(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Ok(Self(Box::new(ebpf::Ebpf::start(settings, table)?)))
    }

    /// As [`Self::start`], as if the kernel had no `bpf_get_netns_cookie` in `cgroup_skb`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_without_helper(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Ok(Self(Box::new(ebpf::Ebpf::start_without_helper(settings, table)?)))
    }

    /// Brings `table` into force and releases it: it stays in force without this process. Where an agent runs, or all layers are in
    /// force already, nothing changes.
    ///
    /// # Errors
    /// As [`Self::start`], and [`EnforcerError::Partly`] where a layer is missing or does not last. What came into force stays so.
    pub fn close(settings: &Settings, table: &Table) -> Result<Closed, EnforcerError> {
        ebpf::close(settings, table)
    }

    /// As [`Backend::unlock`].
    ///
    /// # Errors
    /// As [`Backend::unlock`].
    pub fn unlock(self) -> Result<(), EnforcerError> {
        self.0.unlock()
    }
}

impl Deref for Enforcer {
    type Target = dyn Backend;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for Enforcer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}
