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
use self::weigh::Weight;
use crate::{
    failure::{Failure, Result},
    ssh_hosts::Known,
    statement::Statement,
};

/// The namespace of the host's signature.
pub const NAMESPACE: &str = "host@postern.v1";

/// How a host stands with what ssh knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
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
pub async fn judge(host: &str, who: &WhoAmIResponse, said: &Statement, known: &Known, now: u64) -> Result<Standing> {
    let lines = || [&known.own, &known.portless, &known.elsewhere].into_iter().flatten();
    if lines().next().is_none() && known.revoked.is_empty() {
        return Ok(Standing::Unknown);
    }
    let keys = shown::all(who, said).map_err(|why| words::no_proof(host, &why))?;
    revoked::refuse_listed(host, &keys, &known.revoked).await?;
    let weigh = |lines| weigh::all(lines, &keys, known, now);
    if let Some(key) = keys.iter().find(|shown| weigh::is_revoked(lines(), shown)) {
        return Err(words::revoked(host, &key.key));
    }
    let mut fault = None;
    match weigh(&known.own) {
        Weight::Fits(key) => return Ok(proven(key)),
        Weight::Contradicts { .. } if known.leads_to_many => {}
        Weight::Contradicts { key, line } => return Err(words::changed(&known.name, key, line)),
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // As ssh does: these lines may prove, but not disprove.
    match weigh(&known.portless) {
        Weight::Fits(key) => return Ok(proven(key)),
        Weight::Contradicts { .. } => {}
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // A name under which several machines are known by their ports says nothing about which one this is.
    if weigh::is_one_machine(&known.elsewhere) {
        match weigh(&known.elsewhere) {
            Weight::Fits(key) => return Ok(proven(key)),
            Weight::Contradicts { .. } => {}
            Weight::Nothing(why) => fault = fault.or(why),
        }
    }
    let named = lines().any(|line| line.says != crate::ssh_hosts::lines::Says::Revoked);
    Ok(if named { Standing::Unproven(fault) } else { Standing::Unknown })
}

fn proven(key: &PublicKey) -> Standing {
    Standing::Proven(key.fingerprint(HashAlg::Sha256))
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
