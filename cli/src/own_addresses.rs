//! The addresses of this machine, from the kernel.

use std::{io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};

/// All IPv4 and IPv6 addresses of this network namespace, also of interfaces that are down or in a VRF: no other machine has them.
///
/// # Errors
/// Fails if the kernel does not list the addresses.
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

/// The IP address in `of`, an IPv4-mapped one as IPv4. None for another family, such as a hardware address.
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
        // To bind a link-local address, the test would need the number of its interface.
        for address in own.iter().filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())) {
            UdpSocket::bind((*address, 0)).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        assert!(own.iter().all(|address| *address == address.to_canonical()));
    }
}
