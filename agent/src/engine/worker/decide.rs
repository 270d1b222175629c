//! The decision about each change. This module owns which module decides it, who waits for the answer, and the record of a refusal.

use postern_core::envelope::Signer;
use postern_core::grant::AccessRequest;
use postern_core::ledger::{Action, Event, Seen};
use postern_core::refusal::{Reason, Refusal};
use uuid::Uuid;

use super::answers::Waiting;
use super::draft::Draft;
use super::{requests, retained, summaries, trial};
use crate::engine::command::{Answer, Change};
use crate::engine::{GrantView, ModeView, Rules};

struct Refused {
    signer: Signer,
    action: Action,
    /// Set if somebody asked for access.
    request: Option<AccessRequest>,
}

/// Decides `change`. Its caller waits for the batch.
pub(super) fn decide(draft: &mut Draft<'_>, change: Change) {
    match change {
        Change::Request { signers, basis, request, payload, answer } => {
            let Some(signer) = signers.first().cloned() else { return };
            let counts = draft.rules.check(&basis, &draft.now);
            let decided = counts.and_then(|()| requests::request(draft, &signers, &request, payload));
            let seen = Some(Seen::from(&request.header));
            let refused = Refused { signer, action: Action::Request, request: Some(request) };
            answer_later(draft, decided, refused, seen, answer);
        }
        Change::Approve { signer, basis, id, payload, answer } => {
            let counts = draft.rules.check(&basis, &draft.now);
            let decided = counts.and_then(|()| requests::approve(draft, &signer, id, &payload));
            let request = draft.state.ledger.get(&id).and_then(|held| Some(held.request.pending()?.request.clone()));
            answer_later(draft, decided, Refused { signer, action: Action::Approve, request }, None, answer);
        }
        Change::Revoke { signer, basis, request, answer } => {
            let counts = draft.rules.check(&basis, &draft.now);
            let decided = counts.and_then(|()| requests::revoke(draft, &signer, &request));
            let seen = Some(Seen::from(&request.header));
            answer_later(draft, decided, Refused { signer, action: Action::Revoke, request: None }, seen, answer);
        }
        Change::BreakGlass { wish, answer } => {
            let waiting = match requests::break_glass(draft, wish) {
                Ok(id) => Waiting::Grant(id, answer),
                Err(refusal) => Waiting::Refused(refusal, answer),
            };
            draft.decided.waiting.push(waiting);
        }
        Change::Enable { within, only_while_running, answer } => {
            let decided = trial::enable(draft, within, only_while_running);
            draft.decided.waiting.push(mode_alone(decided, answer));
        }
        Change::Confirm { without_proof, answer } => {
            let decided = trial::confirm(draft, without_proof);
            draft.decided.waiting.push(Waiting::Mode(decided, Box::new(|mode| drop(answer.send(mode)))));
        }
        Change::RollBack { answer } => {
            let decided = trial::roll_back(draft);
            draft.decided.waiting.push(mode_alone(decided, answer));
        }
        Change::Refuse { signer, action, refusal, answer } => {
            record_refusal(draft, Refused { signer, action, request: None }, &refusal, None);
            draft.decided.waiting.push(Waiting::Recorded(refusal, answer));
        }
        Change::Reload { rules, answer } => {
            let ended = reload(draft, &rules);
            draft.decided.waiting.push(Waiting::Reloaded(rules, ended, answer));
        }
        Change::Stop { answer } => {
            summaries::write(draft, true);
            let (ledger, kernel) = (&draft.state.ledger, &draft.state.kernel);
            let active = ledger.active().filter_map(|grant| ledger.get(&grant.id));
            let usage = active.map(|held| (held.request.id(), kernel.usage(held, &draft.now))).collect();
            draft.push(None, Event::Stopped { usage });
            draft.decided.waiting.push(Waiting::Stopped(answer));
        }
    }
}

fn mode_alone(decided: Result<(), Refusal>, answer: Answer<ModeView>) -> Waiting {
    Waiting::Mode(decided.map(|()| None), Box::new(|mode| drop(answer.send(mode.map(|(mode, _)| mode)))))
}

/// Has the caller wait for the batch, which also records a refusal.
fn answer_later(
    draft: &mut Draft<'_>,
    decided: Result<Uuid, Refusal>,
    refused: Refused,
    seen: Option<Seen>,
    answer: Answer<GrantView>,
) {
    let waiting = match decided {
        Ok(grant) => Waiting::Grant(grant, answer),
        Err(refusal) => {
            let (ledger, who) = (&draft.state.ledger, &refused.signer.principal);
            let remember = is_remembered(&refusal) && ledger.has_room_for_refused(who, refused.action, &draft.now);
            record_refusal(draft, refused, &refusal, seen.filter(|_| remember));
            Waiting::Refused(refusal, answer)
        }
    };
    draft.decided.waiting.push(waiting);
}

/// Records a refusal. If a principal has many, a summary counts the others. Their messages are not remembered: a repeat is judged again.
fn record_refusal(draft: &mut Draft<'_>, refused: Refused, refusal: &Refusal, seen: Option<Seen>) {
    let Refused { signer, action, request } = refused;
    if !draft.shared.shares.lock().gets_a_line(&signer.principal, refusal.reason, &draft.now) {
        return draft.state.summaries.later(&draft.now);
    }
    let (reason, rule) = (refusal.reason.code().to_owned(), refusal.rule.clone());
    let (ports, sources) = request.map(|r| (r.ports, r.sources)).unwrap_or_default();
    let event = Event::Refused { signer, action, reason, sentence: refusal.sentence(), rule, ports, sources };
    draft.push(seen, event);
}

/// Ends what new rules no longer allow, and follows their mode. Returns how many requests and grants ended.
fn reload(draft: &mut Draft<'_>, rules: &Rules) -> usize {
    let gone = retained::forbidden(rules, &draft.state.ledger, &draft.now);
    let ended = gone.len();
    draft.end_each(gone);
    trial::load_policy(draft, rules);
    ended
}

/// Whether the ledger remembers the id of a refused message. Stale and known ids need not be remembered.
fn is_remembered(refusal: &Refusal) -> bool {
    use Reason::{MessageExpired, MessageTooLongLived, ReplayMemoryFull, Replayed};
    !matches!(refusal.reason, MessageExpired | MessageTooLongLived | Replayed | ReplayMemoryFull)
}
