//! Ports, sources, requests and grants. Owns the domain types and their parsers: a [`Source`] has no host bits, and a [`PortSpec`] is
//! never port 0. [`crate::policy`] decides what is allowed; [`crate::request`] owns the states of a request.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde::{Deserializer, Serializer, de::Error as _};
use uuid::Uuid;

use crate::key::{Address, GrantKey, TCP, UDP};
use crate::refusal::{Reason, Refusal};
use crate::signer::Signer;
use crate::time::{BootNanos, Seconds};

/// The most ports or sources that one request may name.
pub const MOST_ITEMS: usize = 32;

/// A transport protocol, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// TCP and UDP.
    Any,
}

impl Protocol {
    /// The IP protocol numbers.
    #[must_use]
    pub const fn numbers(self) -> &'static [u8] {
        match self {
            Self::Tcp => &[TCP],
            Self::Udp => &[UDP],
            Self::Any => &[TCP, UDP],
        }
    }

    /// The protocol with this IP protocol number; `None` for other than TCP and UDP.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// Whether this protocol includes all of `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self == Self::Any || self == other
    }
}

/// A port with its protocol, written `22/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// 1 to 65535.
    pub number: u16,
    /// The transports.
    pub protocol: Protocol,
}

impl PortSpec {
    /// The (IP protocol, port) pairs.
    pub fn transports(&self) -> impl Iterator<Item = (u8, u16)> + use<> {
        let number = self.number;
        self.protocol.numbers().iter().map(move |&protocol| (protocol, number))
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Any => "any",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) =
            text.split_once('/').ok_or_else(|| format!("'{text}' is not NUMBER/PROTOCOL, for example 22/tcp"))?;
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
        let number = number.parse().ok().filter(|_| digits);
        let number = number.ok_or_else(|| format!("'{text}' does not begin with a port from 1 to 65535"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "any" => Protocol::Any,
            _ => return Err(format!("'{text}' does not end in /tcp, /udp or /any")),
        };
        Ok(Self { number, protocol })
    }
}

/// A prefix that packets may come from: no host bits, not loopback, multicast, unspecified or IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpNet);

impl Source {
    /// The prefix.
    #[must_use]
    pub const fn net(self) -> IpNet {
        self.0
    }

    /// Whether the prefix is a whole address family.
    #[must_use]
    pub fn is_everything(self) -> bool {
        self.0.prefix_len() == 0
    }

    /// The kernel's key for this source on one protocol and port.
    #[must_use]
    pub fn key(self, protocol: u8, port: u16) -> GrantKey {
        GrantKey::new(kernel_address(self.0.addr()), self.0.prefix_len(), protocol, port)
    }
}

/// `address` in the form of the kernel's maps.
#[must_use]
pub fn kernel_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(a) => Address::v4(a.octets()),
        IpAddr::V6(a) => Address::v6(a.octets()),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net: IpNet =
            text.parse().map_err(|_| format!("'{text}' is not a prefix, for example 192.0.2.7/32 or 2001:db8::/64"))?;
        net.try_into().map_err(|why| format!("'{text}' {why}"))
    }
}

impl TryFrom<IpNet> for Source {
    type Error = String;

    fn try_from(net: IpNet) -> Result<Self, String> {
        if net != net.trunc() {
            return Err(format!("has bits set behind its prefix; did you mean {}?", net.trunc()));
        }
        let mapped = "::ffff:0:0/96".parse::<IpNet>().is_ok_and(|m| m.contains(&net));
        let unusable = match net.addr() {
            _ if mapped => Some("an IPv4-mapped IPv6 address; name the IPv4 address instead"),
            a if a.is_loopback() => Some("a loopback address, which is never closed and cannot come from outside"),
            a if a.is_multicast() => Some("a multicast address, which no packet comes from"),
            a if a.is_unspecified() && net.prefix_len() == net.max_prefix_len() => Some("the unspecified address"),
            _ => None,
        };
        unusable.map_or(Ok(Self(net)), |why| Err(format!("is {why}")))
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
serde_as_text!(PortSpec, Source);

/// The fields of every signed payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The replay key.
    pub id: Uuid,
    /// The hosts that the message is for.
    pub audience: Vec<String>,
    /// The moment after which hosts refuse the message.
    pub not_after: Timestamp,
    /// The challenge from `WhoAmI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

/// The requested end of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// This long after the start.
    After(Seconds),
    /// At this moment of the wall clock.
    At(Timestamp),
}

/// A request to open ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// The header; its `id` becomes the grant's.
    pub header: Header,
    /// At least one, no repeats.
    pub ports: Vec<PortSpec>,
    /// At least one, no repeats.
    pub sources: Vec<Source>,
    /// The requested end.
    pub end: End,
    /// The requested start; `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The grant to extend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Uuid>,
    /// The justification.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub justification: String,
    /// A reference into another system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
}

/// A request to end a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRequest {
    /// The common fields.
    pub header: Header,
    /// The grant.
    pub grant_id: Uuid,
    /// The reason.
    pub reason: String,
}

/// Checks a list of a request: not empty, not too long, no repeats.
/// # Errors
/// [`Reason::PayloadMalformed`] at `field`.
pub fn checked_list<T: Ord + Clone>(items: Vec<T>, field: &str) -> Result<Vec<T>, Refusal> {
    let fail = |what: String| Err(Refusal::new(Reason::PayloadMalformed, what).at(field));
    if items.is_empty() || items.len() > MOST_ITEMS {
        return fail(format!("{field} needs 1 to {MOST_ITEMS} items and has {}", items.len()));
    }
    let distinct: std::collections::BTreeSet<_> = items.iter().collect();
    if distinct.len() < items.len() {
        return fail(format!("{field} names something twice"));
    }
    Ok(items)
}

