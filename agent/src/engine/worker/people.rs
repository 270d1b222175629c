//! What the worker decides about what people ask for.
//!
//! Owns the order of a message's last checks: freshness → replay → policy → capacity, and what comes of it: a grant, now or later,
//! or a request that waits. It never touches the disk, and of the kernel only the counters of a new grant.

use postern_core::envelope::{Purpose, Signer};
use postern_core::grant::{AccessRequest, End, Header, RevokeRequest};
use postern_core::ledger::{Event, Seen, lapse};
use postern_core::message::{self, Showing};
use postern_core::policy::{Asking, Judgement, MAX_DURATION_RANGE, Role};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{EndCause, Ending, Pending, State};
use postern_core::time::Now;
use uuid::Uuid;

use super::{Batch, Worker};
use crate::engine::{BreakGlass, Rules};

/// Whom the record names where root opened ports on the host.
const ROOT: &str = "root";

impl Worker {
    pub(super) fn request(
        &mut self,
        signers: &[Signer],
        request: &AccessRequest,
        payload: String,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let Rules { policy, .. } = self.next_rules();
        self.check_message(&request.header, now)?;
        let nobody = || Refusal::new(Reason::Unsigned, "nobody signed");
        let (requester, approvers) = signers.split_first().ok_or_else(nobody)?;
        self.ledger.check_room_to_remember(&requester.principal, now)?;
        let asking = Asking { principal: &requester.principal, approvers };
        let judgement = policy.judge(asking, request, &self.ledger, now)?;
        let seen = Some(Seen::from(&request.header));
        let Some(missing) = &judgement.missing else {
            return self.grant(signers, request, &judgement, seen, batch, now);
        };
        let Some(ttl) = policy.pending_ttl else { return Err(missing.refusal.clone()) };
        self.ledger.check_room_to_wait(&requester.principal, payload.len())?;
        let lapses_boot = lapse(now, ttl);
        let pending = Pending {
            signer: requester.clone(),
            approvers: approvers.to_vec(),
            request: request.clone(),
            payload,
            created: now.wall,
            lapses: now.wall_at(lapses_boot),
            lapses_boot,
            boot_id: now.boot_id,
            missing: missing.count,
        };
        self.push(batch, seen, Event::Requested { pending }, now);
        Ok(request.header.id)
    }

    /// A yes becomes a grant.
    fn grant(
        &mut self,
        signers: &[Signer],
        request: &AccessRequest,
        judgement: &Judgement,
        seen: Option<Seen>,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let grant = self.ledger.admit(signers, request, judgement, self.capacity, now)?;
        self.enforcer.reset_usage(grant.slot).map_err(|e| Refusal::new(Reason::KernelFailed, e))?;
        let id = grant.id;
        self.push(batch, seen, Event::Granted { grant }, now);
        // What it extends has made room for it.
        self.expire(batch, now);
        Ok(id)
    }

    pub(super) fn approve(
        &mut self,
        signer: &Signer,
        id: Uuid,
        payload: &str,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let rules = self.next_rules();
        let not_found = || Refusal::new(Reason::GrantNotFound, id).at("id");
        let held = self.ledger.get(&id).ok_or_else(not_found)?;
        let pending = match (held.state(), held.request.pending()) {
            (State::Pending, Some(pending)) => pending.clone(),
            _ if held.request.approvers().contains(signer) => return Ok(id),
            _ => return Err(Refusal::new(Reason::NotPending, id).at("id")),
        };
        check_approver(&rules, signer, &pending, payload, now)?;
        // The request waited, perhaps over a restart under other names or keys, or under an older posternd.
        self.shared().identity().check_audience(&pending.request.header.audience)?;
        // Shown again it changes nothing, and nobody gets to fill the journal with it.
        let counts = |known: &Signer| rules.trusts(known, Purpose::Approve, now);
        if pending.approvers.iter().any(|known| known.principal == signer.principal && counts(known)) {
            return Ok(id);
        }
        let mut signers = vec![pending.signer];
        signers.extend(pending.approvers.into_iter().filter(counts));
        signers.push(signer.clone());
        let asking = Asking { principal: &signers[0].principal, approvers: &signers[1..] };
        let judgement = rules.policy.judge(asking, &pending.request, &self.ledger, now)?;
        let missing = judgement.missing.as_ref().map_or(0, |missing| missing.count);
        let approved = Event::Approved { grant: id, signer: signer.clone(), missing };
        if missing > 0 {
            self.push(batch, None, approved, now);
            return Ok(id);
        }
        // Refused for want of room, the approval does not count either: it may come again.
        let _admitted = self.ledger.admit(&signers, &pending.request, &judgement, self.capacity, now)?;
        self.push(batch, None, approved, now);
        self.grant(&signers, &pending.request, &judgement, None, batch, now)
    }

