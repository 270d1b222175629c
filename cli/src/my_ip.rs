//! Decides which of the source addresses that a host saw the client signs for "my-ip".
//!
//! A host sees the last machine that forwards the connection: this machine, its NAT or VPN, or an attacker's relay. All facts come as
//! arguments; this module does no input or output. The sources come from the host's signed statement.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    advice,
    failure::{Failure, Kind},
    text,
};

/// One connection as the host stated it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The address that the client dialled; none for a Unix socket.
    pub dialled: Option<IpAddr>,
    /// The connection's source address as the host sees it.
    pub source: IpAddr,
    /// The host's own address on the connection; none if the host does not state it.
    pub reached: Option<IpAddr>,
}

/// The facts of this machine and its user.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The addresses of this machine.
    pub own: &'a [IpAddr],
    /// The addresses that the client dialled before for this host's key.
    pub known: &'a [IpAddr],
    /// The sources that the user typed beside "my-ip".
    pub written: &'a [IpNet],
}

/// The decision about all sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Signed without a question.
    pub sign: Vec<IpAddr>,
    /// The dialled addresses to remember after the host accepts the message.
    pub remember: Vec<IpAddr>,
    /// Signed only if the user agrees: connections by source.
    pub doubtful: BTreeMap<IpAddr, Vec<Seen>>,
}

/// Judges each connection by itself: a good connection never vouches for another.
///
/// The client signs a source without a question in three cases: it is an address of this machine; the user typed it; or the dialled address
/// is known for this host's key. In the third case the user has moved to another network.
#[must_use]
pub fn decide(seen: &[Seen], facts: Facts<'_>) -> Decision {
    let mut decision = Decision::default();
    for one in seen {
        let own = facts.own.contains(&one.source);
        let known = one.dialled.is_some_and(|dialled| is_lasting(dialled, facts) && facts.known.contains(&dialled));
        if own || known {
            decision.sign(one.source);
            decision.remember_all(&[*one], facts);
        } else if facts.written.iter().any(|net| net.contains(&one.source)) {
            decision.sign(one.source);
        } else {
            decision.doubtful.entry(one.source).or_default().push(*one);
        }
    }
    // Another connection has already justified this source. The client does not remember the doubtful connections.
    let signed = &decision.sign;
    decision.doubtful.retain(|source, _| !signed.contains(source));
    decision
}

impl Decision {
    /// Signs `source` after the user has agreed.
    pub fn agree(&mut self, source: IpAddr, facts: Facts<'_>) {
        let Some(ways) = self.doubtful.remove(&source) else { return };
        self.sign(source);
        self.remember_all(&ways, facts);
    }

    fn sign(&mut self, source: IpAddr) {
        if !self.sign.contains(&source) {
            self.sign.push(source);
        }
    }

    fn remember_all(&mut self, ways: &[Seen], facts: Facts<'_>) {
        for dialled in ways.iter().filter_map(|way| way.dialled) {
            if is_lasting(dialled, facts) && !self.remember.contains(&dialled) {
                self.remember.push(dialled);
            }
        }
    }
}

/// Whether an address leads to the same machine tomorrow. Any local user may listen on an address of this machine while a forwarding is
/// down. A link-local address belongs to another machine on each link.
fn is_lasting(dialled: IpAddr, facts: Facts<'_>) -> bool {
    let link_local = match dialled {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let here = dialled.is_loopback() || dialled.is_unspecified() || facts.own.contains(&dialled);
    !link_local && !here && !dialled.is_multicast()
}

/// The question to the user about a doubtful `source`. `key` names the host's key.
#[must_use]
pub fn question(source: IpAddr, ways: &[Seen], key: &str) -> String {
    format!(
        "The host sees you as {source}, which is not an address of this machine.\n{}\n  host key: {key}\n\
         If you are behind a NAT or a VPN, {source} is its address, and nothing is wrong. If not, somebody passes this connection\n\
         on, and the port would be opened for that machine.\nSign for {source}?",
        ways.iter().map(way).collect::<Vec<_>>().join("\n")
    )
}

fn way(one: &Seen) -> String {
    let dialled = dialled(one);
    match one.reached {
        Some(reached) if Some(reached) != one.dialled => format!(
            "  dialled:  {dialled}, which is no known address of this host; the host was reached at {reached}, so something between \
             changes the address"
        ),
        Some(_) => format!(
            "  dialled:  {dialled}, which is no known address of this host; the host was reached at the same address"
        ),
        None => format!("  dialled:  {dialled}, which is no known address of this host"),
    }
}

fn dialled(one: &Seen) -> String {
    one.dialled.map_or_else(|| "a Unix socket".to_owned(), |dialled| dialled.to_string())
}

fn all_dialled<'a>(ways: impl IntoIterator<Item = &'a Seen>) -> String {
    let all: BTreeSet<String> = ways.into_iter().map(dialled).collect();
    all.into_iter().collect::<Vec<_>>().join(" and ")
}

