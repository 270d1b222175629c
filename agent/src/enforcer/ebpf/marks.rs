//! The maps that outlive every run: sockets that the host itself connected (`OWN`), and known peers of UDP ports (`MET`).
//!
//! Owns the shape and the pins of these maps (docs/decisions/0051). It attaches nothing and never marks a socket.

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
    pin_store::{Pinned, Pins},
    shared, sys,
    sys_maps::{self as maps, MapShape},
};

const HASH: u32 = 1;
const SK_STORAGE: u32 = 24;
/// `BPF_F_NO_PREALLOC`: the kernel requires it for a socket storage. Without `BPF_F_CLONE` accepted sockets inherit no mark.
const NO_PREALLOC: u32 = 1;

const OWN: MapShape =
    MapShape { kind: SK_STORAGE, key: 4, value: size_of::<OwnValue>() as u32, entries: 0, flags: NO_PREALLOC };
const MET: MapShape = MapShape { kind: HASH, key: size_of::<GrantKey>() as u32, value: 1, entries: MOST_MET, flags: 0 };

pub struct Marks {
    own: OwnedFd,
    met: OwnedFd,
}

impl Marks {
    /// Takes over the pinned maps, and makes the missing ones. It pins nothing.
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

    /// Pins the maps that are not pinned. If that fails, the next run does not recognise the host's present connections.
    pub fn pin(&self, pins: &Pins) -> io::Result<()> {
        let unpinned = self.all().into_iter().filter(|(name, map)| !is_pinned(pins, name, *map));
        for (name, map) in unpinned {
            pins.pin(name, map)?;
        }
        Ok(())
    }

    pub fn unpinned(&self, pins: &Pins) -> impl Iterator<Item = &'static str> {
        self.all().into_iter().filter(|(name, map)| !is_pinned(pins, name, *map)).map(|(name, _)| name)
    }

    /// Whether the map of known peers was full, so that the programs mark no more UDP sockets. A missing entry counts as full too.
    pub fn is_full(&self) -> bool {
        !maps::get_byte(self.met.as_fd(), &shared::key_bytes(&nobody())).is_ok_and(|full| full == 0)
    }

    /// Puts these maps in place of those in `ebpf`. This must precede the load of a program: the kernel reads the descriptors then.
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

    /// The marks of all open sockets, in every network namespace that used this map. `program` writes them.
    pub fn list(&self, program: BorrowedFd<'_>) -> io::Result<Vec<OwnValue>> {
        let link = maps::create_map_iter_link(program, self.own.as_fd())?;
        let mut bytes = Vec::new();
        File::from(sys::create_iter(link.as_fd())?).read_to_end(&mut bytes)?;
        Ok(shared::own_values(&bytes))
    }
}

fn pinned(pins: &Pins, name: &str, shape: MapShape) -> io::Result<Option<OwnedFd>> {
    match pins.find(name)? {
        Pinned::Map(map) if maps::map_info(map.as_fd())?.shape == shape => Ok(Some(map)),
        Pinned::Absent => Ok(None),
        Pinned::Map(_) | Pinned::Link(_) | Pinned::Foreign(_) => {
            tracing::warn!(name, "an object that is not Postern's map is pinned under this name; posternd replaces it");
            Ok(None)
        }
    }
}

fn is_pinned(pins: &Pins, name: &str, map: BorrowedFd<'_>) -> bool {
    let id = |map: BorrowedFd<'_>| maps::map_info(map).map(|info| info.id);
    match pins.find(name) {
        Ok(Pinned::Map(found)) => id(found.as_fd()).is_ok_and(|found| id(map).is_ok_and(|own| own == found)),
        // This process has no free descriptor to read the pin.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => true,
        _ => false,
    }
}
