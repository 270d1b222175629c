//! Checks the host's SSH proofs in `WhoAmI` against [`crate::ssh_hosts`]. [`crate::trust`] decides what follows without a proof.

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

/// The SSHSIG namespace of the host's proof.
pub const NAMESPACE: &str = "host@postern.v1";

/// How many keys without a proof the client looks at.
const MOST_WITHOUT: usize = 16;

/// The result of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTrust {
    /// ssh has neither a key nor an authority for the host.
    Unknown,
    /// ssh has one, but the host shows no matching proof. With a fault if its certificate by a known authority is invalid.
    Unproven(Option<Fault>),
    /// The host proved to hold this key, which ssh has, or which a known authority certified.
    Proven(Fingerprint),
}

/// Judges the answer `who` of `host` with the verified statement `said` at `now`, in seconds since 1970.
///
/// # Errors
/// Fails with [`crate::failure::Kind::Identity`] if the key is revoked, ssh has other keys, or a proof is invalid.
pub async fn judge(host: &str, who: &WhoAmIResponse, said: &Statement, known: &Known, now: u64) -> Result<HostTrust> {
    let lines = || known.lines();
    // The command's output is unknown here. It may revoke a key that the files have.
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
        // A host whose stolen key was replaced still shows the old key until posternd restarts, while sshd shows the new one.
        Some((shown, _)) if !matches!(host_trust, Ok(HostTrust::Proven(_))) => Err(words::revoked(host, &shown.key)),
        _ => host_trust.map(|host_trust| if known.has_command { command } else { host_trust }),
    }
}

/// Weighs the host's keys without the revoked ones.
fn weighed(held: &HostKeys, known: &Known, now: u64) -> Result<HostTrust> {
    let mut fault = None;
    match weigh::all(&known.own, held, known, now) {
        Weight::Fits(key) => return Ok(proven(key)),
        Weight::Contradicts { .. } if known.leads_to_many => {}
        Weight::Contradicts { key, line } => return Err(words::changed(&known.name, key, line)),
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // As in ssh, these lines can prove a host but not contradict it. If a name has several machines by port, it does not identify this one.
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

fn kinds_without(who: &WhoAmIResponse) -> Vec<String> {
    who.without_proof.iter().take(MOST_WITHOUT).map(|key| key.key_type.clone()).collect()
}

/// The host's reason why it proves no key of a type that ssh has. The text is not signed: it only selects the error message.
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

/// Every SSH host key that the host proved to hold, known or not. Empty if a proof is invalid.
#[must_use]
pub fn proved(who: &WhoAmIResponse, said: &Statement) -> Vec<Fingerprint> {
    let keys = shown::all(who, said).unwrap_or_default();
    keys.iter().map(|shown| shown.key.fingerprint(HashAlg::Sha256)).collect()
}

/// The refusal of an invalid statement.
#[must_use]
pub fn wrong_statement(host: &str, why: &str) -> Failure {
    words::wrong_statement(host, why)
}

#[cfg(test)]
mod tests;
