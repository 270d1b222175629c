//! What an auditor may read.
//!
//! Owns who may, and how many at once. The journal is read beside the worker, never by it: an audit delays no decision.

use std::sync::Arc;

use postern_core::refusal::{Reason, Refusal};

use super::{Engine, Reader};
use crate::journal::scan::{Filter, Page};

impl Engine {
    /// Lines of the journal, the newest first, and whether its chain holds.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`] for everybody but root and admins, [`Reason::Overloaded`], [`Reason::JournalFailed`].
    pub async fn audit(&self, reader: &Reader, filter: Filter) -> Result<Page, Refusal> {
        if !reader.may_audit() {
            return Err(Refusal::new(Reason::NotPermitted, "only an admin reads the journal").at("role"));
        }
        let busy = || Refusal::new(Reason::Overloaded, "others read the journal; try again in a moment");
        let turn = Arc::clone(&self.0.scans).try_acquire_owned().map_err(|_| busy())?;
        let journal = self.0.journal.clone();
        let work = move || {
            // Held until the scan is over, even when nobody waits for it any more.
            let _turn = turn;
            journal.scan(&filter)
        };
        let page = tokio::task::spawn_blocking(work).await.map_err(|_| busy())?;
        page.map_err(|error| Refusal::new(Reason::JournalFailed, error))
    }
}
