//! Threads of a real process that stand still while its others go on, as if the machine gave them no time.
//!
//! Owns the threads that it stopped, and lets them go on again; the kernel does where the test dies.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use crate::sys;

/// Threads that stand still for as long as this lives. It stays with the thread that made it: only that may let them go on.
pub struct Halted {
    threads: Vec<i32>,
    stays: PhantomData<*const ()>,
}

impl Halted {
    /// Stops these threads.
    ///
    /// # Panics
    /// Where one is no longer there, or is being traced already.
    #[must_use]
    pub fn threads(threads: impl IntoIterator<Item = i32>) -> Self {
        let mut halted = Self { threads: Vec::new(), stays: PhantomData };
        for thread in threads {
            sys::halt(thread).unwrap_or_else(|error| panic!("thread {thread}: {error}"));
            halted.threads.push(thread);
        }
        halted
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        self.threads.iter().for_each(|thread| drop(sys::go_on(*thread)));
    }
}

/// Whether a thread of a process waits for a futex until a time at the latest, as idle threads of a pool do. A thread that serves waits
/// without an end.
#[must_use]
pub fn idles(process: u32, thread: i32) -> bool {
    // proc_pid_syscall(5): the number of the system call and its six arguments; the fourth of futex(2) is the timeout.
    let call = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).unwrap_or_default();
    let words: Vec<_> = call.split_whitespace().collect();
    words.first().and_then(|number| number.parse().ok()) == Some(libc::SYS_futex)
        && words.get(4).is_some_and(|timeout| *timeout != "0x0")
}

/// The names of a process's threads, the oldest first.
#[must_use]
pub fn names(process: u32) -> BTreeMap<i32, String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let name = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
    };
    tasks.filter_map(name).collect()
}

/// How often a thread of `process` has gone to sleep by itself since it began: it grows while the thread comes round.
///
/// # Panics
/// Where there is no such thread.
#[must_use]
pub fn sleeps(process: u32, thread: i32) -> u64 {
    sleeps_of(process, thread).expect("the thread")
}

/// As [`sleeps`]; `None` where the thread has ended.
#[must_use]
pub fn sleeps_of(process: u32, thread: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).ok()?;
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok())
}

/// For how long a thread of `process` was ready to run while no processor was free for it, since it began. Zero on a kernel that does not
/// count it (`CONFIG_SCHED_INFO`).
#[must_use]
pub fn waited(process: u32, thread: i32) -> Duration {
    without_processor(&format!("/proc/{process}/task/{thread}/schedstat"))
}

/// As [`waited`], for the calling thread.
#[must_use]
pub fn waited_here() -> Duration {
    without_processor("/proc/thread-self/schedstat")
}

fn without_processor(schedstat: &str) -> Duration {
    let text = std::fs::read_to_string(schedstat).unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
