//! The host's verified statement about one `WhoAmI` call.
//!
//! Owns the nonce and the check of the signature by the host's TLS key. [`crate::proof`] and [`crate::trust`] decide whether that key is
//! trusted. Messages use nothing that a host says outside its statement.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use postern_proto::{STATEMENT_MARK, v1::WhoAmIResponse};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::{crypto::ring::default_provider, pki_types::CertificateDer};
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::{
    failure::{Failure, Kind, Result},
    text,
    tls::{self, Fingerprint},
};

/// Random bytes that the host repeats to show that the statement is about this call.
pub type Nonce = [u8; 32];

/// A new nonce.
///
/// # Errors
/// Fails with [`Kind::Local`] if the kernel gives no random bytes.
pub fn nonce() -> Result<Nonce> {
    let mut nonce = [0; 32];
    let none = |_| Failure::new(Kind::Local, "the kernel gave no random bytes");
    SystemRandom::new().fill(&mut nonce).map_err(none).map(|()| nonce)
}

/// The content of the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The host's id: a label, which any host can claim.
    pub host_id: String,
    /// Names that the host claims, for display.
    pub names: Vec<String>,
    /// The host's wall clock.
    pub host_time: Timestamp,
    /// The host's challenge, which goes into messages unchanged.
    pub challenge: String,
    /// The source address that the host sees; empty on a Unix socket.
    pub address: String,
    /// The host's own address on the connection; empty on a Unix socket.
    pub local_address: String,
    /// The TLS certificate whose key signed the statement. None if root's own posternd is too old to sign.
    pub tls: Option<Fingerprint>,
    /// The meaning of the ports in the question, in order. Empty if posternd is too old to answer.
    pub ports: Vec<Meaning>,
}

/// The meaning of a typed port on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// For example `22/tcp`; empty if no port has this name.
    pub ports: Vec<String>,
    /// Whether the rules of these ports admit the source address.
    pub admitted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPort {
    asked: String,
    ports: Vec<String>,
    admitted: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    nonce: String,
    host_id: String,
    names: Vec<String>,
    host_time: Timestamp,
    #[serde(rename = "clockTrusted")]
    _clock_trusted: bool,
    challenge: String,
    address: String,
    local_address: String,
    tls_fingerprint: String,
    #[serde(default)]
    ports: Vec<OfPort>,
}

/// The reason why there is no statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The host sent none: it is older than this client, or an attacker removed it.
    Missing,
    /// It is not about this call, or its key did not sign it.
    Wrong(String),
}

/// Verifies the statement in `who` for a call with `nonce` and the ports `asked`. Over TLS, `connection` is the certificate of the
/// connection, whose key the peer has proved to hold.
///
/// # Errors
/// Fails if there is no statement, its key did not sign it, or it is about another call or connection.
pub fn verify(
    who: &WhoAmIResponse,
    nonce: &Nonce,
    asked: &[String],
    connection: Option<Fingerprint>,
) -> std::result::Result<Statement, Fault> {
    if who.statement.is_empty() {
        return Err(Fault::Missing);
    }
    let wrong = |why: &str| Fault::Wrong(why.to_owned());
    let tls = Fingerprint::of(&who.tls_certificate);
    if connection.is_some_and(|connection| connection != tls) {
        return Err(wrong("another TLS key made it than the one of this connection"));
    }
    check_signature(who).map_err(|why| wrong(&why))?;
    read(&who.statement, nonce, asked, tls)
}

