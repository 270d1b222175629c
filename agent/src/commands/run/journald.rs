//! The export of the journal's lines to systemd's journal, as structured records.
//!
//! Owns the fields and the export: a task queues each durable line, and a thread sends it to journald. The export never delays a decision.
//! Lines that journald does not take are lost: posternd counts them, reports them in `GetStatus`, and notes the gap in the export.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use libsystemd::logging::{Priority, SD_JOURNAL_SOCK_PATH, journal_send};
use postern_core::condition::Condition;
use postern_core::ledger::Event;
use postern_core::text::{self, shown};
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::JoinHandle;

use crate::engine::{Engine, Published};
use crate::journal::scan::Entry;

const BACKLOG: usize = 1024;
/// The time for the last lines at a stop.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Whether this machine runs journald.
#[must_use]
pub fn is_there() -> bool {
    Path::new(SD_JOURNAL_SOCK_PATH).exists()
}

pub struct Export {
    task: JoinHandle<()>,
    sent: oneshot::Receiver<()>,
}

/// Lines that did not reach journald since the last note of a gap.
#[derive(Default)]
struct Lost {
    count: AtomicU64,
    why: Mutex<String>,
    changed: Notify,
}

impl Lost {
    fn add(&self, count: u64, why: impl std::fmt::Display) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why.to_string();
        self.count.fetch_add(count, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn sentence(&self) -> Option<String> {
        let count = self.count.load(Ordering::Relaxed);
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        (count > 0).then(|| format!("{count} lines of the journal did not reach journald: {why}"))
    }
}

impl Export {
    /// Exports `lines` until the line about the stop of posternd. Fails if the thread cannot be created.
    pub fn start(lines: broadcast::Receiver<Arc<Published>>, engine: Engine) -> std::io::Result<Self> {
        let lost = Arc::new(Lost::default());
        let (queue, queued) = sync_channel(BACKLOG);
        let (done, sent) = oneshot::channel();
        let losses = Arc::clone(&lost);
        thread::Builder::new().name("journald".into()).spawn(move || {
            send_all(&queued, &losses);
            let _ = done.send(());
        })?;
        Ok(Self { task: tokio::spawn(take_over(lines, queue, lost, engine)), sent })
    }

    /// Waits for the last lines, at most [`LAST_LINES`].
    pub async fn finish(self) {
        let Self { task, sent } = self;
        let all = async { (task.await.is_ok(), sent.await.is_ok()) };
        if tokio::time::timeout(LAST_LINES, all).await.is_err() {
            tracing::warn!("journald did not take the last lines of the journal");
        }
    }
}

/// Moves lines into the thread's queue, and reports losses to the engine.
async fn take_over(
    mut lines: broadcast::Receiver<Arc<Published>>,
    queue: SyncSender<Arc<Published>>,
    lost: Arc<Lost>,
    engine: Engine,
) {
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) => {
                    let last = matches!(line.record.event, Event::Stopped { .. });
                    if queue.try_send(line).is_err() {
                        lost.add(1, "journald is too slow");
                    }
                    if last {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => lost.add(missed, "there were too many at once"),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = lost.changed.notified() => engine.degraded(Condition::JournaldLost, lost.sentence()).await,
        }
    }
}

fn send_all(queue: &Receiver<Arc<Published>>, lost: &Lost) {
    while let Ok(line) = queue.recv() {
        let (priority, message, fields) = structured(&line.entry());
        if let Err(error) = journal_send(priority, &message, fields.into_iter()) {
            lost.add(1, error);
            continue;
        }
        let gap = lost.count.swap(0, Ordering::Relaxed);
        if gap > 0 {
            lost.changed.notify_one();
            tracing::error!(lines = gap, "lines of the journal did not reach journald");
            if let Err(error) = note_gap(gap) {
                lost.add(gap, error);
            }
        }
    }
}

fn note_gap(lines: u64) -> Result<(), libsystemd::errors::SdError> {
    let message = format!("{lines} lines of Postern's journal are missing here; `posternd audit export` has them");
    let fields = [("SYSLOG_IDENTIFIER", "posternd"), ("POSTERN_EVENT", "export-gap")];
    journal_send(Priority::Error, &message, fields.into_iter())
}

