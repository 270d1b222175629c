//! Binding of listening sockets, for the API and for the helper.
//!
//! Owns how the Unix socket gets its path, and the fallback if that path cannot be used. Accepts no connection.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt as _, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, ipproto, listen, socket_with};

/// Connections that the kernel queues while posternd is busy. `net.core.somaxconn` limits it further.
pub const BACKLOG: i32 = 1024;
/// Mode of the Unix socket: owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
/// Mode of the Unix socket at a fallback path: only root may connect.
const FALLBACK_MODE: u32 = 0o600;
/// The folder of the default socket, which the unit makes and root owns.
const RUNTIME: &str = "/run/postern";

/// The bound Unix socket, and in words what is wrong with its place.
pub type Bound = io::Result<(OwnedFd, Option<String>)>;

/// Whether no interface has this address now, so that a bind fails at every port. Other errors count as "no".
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

/// The paths at which root reaches posternd if `path` cannot be used: beside `path`, and in the folder of the default socket.
#[must_use]
pub fn fallbacks(path: &Path) -> Vec<PathBuf> {
    let mut name = path.file_name().unwrap_or("posternd.sock".as_ref()).to_owned();
    name.push(".root");
    let mut both = vec![path.with_file_name(&name), Path::new(RUNTIME).join(&name)];
    both.dedup();
    both
}

/// Binds the Unix socket at `path`, or at the first usable path of [`fallbacks`]. Atomically replaces a socket that no process serves.
///
/// # Errors
/// Fails if none of these paths can be used. The error is that at `path`.
pub fn unix(path: &Path) -> Bound {
    let error = match bound_unix(path, SOCKET_MODE) {
        Ok(socket) => return Ok((socket, unsafe_folder(path))),
        Err(error) => error,
    };
    for other in fallbacks(path) {
        if let Ok(socket) = bound_unix(&other, FALLBACK_MODE) {
            let why = format!(
                "cannot listen on {}: {error}. Root reaches posternd at unix://{} instead. Repair the path and restart posternd",
                path.display(),
                other.display()
            );
            tracing::error!("{why}");
            return Ok((socket, Some(why)));
        }
    }
    Err(error)
}

/// The problem with the socket's folder: a user who owns it or may write to it can replace the socket.
fn unsafe_folder(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let found = fs::metadata(folder).ok()?;
    let theirs = ![0, rustix::process::geteuid().as_raw()].contains(&found.uid());
    // In a sticky folder only a file's owner can replace it.
    let shared = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
    (theirs || shared).then(|| {
        format!(
            "others than root can write to {} (user {}, mode {:o}) and can put a socket of their own in place of {}: \
             chown root and chmod go-w the folder",
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
    // The rename replaces even a symbolic link, and follows none.
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let _ = fs::remove_file(&fresh);
    // Linux gives the file the mode of the socket's inode, less the umask. So the mode is never wider than intended.
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

    #[test]
    fn a_folder_of_somebody_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posternd.sock");
        assert_eq!(unsafe_folder(&path), None);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(unsafe_folder(&path).unwrap().contains("chmod go-w"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(unsafe_folder(&path), None);
    }
}
