//! Replay memory: the ids of used messages. Owns the ids and each principal's share. All of it follows from the journal's records, so a
//! start counts the shares again. It never decides whether a message is fresh.

use imbl::HashMap;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{Action, Event, Record, Seen};
use super::room::Room;
use crate::message::MAX_MESSAGE_LIFE;
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    /// The message asks for something.
    Asking,
    /// The message asks to end something.
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

/// When to forget an id: both clocks must pass, so that a step of one clock forgets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Forget {
    wall: Timestamp,
    boot: BootNanos,
    boot_id: Uuid,
    owner: String,
    part: Part,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replay {
    ids: HashMap<Uuid, Forget>,
    spent: HashMap<String, [usize; 2]>,
    all: [usize; 2],
    /// The last removal of stale ids.
    swept: Option<(BootNanos, Uuid)>,
}

/// Nanoseconds between two searches for stale ids: each search visits all ids.
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
            // Older versions remembered more refusals than the memory now holds. Granted requests are always remembered.
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

    /// Whether the owner's share is used up (true), or the whole part (false).
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
    /// The principal and the part for the record's message. Derived from the event, so that old journals work too.
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