/// The note that a doubtful `source` is left out: no terminal, or the user's no (`asked`).
#[must_use]
pub fn left_out(source: IpAddr, ways: &[Seen], asked: bool) -> String {
    let ways = all_dialled(ways);
    if asked {
        return format!("  not included: {source}, as which the host sees you over {ways}; you did not agree to it");
    }
    format!(
        "  not included: {source}, as which the host sees you over {ways}: that is not an address of this machine, and {ways} is no \
         known address of this host. If {source} is the address of your NAT or VPN, add --from {source}"
    )
}

/// The note that the rules of `ports` do not admit `source`.
#[must_use]
pub fn left_out_by_rule(source: IpAddr, ports: &[String]) -> String {
    let ports = text::clean(&ports.join(", "));
    format!("  not included: {source}, for which the host's rules do not open {ports}")
}

/// The failure when the rules admit no source that the host at `address` saw. `refused` has at least one source.
#[must_use]
pub fn not_admitted(refused: &BTreeMap<IpAddr, Vec<String>>, address: &str) -> Failure {
    let each: Vec<_> =
        refused.iter().map(|(source, ports)| format!("{} for {source}", text::clean(&ports.join(", ")))).collect();
    let message = format!(
        "the host's rules do not open {}. It sees you under no other address, so nothing was signed",
        each.join("; ")
    );
    let mut failure = Failure::new(Kind::Refused, message);
    failure.reason = Some(NOT_ALLOWED.to_owned());
    failure.next = advice::next_step(NOT_ALLOWED, address);
    failure
}

const NOT_ALLOWED: &str = "SOURCE_NOT_ALLOWED";

