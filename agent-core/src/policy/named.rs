//! Names and numbers of ports in requests. Owns the order of meanings: number, name of a `[[port]]`, name of a service. It never decides
//! who may request the ports.

use std::net::IpAddr;

use super::{Policy, PortRule};
use crate::grant::{PortSpec, Protocol, Source};
use crate::text::services;

impl Policy {
    /// The ports that `text` means on this host; empty if no port has this name. Exact names come first; then ASCII case does not matter.
    ///
    /// - `22/tcp` (or `/udp`, `/any`) means exactly this port, protected or not.
    /// - `22` means this port with all its protected protocols; `22/tcp` if it is not protected.
    /// - A name means every `[[port]]` of this name, with its protocols; else the number in [`services::SERVICES`].
    /// - `NAME/udp` means the same ports with this protocol only.
    #[must_use]
    pub fn meant(&self, text: &str) -> Vec<PortSpec> {
        // A number has precedence over a `[[port]]` with digits as its name.
        if let Ok(port) = text.parse() {
            return vec![port];
        }
        if let Some(number) = number(text) {
            return self.with_number(number);
        }
        let whole = self.with_name(text);
        match text.rsplit_once('/').and_then(|(name, protocol)| Some((name, of_name(protocol)?))) {
            Some((name, protocol)) if whole.is_empty() => narrowed(self.with_name(name), protocol),
            _ => whole,
        }
    }

    /// Whether the ports' own rules allow `ports` from the source `address`. An unprotected port counts as allowed: the judge refuses it.
    #[must_use]
    pub fn ports_admit(&self, ports: &[PortSpec], address: IpAddr) -> bool {
        let Ok(source) = Source::try_from(ipnet::IpNet::from(address.to_canonical())) else { return true };
        ports.iter().filter_map(|&port| self.rule(port)).all(|(_, rule)| rule.admits(source))
    }

    fn with_name(&self, name: &str) -> Vec<PortSpec> {
        let named = |fits: &dyn Fn(&str) -> bool| -> Vec<PortSpec> {
            self.ports.iter().filter(|rule| !rule.name.is_empty() && fits(&rule.name)).map(|rule| rule.port).collect()
        };
        let exactly = named(&|other| other == name);
        let found = if exactly.is_empty() { named(&|other| other.eq_ignore_ascii_case(name)) } else { exactly };
        match services::port_of(&name.to_ascii_lowercase()) {
            Some(number) if found.is_empty() => self.with_number(number),
            _ => found,
        }
    }

    fn with_number(&self, number: u16) -> Vec<PortSpec> {
        let own = |rule: &PortRule| (rule.port.number == number).then_some(rule.port);
        let found: Vec<_> = self.ports.iter().filter_map(own).collect();
        if found.is_empty() { vec![PortSpec { number, protocol: Protocol::Tcp }] } else { found }
    }
}

fn narrowed(ports: Vec<PortSpec>, protocol: Protocol) -> Vec<PortSpec> {
    let mut numbers: Vec<_> = ports.into_iter().map(|port| port.number).collect();
    numbers.dedup();
    numbers.into_iter().map(|number| PortSpec { number, protocol }).collect()
}

fn number(text: &str) -> Option<u16> {
    format!("{text}/tcp").parse().ok().map(|port: PortSpec| port.number)
}

fn of_name(protocol: &str) -> Option<Protocol> {
    format!("1/{}", protocol.to_ascii_lowercase()).parse().ok().map(|port: PortSpec| port.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, &str)]) -> Policy {
        let rule =
            |(port, name): &(&str, &str)| PortRule { name: (*name).to_owned(), ..PortRule::new(port.parse().unwrap()) };
        Policy { ports: rules.iter().map(rule).collect(), ..Policy::default() }
    }

    fn shown(policy: &Policy, text: &str) -> String {
        policy.meant(text).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn numbers_come_first_then_names_of_the_host_then_names_of_services() {
        let policy = policy(&[
            ("2222/tcp", "ssh"),
            ("2223/tcp", "gitssh"),
            ("3389/any", "desktop"),
            ("53/tcp", "dns"),
            ("53/udp", "dns"),
            ("161/udp", "SNMP"),
            ("99/tcp", "22"),
            ("98/tcp", "a/udp"),
        ]);
        for (text, meant) in [
            ("ssh", "2222/tcp"),
            ("SSH", "2222/tcp"),
            ("gitssh", "2223/tcp"),
            ("gitssh/tcp", "2223/tcp"),
            ("22", "22/tcp"),
            ("22/tcp", "22/tcp"),
            ("rdp", "3389/any"),
            ("desktop", "3389/any"),
            ("desktop/udp", "3389/udp"),
            ("3389", "3389/any"),
            ("3389/tcp", "3389/tcp"),
            ("dns", "53/tcp 53/udp"),
            ("dns/udp", "53/udp"),
            ("dns/ANY", "53/any"),
            ("53", "53/tcp 53/udp"),
            ("snmp", "161/udp"),
            ("161", "161/udp"),
            ("a/udp", "98/tcp"),
            ("a", ""),
            ("mysql", "3306/tcp"),
            ("no-such", ""),
            ("", ""),
            ("/tcp", ""),
            ("0", ""),
            ("022", ""),
            ("65536", ""),
            ("22/sctp", ""),
            ("22/any", "22/any"),
        ] {
            assert_eq!(shown(&policy, text), meant, "{text:?}");
        }
    }

    #[test]
    fn a_port_without_a_name_has_none() {
        let policy = policy(&[("2222/tcp", "")]);
        assert_eq!(shown(&policy, ""), "");
        assert_eq!(shown(&policy, "2222"), "2222/tcp");
    }

    #[test]
    fn ports_admit_what_their_rules_admit() {
        let mut policy = policy(&[("22/tcp", "ssh"), ("23/tcp", "")]);
        policy.ports[0].allowed_sources = Some(vec!["10.0.0.0/8".parse().unwrap()]);
        let admits = |ports: &[&str], address: &str| {
            let ports: Vec<PortSpec> = ports.iter().map(|port| port.parse().unwrap()).collect();
            policy.ports_admit(&ports, address.parse().unwrap())
        };
        assert!(admits(&["22/tcp"], "10.0.0.1") && admits(&["22/tcp"], "::ffff:10.0.0.1"));
        assert!(!admits(&["22/tcp"], "192.0.2.1") && !admits(&["22/tcp"], "2001:db8::1"));
        assert!(!admits(&["23/tcp", "22/tcp"], "2001:db8::1") && admits(&["23/tcp"], "2001:db8::1"));
        assert!(admits(&["99/tcp"], "2001:db8::1"), "a port that is not protected says nothing");
        assert!(admits(&["22/tcp"], "127.0.0.1"), "no source at all is refused elsewhere");
    }
}
