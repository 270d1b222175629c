//! Key files: what lies at a path, which public key or certificate belongs to it, and who can sign with it.
//!
//! Owns reading `KEY`, `KEY.pub` and `KEY-cert.pub`. It never writes one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ssh_key::PrivateKey;

use super::{
    certificate::Certificate,
    wire::{self, algorithm},
};
use crate::failure::{Failure, Kind, Result};

/// A public key or certificate from a `.pub` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicFile {
    /// Its own bytes.
    pub blob: Vec<u8>,
    /// For a certificate, the bytes of the key that it certifies; else the same as `blob`.
    pub key_blob: Vec<u8>,
}

/// What a path on the command line leads to.
#[derive(Debug)]
pub struct KeyFiles {
    /// Where the private half would be.
    pub private: PathBuf,
    /// The private half (encrypted or not), if it is there and of a kind that we sign with ourselves.
    pub key: Option<PrivateKey>,
    /// Whether a private half is there in any format.
    pub private_exists: bool,
    /// The public half or certificate to show with the signature.
    pub public: Option<PublicFile>,
    /// The path that `ssh-keygen -Y sign -f` wants for the same choice.
    pub for_keygen: PathBuf,
}

impl KeyFiles {
    /// Looks at `path`: a private key, its `.pub`, or its `-cert.pub`. Beside a private key a certificate that is valid
    /// now is preferred, as ssh does; to choose otherwise name the `.pub` or `-cert.pub` itself.
    ///
    /// # Errors
    /// [`Kind::Key`] when nothing usable is there.
    pub fn at(path: &Path) -> Result<Self> {
        let text = path.to_string_lossy();
        let beside = |suffix: &str| PathBuf::from(format!("{text}{suffix}"));
        for suffix in ["-cert.pub", ".pub"] {
            if let Some(private) = text.strip_suffix(suffix) {
                let public = read_public(path)?;
                return Self::with(PathBuf::from(private), Some(public), path.to_owned());
            }
        }
        let certificate = beside("-cert.pub");
        if let Ok(public) = read_public(&certificate)
            && valid_now(&public)
        {
            return Self::with(path.to_owned(), Some(public), certificate);
        }
        let public = read_public(&beside(".pub")).ok();
        let files = Self::with(path.to_owned(), public, path.to_owned())?;
        if !files.private_exists {
            return Err(Failure::new(Kind::Key, format!("{}: there is no such key file", path.display()))
                .next("name a private key, a .pub file whose key is in your agent, or --key agent"));
        }
        Ok(files)
    }

    fn with(private: PathBuf, public: Option<PublicFile>, for_keygen: PathBuf) -> Result<Self> {
        let content = match fs::read_to_string(&private) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::new(Kind::Key, format!("cannot read {}: {error}", private.display()))),
        };
        let own = match content.as_deref() {
            Some(text) if !text.contains("PRIVATE KEY-----") => {
                return Err(Failure::new(Kind::Key, format!("{} is not a private key", private.display())));
            }
            // The private file itself says which key it is; a stale .pub beside it must not.
            Some(text) => wire::public_of_private(text),
            None => None,
        };
        let key = match (&own, content.as_deref()) {
            (Some(own), Some(text)) if wire::signs_here(own) => Some(parse_private(&private, text)?),
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

fn parse_private(path: &Path, text: &str) -> Result<PrivateKey> {
    PrivateKey::from_openssh(text)
        .map_err(|error| Failure::new(Kind::Key, format!("{} is not a usable private key: {error}", path.display())))
}

fn read_public(path: &Path) -> Result<PublicFile> {
    let failed = |why: String| Failure::new(Kind::Key, format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    parse_public(&text).ok_or_else(|| failed("this is not an SSH public key or certificate".to_owned()))
}

/// Reads `TYPE BASE64 [COMMENT]`.
fn parse_public(text: &str) -> Option<PublicFile> {
    let mut words = text.split_whitespace();
    let (kind, encoded) = (words.next()?, words.next()?);
    let blob = BASE64_STANDARD.decode(encoded).ok()?;
    if algorithm(&blob)? != kind {
        return None;
    }
    if !kind.contains("-cert-v0") {
        return Some(PublicFile { key_blob: blob.clone(), blob });
    }
    let key_blob = Certificate::parse(&blob)?.key_blob;
    Some(PublicFile { blob, key_blob })
}

/// Whether a certificate is valid by this machine's clock; an expired one beside a key must not spoil the key.
fn valid_now(public: &PublicFile) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Certificate::parse(&public.blob).is_some_and(|certificate| certificate.is_valid_at(now))
}
