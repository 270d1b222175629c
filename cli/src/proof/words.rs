//! The messages about a wrong identity, in ssh's words, which people know and search for.

use ssh_key::{Algorithm, HashAlg, PublicKey};

use crate::{
    failure::{Failure, Kind},
    ssh_hosts::lines::Line,
    text,
};

fn kind(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Ed25519 => "ED25519",
        Algorithm::Ecdsa { .. } => "ECDSA",
        Algorithm::Dsa => "DSA",
        Algorithm::SkEd25519 => "ED25519-SK",
        Algorithm::SkEcdsaSha2NistP256 => "ECDSA-SK",
        _ => "RSA",
    }
}

pub fn changed(host: &str, key: &PublicKey, known: &Line) -> Failure {
    let (shown, file) = (kind(key), known.file.display());
    let message = format!(
        "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! Someone could be eavesdropping on you right now \
         (man-in-the-middle attack)! It is also possible that a host key has just been changed. Nothing was sent.\n  \
         The fingerprint for the {shown} key sent by the remote host is {}.\n  Offending {} key in {file}:{}",
        key.fingerprint(HashAlg::Sha256),
        kind(&known.key),
        known.number
    );
    Failure::new(Kind::Identity, message).next(format!(
        "ask the host's administrator which SSH host key sshd serves now (on the host: ssh-keyscan localhost). Leave the line if \
         sshd serves the known key: then the key files were replaced, and sshd has to be started again. Only if sshd serves the key \
         above:\nssh-keygen -f '{file}' -R '{host}', then try again"
    ))
}

/// `key` or the authority of its certificate is revoked.
pub fn revoked(host: &str, key: &PublicKey) -> Failure {
    let message = format!(
        "WARNING: REVOKED HOST KEY DETECTED! The {} host key for {host} is marked as revoked. This could mean that a \
         stolen key is being used to impersonate this host. Nothing was sent.",
        kind(key)
    );
    Failure::new(Kind::Identity, message).next("ask the host's administrator; the host needs a new SSH host key")
}

pub fn wrong_statement(host: &str, why: &str) -> Failure {
    let message = format!("{host} sent an invalid statement about itself: {}. Nothing was signed", text::sentence(why));
    Failure::new(Kind::Identity, message)
        .next("another machine may intercept the connection; ask the host's administrator to look at the host's log")
}

pub fn no_proof(host: &str, why: &str) -> Failure {
    let message = format!("{host} sent an invalid proof by an SSH host key: {}. Nothing was sent", text::sentence(why));
    Failure::new(Kind::Identity, message).next(
        "another machine may intercept the connection; ask the host's administrator to restart posternd, then try again",
    )
}
