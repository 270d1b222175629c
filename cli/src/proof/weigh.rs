//! What lines of `known_hosts` say about the keys that a host holds.
//!
//! Owns the comparison, as ssh makes it (`check_host_key`), for all keys of the host at once. It never reads a file.

use postern_core::ssh::Certificate;
use ssh_key::{Algorithm, EcdsaCurve, PublicKey};

use super::{
    certificate::{self, Fault},
    shown::Shown,
};
use crate::ssh_hosts::{
    Known,
    lines::{Line, Says},
};

/// What the lines say.
#[derive(Debug)]
pub enum Weight<'a> {
    /// The host holds this key, which is known, or which a known authority certifies for it.
    Fits(&'a PublicKey),
    /// It holds `key` where another one is known.
    Contradicts { key: &'a PublicKey, line: &'a Line },
    /// Neither. Of a certificate by a known authority, why it is worth nothing.
    Nothing(Option<Fault>),
}

/// Whether the key is marked as revoked, or the authority of its certificate, whether or not that is known.
pub fn is_revoked<'a>(mut lines: impl Iterator<Item = &'a Line>, shown: &Shown) -> bool {
    lines.any(|line| line.says == Says::Revoked && (is(line, &shown.key) || signs(line, shown.certificate.as_ref())))
}

/// What the host shows of its keys.
#[derive(Debug)]
pub struct HostKeys {
    /// Those that it proved to hold, without the revoked ones.
    pub keys: Vec<Shown>,
    /// The types of those that it says it has without a proof.
    pub without: Vec<String>,
}

/// The types of keys in the order in which ssh prefers them.
const ORDER: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// Weighs what is `held` by some of the lines of the host that is `known`, in the second `now` since 1970.
pub fn all<'a>(lines: &'a [Line], held: &'a HostKeys, known: &Known, now: u64) -> Weight<'a> {
    let mut fault = None;
    for Shown { key, certificate } in &held.keys {
        if let Some(certificate) = certificate
            && lines.iter().any(|line| line.says == Says::Authority && signs(line, Some(certificate)))
            && is_accepted(known, key.algorithm().as_str(), "-cert-v01@openssh.com")
        {
            match certificate::check(certificate, known, now) {
                // As in ssh, which prefers a certificate where it knows an authority: a plain key from before is outdated.
                Ok(()) => return Weight::Fits(key),
                Err(why) => fault = fault.or(Some(why)),
            }
        }
    }
    plain(lines, held, known).unwrap_or(Weight::Nothing(fault))
}

/// As ssh, which asks the host for a type of which it knows a key, if the host has one: that type alone decides. While the host has
/// several keys of a type, sshd may serve any of them.
fn plain<'a>(lines: &'a [Line], held: &'a HostKeys, known: &Known) -> Option<Weight<'a>> {
    let plain = || lines.iter().filter(|line| line.says == Says::Known);
    let accepted =
        || held.keys.iter().map(|shown| &shown.key).filter(|key| is_accepted(known, key.algorithm().as_str(), ""));
    for kind in ORDER {
        let mut keys = accepted().filter(|key| key.algorithm().as_str() == kind).peekable();
        let (Some(first), Some(line)) =
            (keys.peek().copied(), plain().find(|line| line.key.algorithm().as_str() == kind))
        else {
            continue;
        };
        if let Some(key) = keys.find(|key| plain().any(|line| is(line, key))) {
            return Some(Weight::Fits(key));
        }
        if !held.without.iter().any(|without| covers(without, line)) {
            return Some(Weight::Contradicts { key: first, line });
        }
    }
    // A host that holds the known key would have shown it, unless keys of that type prove nothing there.
    let has_to_prove = |line: &Line| can_prove(line) && !held.without.iter().any(|without| covers(without, line));
    let (key, line) = accepted().next().zip(plain().next())?;
    plain().all(has_to_prove).then_some(Weight::Contradicts { key, line })
}

/// Whether the key of `line` may be one that a host says it has without a proof, of type `kind`: `ecdsa-sha2` is any curve, and an empty
/// type is any type.
pub fn covers(kind: &str, line: &Line) -> bool {
    line.key
        .algorithm()
        .as_str()
        .strip_prefix(kind)
        .is_some_and(|rest| kind.is_empty() || rest.is_empty() || rest.starts_with('-'))
}

/// Whether ssh would take a key of this type from the host (`HostKeyAlgorithms`). `suffix` is that of certificates.
fn is_accepted(known: &Known, kind: &str, suffix: &str) -> bool {
    let names: &[&str] = if kind == "ssh-rsa" { &["rsa-sha2-512", "rsa-sha2-256", kind] } else { &[kind] };
    let is_listed =
        |list: &Vec<String>| list.iter().any(|one| one.strip_suffix(suffix).is_some_and(|one| names.contains(&one)));
    known.host_key_algorithms.as_ref().is_none_or(is_listed)
}

/// Whether no two keys of one type are known.
pub fn is_one_machine(lines: &[Line]) -> bool {
    let known: Vec<_> = lines.iter().filter(|line| line.says == Says::Known).map(|line| &line.key).collect();
    known
        .iter()
        .all(|one| known.iter().all(|other| one.algorithm() != other.algorithm() || one.key_data() == other.key_data()))
}

fn is(line: &Line, key: &PublicKey) -> bool {
    line.key.key_data() == key.key_data()
}

fn signs(line: &Line, certificate: Option<&Certificate>) -> bool {
    certificate.is_some_and(|certificate| line.key.to_bytes().is_ok_and(|key| key == certificate.authority))
}

/// Whether every posternd proves with keys of this type. Older ones have no proof by RSA and P-521.
fn can_prove(line: &Line) -> bool {
    use EcdsaCurve::{NistP256, NistP384};
    matches!(line.key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { curve: NistP256 | NistP384 })
}
