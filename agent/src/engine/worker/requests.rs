//! The changes that people ask for: requests, approvals, revocations and break-glass. This module owns the order of a message's last checks
//! (freshness → replay → policy → capacity). It never touches the disk, and in the kernel only the counters of a new grant.

use std::sync::Arc;

use postern_core::envelope::{Purpose, Signer};
use postern_core::grant::{AccessRequest, End, Header, RevokeRequest};
use postern_core::ledger::{Event, Seen, lapse};
use postern_core::message::{self, Showing};
use postern_core::policy::{Asking, Judgement, MAX_DURATION_RANGE, Role};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{EndCause, Ending, Pending, State};
use postern_core::time::Now;
use uuid::Uuid;

use super::draft::Draft;
use crate::engine::{BreakGlass, Rules};

/// The name in the record if root opened the ports.
const ROOT: &str = "root";

pub(super) fn request(
    draft: &mut Draft<'_>,
    signers: &[Signer],
    request: &AccessRequest,
    payload: String,
) -> Result<Uuid, Refusal> {
    let (policy, now) = (Arc::clone(&draft.rules.policy), draft.now);
    check_message(draft, &request.header)?;
    let nobody = || Refusal::new(Reason::Unsigned, "nobody signed");
    let (requester, approvers) = signers.split_first().ok_or_else(nobody)?;
    draft.state.ledger.check_room_to_remember(&requester.principal, &now)?;
    let asking = Asking { principal: &requester.principal, approvers };
    let judgement = policy.judge(asking, request, &draft.state.ledger, &now)?;
    let seen = Some(Seen::from(&request.header));
    let Some(missing) = &judgement.missing else {
        return grant(draft, signers, request, &judgement, seen);
    };
    let Some(ttl) = policy.pending_ttl else { return Err(missing.refusal.clone()) };
    draft.state.ledger.check_room_to_wait(&requester.principal, payload.len())?;
    let lapses_boot = lapse(&now, ttl);
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
    draft.push(seen, Event::Requested { pending });
    Ok(request.header.id)
}

fn grant(
    draft: &mut Draft<'_>,
    signers: &[Signer],
    request: &AccessRequest,
    judgement: &Judgement,
    seen: Option<Seen>,
) -> Result<Uuid, Refusal> {
    let (ledger, kernel) = (&draft.state.ledger, &mut draft.state.kernel);
    let grant = ledger.admit(signers, request, judgement, kernel.capacity, &draft.now)?;
    kernel.enforcer.reset_usage(grant.slot).map_err(|e| Refusal::new(Reason::KernelFailed, e))?;
    let id = grant.id;
    draft.push(seen, Event::Granted { grant });
    // The extended grant ends now.
    draft.expire();
    Ok(id)
}

pub(super) fn approve(draft: &mut Draft<'_>, signer: &Signer, id: Uuid, payload: &str) -> Result<Uuid, Refusal> {
    let (rules, now) = (draft.rules.clone(), draft.now);
    let not_found = || Refusal::new(Reason::GrantNotFound, id).at("id");
    let held = draft.state.ledger.get(&id).ok_or_else(not_found)?;
    let pending = match (held.state(), held.request.pending()) {
        (State::Pending, Some(pending)) => pending.clone(),
        _ if held.request.approvers().contains(signer) => return Ok(id),
        _ => return Err(Refusal::new(Reason::NotPending, id).at("id")),
    };
    check_approver(&rules, signer, &pending, payload, &now)?;
    // A restart may have changed the host's names or keys while the request waited.
    draft.shared.identity().check_audience(&pending.request.header.audience)?;
    // A repeated approval changes nothing and gets no line, so that nobody can fill the journal with it.
    let counts = |known: &Signer| rules.trusts(known, Purpose::Approve, &now);
    if pending.approvers.iter().any(|known| known.principal == signer.principal && counts(known)) {
        return Ok(id);
    }
    let mut signers = vec![pending.signer];
    signers.extend(pending.approvers.into_iter().filter(counts));
    signers.push(signer.clone());
    let asking = Asking { principal: &signers[0].principal, approvers: &signers[1..] };
    let judgement = rules.policy.judge(asking, &pending.request, &draft.state.ledger, &now)?;
    let missing = judgement.missing.as_ref().map_or(0, |missing| missing.count);
    let approved = Event::Approved { grant: id, signer: signer.clone(), missing };
    if missing > 0 {
        draft.push(None, approved);
        return Ok(id);
    }
    // If the table is full, the approval does not count either, so the approver may send it again.
    let _admitted =
        draft.state.ledger.admit(&signers, &pending.request, &judgement, draft.state.kernel.capacity, &now)?;
    draft.push(None, approved);
    grant(draft, &signers, &pending.request, &judgement, None)
}

pub(super) fn check_message(draft: &Draft<'_>, header: &Header) -> Result<(), Refusal> {
    let (shared, now) = (draft.shared, &draft.now);
    let shown = (Showing::Once, shared.freshness(now));
    message::check(header, &shared.identity(), &shared.challenger(), shown, now)?;
    draft.state.ledger.check_unseen(header.id)
}

pub(super) fn revoke(draft: &mut Draft<'_>, signer: &Signer, request: &RevokeRequest) -> Result<Uuid, Refusal> {
    let (policy, now) = (Arc::clone(&draft.rules.policy), draft.now);
    check_message(draft, &request.header)?;
    let not_found = || Refusal::new(Reason::GrantNotFound, request.grant_id).at("grant_id");
    let held = draft.state.ledger.get(&request.grant_id).ok_or_else(not_found)?;
    let principal = &signer.principal;
    let own = held.request.signer().principal == *principal && policy.holds(principal, Role::Requester);
    let over_all = [Role::Approver, Role::Admin].iter().any(|kind| policy.holds(principal, *kind));
    if !own && !over_all {
        return Err(not_found());
    }
    if held.ending.is_some() && draft.state.ledger.keeping().sessions(&now).any(|(grant, _)| grant == request.grant_id)
    {
        let seen = Some(Seen::from(&request.header));
        draft.cut_retained(request.grant_id, seen, principal.clone(), request.reason.clone());
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
    draft.end(request.grant_id, ending, Some(Seen::from(&request.header)));
    Ok(request.grant_id)
}

/// Opens ports for root on the host, without a signature. Only two rules apply: the ports are protected, and the duration is at most a day.
pub(super) fn break_glass(draft: &mut Draft<'_>, wish: BreakGlass) -> Result<Uuid, Refusal> {
    let BreakGlass { id, ports, sources, duration, reason } = wish;
    let (policy, now) = (Arc::clone(&draft.rules.policy), draft.now);
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
        expires_boot: lapse(&now, duration),
        chain_boot: None,
        missing: None,
        first_use_within: None,
        idle_timeout: None,
    };
    let root = Signer { principal: ROOT.to_owned(), fingerprint: String::new(), certificate: None };
    let mut grant = draft.state.ledger.admit(&[root], &request, &judgement, draft.state.kernel.capacity, &now)?;
    grant.break_glass = true;
    draft.state.kernel.enforcer.reset_usage(grant.slot).map_err(|e| Refusal::new(Reason::KernelFailed, e))?;
    tracing::error!(ports = ?grant.ports, sources = ?grant.sources, "break-glass: root opened ports");
    draft.push(None, Event::BreakGlass { grant });
    Ok(id)
}

/// Checks that `signer` may approve, and approved the requested payload.
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
        let detail = format!("{} may no longer ask", pending.signer.principal);
        return Err(Refusal::new(Reason::NotPermitted, detail).at("role"));
    }
    Ok(())
}
