//! The TCP addresses of the API, bound and not bound.
//!
//! Owns the tries to bind them, and the check whether they still belong to the host. An address that fails never stops the others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::TcpListener;

use super::listen;
use crate::config;
use crate::system::sockets;

/// The pause before the second try. It doubles until [`LONGEST_PAUSE`]: one try takes three system calls.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenAddress {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    /// Whether the configuration has the same port on an IPv4 address.
    beside_v4: bool,
}

/// The state of the TCP addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// The addresses with TLS, with the real port for a configured port 0.
    pub tls: Vec<SocketAddr>,
    /// The addresses without TLS.
    pub plaintext: Vec<SocketAddr>,
    /// The addresses with TLS that other hosts can reach: no loopback, and both families if one socket serves both.
    pub reachable: Vec<SocketAddr>,
    /// The addresses that are not bound, why, and what to do, as a sentence.
    pub shut: Option<String>,
}

#[derive(Debug)]
pub(super) struct Shut {
    pub(super) listen_address: ListenAddress,
    why: String,
}

impl ListenAddress {
    pub(super) fn all(api: &config::Api) -> Vec<Self> {
        let beside_v4 = |address: &SocketAddr| {
            let others = api.tcp.iter().chain(&api.plaintext);
            let same_port = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
            address.port() != 0 && others.into_iter().any(same_port)
        };
        let listen_address =
            |tls| move |address: &SocketAddr| Self { address: *address, tls, beside_v4: beside_v4(address) };
        api.tcp.iter().map(listen_address(true)).chain(api.plaintext.iter().map(listen_address(false))).collect()
    }

    /// Binds the address. If the kernel has no IPv6, `[::]` becomes `0.0.0.0` with the same port.
    pub(super) fn open(self) -> Result<TcpListener, Shut> {
        let Self { address, tls, beside_v4 } = self;
        if !tls && !address.ip().is_loopback() {
            let why = format!("{address}: without TLS only loopback addresses are served; write it under api.tcp");
            return Err(Shut { listen_address: self, why });
        }
        let bound = match listen::tcp(address, beside_v4 || !tls) {
            Err(error) if no_ipv6(&error) && address.ip().is_unspecified() && !beside_v4 => {
                listen::tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()), true)
            }
            other => other,
        };
        bound.map_err(|error| Shut {
            listen_address: self,
            why: format!("{address}: {error}; {}", advice(&error, address)),
        })
    }
}

/// Whether the kernel has no IPv6 sockets (`ipv6.disable=1`).
fn no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn advice(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process holds the port: `ss -ltnp sport = :{port}` names that process; end it. A port below 1024 keeps users of \
             this host off it (docs/configuration.md, \"A port that nobody can take\")"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "no interface has this address: give it to an interface, or change api.tcp. (An address inside a VRF cannot be bound by itself: \
             write [::] under api.tcp and set net.ipv4.tcp_l3mdev_accept to 1)"
                .to_owned()
        }
        io::ErrorKind::InvalidInput if is_link_local(address) => format!(
            "a link-local address needs the number of its interface (ip link shows it): for the interface 2 write [{}%2]:{port}",
            address.ip()
        ),
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE (docs/configuration.md, \"A port that nobody can take\")"
                .to_owned()
        }
        _ if no_ipv6(error) => "this kernel has no IPv6: write an IPv4 address under api.tcp".to_owned(),
        _ => "see api.tcp and api.plaintext of the configuration".to_owned(),
    }
}

/// Whether the address is in `fe80::/10` and has no interface.
fn is_link_local(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(address) if address.ip().is_unicast_link_local() && address.scope_id() == 0)
}

/// The sentence about the addresses that are not bound, and about those that the host does not have any more.
pub(super) fn sentence(shut: &[Shut], gone: &[SocketAddr]) -> Option<String> {
    let gone = gone.iter().map(|address| {
        format!(
            "{address}: no interface has this address any more: posternd serves the address as soon as it is back; give it to an \
             interface, or change api.tcp"
        )
    });
    let each: Vec<_> = shut.iter().map(|shut| shut.why.clone()).chain(gone).collect();
    let all = each.join("; ");
    (!each.is_empty()).then(|| {
        format!("posternd cannot listen on every address of the API, and tries again every few seconds: {all}")
    })
}

