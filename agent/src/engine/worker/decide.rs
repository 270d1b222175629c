//! What the worker decides about each command that changes something.
//!
//! Owns the dispatch, who waits for what, and what a reload ends. What people ask for is decided in `people`.

use postern_core::envelope::{Purpose, Signer};
use postern_core::grant::AccessRequest;
use postern_core::ledger::{Action, Event, Seen};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{EndCause, Ending, Request, RequestRecord};
use postern_core::time::Now;
use uuid::Uuid;

use super::{Batch, Waiting, Worker, retained};
use crate::engine::news::News;
use crate::engine::{Answer, Command, GrantView, Reader, Rules};
use crate::system::links::LinkState;

impl Command {
    /// Whether it may change the ledger or the kernel; the others only read.
    pub(super) fn changes(&self) -> bool {
        match self {
            Self::Request { .. }
            | Self::Approve { .. }
            | Self::Revoke { .. }
            | Self::BreakGlass { .. }
            | Self::Enable { .. }
            | Self::Confirm { .. }
            | Self::RollBack { .. }
            | Self::Refuse { .. }
            | Self::Network(_)
            | Self::LimitSyns(..)
            | Self::Degraded { .. }
            | Self::Reload { .. }
            | Self::Counted
            | Self::Clock
            | Self::Stop { .. } => true,
            Self::Get { .. }
            | Self::List { .. }
            | Self::Explain { .. }
            | Self::Status { .. }
            | Self::Observed { .. } => false,
        }
    }
}

impl Command {
    /// Whether it waits behind nobody's requests: what closes, and what root on the host asks for.
    pub(in crate::engine) fn goes_first(&self) -> bool {
        match self {
            Self::Revoke { .. }
            | Self::Reload { .. }
            | Self::BreakGlass { .. }
            | Self::Enable { .. }
            | Self::Confirm { .. }
            | Self::RollBack { .. } => true,
            Self::Get { reader, .. }
            | Self::List { reader, .. }
            | Self::Explain { reader, .. }
            | Self::Status { reader, .. } => *reader == Reader::Root,
            _ => false,
        }
    }
}

impl Command {
    /// Answers with `refusal` where anybody waits for an answer.
    pub(super) fn refuse(self, refusal: &Refusal) {
        match self {
            Self::Request { answer, .. }
            | Self::Approve { answer, .. }
            | Self::Revoke { answer, .. }
            | Self::BreakGlass { answer, .. } => drop(answer.send(Err(refusal.clone()))),
            Self::Refuse { answer, .. } => drop(answer.send(refusal.clone())),
            Self::Reload { answer, .. } => drop(answer.send(Err(refusal.clone()))),
            Self::Enable { answer, .. } | Self::RollBack { answer } => drop(answer.send(Err(refusal.clone()))),
            Self::Confirm { answer, .. } => drop(answer.send(Err(refusal.clone()))),
            Self::Stop { answer } => drop(answer.send(())),
            // Whoever waits for these is told that the agent is busy.
            _ => {}
        }
    }
}

