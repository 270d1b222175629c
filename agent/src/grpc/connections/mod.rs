//! The choice of the connections that stay when there are too many.
//!
//! Owns the list of connections. At a limit the new connection gets in, and the connection that was idle for longest ends, first from the
//! source with the most connections. A connection with a verified request under way never ends this way. So an attacker ends only their own
//! connections. This module never touches a socket: it aborts the connection's task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::limits::Limits;
use super::peer::{Peer, Source};

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident $code:literal;)*) => {
        /// Every reason for which posternd ends a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Loss { $($(#[$doc])* $name,)* }

        impl Loss {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $code),)*];
        }
    };
}

losses! {
    /// Evicted: the source had too many.
    SourceCap "connection-evicted-source";
    /// Evicted: there were too many in all.
    TotalCap "connection-evicted-total";
    /// Evicted: too many had not sent a request yet.
    OpeningCap "connection-evicted-opening";
    /// Evicted: the process had no file descriptor left.
    OutOfFiles "connection-evicted-files";
    /// Refused: every other connection had a verified request under way.
    Refused "connection-refused";
    /// The TLS handshake took too long.
    HandshakeTimeout "handshake-timeout";
    /// The TLS handshake failed.
    HandshakeFailed "handshake-failed";
    /// No request came, or none for too long.
    Idle "connection-idle";
    /// The peer broke HTTP/2 or one of its limits, or the connection broke.
    Http "connection-broken";
    /// The connection reached its age limit, and its grace is over.
    Age "connection-age";
}

/// All connections.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    table: Mutex<Table>,
    freed: Notify,
    lost: [AtomicU64; Loss::ALL.len()],
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: HashMap<u64, Entry>,
    per_source: HashMap<Source, usize>,
    opening: usize,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    opening: bool,
    busy: u32,
    since: Instant,
    task: Option<AbortHandle>,
}

/// The entry of one connection, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
    id: u64,
}

/// Keeps a connection from being evicted while a verified request is under way.
#[derive(Debug)]
pub struct Busy(Arc<Connection>);

impl Connections {
    /// No connections.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        let lost = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { limits, table: Mutex::default(), freed: Notify::new(), lost })
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds an entry for `peer`, and ends another connection if there are too many. `files` is the process's limit of descriptors: half of
    /// them are for connections. `None` if no connection can be ended.
    pub fn admit(self: &Arc<Self>, peer: Peer, files: usize) -> Option<Connection> {
        let source = peer.source();
        let most = self.limits.connections.min(files / 2).max(1);
        let mut table = self.table();
        while let Some((scope, loss)) = table.crowded(source, most, &self.limits) {
            let Some(victim) = table.victim(scope) else {
                self.count(Loss::Refused);
                return None;
            };
            table.evict(victim);
            self.count(loss);
        }
        Some(Connection { connections: Arc::clone(self), id: table.sit(source) })
    }

    /// Ends the least needed connection to free its file descriptor. `false` if no connection can be ended.
    pub fn evict_for_files(&self) -> bool {
        let mut table = self.table();
        let victim = table.victim(Scope::All);
        if let Some(victim) = victim {
            table.evict(victim);
            self.count(Loss::OutOfFiles);
        }
        victim.is_some()
    }

