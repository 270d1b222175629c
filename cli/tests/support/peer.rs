//! A test double of the *peer*: it speaks the API's wire format and decides nothing. It stands in for no kernel and no
//! policy; what a real host answers is tested with the real posternd elsewhere.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use postern_cli::{
    known_hosts::{KnownHost, KnownHosts},
    tls::Fingerprint,
};
use postern_proto::v1::{
    ApproveAccessRequest, ApproveAccessResponse, AuditEntry, BreakGlassRequest, BreakGlassResponse, Condition,
    ConfirmRequest, ConfirmResponse, EnableRequest, EnableResponse, ExplainRequest, ExplainResponse, GetGrantRequest,
    GetGrantResponse, GetPolicyRequest, GetPolicyResponse, GetReportRequest, GetReportResponse, GetStatusRequest,
    GetStatusResponse, Grant, GrantState, ListAuditRequest, ListAuditResponse, ListDeniedRequest, ListDeniedResponse,
    ListGrantsRequest, ListGrantsResponse, PolicyProblem, PortReport, Refusal, RequestAccessRequest,
    RequestAccessResponse, RevokeAccessRequest, RevokeAccessResponse, RollBackRequest, RollBackResponse, SignedMessage,
    ValidatePolicyRequest, ValidatePolicyResponse, WatchAuditRequest, WatchAuditResponse, WatchGrantsRequest,
    WatchGrantsResponse, WhichKeysCountRequest, WhichKeysCountResponse, WhoAmIRequest, WhoAmIResponse,
    access_service_server::{AccessService, AccessServiceServer},
    host_service_server::{HostService, HostServiceServer},
};
use rustls::{SignatureScheme, crypto::ring::sign::any_supported_type, pki_types::PrivateKeyDer};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Runtime,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    Code, Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::Router},
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A condition in which the host has escaped somebody's words.
pub const ESCAPED: &str = "line 3: unknown option \"\\u{202e}a\\\\b\"";

pub const HOST_ID: &str = "7d0c0d0e-3b1a-4a53-9a3d-111111111111";
/// Years away from any test machine's clock.
pub const HOST_TIME: i64 = 2_208_988_800;
pub const CHALLENGE: &str = "Y2hhbGxlbmdl";
pub const GRANTS: [&str; 3] = [
    "00000000-0000-4000-8000-000000000001",
    "00000000-0000-4000-8000-000000000002",
    "00000000-0000-4000-8000-000000000003",
];

/// A host's TLS key and self-signed certificate.
#[derive(Clone)]
pub struct TlsKey {
    pub certificate: Vec<u8>,
    pub certificate_pem: String,
    pub key_pem: String,
    pub key_der: Vec<u8>,
}

impl TlsKey {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["vm1".to_owned()]).expect("a certificate");
        Self {
            certificate: made.cert.der().to_vec(),
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            key_der: made.signing_key.serialize_der(),
        }
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Makes the statement that goes with `who`, as posternd does, but for an `edit`.
    pub fn state(&self, who: &mut WhoAmIResponse, nonce: &[u8], edit: fn(&mut serde_json::Value)) {
        let time = who.host_time.unwrap_or_default();
        let mut text = serde_json::json!({
            "nonce": BASE64_URL_SAFE_NO_PAD.encode(nonce), "hostId": who.host_id, "names": who.names,
            "hostTime": jiff::Timestamp::new(time.seconds, time.nanos).unwrap().to_string(),
            "clockTrusted": who.clock_trusted, "challenge": who.challenge, "address": who.address,
            "localAddress": who.local_address, "tlsFingerprint": self.fingerprint().to_string(),
        });
        edit(&mut text);
        who.statement = text.to_string();
        let key = PrivateKeyDer::Pkcs8(self.key_der.clone().into());
        let key = any_supported_type(&key).expect("a key");
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("P-256");
        who.statement_signature =
            signer.sign(&[postern_proto::STATEMENT_MARK, who.statement.as_bytes()].concat()).expect("a signature");
        who.tls_certificate.clone_from(&self.certificate);
    }
}

/// What the double says, and what it was told.
#[derive(Clone)]
pub struct Peer {
    /// The answer to WhoAmI.
    pub who: WhoAmIResponse,
    /// Refuses every signed call with this code and rule.
    pub refusal: Option<(&'static str, &'static str)>,
    /// What GetGrant shows as the request that waits; then the grant is pending.
    pub waits: Option<SignedMessage>,
    /// The grants that ListGrants shows on one page; two pages of its own where there are none.
    pub grants: Vec<Grant>,
    /// The key that signs its statements; without one it makes none, as an old posternd.
    pub tls: Option<TlsKey>,
    /// Edits a statement before it is signed.
    pub edit: fn(&mut serde_json::Value),
    /// Every signed message that came, in order; none where a call had none.
    pub inbox: Arc<Mutex<Vec<Option<SignedMessage>>>>,
}

