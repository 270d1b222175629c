//! What lines of `known_hosts` say about the keys that a host holds.
//!
//! Owns the comparison, as ssh makes it (`check_host_key`), for all keys of the host at once. It never reads a file.

use ssh_key::{Algorithm, EcdsaCurve, PublicKey};

use super::{
    certificate::{self, Fault},
    shown::Shown,
};
use crate::{
    keys::certificate::Certificate,
    ssh_hosts::{
        Known,
        lines::{Line, Says},
    },
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

/// Weighs all `keys` by some of the lines of the host that is `known`, in the second `now` since 1970.
pub fn all<'a>(lines: &'a [Line], keys: &'a [Shown], known: &Known, now: u64) -> Weight<'a> {
    let mut fault = None;
    for Shown { key, certificate } in keys {
        if let Some(certificate) = certificate
            && lines.iter().any(|line| line.says == Says::Authority && signs(line, Some(certificate)))
        {
            match certificate::check(certificate, known, now) {
                // As in ssh, which prefers a certificate where it knows an authority: a plain key from before is outdated.
                Ok(()) => return Weight::Fits(key),
                Err(why) => fault = fault.or(Some(why)),
            }
        }
    }
    let plain = || lines.iter().filter(|line| line.says == Says::Known);
    let fits = |key: &PublicKey| plain().any(|line| is(line, key));
    let replaced =
        |key: &PublicKey| plain().find(|line| line.key.algorithm() == key.algorithm()).filter(|_| !fits(key));
    for Shown { key, .. } in keys {
        if let Some(line) = replaced(key) {
            return Weight::Contradicts { key, line };
        }
    }
    if let Some(Shown { key, .. }) = keys.iter().find(|shown| fits(&shown.key)) {
        return Weight::Fits(key);
    }
    // A host that holds the known key would have shown it, unless keys of that type prove nothing here.
    match (keys.first(), plain().next()) {
        (Some(Shown { key, .. }), Some(line)) if plain().all(can_prove) => Weight::Contradicts { key, line },
        _ => Weight::Nothing(fault),
    }
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

fn can_prove(line: &Line) -> bool {
    use EcdsaCurve::{NistP256, NistP384};
    matches!(line.key.algorithm(), Algorithm::Ed25519 | Algorithm::Ecdsa { curve: NistP256 | NistP384 })
}
