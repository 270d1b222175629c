//! Many bytes over one connection, as large packets carry them.
//!
//! Owns the counting of what arrives. It judges nothing.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::netns::Netns;
use crate::probe;
use crate::until::{PATIENCE, patience};

/// How many bytes are sent: many packets, however large they are.
pub const MANY: usize = 4 << 20;

/// How many of [`MANY`] bytes arrive at `to`, a port of the server's without a listener yet, from an address of the client's.
/// A connection on which nothing arrives for half a minute has lost the rest.
///
/// # Panics
/// Where there is no connection at all.
#[must_use]
pub fn arrived(client: &Netns, from: impl Into<IpAddr>, server: &Netns, to: SocketAddr) -> usize {
    let listener = server.run(|| TcpListener::bind(to)).expect("a listener");
    let mut sender = probe::connect(client, from, to).expect("an open port");
    let (mut receiver, _) = listener.accept().expect("the connection");
    let most = Some(patience(PATIENCE));
    receiver.set_read_timeout(most).and_then(|()| sender.set_write_timeout(most)).expect("time-outs");
    let send = std::thread::spawn(move || sender.write_all(&vec![7; MANY]));
    let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
    while let Ok(read @ 1..) = receiver.read(&mut buffer) {
        count += read;
    }
    // What it could not send did not arrive either.
    let _ = send.join().expect("a sender");
    count
}
