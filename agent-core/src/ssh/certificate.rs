//! OpenSSH certificates (PROTOCOL.certkeys), of people and of hosts. Owns their encoding and the check of the authority's signature. It
//! never decides whether the authority is trusted or whom it may certify. The ssh-key crate does not serve here: it refuses certificates
//! without an end (2^64-1), which are ssh-keygen's default.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::public_key::{Accept, Algorithm, PublicKey};
use super::wire::{Reader, put_string, type_of};
use super::{Error, shown};

/// The certificate types "user" and "host".
const USER: u32 = 1;
const HOST: u32 = 2;

/// A certificate. Its signature is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certified key.
    pub key: PublicKey,
    /// Whether the certificate is for a host, not a person.
    pub of_host: bool,
    /// The serial number from the authority; 0 if the authority does not count.
    pub serial: u64,
    /// The authority's text for logs and revocation. Any bytes.
    pub key_id: Vec<u8>,
    /// The names that the authority gives to the holder.
    pub principals: Vec<String>,
    /// The first second since 1970 in which the certificate is valid.
    pub valid_after: u64,
    /// The first second since 1970 in which the certificate is no longer valid; `u64::MAX` for one without an end.
    pub valid_before: u64,
    /// Pairs of name and data in the encoding of SSH: restrictions that each reader must know.
    pub critical_options: Vec<u8>,
    /// The authority's public key, in its own encoding.
    pub authority: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Certificate {
    /// Reads a whole certificate for a key that the caller accepts.
    /// # Errors
    /// Bytes that are no certificate, or a certificate for a key that the caller does not accept.
    pub fn parse(blob: &[u8], accept: Accept) -> Result<Self, Error> {
        let mut reader = Reader::new(blob);
        let name = reader.string("certificate type")?;
        let algorithm = Algorithm::of_certificate_name(name).ok_or_else(|| Error::KeyType(shown(name)))?;
        reader.string("nonce")?;
        let key = PublicKey::read(algorithm, &mut reader, accept)?;
        let serial = reader.u64("serial")?;
        let of_host = match reader.u32("kind")? {
            USER => false,
            HOST => true,
            _ => return Err(Error::Malformed("kind")),
        };
        let key_id = reader.string("key id")?.to_vec();
        let principals = principals(reader.string("principals")?)?;
        let (valid_after, valid_before) = (reader.u64("valid after")?, reader.u64("valid before")?);
        let critical_options = reader.string("critical options")?.to_vec();
        let (_extensions, _reserved) = (reader.string("extensions")?, reader.string("reserved")?);
        let authority = reader.string("authority")?.to_vec();
        let signed = blob.get(..blob.len() - reader.rest().len()).unwrap_or_default().to_vec();
        let signature = reader.string("authority's signature")?.to_vec();
        reader.finish("certificate's end")?;
        Ok(Self {
            key,
            of_host,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical_options,
            authority,
            signed,
            signature,
        })
    }

    /// Whether the certificate is valid in the second `now` since 1970.
    #[must_use]
    pub const fn is_valid_at(&self, now: u64) -> bool {
        self.valid_after <= now && now < self.valid_before
    }

    /// The algorithm that the authority's signature names; empty if unreadable.
    #[must_use]
    pub fn signature_algorithm(&self) -> &str {
        type_of(&self.signature).unwrap_or_default()
    }

    /// The line of a file `KEY-cert.pub`, without its comment.
    #[must_use]
    pub fn line(&self) -> String {
        let mut whole = self.signed.clone();
        put_string(&mut whole, &self.signature);
        format!("{} {}", type_of(&whole).unwrap_or_default(), STANDARD.encode(&whole))
    }

    /// Checks the signature of an authority whose key the caller accepts.
    /// # Errors
    /// As [`PublicKey::parse`] and [`PublicKey::verify`].
    pub fn verify(&self, accept: Accept) -> Result<(), Error> {
        PublicKey::parse(&self.authority, accept)?.verify(&self.signature, &self.signed).map(drop)
    }
}

/// The key in a key or a certificate. It does not read the fields behind the key of a certificate.
/// # Errors
/// Bytes that are neither, or a key that the caller does not accept.
pub fn key_in(blob: &[u8], accept: Accept) -> Result<PublicKey, Error> {
    let mut reader = Reader::new(blob);
    let Some(algorithm) = Algorithm::of_certificate_name(reader.string("type")?) else {
        return PublicKey::parse(blob, accept);
    };
    reader.string("nonce")?;
    PublicKey::read(algorithm, &mut reader, accept)
}

/// The encoding of the plain key in a key or a certificate.
#[must_use]
pub fn plain_of(blob: &[u8]) -> Vec<u8> {
    Certificate::parse(blob, Accept::All).map_or_else(|_| blob.to_vec(), |certificate| certificate.key.blob().to_vec())
}

