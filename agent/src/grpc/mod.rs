//! The gRPC edge: sockets, TLS, connections, services, status codes.
//!
//! Owns everything between a peer's bytes and the engine. It decides nothing about access, and never touches the kernel or the journal.

mod accept;
mod access;
mod answer;
pub mod connections;
pub mod convert;
mod host;
pub mod limits;
pub mod listen;
mod listeners;
pub mod peer;
mod questions;
mod reads;
mod statement;
mod status;
pub mod tls;
mod watching;

use std::path::Path;
use std::sync::Arc;

use postern_core::condition::Condition;
use postern_proto::FILE_DESCRIPTOR_SET;
use postern_proto::v1::access_service_server::AccessServiceServer;
use postern_proto::v1::host_service_server::HostServiceServer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::config;
use crate::engine::Engine;
use crate::proof::HostKeys;
use crate::system::sockets;
use accept::{Answer, Edge};
use answer::Services;
use connections::Connections;
use limits::{Limits, MESSAGE_BYTES};
use listen::Local;
pub use listeners::Listeners;
use listeners::{ListenAddress, Shut};
use statement::Statements;
use tls::{TlsError, TlsIdentity};

/// Binds the Unix socket, or takes `unix`, and binds the TCP addresses. Loads or makes the TLS key. A failure stops nothing else: see
/// [`Bound::conditions`] and [`Bound::listeners`]. Raises this process's limit of open files. Needs the tokio runtime that will serve.
///
/// # Errors
/// Not even a key in memory can be made.
pub fn bind(api: &config::Api, state_dir: &Path, unix: Option<sockets::Bound>) -> Result<Bound, TlsError> {
    bind_with(api, state_dir, unix, Limits::DEFAULT)
}

/// As [`bind`], with other limits.
///
/// # Errors
/// Fails as [`bind`] does.
pub fn bind_with(
    api: &config::Api,
    state_dir: &Path,
    unix: Option<sockets::Bound>,
    limits: Limits,
) -> Result<Bound, TlsError> {
    accept::raise_file_limit();
    // The Unix socket comes first, because root needs it even if the rest fails.
    let local = listen::unix(&api.unix, unix);
    let (tls, no_tls) = match tls::load_or_make(state_dir) {
        Ok(tls) => (tls, None),
        // This key signs the statements on the Unix socket and on loopback. posternd never writes it to the disk and serves no TLS with it.
        Err(error) => (tls::passing()?, Some(error.to_string())),
    };
    let (mut open, mut shut, mut listeners) = (Vec::new(), Vec::new(), Listeners::default());
    // Without a key every connection to a TLS address would fail, so posternd does not bind these addresses.
    for listen_address in
        ListenAddress::all(api).into_iter().filter(|listen_address| !listen_address.tls || no_tls.is_none())
    {
        match listen_address.open() {
            Err(one) => shut.push(one),
            Ok(listener) => {
                listeners.add(listen_address, &listener);
                open.push((listen_address, listener));
            }
        }
    }
    listeners.shut = listeners::sentence(&shut, &[]);
    let no_tls = no_tls.filter(|_| !api.tcp.is_empty());
    let bound = Bound { local, open, shut, tls, no_tls, listeners: watch::Sender::new(listeners), limits };
    bound.log(&api.unix);
    Ok(bound)
}

/// The API, listening but not answering yet: connections wait in the kernel's queue until [`Bound::serve`].
pub struct Bound {
    local: Local,
    open: Vec<(ListenAddress, TcpListener)>,
    shut: Vec<Shut>,
    tls: TlsIdentity,
    /// Why no address serves TLS although the configuration asks for TLS.
    no_tls: Option<String>,
    listeners: watch::Sender<Listeners>,
    limits: Limits,
}

impl Bound {
    /// Answers until the sender of `stopped` sends or is dropped. Then it takes no new request and gives running requests
    /// [`Limits::grace`]. Needs a multi-threaded tokio runtime with I/O and time.
    pub async fn serve(self, engine: Engine, host_keys: Arc<HostKeys>, stopped: watch::Receiver<()>) {
        let connections = Connections::new(self.limits);
        let shown = Shown { tls: self.tls.clone(), host_keys };
        let routes = routes(&engine, &connections, shown).await;
        let count = Arc::new(move |reason| engine.count_unverified(reason));
        let services = Services { routes, limits: self.limits, count };
        self.run(connections, services, stopped).await;
    }

    /// The TCP addresses and their errors, now and after each change.
    #[must_use]
    pub fn listeners(&self) -> watch::Receiver<Listeners> {
        self.listeners.subscribe()
    }

