//! A relay between client and host that copies bytes: the host sees the relay's address.
//!
//! Owns its sockets and threads. It never reads or changes what it copies.

use crate::netns::Netns;
use crate::probe::LONG_PATIENCE;
use crate::sys;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// How often an idle relay looks whether it is to end, in milliseconds.
const TURN: u64 = 20;

/// A running relay; it takes no more connections when dropped.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens on `address` in `namespace`, and copies each connection to `host` over one of its own.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn start(namespace: &Netns, address: SocketAddr, host: SocketAddr) -> Self {
        let listener = namespace.run(|| TcpListener::bind(address)).expect("a listening socket");
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (namespace, stopping, counted) = (namespace.clone(), Arc::clone(&stop), Arc::clone(&served));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                if !sys::wait_readable(listener.as_fd(), TURN).expect("to wait") {
                    continue;
                }
                let Ok((client, _)) = listener.accept() else { continue };
                let onward = namespace.run(|| TcpStream::connect_timeout(&host, LONG_PATIENCE));
                if let Ok(onward) = onward {
                    counted.fetch_add(1, Ordering::Relaxed);
                    copy_both(client, onward);
                }
            }
        });
        Self { stop, served, thread: Some(thread) }
    }

    /// How many connections it has passed on.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies both ways, in a thread each, until both sides have ended.
fn copy_both(client: TcpStream, host: TcpStream) {
    for (from, to) in [(client.try_clone(), host.try_clone()), (Ok(host), Ok(client))] {
        let (Ok(mut from), Ok(mut to)) = (from, to) else { return };
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
