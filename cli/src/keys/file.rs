//! Key files: reads `KEY`, `KEY.pub` and `KEY-cert.pub`, and finds out who can sign with them.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_core::ssh::{
    Accept, Certificate,
    wire::{Reader, type_of},
};
use ssh_key::PrivateKey;

use crate::failure::{Failure, Kind, Result};

/// The suffixes of public halves, the longer one first.
const PUBLIC: [&str; 2] = ["-cert.pub", ".pub"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicFile {
    pub blob: Vec<u8>,
    /// For a certificate, the key that it certifies; else the same as `blob`.
    pub key_blob: Vec<u8>,
}

#[derive(Debug)]
pub struct KeyFiles {
    /// The path of the private half, which need not exist.
    pub private: PathBuf,
    /// The private half, perhaps encrypted, if the client itself can sign with it.
    pub key: Option<PrivateKey>,
    pub private_exists: bool,
    /// The public key or certificate to show with the signature.
    pub public: Option<PublicFile>,
    /// The path for `ssh-keygen -Y sign -f`.
    pub for_keygen: PathBuf,
}

impl KeyFiles {
    /// The files at `path`: a private key, its `.pub`, or its `-cert.pub`, but no certificate beside a private key.
    pub fn at(path: &Path) -> Result<Self> {
        let missing = || {
            Failure::new(Kind::Key, format!("{}: there is no such key file", path.display()))
                .next("name a private key, a .pub file whose key is in your agent, or --key agent")
        };
        if is_public(path) {
            // Reports why the file is unreadable.
            read_public(path)?;
        }
        Self::found(path)?.filter(|files| files.private_exists || is_public(path)).ok_or_else(missing)
    }

    /// [`Self::at`] for a path that may have no file, or only a public half.
    pub fn found(path: &Path) -> Result<Option<Self>> {
        for suffix in PUBLIC {
            if let Some(private) = path.as_os_str().as_bytes().strip_suffix(suffix.as_bytes()) {
                let private = PathBuf::from(OsStr::from_bytes(private));
                return match path.exists() {
                    true => Self::with(private, Some(read_public(path)?), path.to_owned()).map(Some),
                    false => Ok(None),
                };
            }
        }
        // ssh also reads a public key from a file with another name.
        if let Ok(public) = read_public(path) {
            let (private, for_keygen) = (PathBuf::new(), path.to_owned());
            return Ok(Some(Self { private, key: None, private_exists: false, public: Some(public), for_keygen }));
        }
        let public = read_public(&beside(path, ".pub")).ok();
        let files = Self::with(path.to_owned(), public, path.to_owned())?;
        Ok(Some(files).filter(|files| files.private_exists || files.public.is_some()))
    }

    /// The certificate beside the private key at `path`. Fails if it does not belong to the key.
    pub fn certified(path: &Path) -> Result<Option<Self>> {
        let file = beside(path, "-cert.pub");
        match certificate(&file) {
            Ok(Some(public)) => Self::with(path.to_owned(), Some(public), file).map(Some),
            // A broken certificate must not make the key unusable.
            Ok(None) | Err(_) => Ok(None),
        }
    }

    /// The private key at `path` with the certificate from `file`; none if they do not belong together.
    pub fn with_certificate(path: &Path, public: &PublicFile, file: &Path) -> Result<Option<Self>> {
        let belongs =
            Self::found(path)?.and_then(|files| files.public).is_some_and(|own| own.key_blob == public.key_blob);
        if !belongs {
            return Ok(None);
        }
        Self::with(path.to_owned(), Some(public.clone()), file.to_owned())
            .map(|files| Some(files).filter(|f| f.private_exists))
    }

    fn with(private: PathBuf, public: Option<PublicFile>, for_keygen: PathBuf) -> Result<Self> {
        let content = match fs::read_to_string(&private) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::new(Kind::Key, format!("cannot read {}: {error}", private.display()))),
        };
        let own = match content.as_deref() {
            Some(text) if !text.contains("PRIVATE KEY-----") => {
                let failure = Failure::new(Kind::Key, format!("{} is not a private key", private.display()));
                return Err(
                    failure.next("name the file that ssh-keygen wrote the private key to, such as ~/.ssh/id_ed25519")
                );
            }
            // The private file holds its public key; a stale .pub beside it must not count.
            Some(text) => public_of_private(text),
            None => None,
        };
        let key = match (&own, content.as_deref()) {
            (Some(own), Some(text)) if signs_here(own) => Some(parse_private(&private, text)?),
            _ => None,
        };
        let public = match (own, public) {
            (Some(own), Some(public)) if public.key_blob == own => Some(public),
            (Some(_), Some(_)) if for_keygen != private => {
                let message = format!("{} does not belong to {}", for_keygen.display(), private.display());
                return Err(Failure::new(Kind::Key, message));
            }
            (Some(own), _) => Some(PublicFile { blob: own.clone(), key_blob: own }),
            (None, public) => public,
        };
        Ok(Self { private_exists: content.is_some(), private, key, public, for_keygen })
    }
}

