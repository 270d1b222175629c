//! Warnings before sessions are cut: when they are given, and the pause in which people can read the reason. Warnings change nothing and
//! delay an end by at most [`LAST_WORDS`]. An observing host cuts no session, so it warns nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use postern_core::grant::Grant;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::policy::{OnExpiry, Policy};
use postern_core::request::{EndCause, Ending};
use postern_core::retained::Session;
use postern_core::time::{BootNanos, Now};
use postern_core::warn::{self, Ends, Warning};

use super::State;
use super::kernel::Kernel;
use super::queries::Reads;
use super::wake::nanos;
use crate::engine::GrantUpdate;
use crate::engine::shared::Shared;
use crate::system::sessions;
use crate::system::terminals::{Terminals, Words};

/// How long sshd gets to send the last words on a terminal before the cut stops its packets.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The least time between two such pauses, which delay everybody else.
const PAUSE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Warnings {
    /// All warnings that were due until then are given.
    given: BootNanos,
    last_pause: BootNanos,
    terminals: Terminals,
}

impl Warnings {
    /// Warnings that were due before `now`, while posternd did not run, are not given.
    pub(super) fn new(terminals: Terminals, now: &Now) -> Self {
        Self { given: now.boot, last_pause: BootNanos(0), terminals }
    }

    /// Gives the due warnings, at each turn. The worker does not wake up for warnings alone.
    pub(super) fn give(&mut self, shared: &Shared, state: &State, now: &Now) {
        let (policy, ledger) = (shared.rules().policy, &state.ledger);
        let due = warn::due(&policy, ledger, self.given, now);
        self.given = now.boot;
        if ledger.mode_state().observes(now) {
            return;
        }
        let (mut words, host) = (Words::new(), shared.identity().names.first().cloned().unwrap_or_default());
        let of = |warning: &Warning| ledger.get(&warning.grant).and_then(|held| held.grant());
        let established = inbound(&state.kernel, due.iter().filter_map(of));
        let reads = Reads::new(shared, state);
        for warning in &due {
            let Some(view) = reads.view(&warning.grant) else { continue };
            let Some(grant) = view.life.grant().cloned() else { continue };
            tracing::info!(grant = %warning.grant, ends = ?warning.ends, left = %warning.left, "warned of an end");
            for (peer, theirs) in by_peer(warn::losing(ledger, warning, &established, now)) {
                let lines = warn::words(&policy, &grant, warning, &theirs, peer, &host, now);
                words.entry(peer).or_default().extend(lines);
            }
            let (end, fate) = (now.wall_at(warning.end), fate(&policy, warning));
            // The send fails without watchers.
            let _ = shared.changes.send(GrantUpdate { view, warning: Some((warning.clone(), end, fate)) });
        }
        if !words.is_empty() {
            self.terminals.tell(words);
        }
    }

    /// Writes to the people whose sessions `records` are about to cut, and pauses so that they can read it.
    pub(super) fn give_last(&mut self, records: &[Record], shared: &Shared, state: &State, now: &Now) {
        let (policy, ledger) = (shared.rules().policy, &state.ledger);
        if ledger.mode_state().observes(now) {
            return;
        }
        let ended: Vec<_> = records.iter().filter_map(|record| ended_early(ledger, record)).collect();
        let (mut words, established) = (Words::new(), inbound(&state.kernel, ended.iter().map(|(grant, _)| grant)));
        for (grant, ending) in ended {
            for (peer, theirs) in by_peer(warn::lost(ledger, &policy, &grant, &established, now)) {
                words.entry(peer).or_default().extend(warn::last_words(&policy, &grant, &ending, &theirs, peer));
            }
        }
        if words.is_empty() {
            return;
        }
        if now.boot < self.last_pause.plus_nanos(nanos(PAUSE_EVERY)) {
            // The lines are written, but sshd may send them too late.
            return self.terminals.tell(words);
        }
        self.last_pause = now.boot;
        if self.terminals.tell_now(words) > 0 {
            std::thread::sleep(LAST_WORDS);
        }
    }
}

/// The sessions that `grants` may carry. If the kernel does not list them, nobody is warned.
fn inbound<'a>(kernel: &Kernel, grants: impl Iterator<Item = &'a Grant>) -> Vec<Session> {
    let scopes: Vec<_> = grants.flat_map(sessions::scopes).collect();
    if scopes.is_empty() {
        return Vec::new();
    }
    sessions::inbound(&scopes, || kernel.own_sockets()).unwrap_or_default()
}

/// The grant that a record ends before its time, because a person or the rules end it.
fn ended_early(ledger: &Ledger, record: &Record) -> Option<(Grant, Ending)> {
    let (id, ending) = match &record.event {
        Event::Ended { grant, ending, .. } => (grant, ending.clone()),
        Event::SessionsCut { grant, by, reason } => {
            let revoked = Ending::by_itself(record.time, EndCause::Revoked);
            (grant, Ending { by: by.clone(), reason: reason.clone(), ..revoked })
        }
        _ => return None,
    };
    let held = ledger.get(id).filter(|held| held.opened && is_a_surprise(ending.cause))?;
    Some((held.grant()?.clone(), ending))
}

/// Whether this end surprises people who are still connected. After a restore or a boot nobody is.
const fn is_a_surprise(cause: EndCause) -> bool {
    use EndCause::{GivenBack, Idle, PolicyChanged, Revoked, SignerUntrusted, Unused};
    matches!(cause, Unused | Idle | Revoked | GivenBack | SignerUntrusted | PolicyChanged)
}

fn by_peer(sessions: Vec<Session>) -> BTreeMap<IpAddr, Vec<Session>> {
    let mut by_peer: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for session in sessions {
        by_peer.entry(session.peer).or_default().push(session);
    }
    by_peer
}

fn fate(policy: &Policy, warning: &Warning) -> String {
    if warning.ends == Ends::Sessions {
        return warn::fate(OnExpiry::Cut);
    }
    let fates = warning.ports.iter().filter_map(|port| policy.rule(*port)).map(|(_, rule)| warn::fate(rule.on_expiry));
    fates.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}
