//! The topology: two hosts and the wire between them, with addresses that every test knows by name.
//!
//! Never starts a firewall or a service: tests add those.

use crate::netns::Netns;
use crate::sys;
use crate::wire::Wire;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

/// Hardware address of the server's `eth0`.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Hardware address of the client's `eth0`.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// One host's address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// The host with the number `host` in `10.1.0.0/16` and `fd00:1::/64`.
    #[must_use]
    pub const fn number(host: u8) -> Self {
        // fd00:1::10 and 10.1.0.10 look alike to a reader.
        let digits = (host / 10) as u16 * 16 + (host % 10) as u16;
        Self { v4: Ipv4Addr::new(10, 1, 0, host), v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, digits) }
    }

    /// Both addresses, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The address of the same family as `other`.
    #[must_use]
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// The server, on its `eth0`.
pub const SERVER: Host = Host::number(1);
/// The server's address on another interface (`lo`), which the client reaches through `eth0`.
pub const SERVER_OTHER: Host = Host::number(5);
/// The client's first address, which never has a grant.
pub const STRANGER: Host = Host::number(2);
/// The client's address that tests grant access to.
pub const GRANTED: Host = Host::number(10);
/// The address beside the granted one, which must stay out.
pub const NEIGHBOUR: Host = Host::number(11);
/// An address on the wire that no host has: the server finds the client's hardware behind it, but the client's kernel
/// neither answers nor resets what comes for it. For handshakes by hand.
pub const PHANTOM: Host = Host::number(20);
/// Link-local address of the server's `eth0`.
pub const SERVER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
/// Link-local address of the client's `eth0`.
pub const CLIENT_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2);

/// Two hosts joined by a veth pair.
#[derive(Debug)]
pub struct Net {
    /// Where probes come from.
    pub client: Netns,
    /// Where services and posternd run.
    pub server: Netns,
}

impl Net {
    /// Makes both namespaces and the wire; everything is up and reachable when it returns.
    ///
    /// # Panics
    /// Where the kernel or `ip` refuses.
    #[must_use]
    pub fn pair() -> Self {
        let (client, server) = (Netns::new(), Netns::new());
        join(&client, "eth0", CLIENT_MAC, &server, "eth0", SERVER_MAC);
        for (namespace, device, hosts) in [
            (&client, "eth0", &[STRANGER, GRANTED, NEIGHBOUR][..]),
            (&server, "eth0", &[SERVER]),
            (&server, "lo", &[SERVER_OTHER]),
        ] {
            let lines = hosts.iter().map(|host| addresses(*host, device, device == "lo")).collect::<String>();
            namespace.ip(&lines);
        }
        // The client's way to the server's other address; on-link it would be for IPv4 anyway, and IPv6 neighbour
        // discovery asks for addresses of other interfaces in vain.
        client.ip(&format!("route add {}/128 via {}", SERVER_OTHER.v6, SERVER.v6));
        let mac = text(CLIENT_MAC);
        server.ip(&format!(
            "neigh add {} lladdr {mac} dev eth0 nud permanent\nneigh add {} lladdr {mac} dev eth0 nud permanent",
            PHANTOM.v4, PHANTOM.v6
        ));
        // The kernel completes addresses of IPv6 in a work queue, after `ip` has returned.
        for (namespace, from, to) in
            [(&client, GRANTED, SERVER), (&client, STRANGER, SERVER_OTHER), (&server, SERVER, SERVER_OTHER)]
        {
            namespace.wait_until_routed(from.v4.into(), to.v4.into());
            namespace.wait_until_routed(from.v6.into(), to.v6.into());
        }
        Self { client, server }
    }

    /// The client's end of the wire, for raw frames.
    ///
    /// # Panics
    /// Where the kernel refuses a packet socket.
    #[must_use]
    pub fn client_wire(&self) -> Wire {
        self.client.run(|| Wire::open("eth0")).expect("a packet socket")
    }

    /// The server's end of the wire, for raw frames.
    ///
    /// # Panics
    /// Where the kernel refuses a packet socket.
    #[must_use]
    pub fn server_wire(&self) -> Wire {
        self.server.run(|| Wire::open("eth0")).expect("a packet socket")
    }

    /// A machine behind the client, which routes for the machine and puts [`GRANTED`] in place of the machine's addresses.
    ///
    /// # Panics
    /// Where the kernel, `ip` or `nft` refuses.
    #[must_use]
    pub fn behind_a_nat(&self) -> Netns {
        let home = Netns::new();
        join(&home, "eth0", [2, 0, 0, 0, 7, 2], &self.client, "inside", [2, 0, 0, 0, 7, 1]);
        home.ip("addr add 192.168.77.2/24 dev eth0\naddr add fd77::2/64 dev eth0 nodad\n\
             route add default via 192.168.77.1\nroute add default via fd77::1");
        self.client.ip("addr add 192.168.77.1/24 dev inside\naddr add fd77::1/64 dev inside nodad");
        self.client.sysctl("net/ipv4/ip_forward", "1");
        self.client.sysctl("net/ipv6/conf/all/forwarding", "1");
        self.client.nft(&format!(
            "table inet hop {{\nchain out {{\ntype nat hook postrouting priority 100\n\
             oifname \"eth0\" ip saddr 192.168.77.0/24 snat ip to {}\n\
             oifname \"eth0\" ip6 saddr fd77::/64 snat ip6 to {}\n}}\n}}\n",
            GRANTED.v4, GRANTED.v6
        ));
        home
    }
}

fn addresses(host: Host, device: &str, alone: bool) -> String {
    let (v4, v6) = if alone { (32, 128) } else { (16, 64) };
    format!("addr add {}/{v4} dev {device}\naddr add {}/{v6} dev {device} nodad\n", host.v4, host.v6)
}

/// Joins two namespaces by a veth pair with these names and hardware addresses. Both ends are up.
///
/// # Panics
/// Where the kernel refuses, or the devices do not come up.
pub fn join(one: &Netns, name: &str, mac: [u8; 6], two: &Netns, other_name: &str, other_mac: [u8; 6]) {
    let (mac, other_mac) = (text(mac), text(other_mac));
    one.ip(&format!(
        "link add {name} address {mac} type veth peer name {other_name} address {other_mac} netns {}\n\
         link set {name} up",
        two.path()
    ));
    two.ip(&format!("link set {other_name} up"));
    one.wait_until_running(name);
    two.wait_until_running(other_name);
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Has a listener complete a connection only when its first data arrives: until then the client believes in a connection that
/// is a half-open request at the server.
///
/// # Panics
/// Where the kernel refuses.
pub fn defer_accept(listener: &TcpListener) {
    sys::defer_accept(listener.as_fd()).expect("TCP_DEFER_ACCEPT");
}

/// Has a connected UDP socket be unconnected again (`connect(2)` with `AF_UNSPEC`).
///
/// # Panics
/// Where the kernel refuses.
pub fn disconnect(socket: &UdpSocket) {
    sys::disconnect(socket.as_fd()).expect("to disconnect");
}

/// The index of one of the namespace's interfaces.
///
/// # Panics
/// Where there is none with this name.
#[must_use]
pub fn interface_index(namespace: &Netns, name: &str) -> u32 {
    namespace.run(|| sys::interface_index(name)).expect("an interface")
}
