//! What the scenarios share: two hosts, services on protected and other ports, one posternd whose state is on the disk.
//!
//! A start of posternd is the dearest thing in an emulator, so scenarios use the same one. Owns what they ask of it.

use postern_proto::payload_type;
use postern_proto::v1::{Grant, GrantState};
use postern_tests::client::reason;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::postern::{AUDIENCE, Options, Postern, port};
use postern_tests::probe::{self, LONG_PATIENCE, Outcome};
use postern_tests::request::{Access, REVOKE, seconds_from_now, uuid};
use postern_tests::service::Service;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

/// Protected, with an echo on it.
pub const PORT: u16 = 22;
/// Protected, with a stream of datagrams on it.
pub const STREAM: u16 = 3389;
/// Protected, with nothing on it.
pub const SPARE: u16 = 4000;
/// Not protected, with an echo on it.
pub const OPEN: u16 = 2222;
/// Two hosts, their services and posternd.
pub struct World {
    pub postern: Postern,
    pub net: Net,
    pub echo: Service,
    _others: [Service; 3],
}

/// Where posternd keeps its state: on the disk that outlives the machine.
pub fn options() -> Options {
    let usual = Options::default();
    let rules = port(SPARE, "any") + &usual.rules;
    Options { state: Some(PathBuf::from("/disk/state")), clock: "challenge".to_owned(), rules, ..usual }
}

impl World {
    /// With a posternd that is configured and not started.
    pub fn new() -> Self {
        let net = Net::pair();
        let at = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let echo = Service::tcp_echo(&net.server, at(PORT));
        let others = [
            Service::udp_echo(&net.server, at(PORT)),
            Service::udp_chatter(&net.server, at(STREAM)),
            Service::tcp_echo(&net.server, at(OPEN)),
        ];
        Self { postern: Postern::prepared(&net.server, options()), net, echo, _others: others }
    }

    pub fn started() -> Self {
        let mut this = Self::new();
        this.postern.launch();
        this
    }

    /// Whether TCP and UDP are answered, with the patience that either takes.
    pub fn answers(&self, from: IpAddr, expected: bool) -> [bool; 2] {
        let (client, to) = (&self.net.client, SocketAddr::new(SERVER.like(from), PORT));
        if expected {
            return [probe::tcp_answers(client, from, to), probe::udp_answers(client, from, to)];
        }
        [probe::tcp(client, from, to), probe::udp(client, from, to)].map(|outcome| outcome == Outcome::Answered)
    }

    pub fn assert(&self, from: &[IpAddr], expected: bool, when: &str) {
        for from in from {
            assert_eq!(self.answers(*from, expected), [expected; 2], "{from} {when}: [tcp, udp]");
        }
    }

    /// Open to the granted address alone.
    pub fn assert_granted_alone(&self, when: &str) {
        self.assert(&[GRANTED.v4.into()], true, when);
        self.assert(&[STRANGER.v4.into(), NEIGHBOUR.v4.into()], false, when);
    }

    /// A request with a challenge, as every client makes it: no clock is needed for that.
    pub fn access(&self, ports: &[&str], sources: &[IpAddr], seconds: u64) -> Access {
        let challenge = self.postern.client().who_am_i().expect("a challenge").challenge;
        Access { challenge, ..Access::new(AUDIENCE, ports, sources, seconds) }
    }

    pub fn grant(&self, ports: &[&str], sources: &[IpAddr], seconds: u64) -> Grant {
        let message = self.access(ports, sources, seconds).seal(&self.postern.alice);
        self.postern.client().request(message).expect("a grant")
    }

    /// A request without a challenge: the reason of its refusal, or none.
    pub fn refusal_without_challenge(&self) -> Option<String> {
        let message = Access::new(AUDIENCE, &["22/tcp"], &[NEIGHBOUR.v4.into()], 60).seal(&self.postern.alice);
        match self.postern.client().request(message) {
            Ok(grant) => {
                self.revoke(&grant.id);
                None
            }
            Err(status) => Some(reason(&status)),
        }
    }

    /// Ends a grant, by a message with a challenge.
    pub fn revoke(&self, grant: &str) {
        let challenge = self.postern.client().who_am_i().expect("a challenge").challenge;
        let payload = json!({
            "id": uuid(), "audience": [AUDIENCE], "notAfter": seconds_from_now(120), "challenge": challenge,
            "grantId": grant, "reason": "a scenario is over",
        });
        let message = self.postern.alice.seal(REVOKE, payload_type::REVOKE_REQUEST, &payload.to_string());
        self.postern.client().revoke(message).expect("to revoke it");
    }

    pub fn revoke_all(&self) {
        self.live().iter().for_each(|grant| self.revoke(&grant.id));
    }

    /// The grants that posternd holds for live.
    pub fn live(&self) -> Vec<Grant> {
        let all = self.postern.client().grants().expect("the grants");
        all.into_iter().filter(|grant| grant.state() == GrantState::Active).collect()
    }

    pub fn session(&self, from: IpAddr) -> TcpStream {
        probe::connect(&self.net.client, from, SocketAddr::new(SERVER.like(from), PORT)).expect("a session")
    }
}

/// Whether the other end still echoes.
pub fn alive(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
    stream.write_all(b"there?").is_ok() && stream.read(&mut [0; 16]).is_ok_and(|length| length > 0)
}