/// Sends one line to journald, for a process without an engine: `posternd unlock`.
pub fn export(line: &Published) {
    let (priority, message, fields) = structured(&line.entry());
    if let Err(error) = journal_send(priority, &message, fields.into_iter()) {
        tracing::warn!(%error, "journald did not take the line");
    }
}

/// A line as priority, message and fields for journald. Empty fields are left out.
fn structured(entry: &Entry) -> (Priority, String, Vec<(&'static str, String)>) {
    let Entry { seq, time: _, kind, principal, key, grant, ports, sources, code, reason, line } = entry;
    // A line break in a message would look like a second message, and programs may print a field unescaped.
    let (principal, key, reason, code) = (&shown(principal), &shown(key), &shown(reason), &shown(code));
    let joined = |words: Vec<String>| words.join(" ");
    let ports = joined(ports.iter().map(ToString::to_string).collect());
    let sources = joined(sources.iter().map(ToString::to_string).collect());
    let mut message = (*kind).to_owned();
    for (before, part) in [(" ", principal), (" ", &ports), (" from ", &sources), (": ", reason)] {
        if !part.is_empty() {
            message.extend([before, part]);
        }
    }
    let all = [
        ("SYSLOG_IDENTIFIER", "posternd".to_owned()),
        ("POSTERN_EVENT", (*kind).to_owned()),
        ("POSTERN_SEQ", seq.to_string()),
        ("POSTERN_PRINCIPAL", principal.clone()),
        ("POSTERN_KEY", key.clone()),
        ("POSTERN_GRANT_ID", grant.map(|id| id.to_string()).unwrap_or_default()),
        ("POSTERN_PORTS", ports),
        ("POSTERN_SOURCE", sources),
        ("POSTERN_REASON", code.clone()),
        ("POSTERN_LINE", text::json(line).into_owned()),
    ];
    (priority(kind), message, all.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

/// Lines about actions outside the rules, and about lost layers, have a high priority.
fn priority(kind: &str) -> Priority {
    match kind {
        "break-glass" | "unlocked" | "layer" | "set-aside" | "rolled-back" | "unrecorded" => Priority::Critical,
        "repaired" | "clock" | "enabled" | "confirmed" => Priority::Warning,
        "refused" | "refusals" | "unverified" | "policy-loaded" | "pruned" => Priority::Notice,
        _ => Priority::Info,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn entry(kind: &'static str) -> Entry {
        Entry {
            seq: 7,
            time: Timestamp::UNIX_EPOCH,
            kind,
            principal: "alice@example.com".into(),
            key: "SHA256:x".into(),
            grant: Some(Uuid::from_u128(1)),
            ports: vec!["22/tcp".parse().unwrap(), "3389/tcp".parse().unwrap()],
            sources: vec!["192.0.2.7/32".parse().unwrap()],
            code: String::new(),
            reason: "a disk\nis full".into(),
            line: "{}".into(),
        }
    }

    #[test]
    fn a_line_is_told_in_words_and_in_fields() {
        let (priority, message, fields) = structured(&entry("granted"));
        assert_eq!(message, "granted alice@example.com 22/tcp 3389/tcp from 192.0.2.7/32: a disk\\u{a}is full");
        assert_eq!(u8::from(priority), 6);
        let value = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| &value[..]);
        assert_eq!(value("POSTERN_EVENT"), Some("granted"));
        assert_eq!(value("POSTERN_PORTS"), Some("22/tcp 3389/tcp"));
        assert_eq!(value("POSTERN_REASON"), None, "nothing is not a reason");
    }

    #[test]
    fn what_went_around_the_rules_is_loud_and_every_kind_has_a_priority() {
        for kind in Event::KINDS {
            let wanted = match *kind {
                "break-glass" | "unlocked" | "layer" | "set-aside" | "rolled-back" | "unrecorded" => 0..=2,
                "started" | "stopped" | "requested" | "approved" | "granted" | "activated" | "ended"
                | "sessions-kept" | "sessions-cut" => 6..=6,
                _ => 3..=5,
            };
            assert!(wanted.contains(&u8::from(structured(&entry(kind)).0)), "{kind}");
        }
    }
}
