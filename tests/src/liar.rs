//! A host that lies: it speaks the API with keys of its own, and passes on what it gets to the host that it claims to be.
//!
//! Owns its keys, its listener and what it was told. Everything behind it is real: the client in front and the posternd behind.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::access_service_server::{AccessService, AccessServiceServer};
use postern_proto::v1::{
    ApproveAccessRequest, ApproveAccessResponse, ExplainRequest, ExplainResponse, GetGrantRequest, GetGrantResponse,
    HostProof, ListGrantsRequest, ListGrantsResponse, RequestAccessRequest, RequestAccessResponse, RevokeAccessRequest,
    RevokeAccessResponse, WatchGrantsRequest, WatchGrantsResponse, WhichKeysCountRequest, WhichKeysCountResponse,
    WhoAmIRequest, WhoAmIResponse,
};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::client::reason;
use crate::keys::Key;
use crate::netns::Netns;

/// What it says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The other host's id, names, challenge and clock, under its own keys.
    Id,
    /// What the other host says, as it says it: its statement and its proofs too.
    Everything,
    /// What an old posternd says: the other host's id and challenge, its own proof, and no statement.
    Old,
}

/// A call that came with a signed message, and what the other host made of it: nothing where it did it, else its reason.
pub type Passed = (&'static str, Option<String>);

/// A running liar; it ends when dropped.
#[derive(Debug)]
pub struct Liar {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Passed>>>,
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    host: Channel,
    keys: Arc<Keys>,
    lie: Lie,
    waits: Option<GetGrantResponse>,
    log: Arc<Mutex<Vec<Passed>>>,
}

struct Keys {
    certificate: Vec<u8>,
    fingerprint: String,
    tls: Vec<u8>,
    payload: String,
    proof: String,
}

impl Liar {
    /// Listens on `address` in `namespace` with the SSH host key `ssh`, and claims to be the host whose API is at `host`. With
    /// `encrypted` over TLS, with a key of its own. `waits` is what it shows as the request that waits.
    ///
    /// # Panics
    /// Where the address cannot be had, or the host cannot be reached.
    #[must_use]
    pub fn start(
        namespace: &Netns,
        (address, encrypted): (SocketAddr, bool),
        host: SocketAddr,
        (ssh, lie): (&Key, Lie),
        waits: Option<GetGrantResponse>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connect = || runtime.block_on(postern_cli::connect::tls("host", host, None)).expect("the other host");
        let host = namespace.run(connect).channel;
        let made = rcgen::generate_simple_self_signed(["liar".to_owned()]).expect("a certificate");
        let theirs = runtime.block_on(AccessServiceClient::new(host.clone()).who_am_i(WhoAmIRequest::default()));
        let keys = Keys::of(&made, ssh, &theirs.expect("an answer").into_inner());
        let log = Arc::<Mutex<Vec<Passed>>>::default();
        let service = Service { host, keys: Arc::new(keys), lie, waits, log: Arc::clone(&log) };
        let listener = namespace.run(|| std::net::TcpListener::bind(address)).expect("a listening socket");
        listener.set_nonblocking(true).expect("a listening socket");
        let address = listener.local_addr().expect("its address");
        let mut server = Server::builder();
        if encrypted {
            let identity = Identity::from_pem(made.cert.pem(), made.signing_key.serialize_pem());
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).expect("TLS");
        }
        let router = server.add_service(AccessServiceServer::new(service));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
            router.serve_with_incoming(TcpListenerStream::new(listener)).await
        });
        Self { address, log, runtime: Some(runtime) }
    }

    /// Every signed message that it got and passed on.
    ///
    /// # Panics
    /// Where a thread of it has panicked.
    #[must_use]
    pub fn passed(&self) -> Vec<Passed> {
        self.log.lock().expect("the log").clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Keys {
    fn of(made: &rcgen::CertifiedKey<rcgen::KeyPair>, ssh: &Key, theirs: &WhoAmIResponse) -> Self {
        let certificate = made.cert.der().to_vec();
        let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
        let fingerprint = format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(digest));
        let payload =
            json!({ "hostId": theirs.host_id, "names": theirs.names, "tlsFingerprint": fingerprint }).to_string();
        let proof = ssh.sign("host@postern.v1", payload.as_bytes());
        Self { certificate, fingerprint, tls: made.signing_key.serialize_der(), payload, proof }
    }

    /// A statement under its own key, with everything else from `who`.
    fn state(&self, who: WhoAmIResponse, nonce: &[u8]) -> WhoAmIResponse {
        let time = who.host_time.unwrap_or_default();
        let statement = json!({
            "nonce": BASE64_URL_SAFE_NO_PAD.encode(nonce), "hostId": who.host_id, "names": who.names,
            "hostTime": jiff::Timestamp::new(time.seconds, time.nanos).expect("a time").to_string(),
            "clockTrusted": who.clock_trusted, "challenge": who.challenge, "address": who.address,
            "localAddress": who.local_address, "tlsFingerprint": self.fingerprint,
        });
        let statement = statement.to_string();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.tls.clone()));
        let key = any_supported_type(&key).expect("a key");
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("P-256");
        let message = [postern_proto::STATEMENT_MARK, statement.as_bytes()].concat();
        let statement_signature = signer.sign(&message).expect("a signature");
        let tls_certificate = self.certificate.clone();
        WhoAmIResponse { statement, statement_signature, tls_certificate, ..who }
    }
}

