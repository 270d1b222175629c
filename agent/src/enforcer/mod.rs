//! The enforcer: brings a [`Table`] into force in the kernel, and reports the kernel's counters.
//!
//! Owns the [`Backend`] interface, the choice of the backend, and all unsafe code of the agent. It never decides about access, keeps no
//! journal and knows no grants. All calls are synchronous and short, and come from one thread. The enforcement outlives the process.

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
    /// The store of pins in the helper. `None` if this process is root.
    pub pins: Option<Arc<dyn ebpf::PinStore>>,
    /// The cgroup whose sockets the cut judges. `None`: the root of cgroup v2.
    pub cgroup: Option<PathBuf>,
    /// The most grant entries in the kernel's table.
    pub grants: u32,
    /// The most sessions that outlive their grant.
    pub flows: u32,
    /// The number of usage slots.
    pub slots: u32,
}

/// The result of [`Enforcer::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// This call closed the ports.
    Now,
    /// The ports were closed before; nothing changed.
    Already,
}

/// A way to enforce a table in the kernel.
pub trait Backend: Send {
    /// Carries out `edit`. The edit is in force when this returns.
    ///
    /// # Errors
    /// The kernel refused the edit; nothing has changed.
    fn apply(&mut self, edit: &Edit) -> Result<(), EnforcerError>;

    /// Traffic under `slot` since its last reset, over all CPUs.
    fn usage(&self, slot: u32) -> SlotUsage;

    /// Resets `slot` for the next grant.
    ///
    /// # Errors
    /// The kernel refused.
    fn reset_usage(&mut self, slot: u32) -> Result<(), EnforcerError>;

    /// Every counter since the start, over all CPUs, including those at 0.
    fn counters(&self) -> Vec<(Hook, Fate, u64)>;

    /// The number of new TCP connections that all layers together refused since the start.
    fn refused_connections(&self) -> u64;

    /// Traffic since the start that enforce mode would drop, by source and port. The memory for it is limited.
    fn observed(&self) -> Vec<Observed>;

    /// The reader of denied attempts. `None` after the first call, or if the kernel reports none.
    fn take_denied(&mut self) -> Option<DeniedReader>;

    /// The sockets that the host itself connected, if they are marked.
    ///
    /// # Errors
    /// The kernel refused the list.
    fn own_sockets(&self) -> io::Result<OwnSockets>;

    /// The state of each layer now.
    fn layers(&self) -> Vec<LayerStatus>;

    /// All present faults. The calls take well under a millisecond and never wait.
    fn losses(&self) -> Vec<Loss>;

    /// Foreign or lost pins that the start found in place of its own layers, and replaced. The second call returns none.
    fn take_found(&mut self) -> Vec<Loss>;

    /// Repairs the [`Self::losses`], layers first. The loss of a layer that stays lost has the reason.
    ///
    /// # Errors
    /// The directory of pins could not be repaired; the rest was.
    fn heal(&mut self) -> Result<(), EnforcerError>;

    /// Whether a later [`Self::heal`] needs all rights of a start.
    fn has_to_load(&self) -> bool;

    /// The sockets that the cut does not judge, in words. `None` if it judges all of them.
    fn judged_part(&self) -> Option<String>;

    /// Whether the cut judges an MPTCP subflow by its connection. True without a cut.
    fn judges_subflows(&self) -> bool;

    /// Another program that may hand packets to a socket although the lock refuses them, in words.
    fn bypass(&self) -> Option<&'static str>;

    /// Replaces the set of the host's own addresses.
    ///
    /// # Errors
    /// The kernel refused.
    fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), EnforcerError>;

    /// Limits how fast one source begins connections to `addresses`. Replaces all earlier limits.
    ///
    /// # Errors
    /// The kernel refused.
    fn limit_syns(&mut self, addresses: &[SocketAddr], rate: SynRate) -> Result<(), EnforcerError>;

    /// Attaches the prefilter to a device in `mode`. A repeated call changes nothing.
    ///
    /// # Errors
    /// Why the prefilter is not attached.
    fn attach_prefilter(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), Unattached>;

    /// Detaches the device's prefilter at once, if it has one.
    fn detach_prefilter(&mut self, ifindex: u32);

    /// Checks that the device's prefilter is still attached, and that no other program needs its place.
    ///
    /// # Errors
    /// Why the prefilter must be detached.
    fn check_prefilter(&self, ifindex: u32) -> Result<(), Unattached>;

    /// Opens the host: removes everything from the kernel.
    ///
    /// # Errors
    /// Something could not be removed.
    fn unlock(self: Box<Self>) -> Result<(), EnforcerError>;

    /// Whether the protected ports are open: neither the lock nor the inward half of the cut is in force.
    fn is_open(&self) -> bool {
        let inward = |l: &LayerStatus| l.hook != Hook::CutEgress;
        !self.layers().iter().filter(|l| inward(l)).any(|l| l.state.holds())
    }
}

/// The backend in force.
pub struct Enforcer(Box<dyn Backend>);

impl Enforcer {
    /// Brings `table` into force in the calling thread's network namespace. It takes over from an earlier run without a gap.
    ///
    /// A layer may fail alone: [`Backend::losses`] has its reason, [`Backend::heal`] tries again. See also [`Backend::is_open`].
    ///
    /// # Errors
    /// Another agent runs. Nothing was opened.
    pub fn start(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Ok(Self(Box::new(ebpf::Ebpf::start(settings, table)?)))
    }

    /// As [`Self::start`], but without the kernel's helper `bpf_get_netns_cookie` in `cgroup_skb`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_without_helper(settings: &Settings, table: &Table) -> Result<Self, EnforcerError> {
        Ok(Self(Box::new(ebpf::Ebpf::start_without_helper(settings, table)?)))
    }

    /// Brings `table` into force and leaves it so without this process. If an agent runs, or all layers are in force, nothing changes.
    ///
    /// # Errors
    /// As [`Self::start`], and [`EnforcerError::Partly`] if a layer is missing or does not last. The other layers stay in force.
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
