//! Another kernel than this machine's: a virtual machine in QEMU's emulator, for what a namespace cannot show.
//!
//! Kernel and modules are Debian's, unpacked by `cargo xtask setup`; the root is an archive in memory with the programs of
//! this build and the few of this machine that they call. Nothing is installed into a disk image and nothing is fetched here.
//! The emulator is as slow as it is exact: KVM is never used, because it is rarely there and hangs guests where it is nested.
//!
//! The guest's own program ([`Guest`], `src/bin/guest`) tells over a serial port of its own what passed, and asks there for
//! what only the outside can do. The console is kept for when something fails.

mod image;
mod kernel;
mod machine;
mod qmp;
mod talk;

pub use image::Image;
pub use kernel::Kernel;
pub use machine::{Incoming, Machine};
pub use talk::{Guest, Outcome, Report};

/// A folder for images and snapshots. It goes with what this returns; what SIGKILL leaves, a later test sweeps away.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    crate::pins::directory()
}
