//! Resolves typed ports to numbers, which alone go into messages: by the host's answer, else by the table of services.

use postern_core::text::services::{SERVICES, port_of};

use crate::{
    failure::{Failure, Result},
    statement::Meaning,
    text,
};

/// A typed port and its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The text that the user typed, checked by [`crate::parse::port`].
    pub typed: String,
    /// At least one port such as `22/tcp` or `3389/any`.
    pub ports: Vec<String>,
}

/// Resolves by the answers of the host at `address`, one for each of `typed` in order. A posternd that is too old to answer gives none;
/// then the table decides.
///
/// # Errors
/// Fails with [`crate::failure::Kind::Usage`] if the host has no port of that name.
pub fn on_host(typed: &[String], answers: &[Meaning], address: &str) -> Result<Vec<Port>> {
    if answers.is_empty() {
        return typed.iter().map(|typed| by_table(typed, address)).collect();
    }
    let meant = |(typed, answer): (&String, &Meaning)| {
        // A typed number keeps its meaning whatever the host answers.
        let is_meant =
            |port: &&String| number(typed).is_none() || same(typed, port) && (*port == typed || !typed.contains('/'));
        let ports: Vec<_> = answer.ports.iter().filter(is_meant).cloned().collect();
        match ports.is_empty() {
            true if number(typed).is_some() => by_table(typed, address),
            true => Err(unknown(typed, address)),
            false => Ok(Port { typed: typed.clone(), ports }),
        }
    };
    typed.iter().zip(answers).map(meant).collect()
}

/// Resolves by the table alone, without a host.
///
/// # Errors
/// Fails with [`crate::failure::Kind::Usage`] if a name is not in the table.
pub fn offline(typed: &[String]) -> Result<Vec<Port>> {
    let meant = |typed: &String| {
        let port = of_table(typed).map(|port| Port { typed: typed.clone(), ports: vec![port] });
        port.ok_or_else(|| {
            let message = format!(
                "no host is asked, so {typed:?} can only be a number or one of the names that every host has{}",
                near(typed)
            );
            Failure::usage(message)
                .next(format!("write the number, for example --port 22/tcp, or name a HOST; {NAMES}"))
        })
    };
    typed.iter().map(meant).collect()
}

/// Each port once, without ports that another one contains, as `3389/any` contains `3389/tcp`.
#[must_use]
pub fn all(ports: &[Port]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for port in ports.iter().flat_map(|port| &port.ports) {
        if !found.contains(port) {
            found.push(port.clone());
        }
    }
    let both: Vec<_> = found.iter().filter_map(|port| port.strip_suffix("/any")).map(str::to_owned).collect();
    found.retain(|port| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
        protocol == "any" || !both.iter().any(|both| both == number)
    });
    found
}

/// A line about each typed port that does not itself name its number.
#[must_use]
pub fn told(ports: &[Port]) -> Option<String> {
    let mut told: Vec<String> = Vec::new();
    for Port { typed, ports } in ports {
        if ports.as_slice() == [typed.clone()] || ports.as_slice() == [format!("{typed}/tcp")] {
            continue;
        }
        let usual = of_table(typed).filter(|usual| number(typed).is_none() && !ports.iter().any(|p| same(p, usual)));
        let usual = usual.map(|usual| format!(" on this host, and not {usual}")).unwrap_or_default();
        let both = if ports.iter().any(|port| port.ends_with("/any")) { " (tcp and udp)" } else { "" };
        told.push(format!("{} is {}{both}{usual}", text::clean(typed), ports.join(" and ")));
    }
    (!told.is_empty()).then(|| told.join("; "))
}

const NAMES: &str = "the names are those in docs/configuration.md, \"Names of services\"";

/// Whether both have the same number.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    one.split('/').next() == other.split('/').next()
}

fn by_table(typed: &str, address: &str) -> Result<Port> {
    let port = of_table(typed).map(|port| Port { typed: typed.to_owned(), ports: vec![port] });
    port.ok_or_else(|| {
        let message = format!("{address} does not say what {typed:?} means: its posternd is older than this client");
        Failure::usage(message).next(format!("write the number, for example --port 22/tcp; {NAMES}"))
    })
}

fn unknown(typed: &str, address: &str) -> Failure {
    let message = format!("{address} has no port with the name {typed:?}{}", near(typed));
    Failure::usage(message)
        .next(format!("write its number, for example --port 22/tcp, or see the names: postern policy show {address}"))
}

