//! From the bytes of a message to a verified, parsed message. This module owns the order of the checks, cheap before costly: size → repeats
//! → envelope and signature → strict payload. A limited number of threads checks signatures.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postern_core::budget::Class;
use postern_core::envelope::{self, Basis, Envelope, Purpose, Signer, Verified};
use postern_core::grant::{AccessRequest, Header, RevokeRequest};
use postern_core::ledger::Action;
use postern_core::message::{self, Freshness, Showing};
use postern_core::refusal::{Attribution, Reason, Refusal};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::command::Change;
use super::reader::Person;
use super::{Engine, Place, Reader};
use crate::payload::access;

/// The most bytes of a payload (DESIGN 7: a whole gRPC message has at most 64 KiB).
const MOST_PAYLOAD: usize = 32 * 1024;
/// How long a message waits for one of the threads that check signatures.
const VERIFY_WAIT: Duration = Duration::from_secs(1);
/// How many decided messages are remembered.
const MOST_REPEATS: usize = 16_384;

/// A signed message as received. Nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBytes {
    /// Exactly the signed bytes.
    pub payload: Vec<u8>,
    /// The type that the sender claims.
    pub payload_type: String,
    /// Armored SSHSIGs.
    pub signatures: Vec<String>,
}

pub(super) struct Signed {
    /// First the requester, then the approvers.
    pub signers: Vec<Signer>,
    /// The facts of the signatures that the rules judge again when the message takes effect.
    pub basis: Basis,
}

/// Digests of decided payloads. They only save work: the ledger's ids protect from replay.
#[derive(Default)]
pub(super) struct Repeats(Mutex<Digests>);

#[derive(Default)]
struct Digests {
    all: HashSet<[u8; 32]>,
    by_age: VecDeque<[u8; 32]>,
}

impl Repeats {
    fn contains(&self, digest: &[u8; 32]) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.contains(digest)
    }

    fn insert(&self, digest: [u8; 32]) {
        let mut digests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.all.insert(digest) {
            digests.by_age.push_back(digest);
        }
        if digests.by_age.len() > MOST_REPEATS
            && let Some(oldest) = digests.by_age.pop_front()
        {
            digests.all.remove(&oldest);
        }
    }
}

impl Engine {
    /// The signers, the request, and exactly the signed bytes.
    pub(super) async fn access_request(
        &self,
        message: SignedBytes,
    ) -> Result<(Signed, AccessRequest, String, Place), Refusal> {
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        let any = |_: &Signer, _: &Basis, request| Ok(request);
        let (signed, request, place) =
            self.parsed(message, Purpose::Request, Action::Request, access::access_request, any).await?;
        Ok((signed, request, payload, place))
    }

    pub(super) async fn revoke_request(
        &self,
        message: SignedBytes,
    ) -> Result<(Signer, Basis, RevokeRequest, Place), Refusal> {
        let any = |_: &Signer, _: &Basis, request| Ok(request);
        let (signed, request, place) =
            self.parsed(message, Purpose::Revoke, Action::Revoke, access::revoke_request, any).await?;
        let Signed { signers, basis } = signed;
        let signer = signers.into_iter().next().ok_or_else(|| Refusal::new(Reason::Unsigned, "nobody signed"))?;
        Ok((signer, basis, request, place))
    }

    /// The approver, the id of the request, the approved bytes, and the digest for [`Engine::mark_rejected`]. Many people approve the same
    /// payload, so this digest covers the payload, the person and the rules.
    pub(super) async fn approval(
        &self,
        message: SignedBytes,
    ) -> Result<(Signed, Uuid, String, [u8; 32], Place), Refusal> {
        let verified = self.verified(&message, Purpose::Approve).await;
        let (signed, signer, digest) = verified.inspect_err(|refusal| self.count_unverified(refusal.reason))?;
        let rules = self.0.rules().digest;
        let rejected = envelope::payload_digest(&[&digest[..], signer.principal.as_bytes(), rules.as_bytes()].concat());
        if self.0.repeats.contains(&rejected) {
            let refusal = Refusal::new(Reason::PayloadRepeated, "this approval was refused before");
            self.count_unverified(refusal.reason);
            return Err(refusal);
        }
        // The approver's budget pays, never the requester's.
        let place = self.begin(&signer.principal, Class::Approve, message.payload.len())?;
        match access::access_request(&message.payload) {
            Ok(request) => {
                let payload = String::from_utf8_lossy(&message.payload).into_owned();
                Ok((signed, request.header.id, payload, rejected, place))
            }
            Err(refusal) => {
                self.mark_rejected(rejected);
                Err(self.recorded(signer, Action::Approve, refusal).await)
            }
        }
    }

    /// Remembers a refused message, so that a repeat gets no second record.
    pub(super) fn mark_rejected(&self, digest: [u8; 32]) {
        self.0.repeats.insert(digest);
    }

    pub(super) async fn read_request(&self, message: SignedBytes) -> Result<(Reader, Place), Refusal> {
        let digest = envelope::payload_digest(&message.payload);
        let permit = |signer: &Signer, basis: &Basis, header: Header| self.reader_of(signer, basis, &header, digest);
        let (_, reader, place) =
            self.parsed(message, Purpose::Read, Action::Read, access::read_request, permit).await?;
        Ok((reader, place))
    }

