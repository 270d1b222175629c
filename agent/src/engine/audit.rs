//! Reads of the journal: audits, reports and denied attempts. This module owns who may read them, and how many at once. The worker never
//! reads the journal, so an audit delays no decision. A slow watcher misses lines.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use postern_core::budget::Class;
use postern_core::ledger::Record;
use postern_core::refusal::{Reason, Refusal};
use postern_core::report::{Gather, Living, PortLine, Unused};
use postern_core::request::Request;
use tokio::sync::broadcast;

use super::{DeniedView, Engine, Filter as Wanted, GrantView, Reader};
use crate::journal::scan::{Entry, Filter, Page, entry};

const PAGE: usize = 1000;

/// One durable line of the journal.
#[derive(Clone, Debug)]
pub struct Published {
    /// The record.
    pub record: Record,
    /// The request or grant of the record.
    pub life: Option<Request>,
    /// The line in the journal.
    pub line: Vec<u8>,
}

impl Published {
    /// The line, parsed.
    #[must_use]
    pub fn entry(&self) -> Entry {
        entry(&self.record, self.life.as_ref(), &self.line)
    }
}

/// What happened to each port lately.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The beginning of the period.
    pub since: Timestamp,
    /// The end of the period: now.
    pub until: Timestamp,
    /// Every protected port, and each other port that somebody asked for.
    pub ports: Vec<PortLine>,
    /// Grants that nobody used; the one that ended last comes first.
    pub unused: Vec<GrantView>,
    /// The first fault of the journal's chain.
    pub damage: Option<String>,
}

impl Engine {
    /// Lines of the journal, the newest first, and whether its chain holds.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`] for everybody but root, admins and viewers, [`Reason::Overloaded`], [`Reason::JournalFailed`].
    pub async fn audit(&self, reader: &Reader, filter: Filter) -> Result<Page, Refusal> {
        self.check_auditor(reader).await?;
        let journal = self.0.journal.clone();
        let page = self.read_journal(reader, move || journal.scan(&filter)).await?;
        // The reader may have lost the right during the scan.
        self.check_auditor(reader).await?;
        Ok(page)
    }

    /// Every line of the journal from now on.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`] for everybody but root, admins and viewers.
    pub async fn watch_audit(&self, reader: &Reader) -> Result<broadcast::Receiver<Arc<Published>>, Refusal> {
        self.check_auditor(reader).await?;
        Ok(self.0.lines.subscribe())
    }

    /// What happened to each port in the last `period`.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`] for everybody but root, admins, approvers and viewers, [`Reason::Overloaded`],
    /// [`Reason::JournalFailed`].
    pub async fn report(&self, reader: &Reader, period: SignedDuration) -> Result<Summary, Refusal> {
        let all = "only viewers, approvers and admins see the report";
        self.check_all(reader, all).await?;
        let until = self.0.now().wall;
        let since = until.checked_sub(period).unwrap_or(Timestamp::MIN);
        let (journal, rules) = (self.0.journal.clone(), self.rules());
        let mut gather = Gather::new(since, &rules.policy.ports);
        let read = move || journal.each(since, |record| gather.take(record)).map(|damage| (gather, damage));
        let (gather, damage) = self.read_journal(reader, read).await?;
        self.check_all(reader, all).await?;
        let living = self.living().await?;
        let living = living.iter().map(|view| Living { life: &view.life, state: view.state, usage: view.usage });
        let report = gather.finish(living);
        let mut unused = Vec::new();
        for one in report.unused {
            // The ledger forgets old grants.
            let known = self.get(&Reader::Root, one.grant.id).await;
            unused.push(known.unwrap_or_else(|_| from_record(one)));
        }
        Ok(Summary { since, until, ports: report.ports, unused, damage })
    }

    /// All denied attempts: dropped packets, and packets that enforcement would have dropped.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`] for everybody but root, admins, approvers and viewers.
    pub async fn all_denied(&self, reader: &Reader) -> Result<Vec<DeniedView>, Refusal> {
        let observed = self.observed().await?;
        self.check_all(reader, "only viewers, approvers and admins see all denied").await?;
        Ok(latest_first(self.denied().all(), observed))
    }

    async fn living(&self) -> Result<Vec<GrantView>, Refusal> {
        let mut all: Vec<GrantView> = Vec::new();
        loop {
            let before = all.last().map(|view| view.seq);
            let page = self.list(&Reader::Root, Wanted::default(), before, PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    async fn check_auditor(&self, reader: &Reader) -> Result<(), Refusal> {
        if self.reread(reader).await?.may_audit() {
            return Ok(());
        }
        Err(self.not_permitted(reader, "only viewers and admins read the journal").await)
    }

    async fn check_all(&self, reader: &Reader, who: &str) -> Result<(), Refusal> {
        if self.reread(reader).await?.sees_all() {
            return Ok(());
        }
        Err(self.not_permitted(reader, who).await)
    }

    /// Reads the journal on a thread for blocking work. The number of concurrent reads is limited.
    async fn read_journal<T: Send + 'static>(
        &self,
        reader: &Reader,
        read: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = || Refusal::new(Reason::Overloaded, "others are reading the journal; try again in a moment");
        let place = self.place_of(reader, Class::Audit)?;
        let turns = if place.is_some() { &self.0.turns.scans } else { &self.0.turns.root_scans };
        let turn = Arc::clone(turns).try_acquire_owned().map_err(|_| busy())?;
        let work = move || {
            // The read keeps its place until it is over, even if the caller is gone.
            let _held = (turn, place);
            read()
        };
        let found = tokio::task::spawn_blocking(work).await.map_err(|_| busy())?;
        found.map_err(|error| Refusal::new(Reason::JournalFailed, error))
    }
}

pub(super) fn latest_first(dropped: Vec<DeniedView>, observed: Vec<DeniedView>) -> Vec<DeniedView> {
    let mut denied = [dropped, observed].concat();
    denied.sort_by_key(|attempt| std::cmp::Reverse(attempt.last_seen));
    denied
}

/// The view of an unused grant that only the journal still holds.
fn from_record(unused: Unused) -> GrantView {
    let Unused { seq, grant, ending } = unused;
    GrantView {
        seq,
        state: ending.cause.state(false),
        life: Request::Granted(grant),
        ending: Some(ending),
        remaining_ns: 0,
        usage: postern_core::grant::Use::default(),
        steps: Vec::new(),
        superseded_by: None,
    }
}