/// Whether the client itself signs with such a key file: only with Ed25519, the most common type. Users of other types have ssh-keygen.
/// Security keys need their hardware. ssh-key 0.6 reads the second prime of an RSA key wrongly, refuses one ECDSA key in 256 (a secret
/// number that is a byte shorter), and uses the rsa crate, which has an open timing advisory (RUSTSEC-2023-0071).
fn signs_here(blob: &[u8]) -> bool {
    type_of(blob).is_some_and(|kind| kind.starts_with("ssh-ed25519"))
}

/// The public key in an OpenSSH private key file, which is readable even if the rest is encrypted.
fn public_of_private(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?.1.split_once("-----END")?.0;
    let bytes = BASE64_STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
    let mut rest = Reader::new(bytes.strip_prefix(b"openssh-key-v1\0")?);
    for field in ["cipher", "function", "options"] {
        rest.string(field).ok()?;
    }
    (rest.u32("count").ok()? == 1).then(|| rest.string("public half").ok().map(<[u8]>::to_vec))?
}

fn parse_private(path: &Path, text: &str) -> Result<PrivateKey> {
    PrivateKey::from_openssh(text)
        .map_err(|error| Failure::new(Kind::Key, format!("{} is not a usable private key: {error}", path.display())))
}

fn read_public(path: &Path) -> Result<PublicFile> {
    let failed = |why: String| Failure::new(Kind::Key, format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse_public(&text).ok_or_else(|| failed("this is not an SSH public key or certificate".to_owned()))
}

fn parse_public(text: &str) -> Option<PublicFile> {
    let mut words = text.split_whitespace();
    let (kind, encoded) = (words.next()?, words.next()?);
    let blob = BASE64_STANDARD.decode(encoded).ok()?;
    if type_of(&blob)? != kind {
        return None;
    }
    if !kind.contains("-cert-v0") {
        return Some(PublicFile { key_blob: blob.clone(), blob });
    }
    let key_blob = Certificate::parse(&blob, Accept::All).ok()?.key.blob().to_vec();
    Some(PublicFile { blob, key_blob })
}

pub fn is_public(path: &Path) -> bool {
    PUBLIC.iter().any(|suffix| path.as_os_str().as_bytes().ends_with(suffix.as_bytes()))
}

/// The user certificate at `path`; none if there is no file. Fails for any other content.
pub fn certificate(path: &Path) -> Result<Option<PublicFile>> {
    if !path.exists() {
        return Ok(None);
    }
    let public = read_public(path)?;
    match Certificate::parse(&public.blob, Accept::All) {
        Ok(certificate) if !certificate.of_host => Ok(Some(public)),
        _ => Err(Failure::new(Kind::Key, format!("{} is no certificate of a person", path.display()))),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
