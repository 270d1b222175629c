//! How this host proves to clients who it is: a signature by its own SSH host key over its names and its TLS key.
//!
//! Owns reading those private keys and the one signature made with each at start. It keeps no key beyond that: nothing that a peer
//! sends is ever signed (docs/decisions/0013).

mod certificate;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};

use self::certificate::CertificateFile;
use crate::engine::WhoAmI;

/// The namespace of the signature; no other message is signed under it.
pub const NAMESPACE: &str = "host@postern.v1";

/// The keys to sign with, where they are there.
const FILES: [&str; 2] = ["ssh_host_ed25519_key", "ssh_host_ecdsa_key"];

/// What `WhoAmI` shows.
#[derive(Debug)]
pub struct Proof {
    /// UTF-8 JSON: `{"hostId", "names", "tlsFingerprint"}`.
    pub payload: String,
    /// By each key that can sign; at least one.
    pub signed: Vec<Signed>,
}

/// One key's signature.
#[derive(Debug)]
pub struct Signed {
    /// An armored SSHSIG over exactly the bytes of the payload.
    pub signature: String,
    certificate: CertificateFile,
}

impl Signed {
    /// The key's certificate as it is now, a line without its comment. Empty where there is none.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.certificate.line()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    host_id: String,
    names: &'a [String],
    tls_fingerprint: &'a str,
}

/// The host keys that can sign. They are read while posternd is root, and forgotten once they have signed.
pub struct HostKeys {
    keys: Vec<(PathBuf, PrivateKey)>,
    /// What is wrong with each file that is there and cannot be read.
    unreadable: Vec<String>,
}

impl HostKeys {
    /// Those in `dir`. Why one of them is not among them is logged.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let mut this = Self { keys: Vec::new(), unreadable: Vec::new() };
        for path in FILES.iter().map(|file| dir.join(file)) {
            match host_key(&path) {
                Ok(Some(key)) => this.keys.push((path, key)),
                Ok(None) => {}
                Err(why) => this.unreadable.push(format!("{}: {why}", path.display())),
            }
        }
        this
    }

    /// What the status says of files that cannot be read; none where there are no such files.
    #[must_use]
    pub fn condition(&self) -> Option<String> {
        (!self.unreadable.is_empty()).then(|| {
            format!(
                "an SSH host key cannot be read, so clients that know this host by that key refuse it or ask: {}. Mend the file, \
                 then restart posternd",
                self.unreadable.join("; ")
            )
        })
    }

    /// `SHA256:…` of each.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|(_, key)| key.fingerprint(HashAlg::Sha256).to_string()).collect()
    }

    /// Signs once with each. None where there is no key that can sign: clients then pin the TLS key as they would without SSH.
    #[must_use]
    pub fn prove(self, who: &WhoAmI, tls_fingerprint: &str) -> Option<Proof> {
        let WhoAmI { host_id, names, .. } = who;
        let payload = Payload { host_id: host_id.to_string(), names, tls_fingerprint };
        let payload = serde_json::to_string(&payload).ok()?;
        let signed: Vec<_> = self.keys.iter().filter_map(|(path, key)| signed(path, key, &payload)).collect();
        (!signed.is_empty()).then_some(Proof { payload, signed })
    }
}

fn signed(path: &Path, key: &PrivateKey, payload: &str) -> Option<Signed> {
    let signature = match sign(key, payload) {
        Ok(signature) => signature,
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "this SSH host key does not sign");
            return None;
        }
    };
    tracing::info!(host_key = %key.fingerprint(HashAlg::Sha256), "clients may know this host by its SSH host key");
    let public = key.public_key().to_bytes().ok()?;
    Some(Signed { signature, certificate: CertificateFile::beside(path, public) })
}

