//! The host's own connections: the programs that record their direction, and the list of them.
//!
//! Owns the hooks of `connect(2)` and the state of the maps of marks. They are no layers, because they only keep the host from cutting its
//! own connections. It never decides about a packet.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use postern_core::own::OwnValue;

use super::{
    Ebpf,
    denied::address,
    links::{Attachment, Link},
    loaded::Loaded,
    pin_store::Pins,
    place::{self, Target},
    sys,
};
use crate::{
    enforcer::{EnforcerError, LayerState, Loss},
    system::sessions::OwnSockets,
};

/// The part that stands for the maps of marks.
const MARKS: &str = "marks";
/// The pin and the attach type of each hook, in the order of [`super::marking::MARKING`].
const HOOKS: [(&str, u32); 2] = [("connect4", sys::ATTACH_CONNECT4), ("connect6", sys::ATTACH_CONNECT6)];

/// The socket's cookie and its peer's address.
fn socket(value: &OwnValue) -> (u64, IpAddr) {
    (value.cookie, address(value.peer.family, value.peer.bytes()))
}

pub(super) struct Connects {
    cgroup: Option<PathBuf>,
    hooks: [Connect; 2],
}

#[derive(Default)]
struct Connect {
    target: Option<Target>,
    link: Option<Link>,
    why: String,
}

impl Connects {
    pub(super) fn new(cgroup: Option<&Path>) -> Self {
        Self { cgroup: cgroup.map(Path::to_owned), hooks: Default::default() }
    }

    fn bring(&mut self, pins: &Pins, programs: &Loaded) {
        for (which, hook) in self.hooks.iter_mut().enumerate() {
            let outcome = hook.bring(which, self.cgroup.as_deref(), pins, programs);
            hook.why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        }
    }

    fn losses(&self, pins: &Pins, programs: &Loaded) -> Vec<Loss> {
        let lost = |(which, hook): (usize, &Connect)| {
            let state = hook.state(which, pins, programs);
            (state != LayerState::InForce).then(|| Loss::new(HOOKS[which].0, state.code()).because(&hook.why))
        };
        self.hooks.iter().enumerate().filter_map(lost).collect()
    }
}

impl Connect {
    fn bring(
        &mut self,
        which: usize,
        cgroup: Option<&Path>,
        pins: &Pins,
        programs: &Loaded,
    ) -> Result<(), EnforcerError> {
        if self.state(which, pins, programs) == LayerState::InForce {
            return Ok(());
        }
        let (pin, attach_type) = HOOKS[which];
        let program = programs.get()?.marking_fd(which)?;
        let target = place::cgroup(cgroup, attach_type)?;
        let failed = |e: &io::Error| {
            let advice = "posternd tries again twice a second; until then the host's own UDP sockets on protected ports need a grant";
            EnforcerError::kernel(format!("attach the hook {pin}"), e, advice)
        };
        let link = match self.link.take().filter(|link| link.is_at(target.place)) {
            Some(link) if link.update(program).is_ok() => link,
            _ => match Link::adopt(pins, pin) {
                Ok(link) if link.is_at(target.place) && link.update(program).is_ok() => link,
                _ => Link::create(attachment(which, &target), program).map_err(|e| failed(&e))?,
            },
        };
        let pinned = link.pin(pins, attachment(which, &target));
        self.link = Some(link);
        self.target = Some(target);
        pinned.map_err(|e| failed(&e))
    }

    fn state(&self, which: usize, pins: &Pins, programs: &Loaded) -> LayerState {
        let (Some(link), Some(target)) = (&self.link, &self.target) else { return LayerState::Detached };
        let program = programs.get().ok().and_then(|programs| programs.marking_id(which));
        link.state(pins, attachment(which, target), program)
    }
}

fn attachment(which: usize, target: &Target) -> Attachment<'static> {
    let (pin, attach_type) = HOOKS[which];
    Attachment { pin, place: target.place, target: target.number(), attach_type, flags: 0 }
}

impl Ebpf {
    pub(super) fn marked_sockets(&self) -> io::Result<OwnSockets> {
        let (Ok(programs), Some(marks)) = (self.programs.get(), self.programs.marks()) else {
            return Ok(OwnSockets::default());
        };
        let program = programs.listing_fd().map_err(io::Error::other)?;
        Ok(marks.list(program)?.iter().map(socket).collect())
    }

    /// Brings the hooks and pins that mark the host's own sockets into force, or repairs them. [`Self::own_losses`] shows failures.
    pub(super) fn bring_own(&mut self) {
        if let Some(marks) = self.programs.marks() {
            let failed = marks.pin(&self.pins).err();
            self.marks_unpinned = failed.map(|error| error.to_string()).unwrap_or_default();
            self.connects.bring(&self.pins, &self.programs);
        }
    }

    /// The parts that do not mark the host's own sockets now, or will not after the end of this process.
    pub(super) fn own_losses(&self) -> Vec<Loss> {
        let Ok(programs) = self.programs.get() else { return Vec::new() };
        let Some(marks) = self.programs.marks() else {
            return vec![Loss::new(MARKS, "missing").because(self.programs.without_marks())];
        };
        let mut losses = Vec::new();
        if marks.unpinned(&self.pins).next().is_some() {
            losses.push(Loss::new(MARKS, "unpinned").because(&self.marks_unpinned));
        }
        if marks.is_full() {
            losses.push(Loss::new(MARKS, "full"));
        }
        if !programs.marks_streams() {
            losses.push(Loss::new(MARKS, "partial"));
        }
        losses.extend(self.connects.losses(&self.pins, &self.programs));
        losses
    }
}

/// Whether a part only marks the host's own sockets, and so closes nothing.
pub(super) fn is_marking(part: &str) -> bool {
    part == MARKS || HOOKS.iter().any(|(name, _)| *name == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_core::key::Address;

    #[test]
    fn an_own_socket_is_known_by_its_cookie_and_its_peer() {
        let v6: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
        let values = [
            OwnValue { peer: Address::v4([192, 0, 2, 7]), cookie: 1 },
            OwnValue { peer: Address::v6(v6.octets()), cookie: 2 },
        ];
        let own: OwnSockets = values.iter().map(socket).collect();
        assert!(own.contains(1, "192.0.2.7".parse().unwrap()) && own.contains(2, v6.into()));
        assert!(!own.contains(1, v6.into()) && !own.contains(3, v6.into()));
        assert!(is_marking("connect4") && is_marking(MARKS) && !is_marking("lock"));
    }
}
