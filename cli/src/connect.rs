//! One connection to one address: TLS, plaintext on loopback, or a Unix socket. A [`Link`] never reconnects, because the new peer would be
//! unverified.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::{Fingerprint, PinnedVerifier, client_config};

/// The time limit for TCP, TLS and HTTP/2 together.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A live connection.
#[derive(Clone, Debug)]
pub struct Link {
    /// The channel for calls.
    pub channel: Channel,
    /// This machine's address; none for a Unix socket.
    pub local: Option<IpAddr>,
    /// The fingerprint of the peer's certificate, whose key the peer has proved to hold. None without TLS.
    pub fingerprint: Option<Fingerprint>,
    /// Whether the kernel reports that root's own posternd of this machine listens at the other end.
    pub is_own: bool,
}

/// The reason why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// No answer, or none in a known protocol.
    Unreachable(String),
    /// The peer showed another certificate than the pinned one.
    WrongCertificate {
        /// The pinned certificate.
        expected: Fingerprint,
        /// The shown certificate.
        shown: Fingerprint,
    },
    /// The peer showed a certificate without holding its key.
    Impostor(String),
}

/// Connects with TLS 1.3 and the server name `host`. With `pin` only that certificate is accepted; without it any, and the caller must
/// judge the certificate before it sends anything signed.
///
/// # Errors
/// Fails if the host is unreachable, shows another certificate than `pin`, or does not hold the key of its certificate.
pub async fn tls(host: &str, address: SocketAddr, pin: Option<Fingerprint>) -> Result<Link, LinkError> {
    limited(async {
        let verifier = PinnedVerifier::new(pin);
        let config = client_config(Arc::clone(&verifier)).map_err(unreachable)?;
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let local = local_end(&tcp);
        let name = server_name(host, address.ip());
        match TlsConnector::from(Arc::new(config)).connect(name, tcp).await {
            Ok(stream) => {
                Ok(Link { channel: channel(stream).await?, local, fingerprint: verifier.seen(), is_own: false })
            }
            Err(error) => Err(match (pin, verifier.seen()) {
                (Some(expected), Some(shown)) if expected != shown => LinkError::WrongCertificate { expected, shown },
                _ => broken_handshake(&error),
            }),
        }
    })
    .await
}

fn local_end(tcp: &TcpStream) -> Option<IpAddr> {
    tcp.local_addr().ok().map(|address| address.ip().to_canonical())
}

fn broken_handshake(error: &io::Error) -> LinkError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(why)) => LinkError::Impostor(format!("{why:?}")),
        _ => LinkError::Unreachable(format!("the TLS handshake failed: {error}")),
    }
}

/// Connects without TLS; [`crate::target::Target`] allows it only on loopback.
///
/// # Errors
/// Fails with [`LinkError::Unreachable`] if nobody answers in time, or not in HTTP/2.
pub async fn plaintext(address: SocketAddr) -> Result<Link, LinkError> {
    limited(async {
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        let local = local_end(&tcp);
        Ok(Link { channel: channel(tcp).await?, local, fingerprint: None, is_own: false })
    })
    .await
}

/// Connects to a Unix socket.
///
/// # Errors
/// Fails with [`LinkError::Unreachable`] if nobody answers in time, or not in HTTP/2.
pub async fn unix(path: &Path) -> Result<Link, LinkError> {
    limited(async {
        let stream = UnixStream::connect(path).await.map_err(unreachable)?;
        let is_own = stream.peer_cred().is_ok_and(|listener| is_own_posternd(listener.uid(), listener.pid()));
        Ok(Link { channel: channel(stream).await?, local: None, fingerprint: None, is_own })
    })
    .await
}

/// `SO_PEERCRED` names the process that called listen(2), which is root's for posternd. A ssh or sshd of root that forwards the socket is
/// also root's, so the name has to be posternd. Only root can give a process of root another name.
fn is_own_posternd(uid: u32, pid: Option<i32>) -> bool {
    let Some(pid) = pid.filter(|pid| uid == 0 && *pid > 0) else { return false };
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next() == Some(b"posternd")
}

async fn limited(connecting: impl Future<Output = Result<Link, LinkError>>) -> Result<Link, LinkError> {
    let late = || LinkError::Unreachable(format!("no answer within {} s", CONNECT_LIMIT.as_secs()));
    timeout(CONNECT_LIMIT, connecting).await.unwrap_or_else(|_| Err(late()))
}

fn unreachable(error: impl std::fmt::Display) -> LinkError {
    LinkError::Unreachable(error.to_string())
}

/// The server name for SNI, which proves nothing. An invalid name (a scoped IPv6 address, an underscore) becomes the address.
fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    ServerName::try_from(host.to_owned()).unwrap_or(ServerName::IpAddress(address.into()))
}

/// HTTP/2 over `stream` alone: the connector gives no second stream.
async fn channel<S>(stream: S) -> Result<Channel, LinkError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection ended")) }
    });
    // `stream` is already connected. Every gRPC server accepts the authority "localhost".
    Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|error| LinkError::Unreachable(chain(&error)))
}

/// An error with its causes: tonic's own text is just "transport error".
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::process::CommandExt as _, process::Stdio};

    use super::*;

    #[test]
    fn only_a_process_of_roots_with_the_name_of_posternd_is_posternd() {
        let own = std::process::id().cast_signed();
        for (uid, pid) in [(0, Some(own)), (1000, Some(own)), (0, None), (0, Some(0)), (0, Some(i32::MAX))] {
            assert!(!is_own_posternd(uid, pid), "{uid} {pid:?}");
        }
        for (name, uid, is_own) in [("posternd", 0, true), ("posternd", 1000, false), ("ssh", 0, false)] {
            let mut command = std::process::Command::new("bash");
            command.args(["-c", "echo; read line; true"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.arg0(name).spawn().unwrap();
            // The kernel shows the arguments only once the new program runs.
            child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            assert_eq!(is_own_posternd(uid, Some(child.id().cast_signed())), is_own, "{name} {uid}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
