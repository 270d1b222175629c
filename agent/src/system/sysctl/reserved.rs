//! The ports that the kernel gives to no connection of the host as its source port.
//!
//! Owns `net.ipv4.ip_local_reserved_ports` (for IPv6 too): a connection with a protected source port would be refused. Adds to the list of
//! others, again after they overwrite it, and gives back only its own ports (docs/security.md, "The list of reserved ports").

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::system::guarded;
use crate::system::host::write_durably;

/// In the network namespace of the thread that opens the file.
const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// In the state directory: the boot id, the ports that posternd added in that boot, and the whole list as posternd left it.
const RECORD: &str = "reserved-ports";
/// Bytes for all 65536 ports, each with a comma.
const LONGEST: usize = 8 * 65536;

/// How often posternd corrects an overwritten list without a pause.
const AT_ONCE: u32 = 6;
/// The time until one more correction is allowed, which makes twelve a minute.
const PAUSE: Duration = Duration::from_secs(5);
/// After this time without an overwrite, the quarrel is over.
const QUIET: Duration = Duration::from_secs(3);

/// The opened setting: a process that gave up its rights can still change it.
pub struct Reserved {
    /// The file, or why it cannot be written.
    setting: Result<File, String>,
    record: PathBuf,
    boot_id: Uuid,
    quarrel: Mutex<Quarrel>,
}

impl Reserved {
    /// Opens the setting of the calling thread's network namespace. [`Self::keep`] reports a setting that cannot be written.
    #[must_use]
    pub fn open(state: &Path, boot_id: Uuid) -> Self {
        let setting = OpenOptions::new().read(true).write(true).open(PATH).map_err(|error| error.to_string());
        Self { setting, record: state.join(RECORD), boot_id, quarrel: Mutex::new(Quarrel::new(Instant::now())) }
    }

    /// Reserves `ports`, and records which of them posternd added. Returns what is wrong, in words; `None` if they are reserved. Must be
    /// called regularly: each call restores what others have removed, within the limits of [`AT_ONCE`] and [`PAUSE`].
    #[must_use]
    pub fn keep(&self, ports: &BTreeSet<u16>) -> Option<String> {
        self.keep_at(ports, Instant::now())
    }

    fn keep_at(&self, ports: &BTreeSet<u16>, at: Instant) -> Option<String> {
        let mut quarrel = self.quarrel.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match self.read() {
            Ok(now) => now,
            Err(error) => {
                return Some(format!("net.ipv4.ip_local_reserved_ports cannot be read: {error}; mount /proc/sys"));
            }
        };
        let missing: BTreeSet<u16> = ports.difference(&now).copied().collect();
        // A port that a reload adds is no quarrel.
        let taken = quarrel.wanted.intersection(&missing).next().is_some();
        quarrel.wanted.clone_from(ports);
        if missing.is_empty() {
            return quarrel.goes_on(at).then(|| Self::overwritten(ports));
        }
        if taken && !quarrel.may_answer(at) {
            return Some(Self::overwritten(&missing));
        }
        match self.add(&now, &missing) {
            Err(error) => Some(format!(
                "net.ipv4.ip_local_reserved_ports lacks {}: {error}: an outgoing connection may get such a port as its source port and be \
                 refused; make /proc/sys writable for posternd, or add the ports with sysctl",
                list(&missing)
            )),
            Ok(()) => quarrel.goes_on(at).then(|| Self::overwritten(ports)),
        }
    }

    fn overwritten(ports: &BTreeSet<u16>) -> String {
        format!(
            "another program keeps overwriting net.ipv4.ip_local_reserved_ports: an outgoing connection may get one of the ports {} as its \
             source port and be refused; posternd adds them every {} s; have that program keep them in the list",
            list(ports),
            PAUSE.as_secs()
        )
    }

