//! Proof of this host's identity to clients: a signature by each of its SSH host keys over its names and its TLS key.
//!
//! Owns what clients see and when it is made again. The helper reads the private keys and signs once with each. posternd keeps no key, and
//! never signs anything that a peer sends (docs/decisions/0013, 0054).

mod certificate;
mod der;
mod host_keys;
mod private;
mod prover;

use std::path::Path;

use postern_core::ssh::Fingerprint;
use serde::Serialize;
use uuid::Uuid;

use self::certificate::CertificateFile;
pub(crate) use self::host_keys::Remote;
pub use self::host_keys::{HostKeys, Reports};
pub(crate) use self::prover::{Found, Prover};

/// The namespace of the signature, which no other message uses.
pub const NAMESPACE: &str = "host@postern.v1";

/// The content of `WhoAmI`'s answer.
#[derive(Debug, Default)]
pub struct Proof {
    /// UTF-8 JSON: `{"hostId", "names", "tlsFingerprint"}`.
    pub payload: String,
    /// A signature by each key that can sign, the best known types first, then by replaced keys.
    pub signed: Vec<std::sync::Arc<Signed>>,
    /// The types of this host's keys that prove nothing, each with the reason.
    pub without: Vec<(String, String)>,
}

/// The signature by one key.
#[derive(Debug)]
pub struct Signed {
    /// An armored SSHSIG over exactly the bytes of the payload.
    pub signature: String,
    /// The public half in SSH's encoding.
    public: Vec<u8>,
    certificate: Certificate,
}

#[derive(Debug)]
enum Certificate {
    /// Of a key on the disk.
    Beside(CertificateFile),
    /// Of a replaced key: the last content of its certificate file.
    Last(String),
}

impl Signed {
    fn new(file: &Path, public: Vec<u8>, signature: String) -> Self {
        let certificate = Certificate::Beside(CertificateFile::beside(file, public.clone()));
        Self { signature, public, certificate }
    }

    fn is_current_at(&self, file: &Path, public: &[u8]) -> bool {
        matches!(&self.certificate, Certificate::Beside(certificate) if certificate.is_beside(file, public))
    }

    /// The proof by a replaced key. sshd may serve that key and its certificate until sshd restarts.
    fn replaced(&self) -> Self {
        let line = match &self.certificate {
            Certificate::Beside(file) => file.last(),
            Certificate::Last(line) => line.clone(),
        };
        Self { signature: self.signature.clone(), public: self.public.clone(), certificate: Certificate::Last(line) }
    }

    fn refresh(&self) {
        if let Certificate::Beside(file) = &self.certificate {
            file.refresh();
        }
    }

    /// The key's certificate at the last look, without its comment; empty if there is none.
    #[must_use]
    pub fn certificate(&self) -> String {
        match &self.certificate {
            Certificate::Beside(file) => file.last(),
            Certificate::Last(line) => line.clone(),
        }
    }

    /// `SHA256:…` of the key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Fingerprint::of(&self.public).to_string()
    }
}

/// Signs `message` with the key in the text of a private key file: public half and signature, in SSH's encoding. For the fuzz target.
///
/// # Errors
/// Fails if the text is not a usable private key, or if the key does not sign. The error says why.
pub fn signed_by(text: &str, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let key = private::PrivateKey::parse(text).map_err(|why| why.to_string())?;
    let signature = key.sign(message).ok_or("the key does not sign")?;
    Ok((key.public, signature))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    host_id: String,
    names: &'a [String],
    tls_fingerprint: &'a str,
}

/// The text that the host keys sign: constant while this process lives.
#[must_use]
pub fn payload(host_id: Uuid, names: &[String], tls_fingerprint: &str) -> String {
    // Strings and a list of strings can always be serialised.
    serde_json::to_string(&Payload { host_id: host_id.to_string(), names, tls_fingerprint }).unwrap_or_default()
}

#[cfg(test)]
mod tests;