impl Worker {
    pub(super) fn decide(&mut self, command: Command, batch: &mut Batch, now: &Now) {
        match command {
            Command::Request { signers, basis, request, payload, answer } => {
                let Some(signer) = signers.first().cloned() else { return };
                let counts = self.next_rules().check(&basis, now);
                let decided = counts.and_then(|()| self.request(&signers, &request, payload, batch, now));
                let seen = Some(Seen::from(&request.header));
                let asked = Refused { signer, action: Action::Request, request: Some(request) };
                self.answer_later(decided, asked, seen, answer, batch, now);
            }
            Command::Approve { signer, basis, id, payload, answer } => {
                let counts = self.next_rules().check(&basis, now);
                let decided = counts.and_then(|()| self.approve(&signer, id, &payload, batch, now));
                let request = self.ledger.get(&id).and_then(|held| Some(held.request.pending()?.request.clone()));
                let asked = Refused { signer, action: Action::Approve, request };
                self.answer_later(decided, asked, None, answer, batch, now);
            }
            Command::Revoke { signer, basis, request, answer } => {
                let counts = self.next_rules().check(&basis, now);
                let decided = counts.and_then(|()| self.revoke(&signer, &request, batch, now));
                let seen = Some(Seen::from(&request.header));
                let asked = Refused { signer, action: Action::Revoke, request: None };
                self.answer_later(decided, asked, seen, answer, batch, now);
            }
            Command::BreakGlass { wish, answer } => match self.break_glass(wish, batch, now) {
                Ok(id) => batch.waiting.push(Waiting::Grant(id, answer)),
                Err(refusal) => batch.waiting.push(Waiting::Refused(refusal, answer)),
            },
            Command::Enable { within, only_while_running, answer } => {
                let decided = self.enable(within, only_while_running, batch, now).map(|()| None);
                batch
                    .waiting
                    .push(Waiting::Mode(decided, Box::new(|mode| drop(answer.send(mode.map(|(mode, _)| mode))))));
            }
            Command::Confirm { without_proof, answer } => {
                let decided = self.confirm(without_proof, batch, now);
                batch.waiting.push(Waiting::Mode(decided, Box::new(|mode| drop(answer.send(mode)))));
            }
            Command::RollBack { answer } => {
                let decided = self.roll_back(batch, now).map(|()| None);
                batch
                    .waiting
                    .push(Waiting::Mode(decided, Box::new(|mode| drop(answer.send(mode.map(|(mode, _)| mode))))));
            }
            Command::Refuse { signer, action, refusal, answer } => {
                self.refuse(batch, Refused { signer, action, request: None }, &refusal, None, now);
                batch.waiting.push(Waiting::Recorded(refusal, answer));
            }
            Command::Reload { rules, answer } => {
                // These are newer than what still waits for a disk.
                self.unrecorded_rules = None;
                let ended = self.reload(&rules, batch, now);
                self.load_policy(&rules, batch, now);
                batch.waiting.push(Waiting::Reloaded(rules, ended, answer));
            }
            Command::Stop { answer } => {
                self.write_tally(true, batch, now);
                let live: Vec<_> = self.ledger.active().map(|grant| grant.id).collect();
                let usage =
                    live.into_iter().filter_map(|id| Some((id, self.usage(self.ledger.get(&id)?, now)))).collect();
                self.push(batch, None, Event::Stopped { usage }, now);
                batch.waiting.push(Waiting::Stopped(answer));
            }
            Command::Network(_)
            | Command::Clock
            | Command::LimitSyns(..)
            | Command::Degraded { .. }
            | Command::Counted
            | Command::Get { .. }
            | Command::List { .. }
            | Command::Explain { .. }
            | Command::Status { .. }
            | Command::Observed { .. } => {}
        }
    }

    /// Does what needs no record.
    pub(super) fn note(&mut self, command: Command, now: &Now) {
        match command {
            Command::Network(News::Links(state)) => self.network(state),
            Command::Network(News::Prefilter(xdp)) => self.want_prefilter(xdp),
            Command::LimitSyns(addresses, rate) => self.limit_syns(addresses, rate),
            Command::Degraded { part, why } => match why {
                Some(why) => drop(self.degraded.insert(part, why)),
                None => drop(self.degraded.remove(&part)),
            },
            // The turn has looked already.
            Command::Clock => {}
            Command::Counted => self.sum_up_later(now),
            _ => {}
        }
    }

    /// Has the caller wait for the batch; a refusal is recorded with it.
    fn answer_later(
        &mut self,
        decided: Result<Uuid, Refusal>,
        asked: Refused,
        seen: Option<Seen>,
        answer: Answer<GrantView>,
        batch: &mut Batch,
        now: &Now,
    ) {
        let waiting = match decided {
            Ok(grant) => Waiting::Grant(grant, answer),
            Err(refusal) => {
                let (ledger, who) = (&self.ledger, &asked.signer.principal);
                let marks = marks(&refusal) && ledger.has_room_for_refused(who, asked.action, now);
                self.refuse(batch, asked, &refusal, seen.filter(|_| marks), now);
                Waiting::Refused(refusal, answer)
            }
        };
        batch.waiting.push(waiting);
    }

