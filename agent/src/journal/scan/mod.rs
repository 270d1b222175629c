//! Reading the journal for an auditor, beside the writer.
//!
//! Owns the scan, from the newest segment back. It only reads. The first call reads the whole journal, so it needs a blocking thread.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{self, BufRead, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use postern_core::grant::{PortSpec, Source};
use postern_core::ledger::{Event, Record};
use postern_core::mode::Mode;
use postern_core::request::{Ending, Request};
use uuid::Uuid;

use super::head::Head;
use super::segment_index::{Fault, IndexedSegment, SegmentIndex};
use super::{aside, schema, segments};

/// The most bytes of lines in one page. gRPC clients usually accept 4 MiB, and the fields repeat much of each line.
const MOST_BYTES: usize = 1_500_000;

/// Reads the journal that one writer appends to.
#[derive(Clone)]
pub struct Scanner {
    pub(super) dir: PathBuf,
    pub(super) head: Arc<RwLock<Head>>,
    pub(super) index: Arc<Mutex<SegmentIndex>>,
}

/// A filter of lines; `None` or an empty value matches every line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The principal who asked, approved, was refused, or ended a grant.
    pub principal: Option<String>,
    /// Grants and refused requests that touch this port.
    pub port: Option<PortSpec>,
    /// Grants and refused requests with a source inside this prefix, or around it.
    pub source: Option<Source>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Of these kinds: [`Event::KINDS`].
    pub kinds: Vec<&'static str>,
    /// The stable code of a refusal or of the cause of an end.
    pub code: Option<String>,
    /// Lines about this request or grant.
    pub grant: Option<Uuid>,
    /// Only lines before this one.
    pub before: Option<u64>,
    /// The most lines of a page.
    pub limit: usize,
}

/// One line and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line's number.
    pub seq: u64,
    /// The time of the decision, by the wall clock.
    pub time: Timestamp,
    /// One of [`Event::KINDS`].
    pub kind: &'static str,
    /// The principal; empty for the host itself.
    pub principal: String,
    /// `SHA256:…` of that principal's key; empty for the host and for root.
    pub key: String,
    /// The request or grant of the line.
    pub grant: Option<Uuid>,
    /// The grant's ports.
    pub ports: Vec<PortSpec>,
    /// The grant's sources.
    pub sources: Vec<Source>,
    /// The stable code of the reason; empty if there is none.
    pub code: String,
    /// The reason, in words.
    pub reason: String,
    /// The line as in the journal.
    pub line: String,
}

/// The result of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The lines, the newest first.
    pub entries: Vec<Entry>,
    /// Whether older lines match too.
    pub more: bool,
    /// The first fault of the chain; `None` when it holds from line `first` to `head`.
    pub damage: Option<String>,
    /// The oldest line that is kept.
    pub first: u64,
    /// The newest durable line at the start of the scan.
    pub seq: u64,
    /// Its hash, as the writer knows it.
    pub head: String,
    /// How many lines were read for this page.
    pub lines: u64,
}

impl Scanner {
    /// The journal's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Hex SHA-256 of the newest durable line.
    #[must_use]
    pub fn head(&self) -> String {
        self.head.read().unwrap_or_else(PoisonError::into_inner).hash.clone()
    }

    /// For each damaged journal that is still in the state directory: the time when it was set aside, and a sentence.
    #[must_use]
    pub fn left_aside(&self) -> Vec<(Option<Timestamp>, String)> {
        aside::reminders(self.dir.parent().unwrap_or(&self.dir))
    }

