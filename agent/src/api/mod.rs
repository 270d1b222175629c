//! The gRPC edge: sockets, TLS, connections, services, status codes.
//!
//! Owns everything between a peer's bytes and the engine. It never decides about access, never touches kernel or journal, and
//! holds no state that outlives a connection but the TLS key.

mod accept;
mod access;
mod answer;
mod host;
pub mod limits;
pub mod listen;
pub mod peer;
mod reads;
pub mod seats;
mod statement;
mod status;
pub mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use postern_proto::FILE_DESCRIPTOR_SET;
use postern_proto::v1::access_service_server::AccessServiceServer;
use postern_proto::v1::host_service_server::HostServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::config;
use crate::engine::Engine;
use crate::keeper::Keeper;
use crate::proof::Proof;
use accept::{Answer, Edge};
use answer::Services;
use limits::{Limits, MESSAGE_BYTES};
use listen::ListenError;
use seats::Seats;
use statement::Statements;
use tls::{TlsError, TlsIdentity};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The TLS key is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Takes all addresses, the Unix socket by way of a keeper where there is one, and loads or makes the TLS key, which lives in `state_dir/tls`. Raises this process's limit of open
/// files. Needs the tokio runtime that will serve.
///
/// # Errors
/// The first address or file that is not usable, by name.
pub fn bind(api: &config::Api, state_dir: &Path, keeper: Option<&Keeper>) -> Result<Bound, ApiError> {
    bind_with(api, state_dir, keeper, Limits::DEFAULT)
}

/// As [`bind`], with other limits.
///
/// # Errors
/// As [`bind`].
pub fn bind_with(
    api: &config::Api,
    state_dir: &Path,
    keeper: Option<&Keeper>,
    limits: Limits,
) -> Result<Bound, ApiError> {
    let config::Api { unix, tcp, plaintext, syn_rate: _ } = api;
    accept::raise_file_limit();
    let tls = tls::load_or_make(state_dir)?;
    let beside: Vec<_> = tcp.iter().chain(plaintext).copied().collect();
    let bound = Bound {
        unix: listen::unix(unix, keeper)?,
        tcp: tcp.iter().map(|&a| listen::tcp(a, &beside)).collect::<Result<_, _>>()?,
        plaintext: plaintext.iter().map(|&a| listen::plaintext(a)).collect::<Result<_, _>>()?,
        tls,
        limits,
    };
    tracing::info!(
        unix = %unix.display(),
        tls = ?bound.tcp_addresses(),
        plaintext = ?bound.plaintext_addresses(),
        tls_fingerprint = bound.tls_fingerprint(),
        "the API listens"
    );
    Ok(bound)
}

/// The API, listening but not yet answering: peers wait in the kernel's queue until [`Bound::serve`].
pub struct Bound {
    unix: UnixListener,
    tcp: Vec<TcpListener>,
    plaintext: Vec<TcpListener>,
    tls: TlsIdentity,
    limits: Limits,
}

impl Bound {
    /// Answers until the sender of `stopped` is gone or sends; then takes nothing new and gives what runs [`Limits::grace`].
    /// Needs a multi-threaded tokio runtime with I/O and time.
    pub async fn serve(self, engine: Engine, proof: Option<Proof>, stopped: watch::Receiver<()>) {
        let seats = Seats::new(self.limits);
        let shown = Shown { tls: self.tls.clone(), proof: Arc::new(proof) };
        let routes = routes(&engine, &seats, shown).await;
        let count = Arc::new(move |reason| engine.count_unverified(reason));
        let services = Services { routes, limits: self.limits, count };
        self.run(seats, services, stopped).await;
    }

    /// Where it listens with TLS; ports that were 0 have their number.
    #[must_use]
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// Where other hosts reach it: what is bound, but loopback, and both families where one socket takes both.
    #[must_use]
    pub fn reachable(&self) -> Vec<SocketAddr> {
        self.tcp.iter().flat_map(listen::reachable).collect()
    }

    /// Where it listens without TLS.
    #[must_use]
    pub fn plaintext_addresses(&self) -> Vec<SocketAddr> {
        self.plaintext.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// `SHA256:…` of the TLS certificate.
    #[must_use]
    pub fn tls_fingerprint(&self) -> &str {
        &self.tls.fingerprint
    }

    /// `tls:SHA256:…`, as messages name the TLS key.
    #[must_use]
    pub fn tls_audience(&self) -> String {
        format!("tls:{}", self.tls.fingerprint)
    }

    async fn run<S: Answer>(self, seats: Arc<Seats>, answer: S, mut stopped: watch::Receiver<()>) {
        let Self { unix, tcp, plaintext, tls, limits } = self;
        let edge = Arc::new(Edge { seats: Arc::clone(&seats), answer, stopped: stopped.clone() });
        let mut loops = JoinSet::new();
        loops.spawn(accept::unix(Arc::clone(&edge), unix));
        for listener in tcp {
            loops.spawn(accept::tcp(Arc::clone(&edge), listener, Some(tls.acceptor.clone())));
        }
        for listener in plaintext {
            loops.spawn(accept::tcp(Arc::clone(&edge), listener, None));
        }
        // Sent or gone, both mean the end.
        let _ = stopped.changed().await;
        while loops.join_next().await.is_some() {}
        let _ = tokio::time::timeout(limits.grace, seats.until_empty()).await;
        seats.end_all();
    }
}

/// How the host shows who it is.
struct Shown {
    tls: TlsIdentity,
    proof: Arc<Option<Proof>>,
}

async fn routes(engine: &Engine, seats: &Arc<Seats>, shown: Shown) -> Routes {
    let Shown { tls, proof } = shown;
    let tls_fingerprint: Arc<str> = tls.fingerprint.as_str().into();
    let watchers = Arc::new(Semaphore::new(seats.limits().watchers));
    let access = access::Access {
        engine: engine.clone(),
        statements: Statements::new(tls),
        proof,
        watchers: Arc::clone(&watchers),
    };
    let host = host::Host { engine: engine.clone(), seats: Arc::clone(seats), tls_fingerprint, watchers };
    let access = AccessServiceServer::new(access).max_decoding_message_size(MESSAGE_BYTES);
    let host = HostServiceServer::new(host).max_decoding_message_size(MESSAGE_BYTES);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AccessServiceServer<access::Access>>().await;
    reporter.set_serving::<HostServiceServer<host::Host>>().await;
    let routes = Routes::new(access).add_service(host).add_service(health.max_decoding_message_size(MESSAGE_BYTES));
    with_reflection(routes).prepare()
}

/// Reflection in both versions, so that grpcurl needs no files. It shows what the source shows.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that grpcurl shows ErrorInfo in words.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = match builder().build_v1() {
        Ok(service) => routes.add_service(service.max_decoding_message_size(MESSAGE_BYTES)),
        Err(error) => unreachable!("the build made these descriptors: {error}"),
    };
    match builder().build_v1alpha() {
        Ok(service) => routes.add_service(service.max_decoding_message_size(MESSAGE_BYTES)),
        Err(error) => unreachable!("the build made these descriptors: {error}"),
    }
}
