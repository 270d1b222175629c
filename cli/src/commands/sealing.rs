//! Signs the messages of commands: find keys, ask the host, unlock, bind, sign. An open session guarantees that the host has proved itself
//! before the client asks about keys (docs/decisions/0055-the-keys-that-are-offered.md).

use std::sync::Arc;

use jiff::Timestamp;
use postern_proto::v1::{KeyPurpose, SignedMessage, WhichKeysCountRequest};
use tokio::time::timeout;
use tonic::Code;

use super::Env;
use crate::{
    console::blocking,
    failure::{Failure, Kind, Result},
    keys::{Key, Signer},
    payload::{self, Binding, Purpose},
    session::{CALL_LIMIT, Session},
    ssh_hosts::{SshHosts, config::Config, identities::Identities},
    target::Target,
};

/// The most keys that a host judges in one call.
const MOST_KEYS: usize = 16;

/// The host name for `ssh -G` if the target has none: a Unix socket leads to this machine or to an unnamed one.
const UNNAMED: &str = "localhost";

impl Env {
    /// The keys for messages to `host`; none for messages that are signed without a host.
    pub(super) async fn signer(&self, host: Option<&Target>, purposes: &[Purpose]) -> Result<Arc<Signer>> {
        let identities = self.identities(host).await?;
        let (selection, purposes) = (self.common.key.clone(), purposes.to_vec());
        let gather = move || Signer::gather(selection.as_deref(), &identities, &purposes);
        let (signer, notes) = blocking(gather).await?;
        notes.iter().for_each(|note| self.console.note(note));
        Ok(Arc::new(signer))
    }

    /// Runs `ssh -G` once for each command, because `Match exec` may have side effects.
    async fn identities(&self, host: Option<&Target>) -> Result<Identities> {
        let name = match host {
            Some(Target::Tls { host, .. }) => host.clone(),
            Some(Target::Plaintext(address)) => address.ip().to_string(),
            Some(Target::Unix(_)) | None => return Ok(self.identities_of_nobody().await),
        };
        let config = SshHosts::OfUser.config(&name).await?;
        let identities = config.identities.clone();
        // A command has one host.
        let _ = self.told.set((name, config));
        Ok(identities)
    }

    async fn identities_of_nobody(&self) -> Identities {
        let key = self.common.key.as_deref();
        // A key file needs no configuration and no ssh.
        if key.is_some_and(|key| key != "agent" && !key.starts_with("agent:")) {
            return Identities::plain();
        }
        match Config::of_ssh(UNNAMED).await {
            Ok(config) => config.identities,
            Err(failure) => {
                self.console.note(format!("{failure}; the keys in ~/.ssh and those of SSH_AUTH_SOCK are used"));
                Identities::plain()
            }
        }
    }

    /// The keys for reads. Root on the Unix socket needs none unless `--key` names one.
    pub(super) async fn reader(&self, target: &Target) -> Result<Option<Arc<Signer>>> {
        let is_root = matches!(target, Target::Unix(_)) && rustix::process::geteuid().is_root();
        if is_root && self.common.key.is_none() {
            return Ok(None);
        }
        self.signer(Some(target), &[Purpose::Read]).await.map(Some)
    }

