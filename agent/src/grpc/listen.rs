//! The sockets that the API listens on.
//!
//! Owns the binding of TCP sockets. `system::sockets` binds the Unix socket, and `accept` accepts connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use tokio::net::{TcpListener, UnixListener};

use crate::system::sockets::{self, BACKLOG, Bound};

/// The Unix socket, if there is one.
#[derive(Debug, Default)]
pub struct Local {
    /// Accepts connections.
    pub listener: Option<UnixListener>,
    /// Why this is not the configured socket, or what is wrong with the configured one.
    pub why: Option<String>,
}

/// A TCP listener on `address`. `[::]` takes IPv4 as well, unless `only_v6`. Needs a tokio runtime.
///
/// # Errors
/// As `socket(2)`, `bind(2)` and `listen(2)`.
pub fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The addresses at which other hosts reach a listener; none on loopback.
pub fn reachable(listener: &TcpListener) -> Vec<SocketAddr> {
    let Ok(own) = listener.local_addr() else { return Vec::new() };
    let address = own.ip().to_canonical();
    let takes_both =
        own.is_ipv6() && address.is_unspecified() && sockopt::ipv6_v6only(listener).is_ok_and(|only| !only);
    let also = takes_both.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let all = [Some(address), also].into_iter().flatten();
    all.filter(|a| !a.is_loopback()).map(|a| SocketAddr::new(a, own.port())).collect()
}

/// The listener on the Unix socket `path`; `bound` is that socket if another process has bound it. Needs a tokio runtime.
pub fn unix(path: &Path, bound: Option<Bound>) -> Local {
    let listening = |(socket, why): (std::os::fd::OwnedFd, _)| {
        UnixListener::from_std(socket.into()).map(|listener| Local { listener: Some(listener), why })
    };
    bound
        .unwrap_or_else(|| sockets::unix(path))
        .and_then(listening)
        .unwrap_or_else(|error| Local { listener: None, why: Some(nowhere(path, &error)) })
}

fn nowhere(path: &Path, error: &io::Error) -> String {
    format!(
        "there is no Unix socket: cannot listen on {}: {error}; mend that and start posternd again (systemctl restart posternd)",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn whatever_is_in_the_place_of_the_socket_root_has_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posternd.sock");
        assert!(unix(&path, None).why.is_none());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let Local { listener, why } = unix(&path, None);
        let own = listener.unwrap().local_addr().unwrap();
        assert!(own.as_pathname().is_some() && why.unwrap().contains("posternd.sock.root"));
        let second = dir.path().join("posternd.sock.root");
        assert_eq!(fs::symlink_metadata(&second).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(path.is_dir(), "what was there stays");
        let long = PathBuf::from(format!("/proc/{}", "x".repeat(120)));
        let Local { listener, why } = unix(&long, None);
        assert!(listener.is_none() && why.unwrap().contains("xxx"));
    }

    #[tokio::test]
    async fn other_hosts_reach_what_is_not_on_loopback() {
        let shown = |address: &str, only_v6| {
            let listener = tcp(address.parse().unwrap(), only_v6).unwrap();
            let port = listener.local_addr().unwrap().port();
            let shown = reachable(&listener);
            assert!(shown.iter().all(|a| a.port() == port && port != 0));
            shown.into_iter().map(|a| a.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown("[::]:0", false), ["::", "0.0.0.0"]);
        assert_eq!(shown("[::]:0", true), ["::"]);
        assert_eq!(shown("0.0.0.0:0", false), ["0.0.0.0"]);
        for local in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(shown(local, false).is_empty(), "{local}");
        }
    }
}
