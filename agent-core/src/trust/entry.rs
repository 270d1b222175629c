//! The lines of the trust file, for display. Owns the view of a line. [`Trust::admit`](super::Trust) decides about signatures.

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
    /// The lines in the file's order, without blank lines and comments.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.lines.iter().map(|line| Entry { line, revoked: self.revoked.contains(line.key, None) })
    }
}

impl<'a> Entry<'a> {
    pub(super) const fn of_line(&self) -> &'a Line {
        self.line
    }

    /// The number of the line, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line.number
    }

    /// `SHA256:…` of the key or the authority's key.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.line.key.to_string()
    }

    /// Whether the key signs certificates instead of messages.
    #[must_use]
    pub const fn is_authority(&self) -> bool {
        matches!(self.line.who, Who::CertifiedAs(_))
    }

    /// The holder's names, of which the first counts; for an authority, the patterns of the names that it may give.
    #[must_use]
    pub fn principals(&self) -> Vec<String> {
        match &self.line.who {
            Who::Holder(names) => names.clone(),
            Who::CertifiedAs(list) => list.words().collect(),
        }
    }

    /// Whether the line gives `principal` as the holder's name, or allows its authority to give it.
    #[must_use]
    pub fn names(&self, principal: &str) -> bool {
        self.line.names(principal)
    }

    /// The purposes that the holder may sign for.
    pub fn purposes(&self) -> impl Iterator<Item = Purpose> {
        Purpose::ALL.into_iter().filter(|role| self.line.admits(role.namespace()))
    }

    /// The first valid second; `None`: no limit.
    #[must_use]
    pub fn valid_after(&self) -> Option<Timestamp> {
        Some(self.line.window.first).filter(|first| *first > 0).map(moment)
    }

    /// The last valid second; `None`: no limit.
    #[must_use]
    pub fn valid_before(&self) -> Option<Timestamp> {
        Some(self.line.window.last).filter(|last| *last < u64::MAX).map(moment)
    }

    /// Whether the list of revoked keys contains the key.
    #[must_use]
    pub const fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Checks that `now`, in seconds since the Unix epoch, lies between the dates.
    /// # Errors
    /// Not yet or no longer.
    pub fn check(&self, now: i64) -> Result<(), Refusal> {
        self.line.window.check(Moment::new(now, true))
    }
}

fn moment(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}
