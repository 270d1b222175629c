//! Who reads, and whether they still may.
//!
//! Owns the question what a reader may see under the rules of this moment. It is asked when an answer is given, not when the message
//! was verified. It never looks for what is read.

use std::sync::Arc;

use jiff::Timestamp;
use postern_core::envelope::{Basis, Signer};
use postern_core::grant::Header;
use postern_core::message::MAX_MESSAGE_LIFE;
use postern_core::policy::{Policy, Role};
use postern_core::refusal::{self, Reason, Refusal};
use postern_core::time::{BootNanos, Now};

use super::shared::Shared;
use super::{Engine, Rules};

const SECOND: i128 = 1_000_000_000;

/// Who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Root on the Unix socket: sees everything.
    Root,
    /// Somebody who signed a read message.
    Person(Arc<Person>),
}

/// Somebody who signed a read message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// As the trust file names them, and their key.
    pub signer: Signer,
    /// By which their signature is judged again.
    basis: Basis,
    /// The end that the message names, on the wall clock.
    not_after: Timestamp,
    /// Its end on the boot clock, which no step of the wall clock moves.
    until: BootNanos,
    /// The digest of the message that they showed.
    pub(super) message: [u8; 32],
    rights: Rights,
}

/// What the policy lets a reader see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Everybody's grants; others see their own.
    pub sees_all: bool,
    /// The journal too.
    pub audits: bool,
    /// Whether they are an admin.
    pub is_admin: bool,
}

impl Person {
    /// Who signed `header`, without any right yet ([`Shared::reread`]).
    pub(super) fn new(signer: &Signer, basis: &Basis, header: &Header, message: [u8; 32], now: &Now) -> Self {
        let most = i128::from(MAX_MESSAGE_LIFE.0) * SECOND;
        // A clock that is wrong does not tell how much is left.
        let left = match header.not_after.as_nanosecond() - now.wall.as_nanosecond() {
            left if now.wall_trusted() => left.clamp(0, most),
            _ => most,
        };
        let until = now.boot.plus_nanos(u64::try_from(left).unwrap_or(0));
        let (signer, basis, not_after) = (signer.clone(), basis.clone(), header.not_after);
        Self { signer, basis, not_after, until, message, rights: Rights::default() }
    }

    /// Whether the message is still good.
    fn check_age(&self, now: &Now) -> Result<(), Refusal> {
        if now.boot < self.until && !(now.wall_trusted() && self.not_after <= now.wall) {
            return Ok(());
        }
        let detail = format!("it was {}; read on with a new message", self.not_after);
        Err(Refusal::new(Reason::MessageExpired, detail).at("not_after"))
    }
}

impl Rights {
    /// # Errors
    /// [`Reason::NotPermitted`] for those without any role.
    fn of(policy: &Policy, principal: &str) -> Result<Self, Refusal> {
        let holds = |kinds: &[Role]| kinds.iter().any(|kind| policy.holds(principal, *kind));
        let sees_all = holds(&[Role::Viewer, Role::Approver, Role::Admin]);
        if !sees_all && !holds(&[Role::Requester]) {
            return Err(Refusal::new(Reason::NotPermitted, format!("{principal} has no role")).at("role"));
        }
        // To watch what everybody does is what a viewer is for.
        let audits = holds(&[Role::Viewer, Role::Admin]);
        Ok(Self { sees_all, audits, is_admin: holds(&[Role::Admin]) })
    }

    /// What both let see.
    const fn and(self, other: Self) -> Self {
        Self {
            sees_all: self.sees_all && other.sees_all,
            audits: self.audits && other.audits,
            is_admin: self.is_admin && other.is_admin,
        }
    }
}

impl Reader {
    fn has(&self, right: impl Fn(&Rights) -> bool) -> bool {
        match self {
            Self::Root => true,
            Self::Person(person) => right(&person.rights),
        }
    }

    /// Whether this reader may read the journal.
    #[must_use]
    pub fn may_audit(&self) -> bool {
        self.has(|rights| rights.audits)
    }

    /// Whether this reader is root or an admin.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.has(|rights| rights.is_admin)
    }

    /// Whether this reader may see what everybody did.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.has(|rights| rights.sees_all)
    }

    /// Whether this reader may see what belongs to `principal`.
    #[must_use]
    pub fn may_see(&self, owner: &str) -> bool {
        match self {
            Self::Root => true,
            Self::Person(person) => person.rights.sees_all || person.signer.principal == owner,
        }
    }

    /// A reader for tests: nobody's message, and these rights.
    #[cfg(test)]
    pub(crate) fn with(principal: &str, rights: Rights) -> Self {
        let signer = Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None };
        let (basis, not_after) = (Basis::default(), Timestamp::MAX);
        let until = BootNanos(u64::MAX);
        Self::Person(Person { signer, basis, not_after, until, message: [0; 32], rights }.into())
    }
}

impl Shared {
    /// The same reader with the rights of this moment, as far as also the rules allow that come next, where a record of those waits
    /// for the disk.
    ///
    /// # Errors
    /// What a new message of this reader would be refused for, and [`Reason::MessageExpired`] when this one has had its time.
    pub(super) fn reread(&self, reader: &Reader) -> Result<Reader, Refusal> {
        let Reader::Person(person) = reader else { return Ok(Reader::Root) };
        let now = self.now();
        let judge = |rules: &Rules| {
            rules.check(&person.basis, &now)?;
            Rights::of(&rules.policy, &person.signer.principal)
        };
        let rights = judge(&self.rules())?;
        let rights = match self.coming() {
            Some(coming) => rights.and(judge(&coming)?),
            None => rights,
        };
        person.check_age(&now)?;
        if rights == person.rights {
            return Ok(reader.clone());
        }
        Ok(Reader::Person(Person { rights, ..Person::clone(person) }.into()))
    }
}

impl Engine {
    /// The same reader with the rights of this moment, for those who watch.
    ///
    /// # Errors
    /// What a new message of this reader would be refused for, and [`Reason::MessageExpired`] when this one has had its time. Neither is
    /// recorded.
    pub fn look_again(&self, reader: &Reader) -> Result<Reader, Refusal> {
        self.0.reread(reader)
    }

    /// The same reader with the rights of this moment: who waited for an answer may have lost some.
    ///
    /// # Errors
    /// As [`Engine::look_again`]; recorded or counted.
    pub async fn reread(&self, reader: &Reader) -> Result<Reader, Refusal> {
        match self.0.reread(reader) {
            Ok(reader) => Ok(reader),
            Err(refusal) => Err(self.lost(reader, refusal).await),
        }
    }

    /// The rules in force, or newer ones that wait for their record.
    #[must_use]
    pub fn newest_rules(&self) -> Rules {
        self.0.coming().unwrap_or_else(|| self.0.rules())
    }

    /// Counts why a watcher may watch no longer.
    pub fn count_watcher(&self, reason: Reason) {
        if reason.attribution() == refusal::Attribution::Unverified {
            self.count_unverified(reason);
        }
    }

    /// Counts or records a refusal that came to a reader after the message had been accepted.
    pub(super) async fn lost(&self, reader: &Reader, refusal: Refusal) -> Refusal {
        match refusal.reason {
            Reason::NotPermitted => self.not_permitted(reader, &refusal.detail).await,
            reason if reason.attribution() == refusal::Attribution::Unverified => {
                self.count_unverified(reason);
                refusal
            }
            _ => refusal,
        }
    }
}
