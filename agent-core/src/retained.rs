//! Retained sessions, which outlive their grant. Owns [`RetainedSession`], as the journal spells it, and [`RetainedSessions`], the sum of
//! these records. The agent gets the sessions from the kernel. This module opens nothing: a retained session is an existing socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::grant::{Grant, PortSpec, Protocol};
use crate::key::Address;
use crate::policy::Policy;
use crate::request::EndCause;
use crate::table::Flow;
use crate::time::{BootNanos, Now};

/// An established session of a protected port, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The kernel's id of the socket, unique until the next boot.
    pub cookie: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// The other side; an IPv4 address even on an IPv6 socket.
    pub peer: IpAddr,
}

impl Session {
    /// The kernel's entry, with its cookie, that retains the session until `until_boot_ns` (`CLOCK_BOOTTIME` in nanoseconds).
    #[must_use]
    pub fn until(&self, until_boot_ns: u64) -> (u64, Flow) {
        let peer = match self.peer {
            IpAddr::V4(ip) => Address::v4(ip.octets()),
            IpAddr::V6(ip) => Address::v6(ip.octets()),
        };
        (self.cookie, Flow { protocol: self.protocol, port: self.port, peer, until_boot_ns })
    }

    /// The port with its one protocol; `None` for other than TCP and UDP.
    #[must_use]
    pub fn port_spec(&self) -> Option<PortSpec> {
        Some(PortSpec { number: self.port, protocol: Protocol::of_number(self.protocol)? })
    }

    /// Whether `grant` covers the session by one of its ports that `counts`.
    #[must_use]
    pub fn is_carried_by(&self, grant: &Grant, counts: impl Fn(&PortSpec) -> bool) -> bool {
        let port = |p: &PortSpec| p.number == self.port && p.protocol.numbers().contains(&self.protocol) && counts(p);
        grant.ports.iter().any(port) && grant.sources.iter().any(|source| source.net().contains(&self.peer))
    }
}

/// A record of a retained session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedSession {
    /// [`Session::cookie`].
    pub cookie: u64,
    /// The host's port, with the session's one protocol.
    pub port: PortSpec,
    /// The other side.
    pub peer: IpAddr,
    /// The end, on the record's boot.
    pub until_boot: BootNanos,
}

impl RetainedSession {
    /// `session` until `until_boot`; `None` for other than TCP and UDP.
    #[must_use]
    pub fn new(session: &Session, until_boot: BootNanos) -> Option<Self> {
        let port = PortSpec { number: session.port, protocol: Protocol::of_number(session.protocol)? };
        Some(Self { cookie: session.cookie, port, peer: session.peer, until_boot })
    }

    /// The session; `None` for a record without a single protocol, which no version writes.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        let &[protocol] = self.port.protocol.numbers() else { return None };
        Some(Session { cookie: self.cookie, protocol, port: self.port.number, peer: self.peer })
    }

    /// The kernel's entry with its cookie; `None` as [`Self::session`].
    #[must_use]
    pub fn flow(&self) -> Option<(u64, Flow)> {
        Some(self.session()?.until(self.until_boot.0))
    }
}

/// The `established` sessions that `grant` covers and that outlive it by `policy`, each until the end from its port's rule.
#[must_use]
pub fn outliving(policy: &Policy, grant: &Grant, established: &[Session]) -> Vec<RetainedSession> {
    let kept = |session: &Session| {
        let protocol = Protocol::of_number(session.protocol)?;
        let (_, rule) = policy.rule(PortSpec { number: session.port, protocol })?;
        RetainedSession::new(session, rule.on_expiry.sessions_end(grant.expires_boot)?)
    };
    established.iter().filter(|session| session.is_carried_by(grant, |_| true)).filter_map(kept).collect()
}

/// All retained sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedSessions {
    boot_id: Uuid,
    sessions: BTreeMap<u64, (Uuid, RetainedSession)>,
}

impl RetainedSessions {
    /// Applies a record of `boot_id`: `kept` outlive `grant`. The new end replaces an earlier one of the same session.
    pub fn keep(&mut self, boot_id: Uuid, grant: Uuid, kept: &[RetainedSession]) {
        if self.boot_id != boot_id {
            *self = Self { boot_id, ..Self::default() };
        }
        self.sessions.extend(kept.iter().map(|kept| (kept.cookie, (grant, *kept))));
    }

