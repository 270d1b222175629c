//! What packets do: SYNs to a port, and a stream through a connection that exists.
//!
//! Owns the measuring on the client's host. Times are wall-clock times, which host and client share here.

use crate::Result;
use crate::lab::{HOST, Lab};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// What became of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syn {
    /// A SYN-ACK came, and the handshake was finished.
    Answered,
    /// A RST came, as from a port without a listener.
    Refused,
    /// Nothing came in time.
    Silent,
}

/// Sends one SYN from the current namespace, and waits for a quarter of a second.
pub fn syn(port: u16) -> Syn {
    syn_within(port, Duration::from_millis(250))
}

fn syn_within(port: u16, patience: Duration) -> Syn {
    let address = SocketAddr::from((HOST, port));
    match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => Syn::Answered,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Syn::Refused,
        Err(_) => Syn::Silent,
    }
}

/// Sends one SYN from the client's host; also says how long the answer took.
pub fn timed_syn(lab: &Lab, port: u16) -> (Syn, Duration) {
    lab.net.client.run(|| {
        let start = Instant::now();
        (syn(port), start.elapsed())
    })
}

/// Sends SYNs one after the other until one is answered; returns when.
pub fn until_answered(port: u16) -> Result<Instant> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while syn(port) != Syn::Answered {
        if Instant::now() > deadline {
            return Err("no SYN was answered within 5 s".into());
        }
    }
    Ok(Instant::now())
}

/// The last SYN before the end that was answered and the first that was not: when each was sent.
pub struct Edge {
    pub last_answered: Option<SystemTime>,
    pub first_refused: SystemTime,
}

/// Sends SYNs around `end`, from a little before it until one is no longer answered.
pub fn edge(port: u16, end: SystemTime) -> Result<Edge> {
    let begin = end - Duration::from_millis(20);
    postern_tests::pause(begin.duration_since(SystemTime::now()).unwrap_or_default());
    let mut last_answered = None;
    loop {
        let sent = SystemTime::now();
        match syn_within(port, Duration::from_millis(2)) {
            Syn::Answered => last_answered = Some(sent),
            Syn::Refused => return Ok(Edge { last_answered, first_refused: sent }),
            // Its handshake spans the end: the cut keeps the SYN-ACK in. Or the listener's queue was full.
            Syn::Silent => {}
        }
        if sent > end + Duration::from_secs(2) {
            return Err("SYNs are still answered two seconds after the end".into());
        }
    }
}

/// How a stream came to its end.
pub struct StreamEnd {
    /// When the last byte arrived.
    pub last_byte: SystemTime,
    pub bytes: u64,
    /// When the connection was reset, if it was; otherwise it just fell silent.
    pub reset: Option<SystemTime>,
}

/// Reads from a connection until it is reset, or silent for `patience`.
pub fn stream(lab: &Lab, port: u16, patience: Duration) -> Result<JoinHandle<StreamEnd>> {
    let mut peer = lab.net.client.run(|| TcpStream::connect((HOST, port)))?;
    peer.set_read_timeout(Some(patience))?;
    Ok(thread::spawn(move || {
        let mut end = StreamEnd { last_byte: SystemTime::now(), bytes: 0, reset: None };
        let mut buffer = [0; 4096];
        loop {
            match peer.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    end.last_byte = SystemTime::now();
                    end.bytes += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    end.reset = Some(SystemTime::now());
                    break;
                }
                Err(_) => break,
            }
        }
        end
    }))
}

/// `time` relative to `origin` in milliseconds, with its sign.
pub fn since(time: SystemTime, origin: SystemTime) -> f64 {
    match time.duration_since(origin) {
        Ok(after) => after.as_secs_f64() * 1e3,
        Err(before) => -before.duration().as_secs_f64() * 1e3,
    }
}
