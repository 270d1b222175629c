//! HTTP/2 frames by hand (RFC 9113), for what no client would send.
//!
//! Never reads more than it must.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// SETTINGS that change nothing.
pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A PING that wants an answer.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"abcdefgh")
}

/// The headers of a health check whose body is still to come.
pub fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields())
}

/// The same, and the headers go on.
pub fn headers_without_end(stream: u32) -> Vec<u8> {
    frame(HEADERS, 0, stream, &fields())
}

/// More headers, and they go on.
pub fn continuation(stream: u32, fields: &[u8]) -> Vec<u8> {
    frame(CONTINUATION, 0, stream, fields)
}

/// Takes a request back.
pub fn reset(stream: u32) -> Vec<u8> {
    // 8: CANCEL
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

/// HPACK (RFC 7541) without compression: static names by index, values as they are.
fn fields() -> Vec<u8> {
    let literal = |name: &[u8], value: &str| {
        let length = u8::try_from(value.len()).expect("a short value");
        [name, &[length], value.as_bytes()].concat()
    };
    [
        vec![0x83, 0x86],
        literal(&[0x04], "/grpc.health.v1.Health/Check"),
        literal(&[0x01], "localhost"),
        literal(&[0x0f, 0x10], "application/grpc"),
        literal(&[0x00, 2, b't', b'e'], "trailers"),
    ]
    .concat()
}

/// One connection that has shown its preface.
pub struct Wire {
    stream: TcpStream,
    sent: usize,
}

impl Wire {
    /// Shows the preface.
    pub fn open(stream: TcpStream) -> Self {
        // Whoever does not take what is sent within this time has stopped taking more.
        stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time-out");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        let mut this = Self { stream, sent: 0 };
        this.send(PREFACE);
        this.send(&settings());
        this
    }

    /// Whether the peer took it.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.sent += bytes.len();
        self.stream.write_all(bytes).is_ok()
    }

    /// Reads what has come, without waiting; whether the peer is still there.
    pub fn take_answers(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let mut sink = [0; 65536];
        let alive = loop {
            match self.stream.read(&mut sink) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(error) => break error.kind() == std::io::ErrorKind::WouldBlock,
            }
        };
        self.stream.set_nonblocking(false).expect("a socket");
        alive
    }

    /// How many bytes were sent.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Whether the peer ends the connection, with or without a word, before the time-out.
    pub fn is_closed_by_peer(&mut self) -> bool {
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                }
            }
        }
    }
}
