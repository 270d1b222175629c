//! Chooses the keys that may sign: those of `--key`, else those that ssh would offer. Of them the host's answer selects the signer.

pub mod agent;
mod file;
mod key;
mod keygen;
mod offer;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use postern_core::ssh::Fingerprint;
use postern_proto::v1::KeyToJudge;

pub use self::key::Key;
use crate::{
    failure::{Failure, Kind, Result},
    purpose::Purpose,
    ssh_hosts::identities::Identities,
};

/// How many principals of one certificate a host reads in a question.
const MOST_PRINCIPALS: usize = 64;

/// The keys for one command. The host's answer decides which of them signs.
#[derive(Debug)]
pub struct Signer {
    keys: Vec<Arc<Key>>,
    /// Whether the command line names one private key. Then no other key signs, whatever the host answers.
    named: bool,
    /// All purposes that the command signs for, in order.
    purposes: Vec<Purpose>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The host's verdict on each key, by namespace. None if the host cannot answer.
    counts: BTreeMap<&'static str, Option<Vec<bool>>>,
    failed: Vec<usize>,
    last: Option<usize>,
}

impl Signer {
    /// Finds the keys of `--key` (a file, `agent`, `agent:FINGERPRINT` or `agent:COMMENT`), else the keys that ssh would offer. Also
    /// returns notes for people. Blocks.
    ///
    /// # Errors
    /// Fails with [`Kind::Key`] if there is no key.
    pub fn gather(
        selection: Option<&str>,
        identities: &Identities,
        purposes: &[Purpose],
    ) -> Result<(Self, Vec<String>)> {
        let (keys, named, notes) = match selection {
            Some("agent") => (offer::of_agent(identities, None)?, false, Vec::new()),
            Some(text) => match text.strip_prefix("agent:") {
                Some(wanted) => (offer::of_agent(identities, Some(wanted))?, true, Vec::new()),
                None => (offer::of_file(Path::new(text), identities)?, true, Vec::new()),
            },
            None => {
                let found = offer::all(identities);
                if found.keys.is_empty() {
                    return Err(nothing(identities, &found.notes));
                }
                (found.keys, false, found.notes)
            }
        };
        let keys = keys.into_iter().map(Arc::new).collect();
        Ok((Self { keys, named, purposes: purposes.to_vec(), state: Mutex::default() }, notes))
    }

    /// The label of the key that signed last, else of the first one.
    #[must_use]
    pub fn label(&self) -> String {
        self.latest().map(|key| key.label.clone()).unwrap_or_default()
    }

