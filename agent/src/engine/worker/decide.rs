//! What the worker decides about each command that changes something.
//!
//! Owns the order of a request's last checks: freshness → replay → policy → capacity. It never touches disk or kernel.

use postern_core::envelope::{Role, Signer};
use postern_core::grant::{AccessRequest, EndCause, Ending, Grant, RevokeRequest};
use postern_core::ledger::{Action, Event, Seen};
use postern_core::message::{self, Showing};
use postern_core::policy::{Asking, RoleKind};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::Now;
use uuid::Uuid;

use super::{Batch, TALLY_EVERY, Waiting, Worker, nanos};
use crate::engine::{Answer, Command, GrantView, Rules};
use crate::links;

impl Command {
    /// Whether it may change the ledger or the kernel; the others only read.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Request { .. }
            | Self::Revoke { .. }
            | Self::Refuse { .. }
            | Self::Network(_)
            | Self::Degraded { .. }
            | Self::Reload { .. }
            | Self::Heal
            | Self::Counted
            | Self::Stop { .. } => true,
            Self::Get { .. } | Self::List { .. } | Self::Explain { .. } | Self::Status { .. } => false,
        }
    }
}

impl Worker {
    pub(super) fn decide(&mut self, command: Command, batch: &mut Batch, now: &Now) {
        match command {
            Command::Request { signers, request, answer } => {
                let Some(signer) = signers.first().cloned() else { return };
                let decided = self.request(&signers, &request, batch, now);
                let seen = Seen::from(&request.header);
                let asked = Refused { signer, action: Action::Request, request: Some(&request) };
                self.answer_later(decided, asked, seen, answer, batch, now);
            }
            Command::Revoke { signer, request, answer } => {
                let decided = self.revoke(&signer, &request, batch, now);
                let seen = Seen::from(&request.header);
                let asked = Refused { signer, action: Action::Revoke, request: None };
                self.answer_later(decided, asked, seen, answer, batch, now);
            }
            Command::Refuse { signer, action, refusal, answer } => {
                self.refuse(batch, Refused { signer, action, request: None }, &refusal, None, now);
                batch.waiting.push(Waiting::Recorded(refusal, answer));
            }
            Command::Network(state) => self.network(&state),
            Command::Degraded { part, why } => match why {
                Some(why) => drop(self.degraded.insert(part, why)),
                None => drop(self.degraded.remove(part)),
            },
            Command::Reload { rules, answer } => {
                let ended = self.reload(&rules, batch, now);
                batch.waiting.push(Waiting::Reloaded(rules, ended, answer));
            }
            Command::Heal => self.heal(),
            Command::Counted => self.tally_due = Some(now.boot.plus_nanos(nanos(TALLY_EVERY))),
            Command::Stop { answer } => {
                self.write_tally(batch, now);
                let live: Vec<_> = self.ledger.live().map(|grant| grant.id).collect();
                let usage =
                    live.into_iter().filter_map(|id| Some((id, self.usage(self.ledger.get(&id)?, now)))).collect();
                self.push(batch, None, Event::Stopped { usage }, now);
                batch.waiting.push(Waiting::Stopped(answer));
            }
            Command::Get { .. } | Command::List { .. } | Command::Explain { .. } | Command::Status { .. } => {}
        }
    }

    /// Has the caller wait for the batch; a refusal is recorded with it.
    fn answer_later(
        &mut self,
        decided: Result<Uuid, Refusal>,
        asked: Refused<'_>,
        seen: Seen,
        answer: Answer<GrantView>,
        batch: &mut Batch,
        now: &Now,
    ) {
        let waiting = match decided {
            Ok(grant) => Waiting::Grant(grant, answer),
            Err(refusal) => {
                self.refuse(batch, asked, &refusal, burns(&refusal).then_some(seen), now);
                Waiting::Refused(refusal, answer)
            }
        };
        batch.waiting.push(waiting);
    }

    fn request(
        &mut self,
        signers: &[Signer],
        request: &AccessRequest,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let Rules { policy, .. } = self.shared().rules();
        self.check_message(&request.header, now)?;
        let nobody = || Refusal::new(Reason::Unsigned, "nobody signed");
        let (requester, approvers) = signers.split_first().ok_or_else(nobody)?;
        let asking = Asking { principal: &requester.principal, approvers };
        let judgement = policy.judge(asking, request, &self.ledger, now)?;
        let grant = self.ledger.admit(signers, request, judgement, self.capacity, now)?;
        self.enforcer.reset_usage(grant.slot).map_err(|e| Refusal::new(Reason::KernelFailed, e))?;
        let event = Event::Granted { grant };
        self.push(batch, Some(Seen::from(&request.header)), event, now);
        Ok(request.header.id)
    }

    fn check_message(&self, header: &postern_core::grant::Header, now: &Now) -> Result<(), Refusal> {
        let shared = self.shared();
        message::check(header, &shared.identity, &shared.challenger, Showing::Once, now)?;
        self.ledger.check_unseen(header.id, now)
    }

