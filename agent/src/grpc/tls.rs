//! The host's TLS key and certificate.
//!
//! Owns the key's creation, its file, and the TLS settings: TLS 1.3 only, and no authority, because clients know the fingerprint.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::sign::SigningKey;
use rustls::{ServerConfig, SignatureScheme};
use tokio_rustls::TlsAcceptor;

use crate::system::guarded;

/// The file in `state_dir/tls`. It holds both key and certificate, so that both are always replaced together.
const FILE: &str = "key-and-certificate.pem";

/// The host's TLS identity.
#[derive(Clone)]
pub struct TlsIdentity {
    /// Accepts connections.
    pub acceptor: TlsAcceptor,
    /// "SHA256:" and unpadded base64 of the SHA-256 of the certificate's DER form.
    pub fingerprint: String,
    /// The certificate in DER form.
    pub certificate: CertificateDer<'static>,
    signer: Arc<dyn SigningKey>,
}

/// How each type of key signs, as in a TLS 1.3 handshake. The client finds the type in the certificate.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

impl TlsIdentity {
    /// Signs with the private key. `message` must begin with a mark with which no content of a TLS handshake begins.
    ///
    /// # Errors
    /// Fails if the key has a type that cannot sign a statement, or if the signing fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let unusable = || rustls::Error::General("the TLS key is of a type that signs no statement".to_owned());
        self.signer.choose_scheme(&SCHEMES).ok_or_else(unusable)?.sign(message)
    }
}

/// Why there is no TLS identity.
#[derive(Debug, thiserror::Error)]
#[error("TLS key and certificate {}: {problem}", path.display())]
pub struct TlsError {
    path: PathBuf,
    problem: String,
}

/// Loads the identity in `state_dir`, or creates it.
///
/// # Errors
/// [`TlsError`]: the file cannot be read or written, other users may read it, or its key and certificate do not belong together.
pub fn load_or_make(state_dir: &Path) -> Result<TlsIdentity, TlsError> {
    let path = state_dir.join("tls").join(FILE);
    let fail = |problem: String| TlsError { path: path.clone(), problem };
    let pem = match read_private(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pem = make().map_err(|e| fail(format!("cannot be made: {e}")))?;
            write_private(&path, &pem).map_err(|e| fail(format!("cannot be written: {e}")))?;
            pem
        }
        read => read.map_err(|e| fail(e.to_string()))?,
    };
    identity(&pem).map_err(|problem| fail(format!("{problem}; delete the file to get a new identity")))
}

/// An identity that ends with this process and is never written to the disk.
///
/// # Errors
/// Fails if no key or certificate can be made.
pub fn passing() -> Result<TlsIdentity, TlsError> {
    let fail = |problem: String| TlsError { path: "(in memory)".into(), problem };
    let pem = make().map_err(|e| fail(format!("cannot be made: {e}")))?;
    identity(&pem).map_err(fail)
}

fn identity(pem: &str) -> Result<TlsIdentity, String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("no certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("no private key: {e}"))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
    let fingerprint = format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(digest));
    let signer = any_supported_type(&key).map_err(|e| e.to_string())?;
    let config = config(certificate.clone(), key).map_err(|e| e.to_string())?;
    Ok(TlsIdentity { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, certificate, signer })
}

fn config(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // The server sends no session tickets: they would add two messages to each handshake.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// An ECDSA P-256 key, and a certificate until the year 9999: clients trust its fingerprint.
fn make() -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = rcgen::CertificateParams::new(vec!["posternd".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "posternd");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

fn read_private(path: &Path) -> io::Result<String> {
    let file = guarded::open(path, 2, guarded::READ)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "its mode is {mode:04o}, so others may have read the key; it must be 0600"
        )));
    }
    guarded::text(&file)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let fresh = path.with_extension("pem.new");
    let _ = fs::remove_file(&fresh);
    let mut file = guarded::open(&fresh, 2, guarded::NEW)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    guarded::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(dir: &Path) -> String {
        load_or_make(dir).err().expect("an error").to_string()
    }

    #[test]
    fn it_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path()).unwrap().fingerprint;
        assert_eq!(load_or_make(dir.path()).unwrap().fingerprint, first);
        assert!(first.starts_with("SHA256:") && first.len() == 7 + 43, "{first}");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("tls")), 0o700);
        assert_eq!(mode(&dir.path().join("tls").join(FILE)), 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(load_or_make(other.path()).unwrap().fingerprint, first);
    }

    #[test]
    fn a_broken_file_is_named_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        load_or_make(dir.path()).unwrap();
        let file = dir.path().join("tls").join(FILE);
        let good = fs::read_to_string(&file).unwrap();
        let split = good.find("-----BEGIN CERTIFICATE").unwrap();
        let stranger = make().unwrap();
        let stranger_split = stranger.find("-----BEGIN CERTIFICATE").unwrap();
        let swapped = format!("{}{}", &good[..split], &stranger[stranger_split..]);
        for broken in ["", "garbage", &good[..split], &good[split..], &good[..good.len() - 30], &swapped] {
            fs::write(&file, broken).unwrap();
            assert!(error(dir.path()).contains(FILE), "{broken}");
            assert_eq!(fs::read_to_string(&file).unwrap(), broken);
        }
        fs::write(&file, &good).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(error(dir.path()).contains("0640"));
        // posternd waits for no FIFO, follows no link and reads no directory.
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        let fifo = |path: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        };
        let link = |path: &Path| std::os::unix::fs::symlink(&elsewhere, path).unwrap();
        let folder = |path: &Path| fs::create_dir(path).unwrap();
        for put in [&fifo as &dyn Fn(&Path), &link, &folder] {
            put(&file);
            assert!(error(dir.path()).contains(FILE));
            let _ = fs::remove_file(&file);
        }
    }
}
