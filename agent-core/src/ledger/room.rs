//! How much the ledger holds, and how much of that one principal may have.

/// `[limits]`, as far as the ledger goes by it. Shares are per principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Message ids that are remembered at once. Three quarters are for messages that ask, one quarter for refused messages that would
    /// have ended something. One principal has at most a sixteenth of either part.
    pub ids: usize,
    /// Requests that may wait for approval at once: a page that people read, not a queue.
    pub pending: usize,
    /// Those of one principal.
    pub pending_each: usize,
    /// Bytes of payload of one principal's waiting requests.
    pub pending_bytes: usize,
    /// Ended grants and requests that are kept for `ListGrants`; the journal keeps all.
    pub history: usize,
    /// Bytes that they take, as [`crate::request::RequestRecord::weight`] counts.
    pub history_bytes: usize,
    /// Live grants of one principal.
    pub grants_each: usize,
    /// Entries of the kernel's table that one principal's live grants take.
    pub entries_each: usize,
}

/// One principal has at most one part in so many of the remembered ids.
const IDS_SHARE: usize = 16;
/// So much of the kernel's table is kept free for root on the host: one part in so many.
const ROOTS_SHARE: usize = 16;

impl Default for Room {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Room {
    /// What holds where the configuration says nothing.
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

    /// Ids of messages that ask, and of refused messages that would have ended something.
    pub(super) const fn ids(&self) -> [usize; 2] {
        let closing = self.ids / 4;
        [self.ids - closing, closing]
    }

    /// Those of one principal.
    pub(super) fn ids_each(&self) -> [usize; 2] {
        self.ids().map(|ids| (ids / IDS_SHARE).max(1))
    }
}

/// What is left of `all` for everybody but root.
pub(super) const fn without_roots_part(all: usize) -> usize {
    all - all / ROOTS_SHARE
}
