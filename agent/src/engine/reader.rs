//! Readers and their rights under the current rules. The engine checks the rights when it answers, not only when it verifies a message.

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

/// A reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Root on the Unix socket: sees everything.
    Root,
    /// The signer of a read message.
    Person(Arc<Person>),
}

/// The signer of a read message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Their name in the trust file, and their key.
    pub signer: Signer,
    /// The facts of the signature that the rules judge again.
    basis: Basis,
    /// The end that the message names, on the wall clock.
    not_after: Timestamp,
    /// That end on the boot clock, which no step of the wall clock moves.
    until: BootNanos,
    pub(super) message: [u8; 32],
    rights: Rights,
}

/// The rights of a reader under a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// May see the grants of all people, not only their own.
    pub sees_all: bool,
    /// May read the journal.
    pub audits: bool,
    /// Is an admin.
    pub is_admin: bool,
}

impl Person {
    /// The signer of `header`, without rights until [`Shared::reread`] gives them.
    pub(super) fn new(signer: &Signer, basis: &Basis, header: &Header, message: [u8; 32], now: &Now) -> Self {
        let most = i128::from(MAX_MESSAGE_LIFE.0) * SECOND;
        // A wrong wall clock does not show how much of the time is left.
        let left = match header.not_after.as_nanosecond() - now.wall.as_nanosecond() {
            left if now.wall_trusted() => left.clamp(0, most),
            _ => most,
        };
        let until = now.boot.plus_nanos(u64::try_from(left).unwrap_or(0));
        let (signer, basis, not_after) = (signer.clone(), basis.clone(), header.not_after);
        Self { signer, basis, not_after, until, message, rights: Rights::default() }
    }

    fn check_age(&self, now: &Now) -> Result<(), Refusal> {
        if now.boot < self.until && !(now.wall_trusted() && self.not_after <= now.wall) {
            return Ok(());
        }
        let detail = format!("the message was valid until {}; sign a new one", self.not_after);
        Err(Refusal::new(Reason::MessageExpired, detail).at("not_after"))
    }
}

impl Rights {
    /// Fails with [`Reason::NotPermitted`] for people without any role.
    fn of(policy: &Policy, principal: &str) -> Result<Self, Refusal> {
        let holds = |kinds: &[Role]| kinds.iter().any(|kind| policy.holds(principal, *kind));
        let sees_all = holds(&[Role::Viewer, Role::Approver, Role::Admin]);
        if !sees_all && !holds(&[Role::Requester]) {
            return Err(Refusal::new(Reason::NotPermitted, format!("{principal} has no role")).at("role"));
        }
        let audits = holds(&[Role::Viewer, Role::Admin]);
        Ok(Self { sees_all, audits, is_admin: holds(&[Role::Admin]) })
    }

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

    #[cfg(test)]
    pub(crate) fn with(principal: &str, rights: Rights) -> Self {
        let signer = Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None };
        let (basis, not_after) = (Basis::default(), Timestamp::MAX);
        let until = BootNanos(u64::MAX);
        Self::Person(Person { signer, basis, not_after, until, message: [0; 32], rights }.into())
    }
}

impl Shared {
    /// The same reader with the current rights. While newer rules wait for their record, both must grant a right. Fails for every reason to
    /// refuse a new message of this reader, and with [`Reason::MessageExpired`] once this message is over.
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
    /// As [`Engine::reread`], for a stream. A refusal is neither recorded nor counted.
    ///
    /// # Errors
    /// As [`Engine::reread`].
    pub fn look_again(&self, reader: &Reader) -> Result<Reader, Refusal> {
        self.0.reread(reader)
    }

    /// The same reader with the rights of this moment, because a reader may lose rights while waiting. A refusal is recorded or counted.
    ///
    /// # Errors
    /// The reasons to refuse a new message of this reader, and [`Reason::MessageExpired`] once this one is over.
    pub async fn reread(&self, reader: &Reader) -> Result<Reader, Refusal> {
        match self.0.reread(reader) {
            Ok(reader) => Ok(reader),
            Err(refusal) => Err(self.lost(reader, refusal).await),
        }
    }

    /// The rules in force, or newer rules that wait for their record.
    #[must_use]
    pub fn newest_rules(&self) -> Rules {
        self.0.coming().unwrap_or_else(|| self.0.rules())
    }

    /// Counts the reason why a stream ends.
    pub fn count_watcher(&self, reason: Reason) {
        if reason.attribution() == refusal::Attribution::Unverified {
            self.count_unverified(reason);
        }
    }

    /// Counts or records the refusal of a reader whose message was accepted before.
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