    /// Writes a refusal down. Where one principal has many, the rest is summed up, and those messages are not remembered: they had no
    /// effect, and shown again they are judged again.
    fn refuse(&mut self, batch: &mut Batch, asked: Refused, refusal: &Refusal, seen: Option<Seen>, now: &Now) {
        let line = self.shared().shares.lock().gets_a_line(&asked.signer.principal, refusal.reason, now);
        if !line {
            return self.sum_up_later(now);
        }
        let (reason, rule) = (refusal.reason.code().to_owned(), refusal.rule.clone());
        let Refused { signer, action, request } = asked;
        let (ports, sources) = request.map(|r| (r.ports.clone(), r.sources.clone())).unwrap_or_default();
        let event = Event::Refused { signer, action, reason, sentence: refusal.sentence(), rule, ports, sources };
        self.push(batch, seen, event, now);
    }

    /// Ends what new rules no longer allow, sessions that outlived their grant too, and drops the approvals that count no longer; says how much it ended.
    pub(super) fn reload(&mut self, rules: &Rules, batch: &mut Batch, now: &Now) -> usize {
        let gone = retained::forbidden(rules, &self.ledger, now);
        self.end_each(&gone, batch, now);
        gone.len()
    }

    /// Ends requests and grants, and the sessions that outlived them.
    pub(super) fn end_each(&mut self, gone: &[(Uuid, EndCause)], batch: &mut Batch, now: &Now) {
        for &(id, cause) in gone {
            if self.ledger.get(&id).is_some_and(|held| held.ending.is_none()) {
                self.end(batch, id, Ending::by_itself(now.wall, cause), None, now);
            } else if self.ledger.keeping().sessions(now).any(|(grant, _)| grant == id) {
                self.cut_retained(batch, id, None, String::new(), cause.sentence().to_owned(), now);
            }
        }
    }

    /// Follows the host's addresses and interfaces.
    fn network(&mut self, state: LinkState) {
        // A new interface may be a tunnel.
        self.tunnels.hurry();
        self.set_own(state.addresses.clone());
        self.follow_links(state);
    }
}

impl Rules {
    /// Whether a signature made earlier still counts.
    pub(super) fn trusts(&self, signer: &Signer, role: Purpose, now: &Now) -> bool {
        self.trust.trusts(signer, role, now.wall.as_second(), now.clock.knows_windows())
    }

    /// Why these rules no longer let this be, if they do not.
    pub(super) fn forbid(&self, held: &RequestRecord, now: &Now) -> Option<EndCause> {
        let (signer, allowed, unsigned) = match &held.request {
            // Approvals are looked at again when the last one comes.
            Request::Pending(pending) => (&pending.signer, self.policy.still_lets_ask(pending), false),
            Request::Granted(grant) => (&grant.signer, self.policy.still_allows(grant), grant.is_unsigned()),
        };
        let approved = |grant: &postern_core::grant::Grant| {
            grant.approvers.iter().all(|signer| self.trusts(signer, Purpose::Approve, now))
        };
        let trusted = unsigned || (self.trusts(signer, Purpose::Request, now) && held.grant().is_none_or(approved));
        match (trusted, allowed) {
            (false, _) => Some(EndCause::SignerUntrusted),
            (true, false) => Some(EndCause::PolicyChanged),
            (true, true) => None,
        }
    }
}

/// Who was refused what, for the record.
struct Refused {
    signer: Signer,
    action: Action,
    /// Where somebody asked for access.
    request: Option<AccessRequest>,
}

/// Whether the id of a refused message is remembered. One that is no longer fresh, or already known, need not be; one that the
/// memory is too full for cannot be.
fn marks(refusal: &Refusal) -> bool {
    !matches!(
        refusal.reason,
        Reason::MessageExpired | Reason::MessageTooLongLived | Reason::Replayed | Reason::ReplayMemoryFull
    )
}
