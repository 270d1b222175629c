//! Somebody with a right to get in: a client over TLS 1.3 who knows the host's certificate.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{Grant, ListGrantsRequest, RequestAccessRequest, SignedMessage, WhoAmIRequest};
use postern_tests::netns::Netns;
use postern_tests::postern::{AUDIENCE, Postern};
use postern_tests::probe;
use postern_tests::request::Access;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How long a person waits: from the first packet to the answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// The same, where the attackers themselves use the processors that people and host need.
pub const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// A person with a connection of her own.
pub struct Person<'a> {
    runtime: Runtime,
    channel: Channel,
    address: IpAddr,
    came: Instant,
    postern: &'a Postern,
    message: SignedMessage,
}

impl<'a> Person<'a> {
    /// Comes from `address` in `namespace`.
    pub fn at(namespace: &Netns, address: IpAddr, api: SocketAddr, postern: &'a Postern) -> Self {
        // ssh-keygen takes its time; the clock starts when the person comes to the host.
        let message = Access::new(AUDIENCE, &["22/tcp"], &[address], 60).seal(&postern.alice);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let came = Instant::now();
        let stream = probe::connect(namespace, address, api).expect("a connection for a person");
        let tls = connector(postern);
        let channel = runtime.block_on(async { tokio::time::timeout(LONG_PATIENCE, channel(stream, tls)).await });
        let channel = channel.expect("a handshake in time").expect("a handshake");
        Self { runtime, channel, address, came, postern, message }
    }

    /// Asks for access and gets it in time.
    pub fn gets_a_grant(self) {
        let waited = self.gets_a_grant_after();
        assert!(waited < PATIENCE, "a person waited {waited:?}");
    }

    /// Asks for access and gets it; how long that took.
    pub fn gets_a_grant_after(self) -> Duration {
        let request = RequestAccessRequest { message: Some(self.message.clone()) };
        let answer = self.runtime.block_on(self.client().request_access(request));
        let waited = self.came.elapsed();
        let grant = answer.unwrap_or_else(|status| panic!("{status:?}\n{}", self.postern.log())).into_inner().grant;
        assert_eq!(grant.map(|g| g.source), Some(vec![postern_tests::request::prefix(self.address)]));
        waited
    }

    /// `ListGrants`
    pub fn list(&self, read: Option<SignedMessage>) -> Result<Vec<Grant>, Status> {
        let request = ListGrantsRequest { read, ..Default::default() };
        self.runtime.block_on(self.client().list_grants(request)).map(|answer| answer.into_inner().grants)
    }

    /// The address that the host sees.
    pub fn address(&self) -> String {
        let answer = self.runtime.block_on(self.client().who_am_i(WhoAmIRequest::default()));
        answer.expect("WhoAmI").into_inner().address
    }

    fn client(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }
}

async fn channel(stream: TcpStream, tls: TlsConnector) -> Result<Channel, tonic::transport::Error> {
    stream.set_nonblocking(true).expect("a socket for tokio");
    let mut stream = Some(tokio::net::TcpStream::from_std(stream).expect("a socket for tokio"));
    let connect = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let (tls, stream) = (tls.clone(), stream.take());
        async move {
            let stream = stream.ok_or(std::io::ErrorKind::NotConnected)?;
            let name = ServerName::try_from("posternd").map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    Endpoint::from_static("http://posternd").connect_with_connector(connect).await
}

fn connector(postern: &Postern) -> TlsConnector {
    TlsConnector::from(Arc::new(trusting(postern)))
}

/// Trusts the certificate that posternd made, and no other.
pub fn trusting(postern: &Postern) -> ClientConfig {
    let pem = std::fs::read(postern.file("state/tls/key-and-certificate.pem")).expect("posternd's certificate");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let mut config = config.expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