    /// Reads the segments that may have matching lines, the newest first, and those not verified yet. Leaves out lines appended meanwhile.
    ///
    /// # Errors
    /// Fails if a file of the journal cannot be read.
    pub fn scan(&self, filter: &Filter) -> io::Result<Page> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.head.read().unwrap_or_else(PoisonError::into_inner).clone();
        let verified = index.lines;
        let fault = index.update(&self.dir, &head)?;
        let damage = fault.map(|Fault { line, reason }| format!("line {line} {reason}"));
        let first = index.segments().next().map_or(1, |known| known.first);
        let mut page = Page {
            entries: Vec::new(),
            more: false,
            damage,
            first,
            seq: head.seq,
            head: head.hash,
            lines: index.lines - verified,
        };
        let mut left = MOST_BYTES;
        for known in index.segments().rev().filter(|known| may_match(known, filter)) {
            let found = self.matches(&index, known, filter, &mut page.lines)?;
            for entry in found.into_iter().rev() {
                let fits = page.entries.len() < filter.limit && (entry.line.len() <= left || page.entries.is_empty());
                if !fits {
                    page.more = true;
                    return Ok(page);
                }
                left = left.saturating_sub(entry.line.len());
                page.entries.push(entry);
            }
        }
        Ok(page)
    }

    /// Passes every record from `since` on to `visit`, after the records that made their requests. Returns the first fault of the chain.
    ///
    /// # Errors
    /// Fails if a file of the journal cannot be read.
    pub fn each(&self, since: Timestamp, mut visit: impl FnMut(&Record)) -> io::Result<Option<String>> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.head.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fault = index.update(&self.dir, &head)?;
        let mut visit = |text: &[u8]| readable(text).iter().for_each(&mut visit);
        let mut wanted = index.segments().filter(|known| known.until >= since).peekable();
        if let Some(oldest) = wanted.peek() {
            self.made_before(&index, oldest.first, &mut visit)?;
        }
        for known in wanted {
            each_line(self.lines_of(known.first)?, (known.last + 1).saturating_sub(known.first), &mut visit)?;
        }
        Ok(fault.map(|Fault { line, reason }| format!("line {line} {reason}")))
    }

    /// Passes the lines that made the requests which were alive at the start of the segment `first`. Returns how many.
    fn made_before(&self, index: &SegmentIndex, first: u64, mut visit: impl FnMut(&[u8])) -> io::Result<u64> {
        let mut lines = 0;
        for made in index.made_before(first).chunk_by(|one, next| one.0 == next.0) {
            let file = segments::read(&segments::path(&self.dir, made[0].0))?;
            for &(_, place) in made {
                (&file).seek(SeekFrom::Start(place))?;
                lines += each_line(BufReader::new(&file), 1, &mut visit)?;
            }
        }
        Ok(lines)
    }

    fn lines_of(&self, segment: u64) -> io::Result<impl BufRead> {
        Ok(BufReader::with_capacity(1 << 16, segments::read(&segments::path(&self.dir, segment))?))
    }

    /// Verifies the unverified lines, so that later calls are fast. Returns the first fault of the chain.
    ///
    /// # Errors
    /// Fails if a file of the journal cannot be read.
    pub fn verify(&self) -> io::Result<Option<String>> {
        let page = self.scan(&Filter { until: Some(Timestamp::MIN), ..Filter::default() })?;
        Ok(page.damage)
    }

    /// The newest matching lines of one segment, at most one more than wanted, the oldest first.
    fn matches(
        &self,
        index: &SegmentIndex,
        known: &IndexedSegment,
        filter: &Filter,
        lines: &mut u64,
    ) -> io::Result<VecDeque<Entry>> {
        let mut wanted = Wanted::new(filter);
        *lines += self.made_before(index, known.first, |text| wanted.note(text))?;
        let most = (known.last + 1).saturating_sub(known.first);
        *lines += each_line(self.lines_of(known.first)?, most, |text| wanted.take_line(text))?;
        Ok(wanted.kept)
    }
}

fn may_match(known: &IndexedSegment, filter: &Filter) -> bool {
    filter.before.is_none_or(|before| known.first < before)
        && filter.since.is_none_or(|since| known.until >= since)
        && filter.until.is_none_or(|until| known.since < until)
}

/// Calls `visit` with each of the next `most` lines. Returns how many there were.
fn each_line(mut reader: impl BufRead, most: u64, mut visit: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut line = Vec::new();
    for number in 0..most {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(number);
        }
        visit(line.strip_suffix(b"\n").unwrap_or(&line));
    }
    Ok(most)
}

/// The record of a readable line. The index reports damaged lines.
fn readable(text: &[u8]) -> Option<Record> {
    let mark = schema::mark(text).ok()?;
    schema::record(text, mark.schema).ok().flatten()
}

