//! Compares the host's keys with lines of `known_hosts`, as ssh does (`check_host_key`), but for all keys at once.

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

#[derive(Debug)]
pub enum Weight<'a> {
    /// The host holds this key, which is known or certified by a known authority.
    Fits(&'a PublicKey),
    /// The host holds `key`, and ssh has another one.
    Contradicts { key: &'a PublicKey, line: &'a Line },
    /// Neither. With the fault of a certificate by a known authority.
    Nothing(Option<Fault>),
}

/// Whether the key or the authority of its certificate is revoked, even if that authority is not known.
pub fn is_revoked<'a>(mut lines: impl Iterator<Item = &'a Line>, shown: &Shown) -> bool {
    lines.any(|line| line.says == Says::Revoked && (is(line, &shown.key) || signs(line, shown.certificate.as_ref())))
}

#[derive(Debug)]
pub struct HostKeys {
    pub keys: Vec<Shown>,
    /// The types of the keys that the host lists without a proof.
    pub without: Vec<String>,
}

/// ssh's order of preference.
const ORDER: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// Weighs the keys in `held` by some of the lines of `known` at `now`, in seconds since 1970.
pub fn all<'a>(lines: &'a [Line], held: &'a HostKeys, known: &Known, now: u64) -> Weight<'a> {
    let mut fault = None;
    for Shown { key, certificate } in &held.keys {
        if let Some(certificate) = certificate
            && lines.iter().any(|line| line.says == Says::Authority && signs(line, Some(certificate)))
            && is_accepted(known, key.algorithm().as_str(), "-cert-v01@openssh.com")
        {
            match certificate::check(certificate, known, now) {
                // As in ssh, which prefers a certificate if it knows an authority; a plain key may be outdated.
                Ok(()) => return Weight::Fits(key),
                Err(why) => fault = fault.or(Some(why)),
            }
        }
    }
    plain(lines, held, known).unwrap_or(Weight::Nothing(fault))
}

/// ssh asks the host for a type of which it has a known key, so that type alone decides. sshd may serve any of several keys of a type.
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
    // The host would have shown the known key if it held it, unless the host cannot prove keys of that type.
    let has_to_prove = |line: &Line| can_prove(line) && !held.without.iter().any(|without| covers(without, line));
    let (key, line) = accepted().next().zip(plain().next())?;
    plain().all(has_to_prove).then_some(Weight::Contradicts { key, line })
}

/// Whether a host key of type `kind` without a proof may be the key of `line`. `ecdsa-sha2` is any curve, and an empty type any type.
pub fn covers(kind: &str, line: &Line) -> bool {
    line.key
        .algorithm()
        .as_str()
        .strip_prefix(kind)
        .is_some_and(|rest| kind.is_empty() || rest.is_empty() || rest.starts_with('-'))
}

/// Whether `HostKeyAlgorithms` allows this type of key. `suffix` is that of certificates.
fn is_accepted(known: &Known, kind: &str, suffix: &str) -> bool {
    let names: &[&str] = if kind == "ssh-rsa" { &["rsa-sha2-512", "rsa-sha2-256", kind] } else { &[kind] };
    let is_listed =
        |list: &Vec<String>| list.iter().any(|one| one.strip_suffix(suffix).is_some_and(|one| names.contains(&one)));
    known.host_key_algorithms.as_ref().is_none_or(is_listed)
}

/// Whether the known keys are at most one of each type.
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

/// Whether every version of posternd proves keys of this type. Older versions have no proof by RSA and P-521.
fn can_prove(line: &Line) -> bool {
    use EcdsaCurve::{NistP256, NistP384};
    matches!(line.key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { curve: NistP256 | NistP384 })
}
