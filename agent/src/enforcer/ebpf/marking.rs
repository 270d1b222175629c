//! The programs that mark the host's own UDP sockets, and the program that lists marks.
//!
//! Owns loading them. They open and close nothing, so no layer depends on them.

use std::os::fd::{AsFd, BorrowedFd};

use aya::{Btf, Ebpf, programs::Program};

use super::{
    btf::Offsets,
    programs::{ADVICE_LOAD, Programs, Variant, missing},
};
use crate::enforcer::error::{self, EnforcerError};

/// The marking programs for IPv4 and IPv6, and the listing program.
pub(super) const MARKING: [&str; 3] = ["note_connect4", "note_connect6", "own_sockets"];
const LISTING: usize = 2;

/// Loads all of [`MARKING`]. Returns the reason of a failure in words.
pub(super) fn load_marking(ebpf: &mut Ebpf) -> Option<String> {
    let mut load = |name: &str| -> Result<(), String> {
        let program = ebpf.program_mut(name).ok_or_else(|| missing(name).to_string())?;
        let loaded = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::Iter(program) => {
                let btf = Btf::from_sys_fs().map_err(|e| error::chain(&e))?;
                program.load("bpf_sk_storage_map", &btf)
            }
            _ => return Err(missing(name).to_string()),
        };
        loaded.map_err(|e| error::chain(&e))
    };
    MARKING.iter().find_map(|name| load(name).err())
}

/// Whether a TCP socket's state shows that the host opens a connection. It does not if the socket may be an MPTCP subflow of a peer's
/// connection, and this variant does not show that.
pub(super) fn shows_direction(variant: Variant, offsets: Offsets) -> bool {
    !offsets.mptcp || variant.subflows && offsets.server_side.is_some()
}

impl Programs {
    /// Whether the cut recognises the TCP connections that the host itself opened.
    #[must_use]
    pub const fn marks_streams(&self) -> bool {
        self.marks_streams
    }

    /// The descriptor of one of [`MARKING`], or the reason why the kernel refused the programs.
    pub(super) fn marking_fd(&self, which: usize) -> Result<BorrowedFd<'_>, EnforcerError> {
        if let Some(why) = &self.marking_refused {
            let what = "load the programs that mark the host's own sockets".to_owned();
            return Err(EnforcerError::Kernel { what, cause: why.clone(), advice: ADVICE_LOAD });
        }
        let name = MARKING[which];
        let fd = self.ebpf.program(name).ok_or_else(|| missing(name))?.fd();
        fd.map(AsFd::as_fd).map_err(|e| EnforcerError::kernel(format!("use {name}"), &e, ADVICE_LOAD))
    }

    pub(super) fn marking_id(&self, which: usize) -> Option<u32> {
        self.ebpf.program(MARKING[which])?.info().ok().map(|info| info.id())
    }

    pub(super) fn listing_fd(&self) -> Result<BorrowedFd<'_>, EnforcerError> {
        self.marking_fd(LISTING)
    }
}