/// The matching lines so far, and the grants that later lines may be about.
struct Wanted<'a> {
    filter: &'a Filter,
    /// The newest lines, one more than wanted to show whether there are more.
    kept: VecDeque<Entry>,
    live: HashMap<Uuid, Request>,
    /// Grants with retained sessions: lines about these sessions may follow the grant's end.
    outlived: HashSet<Uuid>,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self { filter, kept: VecDeque::new(), live: HashMap::new(), outlived: HashSet::new() }
    }

    fn take_line(&mut self, text: &[u8]) {
        if let Some(record) = readable(text) {
            self.take(&record, text);
        }
    }

    /// Adds a request or grant from an earlier segment.
    fn note(&mut self, text: &[u8]) {
        if let Some((id, life)) =
            readable(text).and_then(|record| Some((record.event.subject()?, made(&record.event)?)))
        {
            self.live.insert(id, life);
        }
    }

    fn take(&mut self, record: &Record, text: &[u8]) {
        let known = made(&record.event).or_else(|| self.live.get(&record.event.subject()?).cloned());
        if self.filter.matches(record, known.as_ref()) {
            self.keep(entry(record, known.as_ref(), text));
        }
        match (&record.event, record.event.subject(), known) {
            (Event::SessionsKept { grant, .. }, ..) => drop(self.outlived.insert(*grant)),
            (Event::Ended { .. }, Some(id), _) if self.outlived.contains(&id) => {}
            (Event::Ended { .. }, Some(id), _) => drop(self.live.remove(&id)),
            (_, Some(id), Some(life)) => drop(self.live.insert(id, life)),
            _ => {}
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.kept.push_back(entry);
        if self.kept.len() > self.filter.limit.saturating_add(1) {
            self.kept.pop_front();
        }
    }
}

impl Filter {
    /// Whether a record about `life` matches.
    #[must_use]
    pub fn matches(&self, record: &Record, life: Option<&Request>) -> bool {
        let Self { principal, port, source, since, until, kinds, code, grant, before, limit: _ } = self;
        before.is_none_or(|before| record.seq < before)
            && since.is_none_or(|since| record.time >= since)
            && until.is_none_or(|until| record.time < until)
            && (kinds.is_empty() || kinds.contains(&record.event.kind()))
            && code.as_ref().is_none_or(|wanted| self::code(&record.event) == wanted)
            && grant.is_none_or(|id| record.event.subject() == Some(id))
            && principal.as_ref().is_none_or(|who| is_about(record, life, who))
            && port.is_none_or(|port| touches(scope(record, life).0, port))
            && source.is_none_or(|source| overlaps(scope(record, life).1, source))
    }
}

/// The request or grant that an event contains.
fn made(event: &Event) -> Option<Request> {
    match event {
        Event::Granted { grant } | Event::BreakGlass { grant } => Some(Request::Granted(grant.clone())),
        Event::Requested { pending } => Some(Request::Pending(pending.clone())),
        _ => None,
    }
}

fn is_about(record: &Record, life: Option<&Request>, who: &str) -> bool {
    let named = match &record.event {
        Event::Refused { signer, .. } | Event::Approved { signer, .. } => signer.principal == who,
        Event::Refusals { principal, .. } => principal == who,
        Event::Ended { ending, .. } => ending.by == who,
        Event::SessionsCut { by, .. }
        | Event::Enabled { by, .. }
        | Event::Confirmed { by, .. }
        | Event::RolledBack { by, .. } => by == who,
        _ => false,
    };
    let signed = |life: &Request| [life.signer()].into_iter().chain(life.approvers()).any(|s| s.principal == who);
    named || life.is_some_and(signed)
}

/// The ports and sources of a line: those of its grant, or those of a refused request.
fn scope<'a>(record: &'a Record, life: Option<&'a Request>) -> (&'a [PortSpec], &'a [Source]) {
    match (&record.event, life) {
        (Event::Refused { ports, sources, .. }, _) => (ports, sources),
        (_, Some(life)) => (life.ports(), life.sources()),
        (_, None) => (&[], &[]),
    }
}

fn touches(ports: &[PortSpec], port: PortSpec) -> bool {
    let same = |p: &PortSpec| p.number == port.number;
    ports.iter().any(|p| same(p) && (p.protocol.covers(port.protocol) || port.protocol.covers(p.protocol)))
}

