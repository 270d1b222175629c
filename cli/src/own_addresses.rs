//! The addresses of this machine.
//!
//! Owns the question to the kernel. It never decides what follows from an address.

use std::{io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

/// All addresses of all interfaces in this network namespace, IPv4 and IPv6. Interfaces of a VRF and interfaces that are down count
/// as well: the kernel gives their addresses to nobody else.
///
/// # Errors
/// When the kernel does not answer.
pub fn of_this_machine() -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for interface in getifaddrs().map_err(io::Error::from)? {
        let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
        if !found.contains(&address) {
            found.push(address);
        }
    }
    Ok(found)
}

/// The address in `of`, an IPv4-mapped one as IPv4; none where `of` is of another family, such as a hardware address.
fn ip(of: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = of.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    let v6 = || of.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
    v4.or_else(v6).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_addresses_that_the_kernel_binds_are_found() {
        let own = of_this_machine().unwrap();
        assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
        // A link-local address needs the number of its interface, which is not asked for here.
        for address in own.iter().filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())) {
            UdpSocket::bind((*address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        assert!(own.iter().all(|address| *address == address.to_canonical()));
    }
}
