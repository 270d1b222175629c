//! Keeps the host's own connections off the protected ports.
//!
//! Owns `net.ipv4.ip_local_reserved_ports` (which serves IPv6 too): a connection that got a protected port as its source port
//! would be cut. It adds to what the administrator wrote there and takes nothing away.

use std::collections::BTreeSet;
use std::{fs, io};

/// Of the network namespace of the thread that opens it.
const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Reserves `ports`.
///
/// # Errors
/// When the setting cannot be read or written. Then an outgoing connection may, rarely, get a protected port and fail.
pub fn reserve(ports: &[u16]) -> io::Result<()> {
    let text = fs::read_to_string(PATH)?;
    let missing: Vec<_> = missing(text.trim(), ports).iter().map(u16::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let separator = if text.trim().is_empty() { "" } else { "," };
    fs::write(PATH, format!("{}{separator}{}\n", text.trim(), missing.join(",")))
}

/// Those of `ports` that `list` (as the kernel writes it: `80,5000-5002`) does not hold.
fn missing(list: &str, ports: &[u16]) -> BTreeSet<u16> {
    let holds = |part: &str, port: u16| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
    };
    ports.iter().copied().filter(|port| !list.split(',').any(|part| holds(part.trim(), *port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        assert_eq!(missing("", &[22, 3389, 22]), [22, 3389].into());
        assert_eq!(missing("80,5000-5002", &[22, 80, 5000, 5001, 5002, 5003]), [22, 5003].into());
        assert_eq!(missing("1-65535", &[22]), [].into());
    }
}
