//! The path from a signed message to the kernel. This module owns the order: verify → judge → admit → record (durable) → apply → reply.
//! [`Engine`] is the handle for the rest of posternd. It sends commands to the one writer, the thread in `worker`. It never handles gRPC.

mod audit;
mod command;
mod commit;
mod denied;
mod explain;
mod mode;
mod notices;
mod pulse;
mod question;
mod reader;
mod rules;
mod share;
mod shared;
mod tally;
mod verifier;
mod view;
mod worker;

use std::sync::{Arc, PoisonError};

use postern_core::grant::{PortSpec, Source};
use postern_core::message::Freshness;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::Seconds;
use tokio::sync::{broadcast, oneshot, watch};
use uuid::Uuid;

pub use crate::config::effective::Rules;
pub use audit::{Published, Summary};
use command::{Answer, Change, Command, Notice, Query};
pub use denied::DeniedAttempts;
pub use explain::{Seen, explain};
pub use reader::{Person, Reader, Rights};
pub use share::Place;
use shared::Shared;
pub use verifier::SignedBytes;
pub use view::{
    ClockView, ConditionView, DeniedView, ExplainQuery, Explanation, Filter, GrantUpdate, GrantView, HostState,
    LayerView, ModeView, WhoAmI,
};
pub use worker::{Confine, Setup, StartError, start};

/// How many commands may wait for the worker. With more, the host is too busy to answer in time. Commands that go first
/// ([`Command::goes_first`]) wait in a second queue of this length.
const QUEUE: usize = 1024;
/// How many changed grants or lines of the journal a slow watcher may lag behind.
pub const WATCH_BACKLOG: usize = 1024;

/// The handle of the engine. Clones are cheap, and any task may use it.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

/// The access that root on the host asks for, without a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    /// The id of the new grant.
    pub id: Uuid,
    /// The ports to open.
    pub ports: Vec<PortSpec>,
    /// The sources to open them for.
    pub sources: Vec<Source>,
    /// For how long.
    pub duration: Seconds,
    /// The reason, for the record.
    pub reason: String,
}

impl Engine {
    /// Notes the keys whose possession this host proves. Messages may name them as `tls:SHA256:…` and `SHA256:…` from now on. The caller
    /// does this before any client gets a proof.
    pub fn holds_keys(&self, tls: String, ssh: Vec<String>) {
        let mut identity = self.0.identity.write().unwrap_or_else(PoisonError::into_inner);
        identity.tls_key = Some(tls);
        let fresh: Vec<_> = ssh.into_iter().filter(|key| !identity.host_keys.contains(key)).collect();
        identity.host_keys.extend(fresh);
    }

    /// This host's identity, its time, and a fresh challenge.
    #[must_use]
    pub fn who_am_i(&self) -> WhoAmI {
        let now = self.0.now();
        WhoAmI {
            host_id: self.0.identity().host_id,
            names: self.0.names.clone(),
            host_time: now.wall,
            clock_trusted: self.0.freshness(&now) == Freshness::Clock,
            challenge: self.0.challenger().issue(now.boot),
        }
    }

    /// Handles a signed access request. The engine opens the ports, now or later, or records the request as pending until its approval.
    ///
    /// # Errors
    /// Every [`Reason`] except those of approval and revocation. Then nothing is open.
    pub async fn request(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (verifier::Signed { signers, basis }, request, payload, _place) = self.access_request(message).await?;
        self.ask(|answer| Change::Request { signers, basis, request, payload, answer }).await?
    }

    /// Handles a signed approval of a pending request. The last approval opens the ports.
    ///
    /// # Errors
    /// Every fault of a message, [`Reason::GrantNotFound`], [`Reason::NotPending`], [`Reason::SelfApproval`],
    /// [`Reason::PayloadDiffers`], and every reason to refuse the request itself. Then the approval does not count.
    pub async fn approve(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (verifier::Signed { signers, basis }, id, payload, digest, _place) = self.approval(message).await?;
        let unsigned = || Refusal::new(Reason::Unsigned, "nobody signed");
        let signer = signers.into_iter().next().ok_or_else(unsigned)?;
        let answer = self.ask(|answer| Change::Approve { signer, basis, id, payload, answer }).await?;
        answer.inspect_err(|refusal| {
            if is_final(refusal.reason) {
                self.mark_rejected(digest);
            }
        })
    }

    /// Opens ports for root on the host.
    ///
    /// # Errors
    /// [`Reason::PortNotProtected`], [`Reason::DurationTooLong`], [`Reason::TableFull`], [`Reason::JournalFailed`],
    /// [`Reason::KernelFailed`].
    pub async fn break_glass(&self, wish: BreakGlass) -> Result<GrantView, Refusal> {
        self.ask(|answer| Change::BreakGlass { wish, answer }).await?
    }

    /// Ends the grant that a signed revoke request names.
    ///
    /// # Errors
    /// Every fault of a message, [`Reason::GrantNotFound`], [`Reason::GrantEnded`], [`Reason::JournalFailed`], [`Reason::KernelFailed`].
    pub async fn revoke(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (signer, basis, request, place) = self.revoke_request(message).await?;
        let ended = self.ask(|answer| Change::Revoke { signer, basis, request, answer }).await?;
        if ended.is_ok() {
            place.free();
        }
        ended
    }

