//! TLS to a host that is known by the fingerprint of its certificate.
//!
//! Owns the fingerprint and the verifier. There is no certificate authority here: a host's self-signed certificate is
//! trusted because it was pinned. The verifier never skips the handshake's signature: a host that shows the pinned
//! certificate must also hold its key.

use std::sync::{Arc, Mutex, PoisonError};

pub use postern_core::ssh::Fingerprint;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring::default_provider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Reads the fingerprint of a certificate in DER form, with or without the padding of base64.
///
/// # Errors
/// A sentence for people.
pub fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let wrong = |_| format!("{text:?} is not a fingerprint; it looks like SHA256:47DEQpj8HBSa+/TImW+5JC…");
    text.trim_end_matches('=').parse().map_err(wrong)
}

/// Accepts one certificate (or, before the first use, any) and remembers which one it saw.
#[derive(Debug)]
pub struct PinnedVerifier {
    expected: Option<Fingerprint>,
    seen: Mutex<Option<Fingerprint>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedVerifier {
    /// Accepts only `expected`; with `None` any certificate, whose fingerprint the caller must then judge.
    #[must_use]
    pub fn new(expected: Option<Fingerprint>) -> Arc<Self> {
        let algorithms = default_provider().signature_verification_algorithms;
        Arc::new(Self { expected, seen: Mutex::new(None), algorithms })
    }

    /// The certificate that the peer showed, if it came that far.
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

/// A client configuration for TLS 1.3 and HTTP/2 that trusts what `verifier` accepts.
///
/// # Errors
/// When rustls was built without TLS 1.3, which it was not.
pub fn client_config(verifier: Arc<PinnedVerifier>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every command is a process of its own, and early data could be replayed.
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
