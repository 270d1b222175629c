//! Crashes and disk faults at system calls of a real process, by the real `strace`: the program under test has no code for it.
//!
//! Owns the tracers that it starts, and takes them away again without harm to who was traced. Counts and faults hold for each thread
//! and each system call by itself, as strace counts them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::sys;

/// What changes files, the kernel's tables or what others have been told: where a crash could leave something half done.
pub const EFFECTS: [&str; 10] =
    ["write", "pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink", "bpf", "sendto", "writev"];

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The process is killed (SIGKILL) on its way in: the call does not happen.
    Kill,
    /// The call fails with this error, for example `ENOSPC`, and does nothing.
    Fail(&'static str),
    /// The call happens that many milliseconds later.
    Delay(u64),
}

/// A fault: which system call, which of them, and what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The system call's name.
    pub call: &'static str,
    /// Which of a thread's calls, from 1; every one when `None`.
    pub nth: Option<u32>,
    /// What happens.
    pub effect: Effect,
}

impl Fault {
    /// Death at a thread's n-th call.
    #[must_use]
    pub const fn kill(call: &'static str, nth: u32) -> Self {
        Self { call, nth: Some(nth), effect: Effect::Kill }
    }

    /// Each call fails.
    #[must_use]
    pub const fn fail(call: &'static str, error: &'static str) -> Self {
        Self { call, nth: None, effect: Effect::Fail(error) }
    }
}

impl fmt::Display for Fault {
    /// As strace wants it behind `inject=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Kill => write!(f, "{}:signal=SIGKILL", self.call)?,
            Effect::Fail(error) => write!(f, "{}:error={error}", self.call)?,
            Effect::Delay(milliseconds) => write!(f, "{}:delay_enter={milliseconds}ms", self.call)?,
        }
        self.nth.map_or(Ok(()), |nth| write!(f, ":when={nth}"))
    }
}

/// Whose system calls are traced.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Every thread's.
    Process,
    /// Those of the one thread of this name.
    Thread(&'a str),
    /// Every thread's, but only those that have to do with one of these files. They must exist.
    Files(&'a [PathBuf]),
}

/// The words to put before a program so that it starts under these faults. It stays its starter's own child (`-D`), so
/// signals and waiting work as without.
#[must_use]
pub fn wrapper(faults: &[Fault], log: &Path) -> Vec<String> {
    // Without --seccomp-bpf, which is quicker: strace 6.1 sends no signal then.
    let mut words: Vec<String> = ["strace", "-D", "-f", "-qqq"].map(str::to_owned).to_vec();
    words.extend(arguments(faults, log));
    words
}

fn arguments(faults: &[Fault], log: &Path) -> Vec<String> {
    let mut words = vec!["-o".to_owned(), log.display().to_string()];
    let calls: Vec<&str> = if faults.is_empty() { EFFECTS.to_vec() } else { faults.iter().map(|f| f.call).collect() };
    words.extend(["-e".to_owned(), format!("trace={}", calls.join(","))]);
    words.extend(faults.iter().flat_map(|fault| ["-e".to_owned(), format!("inject={fault}")]));
    words
}

/// A tracer on a running process; dropping it sets the process free.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    log: PathBuf,
    /// Thread ids and names when it was attached.
    threads: BTreeMap<String, String>,
}

impl Tracer {
    /// Traces `process` from now on, with these faults; with none, its [`EFFECTS`] are noted. What is traced is written to
    /// `log`.
    ///
    /// # Panics
    /// Where strace is not there or may not, or there is no such thread.
    #[must_use]
    pub fn attach(process: u32, scope: Scope<'_>, faults: &[Fault], log: &Path) -> Self {
        let mut command = Command::new("strace");
        match scope {
            Scope::Process => command.args(["-f", "-p", &process.to_string()]),
            Scope::Thread(name) => {
                let thread = names(process).into_iter().find(|(_, known)| known == name);
                command.args(["-p", &thread.unwrap_or_else(|| panic!("no thread {name}")).0])
            }
            Scope::Files(files) => {
                for file in files {
                    command.arg("-P").arg(file);
                }
                command.args(["-f", "-p", &process.to_string()])
            }
        };
        let threads = names(process);
        let mut strace = command
            .args(arguments(faults, log))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error} (cargo xtask setup installs it)"));
        let mut told = BufReader::new(strace.stderr.take().expect("a pipe"));
        let mut line = String::new();
        told.read_line(&mut line).expect("what strace says");
        assert!(line.contains("attached"), "strace: {line}");
        // Whatever else it says has to go somewhere.
        std::thread::spawn(move || told.read_to_end(&mut Vec::new()));
        Self { strace, log: log.to_owned(), threads }
    }

    /// Sets the process free and says how many of each system call were begun, by the thread's name and the call's. Of threads of
    /// one name the busiest counts.
    ///
    /// # Panics
    /// Where strace left no log.
    #[must_use]
    pub fn counts(mut self) -> BTreeMap<(String, String), u32> {
        // At SIGTERM it writes its log to the end. It may have ended with the process.
        let _ = sys::signal(self.strace.id(), libc::SIGTERM);
        let _ = self.strace.wait();
        counts(&self.log, &self.threads)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // The kernel sets free whose tracer dies. Asked to detach from a process that is just being killed, strace 6.1 waits
        // for ever (for the first thread, which is there until the others have been waited for).
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The names of a process's threads, by their ids.
fn names(process: u32) -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let name = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_string_lossy().into_owned(), name.trim_end().to_owned()))
    };
    tasks.filter_map(name).collect()
}

/// How many of each system call a tracer's log holds, by the names of thread and call; a thread that `threads` does not
/// know counts as its number.
///
/// # Panics
/// Where there is no log.
#[must_use]
pub fn counts(log: &Path, threads: &BTreeMap<String, String>) -> BTreeMap<(String, String), u32> {
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    let mut each: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        // `CALL(…`; not `<... CALL resumed>`, `--- SIGNAL` and `+++ exited`.
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if EFFECTS.contains(&call) {
            *each.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((thread, call), count) in each {
        let name = threads.get(thread).map_or(thread, |name| name);
        let known = most.entry((name.to_owned(), call.to_owned())).or_insert(0);
        *known = count.max(*known);
    }
    most
}
