//! Telling people before their sessions are cut.
//!
//! Owns when that is looked at, and the order at an end that the clock does not bring: say it, then record it, then cut. What is said
//! and to whom is `postern_core::warn`'s to say. It changes nothing and delays an end by a moment at most. A host that only
//! observes cuts nobody, so it warns nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_core::grant::Grant;
use postern_core::ledger::{Event, Record};
use postern_core::policy::Policy;
use postern_core::request::{EndCause, Ending};
use postern_core::retained::Session;
use postern_core::time::Now;
use postern_core::warn::{self, Ends, Warning};

use super::{Batch, Worker, nanos};
use crate::engine::Change;
use crate::system::sessions;
use crate::system::terminals::Words;

/// How long sshd gets to send what was just written to a terminal, before the cut stops its packets.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How often somebody's last words may hold the others up.
const LAST_WORDS_EVERY: Duration = Duration::from_secs(1);

impl Worker {
    /// Gives the warnings that are due. It is looked at whenever the worker wakes up, which the guard sees to twice a second:
    /// nothing wakes up for this alone.
    pub(super) fn warn(&mut self, now: &Now) {
        let policy = self.shared().rules().policy;
        let due = warn::due(&policy, &self.ledger, self.warned, now);
        self.warned = now.boot;
        if self.ledger.mode_state().observes(now) {
            return;
        }
        let (mut words, host) = (Words::new(), self.host_name());
        let of = |warning: &Warning| self.ledger.get(&warning.grant).and_then(|held| held.grant());
        let established = self.inbound(due.iter().filter_map(of));
        for warning in &due {
            let Some(view) = self.view(&warning.grant) else { continue };
            let Some(grant) = view.life.grant().cloned() else { continue };
            tracing::info!(grant = %warning.grant, ends = ?warning.ends, left = %warning.left, "warned of an end");
            let losing = warn::losing(&self.ledger, warning, &established, now);
            for (peer, theirs) in by_peer(losing) {
                let lines = warn::words(&policy, &grant, warning, &theirs, peer, &host, now);
                words.entry(peer).or_default().extend(lines);
            }
            let (end, fate) = (now.wall_at(warning.end), fate(&policy, warning));
            // Nobody may be watching.
            let _ = self.shared().changes.send(Change { view, warning: Some((warning.clone(), end, fate)) });
        }
        if !words.is_empty() {
            self.terminals.tell(words);
        }
    }

    /// The sessions that one of `grants` may carry; none where the kernel cannot be asked, which ends no session later.
    fn inbound<'a>(&self, grants: impl Iterator<Item = &'a Grant>) -> Vec<Session> {
        let scopes: Vec<_> = grants.flat_map(sessions::scopes).collect();
        if scopes.is_empty() {
            return Vec::new();
        }
        sessions::inbound(&scopes, || self.enforcer.own_sockets()).unwrap_or_default()
    }

    fn host_name(&self) -> String {
        self.shared().identity().names.first().cloned().unwrap_or_default()
    }

    /// Tells those whose sessions this batch is about to cut, and leaves them a moment to read it.
    pub(super) fn say_last_words(&mut self, batch: &Batch, now: &Now) {
        if self.ledger.mode_state().observes(now) {
            return;
        }
        let policy = self.shared().rules().policy;
        let ended: Vec<_> = batch.records.iter().filter_map(|record| self.ended(record)).collect();
        let (mut words, established) = (Words::new(), self.inbound(ended.iter().map(|(grant, _)| grant)));
        for (grant, ending) in ended {
            let lost = warn::lost(&self.ledger, &policy, &grant, &established, now);
            for (peer, theirs) in by_peer(lost) {
                words.entry(peer).or_default().extend(warn::last_words(&policy, &grant, &ending, &theirs, peer));
            }
        }
        if words.is_empty() {
            return;
        }
        if now.boot < self.last_pause.plus_nanos(nanos(LAST_WORDS_EVERY)) {
            // They are written, but may come too late to be sent.
            return self.terminals.tell(words);
        }
        self.last_pause = now.boot;
        if self.terminals.tell_now(words) > 0 {
            std::thread::sleep(LAST_WORDS);
        }
    }

    /// What somebody or the rules end, of all that ends.
    fn ended(&self, record: &Record) -> Option<(Grant, Ending)> {
        let (id, ending) = match &record.event {
            Event::Ended { grant, ending, .. } => (grant, ending.clone()),
            Event::SessionsCut { grant, by, reason } => {
                let revoked = Ending::by_itself(record.time, EndCause::Revoked);
                (grant, Ending { by: by.clone(), reason: reason.clone(), ..revoked })
            }
            _ => return None,
        };
        let held = self.ledger.get(id).filter(|held| held.opened && is_a_surprise(ending.cause))?;
        Some((held.grant()?.clone(), ending))
    }
}

/// Whether it comes before its time, to people who are still there: those of a machine that was restored or booted anew are not.
const fn is_a_surprise(cause: EndCause) -> bool {
    use EndCause::{GivenBack, Idle, PolicyChanged, Revoked, SignerUntrusted, Unused};
    matches!(cause, Unused | Idle | Revoked | GivenBack | SignerUntrusted | PolicyChanged)
}

fn by_peer(sessions: Vec<Session>) -> BTreeMap<std::net::IpAddr, Vec<Session>> {
    let mut by_peer: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for session in sessions {
        by_peer.entry(session.peer).or_default().push(session);
    }
    by_peer
}

/// What becomes of the sessions at the end that is warned of.
fn fate(policy: &Policy, warning: &Warning) -> String {
    let cut = || warn::fate(postern_core::policy::OnExpiry::Cut);
    if warning.ends == Ends::Sessions {
        return cut();
    }
    let fates = warning.ports.iter().filter_map(|port| policy.rule(*port)).map(|(_, rule)| warn::fate(rule.on_expiry));
    fates.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}