/// Parses a statement that the key `tls` signed.
///
/// # Errors
/// Fails with [`Fault::Wrong`] if the statement is malformed, or is about another call or key.
pub fn read(
    statement: &str,
    nonce: &Nonce,
    asked: &[String],
    tls: Fingerprint,
) -> std::result::Result<Statement, Fault> {
    let wrong = |why: &str| Fault::Wrong(why.to_owned());
    let text: Text = serde_json::from_str(statement)
        .map_err(|error| wrong(&format!("it is malformed ({})", text::clean(&error.to_string()))))?;
    if text.nonce != BASE64_URL_SAFE_NO_PAD.encode(nonce) {
        return Err(wrong("the host made it for another call"));
    }
    if tls::fingerprint(&text.tls_fingerprint) != Ok(tls) {
        return Err(wrong("it names another TLS key than the one that signed it"));
    }
    let Text { host_id, names, host_time, challenge, address, local_address, ports, .. } = text;
    check_id(&host_id).map_err(|why| wrong(&why))?;
    let ports = meanings(ports, asked).map_err(wrong)?;
    Ok(Statement { host_id, names, host_time, challenge, address, local_address, tls: Some(tls), ports })
}

/// Checks that the answers belong to the questions and have canonical ports, because the ports go into signed messages.
fn meanings(answers: Vec<OfPort>, asked: &[String]) -> std::result::Result<Vec<Meaning>, &'static str> {
    if answers.is_empty() {
        return Ok(Vec::new());
    }
    let fits = |(answer, asked): (&OfPort, &String)| answer.asked == BASE64_URL_SAFE_NO_PAD.encode(asked);
    if answers.len() != asked.len() || !answers.iter().zip(asked).all(fits) {
        return Err("it answers for other ports than were asked about");
    }
    if !answers.iter().flat_map(|answer| &answer.ports).all(|port| is_port(port)) {
        return Err("it names a port that is none");
    }
    Ok(answers.into_iter().map(|OfPort { ports, admitted, .. }| Meaning { ports, admitted }).collect())
}

/// Whether this is `NUMBER/PROTOCOL` as in messages. A name must not pass, because the client would sign it unchanged.
fn is_port(text: &str) -> bool {
    let Some((number, protocol)) = text.split_once('/') else { return false };
    let number = number.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == number);
    number && ["tcp", "udp", "any"].contains(&protocol)
}

impl Statement {
    /// The answer of a posternd that is too old for statements. Only for this machine's own posternd, which needs no proof. The client
    /// signs nothing for it.
    ///
    /// # Errors
    /// Fails if the host id is unusable.
    pub fn unsigned(who: &WhoAmIResponse) -> std::result::Result<Self, String> {
        check_id(&who.host_id)?;
        let time = who.host_time.unwrap_or_default();
        Ok(Self {
            host_id: who.host_id.clone(),
            names: who.names.clone(),
            host_time: Timestamp::new(time.seconds, time.nanos).unwrap_or(Timestamp::UNIX_EPOCH),
            challenge: who.challenge.clone(),
            address: who.address.clone(),
            local_address: who.local_address.clone(),
            tls: None,
            ports: Vec::new(),
        })
    }

    /// Whether the call arrived at the host over loopback or a Unix socket.
    #[must_use]
    pub fn arrived_locally(&self) -> bool {
        let local = |text: &str| text.is_empty() || text.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        local(&self.address) && local(&self.local_address)
    }
}

/// The id goes into messages and onto terminals.
fn check_id(id: &str) -> std::result::Result<(), String> {
    let sane = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let usable = !id.is_empty() && id.len() <= 64 && id.chars().all(sane);
    usable.then_some(()).ok_or_else(|| "it has no usable host id".to_owned())
}

/// Tries every algorithm of TLS handshakes; the certificate's key fits only some of them.
fn check_signature(who: &WhoAmIResponse) -> std::result::Result<(), String> {
    let der = CertificateDer::from(who.tls_certificate.as_slice());
    let certificate =
        EndEntityCert::try_from(&der).map_err(|error| format!("its certificate is unusable ({error})"))?;
    let message = [STATEMENT_MARK, who.statement.as_bytes()].concat();
    let algorithms = default_provider().signature_verification_algorithms.all;
    let fits = |algorithm: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        certificate.verify_signature(*algorithm, &message, &who.statement_signature).is_ok()
    };
    algorithms.iter().any(fits).then_some(()).ok_or_else(|| "its signature does not fit".to_owned())
}

#[cfg(test)]
mod tests;