    fn revoke(
        &mut self,
        signer: &Signer,
        request: &RevokeRequest,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let Rules { policy, .. } = self.shared().rules();
        self.check_message(&request.header, now)?;
        let not_found = || Refusal::new(Reason::GrantNotFound, request.grant_id).at("grant_id");
        let held = self.ledger.get(&request.grant_id).ok_or_else(not_found)?;
        let own =
            held.grant.signer.principal == signer.principal && policy.holds(&signer.principal, RoleKind::Requester);
        let over_all = [RoleKind::Approver, RoleKind::Admin].iter().any(|kind| policy.holds(&signer.principal, *kind));
        if !own && !over_all {
            return Err(not_found());
        }
        if let Some(ending) = &held.ending {
            let detail = format!("at {}, because {}", ending.at, ending.cause.sentence());
            return Err(Refusal::new(Reason::GrantEnded, detail).at("grant_id"));
        }
        let (by, reason) = (signer.principal.clone(), request.reason.clone());
        let ending = Ending { at: now.wall, cause: EndCause::Revoked, by, reason };
        self.end(batch, request.grant_id, ending, Some(Seen::from(&request.header)), now);
        Ok(request.grant_id)
    }

    fn refuse(&mut self, batch: &mut Batch, asked: Refused<'_>, refusal: &Refusal, seen: Option<Seen>, now: &Now) {
        let (reason, rule) = (refusal.reason.code().to_owned(), refusal.rule.clone());
        let Refused { signer, action, request } = asked;
        let (ports, sources) = request.map(|r| (r.ports.clone(), r.sources.clone())).unwrap_or_default();
        let event = Event::Refused { signer, action, reason, sentence: refusal.sentence(), rule, ports, sources };
        self.push(batch, seen, event, now);
    }

    /// Ends the grants that new rules no longer allow; says how many.
    fn reload(&mut self, rules: &Rules, batch: &mut Batch, now: &Now) -> usize {
        let trusts = |signer: &Signer, role| rules.trust.trusts(signer, role, now.wall.as_second(), now.wall_trusted);
        let trusted = |grant: &Grant| {
            trusts(&grant.signer, Role::Request) && grant.approvers.iter().all(|signer| trusts(signer, Role::Approve))
        };
        let cause = |grant: &Grant| match () {
            () if !trusted(grant) => Some(EndCause::SignerUntrusted),
            () if !rules.policy.still_allows(grant) => Some(EndCause::PolicyChanged),
            () => None,
        };
        let gone: Vec<_> = self.ledger.live().filter_map(|grant| Some((grant.id, cause(grant)?))).collect();
        for &(id, cause) in &gone {
            let ending = Ending { at: now.wall, cause, by: String::new(), reason: String::new() };
            self.end(batch, id, ending, None, now);
        }
        gone.len()
    }

    /// Brings back the layers that somebody took away. Each layer is whole by itself, so nothing was open meanwhile.
    fn heal(&mut self) {
        match self.enforcer.heal() {
            Ok(lost) => {
                for layer in &lost {
                    tracing::error!(
                        layer = layer.hook.code(),
                        state = layer.state.code(),
                        "a layer was lost and brought back"
                    );
                }
                self.degraded.remove("layers");
            }
            Err(error) => {
                self.degraded.insert("layers", error.to_string());
            }
        }
    }

    /// Follows the host's addresses and interfaces.
    fn network(&mut self, state: &links::LinkState) {
        if let Err(error) = self.enforcer.set_local(&state.addresses) {
            self.degraded.insert("addresses", format!("the kernel's list of own addresses is behind: {error}"));
        } else {
            self.degraded.remove("addresses");
        }
        let targets = links::shed_targets(&self.shed, state);
        let gone: Vec<_> = self.sheds.keys().copied().filter(|index| targets.iter().all(|t| t.0 != *index)).collect();
        for index in gone {
            self.enforcer.detach_shed(index);
            self.sheds.remove(&index);
        }
        for (index, name) in targets {
            if self.sheds.get(&index).is_none_or(|known| known.name != name) {
                let status = self.enforcer.attach_shed(index, &name);
                tracing::info!(%name, mode = status.mode.code(), reason = %status.reason, "shed");
                self.sheds.insert(index, status);
            }
        }
    }
}

/// Who was refused what, for the record.
struct Refused<'a> {
    signer: Signer,
    action: Action,
    /// Where somebody asked for access.
    request: Option<&'a AccessRequest>,
}

/// Whether the id of a refused message is remembered. One that is no longer fresh, or already known, need not be; one that the
/// memory is too full for cannot be.
fn burns(refusal: &Refusal) -> bool {
    !matches!(
        refusal.reason,
        Reason::MessageExpired | Reason::MessageTooLongLived | Reason::Replayed | Reason::ReplayMemoryFull
    )
}