/// The private key in a file; none where the key cannot sign here, or where there is no file: not every host runs sshd.
///
/// # Errors
/// Why the file cannot be read.
fn host_key(path: &Path) -> Result<Option<PrivateKey>, String> {
    let complain = |error: &dyn std::fmt::Display| {
        tracing::warn!(file = %path.display(), %error, "this SSH host key cannot prove who this host is");
    };
    // Reading a FIFO would wait for a writer.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err("it is no plain file".to_owned());
    }
    match PrivateKey::read_openssh_file(path) {
        Ok(key) if key.is_encrypted() => complain(&"it has a passphrase"),
        Ok(key) if can_sign(&key) => return Ok(Some(key)),
        Ok(key) => complain(&format_args!("keys of type {} do not sign here", key.algorithm())),
        Err(ssh_key::Error::Io(io::ErrorKind::NotFound)) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(None)
}

fn can_sign(key: &PrivateKey) -> bool {
    use ssh_key::EcdsaCurve::{NistP256, NistP384};
    matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { curve: NistP256 | NistP384 })
}

fn sign(key: &PrivateKey, payload: &str) -> Result<String, ssh_key::Error> {
    key.sign(NAMESPACE, HashAlg::Sha512, payload.as_bytes())?.to_pem(LineEnding::LF)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn who() -> WhoAmI {
        WhoAmI {
            host_id: uuid::Uuid::from_u128(7),
            names: vec!["vm1.example.com".to_owned(), "\"quoted\"".to_owned()],
            host_time: jiff::Timestamp::UNIX_EPOCH,
            clock_trusted: true,
            challenge: "a".to_owned(),
        }
    }

    fn keygen(dir: &Path, file: &str, arguments: &[&str]) {
        let status = Command::new("ssh-keygen").args(["-q", "-f"]).arg(dir.join(file)).args(arguments).status();
        assert!(status.unwrap().success());
    }

    /// Whether `ssh-keygen -Y verify` takes one of the signatures for one by the key in `file`.
    fn verifies(dir: &Path, file: &str, proof: &Proof) -> bool {
        proof.signed.iter().any(|signed| verified(dir, file, &proof.payload, &signed.signature))
    }

    fn verified(dir: &Path, file: &str, payload: &str, signature: &str) -> bool {
        let public = fs::read_to_string(dir.join(file).with_extension("pub")).unwrap();
        fs::write(dir.join("signers"), format!("vm1 {public}")).unwrap();
        fs::write(dir.join("proof"), signature).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-I", "vm1", "-n", NAMESPACE, "-f"]).arg(dir.join("signers"));
        command.arg("-s").arg(dir.join("proof")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn each_key_that_can_sign_signs_what_ssh_keygen_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let prove = || HostKeys::read(dir).prove(&who(), "SHA256:tls");
        assert!(prove().is_none(), "no key, no proof");
        for bits in ["521", "384", "256"] {
            let _ = fs::remove_file(dir.join(FILES[1]));
            keygen(dir, FILES[1], &["-N", "", "-t", "ecdsa", "-b", bits]);
            assert_eq!(prove().is_some_and(|proof| verifies(dir, FILES[1], &proof)), bits != "521", "{bits}");
        }
        keygen(dir, FILES[0], &["-N", "secret", "-t", "ed25519"]);
        let proof = prove().unwrap();
        assert!(proof.signed.len() == 1 && verifies(dir, FILES[1], &proof), "the one with a passphrase is passed over");
        fs::remove_file(dir.join(FILES[0])).unwrap();
        keygen(dir, FILES[0], &["-N", "", "-t", "ed25519"]);
        let proof = prove().unwrap();
        assert!(verifies(dir, FILES[0], &proof) && verifies(dir, FILES[1], &proof));
        assert!(verified(dir, FILES[0], &proof.payload, &proof.signed[0].signature), "Ed25519 comes first");
        let said: serde_json::Value = serde_json::from_str(&proof.payload).unwrap();
        assert_eq!(said["names"][1], "\"quoted\"");
        assert_eq!(said["tlsFingerprint"], "SHA256:tls");
        assert!(!verifies(dir, FILES[0], &Proof { payload: proof.payload.replace("tls\"", "TLS\""), ..proof }));
    }
}
