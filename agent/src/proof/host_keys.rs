//! Watches the SSH host keys on the disk, and chooses the proofs that clients see.
//!
//! Owns the proofs by the present keys and by those replaced since the start: sshd serves a replaced key until it restarts. Reads no
//! private key: [`super::prover`] does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::certificate::{Version, version};
use super::prover::{Found, MOST, Prover, Without, files};
use super::{Proof, Signed};

/// How long a call waits for a slow disk before it gets the previous proofs.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a start waits for the keys. Then posternd serves without them until they are read.
const FIRST: Duration = Duration::from_secs(5);
/// How often the helper is asked, if the agent's user may not list the directory.
const PAUSE: Duration = Duration::from_millis(100);
/// A file that changed within this time before a read may change again with the same timestamp: the kernel's clock for files ticks every
/// 1 to 10 ms.
const SETTLED: Duration = Duration::from_millis(100);

/// The SSH host keys of this host.
pub struct HostKeys {
    dir: PathBuf,
    reports: Reports,
    tls_audience: String,
    source: Mutex<Source>,
    seen: Mutex<Seen>,
    /// Allows one look at a time. Contains the detail of the condition after the last look.
    looking: Arc<tokio::sync::Mutex<Option<String>>>,
    shown: RwLock<Arc<Proof>>,
}

/// The engine's functions that receive changes from [`HostKeys`].
pub struct Reports {
    /// Receives the audience of the TLS key and the fingerprints of SSH host keys, before a client sees a proof by one of them.
    pub holds: Box<dyn Fn(String, Vec<String>) + Send + Sync>,
    /// Receives the detail of the condition `host-keys`; `None`: the condition does not hold.
    pub condition: Box<dyn Fn(Option<String>) -> BoxFuture<'static, ()> + Send + Sync>,
}

/// Asks the helper to read the private keys and to sign the given text with each.
pub(crate) type Remote = Box<dyn FnMut(&str) -> io::Result<Found> + Send>;

/// Reads the private keys and signs with each.
type Source = Box<dyn FnMut() -> Result<Found, String> + Send>;

struct Seen {
    /// `None`: that look must be repeated.
    marks: Option<Marks>,
    at: Instant,
}

/// The key files, private and public, with their versions.
type Marks = Vec<(PathBuf, Version)>;

impl HostKeys {
    /// Reads the keys in `dir` and signs with them; `remote` does both if this process may not read the private keys.
    /// `payload` is the text to sign ([`super::payload`]), `tls_fingerprint` is `SHA256:…` of the TLS certificate.
    pub(crate) async fn start(
        dir: &Path,
        remote: Option<Remote>,
        reports: Reports,
        payload: String,
        tls_fingerprint: &str,
    ) -> Arc<Self> {
        let source: Source = match (remote, payload.clone()) {
            (Some(mut remote), payload) => Box::new(move || remote(&payload).map_err(|error| error.to_string())),
            (None, payload) => {
                let mut prover = Prover::new(dir, payload);
                Box::new(move || Ok(prover.look()))
            }
        };
        let this = Arc::new(Self {
            dir: dir.to_owned(),
            reports,
            tls_audience: format!("tls:{tls_fingerprint}"),
            source: Mutex::new(source),
            seen: Mutex::new(Seen { marks: None, at: Instant::now() }),
            looking: Arc::default(),
            shown: RwLock::new(Arc::new(Proof { payload, ..Proof::default() })),
        });
        // Messages may name the TLS key even if no SSH host key can be read.
        (this.reports.holds)(this.tls_audience.clone(), Vec::new());
        let _ = timeout(FIRST, this.looked(true)).await;
        this
    }

    /// The proof to show now, after a read of changed files. A slow disk delays this by [`PATIENCE`] at most, and blocks no serving thread.
    pub async fn current(self: &Arc<Self>) -> Arc<Proof> {
        let _ = timeout(PATIENCE, self.looked(false)).await;
        self.shown()
    }

    /// Waits for its turn, then looks. The look continues after the caller stops waiting.
    async fn looked(self: &Arc<Self>, first: bool) {
        let turn = Arc::clone(&self.looking).lock_owned().await;
        let this = Arc::clone(self);
        let _ = tokio::spawn(this.look(turn, first)).await;
    }

