//! The changes that wait until the batch in flight is durable: their order, and how many may wait.

use std::collections::VecDeque;

use postern_core::refusal::{Reason, Refusal};
use tokio::sync::oneshot;

use crate::engine::command::Change;
use crate::engine::share::RESERVED;
use crate::engine::{QUEUE, Rules};

#[derive(Default)]
pub(in crate::engine) struct Backlog {
    /// Changes that do not wait behind requests ([`Change::goes_first`]).
    first: VecDeque<Change>,
    rest: VecDeque<Change>,
    /// Rules whose record the disk did not take. The worker puts them in force next, unless newer rules wait.
    retry: Option<Rules>,
}

impl Backlog {
    /// Queues `change`, or refuses it if too many wait.
    pub(in crate::engine) fn push(&mut self, change: Change) {
        // A reload is always taken, because its sender waited for room in the channel.
        let unbounded = matches!(change, Change::Reload { .. });
        let most = if change.is_urgent() { QUEUE + RESERVED } else { QUEUE };
        let queue = self.queue_of(&change);
        if queue.len() >= most && !unbounded {
            return change.refuse(Refusal::new(Reason::Overloaded, "try again in a moment"));
        }
        queue.push_back(change);
    }

    pub(in crate::engine) fn put_back(&mut self, change: Change) {
        self.queue_of(&change).push_back(change);
    }

    fn queue_of(&mut self, change: &Change) -> &mut VecDeque<Change> {
        if change.goes_first() { &mut self.first } else { &mut self.rest }
    }

    pub(in crate::engine) fn pop(&mut self) -> Option<Change> {
        self.first.pop_front().or_else(|| self.rest.pop_front())
    }

    pub(in crate::engine) fn take_all(&mut self) -> Vec<Change> {
        self.first.drain(..).chain(self.rest.drain(..)).collect()
    }

    /// Whether no change waits. Rules to retry do not count: they wait for the disk.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }

    /// The rules of the newest reload that waits.
    pub(in crate::engine) fn newest_rules(&self) -> Option<Rules> {
        let reloads = self.first.iter().rev();
        reloads.filter_map(|one| if let Change::Reload { rules, .. } = one { Some(rules.clone()) } else { None }).next()
    }

    /// Whether rules wait that are newer than those of a batch that failed.
    pub(in crate::engine) fn has_newer_rules(&self) -> bool {
        self.retry.is_some() || self.newest_rules().is_some()
    }

    /// Puts `rules` in force as soon as the disk takes their record.
    pub(in crate::engine) fn retry(&mut self, rules: Rules) {
        self.retry = Some(rules);
    }

    /// Puts the rules to retry before everything else, unless a newer reload waits.
    pub(in crate::engine) fn queue_retry(&mut self) {
        let Some(rules) = self.retry.take().filter(|_| self.newest_rules().is_none()) else { return };
        // The caller has already got the append failure as its answer.
        let (answer, _) = oneshot::channel();
        self.first.push_front(Change::Reload { rules, answer });
    }
}
