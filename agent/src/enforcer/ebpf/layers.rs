//! The three layers: the lock, and the cut in each direction. They do not depend on each other.
//!
//! Owns the steps that bring a layer into force, at a start and after a loss. It does not decide when to try.

use std::{
    fs, io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use postern_core::verdict::Hook;

use super::{
    links::{Attachment, Link},
    pin_store::Pins,
    place::{self, Target},
    sys::{self, Place},
};
use crate::enforcer::{EnforcerError, LayerState};

pub const LAYERS: [Hook; 3] = [Hook::Lock, Hook::CutIngress, Hook::CutEgress];

pub struct Layer {
    pub hook: Hook,
    /// The cgroup that the configuration names for the cut.
    cgroup: Option<PathBuf>,
    /// The right place. `None` if it cannot be opened.
    target: Option<Target>,
    link: Option<Link>,
    /// Why the layer is not in force or not pinned. Empty without a failure.
    pub why: String,
}

impl Layer {
    pub fn new(hook: Hook, cgroup: Option<&Path>) -> Self {
        let cgroup = cgroup.filter(|_| is_cut(hook)).map(Path::to_owned);
        Self { hook, cgroup, target: None, link: None, why: String::new() }
    }

    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Whether the layer is attached at the right place.
    pub fn is_attached(&self) -> bool {
        let (Some(target), Some(link)) = (&self.target, &self.link) else { return false };
        link.is_at(target.place) && self.is_current(target)
    }

    /// Whether the configured path still leads to this cgroup. A removed cgroup keeps its programs while one of its sockets lives.
    fn is_current(&self, target: &Target) -> bool {
        let found = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| target.place.is_cgroup(found.ino()));
        self.cgroup.as_ref().is_none_or(found)
    }

    /// `program` is the kernel's number of the program that the layer must run.
    pub fn state(&self, pins: &Pins, program: Option<u32>) -> LayerState {
        let Some(link) = &self.link else { return LayerState::Detached };
        let Some(target) = &self.target else { return elsewhere(link) };
        match link.state(pins, attachment(self.hook, target), program) {
            LayerState::Detached => elsewhere(link),
            _ if !self.is_current(target) => LayerState::Elsewhere,
            state => state,
        }
    }

    /// Brings `program` into force: it updates this process's link or Postern's pinned link, else it makes a new link. An old link ends
    /// only after the new one is in force. A link that cannot be pinned stays attached.
    /// Returns the pin's state if the pin was not a link of Postern's in the right place.
    pub fn bring(&mut self, pins: &Pins, program: Result<BorrowedFd<'_>, EnforcerError>) -> Option<LayerState> {
        let (found, outcome) = self.try_to_bring(pins, program);
        self.why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        found
    }

    fn try_to_bring(
        &mut self,
        pins: &Pins,
        program: Result<BorrowedFd<'_>, EnforcerError>,
    ) -> (Option<LayerState>, Result<(), EnforcerError>) {
        // A removed cgroup that was made again is another cgroup. If it is gone, the layer stays at its place.
        let placed = if self.is_attached() { Ok(()) } else { self.find_target() };
        let found = if self.link.is_none() { self.adopt(pins) } else { None };
        let outcome = match program {
            Err(error) => Err(error),
            Ok(program) => self.attach(program).and(placed).and_then(|()| self.pin(pins)),
        };
        (found, outcome)
    }

    fn find_target(&mut self) -> Result<(), EnforcerError> {
        let target = match self.hook {
            Hook::CutIngress | Hook::CutEgress => {
                let egress = self.hook == Hook::CutEgress;
                place::cgroup(self.cgroup.as_deref(), if egress { sys::ATTACH_EGRESS } else { sys::ATTACH_INGRESS })?
            }
            Hook::Lock | Hook::Prefilter => place::network_namespace()?,
        };
        self.target = Some(target);
        Ok(())
    }

    fn adopt(&mut self, pins: &Pins) -> Option<LayerState> {
        match Link::adopt(pins, self.hook.code()) {
            Ok(link) => self.link = Some(link),
            Err(found) => return found,
        }
        if self.is_attached() { None } else { Some(LayerState::Detached) }
    }

    fn attach(&mut self, program: BorrowedFd<'_>) -> Result<(), EnforcerError> {
        // A link at another place gets the new program too, because no process updates the maps of the old one.
        let updated = self.link.as_ref().map(|link| link.update(program));
        let Some(target) = &self.target else { return Ok(()) };
        if self.link.as_ref().is_some_and(|link| link.is_at(target.place)) && matches!(updated, Some(Ok(()))) {
            return Ok(());
        }
        let fresh =
            Link::create(attachment(self.hook, target), program).map_err(|e| failed(self.hook, "attach", &e))?;
        self.link = Some(fresh);
        Ok(())
    }

    fn pin(&self, pins: &Pins) -> Result<(), EnforcerError> {
        let (Some(target), Some(link)) = (&self.target, &self.link) else { return Ok(()) };
        link.pin(pins, attachment(self.hook, target)).map_err(|e| {
            let what = format!("pin the {}", self.hook.code());
            EnforcerError::kernel(what, &e, super::pins::ADVICE_PINS)
        })
    }
}

