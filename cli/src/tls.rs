//! TLS to a host with a pinned certificate.
//!
//! There is no certificate authority: the client trusts a self-signed certificate because it pinned it. The verifier always checks the
//! handshake's signature, so the host must also hold the certificate's key.

use std::sync::{Arc, Mutex, PoisonError};

pub use postern_core::ssh::Fingerprint;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring::default_provider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Parses the fingerprint of a certificate in DER form, with or without base64 padding.
///
/// # Errors
/// Fails if `text` is no such fingerprint. The error says what is wrong.
pub fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let wrong = |_| format!("{text:?} is not a fingerprint; it looks like SHA256:47DEQpj8HBSa+/TImW+5JC…");
    text.trim_end_matches('=').parse().map_err(wrong)
}

/// Accepts one certificate (or any before the first use) and stores the fingerprint that it saw.
#[derive(Debug)]
pub struct PinnedVerifier {
    expected: Option<Fingerprint>,
    seen: Mutex<Option<Fingerprint>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    /// Accepts only `expected`. With `None` it accepts any certificate, which the caller must then judge.
    #[must_use]
    pub fn new(expected: Option<Fingerprint>) -> Arc<Self> {
        let algorithms = default_provider().signature_verification_algorithms;
        Arc::new(Self { expected, seen: Mutex::new(None), algorithms })
    }

    /// The fingerprint of the peer's certificate; none if the handshake failed earlier.
    #[must_use]
    pub fn seen(&self) -> Option<Fingerprint> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Fingerprint::of(end_entity);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        match self.expected {
            Some(expected) if expected != shown => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A configuration for TLS 1.3 and HTTP/2 with this verifier.
///
/// # Errors
/// Fails if rustls lacks TLS 1.3, which this build has.
pub fn client_config(verifier: Arc<PinnedVerifier>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every command is its own process, and an attacker could replay early data.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_written_as_ssh_writes_them() {
        let empty = Fingerprint::of(b"");
        assert_eq!(empty.to_string(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(fingerprint("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), Ok(empty));
        for text in ["", "SHA256:", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "SHA256:47DE", "MD5:00:11"] {
            assert!(fingerprint(text).is_err(), "{text:?}");
        }
    }
}
