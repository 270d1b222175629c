//! The keys for a host in ssh's order (`pubkey_prepare` of OpenSSH's sshconnect2.c): configured certificates, agent keys that a file names,
//! other agent keys, other files. A certificate precedes its plain key.

use std::path::Path;

use postern_core::ssh::{
    Accept, Certificate, Fingerprint,
    certificate::{key_in, plain_of},
};

use super::{
    agent::{Agent, AgentKey},
    file::{self, KeyFiles},
    key::Key,
};
use crate::{
    failure::{Failure, Kind, Result},
    ssh_hosts::identities::Identities,
    text,
};

#[derive(Debug, Default)]
pub(super) struct Offer {
    pub(super) keys: Vec<Key>,
    pub(super) notes: Vec<String>,
}

struct AgentKeys {
    agent: Option<Agent>,
    keys: Vec<AgentKey>,
}

impl AgentKeys {
    /// Lists the agent's keys without those that no host accepts.
    fn by(identities: &Identities) -> std::result::Result<Self, String> {
        let Some(socket) = &identities.agent else { return Ok(Self { agent: None, keys: Vec::new() }) };
        let agent = Agent::at(socket);
        let keys =
            agent.keys().map_err(|error| format!("the ssh-agent at {} cannot be asked: {error}", socket.display()))?;
        let of_person =
            |key: &AgentKey| !Certificate::parse(&key.blob, Accept::All).is_ok_and(|certificate| certificate.of_host);
        let usable = keys.into_iter().filter(|key| key_in(&key.blob, Accept::Signers).is_ok() && of_person(key));
        Ok(Self { keys: usable.collect(), agent: Some(agent) })
    }

    fn key(&self, key: &AgentKey) -> Option<Key> {
        self.agent.as_ref().map(|agent| Key::held(agent, key))
    }

    /// The agent's key that signs for `blob`, a key or a certificate.
    fn signer_of(&self, blob: &[u8]) -> Option<&AgentKey> {
        let plain = plain_of(blob);
        self.keys.iter().find(|key| key.blob == blob).or_else(|| self.keys.iter().find(|key| key.blob == plain))
    }
}

pub(super) fn all(identities: &Identities) -> Offer {
    let mut offer = Offer { keys: Vec::new(), notes: identities.notes.clone() };
    let held = AgentKeys::by(identities).unwrap_or_else(|why| {
        offer.notes.push(why);
        AgentKeys { agent: None, keys: Vec::new() }
    });
    let files = files(identities, &mut offer.notes);
    let named =
        |blob: &[u8]| files.iter().any(|(_, files)| files.public.as_ref().is_some_and(|public| public.blob == blob));
    for path in &identities.certificates {
        match configured(path, &held, identities) {
            Ok(key) => offer.keys.extend(key),
            Err(failure) => offer.notes.push(failure.message),
        }
    }
    let (first, rest): (Vec<_>, Vec<_>) = held.keys.iter().partition(|key| named(&key.blob));
    offer.keys.extend(first.into_iter().filter_map(|key| held.key(key)));
    if !identities.only {
        offer.keys.extend(rest.into_iter().filter_map(|key| held.key(key)));
    }
    for (path, files) in files {
        // A public half alone only selects a key of the agent.
        if files.private_exists || files.public.as_ref().is_some_and(|public| held.signer_of(&public.blob).is_some()) {
            match Key::of_files(files, held.agent.as_ref(), &held.keys, &path) {
                Ok(key) => offer.keys.push(key),
                Err(failure) => offer.notes.push(format!("left out: {}", failure.message)),
            }
        }
    }
    offer.keys = sorted(offer.keys);
    offer
}

