//! Connections with real sockets and the health service, in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use postern_core::refusal::Reason;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::service::Routes;

use super::*;
use crate::grpc::answer::Services;
use crate::grpc::limits::MESSAGE_BYTES;
use crate::{config, grpc};

/// Bounds only how long a failing test takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    dir: tempfile::TempDir,
    tls: SocketAddr,
    plain: SocketAddr,
    connections: Arc<Connections>,
    counted: Arc<Mutex<Vec<Reason>>>,
    stop: watch::Sender<()>,
    running: JoinHandle<()>,
}

async fn server(limits: Limits) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let unix = dir.path().join("sock");
    let wanted = config::Api { unix, tcp: vec![loopback], plaintext: vec![loopback], syn_rate: None };
    let bound = grpc::bind_with(&wanted, dir.path(), None, limits).unwrap();
    let (tls, plain) = (bound.listeners().borrow().tls[0], bound.listeners().borrow().plaintext[0]);
    let counted = Arc::new(Mutex::new(Vec::new()));
    let (reporter, health) = tonic_health::server::health_reporter();
    drop(reporter);
    let routes = Routes::new(health.max_decoding_message_size(MESSAGE_BYTES)).prepare();
    let sink = Arc::clone(&counted);
    let services = Services { routes, limits, count: Arc::new(move |reason| sink.lock().unwrap().push(reason)) };
    let connections = Connections::new(limits);
    let (stop, stopped) = watch::channel(());
    let running = tokio::spawn(bound.run(Arc::clone(&connections), services, stopped));
    Server { dir, tls, plain, connections, counted, stop, running }
}

type Client = SendRequest<Full<Bytes>>;

async fn client(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<Client> {
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// (HTTP status, grpc-status, reason) of one health check with `message` as its bytes.
async fn call(client: &mut Client, message: &[u8], header: &str) -> hyper::Result<(u16, String, String)> {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let request = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-filler", header)
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let response = client.send_request(request).await?;
    let status = response.status().as_u16();
    let mut headers = response.headers().clone();
    headers.extend(response.into_body().collect().await?.trailers().cloned().unwrap_or_default());
    let code = headers.get("grpc-status").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let details = headers.get("grpc-status-details-bin").map(|v| v.to_str().unwrap().trim_end_matches('='));
    let details = details.map(|d| base64::Engine::decode(&base64::prelude::BASE64_STANDARD_NO_PAD, d).unwrap());
    Ok((status, code, String::from_utf8_lossy(&details.unwrap_or_default()).into_owned()))
}

async fn healthy(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> bool {
    let check = async { call(&mut client(io).await?, b"", "").await };
    let answered = timeout(PATIENCE, check).await.expect("an answer in time");
    answered.is_ok_and(|(status, code, _)| (status, code.as_str()) == (200, "0"))
}

fn connector(dir: &Path, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
    let pem = std::fs::read(dir.join("tls/key-and-certificate.pem")).unwrap();
    let certificate: CertificateDer<'static> = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn tls(
    server: &Server,
    version: &'static rustls::SupportedProtocolVersion,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from("posternd").unwrap();
    let tcp = TcpStream::connect(server.tls).await?;
    connector(server.dir.path(), &[version]).connect(name, tcp).await
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} never came"));
}

#[tokio::test]
async fn every_way_in_answers_and_tls_is_1_3_only() {
    let server = server(Limits::DEFAULT).await;
    assert!(healthy(tls(&server, &rustls::version::TLS13).await.unwrap()).await);
    assert!(tls(&server, &rustls::version::TLS12).await.is_err());
    assert!(healthy(TcpStream::connect(server.plain).await.unwrap()).await);
    assert!(healthy(UnixStream::connect(server.dir.path().join("sock")).await.unwrap()).await);
    // The TLS port refuses plaintext.
    assert!(!healthy(TcpStream::connect(server.tls).await.unwrap()).await);
}

#[tokio::test]
async fn idle_connections_make_room_for_those_who_ask() {
    let limits = Limits { connections: 20, per_source: 10, opening: 15, ..Limits::DEFAULT };
    let server = server(limits).await;
    let mut idle = Vec::new();
    for n in 0..60 {
        idle.push(TcpStream::connect(if n % 2 == 0 { server.plain } else { server.tls }).await.unwrap());
        assert!(server.connections.len() <= 10);
    }
    for _ in 0..5 {
        assert!(healthy(TcpStream::connect(server.plain).await.unwrap()).await);
        assert!(healthy(tls(&server, &rustls::version::TLS13).await.unwrap()).await);
    }
    let evicted: u64 = server.connections.losses().iter().map(|(_, n)| n).sum();
    assert!(evicted >= 50, "{:?}", server.connections.losses());
}

#[tokio::test]
async fn whoever_says_nothing_is_let_go() {
    let short = Duration::from_millis(50);
    let limits = Limits { handshake: short, first_request: short, idle: short, ..Limits::DEFAULT };
    let server = server(limits).await;
    let mut silent = TcpStream::connect(server.plain).await.unwrap();
    let mut slow = TcpStream::connect(server.tls).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let mut preface = TcpStream::connect(server.plain).await.unwrap();
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").await.unwrap();
    let mut asked = client(TcpStream::connect(server.plain).await.unwrap()).await.unwrap();
    assert_eq!(call(&mut asked, b"", "").await.unwrap().1, "0");
    for stream in [&mut silent, &mut slow, &mut preface] {
        let mut sink = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut sink)).await.expect("the end of the connection");
    }
    until("the end of all connections", || server.connections.is_empty()).await;
    let losses = server.connections.losses();
    assert!(losses.iter().any(|(code, n)| *code == "handshake-timeout" && *n == 1), "{losses:?}");
    assert!(losses.iter().any(|(code, n)| *code == "connection-idle" && *n >= 1), "{losses:?}");
}

