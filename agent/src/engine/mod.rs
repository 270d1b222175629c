//! The way from a signed message to the kernel.
//!
//! Owns the order: verify → judge → admit → record (durable) → apply → reply. There is one writer, the thread in
//! `worker`; [`Engine`] is the handle that everybody else holds. It never speaks gRPC (`api` does).

mod audit;
mod door;
mod explain;
mod knocks;
mod mode;
mod share;
mod tally;
mod view;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use postern_core::grant::{AccessRequest, PortSpec, RevokeRequest, Source};
use postern_core::key::SynRate;
use postern_core::ledger::Action;
use postern_core::message::{Challenger, Freshness, Identity};
use postern_core::policy::Policy;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{Now, Seconds};
use postern_core::{envelope::Signer, trust::Trust};
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use crate::clock::Clock;
use crate::journal::scan::Scanner;
use crate::keeper::Keeper;
use crate::links::LinkState;
pub use audit::{Published, Summary};
pub use door::SignedBytes;
pub use knocks::Knocks;
pub use share::Place;
use share::{Shares, Turns};
use tally::Tally;
pub use view::{
    Change, ClockView, Explanation, Filter, GrantView, HostState, KnockView, LayerView, ModeView, Query, Reader,
    ShedView, WhoAmI,
};
pub use worker::{Setup, StartError, start};

/// Commands that may wait for the worker. More than that and the host is too busy to answer in time.
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
    clock: Clock,
    challenger: RwLock<Challenger>,
    rules: RwLock<Rules>,
    /// Until when messages may be fresh whose use may have been forgotten: nanoseconds of the boot clock.
    unsure_until: AtomicU64,
    tally: Tally,
    shares: Shares,
    repeats: door::Repeats,
    turns: Turns,
    journal: Scanner,
    knocks: Knocks,
    /// Where the configuration is: what it says decides whether a trial may be confirmed.
    config_file: PathBuf,
    /// Who opens it, where this process may not.
    keeper: Option<Keeper>,
    commands: mpsc::Sender<Command>,
    changes: broadcast::Sender<Change>,
    /// Every line of the journal, once it is durable.
    lines: broadcast::Sender<Arc<Published>>,
}

/// What a reload replaces.
#[derive(Clone)]
pub struct Rules {
    /// Who may open what.
    pub policy: Arc<Policy>,
    /// Whose signatures count.
    pub trust: Arc<Trust>,
    /// Hex SHA-256 of the files that they were read from.
    pub digest: Arc<str>,
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
        request: AccessRequest,
        /// Exactly what was signed.
        payload: String,
        answer: Answer<GrantView>,
    },
    Approve {
        signer: Signer,
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
        answer: oneshot::Sender<Vec<GrantView>>,
    },
    Explain {
        query: Query,
        reader: Reader,
        answer: oneshot::Sender<Explanation>,
    },
    Status {
        answer: oneshot::Sender<HostState>,
    },
    /// What would have been dropped.
    Observed {
        answer: oneshot::Sender<Vec<KnockView>>,
    },
    Network(LinkState),
    /// Where strangers reach the API, and how fast one of them may begin connections there.
    LimitSyns(Vec<SocketAddr>, SynRate),
    Degraded {
        part: &'static str,
        why: Option<String>,
    },
    Reload {
        rules: Rules,
        answer: oneshot::Sender<Result<usize, Refusal>>,
    },
    /// Something happened to the clock, or to the machine.
    Clock,
    /// Does the worker still answer?
    Alive {
        answer: oneshot::Sender<()>,
    },
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
}

impl Engine {
    /// Notes which keys this host proves to hold, before anybody is answered: `tls` is `tls:SHA256:…`, `ssh` are the `SHA256:…` of the
    /// SSH host keys that sign. Messages may name them.
    pub fn holds_keys(&self, tls: String, ssh: Vec<String>) {
        let mut identity = self.0.identity.write().unwrap_or_else(PoisonError::into_inner);
        identity.tls_key = Some(tls);
        let known = identity.host_keys.clone();
        identity.host_keys.extend(ssh.into_iter().filter(|key| !known.contains(key)));
    }

