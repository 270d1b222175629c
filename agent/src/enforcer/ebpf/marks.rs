//! The maps that outlive every run: which sockets the host itself connected, and who was met on UDP ports.
//!
//! Owns `OWN` and `MET`, their shape and their pins (docs/decisions/0051). Every other map is fresh at each start. It attaches
//! nothing, and it never marks a socket.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{Ebpf, maps::Map};
use postern_core::{
    key::GrantKey,
    own::{MOST_MET, OwnValue, nobody},
};

use super::{
    pin_store::Pins,
    pins::Pinned,
    shared, sys,
    sys_maps::{self as maps, MapShape},
};

/// `BPF_MAP_TYPE_HASH`
const HASH: u32 = 1;
/// `BPF_MAP_TYPE_SK_STORAGE`
const SK_STORAGE: u32 = 24;
/// `BPF_F_NO_PREALLOC`, which the kernel wants of a socket storage. Without `BPF_F_CLONE`: what a listener accepts has no mark.
const NO_PREALLOC: u32 = 1;

const OWN: MapShape =
    MapShape { kind: SK_STORAGE, key: 4, value: size_of::<OwnValue>() as u32, entries: 0, flags: NO_PREALLOC };
const MET: MapShape = MapShape { kind: HASH, key: size_of::<GrantKey>() as u32, value: 1, entries: MOST_MET, flags: 0 };

/// The two maps.
pub struct Marks {
    own: OwnedFd,
    met: OwnedFd,
}

impl Marks {
    /// Takes over what is pinned, or makes what is not. Nothing is pinned by this.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn find_or_make(pins: &Pins) -> io::Result<Self> {
        let own = match pinned(pins, "map-own", OWN)? {
            Some(own) => own,
            None => maps::make_socket_storage(c"postern_own", OWN)?,
        };
        let met = match pinned(pins, "map-met", MET)? {
            Some(met) => met,
            None => {
                let met = maps::make_map(c"postern_met", MET)?;
                maps::put_zero(met.as_fd(), &shared::key_bytes(&nobody()))?;
                met
            }
        };
        Ok(Self { own, met })
    }

    fn all(&self) -> [(&'static str, BorrowedFd<'_>); 2] {
        [("map-own", self.own.as_fd()), ("map-met", self.met.as_fd())]
    }

    /// Pins what is not pinned yet.
    ///
    /// # Errors
    /// What could not be pinned: then the next run knows of no connection that the host has now.
    pub fn pin(&self, pins: &Pins) -> io::Result<()> {
        let unpinned = self.all().into_iter().filter(|(name, map)| !is_pinned(pins, name, *map));
        for (name, map) in unpinned {
            pins.pin(name, map)?;
        }
        Ok(())
    }

    /// The pins that are missing, or that are of something else.
    pub fn unpinned(&self, pins: &Pins) -> impl Iterator<Item = &'static str> {
        self.all().into_iter().filter(|(name, map)| !is_pinned(pins, name, *map)).map(|(name, _)| name)
    }

    /// Whether there was no room to note somebody who was met: then no further UDP socket is marked. The programs take a missing
    /// entry for a full map, too.
    pub fn is_full(&self) -> bool {
        !maps::get_byte(self.met.as_fd(), &shared::key_bytes(&nobody())).is_ok_and(|full| full == 0)
    }

    /// Puts the two in the place of the maps that `ebpf` has for them. To be done before a program is loaded: the kernel looks
    /// at the descriptors then.
    ///
    /// # Errors
    /// `ebpf` has no such maps.
    pub fn put_into(&self, ebpf: &mut Ebpf) -> io::Result<()> {
        for (name, map) in [("OWN", &self.own), ("MET", &self.met)] {
            let Some(Map::HashMap(placeholder)) = ebpf.map(name) else {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("the embedded object holds no map {name}"),
                ));
            };
            maps::put_in_place(placeholder.fd().as_fd(), map.as_fd())?;
        }
        Ok(())
    }

    /// The marks of all sockets that are open, in every network namespace that this map was used in. `program` writes them.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn list(&self, program: BorrowedFd<'_>) -> io::Result<Vec<OwnValue>> {
        let link = maps::create_map_iter_link(program, self.own.as_fd())?;
        let mut bytes = Vec::new();
        File::from(sys::create_iter(link.as_fd())?).read_to_end(&mut bytes)?;
        Ok(shared::own_values(&bytes))
    }
}

/// The map of this shape under `name`, if there is one.
fn pinned(pins: &Pins, name: &str, shape: MapShape) -> io::Result<Option<OwnedFd>> {
    match pins.find(name)? {
        Pinned::Map(map) if maps::map_info(map.as_fd())?.shape == shape => Ok(Some(map)),
        Pinned::Absent => Ok(None),
        Pinned::Map(_) | Pinned::Link(_) | Pinned::Foreign(_) => {
            tracing::warn!(name, "what is pinned under our name is no map of ours; it is replaced");
            Ok(None)
        }
    }
}

fn is_pinned(pins: &Pins, name: &str, map: BorrowedFd<'_>) -> bool {
    let id = |map: BorrowedFd<'_>| maps::map_info(map).map(|info| info.id);
    match pins.find(name) {
        Ok(Pinned::Map(found)) => id(found.as_fd()).is_ok_and(|found| id(map).is_ok_and(|own| own == found)),
        // Nothing was seen of the pin, for want of a file descriptor.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => true,
        _ => false,
    }
}
