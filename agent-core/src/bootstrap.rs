//! Access that stays when a port becomes protected: for the sources of the sessions that exist then. Owns [`plan`]: the records that keep
//! these sessions and let their sources in for a while, so that a person who sets up Postern over the network is not locked out. The
//! direction of an older session is unknown, so all are kept; a source may connect anew only to a port with a listener. This module never
//! lists sessions and opens nothing to a source without one.

use std::collections::{BTreeMap, BTreeSet};

use crate::grant::{AccessRequest, End, Grant, Header, MOST_ITEMS, PortSpec, Protocol, Source};
use crate::ledger::{Capacity, Event, Ledger, Record};
use crate::policy::{Judgement, SESSIONS_MOST};
use crate::refusal::Refusal;
use crate::retained::{RetainedSession, Session};
use crate::signer::Signer;
use crate::time::{Now, Seconds};
use uuid::Uuid;

/// How long such a source may open new connections: enough to set up a first request.
pub const BOOTSTRAP: Seconds = Seconds::minutes(5);
/// The principal in the records. Like root, this signer has no key.
pub const PRINCIPAL: &str = "bootstrap";
/// The most sessions in one record, so that no line of the journal becomes long.
pub const MOST_IN_A_RECORD: usize = 256;

/// The records that keep the `established` sessions and let their sources in: one grant for each port and up to [`MOST_ITEMS`] sources,
/// with an id from `new_id`. `served` are the cookies of the sessions whose port has a listener. A source without such a session gets a
/// grant that ends at once. The second value is the refusal for the first grant that does not fit; all later ones are left out.
pub fn plan(
    ledger: &Ledger,
    established: &[Session],
    served: &BTreeSet<u64>,
    capacity: Capacity,
    now: &Now,
    mut new_id: impl FnMut() -> Uuid,
) -> (Vec<Event>, Option<Refusal>) {
    let (mut scratch, mut events) = (ledger.clone(), Vec::new());
    for ((port, window), sources) in by_port(established, served) {
        let sources: Vec<_> = sources.into_iter().collect();
        for (part, sessions) in sources.chunks(MOST_ITEMS).map(|part| (part, sessions_of(established, port, part))) {
            let grant = match grant(&scratch, new_id(), port, part, window, capacity, now) {
                Ok(grant) => grant,
                Err(refusal) => return (events, Some(refusal)),
            };
            let id = grant.id;
            let mut ours = vec![Event::Granted { grant }];
            let until = now.boot.plus_nanos(SESSIONS_MOST.0 * 1_000_000_000);
            let kept: Vec<_> = sessions.iter().filter_map(|session| RetainedSession::new(session, until)).collect();
            let lines = kept.chunks(MOST_IN_A_RECORD);
            ours.extend(lines.map(|kept| Event::SessionsKept { grant: id, kept: kept.to_vec() }));
            for event in &ours {
                scratch.apply(&Record::next(&scratch, None, event.clone(), now));
            }
            events.extend(ours);
        }
    }
    (events, None)
}

fn by_port(established: &[Session], served: &BTreeSet<u64>) -> BTreeMap<(PortSpec, Seconds), BTreeSet<Source>> {
    let mut windows = BTreeMap::<(PortSpec, Source), Seconds>::new();
    for session in established {
        if let (Some(port), Some(source)) = (port_of(session), source_of(session)) {
            let window = if served.contains(&session.cookie) { BOOTSTRAP } else { Seconds(0) };
            let longest = windows.entry((port, source)).or_insert(window);
            *longest = window.max(*longest);
        }
    }
    let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
    for ((port, source), window) in windows {
        ports.entry((port, window)).or_default().insert(source);
    }
    ports
}

fn sessions_of(established: &[Session], port: PortSpec, sources: &[Source]) -> Vec<Session> {
    let ours = |session: &&Session| {
        port_of(session) == Some(port) && source_of(session).is_some_and(|source| sources.contains(&source))
    };
    established.iter().filter(ours).copied().collect()
}

fn port_of(session: &Session) -> Option<PortSpec> {
    Some(PortSpec { number: session.port, protocol: Protocol::of_number(session.protocol)? })
}

fn source_of(session: &Session) -> Option<Source> {
    Source::try_from(ipnet::IpNet::from(session.peer)).ok()
}