/// The agent's keys, or only those whose fingerprint or comment is `wanted`. [`Kind::Key`] if there is none.
pub(super) fn of_agent(identities: &Identities, wanted: Option<&str>) -> Result<Vec<Key>> {
    let next = "start one (eval \"$(ssh-agent)\"; ssh-add), or name a file: --key FILE";
    if identities.agent.is_none() {
        let message =
            "no ssh-agent can be asked: SSH_AUTH_SOCK is not set, and IdentityAgent of your ssh_config names none";
        return Err(Failure::new(Kind::Key, message).next(next));
    }
    let held = AgentKeys::by(identities).map_err(|why| Failure::new(Kind::Key, why).next(next))?;
    // `ssh-add -l` prints the fingerprint of the plain key also for a certificate.
    let fits = |key: &&AgentKey| {
        wanted.is_none_or(|wanted| {
            let prints = [Fingerprint::of(&plain_of(&key.blob)), Fingerprint::of(&key.blob)];
            prints.iter().any(|print| print.to_string() == wanted) || key.comment == wanted
        })
    };
    let found: Vec<Key> = held.keys.iter().filter(fits).filter_map(|key| held.key(key)).collect();
    if found.is_empty() {
        let which = wanted.map_or_else(|| "an acceptable key".to_owned(), |w| format!("an acceptable key {w:?}"));
        return Err(Failure::new(Kind::Key, format!("the ssh-agent does not have {}", text::clean(&which))).next(
            "ssh-add -l lists what it has (nothing while it is locked: ssh-add -X); hosts accept Ed25519, ECDSA P-256/P-384 and RSA \
             of 3072 bits or more",
        ));
    }
    Ok(sorted(found))
}

/// The key at `path`: exactly a `.pub` or `-cert.pub`, else the private key preceded by its certificate.
pub(super) fn of_file(path: &Path, identities: &Identities) -> Result<Vec<Key>> {
    // An unreachable agent matters only if the file needs it; then the error names the file.
    let held = AgentKeys::by(identities).unwrap_or(AgentKeys { agent: None, keys: Vec::new() });
    let files = KeyFiles::at(path)?;
    let certified = if file::is_public(path) { None } else { KeyFiles::certified(path)? };
    let both = certified.into_iter().chain([files]);
    both.map(|files| Key::of_files(files, held.agent.as_ref(), &held.keys, path)).collect()
}

/// The files of each `IdentityFile`, with the certificate beside it unless a `CertificateFile` is configured.
fn files(identities: &Identities, notes: &mut Vec<String>) -> Vec<(std::path::PathBuf, KeyFiles)> {
    let mut found = Vec::new();
    for path in &identities.files {
        let beside = identities.certificates.is_empty() && !file::is_public(path);
        let certified = if beside { KeyFiles::certified(path) } else { Ok(None) };
        for files in [certified, KeyFiles::found(path)] {
            match files {
                Ok(files) => found.extend(files.map(|files| (path.clone(), files))),
                Err(failure) => notes.push(format!("left out: {}", failure.message)),
            }
        }
    }
    found
}

/// A `CertificateFile` with the holder of its private key: the agent or an `IdentityFile`.
fn configured(path: &Path, held: &AgentKeys, identities: &Identities) -> Result<Option<Key>> {
    let Some(public) = file::certificate(path)? else { return Ok(None) };
    if let (Some(agent), Some(key)) = (&held.agent, held.signer_of(&public.blob)) {
        return Ok(Some(Key::shown_by(agent, key, &public.blob, &path.display().to_string())));
    }
    for private in identities.files.iter().filter(|private| !file::is_public(private)) {
        if let Ok(Some(files)) = KeyFiles::with_certificate(private, &public, path) {
            return Key::of_files(files, held.agent.as_ref(), &held.keys, path).map(Some);
        }
    }
    Err(Failure::new(
        Kind::Key,
        format!("left out: {}: its private key is in no agent and no IdentityFile", path.display()),
    ))
}

/// Removes duplicates and moves each certificate before its plain key.
fn sorted(keys: Vec<Key>) -> Vec<Key> {
    let mut unique: Vec<Key> = Vec::new();
    for key in keys {
        if key.shown().is_none() || unique.iter().all(|known| known.shown() != key.shown()) {
            unique.push(key);
        }
    }
    let prints: Vec<_> = unique.iter().map(|key| key.fingerprint.clone()).collect();
    let first = |key: &Key| prints.iter().position(|print| key.fingerprint.is_some() && *print == key.fingerprint);
    let mut placed: Vec<_> = unique.into_iter().enumerate().collect();
    placed.sort_by_key(|(at, key)| match &key.certificate {
        Some(_) => (first(key).unwrap_or(*at), 0),
        None => (*at, 1),
    });
    placed.into_iter().map(|(_, key)| key).collect()
}
