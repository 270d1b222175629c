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

pub use self::certificate::Fault;
use self::weigh::Weight;
use crate::{failure::Result, ssh_hosts::Known, tls::Fingerprint};

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
    /// It proved to hold a known key, or one that a known authority certifies.
    Proven,
}

/// Judges the answer `who` of `host` over a connection with the certificate `tls`, in the second `now` since 1970.
///
/// # Errors
/// [`crate::failure::Kind::Identity`]: the host's key is revoked, or other ones are known; or the proof is not one.
pub async fn judge(host: &str, who: &WhoAmIResponse, tls: Fingerprint, known: &Known, now: u64) -> Result<Standing> {
    let lines = || [&known.own, &known.portless, &known.elsewhere].into_iter().flatten();
    if lines().next().is_none() && known.revoked.is_empty() {
        return Ok(Standing::Unknown);
    }
    let keys = shown::all(who, tls).map_err(|why| words::no_proof(host, &why))?;
    revoked::refuse_listed(host, &keys, &known.revoked).await?;
    let weigh = |lines| weigh::all(lines, &keys, known, now);
    if let Some(key) = keys.iter().find(|shown| weigh::is_revoked(lines(), shown)) {
        return Err(words::revoked(host, &key.key));
    }
    let mut fault = None;
    match weigh(&known.own) {
        Weight::Fits => return Ok(Standing::Proven),
        Weight::Contradicts { key, line } => return Err(words::changed(&known.name, key, line)),
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // As ssh does: these lines may prove, but not disprove.
    match weigh(&known.portless) {
        Weight::Fits => return Ok(Standing::Proven),
        Weight::Contradicts { .. } => {}
        Weight::Nothing(why) => fault = fault.or(why),
    }
    // A name under which several machines are known by their ports says nothing about which one this is.
    if weigh::is_one_machine(&known.elsewhere) {
        match weigh(&known.elsewhere) {
            Weight::Fits => return Ok(Standing::Proven),
            Weight::Contradicts { .. } => {}
            Weight::Nothing(why) => fault = fault.or(why),
        }
    }
    let named = lines().any(|line| line.says != crate::ssh_hosts::lines::Says::Revoked);
    Ok(if named { Standing::Unproven(fault) } else { Standing::Unknown })
}

#[cfg(test)]
mod tests;