    /// Reads changed files. Blocks on the disk, so it needs a thread that may wait.
    pub fn look_for_changes(self: &Arc<Self>, runtime: &Handle) {
        self.shown().signed.iter().for_each(|one| one.refresh());
        if self.has_news() {
            runtime.block_on(self.looked(false));
        }
    }

    fn shown(&self) -> Arc<Proof> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_news(&self) -> bool {
        let now = marks(&self.dir);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match now {
            Ok(now) => seen.marks.as_ref() != Some(&now),
            Err(_) => seen.at.elapsed() >= PAUSE,
        }
    }

    /// Reads changed files, signs with the keys, and shows the result.
    async fn look(self: Arc<Self>, mut told: OwnedMutexGuard<Option<String>>, first: bool) {
        let this = Arc::clone(&self);
        let looked = tokio::task::spawn_blocking(move || this.read(first)).await;
        let (before, found) = match looked {
            Ok(None) => return,
            Ok(Some((before, found))) => (before, found),
            Err(error) => (None, Err(error.to_string())),
        };
        let why = match found {
            Ok(found) => {
                let why = condition(&found.without);
                self.show(found);
                why
            }
            Err(error) => Some(format!(
                "the SSH host keys cannot be read again, so clients do not see a change of them: {error}. posternd tries again by \
                 itself"
            )),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { marks: before, at: Instant::now() };
        if first || *told != why {
            (self.reports.condition)(why.clone()).await;
            *told = why;
        }
    }

    /// Reads the certificates and keys that have changed. Everything that waits for the disk is here.
    fn read(&self, first: bool) -> Option<(Option<Marks>, Result<Found, String>)> {
        self.shown().signed.iter().for_each(|one| one.refresh());
        if !first && !self.has_news() {
            return None;
        }
        let before = marks(&self.dir).ok().filter(are_settled);
        Some((before, self.source.lock().unwrap_or_else(PoisonError::into_inner)()))
    }

    /// The engine accepts messages that name a key before a client sees the proof by that key.
    fn show(&self, found: Found) {
        let before = self.shown();
        let mut signed: Vec<Arc<Signed>> = Vec::new();
        for proof in found.proofs {
            let public = proof.blob();
            let known = before.signed.iter().find(|one| one.is_current_at(&proof.file, &public));
            let one = known.cloned().unwrap_or_else(|| {
                let one = Arc::new(Signed::new(&proof.file, public, proof.signature));
                tracing::info!(host_key = one.fingerprint(), "clients may know this host by its SSH host key");
                one
            });
            signed.push(one);
        }
        let replaced = before.signed.iter().filter(|one| signed.iter().all(|other| other.public != one.public));
        let replaced: Vec<_> = replaced.map(|one| Arc::new(one.replaced())).collect();
        signed.extend(replaced);
        signed.truncate(MOST);
        (self.reports.holds)(self.tls_audience.clone(), signed.iter().map(|one| one.fingerprint()).collect());
        let without = found.without.into_iter().map(|Without { kind, why, .. }| (kind, why)).collect();
        let proof = Proof { payload: before.payload.clone(), signed, without };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(proof);
    }
}

fn marks(dir: &Path) -> io::Result<Marks> {
    let all = [files(dir, "_key")?, files(dir, "_key.pub")?].concat();
    Ok(all
        .into_iter()
        .filter_map(|file| Some((version(&fs::metadata(&file).ok()?), file)))
        .map(|(v, f)| (f, v))
        .collect())
}

/// Whether each file changed so long ago that the next change gives it another version.
fn are_settled(marks: &Marks) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    marks.iter().all(|(_, (_, _, seconds, nanoseconds))| {
        let changed = Duration::new(u64::try_from(*seconds).unwrap_or(0), u32::try_from(*nanoseconds).unwrap_or(0));
        now.abs_diff(changed) >= SETTLED
    })
}

/// The detail of the condition: the files that the administrator must repair.
fn condition(without: &[Without]) -> Option<String> {
    let faults: Vec<_> = without.iter().filter(|one| one.is_fault).collect();
    let list: Vec<_> = faults.iter().map(|one| format!("{}: {}", one.file.display(), one.why)).collect();
    (!list.is_empty()).then(|| {
        format!(
            "an SSH host key cannot prove who this host is, so clients that know this host by that key alone refuse it or ask: {}. \
             Mend or remove the file; posternd reads it again by itself",
            list.join("; ")
        )
    })
}