    fn reader_of(&self, signer: &Signer, basis: &Basis, header: &Header, message: [u8; 32]) -> Result<Reader, Refusal> {
        let (shared, now) = (&self.0, self.0.now());
        let shown = (Showing::Repeated, Freshness::Clock);
        message::check(header, &shared.identity(), &shared.challenger(), shown, &now)?;
        shared.reread(&Reader::Person(Person::new(signer, basis, header, message, &now).into()))
    }

    /// Refuses something to a reader, and records that once per message: a read message may be used again, and must not fill the journal.
    pub async fn not_permitted(&self, reader: &Reader, detail: &str) -> Refusal {
        let refusal = Refusal::new(Reason::NotPermitted, detail).at("role");
        let Reader::Person(person) = reader else { return refusal };
        let rejected = envelope::payload_digest(&[&person.message[..], detail.as_bytes()].concat());
        if self.0.repeats.contains(&rejected) {
            self.count_unverified(Reason::PayloadRepeated);
            return refusal;
        }
        self.mark_rejected(rejected);
        self.recorded(person.signer.clone(), Action::Read, refusal).await
    }

    /// Verifies and parses a message. A fault in a verified message is recorded.
    async fn parsed<M, T>(
        &self,
        message: SignedBytes,
        role: Purpose,
        action: Action,
        parse: impl Fn(&[u8]) -> Result<M, Refusal>,
        permit: impl Fn(&Signer, &Basis, M) -> Result<T, Refusal>,
    ) -> Result<(Signed, T, Place), Refusal> {
        let verified = self.verified(&message, role).await;
        let (signed, signer, digest) = verified.inspect_err(|refusal| self.count_unverified(refusal.reason))?;
        let class = match action {
            Action::Request => Class::Request,
            Action::Approve => Class::Approve,
            Action::Revoke => self.ending_class(&signer.principal),
            Action::Read => Class::Read,
        };
        // This comes before the message leaves any trace. If its signer has no budget now, the message may be sent again while it is fresh.
        let place = self.begin(&signer.principal, class, message.payload.len())?;
        // A message that changes something may be used once. A read message may be used again, unless it was refused.
        if action != Action::Read {
            self.0.repeats.insert(digest);
        }
        match parse(&message.payload).and_then(|parsed| permit(&signer, &signed.basis, parsed)) {
            Ok(parsed) => Ok((signed, parsed, place)),
            Err(refusal) => {
                // The rules may have changed since the signature was verified.
                if refusal.reason.attribution() == Attribution::Unverified {
                    self.count_unverified(refusal.reason);
                    return Err(refusal);
                }
                self.0.repeats.insert(digest);
                Err(self.recorded(signer, action, refusal).await)
            }
        }
    }

    async fn verified(&self, message: &SignedBytes, role: Purpose) -> Result<(Signed, Signer, [u8; 32]), Refusal> {
        if message.payload.len() > MOST_PAYLOAD {
            let detail = format!("{} bytes of payload, at most {MOST_PAYLOAD}", message.payload.len());
            return Err(Refusal::new(Reason::MessageTooLarge, detail).at("message.payload"));
        }
        let seen = envelope::payload_digest(&message.payload);
        if role != Purpose::Approve && self.0.repeats.contains(&seen) {
            return Err(Refusal::new(Reason::PayloadRepeated, "make a new message with a new id"));
        }
        let verified = self.verify(message.clone(), role).await?;
        if verified.role != role {
            let detail = format!("this call takes a message signed under {}", role.namespace());
            return Err(Refusal::new(Reason::EnvelopeMalformed, detail).at("message.payload_type"));
        }
        let first = verified.signer().cloned().ok_or_else(|| Refusal::new(Reason::Unsigned, "no signature"))?;
        Ok((Signed { signers: verified.signers, basis: verified.basis }, first, seen))
    }

    /// Checks the signatures on a thread for blocking work. The number of concurrent checks is limited.
    async fn verify(&self, message: SignedBytes, role: Purpose) -> Result<Verified, Refusal> {
        let busy = || Refusal::new(Reason::Overloaded, "try again in a moment");
        let turn = async {
            let (all, closers) = (self.0.turns.verifiers.acquire(), self.0.turns.closers.acquire());
            if role != Purpose::Revoke {
                return all.await;
            }
            // Messages that claim to end something have one more thread. It is only one, because the claim is not verified yet.
            tokio::select! { biased; turn = all => turn, turn = closers => turn }
        };
        let turn = tokio::time::timeout(VERIFY_WAIT, turn).await;
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let (trust, now) = (self.0.rules().trust, self.0.now());
        let check = move || {
            let envelope = Envelope {
                payload: &message.payload,
                payload_type: &message.payload_type,
                signatures: message.signatures.iter().map(String::as_str).collect(),
            };
            let verify = if role == Purpose::Approve { envelope::verify_approval } else { envelope::verify };
            verify(&envelope, &trust, now.wall.as_second(), now.clock.knows_windows())
        };
        tokio::task::spawn_blocking(check).await.map_err(|_| busy())?
    }

    /// Has the worker record the refusal of a verified message, and returns the refusal.
    async fn recorded(&self, signer: Signer, action: Action, refusal: Refusal) -> Refusal {
        let (answer, reply) = oneshot::channel();
        let command = Change::Refuse { signer, action, refusal: refusal.clone(), answer };
        if self.enqueue(command.into()) {
            reply.await.unwrap_or(refusal)
        } else {
            Refusal::new(Reason::Overloaded, "try again in a moment")
        }
    }
}
