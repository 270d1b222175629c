//! The `[api]` section: how people reach the agent.
//!
//! Refuses listeners that nobody could reach (a protected port), and plaintext listeners on a network.

use std::net::SocketAddr;
use std::path::PathBuf;

use postern_core::key::{SynRate, TCP};
use postern_core::policy::PortRule;

use super::keys;
use super::ports::Named;
use super::value::{Section, Value};

/// The `[api]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The Unix socket; root may read there without a signature.
    pub unix: PathBuf,
    /// TLS 1.3 listeners.
    pub tcp: Vec<SocketAddr>,
    /// Listeners without TLS; loopback addresses only.
    pub plaintext: Vec<SocketAddr>,
    /// How fast one source may begin connections to `tcp`; `None` for no limit.
    pub syn_rate: Option<SynRate>,
}

/// One command makes a few connections, and twenty people may share an address. The client's kernel repeats a dropped SYN after a second.
const SYN_RATE: SynRate = SynRate::new(20, 40);
/// A larger limit limits nothing.
const MOST_PER_SECOND: u32 = 100_000;
const MOST_AT_ONCE: u32 = 1_000_000;

impl Default for Api {
    fn default() -> Self {
        Self {
            unix: "/run/postern/posternd.sock".into(),
            tcp: vec![SocketAddr::from(([0u16; 8], 7322))],
            plaintext: Vec::new(),
            syn_rate: Some(SYN_RATE),
        }
    }
}

pub(super) fn read(section: Option<&Section<'_>>, rules: &[PortRule], named: &Named<'_>) -> Api {
    let own = Api::default();
    let get = |key| section.and_then(|section| section.get(key));
    let tcp = get("tcp").map(|value| listeners(&value, rules, false));
    let plaintext = get("plaintext").map(|value| listeners(&value, rules, true));
    if tcp.is_none() {
        for port in own.tcp.iter().map(SocketAddr::port) {
            // A default has no line in the file, so the problem is reported at the port that conflicts.
            if let Some(value) = named.get(&(TCP, port)) {
                value.wrong(closed(port));
            }
        }
    }
    let unix = get("unix").and_then(|value| value.path()).unwrap_or(own.unix);
    let syn_rate = get("syn_rate").map_or(own.syn_rate, |value| syn_rate(&value));
    Api { unix, tcp: tcp.unwrap_or(own.tcp), plaintext: plaintext.unwrap_or_default(), syn_rate }
}

/// `"off"` or `{ per_second = …, burst = … }`. `None` also for a wrong value, which is reported already.
fn syn_rate(value: &Value<'_>) -> Option<SynRate> {
    if !value.is_table() {
        value.choice(&[("off", ())]);
        return None;
    }
    let section = value.section(keys::SYN_RATE)?;
    let burst = section.get("burst").map(|value| value.number(1..=MOST_AT_ONCE));
    let per_second = section.need("per_second")?.number(1..=MOST_PER_SECOND)?;
    Some(SynRate::new(per_second, burst.unwrap_or(Some(2 * per_second))?))
}

fn listeners(value: &Value<'_>, rules: &[PortRule], plaintext: bool) -> Vec<SocketAddr> {
    let read = |item: &Value<'_>| {
        let address: SocketAddr = item.parsed("an address with a port, for example \"[::]:7322\"")?;
        if plaintext && !address.ip().is_loopback() {
            item.wrong(format!("{address} is not a loopback address; use tcp, which speaks TLS"));
        }
        if is_protected(rules, address.port()) {
            item.wrong(closed(address.port()));
        }
        Some(address)
    };
    value.list(read).unwrap_or_default()
}

fn is_protected(rules: &[PortRule], port: u16) -> bool {
    port != 0 && rules.iter().any(|r| r.port.number == port && r.port.protocol.numbers().contains(&TCP))
}

fn closed(port: u16) -> String {
    format!("tcp port {port} is the API's own and a protected [[port]]: nobody could ask for it")
}