    /// `SHA256:…` of the plain key that signed last, which is the host's name for a requester. None if only ssh-keygen can read the key.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        self.latest()?.fingerprint.clone()
    }

    fn latest(&self) -> Option<&Arc<Key>> {
        self.keys.get(self.state().last.unwrap_or(0))
    }

    /// The purposes to ask the host about before the client signs for `purpose`.
    #[must_use]
    pub fn to_ask(&self, purpose: Purpose) -> Vec<Purpose> {
        if self.named && self.keys.len() == 1 {
            return Vec::new();
        }
        let state = self.state();
        let all = self.purposes.iter().copied().chain([purpose]);
        let mut asked = Vec::new();
        for purpose in all.filter(|purpose| !state.counts.contains_key(purpose.namespace())) {
            if !asked.contains(&purpose) {
                asked.push(purpose);
            }
        }
        asked
    }

    /// The question to a host: every key whose public half is readable.
    #[must_use]
    pub fn question(&self) -> Vec<KeyToJudge> {
        self.keys.iter().filter_map(to_judge).collect()
    }

    /// Stores the host's answer to [`Self::question`]; none if the host cannot answer.
    pub fn answered(&self, purpose: Purpose, counts: Option<Vec<bool>>) {
        self.state().counts.insert(purpose.namespace(), counts);
    }

    /// The keys to sign with for `purpose`, the best first, at the host's time `now`.
    ///
    /// # Errors
    /// Fails with [`Kind::Key`] if the host accepts none of the keys and the user named no key.
    pub fn candidates(&self, purpose: Purpose, now: Timestamp, host: &str) -> Result<Vec<(usize, Arc<Key>)>> {
        let state = self.state();
        let at: Vec<usize> = (0..self.keys.len()).filter(|at| !state.failed.contains(at)).collect();
        let spoiled = |at: &usize| self.unfit(*at, now).is_some();
        let valid: Vec<usize> = at.iter().copied().filter(|at| !spoiled(at)).collect();
        // For a named key with only an expired certificate, the host's refusal explains the error.
        let valid = if valid.is_empty() && self.named { at } else { valid };
        let Some(Some(_)) = state.counts.get(purpose.namespace()) else { return Ok(self.pick(valid)) };
        let mut found: Vec<usize> =
            valid.iter().copied().filter(|at| self.says(&state, purpose, *at) != Some(false)).collect();
        // Keys that the host accepts for all purposes of the command come first; among those, the key that signed already.
        found.sort_by_key(|at| {
            let unsure = self.says(&state, purpose, *at).is_none();
            let elsewhere = self.purposes.iter().filter(|other| self.says(&state, **other, *at) == Some(false)).count();
            (unsure, elsewhere, state.last != Some(*at))
        });
        if found.is_empty() && self.named {
            return Ok(self.pick(valid));
        }
        if found.is_empty() && state.failed.is_empty() {
            return Err(self.none_counts(purpose, now, host));
        }
        Ok(self.pick(found))
    }

    fn pick(&self, at: Vec<usize>) -> Vec<(usize, Arc<Key>)> {
        at.into_iter().map(|at| (at, Arc::clone(&self.keys[at]))).collect()
    }

    /// The host's verdict on the key at `at`; none if it was not asked about this key.
    fn says(&self, state: &State, purpose: Purpose, at: usize) -> Option<bool> {
        let counts = state.counts.get(purpose.namespace())?.as_ref()?;
        let known = |key: &&Arc<Key>| key.fingerprint.is_some();
        self.keys.get(at).filter(known)?;
        counts.get(self.keys[..at].iter().filter(known).count()).copied()
    }

    /// The reason why the certificate of the key at `at` is unusable at `now`.
    fn unfit(&self, at: usize, now: Timestamp) -> Option<&'static str> {
        let certificate = self.keys.get(at)?.certificate.as_ref()?;
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        match () {
            () if now >= certificate.valid_before => Some("has expired"),
            () if now < certificate.valid_after => Some("is not valid yet"),
            () => None,
        }
    }

    /// Notes about the certificates that are left out at `now`.
    #[must_use]
    pub fn left_out(&self, now: Timestamp) -> Vec<String> {
        let out = |at| Some(format!("left out, because it {}: {}", self.unfit(at, now)?, self.keys[at].label));
        (0..self.keys.len()).filter_map(out).collect()
    }

    /// Records that the key at `at` signed.
    pub fn signed(&self, at: usize) {
        self.state().last = Some(at);
    }

    /// Records that the key at `at` could not sign, so that it is not tried again.
    pub fn failed(&self, at: usize) {
        self.state().failed.push(at);
    }

    fn none_counts(&self, purpose: Purpose, now: Timestamp, host: &str) -> Failure {
        let offered: Vec<String> = (0..self.keys.len())
            .map(|at| match self.unfit(at, now) {
                Some(why) => format!("{}, which {why}", self.keys[at].label),
                None => self.keys[at].label.clone(),
            })
            .collect();
        let namespace = purpose.namespace();
        let message = format!(
            "{host} counts none of your keys for {namespace}. Nothing was signed. These were offered: {}",
            offered.join("; ")
        );
        Failure::new(Kind::Key, message).next(format!(
            "have the host's administrator trust one of them for {namespace} and give its holder a role; or name another key: --key \
             FILE. With --key the host also says what is wrong with that key"
        ))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None if the public half is not readable.
fn to_judge(key: &Arc<Key>) -> Option<KeyToJudge> {
    let fingerprint = key.fingerprint.clone()?;
    let Some(certificate) = &key.certificate else { return Some(KeyToJudge { fingerprint, ..KeyToJudge::default() }) };
    Some(KeyToJudge {
        fingerprint,
        authority: Fingerprint::of(&certificate.authority).to_string(),
        principals: certificate.principals.iter().take(MOST_PRINCIPALS).cloned().collect(),
        serial: certificate.serial,
        key_id: String::from_utf8_lossy(&certificate.key_id).into_owned(),
        valid_after: certificate.valid_after,
        valid_before: certificate.valid_before,
    })
}

fn nothing(identities: &Identities, notes: &[String]) -> Failure {
    let agent = match &identities.agent {
        Some(_) => "the ssh-agent lists no key that hosts accept (it lists nothing while it is locked: ssh-add -X)",
        None => "no ssh-agent is there",
    };
    let files: Vec<_> = identities.files.iter().map(|file| file.display().to_string()).collect();
    let notes = notes.iter().map(|note| format!("; {note}")).collect::<String>();
    let message = format!("no key to sign with: {agent}, and none of these is a key: {}{notes}", files.join(", "));
    Failure::new(Kind::Key, message).next("name one with --key FILE, or make one: ssh-keygen -t ed25519")
}
