//! Budgets: how much one principal may ask of the host, at once and over time.
//! Owns [`Class`], the buckets and counts of each principal ([`Budgets`]), and which refusals get their own line in the journal. It never
//! reads a clock or decides about access. Only principals with a role have accounts; all others share one
//! (docs/decisions/0048-budgets-per-principal.md).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::key::SynRate;
use crate::rate;
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now};

/// The purpose of a signed message. Each principal has a separate budget for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// `RequestAccess`
    Request,
    /// `ApproveAccess`
    Approve,
    /// `RevokeAccess` by a principal who may end only their own grants.
    GiveBack,
    /// `RevokeAccess` by a principal who may end everybody's grants.
    Revoke,
    /// Any call that reads.
    Read,
    /// A read of the journal from the disk.
    Audit,
    /// A stream that stays open.
    Watch,
}

const CLASSES: usize = 7;
/// Bytes of payload for one token of [`Class::Request`]: an ordinary request has fewer.
pub const BYTES_PER_TOKEN: usize = 4096;
/// Refusals of one principal that the journal records one by one, all at once; further refusals are counted for a summary.
pub const LINES_AT_ONCE: u32 = 10;
/// Nanoseconds until a principal gets a separate line for one more refusal.
const LINE_EVERY: u64 = 30 * SECOND;
/// Nanoseconds between two summaries of one principal.
const SUMMARY_EVERY: u64 = MINUTE;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

impl Class {
    /// The most messages of this class from one principal at the same time. At most 1,024 commands wait for the worker.
    #[must_use]
    pub const fn at_once(self) -> u32 {
        match self {
            Self::Request | Self::Approve | Self::GiveBack | Self::Read => 32,
            Self::Revoke => 64,
            Self::Audit => 1,
            Self::Watch => 8,
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Approve => "approvals",
            Self::GiveBack | Self::Revoke => "messages that end access",
            Self::Read => "reads",
            Self::Audit => "reads of the journal",
            Self::Watch => "open streams",
        }
    }
}

/// `[limits]`: messages of one principal. The whole amount of a minute may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Requests a minute, in tokens of [`BYTES_PER_TOKEN`].
    pub requests_per_minute: u32,
    /// Requests a day, in the same tokens.
    pub requests_per_day: u32,
    /// Approvals a minute.
    pub approvals_per_minute: u32,
    /// Refused give-backs and revocations a minute. A message that ends something costs nothing.
    pub endings_per_minute: u32,
    /// Reads a minute.
    pub reads_per_minute: u32,
}

impl Default for Rates {
    /// One person's tools stay far below these numbers: `postern --wait` and `postern watch` ask less than once a second.
    fn default() -> Self {
        Self {
            requests_per_minute: 30,
            requests_per_day: 2000,
            approvals_per_minute: 60,
            endings_per_minute: 60,
            reads_per_minute: 600,
        }
    }
}

#[derive(Clone, Copy)]
struct Limit {
    count: u32,
    period: u64,
    setting: &'static str,
}

impl Limit {
    const fn rate(self) -> SynRate {
        let count = if self.count == 0 { 1 } else { self.count as u64 };
        let interval_ns = if self.period / count == 0 { 1 } else { self.period / count };
        SynRate { interval_ns, tolerance_ns: interval_ns * (count - 1) }
    }

    /// The bucket after `tokens` more, or the nanoseconds until the bucket takes them.
    fn take(self, full_at: u64, tokens: u32, now: u64) -> Result<u64, u64> {
        let rate = self.rate();
        let more = rate.interval_ns * u64::from(tokens.clamp(1, self.count.max(1)) - 1);
        let ahead = full_at.max(now).saturating_add(more);
        let taken = rate::take(rate, ahead, now);
        taken.ok_or_else(|| ahead.saturating_sub(rate.tolerance_ns).saturating_sub(now).max(1))
    }
}

impl Rates {
    /// The limits of a class; none for a class that has only [`Class::at_once`].
    fn of(&self, class: Class) -> [Option<Limit>; 2] {
        let minute = |count, setting| Some(Limit { count, period: MINUTE, setting });
        let day = Some(Limit { count: self.requests_per_day, period: DAY, setting: "requests_per_day" });
        match class {
            Class::Request => [minute(self.requests_per_minute, "requests_per_minute"), day],
            Class::Approve => [minute(self.approvals_per_minute, "approvals_per_minute"), None],
            Class::GiveBack | Class::Revoke => [minute(self.endings_per_minute, "endings_per_minute"), None],
            Class::Read => [minute(self.reads_per_minute, "reads_per_minute"), None],
            Class::Audit | Class::Watch => [None, None],
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Account {
    /// The moments at which the buckets are full again.
    full_at: [[u64; 2]; CLASSES],
    running: [u32; CLASSES],
    lines_full_at: u64,
    summed: Option<Summed>,
    next_summary: u64,
}

/// Refusals of one principal that the journal gets as a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summed {
    /// The number for each reason.
    pub counts: BTreeMap<String, u64>,
    /// The first refusal, by the wall clock.
    pub first: Timestamp,
    /// The last refusal, by the wall clock.
    pub last: Timestamp,
}

impl Summed {
    fn with(&mut self, other: Self) {
        for (reason, count) in other.counts {
            *self.counts.entry(reason).or_default() += count;
        }
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
    }
}

/// The accounts of all principals with a role, and one for all others together.
#[derive(Clone, Debug)]
pub struct Budgets {
    rates: Rates,
    people: BTreeMap<String, Account>,
    others: Account,
}

impl Budgets {
    /// Starts with full buckets.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self { rates, people: BTreeMap::new(), others: Account::default() }
    }

    /// Sets the names that have accounts. Existing accounts stay; the summary of a removed account goes to the account of the others.
    pub fn track<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let mut old = std::mem::take(&mut self.people);
        // A message may begin in one account and end in another.
        self.others.running = [0; CLASSES];
        for name in names {
            let account = old.remove(name).unwrap_or_default();
            self.people.entry(name.to_owned()).or_insert(account);
        }
        for summed in old.into_values().filter_map(|account| account.summed) {
            add(&mut self.others.summed, summed);
        }
    }