fn grant(
    ledger: &Ledger,
    id: Uuid,
    port: PortSpec,
    sources: &[Source],
    window: Seconds,
    capacity: Capacity,
    now: &Now,
) -> Result<Grant, Refusal> {
    let signer = Signer { principal: PRINCIPAL.to_owned(), fingerprint: String::new(), certificate: None };
    let request = AccessRequest {
        header: Header { id, audience: Vec::new(), not_after: now.wall, challenge: None },
        ports: vec![port],
        sources: sources.to_vec(),
        end: End::After(window),
        not_before: None,
        supersedes: None,
        justification: "they had sessions when the port became protected".to_owned(),
        ticket: String::new(),
    };
    let judgement = Judgement {
        starts_boot: now.boot,
        expires_boot: now.boot.plus_nanos(window.0 * 1_000_000_000),
        chain_boot: None,
        missing: None,
        first_use_within: None,
        idle_timeout: None,
    };
    ledger.admit(&[signer], &request, &judgement, capacity, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, PortRule};
    use crate::time::BootNanos;

    const NOW: Now = Now {
        boot: BootNanos(7),
        wall: jiff::Timestamp::UNIX_EPOCH,
        clock: crate::time::ClockState::Synchronised,
        boot_id: Uuid::from_u128(9),
    };
    const ROOM: Capacity = Capacity { entries: 1000, slots: 100 };

    fn session(cookie: u64, port: u16, peer: &str) -> Session {
        Session { cookie, protocol: 6, port, peer: peer.parse().unwrap() }
    }

    fn planned(established: &[Session], capacity: Capacity) -> (Ledger, Vec<Grant>, Option<Refusal>) {
        let served = established.iter().map(|session| session.cookie).collect();
        planned_for(established, &served, capacity)
    }

    fn planned_for(
        established: &[Session],
        served: &BTreeSet<u64>,
        capacity: Capacity,
    ) -> (Ledger, Vec<Grant>, Option<Refusal>) {
        let (mut ledger, mut ids) = (Ledger::default(), 0..);
        let new_id = || Uuid::from_u128(ids.next().unwrap());
        let (events, refusal) = plan(&ledger, established, served, capacity, &NOW, new_id);
        for event in events {
            ledger.apply(&Record::next(&ledger, None, event, &NOW));
        }
        let grants = ledger.active().cloned().collect();
        (ledger, grants, refusal)
    }

    #[test]
    fn a_source_gets_its_own_port_and_its_sessions_go_on() {
        let there = [session(1, 22, "192.0.2.7"), session(2, 22, "192.0.2.7"), session(3, 3389, "2001:db8::1")];
        let (ledger, grants, refusal) = planned(&there, ROOM);
        assert_eq!(refusal, None);
        let opened: Vec<_> = grants.iter().map(|g| (g.ports[0].to_string(), g.sources[0].to_string())).collect();
        let own = |port: &str, source: &str| (port.to_owned(), source.to_owned());
        assert_eq!(opened, [own("22/tcp", "192.0.2.7/32"), own("3389/tcp", "2001:db8::1/128")]);
        assert!(grants.iter().all(|g| g.sources.len() == 1 && g.is_unsigned() && !g.break_glass));
        assert!(grants.iter().all(|g| g.expires_boot == BootNanos(7 + 300_000_000_000)));
        let kept: Vec<_> = ledger.keeping().sessions(&NOW).map(|(grant, kept)| (grant, kept.cookie)).collect();
        assert_eq!(kept, [(grants[0].id, 1), (grants[0].id, 2), (grants[1].id, 3)]);
        assert_eq!(ledger.keeping().next_end(), Some(BootNanos(7 + SESSIONS_MOST.0 * 1_000_000_000)));
        // New rules keep the grant while its port is protected, although no role allows `bootstrap` anything.
        let rule = PortRule::new(grants[0].ports[0]);
        assert!(Policy { ports: vec![rule], ..Policy::default() }.still_allows(&grants[0]));
        assert!(!Policy::default().still_allows(&grants[0]));
    }

    #[test]
    fn a_source_that_nobody_listens_for_keeps_its_sessions_and_gets_no_window() {
        let there = [session(1, 22, "192.0.2.7"), session(2, 22, "192.0.2.8"), session(3, 22, "192.0.2.8")];
        let (ledger, grants, refusal) = planned_for(&there, &BTreeSet::from([3]), ROOM);
        assert_eq!((refusal, ledger.keeping().sessions(&NOW).count()), (None, 3));
        let live: Vec<_> = grants.iter().filter(|grant| grant.is_live(NOW.boot)).collect();
        let [open] = &live[..] else { panic!("one source has a window: {live:?}") };
        assert_eq!(open.sources.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.8/32"]);
        let policy = Policy { ports: vec![PortRule::new(open.ports[0])], ..Policy::default() };
        let table = crate::table::compile(&policy, ledger.active(), NOW.boot);
        assert_eq!(table.grants.len(), 1);
        let table = table.keeping(ledger.keeping().flows(&NOW), NOW.boot);
        assert_eq!((table.grants.len(), table.flows.len()), (2, 3));
        assert!(planned_for(&there, &BTreeSet::new(), ROOM).1.iter().all(|grant| !grant.is_live(NOW.boot)));
    }

    #[test]
    fn many_sources_get_several_grants_as_long_as_there_is_room() {
        let peer = |n: u8| session(n.into(), 22, &format!("192.0.2.{n}"));
        let there: Vec<_> = (0..=u8::try_from(MOST_ITEMS).unwrap()).map(peer).collect();
        let (_, grants, refusal) = planned(&there, ROOM);
        assert_eq!((grants.iter().map(|g| g.sources.len()).collect::<Vec<_>>(), refusal), (vec![MOST_ITEMS, 1], None));
        let (ledger, grants, refusal) = planned(&there, Capacity { slots: 1, ..ROOM });
        assert!(refusal.is_some());
        assert_eq!((grants.len(), ledger.keeping().sessions(&NOW).count()), (1, MOST_ITEMS));
        assert_eq!(planned(&[], ROOM).1, []);
    }
}
