//! Who signs: a key file, a key in the running ssh-agent, or `ssh-keygen`.
//!
//! Owns the choice of `--key` and the signing. Private keys stay in memory only as long as the command runs, and never
//! leave an agent.

pub mod agent;
pub mod certificate;
mod file;
mod keygen;
pub mod sshsig;
pub mod verify;
pub(crate) mod wire;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ssh_key::{HashAlg, PrivateKey};

use self::{agent::Agent, file::KeyFiles};
use crate::{
    console::Console,
    failure::{Failure, Kind, Result},
};

/// Tried in this order in `~/.ssh` when no agent has an acceptable key.
const DEFAULT_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// A chosen key. Nothing has been asked of the person yet.
#[derive(Debug)]
pub struct Signer {
    /// For people: where the key is, and its fingerprint.
    pub label: String,
    /// `SHA256:…` of the plain key, as the host names whoever asked; unknown where only the agent or ssh-keygen can tell.
    pub fingerprint: Option<String>,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    File { key: Mutex<Box<PrivateKey>>, path: PathBuf, shown: Vec<u8> },
    Agent { agent: Agent, held: Vec<u8>, shown: Vec<u8> },
    Keygen { path: PathBuf },
}

impl Signer {
    /// Finds the key that `--key` names: a file, `agent`, `agent:FINGERPRINT` or `agent:COMMENT`; without it the
    /// agent's first acceptable key, else the first default file.
    ///
    /// # Errors
    /// [`Kind::Key`] when there is none.
    pub fn choose(selection: Option<&str>) -> Result<Self> {
        match selection {
            Some("agent") => Self::in_agent(None),
            Some(text) => match text.strip_prefix("agent:") {
                Some(wanted) => Self::in_agent(Some(wanted)),
                None => Self::at(Path::new(text)),
            },
            None => Self::default_key(),
        }
    }

    fn default_key() -> Result<Self> {
        if let Some(signer) = Agent::of_environment().and_then(|agent| first_in(&agent, None).ok().flatten()) {
            return Ok(signer);
        }
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let directory = home.map(|home| home.join(".ssh"));
        let mut files = directory.iter().flat_map(|directory| DEFAULT_FILES.map(|name| directory.join(name)));
        match files.find(|path| path.exists()) {
            Some(path) => Self::at(&path),
            None => Err(Failure::new(
                Kind::Key,
                "no key to sign with: no agent has one, and ~/.ssh has no id_ed25519, id_ecdsa or id_rsa",
            )
            .next("name one with --key FILE, or make one: ssh-keygen -t ed25519")),
        }
    }

    fn in_agent(wanted: Option<&str>) -> Result<Self> {
        let agent = Agent::of_environment().ok_or_else(|| {
            Failure::new(Kind::Key, "SSH_AUTH_SOCK is not set, so no agent can be asked")
                .next("start one (eval \"$(ssh-agent)\"; ssh-add), or name a file: --key FILE")
        })?;
        let found = first_in(&agent, wanted)
            .map_err(|error| Failure::new(Kind::Key, format!("the ssh-agent cannot be asked: {error}")))?;
        found.ok_or_else(|| {
            let which = wanted.map_or_else(|| "an acceptable key".to_owned(), |w| format!("an acceptable key {w:?}"));
            Failure::new(Kind::Key, format!("the ssh-agent does not have {which}")).next(
                "ssh-add -l lists what it has; hosts accept Ed25519, ECDSA P-256/P-384 and RSA of 3072 bits or more",
            )
        })
    }