fn principals(packed: &[u8]) -> Result<Vec<String>, Error> {
    let mut reader = Reader::new(packed);
    let mut names = Vec::new();
    while !reader.rest().is_empty() {
        let name = std::str::from_utf8(reader.string("principal")?).map_err(|_| Error::Malformed("principal"))?;
        names.push(name.to_owned());
    }
    Ok(names)
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
        STANDARD.decode(text.split_whitespace().nth(1).unwrap()).unwrap()
    }

    fn made(directory: &Path, arguments: &[&str]) -> Certificate {
        keygen(directory, &[&["-s", "ca", "-I", "id"], arguments, &["key.pub"]].concat());
        Certificate::parse(&blob(&directory.join("key-cert.pub")), Accept::All).unwrap()
    }

    fn key(algorithm: &str, parts: &[&[u8]]) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        parts.iter().for_each(|part| put_string(&mut blob, part));
        blob
    }

    #[test]
    fn only_what_hosts_accept_of_signers_is_acceptable() {
        let modulus = |bytes: usize, top: u8| {
            let zero: &[u8] = if top < 0x80 { &[] } else { &[0] };
            [zero, &[top], &vec![1; bytes - 1]].concat()
        };
        let check = |blob: &[u8]| key_in(blob, Accept::Signers);
        assert!(check(&key("ssh-rsa", &[&[1, 0, 1], &modulus(384, 0x80)])).is_ok());
        let short = check(&key("ssh-rsa", &[&[1, 0, 1], &modulus(384, 0x7f)]));
        assert!(short.is_err_and(|error| error.to_string().contains("3071 bits")));
        assert!(check(&key("ssh-rsa-cert-v01@openssh.com", &[b"nonce", &[3], &modulus(384, 0x80)])).is_ok());
        assert!(check(&key("ssh-rsa", &[&[3], &[]])).is_err());
        assert!(check(&key("ecdsa-sha2-nistp521", &[])).is_err());
        let p521 = key("ecdsa-sha2-nistp521", &[b"nistp521", &[4; 133]]);
        assert!(key_in(&p521, Accept::HostKeys).is_ok());
        assert!(check(&p521).is_err_and(|error| error.is_not_accepted()));
        let small = key("ssh-rsa", &[&[1, 0, 1], &modulus(256, 0x80)]);
        assert!(check(&small).is_err() && key_in(&small, Accept::HostKeys).is_ok());
        assert!(check(&key("ssh-dss", &[])).is_err());
        assert!(check(b"").is_err());
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
                // Enough tries to get ECDSA and RSA numbers that are a byte shorter; for P-521 half of them are.
                for serial in 0..if kind.contains(&"521") { 4 } else { 20 } {
                    let serial = serial.to_string();
                    let certificate = made(directory, &["-h", "-n", "vm1,vm2", "-z", &serial]);
                    assert_eq!(certificate.verify(Accept::HostKeys), Ok(()), "{kind:?} {subject}");
                    assert_eq!(certificate.key.blob(), blob(&directory.join("key.pub")));
                    assert_eq!(certificate.authority, blob(&directory.join("ca.pub")));
                    assert_eq!(certificate.principals, ["vm1", "vm2"]);
                    assert!(certificate.of_host && certificate.critical_options.is_empty());
                    assert_eq!((certificate.valid_after, certificate.valid_before), (0, u64::MAX), "no end");
                    let mut changed = certificate.clone();
                    changed.signed[40] ^= 1;
                    assert_ne!(changed.verify(Accept::HostKeys), Ok(()));
                }
            }
            let certificate =
                made(directory, &["-n", "alice", "-V", "20200101000000Z:20200102000000Z", "-O", "verify-required"]);
            assert!(!certificate.of_host && !certificate.critical_options.is_empty());
            let valid =
                [1_577_836_799, 1_577_836_800, 1_577_923_199, 1_577_923_200].map(|at| certificate.is_valid_at(at));
            assert_eq!(valid, [false, true, true, false]);
        }
    }

    #[test]
    fn a_cut_or_longer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["ca", "key"] {
            keygen(directory.path(), &["-N", "", "-t", "ed25519", "-f", name]);
        }
        made(directory.path(), &["-h", "-n", "vm1"]);
        let whole = blob(&directory.path().join("key-cert.pub"));
        for length in 0..whole.len() {
            assert!(Certificate::parse(&whole[..length], Accept::All).is_err(), "{length}");
        }
        assert!(Certificate::parse(&[whole.as_slice(), b"x"].concat(), Accept::All).is_err());
        assert!(Certificate::parse(&blob(&directory.path().join("key.pub")), Accept::All).is_err(), "a plain key");
    }
}