fn overlaps(sources: &[Source], source: Source) -> bool {
    let wanted = source.net();
    sources.iter().map(|source| source.net()).any(|net| wanted.contains(&net) || net.contains(&wanted))
}

/// The entry for a record about `life`; `text` is its line.
#[must_use]
pub fn entry(record: &Record, life: Option<&Request>, text: &[u8]) -> Entry {
    let signer = match &record.event {
        Event::Refused { signer, .. } | Event::Approved { signer, .. } => Some(signer),
        _ => life.map(Request::signer),
    };
    let summed = if let Event::Refusals { principal, .. } = &record.event { Some(principal) } else { None };
    Entry {
        seq: record.seq,
        time: record.time,
        kind: record.event.kind(),
        principal: signer.map(|signer| &signer.principal).or(summed).cloned().unwrap_or_default(),
        key: signer.map(|signer| signer.fingerprint.clone()).unwrap_or_default(),
        grant: record.event.subject(),
        ports: scope(record, life).0.to_vec(),
        sources: scope(record, life).1.to_vec(),
        code: code(&record.event).to_owned(),
        reason: reason(&record.event),
        line: String::from_utf8_lossy(text).into_owned(),
    }
}

fn code(event: &Event) -> &str {
    match event {
        Event::Refused { reason, .. } => reason,
        Event::Ended { ending, .. } => ending.cause.code(),
        Event::Clock { state } => state.code(),
        _ => "",
    }
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

fn reason(event: &Event) -> String {
    match event {
        Event::Requested { pending } => pending.request.justification.clone(),
        Event::Approved { missing: 0, .. } => "the last approval it needed".to_owned(),
        Event::Approved { missing, .. } => format!("it needs {missing} more"),
        Event::Granted { grant } | Event::BreakGlass { grant } => grant.justification.clone(),
        Event::Activated { .. } => "its start has come".to_owned(),
        Event::PolicyLoaded { rules, mode: Mode::Enforce, .. } => format!("rules {rules}"),
        Event::PolicyLoaded { rules, mode: Mode::Observe, .. } => format!("rules {rules}; the host only observes"),
        Event::Enabled { trial, by } => format!("{by} has the host enforce on trial until {}", trial.until),
        Event::Confirmed { by, grant: Some(grant) } => format!("{by} confirmed it; somebody came in under {grant}"),
        Event::Confirmed { by, grant: None } => format!("{by} confirmed it without proof"),
        Event::RolledBack { at, by } if by.is_empty() => format!("nobody confirmed it; open again since {at}"),
        Event::RolledBack { at, by } => format!("{by} ended the trial; open again since {at}"),
        Event::Ended { ending: Ending { cause, by, reason, .. }, .. } => {
            let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
            let given = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("{}{by}{given}", cause.sentence())
        }
        Event::SessionsKept { kept, .. } => format!("sessions that may outlive it: {}", kept.len()),
        Event::SessionsCut { by, reason, .. } => {
            let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
            let given = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!("the sessions that outlived it were ended{by}{given}")
        }
        Event::Refused { reason, sentence, .. } => format!("{reason}: {sentence}"),
        Event::Refusals { principal, counts, first, last } => {
            let who = if principal.is_empty() { "people without a role" } else { principal };
            format!("{who}, from {first} to {last}: {}", counted(counts))
        }
        Event::Unverified { counts } => counted(counts),
        Event::Started { version, mode: Mode::Enforce, .. } => format!("posternd {version}"),
        Event::Started { version, mode: Mode::Observe, .. } => format!("posternd {version}; it only observes"),
        Event::Stopped { .. } => String::new(),
        Event::Layer { name, state } => format!("{name}: {state}"),
        Event::Unlocked => "every port was opened by hand".to_owned(),
        Event::Repaired { bytes } => format!("{bytes} bytes of a torn line were cut off"),
        Event::Pruned { through, .. } => format!("the lines up to {through} were removed, as their retention says"),
        Event::Clock { state } => format!("the wall clock: {}", state.sentence()),
        Event::SetAside { path, line, reason } => format!("{path}: line {line} {reason}"),
        Event::Unrecorded { since, reason, refused } => {
            format!(
                "from {since} until then nothing could be written ({reason}): {refused} decisions were refused for that"
            )
        }
    }
}

#[cfg(test)]
mod tests;
