//! Whether a host certificate is valid for a host, by ssh's conditions and in ssh's words. The caller checks that the authority is known.

use std::fmt;

use postern_core::ssh::{Accept, Certificate};

use crate::ssh_hosts::Known;

/// The reason why a certificate by a known authority, or all of ssh's records, do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is a user certificate.
    NotOfHost,
    /// Its validity starts later.
    NotYetValid,
    /// Its validity has ended.
    Expired,
    /// It has no principals.
    NoPrincipals,
    /// Its principals are other names.
    OtherName,
    /// It has unknown critical options.
    CriticalOptions,
    /// The authority's signature has an algorithm that the client does not check.
    Algorithm,
    /// The authority's signature is wrong.
    Signature,
    /// There is a `KnownHostsCommand`. The client does not run it, and it may revoke every key.
    Command,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOfHost => "Certificate invalid: not a host certificate",
            Self::NotYetValid => "Certificate invalid: not yet valid",
            Self::Expired => "Certificate invalid: expired",
            Self::NoPrincipals => "Certificate lacks principal list",
            Self::OtherName => "Certificate invalid: name is not a listed principal",
            Self::CriticalOptions => "Certificate contains unsupported critical options",
            Self::Algorithm => "Certificate signed with disallowed algorithm",
            Self::Signature => "Certificate invalid: incorrect signature",
            Self::Command => "your ssh_config has a KnownHostsCommand, which is not run here",
        })
    }
}

/// Checks a certificate for the host in `known` at `now`, in seconds since 1970. A certificate without principals would hold for every
/// host, so it is invalid, as in newer versions of ssh. Returns the first fault.
pub fn check(certificate: &Certificate, known: &Known, now: u64) -> Result<(), Fault> {
    let Certificate { of_host, principals, valid_after, valid_before, critical_options, .. } = certificate;
    let signed_with = certificate.signature_algorithm();
    let allowed = known.authority_algorithms.as_ref().is_none_or(|all| all.iter().any(|one| one == signed_with));
    let faults = [
        (!of_host, Fault::NotOfHost),
        (now < *valid_after, Fault::NotYetValid),
        (now >= *valid_before, Fault::Expired),
        (principals.is_empty(), Fault::NoPrincipals),
        (!principals.contains(&known.principal), Fault::OtherName),
        (!critical_options.is_empty(), Fault::CriticalOptions),
        (!allowed, Fault::Algorithm),
    ];
    if let Some((_, fault)) = faults.into_iter().find(|(holds, _)| *holds) {
        return Err(fault);
    }
    let checked = certificate.verify(Accept::HostKeys);
    checked.map_err(|error| if error.is_not_accepted() { Fault::Algorithm } else { Fault::Signature })
}