    /// Resolves at the next end of a connection.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Counts one loss.
    pub fn count(&self, loss: Loss) {
        self.lost[loss as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Whether there are no connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// (code, count) of every [`Loss`] that happened.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let counts = Loss::ALL.iter().map(|&(loss, code)| (code, self.lost[loss as usize].load(Ordering::Relaxed)));
        counts.filter(|&(_, count)| count > 0).collect()
    }

    /// Resolves when there are no connections.
    pub async fn until_empty(&self) {
        loop {
            let mut freed = std::pin::pin!(self.freed());
            freed.as_mut().enable();
            if self.is_empty() {
                return;
            }
            freed.await;
        }
    }

    /// Ends all connections at once.
    pub fn end_all(&self) {
        let mut table = self.table();
        let all: Vec<u64> = table.entries.keys().copied().collect();
        all.into_iter().for_each(|id| table.evict(id));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // No code panics while it holds this lock, and a poisoned list of connections is still usable.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum Scope {
    All,
    Opening,
    Of(Source),
}

impl Table {
    fn crowded(&self, source: Source, most: usize, limits: &Limits) -> Option<(Scope, Loss)> {
        match () {
            () if self.of(source) >= limits.per_source => Some((Scope::Of(source), Loss::SourceCap)),
            () if self.entries.len() >= most => Some((Scope::All, Loss::TotalCap)),
            () if self.opening >= limits.opening => Some((Scope::Opening, Loss::OpeningCap)),
            () => None,
        }
    }

    fn of(&self, source: Source) -> usize {
        self.per_source.get(&source).copied().unwrap_or_default()
    }

    /// The connection to end: remote before local, from the source with the most connections, idle for longest.
    fn victim(&self, scope: Scope) -> Option<u64> {
        let in_scope = |entry: &Entry| match scope {
            Scope::All => true,
            Scope::Opening => entry.opening,
            Scope::Of(source) => entry.source == source,
        };
        let worth = |entry: &Entry| {
            (matches!(entry.source, Source::Network(_)), self.of(entry.source), std::cmp::Reverse(entry.since))
        };
        let idle = self.entries.iter().filter(|(_, entry)| entry.busy == 0 && in_scope(entry));
        idle.max_by_key(|(_, entry)| worth(entry)).map(|(&id, _)| id)
    }

    fn sit(&mut self, source: Source) -> u64 {
        self.next += 1;
        let entry = Entry { source, opening: true, busy: 0, since: Instant::now(), task: None };
        self.entries.insert(self.next, entry);
        *self.per_source.entry(source).or_default() += 1;
        self.opening += 1;
        self.next
    }

    fn evict(&mut self, id: u64) {
        if let Some(task) = self.remove(id).and_then(|entry| entry.task) {
            task.abort();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.opening -= usize::from(entry.opening);
        if let Some(count) = self.per_source.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&entry.source);
            }
        }
        Some(entry)
    }
}

impl Connection {
    /// Ties the connection's task to its entry. If the connection was evicted before, the task ends now.
    pub fn belongs_to(connections: &Connections, id: u64, task: AbortHandle) {
        match connections.table().entries.get_mut(&id) {
            Some(entry) => entry.task = Some(task),
            None => task.abort(),
        }
    }

    /// The connection's id for [`Connection::belongs_to`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes the arrival of a request.
    pub fn touch(&self) {
        let mut table = self.connections.table();
        let Some(entry) = table.entries.get_mut(&self.id) else { return };
        entry.since = Instant::now();
        let was_opening = std::mem::replace(&mut entry.opening, false);
        table.opening -= usize::from(was_opening);
    }

    /// Keeps the connection from being evicted until the guard is dropped.
    #[must_use]
    pub fn busy(self: &Arc<Self>) -> Busy {
        if let Some(entry) = self.connections.table().entries.get_mut(&self.id) {
            entry.busy += 1;
        }
        Busy(Arc::clone(self))
    }

    /// When the connection will have been idle for too long; in the past if it already has.
    #[must_use]
    pub fn patience(&self) -> Instant {
        let limits = &self.connections.limits;
        match self.connections.table().entries.get(&self.id) {
            None => Instant::now(),
            Some(entry) if entry.busy > 0 => Instant::now() + limits.idle,
            Some(entry) if entry.opening => entry.since + limits.first_request,
            Some(entry) => entry.since + limits.idle,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(entry) = self.0.connections.table().entries.get_mut(&self.0.id) {
            entry.busy = entry.busy.saturating_sub(1);
            entry.since = Instant::now();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
        self.connections.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