    /// Signs with the first key that the host accepts and that can sign. It binds last, because a person may have to type or touch first.
    pub(super) async fn seal(
        &self,
        session: &mut Session,
        signer: &Arc<Signer>,
        purpose: Purpose,
        mut build: impl FnMut(Binding) -> Result<Vec<u8>>,
    ) -> Result<SignedMessage> {
        self.judge(session, signer, purpose).await?;
        let candidates = signer.candidates(purpose, session.said().host_time, &session.address)?;
        let mut failures: Vec<Failure> = Vec::new();
        for (at, key) in candidates {
            if let Some(failure) = failures.last() {
                self.console.note(format!("{failure}; the next key is tried: {}", key.label));
            }
            match self.seal_with(session, &key, purpose, &mut build).await {
                Ok(message) => {
                    signer.signed(at);
                    return Ok(message);
                }
                Err(failure) if failure.kind == Kind::Key => {
                    signer.failed(at);
                    failures.push(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(unsigned(failures))
    }

    async fn seal_with(
        &self,
        session: &mut Session,
        key: &Arc<Key>,
        purpose: Purpose,
        build: &mut impl FnMut(Binding) -> Result<Vec<u8>>,
    ) -> Result<SignedMessage> {
        self.unlock(key).await?;
        session.refresh().await?;
        let bytes = build(Binding::to_host(session.audience()?, session.said(), purpose))?;
        payload::seal(bytes, purpose, key, self.console).await
    }

    /// Signs with the first key, without a host that could judge it.
    pub(super) async fn seal_offline(
        &self,
        signer: &Arc<Signer>,
        purpose: Purpose,
        build: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<SignedMessage> {
        let now = Timestamp::now();
        signer.left_out(now).iter().for_each(|note| self.console.note(note));
        let candidates = signer.candidates(purpose, now, "the host")?;
        let (at, key) = candidates.into_iter().next().ok_or_else(|| unsigned(Vec::new()))?;
        self.unlock(&key).await?;
        let message = payload::seal(build()?, purpose, &key, self.console).await?;
        signer.signed(at);
        Ok(message)
    }

    async fn unlock(&self, key: &Arc<Key>) -> Result<()> {
        let (key, console) = (Arc::clone(key), self.console);
        blocking(move || key.unlock(console)).await
    }

    pub(super) async fn read(
        &self,
        session: &mut Session,
        signer: Option<&Arc<Signer>>,
    ) -> Result<Option<SignedMessage>> {
        let Some(signer) = signer else { return Ok(None) };
        let build = |binding| payload::to_json(&payload::read_request(binding));
        self.seal(session, signer, Purpose::Read, build).await.map(Some)
    }

    /// Asks the host which keys it accepts for all purposes of the command, unless the answer is known or has no effect.
    async fn judge(&self, session: &Session, signer: &Signer, purpose: Purpose) -> Result<()> {
        let purposes = signer.to_ask(purpose);
        if !purposes.is_empty() {
            let out = signer.left_out(session.said().host_time);
            out.iter().for_each(|note| self.console.note(note));
        }
        for purpose in purposes {
            let counts = self.ask(session, signer, purpose).await?;
            signer.answered(purpose, counts);
        }
        Ok(())
    }

    /// The host's verdict on each key. None if the host cannot answer now; then the client tries the first key.
    async fn ask(&self, session: &Session, signer: &Signer, purpose: Purpose) -> Result<Option<Vec<bool>>> {
        let keys = signer.question();
        let mut counts = Vec::new();
        for some in keys.chunks(MOST_KEYS) {
            let call = WhichKeysCountRequest { purpose: on_the_wire(purpose).into(), keys: some.to_vec() };
            let answer = timeout(CALL_LIMIT, session.access().which_keys_count(call)).await;
            let late = |_| Failure::new(Kind::Unreachable, format!("no answer within {} s", CALL_LIMIT.as_secs()));
            let said = match answer.map_err(late)? {
                Ok(answer) => answer.into_inner().counts,
                Err(status) => {
                    let why = not_now(&status, &session.address)?;
                    if keys.len() > 1 {
                        let (host, first) = (&session.address, signer.label());
                        self.console.note(format!(
                            "{host} does not say which keys count ({why}); the first one is tried: {first}"
                        ));
                    }
                    return Ok(None);
                }
            };
            if said.len() != some.len() {
                let message = format!(
                    "{} was asked about {} keys and answered about {}",
                    session.address,
                    some.len(),
                    said.len()
                );
                return Err(Failure::new(Kind::HostFailed, message));
            }
            counts.extend(said);
        }
        Ok(Some(counts))
    }
}

/// The reason why the host cannot answer now; an error for any other failure.
fn not_now(status: &tonic::Status, host: &str) -> Result<String> {
    if status.code() == Code::Unimplemented {
        return Ok("its posternd is older than this client".to_owned());
    }
    let failure = Failure::from_status(status, host);
    match failure.reason.as_deref() {
        Some("RATE_LIMITED" | "OVERLOADED") => Ok(failure.message),
        _ => Err(failure),
    }
}

const fn on_the_wire(purpose: Purpose) -> KeyPurpose {
    match purpose {
        Purpose::Request => KeyPurpose::Request,
        Purpose::Approve => KeyPurpose::Approve,
        Purpose::Revoke => KeyPurpose::Revoke,
        Purpose::Read => KeyPurpose::Read,
    }
}

fn unsigned(failures: Vec<Failure>) -> Failure {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else {
        return Failure::new(Kind::Key, "no key is left that signs")
            .next("see what the notes above say about each key, or name one with --key FILE");
    };
    failures.fold(first, |all, next| {
        let hint = match (all.next, next.next) {
            (Some(known), Some(other)) if !known.contains(&other) => Some(format!("{known}\n{other}")),
            (known, other) => known.or(other),
        };
        Failure { message: format!("{}; {}", all.message, next.message), next: hint, ..Failure::new(Kind::Key, "") }
    })
}
