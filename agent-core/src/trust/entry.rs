//! What the trust file says, line by line, to be shown to people.
//!
//! Owns the view of a line. It decides nothing that a signature depends on: [`Trust::admit`](super::Trust) does.

use jiff::Timestamp;

use super::allowed_signers::{Line, Who};
use super::{Moment, Trust};
use crate::refusal::Refusal;
use crate::signer::Purpose;

/// One line of the trust file.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    line: &'a Line,
    revoked: bool,
}

impl Trust {
    /// Its lines, in the file's order, without blank ones and comments.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.lines.iter().map(|line| Entry { line, revoked: self.revoked.contains(line.key, None) })
    }
}

impl<'a> Entry<'a> {
    pub(super) const fn of_line(&self) -> &'a Line {
        self.line
    }

    /// Which line it is, counted from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line.number
    }

    /// `SHA256:…` of the key, or of the authority's.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.line.key.to_string()
    }

    /// Whether the key signs certificates instead of messages.
    #[must_use]
    pub const fn is_authority(&self) -> bool {
        matches!(self.line.who, Who::CertifiedAs(_))
    }

    /// The holder's names, of which the first counts; of an authority, the patterns of those that it may give.
    #[must_use]
    pub fn principals(&self) -> Vec<String> {
        match &self.line.who {
            Who::Holder(names) => names.clone(),
            Who::CertifiedAs(list) => list.words().collect(),
        }
    }

    /// Whether it gives `principal` as its holder's name, or lets its authority give it.
    #[must_use]
    pub fn names(&self, principal: &str) -> bool {
        self.line.names(principal)
    }

    /// What its holder may sign.
    pub fn purposes(&self) -> impl Iterator<Item = Purpose> {
        Purpose::ALL.into_iter().filter(|role| self.line.admits(role.namespace()))
    }

    /// From when on; `None`: since ever.
    #[must_use]
    pub fn valid_after(&self) -> Option<Timestamp> {
        Some(self.line.window.first).filter(|first| *first > 0).map(moment)
    }

    /// Until when, that second included; `None`: for ever.
    #[must_use]
    pub fn valid_before(&self) -> Option<Timestamp> {
        Some(self.line.window.last).filter(|last| *last < u64::MAX).map(moment)
    }

    /// Whether its key is in the list of revoked ones.
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Whether `now`, in seconds since the Unix epoch, lies between its dates.
    ///
    /// # Errors
    /// Not yet or no longer.
    pub fn check(&self, now: i64) -> Result<(), Refusal> {
        self.line.window.check(Moment::new(now, true))
    }
}

fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}
