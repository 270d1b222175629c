//! The judgement of the rules in force about a signature, and about an existing request or grant. Only a reload changes the rules.

use postern_core::envelope::{Basis, Purpose, Signer};
use postern_core::grant::Grant;
use postern_core::refusal::Refusal;
use postern_core::request::{EndCause, Request, RequestRecord};
use postern_core::time::Now;

use super::Rules;

impl Rules {
    /// Checks that these rules still attribute every signature of a message to the same person.
    pub(super) fn check(&self, basis: &Basis, now: &Now) -> Result<(), Refusal> {
        basis.check(&self.trust, now.wall.as_second(), now.clock.knows_windows())
    }

    /// Whether an earlier signature still counts.
    pub(super) fn trusts(&self, signer: &Signer, purpose: Purpose, now: &Now) -> bool {
        self.trust.trusts(signer, purpose, now.wall.as_second(), now.clock.knows_windows())
    }

    /// Why these rules no longer allow this request or grant; `None` if they do.
    pub(super) fn forbid(&self, held: &RequestRecord, now: &Now) -> Option<EndCause> {
        let (signer, allowed, unsigned) = match &held.request {
            // The last approval of a pending request checks the earlier ones again.
            Request::Pending(pending) => (&pending.signer, self.policy.still_lets_ask(pending), false),
            Request::Granted(grant) => (&grant.signer, self.policy.still_allows(grant), grant.is_unsigned()),
        };
        let approved = |grant: &Grant| grant.approvers.iter().all(|signer| self.trusts(signer, Purpose::Approve, now));
        let trusted = unsigned || (self.trusts(signer, Purpose::Request, now) && held.grant().is_none_or(approved));
        match (trusted, allowed) {
            (false, _) => Some(EndCause::SignerUntrusted),
            (true, false) => Some(EndCause::PolicyChanged),
            (true, true) => None,
        }
    }
}
