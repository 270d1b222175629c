//! The way from a signed message to the kernel.
//!
//! Owns the order: verify → judge → admit → record (durable) → apply → reply. There is one writer, the thread in
//! `worker`; [`Engine`] is the handle that everybody else holds. It never speaks gRPC (`api` does).

mod audit;
mod denied;
mod explain;
mod mode;
mod news;
mod pulse;
mod question;
mod reader;
mod share;
mod tally;
mod verifier;
mod view;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use postern_core::envelope::{Basis, Signer};
use postern_core::grant::{AccessRequest, PortSpec, RevokeRequest, Source};
use postern_core::key::SynRate;
use postern_core::ledger::Action;
use postern_core::message::{Challenger, Freshness, Identity};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{Now, Seconds};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use uuid::Uuid;

use crate::config::effective::RootFiles;
pub use crate::config::effective::Rules;
use crate::journal::scan::Scanner;
use crate::system::clock::Clock;
pub use audit::{Published, Summary};
pub use denied::DeniedAttempts;
use news::News;
use pulse::Pulse;
pub use reader::{Person, Reader, Rights};
pub use share::Place;
use share::{Shares, Turns};
use tally::Tally;
pub use verifier::SignedBytes;
pub use view::{
    Change, ClockView, ConditionView, DeniedView, Explanation, Filter, GrantView, HostState, LayerView, ModeView,
    Query, WhoAmI, XdpView,
};
pub use worker::{Setup, StartError, start};

/// Commands that may wait for the worker. More than that and the host is too busy to answer in time. What closes, and
/// what root asks for ([`Command::goes_first`]), waits in a queue of its own, as long as this one.
const QUEUE: usize = 1024;
/// Changed grants or lines of the journal that a slow watcher may lag behind.
pub const WATCH_BACKLOG: usize = 1024;

type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// The handle of the engine: cheap to clone, usable from any task.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

/// What the handle and the worker both need.
struct Shared {
    identity: RwLock<Identity>,
    /// What is shown as this host's names. The host keys have signed that, so a new key changes nothing here.
    names: Vec<String>,
    clock: Clock,
    challenger: RwLock<Challenger>,
    rules: RwLock<Rules>,
    /// Rules whose record waits for a disk that does not answer: nobody reads any more what these forbid.
    coming: RwLock<Option<Rules>>,
    /// Told of each change of the rules.
    rules_changed: watch::Sender<()>,
    /// Until when messages may be fresh whose use may have been forgotten: nanoseconds of the boot clock.
    unsure_until: AtomicU64,
    tally: Tally,
    shares: Shares,
    repeats: verifier::Repeats,
    turns: Turns,
    journal: Scanner,
    denied: DeniedAttempts,
    /// Where the configuration is: what it says decides whether a trial may be confirmed.
    config_file: PathBuf,
    /// How this process reaches it and root's other files.
    files: RootFiles,
    commands: mpsc::Sender<Command>,
    /// For what does not wait behind other people's requests.
    first: mpsc::Sender<Command>,
    pulse: Pulse,
    changes: broadcast::Sender<Change>,
    /// Every line of the journal, once it is durable.
    lines: broadcast::Sender<Arc<Published>>,
}

/// What root on the host asks for without a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakGlass {
    /// The id of the grant to be.
    pub id: Uuid,
    /// What to open.
    pub ports: Vec<PortSpec>,
    /// For whom.
    pub sources: Vec<Source>,
    /// How long.
    pub duration: Seconds,
    /// Why.
    pub reason: String,
}

/// What the worker is asked to do.
enum Command {
    Request {
        signers: Vec<Signer>,
        basis: Basis,
        request: AccessRequest,
        /// Exactly what was signed.
        payload: String,
        answer: Answer<GrantView>,
    },
    Approve {
        signer: Signer,
        basis: Basis,
        id: Uuid,
        /// Exactly what was signed.
        payload: String,
        answer: Answer<GrantView>,
    },
    BreakGlass {
        wish: BreakGlass,
        answer: Answer<GrantView>,
    },
    /// Enforce on trial.
    Enable {
        within: Seconds,
        only_while_running: bool,
        answer: Answer<ModeView>,
    },
    Confirm {
        without_proof: bool,
        answer: Answer<(ModeView, Option<Uuid>)>,
    },
    RollBack {
        answer: Answer<ModeView>,
    },
    Revoke {
        signer: Signer,
        basis: Basis,
        request: RevokeRequest,
        answer: Answer<GrantView>,
    },
    Refuse {
        signer: Signer,
        action: Action,
        refusal: Refusal,
        answer: oneshot::Sender<Refusal>,
    },
    Get {
        reader: Reader,
        id: Uuid,
        answer: Answer<GrantView>,
    },
    List {
        reader: Reader,
        filter: Filter,
        before: Option<u64>,
        limit: usize,
        answer: Answer<Vec<GrantView>>,
    },
    Explain {
        query: Query,
        reader: Reader,
        answer: Answer<Explanation>,
    },
    Status {
        reader: Reader,
        answer: Answer<HostState>,
    },
    /// What would have been dropped.
    Observed {
        answer: oneshot::Sender<Vec<DeniedView>>,
    },
    Network(News),
    /// Where strangers reach the API, and how fast one of them may begin connections there.
    LimitSyns(Vec<SocketAddr>, SynRate),
    Degraded {
        part: postern_core::condition::Condition,
        why: Option<String>,
    },
    Reload {
        rules: Rules,
        answer: oneshot::Sender<Result<usize, Refusal>>,
    },
    /// Something happened to the clock, or to the machine.
    Clock,
    /// Something unverified was counted for the first time since the last summary.
    Counted,
    Stop {
        answer: oneshot::Sender<()>,
    },
}

