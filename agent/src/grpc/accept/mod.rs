//! Accepts connections, does the TLS handshake and speaks HTTP/2, with a limit on each step.
//!
//! Owns the accept loops and each connection until its end. It never reads a request. It replaces tonic's own server, which loops without a
//! pause when file descriptors run out, and limits neither connections nor handshakes.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use super::connections::{Connection, Connections, Loss};
use super::limits::Limits;
use super::peer::{Peer, Reached};

/// The pause before the next try for a file descriptor: long enough for a cheap loop, short enough for a peer that waits.
const BACK_OFF: Duration = Duration::from_millis(50);

pub(super) struct Edge<S> {
    pub connections: Arc<Connections>,
    /// Answers requests. The connection's [`Peer`], [`Reached`] and [`Connection`] are extensions of each request.
    pub answer: S,
    /// Changes, or loses its sender, when posternd stops.
    pub stopped: watch::Receiver<()>,
}

pub(super) trait Answer: Clone + Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// Accepts on a TCP socket until posternd stops; without `tls` in plaintext.
pub(super) async fn tcp<S: Answer>(edge: Arc<Edge<S>>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    accept_all(
        &edge,
        || listener.accept(),
        |(stream, address)| {
            // Small answers must not wait for acknowledgements. If the socket is already closed, the next read reports that.
            let _ = stream.set_nodelay(true);
            let peer = Peer::remote(address.ip());
            let tls = tls.clone();
            entry(&edge, peer, move |edge, entry| encrypted(edge, entry, peer, stream, tls));
        },
    )
    .await;
}

pub(super) async fn unix<S: Answer>(edge: Arc<Edge<S>>, listener: UnixListener) {
    accept_all(
        &edge,
        || listener.accept(),
        |(stream, _)| {
            let Ok(credentials) = stream.peer_cred() else { return };
            let peer = Peer::Local(credentials.uid());
            entry(
                &edge,
                peer,
                move |edge, entry| async move { serve(&edge, &entry, (peer, Reached(None)), stream).await },
            );
        },
    )
    .await;
}

async fn accept_all<S, C, F>(edge: &Edge<S>, mut accept: impl FnMut() -> F, mut welcome: impl FnMut(C))
where
    F: Future<Output = io::Result<C>>,
{
    let mut stopped = edge.stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok(connection) => welcome(connection),
            Err(error) => recover(&edge.connections, &error).await,
        }
    }
}

/// Handles a failed accept. If descriptors or memory ran out, the connection stays in the kernel's queue: posternd ends an idle connection
/// and waits for that. Any other error concerns only one connection, which is closed.
async fn recover(connections: &Connections, error: &io::Error) {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    if exhausted.iter().any(|e| error.raw_os_error() == Some(e.raw_os_error())) {
        let mut freed = pin!(connections.freed());
        freed.as_mut().enable();
        connections.evict_for_files();
        let _ = timeout(BACK_OFF, freed).await;
    } else if error.kind() != io::ErrorKind::ConnectionAborted {
        sleep(BACK_OFF).await;
    }
}

/// Gives the new connection an entry and a task, or closes it.
fn entry<S: Answer, F>(edge: &Arc<Edge<S>>, peer: Peer, live: impl FnOnce(Arc<Edge<S>>, Arc<Connection>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(entry) = edge.connections.admit(peer, file_limit()) else { return };
    let id = entry.id();
    let task = tokio::spawn(live(Arc::clone(edge), Arc::new(entry)));
    Connection::belongs_to(&edge.connections, id, task.abort_handle());
}

fn file_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Raises the soft limit of file descriptors to the hard limit. The soft limit is low for `select`, which posternd does not use.
pub(super) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

async fn encrypted<S: Answer>(
    edge: Arc<Edge<S>>,
    entry: Arc<Connection>,
    peer: Peer,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
) {
    let local = Reached(stream.local_addr().ok().map(|address| address.ip().to_canonical()));
    let Some(tls) = tls else { return serve(&edge, &entry, (peer, local), stream).await };
    match timeout(edge.connections.limits().handshake, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(&edge, &entry, (peer, local), stream).await,
        Ok(Err(_)) => edge.connections.count(Loss::HandshakeFailed),
        Err(_) => edge.connections.count(Loss::HandshakeTimeout),
    }
}

async fn serve<S: Answer>(
    edge: &Edge<S>,
    entry: &Arc<Connection>,
    (peer, reached): (Peer, Reached),
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
        entry.touch();
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(reached);
        request.extensions_mut().insert(Arc::clone(entry));
        let answer = edge.answer.clone();
        async move { Ok::<_, std::convert::Infallible>(answer.answer(request).await) }
    });
    let limits = edge.connections.limits();
    let mut connection = pin!(http2(limits).serve_connection(TokioIo::new(io), service));
    let mut stopped = edge.stopped.clone();
    let mut age = pin!(sleep(limits.age));
    let mut ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if ended.is_err() {
                    edge.connections.count(Loss::Http);
                }
                return;
            }
            () = sleep_until(entry.patience()) => {
                if entry.patience() <= Instant::now() {
                    return edge.connections.count(Loss::Idle);
                }
            }
            () = age.as_mut() => {
                if ending {
                    return edge.connections.count(Loss::Age);
                }
                ending = true;
                connection.as_mut().graceful_shutdown();
                age.as_mut().reset(Instant::now() + limits.grace);
            }
            _ = stopped.changed(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
                age.as_mut().reset(Instant::now() + limits.grace);
            }
        }
    }
}

fn http2(limits: &Limits) -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(limits.resets)
        .initial_stream_window_size(limits.window_bytes / 2)
        .initial_connection_window_size(limits.window_bytes)
        .max_send_buf_size(limits.window_bytes as usize)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.handshake);
    builder
}

#[cfg(test)]
mod tests;
