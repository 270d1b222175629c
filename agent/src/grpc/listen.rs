//! The sockets that the API listens on.
//!
//! Owns binding one of them, and the second place for the Unix socket where the first cannot be had. It accepts nothing: `accept` does.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};

use crate::sandbox::helper::Helper;

/// Connections that the kernel keeps for us while we are busy. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;
/// Of the Unix socket: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// A socket that is not where it was meant to be is for root alone.
const FALLBACK_MODE: u32 = 0o600;
/// The folder of the default socket: the unit makes it, and it is root's.
const RUNTIME: &str = "/run/postern";

/// The Unix socket that was had, if any.
#[derive(Debug, Default)]
pub struct Local {
    /// Accepts connections.
    pub listener: Option<UnixListener>,
    /// Why it is not the configured one, or what is wrong with the configured one, in words.
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

/// Whether no interface of the host has this address now: nothing can be bound to it, at whatever port. Other errors say nothing.
#[must_use]
pub fn is_missing(address: SocketAddr) -> bool {
    if address.ip().is_unspecified() {
        return false;
    }
    let mut any_port = address;
    any_port.set_port(0);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP));
    socket.and_then(|socket| bind(&socket, &any_port)) == Err(Errno::ADDRNOTAVAIL)
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

/// A listener on the Unix socket `path`, by way of a `helper` where there is one. A socket that nobody serves any more is replaced in
/// one step. Where the path cannot be had, one of [`fallbacks`] is taken, for root alone. Needs a tokio runtime.
pub fn unix(path: &Path, helper: Option<&Helper>) -> Local {
    let bound = helper.map_or_else(|| bound_somewhere(path), Helper::listen);
    let failed = |error: &dyn std::fmt::Display| Local { listener: None, why: Some(nowhere(path, error)) };
    match bound {
        Err(error) => failed(&error),
        Ok((socket, why)) => match UnixListener::from_std(socket.into()) {
            Err(error) => failed(&error),
            Ok(listener) => Local { listener: Some(listener), why },
        },
    }
}

fn nowhere(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "there is no Unix socket: cannot listen on {}: {error}; mend that and start posternd again (systemctl restart posternd)",
        path.display()
    )
}

/// Where root reaches posternd when `path` cannot be had: beside it, else in the default socket's folder.
#[must_use]
pub fn fallbacks(path: &Path) -> Vec<PathBuf> {
    let mut name = path.file_name().unwrap_or("posternd.sock".as_ref()).to_owned();
    name.push(".root");
    let both = [path.with_file_name(&name), Path::new(RUNTIME).join(&name)];
    let known = both[0] == both[1];
    both.into_iter().take(if known { 1 } else { 2 }).collect()
}

/// The socket at `path` or at the first of [`fallbacks`] that can be had, and what is wrong with that, in words.
///
/// # Errors
/// As at `path`, where there is none at all.
pub(crate) fn bound_somewhere(path: &Path) -> io::Result<(OwnedFd, Option<String>)> {
    let error = match bound_unix(path, SOCKET_MODE) {
        Ok(socket) => return Ok((socket, doubt(path))),
        Err(error) => error,
    };
    for other in fallbacks(path) {
        if let Ok(socket) = bound_unix(&other, FALLBACK_MODE) {
            let why = format!(
                "cannot listen on {}: {error}. Root reaches posternd at unix://{} instead; mend that and start posternd again",
                path.display(),
                other.display()
            );
            tracing::error!("{why}");
            return Ok((socket, Some(why)));
        }
    }
    Err(error)
}

/// Who owns the folder can put a socket of their own in place of posternd's.
fn doubt(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let found = fs::metadata(folder).ok()?;
    let owners = [0, rustix::process::geteuid().as_raw()];
    let theirs = !owners.contains(&found.uid());
    // In a sticky folder nobody replaces what is another's.
    let shared = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
    (theirs || shared).then(|| {
        format!(
            "{} can be written by others than root (user {}, mode {:o}), who could put a socket of their own in place of {}: \
             chown root and chmod go-w it",
            folder.display(),
            found.uid(),
            found.mode() & 0o7777,
            path.display()
        )
    })
}

fn bound_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
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
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind(&socket, &SocketAddrUnix::new(&fresh)?)?;
    let placed = fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))
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

    fn strict(path: &Path) -> Result<OwnedFd, String> {
        bound_unix(path, SOCKET_MODE).map_err(|error| error.to_string())
    }

    #[test]
    fn a_stale_socket_and_a_symbolic_link_are_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/posternd.sock");
        drop(strict(&path).unwrap());
        let live = strict(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(strict(&path).unwrap_err().contains("another process serves it"));
        drop(live);

        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let _listener = strict(&link).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_socket());

        assert!(strict(&victim).unwrap_err().contains("no socket"));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

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
        assert_eq!(fs::symlink_metadata(&second).unwrap().permissions().mode() & 0o777, FALLBACK_MODE);
        assert!(path.is_dir(), "what was there stays");
        let long = PathBuf::from(format!("/proc/{}", "x".repeat(120)));
        let Local { listener, why } = unix(&long, None);
        assert!(listener.is_none() && why.unwrap().contains("xxx"));
    }

    #[test]
    fn a_folder_of_somebody_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posternd.sock");
        assert_eq!(doubt(&path), None);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(doubt(&path).unwrap().contains("chmod go-w"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(doubt(&path), None);
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
