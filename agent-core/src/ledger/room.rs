//! Limits of the ledger, and the shares of one principal.

/// The part of `[limits]` that concerns the ledger. Shares are per principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Remembered message ids: three quarters for requests, a quarter for refused endings. One principal has at most a sixteenth of each.
    pub ids: usize,
    /// The most waiting requests: people must be able to read the list.
    pub pending: usize,
    /// The most waiting requests of one principal.
    pub pending_each: usize,
    /// Bytes of payload of one principal's waiting requests.
    pub pending_bytes: usize,
    /// Ended grants and requests for `ListGrants`; the journal keeps all.
    pub history: usize,
    /// Their bytes, as [`crate::request::RequestRecord::weight`] counts.
    pub history_bytes: usize,
    /// Live grants of one principal.
    pub grants_each: usize,
    /// Entries of one principal's live grants in the kernel's map.
    pub entries_each: usize,
}

/// The share of one principal: one part in so many of the remembered ids.
const IDS_SHARE: usize = 16;
/// The share of the kernel's maps that is kept free for root on the host: one part in so many.
const ROOTS_SHARE: usize = 16;

impl Default for Room {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Room {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        ids: 100_000,
        pending: 256,
        pending_each: 8,
        pending_bytes: 64 * 1024,
        history: 10_000,
        history_bytes: 32 << 20,
        grants_each: 1024,
        entries_each: 4096,
    };

    /// The room for requests, and for refused messages that would have ended something.
    pub(super) const fn ids(&self) -> [usize; 2] {
        let closing = self.ids / 4;
        [self.ids - closing, closing]
    }

    pub(super) fn ids_each(&self) -> [usize; 2] {
        self.ids().map(|ids| (ids / IDS_SHARE).max(1))
    }
}

pub(super) const fn without_roots_part(all: usize) -> usize {
    all - all / ROOTS_SHARE
}