impl Service {
    fn host(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.host.clone())
    }

    fn note<T>(&self, call: &'static str, answer: Result<T, Status>) -> Result<T, Status> {
        let refused = answer.as_ref().err().map(reason);
        self.log.lock().expect("the log").push((call, refused));
        answer
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AccessService for Service {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Answer<WhoAmIResponse> {
        let nonce = request.get_ref().nonce.clone();
        let theirs = self.host().who_am_i(request.into_inner()).await?.into_inner();
        if self.lie == Lie::Everything {
            return Ok(Response::new(theirs));
        }
        let Keys { fingerprint, payload, proof, .. } = &*self.keys;
        // As over loopback, so that the client sees nothing odd in plaintext.
        let loopback = || "127.0.0.1".to_owned();
        let mine = WhoAmIResponse {
            tls_fingerprint: fingerprint.clone(),
            proof_payload: payload.clone(),
            proof: proof.clone(),
            proofs: vec![HostProof { signature: proof.clone(), certificate: String::new() }],
            address: loopback(),
            local_address: loopback(),
            statement: String::new(),
            statement_signature: Vec::new(),
            tls_certificate: Vec::new(),
            ..theirs
        };
        let states = self.lie == Lie::Id && !nonce.is_empty();
        Ok(Response::new(if states { self.keys.state(mine, &nonce) } else { mine }))
    }

    async fn request_access(&self, request: Request<RequestAccessRequest>) -> Answer<RequestAccessResponse> {
        self.note("request", self.host().request_access(request.into_inner()).await)
    }

    async fn approve_access(&self, request: Request<ApproveAccessRequest>) -> Answer<ApproveAccessResponse> {
        self.note("approve", self.host().approve_access(request.into_inner()).await)
    }

    async fn revoke_access(&self, request: Request<RevokeAccessRequest>) -> Answer<RevokeAccessResponse> {
        self.note("revoke", self.host().revoke_access(request.into_inner()).await)
    }

    /// It may know what waits there from the one who asked for it.
    async fn get_grant(&self, request: Request<GetGrantRequest>) -> Answer<GetGrantResponse> {
        let answer = self.note("get", self.host().get_grant(request.into_inner()).await);
        self.waits.clone().map_or(answer, |waits| Ok(Response::new(waits)))
    }

    async fn list_grants(&self, request: Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        self.note("list", self.host().list_grants(request.into_inner()).await)
    }

    type WatchGrantsStream = tonic::Streaming<WatchGrantsResponse>;

    async fn watch_grants(&self, request: Request<WatchGrantsRequest>) -> Answer<Self::WatchGrantsStream> {
        self.note("watch", self.host().watch_grants(request.into_inner()).await)
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        self.note("explain", self.host().explain(request.into_inner()).await)
    }

    async fn which_keys_count(&self, request: Request<WhichKeysCountRequest>) -> Answer<WhichKeysCountResponse> {
        self.note("which keys count", self.host().which_keys_count(request.into_inner()).await)
    }
}

/// A `known_hosts` of OpenSSH in a home directory.
///
/// # Panics
/// Where the disk refuses.
pub fn knows(home: &Path, lines: &[String]) {
    let directory = home.join(".ssh");
    std::fs::create_dir_all(&directory).expect("the directory");
    std::fs::write(directory.join("known_hosts"), lines.join("\n") + "\n").expect("known_hosts");
}