#[tokio::test]
async fn messages_that_cannot_be_decoded_have_a_reason() {
    let server = server(Limits::DEFAULT).await;
    let mut client = client(TcpStream::connect(server.plain).await.unwrap()).await.unwrap();
    let large = call(&mut client, &vec![0; MESSAGE_BYTES + 1], "").await.unwrap();
    assert_eq!((large.1.as_str(), large.2.contains("MESSAGE_TOO_LARGE")), ("3", true), "{large:?}");
    let garbage = call(&mut client, &[0xff; 40], "").await.unwrap();
    assert_eq!((garbage.1.as_str(), garbage.2.contains("ENVELOPE_MALFORMED")), ("3", true), "{garbage:?}");
    assert_eq!(*server.counted.lock().unwrap(), [Reason::MessageTooLarge, Reason::EnvelopeMalformed]);
    let unknown = call(&mut client, b"\x0a\x04nope", "").await.unwrap();
    assert_eq!(unknown.1, "5");
}

#[tokio::test]
async fn headers_are_bounded() {
    let server = server(Limits::DEFAULT).await;
    let mut talker = client(TcpStream::connect(server.plain).await.unwrap()).await.unwrap();
    let fine = call(&mut talker, b"", &"x".repeat(8 * 1024)).await.unwrap();
    assert_eq!(fine.1, "0");
    let refused = call(&mut talker, b"", &"x".repeat(64 * 1024)).await;
    assert!(refused.is_err() || refused.as_ref().is_ok_and(|r| r.0 == 431), "{refused:?}");
    assert!(healthy(TcpStream::connect(server.plain).await.unwrap()).await);
}

#[tokio::test]
async fn it_stops_when_told_though_peers_stay() {
    let server = server(Limits { grace: Duration::from_millis(50), ..Limits::DEFAULT }).await;
    let mut client = client(TcpStream::connect(server.plain).await.unwrap()).await.unwrap();
    call(&mut client, b"", "").await.unwrap();
    let _silent = TcpStream::connect(server.tls).await.unwrap();
    drop(server.stop);
    timeout(PATIENCE, server.running).await.expect("the end").unwrap();
    assert!(TcpStream::connect(server.plain).await.is_err());
}
