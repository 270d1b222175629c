//! Signs what this host says about itself with each of its SSH host keys.
//!
//! Owns reading the private key files and the one signature by each key. Runs in the helper, if there is one, so no process with network
//! access ever has a private key. Signs one text only, and keeps no key.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::ssh::{self, wire::type_of};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::NAMESPACE;
use super::private::{PrivateKey, Unusable};
use crate::system::files;

/// The most key files and proofs. Clients of older versions refuse a host with more proofs.
pub(crate) const MOST: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ByKey {
    pub(crate) file: PathBuf,
    /// The public half, in base64 of SSH's encoding.
    pub(crate) public: String,
    pub(crate) signature: String,
}

impl ByKey {
    /// The public half in SSH's encoding.
    pub(crate) fn blob(&self) -> Vec<u8> {
        STANDARD.decode(&self.public).unwrap_or_default()
    }
}

/// A key of this host that proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Without {
    pub(crate) file: PathBuf,
    /// The type, for example `ecdsa-sha2-nistp256`; empty if unknown.
    pub(crate) kind: String,
    /// The reason, without the name of a file.
    pub(crate) why: String,
    /// Whether the administrator must repair something.
    pub(crate) is_fault: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The best known types first.
    pub(crate) proofs: Vec<ByKey>,
    pub(crate) without: Vec<Without>,
}

/// The files in `dir` named `ssh_host_…` that end with `end`. A missing directory has no files.
pub(crate) fn files(dir: &Path, end: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let is_key = |name: &str| name.starts_with("ssh_host_") && name.ends_with(end);
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_key(name)));
    }
    // sshd's own names (`ssh_host_TYPE_key`) come first, so that other files do not displace them.
    names.sort_by_key(|name| (kind_of_name(Path::new(name.trim_end_matches(".pub"))).is_empty(), name.clone()));
    names.truncate(MOST);
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

#[derive(Debug)]
pub(crate) struct Prover {
    dir: PathBuf,
    payload: String,
    /// The digest of each file and its result, so that an unchanged file is not signed with again.
    seen: BTreeMap<PathBuf, ([u8; 32], Result<ByKey, Unusable>)>,
}

impl Prover {
    pub(crate) fn new(dir: &Path, payload: String) -> Self {
        Self { dir: dir.to_owned(), payload, seen: BTreeMap::new() }
    }

    pub(crate) fn payload(&self) -> &str {
        &self.payload
    }

    pub(crate) fn look(&mut self) -> Found {
        let mut found = Found::default();
        let private = match files(&self.dir, "_key") {
            Ok(files) => files,
            Err(error) => {
                let why = error.to_string();
                found.without.push(Without { file: self.dir.clone(), kind: String::new(), why, is_fault: true });
                return found;
            }
        };
        self.seen.retain(|file, _| private.contains(file));
        for file in &private {
            match self.proof(file) {
                Ok(Some(proof)) => found.proofs.push(proof),
                Ok(None) => {}
                Err((why, is_fault)) => {
                    let kind = public_kind(&file.with_extension("pub")).unwrap_or_else(|| kind_of_name(file));
                    found.without.push(Without { file: file.clone(), kind, why, is_fault });
                }
            }
        }
        // The private half may be in an ssh-agent (`HostKeyAgent`) or in another directory.
        for public in files(&self.dir, "_key.pub").unwrap_or_default() {
            let file = public.with_extension("");
            if let Some(kind) = public_kind(&public).filter(|_| !private.contains(&file)) {
                let why = "its private half is not in the directory of host keys".to_owned();
                found.without.push(Without { file, kind, why, is_fault: false });
            }
        }
        found.proofs.sort_by_key(|proof| rank(&proof.blob()));
        let mut known = Vec::new();
        found.proofs.retain(|proof| {
            let is_new = !known.contains(&proof.public);
            known.push(proof.public.clone());
            is_new
        });
        found
    }

    /// The proof by the key in `file`; `None` if the file is gone. The error has the reason, and whether it is a fault.
    fn proof(&mut self, file: &Path) -> Result<Option<ByKey>, (String, bool)> {
        let text = match files::read_plain(file).map(Zeroizing::new) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err((error.to_string(), true)),
        };
        let mut mark = [0; 32];
        mark.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let made = match self.seen.get(file) {
            Some((seen, made)) if *seen == mark => made.clone(),
            _ => {
                let made = prove(file, &text, &self.payload);
                self.seen.insert(file.to_owned(), (mark, made.clone()));
                made
            }
        };
        // Old hosts still have DSA keys, which current versions of sshd do not serve.
        made.map(Some).map_err(|why| (why.to_string(), why != Unusable::Type("ssh-dss".to_owned())))
    }
}

fn prove(file: &Path, text: &str, payload: &str) -> Result<ByKey, Unusable> {
    let key = PrivateKey::parse(text)?;
    let signature = key.sign(&ssh::to_be_signed(NAMESPACE, payload.as_bytes())).ok_or(Unusable::Inconsistent)?;
    let signature = ssh::armor(&key.public, NAMESPACE, &signature);
    Ok(ByKey { file: file.to_owned(), public: STANDARD.encode(&key.public), signature })
}

/// The type that a public key file names.
fn public_kind(file: &Path) -> Option<String> {
    let text = files::read_plain(file).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (kind, encoded) = (words.next()?, words.next()?);
    (type_of(&STANDARD.decode(encoded).ok()?) == Some(kind)).then(|| kind.to_owned())
}

/// The type that sshd's own file names imply. For ECDSA they do not include the curve.
fn kind_of_name(file: &Path) -> String {
    match file.file_name().and_then(|name| name.to_str()) {
        Some("ssh_host_ed25519_key") => "ssh-ed25519".to_owned(),
        Some("ssh_host_rsa_key") => "ssh-rsa".to_owned(),
        Some("ssh_host_dsa_key") => "ssh-dss".to_owned(),
        Some("ssh_host_ecdsa_key") => "ecdsa-sha2".to_owned(),
        _ => String::new(),
    }
}

/// The order in which ssh prefers types of keys.
fn rank(blob: &[u8]) -> usize {
    let order = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];
    order.iter().position(|kind| Some(*kind) == type_of(blob)).unwrap_or(order.len())
}