/// The failure when no source is left to sign. `doubtful` has at least one source.
#[must_use]
pub fn refused(doubtful: &BTreeMap<IpAddr, Vec<Seen>>, asked: bool) -> Failure {
    let sources: Vec<_> = doubtful.keys().map(ToString::to_string).collect();
    let (flags, sources) = (sources.join(","), sources.join(" and "));
    if asked {
        return Failure::new(Kind::Identity, format!("you did not agree to {sources}, so nothing was signed")).next(
            format!("find out who passes your connection on. If the address is yours after all, add --from {flags}"),
        );
    }
    let ways = all_dialled(doubtful.values().flatten());
    let message = format!(
        "the host sees this machine as {sources}, which is none of its own addresses, over {ways}, which is no known address of this \
         host. There is no terminal to ask whether that is right. Nothing was signed"
    );
    Failure::new(Kind::Identity, message).next(format!(
        "if {sources} is the address of your NAT or VPN, add --from {flags}, or run this once on a terminal; else somebody passes \
         your connection on: find out who before you sign"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn seen(dialled: &str, source: &str) -> Seen {
        Seen { dialled: Some(ip(dialled)), source: ip(source), reached: Some(ip("192.0.2.1")) }
    }

    const HOST: &str = "192.0.2.1";
    const RELAY: &str = "198.51.100.66";
    const NAT: &str = "203.0.113.9";

    /// A machine with one address, which has dialled `known` before.
    fn decided(seen: &[Seen], known: &[&str], written: &[&str]) -> Decision {
        let own = [ip("127.0.0.1"), ip("10.0.0.2"), ip("2001:db8::2")];
        let known: Vec<_> = known.iter().map(|known| ip(known)).collect();
        let written: Vec<IpNet> = written.iter().map(|net| net.parse().unwrap()).collect();
        decide(seen, Facts { own: &own, known: &known, written: &written })
    }

    #[test]
    fn own_addresses_known_ways_and_written_sources_need_no_question() {
        for (what, seen, known, written, remembered) in [
            ("an own address", seen(HOST, "10.0.0.2"), &[][..], &[][..], true),
            ("an own address in IPv6", seen("2001:db8::1", "2001:db8::2"), &[], &[], true),
            ("somebody who roams", seen(HOST, NAT), &[HOST], &[], true),
            ("somebody who wrote it", seen(RELAY, NAT), &[], &["203.0.113.9/32"], false),
        ] {
            let decision = decided(&[seen], known, written);
            assert_eq!(decision.sign, [seen.source], "{what}");
            assert!(decision.doubtful.is_empty(), "{what}");
            assert_eq!(!decision.remember.is_empty(), remembered, "{what}");
        }
    }

    #[test]
    fn a_new_way_with_a_strange_source_is_doubtful_and_remembered_only_when_a_person_agrees() {
        let relayed = seen(RELAY, RELAY);
        for known in [&[][..], &[HOST]] {
            let mut decision = decided(&[relayed], known, &["192.0.2.7/32"]);
            assert!(decision.sign.is_empty() && decision.remember.is_empty());
            assert_eq!(decision.doubtful[&ip(RELAY)], [relayed]);
            decision.agree(ip(RELAY), Facts { own: &[], known: &[], written: &[] });
            assert_eq!((decision.sign, decision.remember), (vec![ip(RELAY)], vec![ip(RELAY)]));
        }
    }

    #[test]
    fn a_good_way_does_not_vouch_for_another() {
        let (good, relayed) = (seen(HOST, "10.0.0.2"), seen(RELAY, RELAY));
        for ways in [[good, relayed], [relayed, good]] {
            let decision = decided(&ways, &[], &[]);
            assert_eq!(decision.sign, [ip("10.0.0.2")]);
            assert_eq!(decision.remember, [ip(HOST)]);
            assert_eq!(decision.doubtful.into_keys().collect::<Vec<_>>(), [ip(RELAY)]);
        }
    }

    #[test]
    fn a_source_that_a_good_way_has_needs_no_question_but_the_new_way_is_not_remembered() {
        let decision = decided(&[seen(RELAY, NAT), seen(HOST, NAT)], &[HOST], &[]);
        assert_eq!((decision.sign, decision.remember), (vec![ip(NAT)], vec![ip(HOST)]));
        assert!(decision.doubtful.is_empty());
    }

    #[test]
    fn ways_that_lead_elsewhere_tomorrow_are_never_known() {
        for dialled in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.0.7", "fe80::7", "10.0.0.2"] {
            let mut decision = decided(&[seen(dialled, NAT)], &[dialled], &[]);
            assert!(decision.sign.is_empty(), "{dialled}");
            let own = [ip("10.0.0.2")];
            decision.agree(ip(NAT), Facts { own: &own, known: &[], written: &[] });
            assert!(decision.remember.is_empty() && decision.sign == [ip(NAT)], "{dialled}");
        }
        let nowhere = Seen { dialled: None, source: ip(NAT), reached: None };
        assert_eq!(decided(&[nowhere], &[HOST], &[]).doubtful[&ip(NAT)], [nowhere]);
    }

    #[test]
    fn the_words_name_the_addresses_and_what_to_add() {
        let ways = [seen(RELAY, NAT), Seen { dialled: None, source: ip(NAT), reached: None }];
        let question = question(ip(NAT), &ways, "SHA256:key");
        for part in [RELAY, NAT, HOST, "SHA256:key", "NAT", "VPN"] {
            assert!(question.contains(part), "{part}: {question}");
        }
        let doubtful = BTreeMap::from([(ip(NAT), ways.to_vec())]);
        for asked in [false, true] {
            let failure = refused(&doubtful, asked);
            assert_eq!(failure.kind, Kind::Identity);
            assert!(failure.next.is_some_and(|next| next.contains("--from 203.0.113.9")));
        }
        assert!(left_out(ip(NAT), &ways, false).contains("--from 203.0.113.9"));
    }
}