    fn at(path: &Path) -> Result<Self> {
        let files = KeyFiles::at(path)?;
        if let Some(public) = &files.public {
            wire::check_acceptable(&public.blob).map_err(|why| {
                Failure::new(Kind::Key, format!("{}: {why}", path.display())).next("choose another --key")
            })?;
        }
        let fingerprint = files.public.as_ref().map(|public| wire::fingerprint(&public.key_blob));
        let label = match &fingerprint {
            Some(fingerprint) => format!("{} ({fingerprint})", path.display()),
            None => path.display().to_string(),
        };
        let readable = files.key.as_ref().is_some_and(|key| !key.is_encrypted());
        if !readable && let Some(backend) = held_by_agent(&files) {
            return Ok(Self { label, fingerprint, backend });
        }
        let backend = match (files.key, files.public) {
            (Some(key), Some(public)) => {
                Backend::File { key: Mutex::new(Box::new(key)), path: files.private, shown: public.blob }
            }
            _ if files.private_exists => Backend::Keygen { path: files.for_keygen },
            _ => {
                let message = format!("{}: its private half is neither beside it nor in an ssh-agent", path.display());
                return Err(Failure::new(Kind::Key, message).next("ssh-add the private key, or name its file"));
            }
        };
        Ok(Self { label, fingerprint, backend })
    }

    /// Asks for the passphrase now, if one will be needed. Blocks.
    ///
    /// # Errors
    /// [`Kind::Key`] when it is wrong three times, or cannot be asked for.
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
        if key.is_encrypted() { Err(Failure::new(Kind::Key, "three wrong passphrases")) } else { Ok(()) }
    }

    /// The armored SSHSIG over `message` in `namespace`. Blocks; call [`Self::unlock`] first.
    ///
    /// # Errors
    /// [`Kind::Key`] when the key cannot sign.
    pub fn sign(&self, namespace: &str, message: &[u8], console: Console) -> Result<String> {
        match &self.backend {
            Backend::Keygen { path } => keygen::sign(path, namespace, message),
            Backend::Agent { agent, held, shown } => {
                if wire::is_security_key(held) {
                    console.note("touch your security key to sign");
                }
                let signature = agent.sign(held, &sshsig::to_be_signed(namespace, message));
                let signature = signature.map_err(|error| {
                    Failure::new(Kind::Key, format!("the ssh-agent did not sign with {}: {error}", self.label))
                        .next("see that it is unlocked (ssh-add -l), and touch the key if it is a security key")
                })?;
                Ok(sshsig::armor(shown, namespace, &signature))
            }
            Backend::File { key, path, shown } => {
                let key = key.lock().unwrap_or_else(PoisonError::into_inner);
                let failed =
                    |error: ssh_key::Error| Failure::new(Kind::Key, format!("{} cannot sign: {error}", path.display()));
                let inner = key.sign(namespace, HashAlg::Sha512, message).map_err(failed)?;
                let signature = Vec::try_from(inner.signature().clone()).map_err(failed)?;
                Ok(sshsig::armor(shown, namespace, &signature))
            }
        }
    }
}

/// The agent's first acceptable key, or the one with the wanted fingerprint or comment.
fn first_in(agent: &Agent, wanted: Option<&str>) -> std::io::Result<Option<Signer>> {
    let fits = |key: &agent::AgentKey| match wanted {
        None => true,
        Some(wanted) => wire::fingerprint(&key.blob) == wanted || key.comment == wanted,
    };
    let mut keys = agent.keys()?.into_iter();
    let found = keys.find(|key| wire::check_acceptable(&key.blob).is_ok() && fits(key));
    let is_plain = |blob: &[u8]| wire::algorithm(blob).is_some_and(|algorithm| !algorithm.contains("-cert-"));
    Ok(found.map(|key| Signer {
        fingerprint: is_plain(&key.blob).then(|| wire::fingerprint(&key.blob)),
        label: format!("{} ({}) in the agent", wire::fingerprint(&key.blob), crate::text::clean(&key.comment)),
        backend: Backend::Agent { agent: agent.clone(), held: key.blob.clone(), shown: key.blob },
    }))
}

/// The agent as backend, if it holds the key of `files`.
fn held_by_agent(files: &KeyFiles) -> Option<Backend> {
    let public = files.public.as_ref()?;
    let agent = Agent::of_environment()?;
    let keys = agent.keys().ok()?;
    let held = keys.into_iter().find(|key| key.blob == public.key_blob || key.blob == public.blob)?.blob;
    Some(Backend::Agent { agent, held, shown: public.blob.clone() })
}