    /// Applies the end of `grant` because of `cause`. Only an expired grant leaves sessions behind.
    pub fn ended(&mut self, grant: Uuid, cause: EndCause) {
        if cause != EndCause::Expired {
            self.cut(grant);
        }
    }

    /// Applies the revocation of the sessions that outlive `grant`.
    pub fn cut(&mut self, grant: Uuid) {
        self.sessions.retain(|_, (of, _)| *of != grant);
    }

    /// The sessions of `kept` that get a later end than on record.
    #[must_use]
    pub fn longer(&self, mut kept: Vec<RetainedSession>, now: &Now) -> Vec<RetainedSession> {
        let known = |kept: &RetainedSession| self.sessions.get(&kept.cookie).filter(|_| self.boot_id == now.boot_id);
        kept.retain(|kept| known(kept).is_none_or(|(_, known)| known.until_boot < kept.until_boot));
        kept
    }

    /// Forgets the sessions that are over at `now`, and returns those of this boot.
    pub fn forget(&mut self, now: &Now) -> Vec<RetainedSession> {
        let ours = self.boot_id == now.boot_id;
        let over: Vec<_> = self.sessions.values().map(|(_, kept)| *kept).filter(|k| k.until_boot <= now.boot).collect();
        self.sessions.retain(|_, (_, kept)| ours && now.boot < kept.until_boot);
        if ours { over } else { Vec::new() }
    }

    /// Forgets the sessions whose sockets are not among `alive`.
    pub fn forget_closed(&mut self, alive: &BTreeSet<u64>) {
        self.sessions.retain(|cookie, _| alive.contains(cookie));
    }

