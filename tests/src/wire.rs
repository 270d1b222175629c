//! One end of a wire: sends frames as they are and sees what arrives.
//!
//! Never interprets more of a frame than a test asks for.

use crate::sys;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens the interface of the calling thread's namespace (see [`crate::netns::Netns::run`]).
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = sys::packet_socket(sys::interface_index(interface)?)?;
        // A whole corpus's answers at once.
        socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
        Ok(Self { socket })
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// Where the kernel does not take it, for example because it is longer than the MTU.
    pub fn send(&self, frame: &[u8]) {
        sys::send_frame(self.socket.as_fd(), frame)
            .unwrap_or_else(|error| panic!("a frame of {} bytes: {error}", frame.len()));
    }

    /// Every frame that has arrived and was not read yet.
    #[must_use]
    pub fn arrived(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Every frame that arrives from now until `quiet` has passed without one, or `most` in all.
    #[must_use]
    pub fn collect(&self, quiet: Duration, most: Duration) -> Vec<Vec<u8>> {
        let end = Instant::now() + most;
        let mut frames = self.arrived();
        while Instant::now() < end && self.wait(quiet) {
            frames.extend(self.arrived());
        }
        frames
    }

    /// The first frame from now for which `wanted` gives something; `None` when `deadline` passes without one.
    pub fn find<T>(&self, deadline: Duration, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        loop {
            while let Some(frame) = self.next() {
                if let Some(found) = wanted(&frame) {
                    return Some(found);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left) {
                return None;
            }
        }
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let length = sys::receive_frame(self.socket.as_fd(), &mut buffer).expect("to read the wire")?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn wait(&self, time: Duration) -> bool {
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        sys::wait_readable(self.socket.as_fd(), milliseconds).expect("to wait for the wire")
    }
}

/// A TUN device from its far side: what is written here, the namespace's stack receives.
#[derive(Debug)]
pub struct Tun {
    device: OwnedFd,
}

impl Tun {
    /// Makes the device in the calling thread's namespace (see [`crate::netns::Netns::run`]); it still has to be set up.
    ///
    /// # Errors
    /// Where the kernel has no TUN.
    pub fn new(name: &str) -> io::Result<Self> {
        sys::tun(name).map(|device| Self { device })
    }

    /// Sends one IP packet to the namespace.
    ///
    /// # Panics
    /// Where the device is down.
    pub fn send(&self, packet: &[u8]) {
        sys::write(self.device.as_fd(), packet).expect("the device is up");
    }

    /// The first IP packet from the namespace for which `wanted` gives something; `None` when `deadline` passes.
    pub fn find<T>(&self, deadline: Duration, mut wanted: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + deadline;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = u64::try_from(end.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
            if left == 0 || !sys::wait_readable(self.device.as_fd(), left).expect("to wait for the device") {
                return None;
            }
            let length = sys::read(self.device.as_fd(), &mut buffer).expect("to read the device");
            if let Some(found) = wanted(&buffer[..length]) {
                return Some(found);
            }
        }
    }
}
