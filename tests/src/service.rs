//! Services for probes to meet: real sockets in a namespace, served by a thread until dropped.
//!
//! Never uses Postern: a service answers each client that reaches it.

use crate::netns::Netns;
use crate::sys;
use crate::until::pause;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often an idle service looks whether it is to end.
const TURN: Duration = Duration::from_millis(20);

/// A running service; ends when dropped.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Accepts connections and sends back what each sends. `[::]` takes IPv4 too.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn tcp_echo(namespace: &Netns, address: SocketAddr) -> Self {
        Self::tcp(namespace, address, echo)
    }

    /// As [`Service::tcp_echo`], bound to a device (`SO_BINDTODEVICE`).
    ///
    /// # Panics
    /// Where the address or the device cannot be had.
    #[must_use]
    pub fn tcp_echo_on(namespace: &Netns, address: SocketAddr, device: &str) -> Self {
        let socket = namespace.run(|| bound(address, Type::STREAM, Protocol::TCP)).expect("a listening socket");
        socket.bind_device(Some(device.as_bytes())).expect("a device");
        Self::listening(socket, echo)
    }

    /// Accepts connections and keeps writing to each, a few bytes every millisecond, whatever the other side does.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn tcp_chatter(namespace: &Netns, address: SocketAddr) -> Self {
        Self::tcp(namespace, address, chatter)
    }

    /// As [`Service::tcp_echo`], with MPTCP for those who want it.
    ///
    /// # Panics
    /// Where the address cannot be had, or the kernel has no MPTCP.
    #[must_use]
    pub fn mptcp_echo(namespace: &Netns, address: SocketAddr) -> Self {
        let socket = namespace.run(|| bound(address, Type::STREAM, Protocol::MPTCP)).expect("a listening socket");
        Self::listening(socket, echo)
    }

    /// As [`Service::tcp_chatter`], with MPTCP for those who want it.
    ///
    /// # Panics
    /// Where the address cannot be had, or the kernel has no MPTCP.
    #[must_use]
    pub fn mptcp_chatter(namespace: &Netns, address: SocketAddr) -> Self {
        let socket = namespace.run(|| bound(address, Type::STREAM, Protocol::MPTCP)).expect("a listening socket");
        Self::listening(socket, chatter)
    }

    /// As [`Service::tcp_echo`], on a socket that `tproxy` may give packets to.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn tcp_transparent(namespace: &Netns, address: SocketAddr) -> Self {
        let socket = namespace.run(|| bound(address, Type::STREAM, Protocol::TCP)).expect("a listening socket");
        // For IPv6 too: the kernel keeps one flag for both.
        socket.set_ip_transparent_v4(true).expect("to be transparent");
        Self::listening(socket, echo)
    }

    fn tcp(namespace: &Netns, address: SocketAddr, serve: fn(TcpStream, &AtomicBool)) -> Self {
        let socket = namespace.run(|| bound(address, Type::STREAM, Protocol::TCP)).expect("a listening socket");
        Self::listening(socket, serve)
    }

    fn listening(socket: Socket, serve: fn(TcpStream, &AtomicBool)) -> Self {
        socket.listen(1024).expect("to listen");
        // MPTCP's accept knows no time-out, so wait outside of it.
        socket.set_nonblocking(true).expect("not to block");
        let listener = TcpListener::from(socket);
        Self::start(move |stop, served| {
            while !stop.load(Ordering::Relaxed) {
                let ready = sys::wait_readable(listener.as_fd(), TURN.as_millis() as u64).expect("to wait");
                if let Some((stream, _)) = ready.then(|| listener.accept().ok()).flatten() {
                    served.fetch_add(1, Ordering::Relaxed);
                    let stop = Arc::clone(&stop);
                    thread::spawn(move || serve(stream, &stop));
                }
            }
        })
    }

    /// Sends each datagram back to where it came from. `[::]` takes IPv4 too.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn udp_echo(namespace: &Netns, address: SocketAddr) -> Self {
        Self::udp_socket(Self::udp_bound(namespace, address))
    }

    /// A UDP socket for [`Service::udp_socket`], on which the test may set options first.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn udp_bound(namespace: &Netns, address: SocketAddr) -> UdpSocket {
        namespace.run(|| bound(address, Type::DGRAM, Protocol::UDP)).expect("a UDP socket").into()
    }

    /// As [`Service::udp_echo`], on a socket that is there already.
    ///
    /// # Panics
    /// Where the socket takes no time-out.
    #[must_use]
    pub fn udp_socket(socket: UdpSocket) -> Self {
        socket.set_read_timeout(Some(TURN)).expect("a time-out");
        Self::start(move |stop, served| {
            let mut buffer = [0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    served.fetch_add(1, Ordering::Relaxed);
                    let _lost_like_any_datagram = socket.send_to(&buffer[..length], from);
                }
            }
        })
    }

    /// Streams datagrams for ever to everybody who ever sent one, one a millisecond.
    ///
    /// # Panics
    /// Where the address cannot be had.
    #[must_use]
    pub fn udp_chatter(namespace: &Netns, address: SocketAddr) -> Self {
        let socket = Self::udp_bound(namespace, address);
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
        Self::start(move |stop, served| {
            let mut listeners = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
                    served.fetch_add(1, Ordering::Relaxed);
                    if !listeners.contains(&from) {
                        listeners.push(from);
                    }
                }
                for to in &listeners {
                    let _refused_once_the_grant_ends = socket.send_to(b"tick", to);
                }
            }
        })
    }

    /// How many connections or datagrams have reached the service.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn start(work: impl FnOnce(Arc<AtomicBool>, Arc<AtomicU64>) + Send + 'static) -> Self {
        let (stop, served) = (Arc::default(), Arc::default());
        let (inner_stop, inner_served) = (Arc::clone(&stop), Arc::clone(&served));
        Self { stop, served, thread: Some(thread::spawn(move || work(inner_stop, inner_served))) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _already_reported = thread.join();
        }
    }
}

fn bound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    let mut buffer = [0; 1 << 16];
    let _ = stream.set_read_timeout(Some(TURN));
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if stream.write_all(&buffer[..length]).is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn chatter(mut stream: TcpStream, stop: &AtomicBool) {
    let _ = stream.set_write_timeout(Some(TURN));
    while !stop.load(Ordering::Relaxed) {
        match stream.write(b"tick") {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => pause(Duration::from_millis(1)),
        }
    }
}