    /// The sessions of this boot that may go on at `now`, with their grants.
    pub fn sessions(&self, now: &Now) -> impl Iterator<Item = (Uuid, &RetainedSession)> + '_ {
        let (boot, ours) = (now.boot, now.boot_id == self.boot_id);
        self.sessions
            .values()
            .filter(move |(_, kept)| ours && boot < kept.until_boot)
            .map(|(grant, kept)| (*grant, kept))
    }

    /// [`Self::sessions`] for [`crate::table::Table::keeping`].
    pub fn flows(&self, now: &Now) -> impl Iterator<Item = (u64, Flow)> + '_ {
        self.sessions(now).filter_map(|(_, kept)| kept.flow())
    }

    /// The next end of a session.
    #[must_use]
    pub fn next_end(&self) -> Option<BootNanos> {
        self.sessions.values().map(|(_, kept)| kept.until_boot).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{OnExpiry, PortRule, SESSIONS_MOST};
    use crate::time::Seconds;

    const GRANT: Uuid = Uuid::from_u128(1);
    const BOOT: Uuid = Uuid::from_u128(2);

    fn now(boot: u64) -> Now {
        Now {
            boot: BootNanos(boot),
            wall: jiff::Timestamp::UNIX_EPOCH,
            clock: crate::time::ClockState::Synchronised,
            boot_id: BOOT,
        }
    }

    fn session(cookie: u64) -> Session {
        Session { cookie, protocol: 6, port: 22, peer: "192.0.2.7".parse().unwrap() }
    }

    fn kept(cookie: u64, until: u64) -> RetainedSession {
        RetainedSession::new(&session(cookie), BootNanos(until)).unwrap()
    }

    fn cookies(keeping: &RetainedSessions, now: &Now) -> Vec<u64> {
        keeping.flows(now).map(|(cookie, _)| cookie).collect()
    }

    #[test]
    fn the_three_ends() {
        let end = BootNanos(7);
        assert_eq!(OnExpiry::Cut.sessions_end(end), None);
        assert_eq!(OnExpiry::Drain(Seconds(2)).sessions_end(end), Some(BootNanos(2_000_000_007)));
        let most = OnExpiry::Keep.sessions_end(end);
        assert_eq!(most, Some(end.plus_nanos(SESSIONS_MOST.0 * 1_000_000_000)));
        assert_eq!(OnExpiry::Drain(Seconds(u64::MAX)).sessions_end(end), most);
    }

    #[test]
    fn a_rule_lets_live_what_the_grant_carried() {
        let grant: Grant = serde_json::from_value(serde_json::json!({
            "id": GRANT, "signer": { "principal": "ann", "fingerprint": "SHA256:k" }, "ports": ["22/any", "23/tcp"],
            "sources": ["192.0.2.0/24"], "created": "2026-01-01T00:00:00Z", "expires": "2026-01-01T01:00:00Z",
            "expires_boot": 100, "boot_id": BOOT, "slot": 0,
        }))
        .unwrap();
        let rule = |number, on_expiry| {
            let port = PortSpec { number, protocol: Protocol::Any };
            PortRule { on_expiry, ..PortRule::new(port) }
        };
        let ports = vec![rule(22, OnExpiry::Drain(Seconds(1))), rule(23, OnExpiry::Cut), rule(24, OnExpiry::Keep)];
        let policy = Policy { ports, ..Policy::default() };
        let other = "192.0.3.7".parse().unwrap();
        let established = [
            session(1),
            Session { protocol: 17, ..session(2) },
            // The rule cuts; the grant has no such port; the grant has no such source.
            Session { port: 23, ..session(3) },
            Session { port: 24, ..session(4) },
            Session { peer: other, ..session(5) },
        ];
        let kept: Vec<_> =
            outliving(&policy, &grant, &established).iter().map(|k| (k.cookie, k.until_boot.0)).collect();
        assert_eq!(kept, [(1, 1_000_000_100), (2, 1_000_000_100)]);
    }

    #[test]
    fn each_goes_on_until_its_own_end_on_its_own_boot() {
        let mut keeping = RetainedSessions::default();
        keeping.keep(BOOT, GRANT, &[kept(1, 10), kept(2, 20)]);
        assert_eq!((cookies(&keeping, &now(9)), cookies(&keeping, &now(10))), (vec![1, 2], vec![2]));
        assert_eq!(cookies(&keeping, &Now { boot_id: Uuid::nil(), ..now(9) }), [0; 0]);
        assert_eq!(keeping.next_end(), Some(BootNanos(10)));
        assert_eq!(keeping.longer(vec![kept(2, 20), kept(2, 21), kept(7, 1)], &now(9)), [kept(2, 21), kept(7, 1)]);
        assert_eq!(keeping.forget(&now(10)), [kept(1, 10)]);
        assert_eq!(keeping.next_end(), Some(BootNanos(20)));
        keeping.forget_closed(&[1, 2].into());
        assert_eq!(cookies(&keeping, &now(11)), [2]);
        keeping.forget_closed(&[1].into());
        assert_eq!(keeping, RetainedSessions { boot_id: BOOT, ..RetainedSessions::default() });
        keeping.keep(BOOT, GRANT, &[kept(2, 20)]);
        assert_eq!(keeping.clone().forget(&Now { boot_id: Uuid::nil(), ..now(30) }), []);
        // On another boot, the same cookies name other sockets.
        keeping.keep(Uuid::nil(), GRANT, &[kept(3, 30)]);
        assert_eq!(cookies(&keeping, &now(9)), [0; 0]);
        assert_eq!(cookies(&keeping, &Now { boot_id: Uuid::nil(), ..now(9) }), [3]);
    }

    #[test]
    fn only_the_clock_leaves_sessions_behind() {
        let (other, mut keeping) = (Uuid::from_u128(9), RetainedSessions::default());
        keeping.keep(BOOT, GRANT, &[kept(1, 10)]);
        keeping.keep(BOOT, other, &[kept(2, 10)]);
        keeping.ended(GRANT, EndCause::Expired);
        assert_eq!(cookies(&keeping, &now(9)), [1, 2]);
        keeping.ended(GRANT, EndCause::Revoked);
        assert_eq!(cookies(&keeping, &now(9)), [2]);
        keeping.cut(other);
        assert_eq!(keeping.next_end(), None);
    }

    #[test]
    fn the_record_reads_back() {
        let text = r#"{"cookie":7,"port":"22/tcp","peer":"192.0.2.7","until_boot":10}"#;
        assert_eq!(serde_json::to_string(&kept(7, 10)).unwrap(), text);
        let read: RetainedSession = serde_json::from_str(text).unwrap();
        assert_eq!((read, read.session()), (kept(7, 10), Some(session(7))));
    }
}
