//! The sockets that the API listens on.
//!
//! Owns binding, so that a configuration that cannot be served fails at the start and says which address is wrong.
//! It accepts nothing: `accept` does.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

use crate::keeper::Keeper;

/// Connections that the kernel keeps for us while we are busy. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;
/// Of the Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Plaintext would leave this machine.
    #[error("api.plaintext: {0} is not a loopback address, and without TLS only loopback is served")]
    PlaintextBeyondLoopback(SocketAddr),
    /// The Unix socket cannot be had.
    #[error("cannot listen on {}: {source}", path.display())]
    Unix {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A TCP listener on `address`. `[::]` takes IPv4 as well, unless `beside` has the same port on an IPv4 address.
///
/// # Errors
/// [`ListenError::Tcp`].
pub fn tcp(address: SocketAddr, beside: &[SocketAddr]) -> Result<TcpListener, ListenError> {
    let same_port = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port() && address.port() != 0;
    bound_tcp(address, beside.iter().any(same_port)).map_err(|source| ListenError::Tcp { address, source })
}

/// A TCP listener on `address` that will be served without TLS.
///
/// # Errors
/// [`ListenError`].
pub fn plaintext(address: SocketAddr) -> Result<TcpListener, ListenError> {
    if !is_loopback(address.ip()) {
        return Err(ListenError::PlaintextBeyondLoopback(address));
    }
    bound_tcp(address, true).map_err(|source| ListenError::Tcp { address, source })
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

fn is_loopback(address: IpAddr) -> bool {
    // Not to_canonical: [::ffff:127.0.0.1] in a configuration is a mistake rather than a wish.
    address.is_loopback()
}

fn bound_tcp(address: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
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

/// A listener on the Unix socket `path`, mode 0660, by way of a `keeper` where there is one. A socket that nobody serves any more is
/// replaced in one step.
///
/// # Errors
/// [`ListenError::Unix`]; also when somebody serves it, or when something that is no socket is in the way.
pub fn unix(path: &Path, keeper: Option<&Keeper>) -> Result<UnixListener, ListenError> {
    let bound = keeper.map_or_else(|| bound_unix(path), Keeper::listen);
    let listener = bound.and_then(|socket| UnixListener::from_std(socket.into()));
    listener.map_err(|source| ListenError::Unix { path: path.to_owned(), source })
}

pub(crate) fn bound_unix(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    check_replaceable(path)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // The socket gets its place by rename, which replaces what is there, also a symbolic link, and follows nothing.
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let _ = fs::remove_file(&fresh);
    // Linux gives the file the mode of the socket's own inode, less the umask: so it is never wider than it is to be.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    bind(&socket, &SocketAddrUnix::new(&fresh)?)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| Ok(listen(&socket, BACKLOG)?))
        .and_then(|()| fs::rename(&fresh, path));
    if placed.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    placed.map(|()| socket)
}

fn check_replaceable(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?.file_type(),
    };
    if kind.is_symlink() {
        return Ok(());
    }
    if !kind.is_socket() {
        return Err(io::Error::other("something that is no socket is there already"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it")),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_and_a_symbolic_link_are_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/posternd.sock");
        drop(unix(&path, None).unwrap());
        let live = unix(&path, None).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(unix(&path, None).unwrap_err().to_string().contains("another process serves it"));
        drop(live);

        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let _listener = unix(&link, None).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_socket());

        assert!(unix(&victim, None).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[tokio::test]
    async fn other_hosts_reach_what_is_not_on_loopback() {
        let shown = |address: &str, beside: &[&str]| {
            let beside: Vec<SocketAddr> = beside.iter().map(|a| a.parse().unwrap()).collect();
            let listener = tcp(address.parse().unwrap(), &beside).unwrap();
            let port = listener.local_addr().unwrap().port();
            let shown = reachable(&listener);
            assert!(shown.iter().all(|a| a.port() == port && port != 0));
            shown.into_iter().map(|a| a.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown("[::]:0", &[]), ["::", "0.0.0.0"]);
        let port = plaintext("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap().port();
        assert_eq!(shown(&format!("[::]:{port}"), &[&format!("127.0.0.1:{port}")]), ["::"]);
        assert_eq!(shown("0.0.0.0:0", &[]), ["0.0.0.0"]);
        for local in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(shown(local, &[]).is_empty(), "{local}");
        }
    }

    #[tokio::test]
    async fn errors_name_the_address() {
        let taken = plaintext("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let held = plaintext(taken).unwrap();
        let error = plaintext(held.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        for far in ["0.0.0.0:0", "192.0.2.1:7323", "[::]:0", "[::ffff:127.0.0.1]:0"] {
            let error = plaintext(far.parse().unwrap()).unwrap_err();
            assert!(matches!(error, ListenError::PlaintextBeyondLoopback(_)), "{error}");
        }
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        assert!(unix(&long, None).unwrap_err().to_string().contains("xxx"));
    }
}
