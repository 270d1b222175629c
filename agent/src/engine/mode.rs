//! Changes of the mode that root asks for. This module owns the order of a confirmation: the configuration file first, then the worker.

use postern_core::condition::Condition;
use postern_core::mode::Mode;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::Seconds;
use uuid::Uuid;

use super::command::{Change, Query};
use super::{DeniedView, Engine, ModeView};
use crate::config::Config;
use crate::system::files::Contents;

impl Engine {
    /// Begins a trial: the host enforces for `within`, and longer if the trial is confirmed. `only_while_running` allows a trial even if
    /// nothing keeps the ports closed after the death of posternd.
    ///
    /// # Errors
    /// [`Reason::AlreadyEnforcing`], [`Reason::DurationTooShort`], [`Reason::DurationTooLong`], [`Reason::NothingOutlives`],
    /// [`Reason::JournalFailed`], [`Reason::KernelFailed`]. Then the host observes as before.
    pub async fn enable(&self, within: Seconds, only_while_running: bool) -> Result<ModeView, Refusal> {
        self.ask(|answer| Change::Enable { within, only_while_running, answer }).await?
    }

    /// Confirms a trial. Returns the signed grant under which somebody came in.
    ///
    /// # Errors
    /// [`Reason::NoTrial`], [`Reason::ModeNotInFile`], [`Reason::WayInUnproven`] unless `without_proof`,
    /// [`Reason::JournalFailed`], [`Reason::KernelFailed`]. Then the trial goes on, or is over.
    pub async fn confirm(&self, without_proof: bool) -> Result<(ModeView, Option<Uuid>), Refusal> {
        self.check_file().await?;
        let confirmed = self.ask(|answer| Change::Confirm { without_proof, answer }).await?;
        if confirmed.is_ok() {
            // Perhaps no reload ever reads this file, and the older copy has the mode `observe`.
            self.keep_copies().await;
        }
        confirmed
    }

    /// Brings the last good copies of root's files up to date. The helper does that, else posternd as root.
    pub async fn keep_copies(&self) {
        let files = self.0.files.clone();
        let outcome = tokio::task::spawn_blocking(move || files.update_copies())
            .await
            .unwrap_or_else(|error| Err(error.to_string()));
        self.degraded(Condition::CopiesNotKept, outcome.err()).await;
    }

    /// Ends a trial early.
    ///
    /// # Errors
    /// [`Reason::NoTrial`], [`Reason::JournalFailed`], [`Reason::KernelFailed`].
    pub async fn roll_back(&self) -> Result<ModeView, Refusal> {
        self.ask(|answer| Change::RollBack { answer }).await?
    }

    /// The packets that enforcement would have dropped.
    pub(super) async fn observed(&self) -> Result<Vec<DeniedView>, Refusal> {
        self.ask(|answer| Query::Observed { answer }).await
    }

    /// Checks that the configuration file has `mode = "enforce"`. Otherwise the next start would undo the confirmation.
    async fn check_file(&self) -> Result<(), Refusal> {
        let (path, opener) = (self.0.config_file.clone(), self.0.files.opener.clone());
        let busy = |_| Refusal::new(Reason::Overloaded, "try again in a moment");
        let read = move || Config::of(&path, &Contents::of(opener.open(&path)));
        let read = tokio::task::spawn_blocking(read).await.map_err(busy)?;
        let refuse = |why: String| Err(Refusal::new(Reason::ModeNotInFile, why).at("mode"));
        match read.map(|config| config.policy().mode) {
            Ok(Mode::Enforce) => Ok(()),
            Ok(Mode::Observe) => refuse(format!("{} says mode = \"observe\"", self.0.config_file.display())),
            Err(error) => refuse(error.to_string()),
        }
    }
}
