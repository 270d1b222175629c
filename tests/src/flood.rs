//! A flood of SYNs from a source that never has a grant, and what comes back.
//!
//! Owns the one figure that matters, SYN-ACKs from closed ports, and the proof that it would see them: among the flood go SYNs to a port
//! that is open to everybody, whose SYN-ACKs it counts beside. It never finishes a handshake.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::frame::{self, Ipv4, Ipv6, Tcp, flag, protocol};
use crate::net::{CLIENT_MAC, Net, PHANTOM, SERVER, SERVER_MAC};
use crate::service::Service;
use crate::until::{pause, until};
use crate::wire::Wire;

/// A port that Postern does not protect, with a service behind it.
pub const OPEN_PORT: u16 = 8080;
/// SYNs at a time, one burst a millisecond: a flood that leaves the processor to what is tested.
const BURST: u16 = 24;

/// What has been counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// SYNs sent to protected ports.
    pub sent: u64,
    /// SYN-ACKs from protected ports. Zero, or a promise is broken.
    pub leaked: u64,
    /// SYN-ACKs from the open port.
    pub open: u64,
}

#[derive(Debug, Default)]
struct Counters {
    stop: AtomicBool,
    sent: AtomicU64,
    leaked: AtomicU64,
    open: AtomicU64,
}

/// A running flood; ends when dropped.
#[derive(Debug)]
pub struct Flood {
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
    _open: Service,
}

impl Flood {
    /// Floods these protected TCP ports in both families until dropped, and proves first that an open port's answers are
    /// seen.
    ///
    /// # Panics
    /// Where no packet socket can be had, or the open port's answers do not come.
    #[must_use]
    pub fn start(net: &Net, ports: &[u16]) -> Self {
        let any = (IpAddr::from(Ipv4Addr::UNSPECIFIED), OPEN_PORT).into();
        let open = Service::tcp_echo(&net.server, any);
        let (counters, wire, ports) = (Arc::<Counters>::default(), net.client_wire(), ports.to_vec());
        let inner = Arc::clone(&counters);
        let thread = Some(thread::spawn(move || run(&wire, &ports, &inner)));
        let this = Self { counters, thread, _open: open };
        this.wait_for_more();
        this
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            sent: read(&self.counters.sent),
            leaked: read(&self.counters.leaked),
            open: read(&self.counters.open),
        }
    }

    /// Waits until SYNs that are sent from now on have been answered, had they been let in.
    ///
    /// # Panics
    /// Where the open port answers no more.
    pub fn wait_for_more(&self) {
        let before = self.counted().open;
        until("the open port answers", || self.counted().open >= before + 3);
    }

    /// Waits for the last answers and returns what was counted.
    ///
    /// # Panics
    /// Where a protected port has answered, or the flood has died.
    #[must_use]
    pub fn held(&self) -> Counted {
        self.wait_for_more();
        let counted = self.counted();
        assert_eq!(counted.leaked, 0, "SYN-ACKs to a source without a grant: {counted:?}");
        counted
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.counters.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _already_reported = thread.join();
        }
    }
}

fn run(wire: &Wire, ports: &[u16], counters: &Counters) {
    let mut source_port = 1024;
    while !counters.stop.load(Ordering::Relaxed) {
        for n in 0..BURST {
            let v6 = n % 2 == 1;
            wire.send(&syn(source_port, ports[usize::from(n / 2) % ports.len()], v6));
            source_port = if source_port == u16::MAX { 1024 } else { source_port + 1 };
        }
        wire.send(&syn(source_port, OPEN_PORT, false));
        counters.sent.fetch_add(u64::from(BURST), Ordering::Relaxed);
        let answers = wire.arrived().iter().filter_map(|frame| frame::read(frame)).collect::<Vec<_>>();
        for seen in answers.iter().filter(|seen| seen.is_syn_ack() && PHANTOM.both().contains(&seen.destination)) {
            let counter = if seen.source_port == OPEN_PORT { &counters.open } else { &counters.leaked };
            counter.fetch_add(1, Ordering::Relaxed);
            if seen.source_port == OPEN_PORT {
                // So that the open port's queue never fills.
                let reset = Tcp { flags: flag::RST, sequence: 0x1001, ..Tcp::syn(seen.destination_port, OPEN_PORT) };
                wire.send(&v4(&reset));
            }
        }
        pause(Duration::from_millis(1));
    }
}

fn syn(from: u16, to: u16, v6: bool) -> Vec<u8> {
    let tcp = Tcp::syn(from, to);
    if !v6 {
        return v4(&tcp);
    }
    let packet =
        Ipv6::new(PHANTOM.v6, SERVER.v6).packet(protocol::TCP, &tcp.segment(PHANTOM.v6.into(), SERVER.v6.into()));
    frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV6, &packet)
}

fn v4(tcp: &Tcp) -> Vec<u8> {
    let packet = Ipv4::new(PHANTOM.v4, SERVER.v4).packet(&tcp.segment(PHANTOM.v4.into(), SERVER.v4.into()));
    frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV4, &packet)
}
