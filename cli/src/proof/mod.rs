//! Whether a host proves to be the one that this person knows from ssh.
//!
//! Owns the check of the proofs in `WhoAmI` against the lines of [`crate::ssh_hosts`]. What follows for a host that proves
//! nothing is decided by [`crate::trust`].

mod certificate;
mod revoked;
mod shown;
mod weigh;
mod words;

use postern_proto::v1::WhoAmIResponse;
use ssh_key::{Fingerprint, HashAlg, PublicKey};

pub use self::certificate::Fault;
use self::{
    shown::Shown,
    weigh::{HostKeys, Weight},
};
use crate::{
    failure::{Failure, Result},
    ssh_hosts::{Known, lines::Says},
    statement::Statement,
    text,
};

/// The namespace of the host's signature.
pub const NAMESPACE: &str = "host@postern.v1";

/// More keys without a proof than that are not looked at.
const MOST_WITHOUT: usize = 16;

/// How a host stands with what ssh knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTrust {
    /// Neither a key of it nor an authority for it is known.
    Unknown,
    /// One is known, but the host shows no proof that fits: none, or one by a key of another type. Where an authority is
    /// known but its certificate is not valid here, that is why.
    Unproven(Option<Fault>),
    /// It proved to hold this key, which is known, or certified by a known authority.
    Proven(Fingerprint),
}

/// Judges the answer `who` of `host`, which states `said` about itself, in the second `now` since 1970.
///
/// # Errors
/// [`crate::failure::Kind::Identity`]: the host's key is revoked, or other ones are known; or the proof is not one.
pub async fn judge(host: &str, who: &WhoAmIResponse, said: &Statement, known: &Known, now: u64) -> Result<HostTrust> {
    let lines = || known.lines();
    // What the command says is not known: it may revoke the key that the files have.
    let command = HostTrust::Unproven(Some(Fault::Command));
    if lines().next().is_none() && known.revoked.is_empty() && known.has_command {
        return Ok(command);
    }
    if lines().next().is_none() && known.revoked.is_empty() {
        return Ok(HostTrust::Unknown);
    }
    let all = shown::all(who, said).map_err(|why| words::no_proof(host, &why))?;
    let listed = revoked::listed(&all, &known.revoked).await?;
    let is_revoked = |(shown, listed): &(Shown, bool)| *listed || weigh::is_revoked(lines(), shown);
    let (revoked, keys): (Vec<_>, Vec<_>) = all.into_iter().zip(listed).partition(is_revoked);
    let held = HostKeys { keys: keys.into_iter().map(|(shown, _)| shown).collect(), without: kinds_without(who) };
    let host_trust = weighed(&held, known, now);
    match revoked.first() {
        // A host whose key was stolen and replaced shows the older one too until posternd starts again; sshd shows the new one.
        Some((shown, _)) if !matches!(host_trust, Ok(HostTrust::Proven(_))) => Err(words::revoked(host, &shown.key)),
        _ => host_trust.map(|host_trust| if known.has_command { command } else { host_trust }),
    }
}

/// Weighs what the host holds, but for what is revoked.
fn weighed(held: &HostKeys, known: &Known, now: u64) -> Result<HostTrust> {
    let mut fault = None;
    match weigh::all(&known.own, held, known, now) {
        Weight::Fits(key) => return Ok(proven(key)),
        Weight::Contradicts { .. } if known.leads_to_many => {}
        Weight::Contradicts { key, line } => return Err(words::changed(&known.name, key, line)),
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // As ssh does: these lines may prove, but not disprove. A name under which several machines are known by their ports says nothing
    // about which one this is.
    let elsewhere = weigh::is_one_machine(&known.elsewhere).then_some(&known.elsewhere);
    for lines in [Some(&known.portless), elsewhere].into_iter().flatten() {
        match weigh::all(lines, held, known, now) {
            Weight::Fits(key) => return Ok(proven(key)),
            Weight::Contradicts { .. } => {}
            Weight::Nothing(why) => fault = fault.or(why),
        }
    }
    let named = known.lines().any(|line| line.says != Says::Revoked);
    Ok(if named { HostTrust::Unproven(fault) } else { HostTrust::Unknown })
}

/// The types of keys that the host says it has without a proof.
fn kinds_without(who: &WhoAmIResponse) -> Vec<String> {
    who.without_proof.iter().take(MOST_WITHOUT).map(|key| key.key_type.clone()).collect()
}

/// Why a host that ssh knows does not prove it, in the host's words; none where the host says nothing about a key of a known type.
/// Nobody signs these words: they explain, and decide nothing but which refusal is told.
#[must_use]
pub fn explanation(who: &WhoAmIResponse, known: &Known) -> Option<String> {
    let plain = || known.lines().filter(|line| line.says == Says::Known);
    let keys = who.without_proof.iter().take(MOST_WITHOUT);
    let mut about = keys.filter(|key| plain().any(|line| weigh::covers(&key.key_type, line)));
    about.next().map(|key| {
        let kind = if key.key_type.is_empty() { "unknown" } else { &key.key_type };
        format!(
            "The host says that its SSH key of type {} proves nothing: {}",
            text::clean(kind),
            text::clean(&key.why)
        )
    })
}

fn proven(key: &PublicKey) -> HostTrust {
    HostTrust::Proven(key.fingerprint(HashAlg::Sha256))
}

/// Every SSH host key that the host proved to hold, whether or not anybody knows it. None where a proof is not one.
#[must_use]
pub fn proved(who: &WhoAmIResponse, said: &Statement) -> Vec<Fingerprint> {
    let keys = shown::all(who, said).unwrap_or_default();
    keys.iter().map(|shown| shown.key.fingerprint(HashAlg::Sha256)).collect()
}

/// The refusal of a statement that is none.
#[must_use]
pub fn wrong_statement(host: &str, why: &str) -> Failure {
    words::wrong_statement(host, why)
}

#[cfg(test)]
mod tests;