fn is_cut(hook: Hook) -> bool {
    matches!(hook, Hook::CutIngress | Hook::CutEgress)
}

fn elsewhere(link: &Link) -> LayerState {
    match link.place() {
        Some(Place::Cgroup(0, _) | Place::Namespace(0, _) | Place::Other) | None => LayerState::Detached,
        Some(_) => LayerState::Elsewhere,
    }
}

fn attachment<'a>(hook: Hook, target: &Target) -> Attachment<'a> {
    let attach_type = match hook {
        Hook::CutIngress => sys::ATTACH_INGRESS,
        Hook::CutEgress => sys::ATTACH_EGRESS,
        Hook::Lock | Hook::Prefilter => sys::ATTACH_LOOKUP,
    };
    Attachment { pin: hook.code(), place: target.place, target: target.number(), attach_type, flags: 0 }
}

fn failed(hook: Hook, verb: &str, error: &io::Error) -> EnforcerError {
    EnforcerError::kernel(format!("{verb} the {}", hook.code()), error, advice(hook, error))
}

fn advice(hook: Hook, error: &io::Error) -> &'static str {
    let cut = is_cut(hook);
    match error.raw_os_error() {
        Some(libc::E2BIG) if cut => {
            "64 programs are attached to that cgroup already, and the kernel takes no more: detach those that are not needed \
             (`bpftool cgroup show` lists them); posternd tries again twice a second"
        }
        Some(libc::E2BIG) => {
            "64 sk_lookup programs are attached to this network namespace already, and the kernel takes no more: detach those \
             that are not needed (`bpftool link list` shows them); posternd tries again twice a second"
        }
        Some(libc::EPERM) if cut => {
            "either posternd has no CAP_NET_ADMIN, or a program is attached to that cgroup without BPF_F_ALLOW_MULTI: detach \
             that one (`bpftool cgroup show` lists it); posternd tries again twice a second"
        }
        Some(libc::EBUSY | libc::EEXIST) if !cut => {
            "a flow dissector or sk_lookup program holds this network namespace alone: detach it; posternd tries again twice a \
             second"
        }
        _ => "posternd keeps the layers that are attached, and tries this one again twice a second",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_to_attach_names_a_remedy() {
        let error = |number| io::Error::from_raw_os_error(number);
        assert!(advice(Hook::CutEgress, &error(libc::E2BIG)).contains("bpftool cgroup show"));
        assert!(advice(Hook::Lock, &error(libc::E2BIG)).contains("sk_lookup"));
        assert!(advice(Hook::CutIngress, &error(libc::EPERM)).contains("ALLOW_MULTI"));
        assert!(advice(Hook::Lock, &error(libc::EIO)).contains("tries this one again"));
    }
}
