//! Detects that a `ssh -G` of another `postern` started this process. `ssh -G` evaluates `Match exec`, so with `Match exec "postern request
//! %h"` in `ssh_config` the client would call itself without end.

use std::{fs, path::Path};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

/// The environment variable that the client sets for `ssh -G`: its own `PID.START`. START is the start time in `/proc/PID/stat`.
pub const MARK: &str = "POSTERN_WITHIN_SSH";

/// How many ancestors [`is_within`] looks at.
const MOST_ABOVE: usize = 64;

/// The value of [`MARK`] for this process.
#[must_use]
pub fn mark() -> String {
    let pid = std::process::id();
    format!("{pid}.{}", Process::of(pid).map_or(0, |process| process.start))
}

/// Whether another `postern` waits for the `ssh -G` that started this process. The ancestors of this process decide if a program in between
/// has cleared the environment (`sudo`, `env -i`).
#[must_use]
pub fn is_within() -> bool {
    std::env::var(MARK).is_ok_and(|mark| is_alive(&mark)) || is_below_another()
}

/// Whether the process of `mark` still runs. Long-lived programs of `Match exec`, such as a terminal multiplexer, keep a stale variable.
fn is_alive(mark: &str) -> bool {
    let (pid, start) = mark.split_once('.').unwrap_or((mark, "0"));
    let (Ok(pid), Ok(start)) = (pid.parse::<i32>(), start.parse::<u64>()) else { return false };
    // A number below 1 is no process, and `Pid` takes none below 0.
    let Some(known) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else { return false };
    let runs = !matches!(test_kill_process(known), Err(Errno::SRCH));
    let now = Process::of(pid.unsigned_abs()).map(|process| process.start);
    // `/proc` may hide processes of other users. Then the PID alone decides.
    runs && (start == 0 || now.is_none_or(|now| now == start))
}

/// Whether an ancestor is a `postern`, with a `ssh -G` in between.
fn is_below_another() -> bool {
    let Some(own) = Process::of(std::process::id()) else { return false };
    let (mut asks, mut above) = (false, own.parent);
    for _ in 0..MOST_ABOVE {
        let Some(process) = Process::of(above) else { return false };
        if asks && (process.name == own.name || process.name == "postern") {
            return true;
        }
        asks |= is_asking_ssh(&arguments(above));
        above = process.parent;
    }
    false
}

/// Whether these are the arguments of `ssh -G`, or of a script with the name `ssh`.
fn is_asking_ssh(arguments: &[String]) -> bool {
    let is_ssh = |word: &String| Path::new(word).file_name().is_some_and(|name| name == "ssh");
    arguments.iter().take(2).any(is_ssh) && arguments.iter().any(|word| word == "-G")
}

fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

struct Process {
    name: String,
    parent: u32,
    start: u64,
}

impl Process {
    /// None if the process is gone or hidden, or if the system has no `/proc`.
    fn of(pid: u32) -> Option<Self> {
        let line = fs::read(format!("/proc/{pid}/stat")).ok().filter(|_| pid > 0)?;
        Self::parse(&String::from_utf8_lossy(&line))
    }

    /// The name is in parentheses and may contain parentheses and blanks. The parent is field 4, the start time field 22.
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { name: name.to_owned(), parent, start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_is_alive_and_one_that_is_gone_is_not() {
        assert!(is_alive(&mark()));
        let own = std::process::id();
        assert!(is_alive(&own.to_string()));
        for stale in [format!("{own}.1"), "999999999.5".to_owned(), "0".to_owned(), "-1".to_owned(), String::new()] {
            assert!(!is_alive(&stale), "{stale}");
        }
        assert!(!is_below_another(), "no ssh is above this test");
    }

    #[test]
    fn a_name_with_parentheses_is_read() {
        let fields = (4..=30).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let process = Process::parse(&format!("12 (a) b (c) S {fields}")).unwrap();
        assert_eq!((process.name.as_str(), process.parent, process.start), ("a) b (c", 4, 22));
    }

    #[test]
    fn only_ssh_with_its_option_asks() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_asking_ssh(&words("/usr/bin/ssh -G -- vm1")));
        assert!(is_asking_ssh(&words("/bin/sh /home/a/ssh -G -- vm1")));
        assert!(!is_asking_ssh(&words("ssh vm1")) && !is_asking_ssh(&words("less -G")));
    }
}
