//! OpenSSH certificates (PROTOCOL.certkeys), of people and of hosts.
//!
//! Owns their encoding and the check of the authority's signature. It never decides whether the authority is trusted.
//! The ssh-key crate's reader is of no use here: it refuses certificates without an end (2^64-1), which ssh-keygen makes
//! unless it is told otherwise.

use base64::{Engine as _, prelude::BASE64_STANDARD};

pub use super::verify::BadSignature;
use super::{
    verify::verify,
    wire::{algorithm, put_string, take_string, take_u32, take_u64},
};

/// The certificate type "host".
const HOST: u32 = 2;

/// A certificate. Its signature is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The key that it is about, without it.
    pub key_blob: Vec<u8>,
    /// Whether it is about a host, not a person.
    pub of_host: bool,
    /// Chosen by the authority; 0 if it does not count.
    pub serial: u64,
    /// Chosen by the authority, for logs and revocation. Not UTF-8 in a certificate that no host accepts.
    pub key_id: String,
    /// The names that the authority gives to the key's holder.
    pub principals: Vec<String>,
    /// The first second since 1970 in which it is valid.
    pub valid_after: u64,
    /// The first second since 1970 in which it is valid no longer.
    pub valid_before: u64,
    /// Whether it restricts itself in any way that its reader must know.
    pub has_critical_options: bool,
    /// The public key of the authority.
    pub authority: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    whole: Vec<u8>,
}

impl Certificate {
    /// Reads a whole certificate.
    #[must_use]
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let mut rest = blob;
        let (kind, fields) = plain(std::str::from_utf8(take_string(&mut rest)?).ok()?)?;
        let _nonce = take_string(&mut rest)?;
        let key = rest;
        for _ in 0..fields {
            take_string(&mut rest)?;
        }
        let mut key_blob = Vec::new();
        put_string(&mut key_blob, kind.as_bytes());
        key_blob.extend_from_slice(&key[..key.len() - rest.len()]);
        let serial = take_u64(&mut rest)?;
        let of_host = match take_u32(&mut rest)? {
            1 => false,
            HOST => true,
            _ => return None,
        };
        let key_id = String::from_utf8_lossy(take_string(&mut rest)?).into_owned();
        let principals = strings(take_string(&mut rest)?)?;
        let (valid_after, valid_before) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        let has_critical_options = !take_string(&mut rest)?.is_empty();
        let (_extensions, _reserved) = (take_string(&mut rest)?, take_string(&mut rest)?);
        let authority = take_string(&mut rest)?.to_vec();
        let signed = blob[..blob.len() - rest.len()].to_vec();
        let signature = take_string(&mut rest)?.to_vec();
        rest.is_empty().then_some(Self {
            key_blob,
            of_host,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            has_critical_options,
            authority,
            signed,
            signature,
            whole: blob.to_vec(),
        })
    }

    /// Whether it is valid in the second `now` since 1970.
    #[must_use]
    pub const fn is_valid_at(&self, now: u64) -> bool {
        self.valid_after <= now && now < self.valid_before
    }

    /// With what the authority says that it signed; empty where that cannot be read.
    #[must_use]
    pub fn signature_algorithm(&self) -> &str {
        algorithm(&self.signature).unwrap_or_default()
    }

    /// As in a file `KEY-cert.pub`, without its comment.
    #[must_use]
    pub fn line(&self) -> String {
        let kind = algorithm(&self.whole).unwrap_or_default();
        format!("{kind} {}", BASE64_STANDARD.encode(&self.whole))
    }

    /// Checks the authority's signature, as [`verify()`] does. Of what ssh accepts of authorities (`CASignatureAlgorithms`) security keys
    /// are missing.
    ///
    /// # Errors
    /// It does not fit, or is of another algorithm.
    pub fn verify(&self) -> Result<(), BadSignature> {
        verify(&self.authority, &self.signature, &self.signed)
    }
}