/// `ssh`, `22`, `ssh/udp` or `22/tcp` as `NUMBER/PROTOCOL`. The default protocol is tcp.
fn of_table(typed: &str) -> Option<String> {
    let lower = typed.to_ascii_lowercase();
    let (name, protocol) = lower.rsplit_once('/').unwrap_or((&lower, "tcp"));
    let number = number(name).or_else(|| port_of(name))?;
    matches!(protocol, "tcp" | "udp" | "any").then(|| format!("{number}/{protocol}"))
}

fn number(text: &str) -> Option<u16> {
    text.split('/').next().unwrap_or_default().parse().ok()
}

/// `; did you mean ssh?`, or nothing.
fn near(typed: &str) -> String {
    let typed = typed.to_ascii_lowercase();
    let is_near =
        |name: &str| name != typed && (name.starts_with(&typed) || typed.starts_with(name) || one_edit(name, &typed));
    let found = SERVICES.iter().find(|(name, _)| typed.len() > 1 && is_near(name));
    found.map(|(name, number)| format!("; did you mean {name} ({number})?")).unwrap_or_default()
}

/// Whether one letter is missing, added, changed, or swapped with its neighbour.
fn one_edit(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let start = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let (a, b) = (&one[start..], &other[start..]);
    let rest = |letters: &[char], at: usize| letters.get(at..).map(<[char]>::to_vec);
    let swapped = a.len() > 1 && b.len() > 1 && a[0] == b[1] && a[1] == b[0] && a[2..] == b[2..];
    swapped || rest(a, 1) == rest(b, 0) || rest(a, 0) == rest(b, 1) || (!a.is_empty() && rest(a, 1) == rest(b, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    fn typed(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn answer(ports: &[&str]) -> Meaning {
        Meaning { ports: typed(ports), admitted: true }
    }

    #[test]
    fn the_host_decides_and_each_port_is_signed_once() {
        let texts = typed(&["ssh", "rdp", "3389/tcp", "53"]);
        let answers =
            [answer(&["2222/tcp"]), answer(&["3389/any"]), answer(&["3389/tcp"]), answer(&["53/tcp", "53/udp"])];
        let ports = on_host(&texts, &answers, "vm1:7322").unwrap();
        assert_eq!(all(&ports), ["2222/tcp", "3389/any", "53/tcp", "53/udp"]);
        let told = told(&ports).unwrap();
        for part in
            ["ssh is 2222/tcp on this host, and not 22/tcp", "rdp is 3389/any (tcp and udp)", "53 is 53/tcp and 53/udp"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(super::told(&on_host(&typed(&["22"]), &[answer(&["22/tcp"])], "vm1").unwrap()), None);
        let lies = [answer(&["3389/tcp"]), answer(&["22/tcp", "3389/tcp"]), answer(&[])];
        let numbers = on_host(&typed(&["22/tcp", "22", "23"]), &lies, "vm1").unwrap();
        assert_eq!(all(&numbers), ["22/tcp", "23/tcp"], "a number stays that number");
        let failure = on_host(&typed(&["shh"]), &[answer(&[])], "vm1:7322").unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.message.contains("did you mean ssh (22)?"), "{failure}");
    }

    #[test]
    fn without_an_answer_the_table_decides() {
        for (text, port) in [
            ("SSH", "22/tcp"),
            ("postgresql", "5432/tcp"),
            ("rdp/udp", "3389/udp"),
            ("22", "22/tcp"),
            ("53/udp", "53/udp"),
        ] {
            assert_eq!(all(&on_host(&typed(&[text]), &[], "vm1").unwrap()), [port], "{text}");
            assert_eq!(all(&offline(&typed(&[text])).unwrap()), [port], "{text}");
        }
        for text in ["gitssh", "ssh/sctp", "22-25"] {
            assert_eq!(on_host(&typed(&[text]), &[], "vm1").unwrap_err().kind, Kind::Usage, "{text}");
            assert_eq!(offline(&typed(&[text])).unwrap_err().kind, Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_right_is_named() {
        for (typed, meant) in [("shh", "ssh"), ("ss", "ssh"), ("sshd", "ssh"), ("mysq", "mysql"), ("rpd", "rdp")] {
            assert!(near(typed).contains(&format!("did you mean {meant} (")), "{typed}: {}", near(typed));
        }
        assert_eq!(near("a"), "");
        assert_eq!(near("gitea"), "");
    }
}