impl Shared {
    /// The present, and how the wall clock stands.
    fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether a message that is shown only once may do without a challenge. While its use may have been forgotten, nothing else
    /// proves that it is new.
    fn freshness(&self, now: &Now) -> Freshness {
        match (now.wall_trusted(), self.is_unsure(now)) {
            (true, false) => Freshness::Clock,
            _ => Freshness::Challenge,
        }
    }

    /// Whether messages may be fresh whose use may have been forgotten.
    fn is_unsure(&self, now: &Now) -> bool {
        now.boot.0 < self.unsure_until.load(Ordering::SeqCst)
    }

    /// What this host is called, and its keys.
    fn identity(&self) -> std::sync::RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is issued and accepted now.
    fn challenger(&self) -> std::sync::RwLockReadGuard<'_, Challenger> {
        self.challenger.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rules that are read, and wait for their record.
    fn coming(&self) -> Option<Rules> {
        self.coming.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nobody reads any more what these rules forbid, although the others are in force yet.
    fn announce_rules(&self, rules: &Rules) {
        *self.coming.write().unwrap_or_else(PoisonError::into_inner) = Some(rules.clone());
        self.rules_changed.send_replace(());
    }

    /// Puts rules in force. `waiting` are newer ones, whose record waits for its turn.
    fn put_in_force(&self, rules: Rules, waiting: Option<Rules>) {
        self.shares.track(&rules.policy);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        *self.coming.write().unwrap_or_else(PoisonError::into_inner) = waiting;
        self.rules_changed.send_replace(());
    }
}

impl Engine {
    /// Notes keys that this host proves to hold, before anybody is shown a proof: messages may name `tls:SHA256:…` and `SHA256:…`.
    pub fn holds_keys(&self, tls: String, ssh: Vec<String>) {
        let mut identity = self.0.identity.write().unwrap_or_else(PoisonError::into_inner);
        identity.tls_key = Some(tls);
        let fresh: Vec<_> = ssh.into_iter().filter(|key| !identity.host_keys.contains(key)).collect();
        identity.host_keys.extend(fresh);
    }

    /// Which host this is, what time it is here, and a fresh challenge.
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

    /// Opens what a signed access request asks for, now or later, or has it wait for approvals.
    ///
    /// # Errors
    /// Every [`Reason`] but those of approval and revocation. Nothing is open then.
    pub async fn request(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (verifier::Signed { signers, basis }, request, payload, _place) = self.access_request(message).await?;
        self.ask(|answer| Command::Request { signers, basis, request, payload, answer }).await?
    }

    /// Counts a signed approval of a request that waits; the last one opens it.
    ///
    /// # Errors
    /// What can be wrong with a message, [`Reason::GrantNotFound`], [`Reason::NotPending`], [`Reason::SelfApproval`],
    /// [`Reason::PayloadDiffers`], and all that can refuse the request itself. Then the approval does not count.
    pub async fn approve(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (verifier::Signed { signers, basis }, id, payload, digest, _place) = self.approval(message).await?;
        let unsigned = || Refusal::new(Reason::Unsigned, "nobody signed");
        let signer = signers.into_iter().next().ok_or_else(unsigned)?;
        let answer = self.ask(|answer| Command::Approve { signer, basis, id, payload, answer }).await?;
        answer.inspect_err(|refusal| {
            if is_final(refusal.reason) {
                self.mark_rejected(digest);
            }
        })
    }

    /// Opens what root on the host asks for.
    ///
    /// # Errors
    /// [`Reason::PortNotProtected`], [`Reason::DurationTooLong`], [`Reason::TableFull`], [`Reason::JournalFailed`],
    /// [`Reason::KernelFailed`].
    pub async fn break_glass(&self, wish: BreakGlass) -> Result<GrantView, Refusal> {
        self.ask(|answer| Command::BreakGlass { wish, answer }).await?
    }