    /// Begins work on one message of `principal` with so many bytes of payload. Each success needs one [`Self::end`].
    /// # Errors
    /// [`Reason::RateLimited`]; then no bucket changes.
    pub fn begin(&mut self, principal: &str, class: Class, bytes: usize, now: BootNanos) -> Result<(), Refusal> {
        let limits = self.rates.of(class);
        let (account, at) = (self.account(principal), class as usize);
        let noun = class.noun();
        let refuse = |detail: String, rule: String| Err(Refusal::new(Reason::RateLimited, detail).at(rule));
        if account.running[at] >= class.at_once() {
            let most = class.at_once();
            return refuse(
                format!(
                    "{principal} has {most} {noun} under way, and the host allows no more at once; end one, or wait until one ends"
                ),
                String::new(),
            );
        }
        let tokens = if class == Class::Request { bytes.div_ceil(BYTES_PER_TOKEN).max(1) } else { 1 };
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let mut full_at = account.full_at[at];
        for (bucket, limit) in full_at.iter_mut().zip(limits) {
            let Some(limit) = limit else { continue };
            match limit.take(*bucket, tokens, now.0) {
                Ok(next) => *bucket = next,
                Err(wait) => {
                    return refuse(too_many(principal, noun, limit, wait), format!("limits.{}", limit.setting));
                }
            }
        }
        account.full_at[at] = full_at;
        account.running[at] += 1;
        Ok(())
    }

    /// Ends the work on a message. If `free`, the message costs nothing.
    pub fn end(&mut self, principal: &str, class: Class, free: bool) {
        let limits = self.rates.of(class);
        let (account, at) = (self.account(principal), class as usize);
        account.running[at] = account.running[at].saturating_sub(1);
        for (bucket, limit) in account.full_at[at].iter_mut().zip(limits).filter(|_| free) {
            *bucket = bucket.saturating_sub(limit.map_or(0, |limit| limit.rate().interval_ns));
        }
    }

    /// Whether a refusal of `principal` gets a separate line; else it is counted for a summary.
    pub fn gets_a_line(&mut self, principal: &str, reason: Reason, now: &Now) -> bool {
        let account = self.account(principal);
        let tolerance_ns = LINE_EVERY * u64::from(LINES_AT_ONCE - 1);
        let taken = rate::take(SynRate { interval_ns: LINE_EVERY, tolerance_ns }, account.lines_full_at, now.boot.0);
        match taken {
            Some(next) => account.lines_full_at = next,
            None => self.count(principal, reason, now),
        }
        taken.is_some()
    }

    /// Counts a refusal for a summary.
    pub fn count(&mut self, principal: &str, reason: Reason, now: &Now) {
        let counts = BTreeMap::from([(reason.code().to_owned(), 1)]);
        add(&mut self.account(principal).summed, Summed { counts, first: now.wall, last: now.wall });
    }

    /// Takes back a summary after the journal failed to record it.
    pub fn put_back(&mut self, principal: &str, summed: Summed) {
        let account = self.account(principal);
        account.next_summary = 0;
        add(&mut account.summed, summed);
    }

    /// The due summaries: one of each principal a minute. The name is empty for principals without a role.
    pub fn take_summaries(&mut self, now: BootNanos, all: bool) -> Vec<(String, Summed)> {
        let mut due = Vec::new();
        let accounts = self.people.iter_mut().map(|(name, account)| (name.as_str(), account));
        for (name, account) in accounts.chain([("", &mut self.others)]) {
            if (all || account.next_summary <= now.0)
                && let Some(summed) = account.summed.take()
            {
                account.next_summary = now.0.saturating_add(SUMMARY_EVERY);
                due.push((name.to_owned(), summed));
            }
        }
        due
    }

    /// Whether anything waits for a summary.
    #[must_use]
    pub fn is_summary_due(&self) -> bool {
        self.people.values().chain([&self.others]).any(|account| account.summed.is_some())
    }

    fn account(&mut self, principal: &str) -> &mut Account {
        self.people.get_mut(principal).unwrap_or(&mut self.others)
    }
}

fn too_many(principal: &str, noun: &str, limit: Limit, wait_ns: u64) -> String {
    let Limit { count, period, setting } = limit;
    let each = if period == DAY { "day" } else { "minute" };
    let wait = wait_ns.div_ceil(SECOND);
    format!("{principal} may send {count} {noun} a {each} ([limits] {setting}); try again in {wait} s")
}

fn add(to: &mut Option<Summed>, summed: Summed) {
    match to {
        Some(known) => known.with(summed),
        None => *to = Some(summed),
    }
}

#[cfg(test)]
mod tests;