    /// The conditions of the API with their details; `None`: the condition does not hold.
    #[must_use]
    pub fn conditions(&self) -> [(Condition, Option<String>); 2] {
        let tls = self.no_tls.as_ref().map(|error| {
            format!(
                "the API is not served with TLS, and nobody can ask over the network: {error}. Mend it and start posternd \
                 again (systemctl restart posternd)"
            )
        });
        [(Condition::UnixSocket, self.local.why.clone()), (Condition::ApiTls, tls)]
    }

    /// `SHA256:…` of the TLS certificate.
    #[must_use]
    pub fn tls_fingerprint(&self) -> &str {
        &self.tls.fingerprint
    }

    fn log(&self, unix: &Path) {
        let listeners = self.listeners.borrow();
        let wrong = self.conditions().into_iter().filter_map(|(_, why)| why).chain(listeners.shut.clone());
        wrong.for_each(|why| tracing::error!("{why}"));
        tracing::info!(
            unix = %unix.display(),
            tls = ?listeners.tls,
            plaintext = ?listeners.plaintext,
            tls_fingerprint = self.tls_fingerprint(),
            "the API listens"
        );
    }

    async fn run<S: Answer>(self, connections: Arc<Connections>, answer: S, mut stopped: watch::Receiver<()>) {
        let Self { local, open, shut, tls, no_tls: _, listeners, limits } = self;
        let edge = Arc::new(Edge { connections: Arc::clone(&connections), answer, stopped: stopped.clone() });
        let mut loops = JoinSet::new();
        if let Some(listener) = local.listener {
            loops.spawn(accept::unix(Arc::clone(&edge), listener));
        }
        let (bound, mut late) = mpsc::unbounded_channel();
        let serve = |loops: &mut JoinSet<()>, (listen_address, listener): (ListenAddress, TcpListener)| {
            let tls = listen_address.tls.then(|| tls.acceptor.clone());
            loops.spawn(accept::tcp(Arc::clone(&edge), listener, tls));
        };
        let bound_now = open.iter().map(|(listen_address, _)| *listen_address).collect();
        open.into_iter().for_each(|one| serve(&mut loops, one));
        let retries = tokio::spawn(listeners::watch(shut, bound_now, move |fresh, sentence| {
            // Most tries change nothing and send no message.
            listeners.send_if_modified(|listeners| {
                let before = listeners.clone();
                fresh.iter().for_each(|(listen_address, listener)| listeners.add(*listen_address, listener));
                listeners.shut = sentence;
                *listeners != before
            });
            fresh.into_iter().for_each(|one| drop(bound.send(one)));
        }));
        loop {
            tokio::select! {
                // A message and a dropped sender both mean that posternd stops.
                _ = stopped.changed() => break,
                Some(one) = late.recv() => serve(&mut loops, one),
            }
        }
        retries.abort();
        while loops.join_next().await.is_some() {}
        let _ = tokio::time::timeout(limits.grace, connections.until_empty()).await;
        connections.end_all();
    }
}

/// The keys that prove the host's identity.
struct Shown {
    tls: TlsIdentity,
    host_keys: Arc<HostKeys>,
}

async fn routes(engine: &Engine, connections: &Arc<Connections>, shown: Shown) -> Routes {
    let Shown { tls, host_keys } = shown;
    let tls_fingerprint: Arc<str> = tls.fingerprint.as_str().into();
    let watchers = Arc::new(Semaphore::new(connections.limits().watchers));
    let questions = Arc::<questions::Questions>::default();
    let access = access::Access {
        engine: engine.clone(),
        statements: Statements::new(tls),
        host_keys,
        watchers: Arc::clone(&watchers),
        questions: Arc::clone(&questions),
    };
    let host = host::Host {
        engine: engine.clone(),
        connections: Arc::clone(connections),
        tls_fingerprint,
        watchers,
        questions,
    };
    let access = AccessServiceServer::new(access).max_decoding_message_size(MESSAGE_BYTES);
    let host = HostServiceServer::new(host).max_decoding_message_size(MESSAGE_BYTES);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AccessServiceServer<access::Access>>().await;
    reporter.set_serving::<HostServiceServer<host::Host>>().await;
    let routes = Routes::new(access).add_service(host).add_service(health.max_decoding_message_size(MESSAGE_BYTES));
    with_reflection(routes).prepare()
}

/// Reflection in both versions, so that grpcurl needs no files. It shows nothing that the source does not show.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // grpcurl needs this to print ErrorInfo as text.
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