    /// Adds `missing` to the list `now`. The record comes first. If the disk refuses it, the ports are still reserved, and stay so when
    /// Postern gives its ports back.
    fn add(&self, now: &BTreeSet<u16>, missing: &BTreeSet<u16>) -> io::Result<()> {
        self.writable()?;
        let ours = self.ours(now).union(missing).copied().collect();
        let whole = now.union(missing).copied().collect();
        let text = format!("{}\n{}\n{}\n", self.boot_id, list(&ours), list(&whole));
        let recorded = write_durably(&self.record, 1, text.as_bytes());
        self.write(&whole)?;
        if let Err(error) = recorded {
            tracing::warn!(%error, "it is not on record which ports were added to net.ipv4.ip_local_reserved_ports");
        }
        Ok(())
    }

    /// Removes the ports that were added since the host booted, unless another program has written the list since: it then owns the list.
    ///
    /// # Errors
    /// Fails if the setting cannot be read or written, or if the record cannot be removed.
    pub fn give_back(&self) -> io::Result<()> {
        let now = self.read()?;
        let ours = self.ours(&now);
        if ours.is_empty() {
            return Ok(());
        }
        self.write(&now.difference(&ours).copied().collect())?;
        self.in_state(|| fs::remove_file(&self.record))?
    }

    /// The ports added in this boot, which the setting does not outlive, if the list `now` is still as posternd left it.
    fn ours(&self, now: &BTreeSet<u16>) -> BTreeSet<u16> {
        let read = self.in_state(|| guarded::read_to_string(&self.record, 1));
        let text = read.and_then(|text| text).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next().and_then(|boot| boot.parse().ok()) != Some(self.boot_id) {
            return BTreeSet::new();
        }
        let ours = lines.next().map(parse).unwrap_or_default();
        // Older records lack the whole list.
        match lines.next() {
            Some(whole) if parse(whole) != *now => BTreeSet::new(),
            _ => ours,
        }
    }

    /// `posternd unlock` runs as root, but the record belongs to the agent's user.
    fn in_state<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        guarded::as_owner(self.record.parent().unwrap_or(&self.record), work)
    }

    fn writable(&self) -> io::Result<&File> {
        self.setting.as_ref().map_err(|why| io::Error::other(format!("it cannot be written: {why}")))
    }

    fn read(&self) -> io::Result<BTreeSet<u16>> {
        let Ok(setting) = &self.setting else { return Ok(parse(&fs::read_to_string(PATH)?)) };
        // One read gives all of it.
        let mut buffer = vec![0; LONGEST];
        let length = setting.read_at(&mut buffer, 0)?;
        Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
    }

    fn write(&self, ports: &BTreeSet<u16>) -> io::Result<()> {
        self.writable()?.write_all_at(format!("{}\n", list(ports)).as_bytes(), 0)
    }
}

/// How often posternd has corrected an overwritten list.
struct Quarrel {
    /// The ports to reserve at the last look.
    wanted: BTreeSet<u16>,
    /// Corrections that are allowed without a pause.
    left: u32,
    /// When `left` last grew.
    since: Instant,
    /// When `left` last became 0.
    exhausted: Option<Instant>,
}

impl Quarrel {
    fn new(at: Instant) -> Self {
        Self { wanted: BTreeSet::new(), left: AT_ONCE, since: at, exhausted: None }
    }

    /// Whether the list may be corrected at `at`. Uses up one correction.
    fn may_answer(&mut self, at: Instant) -> bool {
        while self.left < AT_ONCE && at.saturating_duration_since(self.since) >= PAUSE {
            self.left += 1;
            self.since += PAUSE;
        }
        if self.left == AT_ONCE {
            self.since = at;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        if self.left == 0 {
            self.exhausted = Some(at);
        }
        true
    }

    /// Whether another program overwrote the list a moment ago, and too often before.
    fn goes_on(&self, at: Instant) -> bool {
        self.exhausted.is_some_and(|last| at.saturating_duration_since(last) < QUIET)
    }
}

/// Parses the kernel's format: `80,5000-5002`.
fn parse(text: &str) -> BTreeSet<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.lines().next().unwrap_or_default().trim().split(',').filter_map(range).flatten().collect()
}

fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<u16> = ports.iter().copied().collect();
    let ranges = ports.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain file in place of the setting; tests/tests/boot.rs and tests/tests/field/reserved_ports.rs use the kernel's.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new(text: &str) -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            this.overwrite(text);
            this
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("setting")
        }

        fn overwrite(&self, text: &str) {
            fs::write(self.path(), format!("{text}\n")).unwrap();
        }

        fn open(&self, boot_id: u128) -> Reserved {
            let setting = OpenOptions::new().read(true).write(true).open(self.path()).map_err(|e| e.to_string());
            let quarrel = Mutex::new(Quarrel::new(Instant::now()));
            Reserved { setting, record: self.0.path().join(RECORD), boot_id: Uuid::from_u128(boot_id), quarrel }
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap().lines().next().unwrap().to_owned()
        }
    }

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse("80,5000-5002\n"), [80, 5000, 5001, 5002].into());
        assert_eq!(parse("\n"), [].into());
        assert_eq!(list(&[80, 5000, 5001, 5002, 65534, 65535].into()), "80,5000-5002,65534-65535");
        assert_eq!(list(&[].into()), "");
    }

    #[test]
    fn only_what_was_added_in_this_boot_is_given_back() {
        let place = Place::new("22");
        let reserved = place.open(1);
        assert_eq!(reserved.keep(&[22, 3389].into()), None);
        assert_eq!(reserved.keep(&[3389, 5985].into()), None);
        assert_eq!(place.text(), "22,3389,5985");
        place.open(2).give_back().unwrap();
        assert_eq!(place.text(), "22,3389,5985", "another boot added nothing");
        reserved.give_back().unwrap();
        assert_eq!(place.text(), "22");
        reserved.give_back().unwrap();
    }

    #[test]
    fn what_others_wrote_since_is_never_taken_out() {
        let place = Place::new("");
        let reserved = place.open(1);
        assert_eq!(reserved.keep(&[22, 3389].into()), None);
        place.overwrite("22,9000");
        assert_eq!(reserved.keep(&[22, 3389].into()), None);
        assert_eq!(place.text(), "22,3389,9000");
        // As another process, which has only the record.
        place.open(1).give_back().unwrap();
        assert_eq!(place.text(), "22,9000");
        assert_eq!(reserved.keep(&[22, 3389].into()), None);
        place.overwrite("22,3389");
        place.open(1).give_back().unwrap();
        assert_eq!(place.text(), "22,3389", "all of it is theirs");
    }

    #[test]
    fn a_program_that_overwrites_the_list_for_ever_is_answered_with_pauses() {
        let place = Place::new("");
        let (reserved, ports, start) = (place.open(1), [22].into(), Instant::now());
        assert_eq!(reserved.keep_at(&ports, start), None);
        let mut answered = 0;
        for half in 1..=240 {
            place.overwrite("9000");
            let at = start + Duration::from_millis(500) * half;
            let told = reserved.keep_at(&ports, at);
            let merged = place.text() == "22,9000";
            answered += u32::from(merged);
            assert!(told.is_some() || (merged && answered < AT_ONCE), "{half}: {told:?}");
        }
        // Two minutes: the first corrections, and one for each pause.
        assert!((AT_ONCE..=AT_ONCE + 24).contains(&answered), "{answered}");
        let after = start + Duration::from_secs(200);
        assert_eq!(reserved.keep_at(&ports, after), None, "the quarrel is over");
        assert_eq!(place.text(), "22,9000");
    }

    #[test]
    fn a_list_that_cannot_be_written_is_named() {
        let place = Place::new("9000");
        let reserved = Reserved { setting: File::open(place.path()).map_err(|e| e.to_string()), ..place.open(1) };
        let told = reserved.keep(&[22].into()).unwrap();
        assert!(told.contains("lacks 22"), "{told}");
        place.overwrite("22,9000");
        assert_eq!(reserved.keep(&[22].into()), None, "somebody else has reserved it");
    }
}
