//! The sheds: one XDP link for each uplink.
//!
//! Owns the fall-back native → generic → off and its reasons. Which interfaces get one is not decided here.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::{
    kept::Pins,
    links::{Attachment, LayerState, Link},
    pins::Pinned,
    sys::{self, Place},
};

// XDP_FLAGS_…, include/uapi/linux/if_link.h
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// How a shed is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedMode {
    /// In the driver.
    Native,
    /// Before the stack, after the driver has made an skb: works everywhere, saves less.
    Generic,
    /// Not attached; lock and cut hold without it.
    Off,
}

impl ShedMode {
    /// A stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Native => NATIVE,
            Self::Generic | Self::Off => GENERIC,
        }
    }
}

/// What became of one interface's shed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShedStatus {
    /// The interface's index.
    pub ifindex: u32,
    /// Its name when the shed was attached; empty for one adopted from an earlier run.
    pub name: String,
    /// The mode.
    pub mode: ShedMode,
    /// Why not a better one; empty for native.
    pub reason: String,
    /// What the kernel says about it; `None` when off.
    pub state: Option<LayerState>,
}

struct Shed {
    /// `None` while somebody has taken it away and it cannot be brought back.
    link: Option<Link>,
    status: ShedStatus,
}

/// All sheds of this host.
#[derive(Default)]
pub struct Sheds {
    by_index: BTreeMap<u32, Shed>,
}

impl Sheds {
    /// Takes over what is pinned: gives each the new program, for the old one looks at maps that nobody writes any more. Pins
    /// of devices that are gone are removed, and so are sheds that do not take the program: a shed only saves work.
    pub fn adopt(pins: &Pins, program: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let mut sheds = Self::default();
        for name in pins.names()? {
            let Some((ifindex, mode)) = parse_pin(&name) else {
                continue;
            };
            let ours = matches!(pins.find(&name), Ok(Pinned::Link(fd)) if is_ours(pins, fd.as_fd(), ifindex));
            let held =
                program.filter(|_| ours).map(|program| Link::hold(pins, attachment(&name, ifindex, mode), program));
            let Some(Ok(link)) = held else {
                pins.remove(&name)?;
                continue;
            };
            let reason = if mode == ShedMode::Native { String::new() } else { "as in the run before".to_owned() };
            let status = ShedStatus { ifindex, name: String::new(), mode, reason, state: None };
            sheds.by_index.insert(ifindex, Shed { link: Some(link), status });
        }
        Ok(sheds)
    }

    /// Attaches a shed to the interface, or says why there is none. Doing it again changes nothing.
    pub fn attach(&mut self, pins: &Pins, program: BorrowedFd<'_>, ifindex: u32, name: &str) -> ShedStatus {
        if let Some(Shed { link: Some(link), status }) = self.by_index.get_mut(&ifindex) {
            let pin = pin_name(ifindex, status.mode);
            if link.is_at(Place::Device(ifindex.into())) {
                name.clone_into(&mut status.name);
                if link.heal(pins, attachment(&pin, ifindex, status.mode), program).is_ok() {
                    return status.clone();
                }
            }
            self.detach(pins, ifindex);
        }
        let mut reason = String::new();
        for mode in [ShedMode::Native, ShedMode::Generic] {
            let pin = pin_name(ifindex, mode);
            match Link::hold(pins, attachment(&pin, ifindex, mode), program) {
                Ok(link) => {
                    let status = ShedStatus { ifindex, name: name.to_owned(), mode, reason, state: None };
                    self.by_index.insert(ifindex, Shed { link: Some(link), status: status.clone() });
                    return status;
                }
                Err(error) => add_reason(&mut reason, mode, &error),
            }
        }
        ShedStatus { ifindex, name: name.to_owned(), mode: ShedMode::Off, reason, state: None }
    }

    /// Brings back what [`Self::status`] shows as lost. What cannot be is tried again at the next call.
    pub fn heal(&mut self, pins: &Pins, program: BorrowedFd<'_>, id: Option<u32>) {
        let lost = self.status(pins, id).into_iter().filter(|s| s.state != Some(LayerState::InForce));
        for ShedStatus { ifindex, name, .. } in lost.collect::<Vec<_>>() {
            let status = self.attach(pins, program, ifindex, &name);
            if status.mode == ShedMode::Off {
                self.by_index.insert(ifindex, Shed { link: None, status });
            }
        }
    }

    /// Takes the interface's shed away.
    pub fn detach(&mut self, pins: &Pins, ifindex: u32) {
        self.by_index.remove(&ifindex);
        for mode in [ShedMode::Native, ShedMode::Generic] {
            // A pin that cannot be removed shows in the next status.
            let _ = pins.remove(&pin_name(ifindex, mode));
        }
    }

    /// All that are attached or should be, as the kernel sees them now. Those of devices that are gone are left out.
    pub fn status(&self, pins: &Pins, program: Option<u32>) -> Vec<ShedStatus> {
        let state = |ifindex: u32, Shed { link, status }: &Shed| {
            let pin = pin_name(ifindex, status.mode);
            let told = link.as_ref().map(|l| l.state(pins, attachment(&pin, ifindex, status.mode), program));
            told.unwrap_or(LayerState::Detached)
        };
        let statuses = self.by_index.iter();
        let statuses = statuses.map(|(&i, shed)| ShedStatus { state: Some(state(i, shed)), ..shed.status.clone() });
        statuses.filter(|s| s.state == Some(LayerState::InForce) || sys::has_interface(s.ifindex)).collect()
    }
}

/// Whether the link is at the device and runs a program of ours.
fn is_ours(pins: &Pins, link: BorrowedFd<'_>, ifindex: u32) -> bool {
    sys::link_info(link).is_ok_and(|info| info.place == Place::Device(ifindex.into()))
        && sys::program_tag(link).is_ok_and(|tag| pins.knows(&tag))
}

fn add_reason(reason: &mut String, mode: ShedMode, error: &io::Error) {
    let words = match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached there and is left alone".to_owned(),
        Some(libc::EOPNOTSUPP) => "the driver does not know XDP".to_owned(),
        _ => error.to_string(),
    };
    if !reason.is_empty() {
        reason.push_str("; ");
    }
    reason.push_str(&format!("{}: {words}", mode.code()));
}

fn attachment(pin: &str, ifindex: u32, mode: ShedMode) -> Attachment<'_> {
    let place = Place::Device(ifindex.into());
    Attachment { pin, place, target: ifindex, attach_type: sys::ATTACH_XDP, flags: mode.flags() }
}

fn pin_name(ifindex: u32, mode: ShedMode) -> String {
    format!("shed-{ifindex}-{}", mode.code())
}

fn parse_pin(name: &str) -> Option<(u32, ShedMode)> {
    let (ifindex, mode) = name.strip_prefix("shed-")?.split_once('-')?;
    let modes = [ShedMode::Native, ShedMode::Generic];
    Some((ifindex.parse().ok()?, modes.into_iter().find(|m| m.code() == mode)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_come_back() {
        for mode in [ShedMode::Native, ShedMode::Generic] {
            assert_eq!(parse_pin(&pin_name(7, mode)), Some((7, mode)));
        }
        assert_eq!(parse_pin("shed-7-off"), None);
        assert_eq!(parse_pin("lock"), None);
    }
}
