//! What one peer, and all peers together, may cost.
//!
//! Owns the numbers and nothing else.

use std::time::Duration;

/// The most bytes of one request message (DESIGN 7). A signed request with 32 ports, 32 sources and an RSA certificate has less
/// than 16 KiB.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Limits of the API. The numbers are chosen so that one person's tools never meet them and a flood stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. What all of them send ahead is 64 MiB (`window_bytes` each); with whole messages in all their streams,
    /// each [`MESSAGE_BYTES`] long and waiting for a verifier, the agent holds 512 MiB at the very most.
    pub connections: usize,
    /// Connections at once of one source: an IPv4 address, an IPv6 /64 (what one customer gets), or one local user.
    pub per_source: usize,
    /// Connections at once that have not yet sent their first request.
    pub opening: usize,
    /// `WatchGrants` streams at once: they alone hold a connection without end.
    pub watchers: usize,
    /// For the TLS handshake. Ten round trips on the worst link.
    pub handshake: Duration,
    /// From there to the first request.
    pub first_request: Duration,
    /// Without a request, once there was one.
    pub idle: Duration,
    /// For one request until its answer begins, its body included.
    pub request: Duration,
    /// The life of a connection; after it no new request is taken.
    pub age: Duration,
    /// What running requests get when a connection or the agent ends.
    pub grace: Duration,
    /// Without an answer to anything: then a ping is sent, and the connection is closed when that is not answered within `handshake`.
    pub ping: Duration,
    /// Requests at once on one connection (HTTP/2 `SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams: u32,
    /// Bytes of one request's headers (HTTP/2 `SETTINGS_MAX_HEADER_LIST_SIZE`).
    pub header_bytes: u32,
    /// Bytes that a peer may send ahead on one connection.
    pub window_bytes: u32,
    /// Requests that a peer may reset before they are taken up (CVE-2023-44487), and errors it may cause, on one connection.
    pub resets: usize,
}

impl Limits {
    /// What `posternd` uses.
    pub const DEFAULT: Self = Self {
        connections: 512,
        per_source: 32,
        opening: 256,
        watchers: 64,
        handshake: Duration::from_secs(10),
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(120),
        request: Duration::from_secs(30),
        age: Duration::from_secs(3600),
        grace: Duration::from_secs(2),
        ping: Duration::from_secs(60),
        streams: 16,
        header_bytes: 16 * 1024,
        window_bytes: 128 * 1024,
        resets: 16,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
