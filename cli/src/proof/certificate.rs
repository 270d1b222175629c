//! Whether a host's certificate is good for the host that was meant.
//!
//! Owns ssh's conditions and its words for them. Whether the authority is known is asked elsewhere.

use std::fmt;

use postern_core::ssh::{Accept, Certificate};

use crate::ssh_hosts::Known;

/// Why a certificate by a known authority, or all that is known, is worth nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is for a person.
    NotOfHost,
    /// Its time is yet to come.
    NotYetValid,
    /// Its time has passed.
    Expired,
    /// It names nobody.
    NoPrincipals,
    /// It names others.
    OtherName,
    /// It restricts itself in a way that is not understood.
    CriticalOptions,
    /// The authority's signature is of an algorithm that is not checked here.
    Algorithm,
    /// The authority did not sign it.
    Signature,
    /// `KnownHostsCommand` is not run here, and may revoke every key.
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

/// Checks a certificate of the host that is `known`, in the second `now` since 1970. A certificate without
/// principals would make every machine that has one into any other, so it is worth nothing, as in newer versions of ssh.
///
/// # Errors
/// The first reason against it.
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