/// The plain type for a certificate's, and how many strings its key takes.
fn plain(kind: &str) -> Option<(String, usize)> {
    let base = kind.strip_suffix("-cert-v01@openssh.com")?;
    match base {
        "ssh-ed25519" => Some((base.to_owned(), 1)),
        "ssh-rsa" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => Some((base.to_owned(), 2)),
        "sk-ssh-ed25519" => Some((format!("{base}@openssh.com"), 2)),
        "sk-ecdsa-sha2-nistp256" => Some((format!("{base}@openssh.com"), 3)),
        _ => None,
    }
}

fn strings(mut packed: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    while !packed.is_empty() {
        all.push(std::str::from_utf8(take_string(&mut packed)?).ok()?.to_owned());
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    fn keygen(directory: &Path, arguments: &[&str]) {
        let output = Command::new("ssh-keygen").current_dir(directory).arg("-q").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn blob(file: &Path) -> Vec<u8> {
        let text = fs::read_to_string(file).unwrap();
        BASE64_STANDARD.decode(text.split_whitespace().nth(1).unwrap()).unwrap()
    }

    fn made(directory: &Path, arguments: &[&str]) -> Certificate {
        keygen(directory, &[&["-s", "ca", "-I", "id"], arguments, &["key.pub"]].concat());
        Certificate::parse(&blob(&directory.join("key-cert.pub"))).unwrap()
    }

    #[test]
    fn what_ssh_keygen_makes_is_read_and_its_signature_checked() {
        let authorities: [&[&str]; 6] = [
            &["-t", "ed25519"],
            &["-t", "ecdsa", "-b", "256"],
            &["-t", "ecdsa", "-b", "384"],
            &["-t", "rsa", "-b", "2048"],
            &["-t", "rsa", "-b", "3072"],
            &["-t", "ecdsa", "-b", "521"],
        ];
        for kind in authorities {
            let directory = tempfile::tempdir().unwrap();
            let directory = directory.path();
            keygen(directory, &[&["-N", "", "-f", "ca"], kind].concat());
            for subject in ["ed25519", "ecdsa", "rsa"] {
                let _ = fs::remove_file(directory.join("key"));
                keygen(directory, &["-N", "", "-t", subject, "-f", "key"]);
                // Often enough to meet numbers of ECDSA and RSA that are a byte shorter. Of P-521 half of them are.
                for serial in 0..if kind.contains(&"521") { 4 } else { 20 } {
                    let serial = serial.to_string();
                    let certificate = made(directory, &["-h", "-n", "vm1,vm2", "-z", &serial]);
                    assert_eq!(certificate.verify(), Ok(()), "{kind:?} {subject}");
                    assert_eq!(certificate.key_blob, blob(&directory.join("key.pub")));
                    assert_eq!(certificate.authority, blob(&directory.join("ca.pub")));
                    assert_eq!(certificate.principals, ["vm1", "vm2"]);
                    assert!(certificate.of_host && !certificate.has_critical_options);
                    assert_eq!((certificate.valid_after, certificate.valid_before), (0, u64::MAX), "no end");
                    let mut changed = certificate.clone();
                    changed.signed[40] ^= 1;
                    assert_ne!(changed.verify(), Ok(()));
                }
            }
            let certificate =
                made(directory, &["-n", "alice", "-V", "20200101000000Z:20200102000000Z", "-O", "verify-required"]);
            assert!(!certificate.of_host && certificate.has_critical_options);
            let valid =
                [1_577_836_799, 1_577_836_800, 1_577_923_199, 1_577_923_200].map(|at| certificate.is_valid_at(at));
            assert_eq!(valid, [false, true, true, false]);
        }
    }

    #[test]
    fn a_cut_or_longer_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["ca", "key"] {
            keygen(directory.path(), &["-N", "", "-t", "ed25519", "-f", name]);
        }
        made(directory.path(), &["-h", "-n", "vm1"]);
        let whole = blob(&directory.path().join("key-cert.pub"));
        for length in 0..whole.len() {
            assert_eq!(Certificate::parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(Certificate::parse(&[whole.as_slice(), b"x"].concat()), None);
        assert_eq!(Certificate::parse(&blob(&directory.path().join("key.pub"))), None, "a plain key");
    }
}