impl Peer {
    /// Sees its callers as `address`.
    pub fn seeing(address: &str) -> Self {
        let who = WhoAmIResponse {
            address: address.to_owned(),
            host_id: HOST_ID.to_owned(),
            names: vec!["SHA256:of-an-ssh-host-key".to_owned(), "vm1.example.com".to_owned()],
            host_time: Some(pbjson_types::Timestamp { seconds: HOST_TIME, nanos: 0 }),
            clock_trusted: true,
            challenge: CHALLENGE.to_owned(),
            tls_fingerprint: String::new(),
            proof_payload: String::new(),
            proofs: Vec::new(),
            proof: String::new(),
            ..WhoAmIResponse::default()
        };
        Self { who, refusal: None, waits: None, grants: Vec::new(), tls: None, edit: |_| {}, inbox: Arc::default() }
    }

    pub fn heard(&self) -> Vec<Option<SignedMessage>> {
        self.inbox.lock().unwrap().clone()
    }

    fn hear(&self, message: Option<SignedMessage>) -> Result<(), Status> {
        self.inbox.lock().unwrap().push(message);
        let Some((reason, rule)) = self.refusal else { return Ok(()) };
        let metadata = HashMap::from([("rule".to_owned(), rule.to_owned())]);
        let details = ErrorDetails::with_error_info(reason, postern_proto::ERROR_DOMAIN, metadata);
        Err(Status::with_error_details(Code::PermissionDenied, "the grant would be longer than 3h", details))
    }

    fn router(self, mut server: Server) -> Router {
        server.add_service(AccessServiceServer::new(self.clone())).add_service(HostServiceServer::new(self))
    }
}

/// Serves until dropped.
pub struct Serving {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Serving {
    /// Over TLS with `key` at `ip`; on `port` if not 0.
    pub fn tls(mut peer: Peer, key: &TlsKey, ip: &str, port: u16) -> Self {
        peer.tls = peer.tls.or_else(|| Some(key.clone()));
        Self::over_tls(peer, key, ip, port)
    }

    /// Over TLS on loopback, as an old posternd.
    pub fn without_statements(peer: Peer, key: &TlsKey) -> Self {
        Self::over_tls(peer, key, "127.0.0.1", 0)
    }

    fn over_tls(mut peer: Peer, key: &TlsKey, ip: &str, port: u16) -> Self {
        if peer.who.tls_fingerprint.is_empty() {
            peer.who.tls_fingerprint = key.fingerprint().to_string();
        }
        let identity = Identity::from_pem(&key.certificate_pem, &key.key_pem);
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).expect("TLS");
        Self::tcp(peer.router(server), ip, port)
    }

    /// Over TLS on loopback, as a host that this home has trusted before.
    pub fn trusted(peer: Peer, home: &super::Home) -> Self {
        let key = TlsKey::new();
        let serving = Self::tls(peer, &key, "127.0.0.1", 0);
        let known = KnownHost {
            address: serving.address.to_string(),
            host_id: HOST_ID.to_owned(),
            fingerprint: key.fingerprint(),
            added: "2026-11-21T08:00:00Z".parse().unwrap(),
        };
        KnownHosts::at(&home.path("config/postern")).put(known).expect("a record");
        serving
    }

    /// In plaintext, with statements by `key`.
    pub fn plaintext(mut peer: Peer, key: &TlsKey) -> Self {
        peer.tls = Some(key.clone());
        Self::tcp(peer.router(Server::builder()), "127.0.0.1", 0)
    }

    fn tcp(router: Router, ip: &str, port: u16) -> Self {
        let runtime = runtime();
        let ip: IpAddr = ip.parse().unwrap();
        // A child that another test starts holds copies of our sockets between fork and exec, so a port that was closed
        // just now may be taken for a moment.
        let mut listener = None;
        super::wait_for("a free port", || {
            listener = runtime.block_on(TcpListener::bind((ip, port))).ok();
            listener.is_some()
        });
        let listener = listener.expect("a free port");
        let address = listener.local_addr().unwrap();
        runtime.spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, runtime: Some(runtime) }
    }

    pub fn unix(peer: Peer, path: &Path) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(async { UnixListener::bind(path) }).expect("a socket");
        runtime.spawn(peer.router(Server::builder()).serve_with_incoming(UnixListenerStream::new(listener)));
        Self { address: "0.0.0.0:0".parse().unwrap(), runtime: Some(runtime) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}