    /// Ends the grant that a signed revoke request names.
    ///
    /// # Errors
    /// What can be wrong with a message, [`Reason::GrantNotFound`], [`Reason::GrantEnded`], [`Reason::JournalFailed`],
    /// [`Reason::KernelFailed`].
    pub async fn revoke(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (signer, basis, request, place) = self.revoke_request(message).await?;
        let ended = self.ask(|answer| Command::Revoke { signer, basis, request, answer }).await?;
        if ended.is_ok() {
            place.free();
        }
        ended
    }

    /// Who reads: root on the Unix socket, or whoever signed the read message, with the place that the read holds until its answer.
    ///
    /// # Errors
    /// [`Reason::Unsigned`] when neither, or what is wrong with the message.
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
        self.ask_for(reader, |answer| Command::Get { reader: by, id, answer }).await
    }

    /// At most `limit` grants that the reader may see, the newest first, made before the record `before`.
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
        self.ask_for(reader, |answer| Command::List { reader: by, filter, before, limit, answer }).await
    }

    /// Every grant that changes or is about to end from now on, whoever it belongs to.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// What the judge would say now, and what stands in the way.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], and as [`Engine::reread`].
    pub async fn explain(&self, reader: &Reader, query: Query) -> Result<Explanation, Refusal> {
        let by = reader.clone();
        // Only root may ask about somebody else.
        let query = match reader {
            Reader::Root => query,
            Reader::Person(person) => Query { principal: person.signer.principal.clone(), ..query },
        };
        self.ask_for(reader, |answer| Command::Explain { query, reader: by, answer }).await
    }

    /// How the host stands.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], and as [`Engine::reread`].
    pub async fn status(&self, reader: &Reader) -> Result<HostState, Refusal> {
        let by = reader.clone();
        self.ask_for(reader, |answer| Command::Status { reader: by, answer }).await
    }

    /// Puts new rules in force and ends the grants that they no longer allow; says how many. Waits for room in the queue, however
    /// many requests come.
    ///
    /// # Errors
    /// [`Reason::JournalFailed`]: the old rules stay until the disk takes the record, and the worker tries that by itself; what the
    /// new rules forbid is closed already. [`Reason::KernelFailed`]: the new rules are in force. [`Reason::Overloaded`]: the agent is
    /// stopping.
    pub async fn reload(&self, rules: Rules) -> Result<usize, Refusal> {
        let (answer, reply) = oneshot::channel();
        let stopping = || Refusal::new(Reason::Overloaded, "the agent is stopping");
        self.0.first.send(Command::Reload { rules, answer }).await.map_err(|_| stopping())?;
        reply.await.map_err(|_| stopping())?
    }

    /// Waits until the one writer has come round once more. It does so however many commands wait and however slow the disk is; a
    /// writer that is stuck does not.
    ///
    /// # Errors
    /// The writer has ended.
    pub async fn alive(&self) -> Result<(), pulse::Ended> {
        self.0.pulse.beat().await
    }

    /// Wakes up whenever the rules have changed.
    #[must_use]
    pub fn rules_changed(&self) -> watch::Receiver<()> {
        self.0.rules_changed.subscribe()
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.0.rules()
    }

    /// Where denied attempts are noted.
    #[must_use]
    pub fn denied(&self) -> &DeniedAttempts {
        &self.0.denied
    }

    /// Counts a message that was refused before any signature was verified.
    pub fn count_unverified(&self, reason: Reason) {
        if self.0.tally.count(reason) {
            self.have_summed_up();
        }
    }

    /// Has the worker write a summary soon. Where its queue is full, the next one that is counted asks again.
    fn have_summed_up(&self) {
        if self.0.commands.try_send(Command::Counted).is_err() {
            self.0.tally.ask_again();
        }
    }

    /// Writes what is left to write and stops the worker. The kernel goes on.
    pub async fn stop(&self) {
        let (answer, done) = oneshot::channel();
        if self.0.commands.send(Command::Stop { answer }).await.is_ok() {
            let _ = done.await;
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        let (answer, reply) = oneshot::channel();
        let busy = |what: &str| Refusal::new(Reason::Overloaded, what);
        if !self.enqueue(command(answer)) {
            return Err(busy("try again in a moment"));
        }
        reply.await.map_err(|_| busy("the agent is stopping"))
    }

    /// The same for somebody who reads, and may have lost the right to while the question waited.
    async fn ask_for<T>(&self, reader: &Reader, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Refusal> {
        match self.ask(command).await? {
            Ok(told) => Ok(told),
            Err(refusal) => Err(self.lost(reader, refusal).await),
        }
    }
}

/// Whether an approval that was refused for this reason would be refused again while the rules are the same.
const fn is_final(reason: Reason) -> bool {
    use Reason::{GrantNotFound, NotPending, NotPermitted, PayloadDiffers, SelfApproval};
    matches!(reason, GrantNotFound | NotPending | NotPermitted | PayloadDiffers | SelfApproval)
}