    /// Which host this is, what time it is here, and a fresh challenge.
    #[must_use]
    pub fn who_am_i(&self) -> WhoAmI {
        let identity = self.0.identity();
        let now = self.0.now();
        WhoAmI {
            host_id: identity.host_id,
            names: [&identity.names[..], &identity.host_keys].concat(),
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
        let (signers, request, payload, _place) = self.access_request(message).await?;
        self.ask(|answer| Command::Request { signers, request, payload, answer }).await?
    }

    /// Counts a signed approval of a request that waits; the last one opens it.
    ///
    /// # Errors
    /// What can be wrong with a message, [`Reason::GrantNotFound`], [`Reason::NotPending`], [`Reason::SelfApproval`],
    /// [`Reason::PayloadDiffers`], and all that can refuse the request itself. Then the approval does not count.
    pub async fn approve(&self, message: SignedBytes) -> Result<GrantView, Refusal> {
        let (signer, id, payload, digest, _place) = self.approval(message).await?;
        let answer = self.ask(|answer| Command::Approve { signer, id, payload, answer }).await?;
        answer.inspect_err(|refusal| {
            if is_final(refusal.reason) {
                self.burn(digest);
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
        let (signer, request, place) = self.revoke_request(message).await?;
        let ended = self.ask(|answer| Command::Revoke { signer, request, answer }).await?;
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
        let reader = reader.clone();
        self.ask(|answer| Command::Get { reader, id, answer }).await?
    }

    /// At most `limit` grants that the reader may see, the newest first, made before the record `before`.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub async fn list(
        &self,
        reader: &Reader,
        filter: Filter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<GrantView>, Refusal> {
        let reader = reader.clone();
        self.ask(|answer| Command::List { reader, filter, before, limit, answer }).await
    }

    /// Every grant that changes or is about to end from now on, whoever it belongs to.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.0.changes.subscribe()
    }

    /// What the judge would say now, and what stands in the way.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub async fn explain(&self, reader: &Reader, query: Query) -> Result<Explanation, Refusal> {
        let reader = reader.clone();
        // Only root may ask about somebody else.
        let query = match &reader {
            Reader::Root => query,
            Reader::Person { signer, .. } => Query { principal: signer.principal.clone(), ..query },
        };
        self.ask(|answer| Command::Explain { query, reader, answer }).await
    }

    /// How the host stands.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub async fn status(&self) -> Result<HostState, Refusal> {
        self.ask(|answer| Command::Status { answer }).await
    }

    /// Puts new rules in force and ends the grants that they no longer allow; says how many.
    ///
    /// # Errors
    /// [`Reason::Overloaded`], [`Reason::JournalFailed`] or [`Reason::KernelFailed`]; with the first two the old rules stay.
    pub async fn reload(&self, rules: Rules) -> Result<usize, Refusal> {
        self.ask(|answer| Command::Reload { rules, answer }).await?
    }

    /// Tells the worker what the network looks like now.
    pub async fn network_changed(&self, state: LinkState) {
        // It fails only when the worker has stopped: then nobody needs to know any more.
        let _ = self.0.commands.send(Command::Network(state)).await;
    }

    /// Has the kernel limit how fast one source begins connections to these addresses of the API.
    pub async fn limit_syns(&self, addresses: Vec<SocketAddr>, rate: SynRate) {
        let _ = self.0.commands.send(Command::LimitSyns(addresses, rate)).await;
    }

    /// Notes that a part of the host works with restrictions, or no longer does.
    pub async fn degraded(&self, part: &'static str, why: Option<String>) {
        let _ = self.0.commands.send(Command::Degraded { part, why }).await;
    }

    /// Notes that the machine was restored from a snapshot, or is a copy: what is open is closed, and no challenge from before is
    /// accepted. `secret` is 32 random bytes, drawn since.
    ///
    /// Blocks until the worker has room for it: not for a task.
    pub fn restored(&self, secret: &[u8; 32]) {
        // What is let in by the old one from here on is among what is ended.
        self.renew_challenges(secret);
        self.0.clock.note_restore();
        self.clock_changed();
    }

    /// No challenge from before is accepted any more.
    pub fn renew_challenges(&self, secret: &[u8; 32]) {
        *self.0.challenger.write().unwrap_or_else(PoisonError::into_inner) = Challenger::new(secret);
    }

    /// Has the worker look at the clock at once. Blocks as [`Engine::restored`].
    pub fn clock_changed(&self) {
        // It fails only when the worker has stopped.
        let _ = self.0.commands.blocking_send(Command::Clock);
    }

    /// Waits until the one writer answers.
    ///
    /// # Errors
    /// [`Reason::Overloaded`].
    pub async fn alive(&self) -> Result<(), Refusal> {
        self.ask(|answer| Command::Alive { answer }).await
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.0.rules()
    }

    /// Where knocks are noted.
    #[must_use]
    pub fn knocks(&self) -> &Knocks {
        &self.0.knocks
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
}

/// Whether an approval that was refused for this reason would be refused again while the rules are the same.
const fn is_final(reason: Reason) -> bool {
    use Reason::{GrantNotFound, NotPending, NotPermitted, PayloadDiffers, SelfApproval};
    matches!(reason, GrantNotFound | NotPending | NotPermitted | PayloadDiffers | SelfApproval)
}
