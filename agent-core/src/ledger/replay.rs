//! Which messages were used.
//!
//! Owns the memory of ids and each principal's part in it. What is remembered is what the journal's records say, so a start counts the
//! shares again. It never decides whether a message is fresh.

use imbl::HashMap;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{Action, Event, Record, Seen};
use super::room::Room;
use crate::message::MAX_MESSAGE_LIFE;
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now};

/// Of which part of the memory a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    /// It asks for something.
    Asking,
    /// It ends something, or was refused that.
    Ending,
}

impl Part {
    pub(super) const fn of(action: Action) -> Self {
        match action {
            Action::Revoke => Self::Ending,
            Action::Request | Action::Approve | Action::Read => Self::Asking,
        }
    }
}

/// Until when an id is remembered: both clocks must have passed, so that stepping one of them forgets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Forget {
    wall: Timestamp,
    boot: BootNanos,
    boot_id: Uuid,
    owner: String,
    part: Part,
}

/// Ids, and how many each principal has of each part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replay {
    ids: HashMap<Uuid, Forget>,
    spent: HashMap<String, [usize; 2]>,
    all: [usize; 2],
    /// When stale ids were dropped last, on which boot.
    swept: Option<(BootNanos, Uuid)>,
}

/// Nanoseconds between two searches for stale ids: each looks at all of them.
const SWEEP_EVERY: u64 = 10_000_000_000;

impl Replay {
    pub(super) fn contains(&self, id: &Uuid) -> bool {
        self.ids.contains_key(id)
    }

    pub(super) fn remember(&mut self, seen: Seen, record: &Record, room: &Room) {
        let (owner, part) = record.spender();
        let life = SignedDuration::from_secs(MAX_MESSAGE_LIFE.0.cast_signed());
        let latest = record.time.checked_add(life).unwrap_or(Timestamp::MAX);
        let boot = record.boot.plus_nanos(MAX_MESSAGE_LIFE.0 * 1_000_000_000);
        if self.lacks(owner, part, room).is_some() {
            self.forget(record);
            // Older versions remembered more refusals than now have room. What was granted is remembered in any case.
            if matches!(record.event, Event::Refused { .. }) && self.lacks(owner, part, room).is_some() {
                return;
            }
        }
        let (wall, owner) = (seen.not_after.min(latest), owner.to_owned());
        self.count(&owner, part);
        let known = self.ids.insert(seen.id, Forget { wall, boot, boot_id: record.boot_id, owner, part });
        if let Some(known) = known {
            uncount(&mut self.spent, &mut self.all, &known);
        }
    }

    /// Whether one more message of `owner` could be remembered.
    pub(super) fn check_room(&self, owner: &str, part: Part, room: &Room, now: &Now) -> Result<(), Refusal> {
        let Some(own) = self.lacks(owner, part, room) else { return Ok(()) };
        let due =
            |f: &&Forget| f.part == part && (!own || f.owner == owner) && f.is_due(now.wall, now.boot, now.boot_id);
        if self.ids.values().any(|forget| due(&forget)) {
            return Ok(());
        }
        let at = part as usize;
        let detail = if own {
            format!("{} of {owner} within {MAX_MESSAGE_LIFE}", room.ids_each()[at])
        } else {
            format!("{} within {MAX_MESSAGE_LIFE}", room.ids()[at])
        };
        Err(Refusal::new(Reason::ReplayMemoryFull, detail).at("limits.replay_memory"))
    }

    /// Whether the owner's share is used up (true), or all of the part (false).
    fn lacks(&self, owner: &str, part: Part, room: &Room) -> Option<bool> {
        let at = part as usize;
        let own = self.spent.get(owner).map_or(0, |spent| spent[at]);
        let full = self.all[at] >= room.ids()[at];
        (own >= room.ids_each()[at]).then_some(true).or(full.then_some(false))
    }

    fn count(&mut self, owner: &str, part: Part) {
        let at = part as usize;
        self.all[at] += 1;
        self.spent.entry(owner.to_owned()).or_default()[at] += 1;
    }

    /// Drops the ids of messages that are stale when `record` is made.
    fn forget(&mut self, record: &Record) {
        let recent =
            |(at, boot_id): (BootNanos, Uuid)| boot_id == record.boot_id && at.until(record.boot) < SWEEP_EVERY;
        if self.swept.is_some_and(recent) {
            return;
        }
        self.swept = Some((record.boot, record.boot_id));
        let Self { ids, spent, all, .. } = self;
        ids.retain(|_, forget| {
            let due = forget.is_due(record.time, record.boot, record.boot_id);
            if due {
                uncount(spent, all, forget);
            }
            !due
        });
    }
}

fn uncount(spent: &mut HashMap<String, [usize; 2]>, all: &mut [usize; 2], forget: &Forget) {
    let at = forget.part as usize;
    all[at] = all[at].saturating_sub(1);
    if let Some(own) = spent.get_mut(&forget.owner) {
        own[at] = own[at].saturating_sub(1);
        if *own == [0, 0] {
            spent.remove(&forget.owner);
        }
    }
}

impl Forget {
    fn is_due(&self, wall: Timestamp, boot: BootNanos, boot_id: Uuid) -> bool {
        wall > self.wall && (boot_id != self.boot_id || boot > self.boot)
    }
}

impl Record {
    /// Who spends memory on the message that caused it, and of which part. Derived from the event, so that old journals say it too.
    pub(super) fn spender(&self) -> (&str, Part) {
        match &self.event {
            Event::Requested { pending } => (&pending.signer.principal, Part::Asking),
            Event::Granted { grant } | Event::BreakGlass { grant } => (&grant.signer.principal, Part::Asking),
            Event::Refused { signer, action, .. } => (&signer.principal, Part::of(*action)),
            Event::Ended { ending, .. } => (&ending.by, Part::Ending),
            Event::SessionsCut { by, .. } => (by, Part::Ending),
            _ => ("", Part::Asking),
        }
    }
}
