//! When packets arrived, by the clock that grants run on.
//!
//! Owns sockets whose reads carry the kernel's receive time. It never trusts the scheduler: the time is taken when the packet
//! is queued, not when a test gets to read it.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use crate::netns::Netns;

/// `CLOCK_BOOTTIME` in nanoseconds.
///
/// # Panics
/// Where the kernel has no such clock.
#[must_use]
pub fn boot_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the boot clock"))
}

fn nanoseconds(time: TimeSpec) -> u64 {
    let time = Duration::from(time);
    u64::try_from(time.as_nanos()).expect("a clock within 500 years")
}

/// Sets the wall clock by so many seconds forwards, or backwards. Only for machines of the test alone.
///
/// # Panics
/// Where the kernel refuses.
pub fn step(seconds: i64) {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("the wall clock");
    let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, then).expect("to set the wall clock");
}

/// Tells the kernel that the wall clock is right, as a daemon does that keeps it so. The kernel takes that as true until the clock is set.
///
/// # Panics
/// Where the kernel refuses.
pub fn say_synchronised() {
    crate::sys::say_synchronised().expect("adjtimex");
}

/// Datagrams with the time of their arrival.
#[derive(Debug)]
pub struct Arrivals {
    socket: UdpSocket,
}

impl Arrivals {
    /// A socket on `from` that talks to `to` alone.
    ///
    /// # Panics
    /// Where the namespace does not have the address.
    #[must_use]
    pub fn new(namespace: &Netns, from: SocketAddr, to: SocketAddr) -> Self {
        let socket = namespace.run(|| UdpSocket::bind(from)).expect("a socket");
        socket.connect(to).expect("to connect");
        setsockopt(&socket, ReceiveTimestampns, &true).expect("SO_TIMESTAMPNS");
        Self { socket }
    }

    /// Sends one datagram.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).expect("to send");
    }

    /// When the next datagram arrived, on the boot clock; `None` when none does within `patience`.
    ///
    /// # Panics
    /// On errors that say nothing about the other side.
    #[must_use]
    pub fn next(&self, patience: Duration) -> Option<u64> {
        self.socket.set_read_timeout(Some(patience)).expect("a time-out");
        match receive(self.socket.as_raw_fd()) {
            Ok((_, at)) => at,
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => None,
            // An ICMP port unreachable: the other side is closed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
            Err(error) => panic!("a socket that says nothing: {error}"),
        }
    }
}

/// A connection that says when what is read from it arrived.
#[derive(Debug)]
pub struct StampedStream {
    stream: TcpStream,
}

impl StampedStream {
    /// # Panics
    /// Where the kernel has no receive times.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        setsockopt(&stream, ReceiveTimestampns, &true).expect("SO_TIMESTAMPNS");
        Self { stream }
    }

    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads up to 64 bytes: how many, and when the last of them arrived, on the boot clock.
    ///
    /// # Errors
    /// As `recvmsg(2)`.
    pub fn read(&self) -> io::Result<(usize, Option<u64>)> {
        receive(self.stream.as_raw_fd())
    }
}

/// What to add to the wall clock to get the boot clock, now: another program may be slewing the wall clock. The boot clock is read first, so each
/// attempt falls short by the time between the two, and the largest is the best: what is said to have arrived after a moment did.
fn boot_less_wall() -> i128 {
    let attempt = |_| {
        let boot = i128::from(boot_ns());
        boot - i128::from(nanoseconds(clock_gettime(ClockId::CLOCK_REALTIME).expect("the wall clock")))
    };
    (0..8).map(attempt).max().unwrap_or_default()
}

/// One read: how much, and when it arrived, on the boot clock.
fn receive(fd: RawFd) -> io::Result<(usize, Option<u64>)> {
    let (mut bytes, mut control) = ([0; 64], nix::cmsg_space!(TimeSpec));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let at = message.cmsgs()?.find_map(|c| match c {
        ControlMessageOwned::ScmTimestampns(at) => u64::try_from(i128::from(nanoseconds(at)) + boot_less_wall()).ok(),
        _ => None,
    });
    Ok((message.bytes, at))
}
