//! HOST on the command line: its grammar. Never resolves or connects.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// The TLS port of the API.
pub const DEFAULT_PORT: u16 = 7322;

const DEFAULT_PLAINTEXT_PORT: u16 = 7323;

/// The place of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TLS 1.3 over TCP: `host`, `host:port`, `[v6]:port`.
    Tls {
        /// A name or an address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Plaintext, loopback only: `http://127.0.0.1:7323`.
    Plaintext(SocketAddr),
    /// A Unix socket: `unix:///path`.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return unix(path);
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return plaintext(rest);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(format!("{scheme}:// is not a way to reach a host; for TLS write just {rest}"));
        }
        let (host, port) = split(text, DEFAULT_PORT)?;
        check_name(&host)?;
        Ok(Self::Tls { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "{host}:{port}"),
            Self::Plaintext(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn unix(path: &str) -> Result<Target, String> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err("a Unix socket needs an absolute path: unix:///run/postern/posternd.sock".to_owned());
    }
    Ok(Target::Unix(path.into()))
}

/// Only loopback: anywhere else, machines in between could read and keep the messages.
fn plaintext(rest: &str) -> Result<Target, String> {
    let (host, port) = split(rest.trim_end_matches('/'), DEFAULT_PLAINTEXT_PORT)?;
    let address = match host.as_str() {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other.parse().map_err(|_| format!("http:// needs a loopback address, not {other:?}"))?,
    };
    if !address.is_loopback() {
        return Err(format!("http:// is for loopback only; for {address} leave it out and TLS is used"));
    }
    Ok(Target::Plaintext(SocketAddr::new(address, port)))
}

fn split(text: &str, default: u16) -> Result<(String, u16), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the closing ] is missing")?;
        let bare = host.split('%').next().unwrap_or(host);
        bare.parse::<Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
        return match after {
            "" => Ok((host.to_owned(), default)),
            _ => Ok((host.to_owned(), number(after.strip_prefix(':').ok_or("after ] only :PORT may follow")?)?)),
        };
    }
    match text.matches(':').count() {
        0 => Ok((text.to_owned(), default)),
        1 if text.starts_with("unix:/") => {
            let socket = text.trim_start_matches("unix:");
            Err(format!("a Unix socket is written with three slashes: unix://{socket}"))
        }
        1 => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            Ok((host.to_owned(), number(port)?))
        }
        _ if text.split('%').next().is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok()) => {
            Ok((text.to_owned(), default))
        }
        _ => Err(format!("{text:?} is neither host:port nor an IPv6 address")),
    }
}

fn number(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{text:?} is not a TCP port (1 to 65535)")),
    }
}

fn check_name(host: &str) -> Result<(), String> {
    if host.contains('@') {
        return Err("there is no user before the host: who you are is what you sign with (--key)".to_owned());
    }
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(allowed) {
        return Err(format!("{host:?} is not a host name or address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Target>().map_or_else(|error| format!("error: {error}"), |target| target.to_string())
    }

    #[test]
    fn all_forms_have_one_canonical_form() {
        for (typed, canonical) in [
            ("vm1.example.com", "vm1.example.com:7322"),
            ("vm1:9000", "vm1:9000"),
            ("192.0.2.1", "192.0.2.1:7322"),
            ("2001:db8::1", "[2001:db8::1]:7322"),
            ("[2001:db8::1]", "[2001:db8::1]:7322"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("fe80::1%eth0", "[fe80::1%eth0]:7322"),
            ("unix:///run/postern/posternd.sock", "unix:///run/postern/posternd.sock"),
            ("http://127.0.0.1:7323", "http://127.0.0.1:7323"),
            ("http://localhost", "http://127.0.0.1:7323"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(shown(typed), canonical, "{typed}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for typed in [
            "",
            "-x",
            "a b",
            "vm1:",
            "vm1:0",
            "vm1:70000",
            "vm1:ssh",
            "a:b:c",
            "[::1",
            "[vm1]:1",
            "[::1]x",
            "bob@vm1",
            "https://vm1",
            "http://192.0.2.1",
            "http://vm1",
            "unix://relative",
            "unix:/run/postern/posternd.sock",
            "unix://",
        ] {
            assert!(shown(typed).starts_with("error: "), "{typed} → {}", shown(typed));
        }
    }
}