/// A loopback address that no other test uses, so that its ports can be bound again.
pub fn own_ip() -> String {
    static GIVEN: AtomicU8 = AtomicU8::new(2);
    let [.., a, b] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{}", a | 1, GIVEN.fetch_add(1, Ordering::Relaxed))
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A grant as the API shows it.
pub fn grant(id: &str, state: GrantState) -> Grant {
    let active = state == GrantState::Active;
    Grant {
        id: id.to_owned(),
        state: state.into(),
        principal: "alice@example.com".to_owned(),
        ports: vec!["22/tcp".to_owned()],
        source: vec!["192.0.2.7/32".to_owned()],
        expires: Some(pbjson_types::Timestamp { seconds: HOST_TIME + 1800, nanos: 0 }),
        remaining: active.then(|| std::time::Duration::from_secs(1798).into()),
        ended: (!active).then_some(pbjson_types::Timestamp { seconds: HOST_TIME, nanos: 0 }),
        ..Grant::default()
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AccessService for Peer {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Answer<WhoAmIResponse> {
        let mut who = self.who.clone();
        if let Some(key) = &self.tls {
            key.state(&mut who, &request.into_inner().nonce, self.edit);
        }
        Ok(Response::new(who))
    }

    async fn request_access(&self, request: Request<RequestAccessRequest>) -> Answer<RequestAccessResponse> {
        self.hear(request.into_inner().message)?;
        Ok(Response::new(RequestAccessResponse { grant: Some(grant(GRANTS[0], GrantState::Active)) }))
    }

    async fn approve_access(&self, request: Request<ApproveAccessRequest>) -> Answer<ApproveAccessResponse> {
        self.hear(request.into_inner().message)?;
        Ok(Response::new(ApproveAccessResponse { grant: Some(grant(GRANTS[0], GrantState::Active)) }))
    }

    async fn revoke_access(&self, request: Request<RevokeAccessRequest>) -> Answer<RevokeAccessResponse> {
        self.hear(request.into_inner().message)?;
        Ok(Response::new(RevokeAccessResponse { grant: Some(grant(GRANTS[0], GrantState::Revoked)) }))
    }

    async fn get_grant(&self, request: Request<GetGrantRequest>) -> Answer<GetGrantResponse> {
        let GetGrantRequest { read, id } = request.into_inner();
        self.hear(read)?;
        if self.waits.is_some() {
            let lapses = Some(pbjson_types::Timestamp { seconds: HOST_TIME + 600, nanos: 0 });
            let waiting = Grant { approvals_missing: 1, lapses, ended: None, ..grant(&id, GrantState::Pending) };
            return Ok(Response::new(GetGrantResponse { grant: Some(waiting), request: self.waits.clone() }));
        }
        let mut grant = grant(&id, GrantState::Active);
        // A moment later in the stream.
        grant.remaining = Some(std::time::Duration::from_secs(1799).into());
        Ok(Response::new(GetGrantResponse { grant: Some(grant), request: None }))
    }

    /// Two pages.
    async fn list_grants(&self, request: Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        let request = request.into_inner();
        self.hear(request.read)?;
        if !self.grants.is_empty() {
            let grants = self.grants.clone();
            return Ok(Response::new(ListGrantsResponse { grants, next_page_token: String::new() }));
        }
        let (grants, next) = match request.page_token.as_str() {
            "" => (vec![grant(GRANTS[0], GrantState::Active)], "more"),
            _ => (vec![grant(GRANTS[1], GrantState::Active)], ""),
        };
        Ok(Response::new(ListGrantsResponse { grants, next_page_token: next.to_owned() }))
    }

    type WatchGrantsStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchGrantsResponse, Status>>>;

    /// Two live grants; then the first one ends.
    async fn watch_grants(&self, request: Request<WatchGrantsRequest>) -> Answer<Self::WatchGrantsStream> {
        self.hear(request.into_inner().read)?;
        let changes = [(0, GrantState::Active), (1, GrantState::Active), (0, GrantState::Expired)];
        let changes =
            changes.map(|(n, state)| Ok(WatchGrantsResponse { grant: Some(grant(GRANTS[n], state)), warning: None }));
        Ok(Response::new(tokio_stream::iter(changes.into_iter().collect::<Vec<_>>())))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        let request = request.into_inner();
        self.hear(request.read)?;
        let refusal = Refusal {
            reason: "DURATION_TOO_LONG".to_owned(),
            message: "the grant would be longer than the policy allows".to_owned(),
            rule: "port[0].max_duration".to_owned(),
        };
        let findings = vec![format!("asked about {} from {}", request.ports.join(","), request.source.join(","))];
        Ok(Response::new(ExplainResponse { refusal: Some(refusal), findings, ..ExplainResponse::default() }))
    }

    /// As an older posternd: it knows no such call.
    async fn which_keys_count(&self, _: Request<WhichKeysCountRequest>) -> Answer<WhichKeysCountResponse> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl HostService for Peer {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        self.hear(request.into_inner().read)?;
        let told = [("lock-lost\u{1b}[2J", "the lock is \u{1b}[2Jgone"), ("trust-file", ESCAPED)];
        let conditions = told.map(|(code, detail)| Condition { code: code.into(), detail: detail.into(), since: None });
        let host_id = HOST_ID.to_owned();
        Ok(Response::new(GetStatusResponse { host_id, conditions: conditions.into(), ..GetStatusResponse::default() }))
    }

    /// Two lines of a journal that somebody changed, on two pages.
    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Answer<ListAuditResponse> {
        let request = request.into_inner();
        let older = !request.page_token.is_empty();
        self.hear(request.read)?;
        let reason = "\u{1b}[2Jall is well".to_owned();
        let entry = |seq| AuditEntry {
            seq,
            event: "granted".to_owned(),
            reason: reason.clone(),
            line: format!("{{\"seq\":{seq}}}"),
            ..AuditEntry::default()
        };
        let damage = "line 3 does not continue the one before it".to_owned();
        let (entries, next) = if older { (vec![entry(6)], "") } else { (vec![entry(7)], "6") };
        let next_page_token = next.to_owned();
        Ok(Response::new(ListAuditResponse { entries, damage, next_page_token, ..ListAuditResponse::default() }))
    }

    type WatchAuditStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchAuditResponse, Status>>>;

    async fn watch_audit(&self, request: Request<WatchAuditRequest>) -> Answer<Self::WatchAuditStream> {
        self.hear(request.into_inner().read)?;
        // As an older posternd wrote it: a joiner that is not seen stands in it as it is, and the chain binds these bytes.
        let line = "{\"seq\":8,\"why\":\"a\u{200d}b\"}".to_owned();
        let entry = AuditEntry { seq: 8, event: "ended".to_owned(), line, ..AuditEntry::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(WatchAuditResponse { entry: Some(entry) })])))
    }

    async fn get_report(&self, request: Request<GetReportRequest>) -> Answer<GetReportResponse> {
        self.hear(request.into_inner().read)?;
        let port = PortReport { port: "22/tcp".to_owned(), requests: 7, refused: 2, ..PortReport::default() };
        let unused = vec![grant(GRANTS[2], GrantState::Expired)];
        Ok(Response::new(GetReportResponse { ports: vec![port], unused, ..GetReportResponse::default() }))
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Answer<GetPolicyResponse> {
        self.hear(request.into_inner().read)?;
        Ok(Response::new(GetPolicyResponse::default()))
    }

    async fn validate_policy(&self, request: Request<ValidatePolicyRequest>) -> Answer<ValidatePolicyResponse> {
        let request = request.into_inner();
        self.hear(request.read)?;
        let problem = |line, column, field: &str, message: &str| PolicyProblem {
            line,
            column,
            field: field.to_owned(),
            message: message.to_owned(),
        };
        let problems = match request.text.as_str() {
            "" => Vec::new(),
            _ => vec![
                problem(3, 13, "port[0].approvals", "8 is not from 0 to 7"),
                problem(0, 0, "", "nobody is \u{1b}[2Jadmin"),
            ],
        };
        Ok(Response::new(ValidatePolicyResponse { problems, policy: None }))
    }

    async fn list_denied(&self, request: Request<ListDeniedRequest>) -> Answer<ListDeniedResponse> {
        self.hear(request.into_inner().read)?;
        Ok(Response::new(ListDeniedResponse::default()))
    }

    async fn break_glass(&self, _: Request<BreakGlassRequest>) -> Answer<BreakGlassResponse> {
        Err(Status::unauthenticated("not here"))
    }

    async fn enable(&self, _: Request<EnableRequest>) -> Answer<EnableResponse> {
        Err(Status::unauthenticated("not here"))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Answer<ConfirmResponse> {
        Err(Status::unauthenticated("not here"))
    }

    async fn roll_back(&self, _: Request<RollBackRequest>) -> Answer<RollBackResponse> {
        Err(Status::unauthenticated("not here"))
    }
}
