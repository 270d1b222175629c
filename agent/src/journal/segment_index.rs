//! The index of the journal: facts about each segment, and whether the chain holds.
//!
//! Owns an index in memory, built from the files. It reads a closed segment again only if the file system reports a change.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use postern_core::ledger::{Event, Record};
use postern_core::time::BootNanos;
use uuid::Uuid;

use super::chain::{self, Chain};
use super::head::Head;
use super::{GENESIS, schema, segments};

/// File times have a resolution of one tick. A file that was changed more recently than this may change again with the same time.
const SETTLED: Duration = Duration::from_secs(2);

/// The first fault of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The line's number.
    pub line: u64,
    pub reason: String,
}

/// A segment as it was when it was read.
#[derive(Clone, Debug)]
pub(super) struct IndexedSegment {
    /// The file's version at that time; `None` if the file may change within this version.
    stamp: Option<Stamp>,
    /// The numbers of its first and last line; the last is `first - 1` if it has none.
    pub first: u64,
    pub last: u64,
    /// The hashes of the line before its first line, and of its last line.
    prev: String,
    pub hash: String,
    /// The earliest and the latest time in it, by the wall clock.
    pub since: Timestamp,
    pub until: Timestamp,
    /// The boot clock of its last line.
    pub boot: BootNanos,
    pub boot_id: Uuid,
    pub bytes: u64,
    /// Requests and grants that did not end in it, each with the place of its last whole line.
    made: BTreeMap<Uuid, u64>,
    /// Requests and grants that ended in it and have a line in an earlier segment.
    ended: Vec<Uuid>,
    /// The last line and hash of removed segments, from the records of their removal.
    removed: Vec<(u64, String)>,
    fault: Option<Fault>,
}

/// The version of a file: a change of the file changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` while the file is so new that a change may keep the version.
    fn of(file: &File) -> io::Result<Option<Self>> {
        let meta = file.metadata()?;
        let (changed, now) = ((meta.ctime(), meta.ctime_nsec()), SystemTime::now().duration_since(UNIX_EPOCH));
        let age = now.unwrap_or_default().as_secs().cast_signed().saturating_sub(changed.0);
        let settled = age > SETTLED.as_secs().cast_signed();
        Ok(settled.then(|| Self { inode: (meta.dev(), meta.ino()), size: meta.size(), changed }))
    }
}

#[derive(Default)]
pub(super) struct SegmentIndex {
    segments: BTreeMap<u64, IndexedSegment>,
    /// The first fault, as of the last update.
    fault: Option<Fault>,
    /// How many lines were read for the index so far.
    pub lines: u64,
}

impl SegmentIndex {
    /// Reads the unknown part of the journal in `dir`, up to `head`. Returns the first fault.
    pub fn update(&mut self, dir: &Path, head: &Head) -> io::Result<Option<Fault>> {
        let firsts: Vec<u64> = segments::list(dir)?.into_iter().filter(|&first| first <= head.seq).collect();
        self.segments.retain(|first, _| firsts.contains(first));
        for (nth, &first) in firsts.iter().enumerate() {
            let path = segments::path(dir, first);
            let file = segments::read(&path)?;
            let stamp = Stamp::of(&file)?;
            let known = self.segments.get(&first).and_then(|known| known.stamp);
            // The newest segment grows during the read, so it is read each time, up to the head.
            let newest = nth + 1 == firsts.len();
            if newest || stamp.is_none() || known != stamp {
                let mut read = read(file, first, if newest { head.seq } else { u64::MAX })?;
                let before = self.open_before(first);
                read.ended.retain(|id| before.contains_key(id));
                self.lines += (read.last + 1).saturating_sub(first);
                self.segments.insert(first, IndexedSegment { stamp: stamp.filter(|_| !newest), ..read });
            }
        }
        self.fault = self.first_fault(head);
        Ok(self.fault.clone())
    }