/// The traffic of one grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Packets from the source (an aggregated segment counts once).
    pub packets_in: u64,
    /// Bytes from the source.
    pub bytes_in: u64,
    /// Packets to the source.
    pub packets_out: u64,
    /// Bytes to the source.
    pub bytes_out: u64,
    /// The first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// The last packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

impl Use {
    /// The sum of this and later traffic.
    #[must_use]
    pub fn plus(self, later: Self) -> Self {
        Self {
            packets_in: self.packets_in.saturating_add(later.packets_in),
            bytes_in: self.bytes_in.saturating_add(later.bytes_in),
            packets_out: self.packets_out.saturating_add(later.packets_out),
            bytes_out: self.bytes_out.saturating_add(later.bytes_out),
            first: self.first.or(later.first),
            last: later.last.or(self.last),
        }
    }
}

/// One grant, as the journal records it when it is made; later changes are separate events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The id of the request.
    pub id: Uuid,
    /// The requester.
    pub signer: Signer,
    /// The approvers, who signed the same bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Signer>,
    /// The open ports.
    pub ports: Vec<PortSpec>,
    /// The sources that may use them.
    pub sources: Vec<Source>,
    /// The wall-clock time of acceptance.
    pub created: Timestamp,
    /// The requested start, if any; for the record only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The start. Zero in journals from before scheduled grants: open from the beginning.
    #[serde(default = "no_start")]
    pub starts_boot: BootNanos,
    /// The end by the wall clock at the time of acceptance; for the record only.
    pub expires: Timestamp,
    /// The end that the kernel compares.
    pub expires_boot: BootNanos,
    /// The boot of the boot clock's moments.
    pub boot_id: Uuid,
    /// The index of the kernel's usage counters.
    pub slot: u32,
    /// The grant that this one extends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Uuid>,
    /// The start of the first grant in a chain of extensions; absent for a grant that extends nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_boot: Option<BootNanos>,
    /// The grant closes without a use in this time from its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_use_within: Option<Seconds>,
    /// The grant closes after this long without use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Seconds>,
    /// Whether root on the host opened it without a signature.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// The justification.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub justification: String,
    /// A reference into another system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
}

const fn no_start() -> BootNanos {
    BootNanos(0)
}

impl Grant {
    /// A grant without ports and sources that is over at once. Callers fill in the open parts.
    #[must_use]
    pub const fn of_nothing(id: Uuid, signer: Signer, created: Timestamp, boot_id: Uuid) -> Self {
        Self {
            id,
            signer,
            approvers: Vec::new(),
            ports: Vec::new(),
            sources: Vec::new(),
            created,
            not_before: None,
            starts_boot: BootNanos(0),
            expires: created,
            expires_boot: BootNanos(0),
            boot_id,
            slot: 0,
            supersedes: None,
            chain_boot: None,
            first_use_within: None,
            idle_timeout: None,
            break_glass: false,
            justification: String::new(),
            ticket: String::new(),
        }
    }

    /// Whether `now`, on the grant's own boot, lies between start and end.
    #[must_use]
    pub fn is_live(&self, now: BootNanos) -> bool {
        self.starts_boot <= now && now < self.expires_boot
    }

    /// Whether the host itself or its root opened the grant: every signer's key has a fingerprint.
    #[must_use]
    pub const fn is_unsigned(&self) -> bool {
        self.break_glass || self.signer.fingerprint.is_empty()
    }

    /// The start of the grant's chain of extensions.
    #[must_use]
    pub fn chain_start(&self) -> BootNanos {
        self.chain_boot.unwrap_or(self.starts_boot)
    }

    /// The kernel's keys of this grant.
    pub fn keys(&self) -> impl Iterator<Item = GrantKey> + '_ {
        self.ports.iter().flat_map(move |port| {
            port.protocol
                .numbers()
                .iter()
                .flat_map(move |&protocol| self.sources.iter().map(move |s| s.key(protocol, port.number)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_strictly() {
        assert_eq!("22/tcp".parse(), Ok(PortSpec { number: 22, protocol: Protocol::Tcp }));
        assert_eq!("65535/any".parse::<PortSpec>().unwrap().to_string(), "65535/any");
        for bad in
            ["22", "0/tcp", "65536/tcp", "+22/tcp", "022/tcp", " 22/tcp", "22/TCP", "22/tcp ", "/tcp", "22/", "ssh/tcp"]
        {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_parsed_strictly() {
        for good in ["192.0.2.7/32", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/64", "fe80::1/128", "::/0"] {
            assert_eq!(good.parse::<Source>().unwrap().to_string(), good);
        }
        for bad in [
            "192.0.2.7",
            "192.0.2.7/24",
            "192.0.2.0/33",
            "127.0.0.1/32",
            "::1/128",
            "224.0.0.0/4",
            "ff02::1/128",
            "::ffff:192.0.2.7/128",
            "::ffff:0:0/96",
            "0.0.0.0/32",
            "::/128",
            "",
            "/8",
            "10/8",
        ] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grant_has_a_key_for_each_protocol_port_and_source() {
        let ports: [PortSpec; 2] = ["22/tcp".parse().unwrap(), "53/any".parse().unwrap()];
        let sources: [Source; 2] = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let keys = |p: &PortSpec| p.protocol.numbers().len() * sources.len();
        assert_eq!(ports.iter().map(keys).sum::<usize>(), 6);
    }
}
