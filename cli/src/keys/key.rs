//! One key that can sign, and its signer: the client itself, an agent, or `ssh-keygen`.
//!
//! Private keys stay in memory only while the command runs, and never leave an agent.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use postern_core::ssh::{
    self, Accept, Certificate, Fingerprint,
    certificate::{key_in, plain_of},
    wire::type_of,
};
use ssh_key::{HashAlg, PrivateKey};

use super::{
    agent::{Agent, AgentKey},
    file::KeyFiles,
    keygen,
};
use crate::{
    console::Console,
    failure::{Failure, Kind, Result},
    text,
};

/// A key. The user has not yet been asked for a passphrase or a touch.
#[derive(Debug)]
pub struct Key {
    /// The place of the key and its fingerprint, for display.
    pub label: String,
    /// `SHA256:…` of the plain key, which is the host's name for a requester. None if only ssh-keygen can read the key.
    pub fingerprint: Option<String>,
    /// The certificate to show with the signature.
    pub certificate: Option<Certificate>,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    File { key: Mutex<Box<PrivateKey>>, path: PathBuf, shown: Vec<u8> },
    Agent { agent: Agent, held: Vec<u8>, shown: Vec<u8> },
    Keygen { path: PathBuf, shown: Option<Vec<u8>> },
}

impl Key {
    pub(super) fn held(agent: &Agent, key: &AgentKey) -> Self {
        Self::shown_by(agent, key, &key.blob, &format!("{} in the agent", quoted(&key.comment)))
    }

    /// The key or certificate `shown`, for which the agent signs with `key`.
    pub(super) fn shown_by(agent: &Agent, key: &AgentKey, shown: &[u8], place: &str) -> Self {
        let backend = Backend::Agent { agent: agent.clone(), held: key.blob.clone(), shown: shown.to_vec() };
        Self::of(place, Some(shown), backend)
    }

    /// A key of a file. If the file needs a passphrase, an agent that holds the key signs.
    pub(super) fn of_files(files: KeyFiles, agent: Option<&Agent>, held: &[AgentKey], path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        if let Some(public) = &files.public {
            key_in(&public.blob, Accept::Signers).map_err(|why| {
                Failure::new(Kind::Key, format!("{place}: hosts do not accept this key: {why}"))
                    .next("choose another --key")
            })?;
        }
        let readable = files.key.as_ref().is_some_and(|key| !key.is_encrypted());
        if let (false, Some(public), Some(agent)) = (readable, &files.public, agent)
            && let Some(key) = held.iter().find(|key| key.blob == public.key_blob || key.blob == public.blob)
        {
            return Ok(Self::shown_by(agent, key, &public.blob, &place));
        }
        let blob = files.public.as_ref().map(|public| public.blob.clone());
        let backend = match (files.key, blob.clone()) {
            (Some(key), Some(shown)) => Backend::File { key: Mutex::new(Box::new(key)), path: files.private, shown },
            _ if files.private_exists => Backend::Keygen { path: files.for_keygen, shown: blob.clone() },
            _ => {
                let message = format!("{place}: its private half is neither beside it nor in an ssh-agent");
                return Err(Failure::new(Kind::Key, message).next("ssh-add the private key, or name its file"));
            }
        };
        Ok(Self::of(&place, blob.as_deref(), backend))
    }

    fn of(place: &str, shown: Option<&[u8]>, backend: Backend) -> Self {
        let certificate = shown.and_then(|shown| Certificate::parse(shown, Accept::All).ok());
        let fingerprint = shown.map(|shown| Fingerprint::of(&plain_of(shown)).to_string());
        let what = if certificate.is_some() { "certificate of " } else { "" };
        let label = match &fingerprint {
            Some(fingerprint) => format!("{what}{fingerprint} ({place})"),
            None => place.to_owned(),
        };
        Self { label, fingerprint, certificate, backend }
    }

    pub(super) fn shown(&self) -> Option<&[u8]> {
        match &self.backend {
            Backend::File { shown, .. } | Backend::Agent { shown, .. } => Some(shown),
            Backend::Keygen { shown, .. } => shown.as_deref(),
        }
    }

    /// Asks for the passphrase now if the key needs one. Blocks.
    ///
    /// # Errors
    /// Fails with [`Kind::Key`] after three wrong answers, or without a terminal.
    pub fn unlock(&self, console: Console) -> Result<()> {
        let Backend::File { key, path, .. } = &self.backend else { return Ok(()) };
        let mut key = key.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..3 {
            if !key.is_encrypted() {
                return Ok(());
            }
            let passphrase = console.passphrase(&format!("Passphrase for {}: ", path.display()))?;
            match key.decrypt(passphrase) {
                Ok(open) => **key = open,
                Err(_) => console.note("that is not the passphrase"),
            }
        }
        if key.is_encrypted() {
            Err(Failure::new(Kind::Key, format!("three wrong passphrases for {}", path.display())))
        } else {
            Ok(())
        }
    }

    /// The armored SSHSIG over `message` in `namespace`. Blocks; call [`Self::unlock`] first.
    ///
    /// # Errors
    /// Fails with [`Kind::Key`] if the key cannot sign.
    pub fn sign(&self, namespace: &str, message: &[u8], console: Console) -> Result<String> {
        match &self.backend {
            Backend::Keygen { path, .. } => keygen::sign(path, namespace, message),
            Backend::Agent { agent, held, shown } => {
                if type_of(held).is_some_and(|kind| kind.starts_with("sk-")) {
                    console.note("touch your security key to sign");
                }
                let signature = agent.sign(held, &ssh::to_be_signed(namespace, message));
                let signature = signature.map_err(|error| self.unsigned(&error))?;
                Ok(ssh::armor(shown, namespace, &signature))
            }
            Backend::File { key, path, shown } => {
                let key = key.lock().unwrap_or_else(PoisonError::into_inner);
                let failed =
                    |error: ssh_key::Error| Failure::new(Kind::Key, format!("{} cannot sign: {error}", path.display()));
                let inner = key.sign(namespace, HashAlg::Sha512, message).map_err(failed)?;
                let signature = Vec::try_from(inner.signature().clone()).map_err(failed)?;
                Ok(ssh::armor(shown, namespace, &signature))
            }
        }
    }

    /// An agent gives no reason for a refusal, so the message lists all of them.
    fn unsigned(&self, error: &std::io::Error) -> Failure {
        let what = match error.kind() {
            std::io::ErrorKind::Other => error.to_string(),
            _ => format!("the ssh-agent did not answer ({error})"),
        };
        let failure = Failure::new(Kind::Key, format!("{what}: {}", self.label));
        failure.next(
            "if the key was added with ssh-add -c, agree when the agent asks; a key that was added with ssh-add -h signs only \
             logins to its hosts; a locked agent signs nothing (ssh-add -X unlocks it); a security key wants a touch",
        )
    }
}

fn quoted(comment: &str) -> String {
    let comment = text::clean(comment);
    if comment.is_empty() { "without a comment".to_owned() } else { comment }
}
