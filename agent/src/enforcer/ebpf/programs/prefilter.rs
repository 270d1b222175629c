//! The prefilter's part of the programs: the count of refused connections, and the program for TCX.
//!
//! Owns access to these maps. It attaches nothing.

use std::{net::SocketAddr, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::MapError,
    programs::{ProgramFd, SchedClassifier},
};
use postern_core::{key::RefusedAt, verdict::Hook};

use super::{ADVICE_LOAD, EnforcerError, Programs, Shared, address, error, missing, sys};

const TCX: &str = "prefilter_tcx";

/// Loads the program. The error is the reason in words.
pub(super) fn load_tcx(ebpf: &mut Ebpf) -> Result<(), String> {
    let program = ebpf.program_mut(TCX).ok_or_else(|| missing(TCX).to_string())?;
    <&mut SchedClassifier>::try_from(program).and_then(|p| p.load()).map_err(|e| error::chain(&e))
}

impl Programs {
    /// The number of new TCP connections that the lock, the cut and the prefilter have refused since the start.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        let pressure =
            self.pressure.get(&0, 0).map_or(0, |parts| parts.iter().fold(0u64, |sum, n| sum.wrapping_add(*n)));
        let counters = self.counters();
        let xdp = counters.into_iter().filter(|(hook, fate, _)| *hook == Hook::Prefilter && !fate.passes());
        xdp.fold(pressure, |sum, (.., count)| sum.wrapping_add(count))
    }

    /// Records a refusal as the lock does, at `boot_ns`. A test run of the lock can record one only for the device with index 1.
    ///
    /// # Errors
    /// Fails if the kernel refuses the write.
    pub fn note_refusal(&mut self, at: SocketAddr, ifindex: u32, boot_ns: u64) -> Result<(), EnforcerError> {
        let key = RefusedAt::new(address(at.ip()), at.port(), ifindex);
        let failed = |e: MapError| EnforcerError::kernel("note a refusal", &e, "see the kernel's message");
        self.refused_at.insert(Shared(key), boot_ns, 0).map_err(failed)
    }

    /// The descriptor of the program for TCX, or the reason why the kernel refused the program.
    pub(in crate::enforcer) fn tcx(&self) -> Result<&ProgramFd, EnforcerError> {
        if let Some(why) = &self.tcx_refused {
            let what = format!("load the program {TCX}");
            return Err(EnforcerError::Kernel { what, cause: why.clone(), advice: ADVICE_LOAD });
        }
        let program = self.ebpf.program(TCX).ok_or_else(|| missing(TCX))?;
        program.fd().map_err(|e| EnforcerError::kernel(format!("use program {TCX}"), &e, ADVICE_LOAD))
    }

    /// Runs the program for TCX once on `packet`, as [`Self::test_run`] does.
    ///
    /// # Errors
    /// Fails as [`Self::test_run`] does.
    pub fn test_run_tcx(&self, packet: &[u8]) -> Result<u32, EnforcerError> {
        let result = sys::test_run(self.tcx()?.as_fd(), packet, &[]);
        result.map_err(|e| EnforcerError::kernel(format!("run {TCX}"), &e, "see the kernel's message"))
    }
}