    /// The reader: root on the Unix socket, or the signer of the read message. The signer holds the place until the answer.
    ///
    /// # Errors
    /// [`Reason::Unsigned`] without either, or the fault of the message.
    pub async fn reader(
        &self,
        message: Option<SignedBytes>,
        is_local_root: bool,
    ) -> Result<(Reader, Option<Place>), Refusal> {
        match message {
            Some(message) => self.read_request(message).await.map(|(reader, place)| (reader, Some(place))),
            None if is_local_root => Ok((Reader::Root, None)),
            None => {
                self.count_unverified(Reason::Unsigned);
                Err(Refusal::new(Reason::Unsigned, "sign a read request").at("read"))
            }
        }
    }

    /// One grant that the reader may see.
    ///
    /// # Errors
    /// [`Reason::GrantNotFound`].
    pub async fn get(&self, reader: &Reader, id: Uuid) -> Result<GrantView, Refusal> {
        let by = reader.clone();
        self.ask_for(reader, |answer| Query::Get { reader: by, id, answer }).await
    }

    /// At most `limit` grants that the reader may see, the newest first, all older than the record `before`.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], and as [`Engine::reread`].
    pub async fn list(
        &self,
        reader: &Reader,
        filter: Filter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<GrantView>, Refusal> {
        let by = reader.clone();
        self.ask_for(reader, |answer| Query::List { reader: by, filter, before, limit, answer }).await
    }

    /// Every grant of any owner that changes or is about to end from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<GrantUpdate> {
        self.0.changes.subscribe()
    }

    /// How the policy judges such a request now, and why packets do not get in.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], and as [`Engine::reread`].
    pub async fn explain(&self, reader: &Reader, query: ExplainQuery) -> Result<Explanation, Refusal> {
        let by = reader.clone();
        // Only root may ask about another person.
        let query = match reader {
            Reader::Root => query,
            Reader::Person(person) => ExplainQuery { principal: person.signer.principal.clone(), ..query },
        };
        self.ask_for(reader, |answer| Query::Explain { query, reader: by, answer }).await
    }

    /// The state of the host.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], and as [`Engine::reread`].
    pub async fn status(&self, reader: &Reader) -> Result<HostState, Refusal> {
        let by = reader.clone();
        self.ask_for(reader, |answer| Query::Status { reader: by, answer }).await
    }

    /// Puts new rules in force, ends the grants that they forbid, and returns how many ended. The call waits for room in the queue.
    ///
    /// # Errors
    /// [`Reason::JournalFailed`]: the old rules stay in force until a retry of the worker records the new rules; what the new rules forbid
    /// is closed already. [`Reason::KernelFailed`]: the new rules are in force. [`Reason::Overloaded`]: posternd is stopping.
    pub async fn reload(&self, rules: Rules) -> Result<usize, Refusal> {
        let (answer, reply) = oneshot::channel();
        let stopping = || Refusal::new(Reason::Overloaded, "posternd is stopping");
        self.0.first.send(Change::Reload { rules, answer }.into()).await.map_err(|_| stopping())?;
        reply.await.map_err(|_| stopping())?
    }

    /// Waits until the worker begins its next turn. A long queue or a slow disk does not prevent that: only a stuck worker begins no turn.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn alive(&self) -> Result<(), pulse::Ended> {
        self.0.pulse.beat().await
    }

    /// Signals each change of the rules.
    #[must_use]
    pub fn rules_changed(&self) -> watch::Receiver<()> {
        self.0.rules_changed.subscribe()
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.0.rules()
    }

    /// The memory of denied attempts.
    #[must_use]
    pub fn denied(&self) -> &DeniedAttempts {
        &self.0.denied
    }

    /// Counts a message that was refused before its signature was verified.
    pub fn count_unverified(&self, reason: Reason) {
        if self.0.tally.count(reason) {
            self.have_summed_up();
        }
    }

    /// Has the worker write a summary soon. If its queue is full, the next counted message asks again.
    fn have_summed_up(&self) {
        if self.0.commands.try_send(Notice::Counted.into()).is_err() {
            self.0.tally.ask_again();
        }
    }

    /// Writes the last records and stops the worker. The kernel keeps the ports closed.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.0.commands.send(Change::Stop { answer }.into()).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn ask<T, C: Into<Command>>(&self, command: impl FnOnce(oneshot::Sender<T>) -> C) -> Result<T, Refusal> {
        let (answer, reply) = oneshot::channel();
        let busy = |what: &str| Refusal::new(Reason::Overloaded, what);
        if !self.enqueue(command(answer).into()) {
            return Err(busy("try again in a moment"));
        }
        reply.await.map_err(|_| busy("posternd is stopping"))
    }

    /// As [`Engine::ask`], for a reader who may have lost the right to read while the query waited.
    async fn ask_for<T>(&self, reader: &Reader, query: impl FnOnce(Answer<T>) -> Query) -> Result<T, Refusal> {
        match self.ask(query).await? {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.lost(reader, refusal).await),
        }
    }
}

/// Whether the same rules would refuse this approval again.
const fn is_final(reason: Reason) -> bool {
    use Reason::{GrantNotFound, NotPending, NotPermitted, PayloadDiffers, SelfApproval};
    matches!(reason, GrantNotFound | NotPending | NotPermitted | PayloadDiffers | SelfApproval)
}