    pub(super) fn check_message(&self, header: &Header, now: &Now) -> Result<(), Refusal> {
        let shared = self.shared();
        let shown = (Showing::Once, shared.freshness(now));
        message::check(header, &shared.identity(), &shared.challenger(), shown, now)?;
        self.ledger.check_unseen(header.id)
    }

    pub(super) fn revoke(
        &mut self,
        signer: &Signer,
        request: &RevokeRequest,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Uuid, Refusal> {
        let Rules { policy, .. } = self.next_rules();
        self.check_message(&request.header, now)?;
        let not_found = || Refusal::new(Reason::GrantNotFound, request.grant_id).at("grant_id");
        let held = self.ledger.get(&request.grant_id).ok_or_else(not_found)?;
        let principal = &signer.principal;
        let own = held.request.signer().principal == *principal && policy.holds(principal, Role::Requester);
        let over_all = [Role::Approver, Role::Admin].iter().any(|kind| policy.holds(principal, *kind));
        if !own && !over_all {
            return Err(not_found());
        }
        if held.ending.is_some() && self.ledger.keeping().sessions(now).any(|(grant, _)| grant == request.grant_id) {
            let seen = Some(Seen::from(&request.header));
            self.cut_retained(batch, request.grant_id, seen, principal.clone(), request.reason.clone(), now);
            return Ok(request.grant_id);
        }
        if let Some(ending) = &held.ending {
            let detail = format!("at {}, because {}", ending.at, ending.cause.sentence());
            return Err(Refusal::new(Reason::GrantEnded, detail).at("grant_id"));
        }
        let cause = match held.state() {
            _ if own => EndCause::GivenBack,
            State::Pending => EndCause::Declined,
            _ => EndCause::Revoked,
        };
        let ending = Ending { at: now.wall, cause, by: principal.clone(), reason: request.reason.clone() };
        self.end(batch, request.grant_id, ending, Some(Seen::from(&request.header)), now);
        Ok(request.grant_id)
    }

    /// Root on the host asks: no signature, no policy but that the ports are ours and a day is the most.
    pub(super) fn break_glass(&mut self, wish: BreakGlass, batch: &mut Batch, now: &Now) -> Result<Uuid, Refusal> {
        let BreakGlass { id, ports, sources, duration, reason } = wish;
        let Rules { policy, .. } = self.next_rules();
        if let Some(port) = ports.iter().find(|port| policy.rule(**port).is_none()) {
            return Err(Refusal::new(Reason::PortNotProtected, port).at("ports"));
        }
        if duration > MAX_DURATION_RANGE.1 {
            let detail = format!("at most {}", MAX_DURATION_RANGE.1);
            return Err(Refusal::new(Reason::DurationTooLong, detail).at("duration"));
        }
        let header = Header { id, audience: Vec::new(), not_after: now.wall, challenge: None };
        let (end, justification) = (End::After(duration), reason);
        let (not_before, supersedes, ticket) = (None, None, String::new());
        let request = AccessRequest { header, ports, sources, end, not_before, supersedes, justification, ticket };
        let judgement = Judgement {
            starts_boot: now.boot,
            expires_boot: lapse(now, duration),
            chain_boot: None,
            missing: None,
            first_use_within: None,
            idle_timeout: None,
        };
        let root = Signer { principal: ROOT.to_owned(), fingerprint: String::new(), certificate: None };
        let mut grant = self.ledger.admit(&[root], &request, &judgement, self.capacity, now)?;
        grant.break_glass = true;
        self.enforcer.reset_usage(grant.slot).map_err(|e| Refusal::new(Reason::KernelFailed, e))?;
        tracing::error!(ports = ?grant.ports, sources = ?grant.sources, "break-glass: root opened ports");
        self.push(batch, None, Event::BreakGlass { grant }, now);
        Ok(id)
    }
}

/// Whether `signer` may approve, and approved what was asked for.
fn check_approver(rules: &Rules, signer: &Signer, pending: &Pending, payload: &str, now: &Now) -> Result<(), Refusal> {
    if signer.principal == pending.signer.principal {
        return Err(Refusal::new(Reason::SelfApproval, &signer.principal).at("signatures"));
    }
    if payload != pending.payload {
        return Err(Refusal::new(Reason::PayloadDiffers, "get them with GetGrant").at("payload"));
    }
    if !rules.policy.may_approve(&signer.principal, &pending.request, now) {
        let detail = format!("{} may not approve this", signer.principal);
        return Err(Refusal::new(Reason::NotPermitted, detail).at("role"));
    }
    if !rules.trusts(&pending.signer, Purpose::Request, now) {
        let detail = format!("{} may ask no longer", pending.signer.principal);
        return Err(Refusal::new(Reason::NotPermitted, detail).at("role"));
    }
    Ok(())
}