/// Binds the `shut` addresses and checks the `open` ones, with pauses. Never ends. `changed` gets the new listeners and the new sentence.
pub(super) async fn watch(
    mut shut: Vec<Shut>,
    mut open: Vec<ListenAddress>,
    mut changed: impl FnMut(Vec<(ListenAddress, TcpListener)>, Option<String>),
) {
    let mut pause = FIRST_PAUSE;
    // An unspecified address always belongs to the host.
    while !shut.is_empty() || open.iter().any(|listen_address| !listen_address.address.ip().is_unspecified()) {
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
        let mut fresh = Vec::new();
        let mut left = Vec::new();
        for Shut { listen_address, .. } in shut {
            match listen_address.open() {
                Ok(listener) => fresh.push((listen_address, listener)),
                Err(still) => left.push(still),
            }
        }
        shut = left;
        open.extend(fresh.iter().map(|(listen_address, _)| *listen_address));
        // A listener stays bound while the host lacks its address, and serves the address again when it comes back.
        let gone: Vec<_> = open
            .iter()
            .map(|listen_address| listen_address.address)
            .filter(|address| sockets::is_missing(*address))
            .collect();
        changed(fresh, sentence(&shut, &gone));
    }
    std::future::pending().await
}

impl Listeners {
    pub(super) fn add(&mut self, listen_address: ListenAddress, listener: &TcpListener) {
        let own = listener.local_addr().into_iter();
        if listen_address.tls {
            self.tls.extend(own);
            self.reachable.extend(listen::reachable(listener));
        } else {
            self.plaintext.extend(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    use super::*;

    fn listeners(tcp: &[&str], plaintext: &[&str]) -> Vec<ListenAddress> {
        let parsed = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        ListenAddress::all(&config::Api { tcp: parsed(tcp), plaintext: parsed(plaintext), ..config::Api::default() })
    }

    /// Makes the kernel answer this thread like a kernel that was booted with `ipv6.disable=1`.
    fn without_ipv6() {
        let family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_INET6 as u64);
        let rule = SeccompRule::new(vec![family.unwrap()]).unwrap();
        let refuse = SeccompAction::Errno(Errno::AFNOSUPPORT.raw_os_error().unsigned_abs());
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_socket, vec![rule])]),
            SeccompAction::Allow,
            refuse,
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        seccompiler::apply_filter(&program).unwrap();
    }

    #[test]
    fn without_ipv6_every_address_of_the_host_is_the_one_of_ipv4() {
        let outcome = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _inside = runtime.enter();
            without_ipv6();
            let bound = listeners(&["[::]:0"], &[])[0].open().unwrap().local_addr().unwrap();
            assert!(bound.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && bound.port() != 0, "{bound}");
            let shut = listeners(&[], &["[::1]:0"])[0].open().unwrap_err();
            assert!(shut.why.contains("[::1]:0") && shut.why.contains("no IPv6"), "{shut:?}");
        });
        outcome.join().unwrap();
    }

    #[tokio::test]
    async fn one_address_that_cannot_be_bound_stops_no_other() {
        let taken = listeners(&[], &["127.0.0.1:0"])[0].open().unwrap();
        let at = taken.local_addr().unwrap().to_string();
        let outcomes: Vec<_> = listeners(&["192.0.2.1:0", &at, "127.0.0.1:0"], &["192.0.2.1:1"])
            .into_iter()
            .map(|listen_address| listen_address.open().map_err(|shut| shut.why))
            .collect();
        let words = ["no interface", "another process", "", "only loopback"];
        for (outcome, words) in outcomes.iter().zip(words) {
            assert_eq!(outcome.is_ok(), words.is_empty(), "{outcome:?}");
            assert!(outcome.as_ref().err().is_none_or(|why| why.contains(words)), "{outcome:?}");
        }
        // posternd binds the address at the next try after it becomes free.
        let shut = vec![listeners(&[&at], &[])[0].open().unwrap_err()];
        assert!(sentence(&shut, &[]).unwrap().contains(&at));
        drop(taken);
        let (sender, mut bound) = tokio::sync::mpsc::unbounded_channel();
        let tries = tokio::spawn(watch(shut, Vec::new(), move |fresh, sentence| {
            assert_eq!(sentence, None);
            fresh.into_iter().for_each(|one| sender.send(one).unwrap());
        }));
        assert_eq!(bound.recv().await.unwrap().1.local_addr().unwrap().to_string(), at);
        tries.abort();
    }
}