    /// The segments, the oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &IndexedSegment> {
        self.segments.values()
    }

    /// Whether the chain held through every line at the last update.
    pub fn is_whole(&self) -> bool {
        self.fault.is_none() && !self.segments.is_empty()
    }

    /// The segments and places of requests from earlier segments that lines in this segment may be about.
    pub fn made_before(&self, segment: u64) -> Vec<(u64, u64)> {
        let mut places: Vec<_> = self.open_before(segment).into_values().collect();
        places.sort_unstable();
        places
    }

    fn open_before(&self, segment: u64) -> BTreeMap<Uuid, (u64, u64)> {
        let mut open = BTreeMap::new();
        for known in self.segments.range(..segment).map(|(_, known)| known) {
            for id in &known.ended {
                open.remove(id);
            }
            open.extend(known.made.iter().map(|(&id, &place)| (id, (known.first, place))));
        }
        open
    }

    fn first_fault(&self, head: &Head) -> Option<Fault> {
        let mut at = match self.segments.first_key_value() {
            Some((&first, oldest)) if first > 1 => Head { seq: first - 1, hash: oldest.prev.clone() },
            _ => Head { seq: 0, hash: GENESIS.to_owned() },
        };
        let proof = (at.seq, at.hash.clone());
        for known in self.segments() {
            if known.first != at.seq + 1 {
                let is_there = known.first <= at.seq;
                let reason = if is_there { "is in two segments" } else { "is missing" };
                return Some(Fault { line: known.first.min(at.seq + 1), reason: reason.into() });
            }
            if known.last >= known.first && known.prev != at.hash {
                let reason = "does not continue the one before it".into();
                return Some(Fault { line: known.first, reason });
            }
            if known.fault.is_some() {
                return known.fault.clone();
            }
            at = Head { seq: known.last, hash: known.hash.clone() };
        }
        if at.seq < head.seq {
            return Some(Fault { line: at.seq + 1, reason: "is missing".into() });
        }
        if at.hash != head.hash {
            return Some(Fault { line: head.seq, reason: "is not the one that was written".into() });
        }
        // Checked last, because a missing line may be the proof.
        let is_proved = proof.0 == 0 || self.segments().any(|known| known.removed.contains(&proof));
        (!is_proved).then(|| Fault { line: proof.0 + 1, reason: chain::UNPROVED.into() })
    }
}

fn read(file: File, first: u64, upto: u64) -> io::Result<IndexedSegment> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut line = Vec::new();
    let mut known = IndexedSegment {
        stamp: None,
        first,
        last: first - 1,
        prev: String::new(),
        hash: String::new(),
        since: Timestamp::MAX,
        until: Timestamp::MIN,
        boot: BootNanos(0),
        boot_id: Uuid::nil(),
        bytes: 0,
        made: BTreeMap::new(),
        ended: Vec::new(),
        removed: Vec::new(),
        fault: None,
    };
    let mut chain = Chain::after(Head { seq: first - 1, hash: String::new() });
    while chain.head.seq < upto {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            break;
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if known.bytes == 0 {
            // `first_fault` checks whether it follows from the segment before.
            known.prev = schema::mark(text).map(|mark| mark.prev).unwrap_or_default();
            chain.head.hash.clone_from(&known.prev);
        }
        let taken = chain.take(text);
        let fault = |reason| Fault { line: chain.head.seq, reason };
        match taken {
            Err(reason) => drop(known.fault.get_or_insert_with(|| fault(reason))),
            Ok(None) => drop(known.fault.get_or_insert_with(|| fault("was written by a newer posternd".into()))),
            Ok(Some(_)) if text.len() as u64 == read => {
                known.fault.get_or_insert_with(|| fault("is incomplete".into()));
            }
            Ok(Some(record)) => known.note(&record),
        }
        known.bytes += read;
    }
    (known.last, known.hash) = (chain.head.seq, chain.head.hash);
    Ok(known)
}

impl IndexedSegment {
    fn note(&mut self, record: &Record) {
        self.since = self.since.min(record.time);
        self.until = self.until.max(record.time);
        (self.boot, self.boot_id) = (record.boot, record.boot_id);
        match &record.event {
            Event::Granted { grant } | Event::BreakGlass { grant } => drop(self.made.insert(grant.id, self.bytes)),
            Event::Requested { pending } => drop(self.made.insert(pending.request.header.id, self.bytes)),
            Event::Ended { grant, .. } => {
                self.made.remove(grant);
                self.ended.push(*grant);
            }
            Event::Pruned { through, hash } => self.removed.push((*through, hash.clone())),
            _ => {}
        }
    }
}
