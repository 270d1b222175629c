//! The limits for each peer, and for all peers together.
//!
//! Owns the numbers only.

use std::time::Duration;

/// The most bytes of one request message. A signed request with 32 ports, 32 sources and an RSA certificate has less than 16 KiB.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// Limits of the API. One person's tools never reach these numbers, and a flood stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Together they may send 64 MiB ahead (`window_bytes` each). If all streams hold whole messages of
    /// [`MESSAGE_BYTES`] that wait for verification, posternd holds at most 512 MiB.
    pub connections: usize,
    /// Connections at once from one source: an IPv4 address, an IPv6 /64 (what one customer gets), or one local user.
    pub per_source: usize,
    /// Connections at once that have not sent a request yet.
    pub opening: usize,
    /// Streams at once. Only a stream keeps a connection open without an end.
    pub watchers: usize,
    /// The time for the TLS handshake: ten round trips on a very slow link.
    pub handshake: Duration,
    /// The time from the handshake to the first request.
    pub first_request: Duration,
    /// The time without a request, after the first one.
    pub idle: Duration,
    /// The time for one request until its answer begins, with the request's body.
    pub request: Duration,
    /// The age after which posternd takes no new request on a connection.
    pub age: Duration,
    /// The time that running requests get when a connection or posternd ends.
    pub grace: Duration,
    /// The time without data before posternd sends a ping. If no answer comes within `handshake`, posternd closes the connection.
    pub ping: Duration,
    /// Requests at once on one connection (HTTP/2 `SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams: u32,
    /// Bytes of one request's headers (HTTP/2 `SETTINGS_MAX_HEADER_LIST_SIZE`).
    pub header_bytes: u32,
    /// Bytes that a peer may send ahead on one connection.
    pub window_bytes: u32,
    /// Requests that a peer may reset before posternd reads them (CVE-2023-44487), and errors that it may cause, on one connection.
    pub resets: usize,
}

impl Limits {
    /// The limits of `posternd`.
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
