//! How this host proves to clients who it is: a signature by its own SSH host key over its names and its TLS key.
//!
//! Owns reading that private key and the one signature made with it at start. It keeps no key: nothing that a peer
//! sends is ever signed (docs/decisions/0013).

use std::io;
use std::path::Path;

use serde::Serialize;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};

use crate::engine::WhoAmI;

/// The namespace of the signature; no other message is signed under it.
pub const NAMESPACE: &str = "host@postern.v1";

/// The keys to sign with, the first that is there.
const FILES: [&str; 2] = ["ssh_host_ed25519_key", "ssh_host_ecdsa_key"];

/// What `WhoAmI` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// UTF-8 JSON: `{"hostId", "names", "tlsFingerprint"}`.
    pub payload: String,
    /// An armored SSHSIG over exactly these bytes.
    pub signature: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    host_id: String,
    names: &'a [String],
    tls_fingerprint: &'a str,
}

/// Signs once with the host key in `dir`. None where there is no key that can sign; the reason is logged, and clients then
/// pin the TLS key as they would without SSH.
#[must_use]
pub fn of_host(dir: &Path, who: &WhoAmI, tls_fingerprint: &str) -> Option<Proof> {
    let key = FILES.iter().find_map(|file| host_key(&dir.join(file)))?;
    let proof = sign(&key, who, tls_fingerprint);
    match &proof {
        Ok(_) => {
            tracing::info!(host_key = %key.fingerprint(HashAlg::Sha256), "clients may know this host by its SSH host key")
        }
        Err(error) => tracing::warn!(%error, "the SSH host key does not sign; clients have to pin the TLS key"),
    }
    proof.ok()
}

/// The private key in a file, if it can be used. An absent file is no news: not every host runs sshd.
fn host_key(path: &Path) -> Option<PrivateKey> {
    let complain = |error: &dyn std::fmt::Display| {
        tracing::warn!(file = %path.display(), %error, "this SSH host key cannot prove who this host is");
    };
    match PrivateKey::read_openssh_file(path) {
        Ok(key) if key.is_encrypted() => complain(&"it has a passphrase"),
        Ok(key) if can_sign(&key) => return Some(key),
        Ok(key) => complain(&format_args!("keys of type {} do not sign here", key.algorithm())),
        Err(ssh_key::Error::Io(io::ErrorKind::NotFound)) => {}
        Err(error) => complain(&error),
    }
    None
}

fn can_sign(key: &PrivateKey) -> bool {
    use ssh_key::EcdsaCurve::{NistP256, NistP384};
    matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { curve: NistP256 | NistP384 })
}

fn sign(key: &PrivateKey, who: &WhoAmI, tls_fingerprint: &str) -> Result<Proof, Box<dyn std::error::Error>> {
    let WhoAmI { host_id, names, .. } = who;
    let payload = serde_json::to_string(&Payload { host_id: host_id.to_string(), names, tls_fingerprint })?;
    let signature = key.sign(NAMESPACE, HashAlg::Sha512, payload.as_bytes())?.to_pem(LineEnding::LF)?;
    Ok(Proof { payload, signature })
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

    /// Whether `ssh-keygen -Y verify` takes the proof for one by the key in `file`.
    fn verifies(dir: &Path, file: &str, proof: &Proof) -> bool {
        let public = fs::read_to_string(dir.join(file).with_extension("pub")).unwrap();
        fs::write(dir.join("signers"), format!("vm1 {public}")).unwrap();
        fs::write(dir.join("proof"), &proof.signature).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-I", "vm1", "-n", NAMESPACE, "-f"]).arg(dir.join("signers"));
        command.arg("-s").arg(dir.join("proof")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(proof.payload.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn the_first_key_that_can_sign_signs_what_ssh_keygen_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let prove = || of_host(dir, &who(), "SHA256:tls");
        assert_eq!(prove(), None, "no key, no proof");
        for bits in ["521", "384", "256"] {
            let _ = fs::remove_file(dir.join(FILES[1]));
            keygen(dir, FILES[1], &["-N", "", "-t", "ecdsa", "-b", bits]);
            assert_eq!(prove().is_some_and(|proof| verifies(dir, FILES[1], &proof)), bits != "521", "{bits}");
        }
        keygen(dir, FILES[0], &["-N", "secret", "-t", "ed25519"]);
        assert!(verifies(dir, FILES[1], &prove().unwrap()), "the one with a passphrase is passed over");
        fs::remove_file(dir.join(FILES[0])).unwrap();
        keygen(dir, FILES[0], &["-N", "", "-t", "ed25519"]);
        let proof = prove().unwrap();
        assert!(verifies(dir, FILES[0], &proof) && !verifies(dir, FILES[1], &proof));
        let said: serde_json::Value = serde_json::from_str(&proof.payload).unwrap();
        assert_eq!(said["names"][1], "\"quoted\"");
        assert_eq!(said["tlsFingerprint"], "SHA256:tls");
        assert!(!verifies(dir, FILES[0], &Proof { payload: proof.payload.replace("tls\"", "TLS\""), ..proof }));
    }
}
