//! logind: its sessions, and the terminals of their processes.
//!
//! Reads /run/systemd/sessions, as libsystemd's `sd_session_get_*` do. logind does not know the terminal of an ssh session, because sshd
//! opens it later; the kernel knows the terminal of each process.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::process;

const MOST_SESSIONS: usize = 1024;
/// The most bytes of a session's file.
const MOST_BYTES: u64 = 1 << 16;
/// sshd, its unprivileged process, the shell, and one more for sessions with something in between.
const MOST_DEPTH: usize = 4;
/// Of one session.
const MOST_PROCESSES: usize = 64;
/// The first major number of `/dev/pts/*`; newer kernels use no other.
const PTS_MAJOR: u32 = 136;

/// The terminals of remote sessions, with the remote address.
pub(super) fn logins(folder: &Path) -> Vec<(u32, IpAddr)> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let sessions = files.flatten().take(MOST_SESSIONS).filter_map(|file| {
        // A session's file may have a FIFO beside it, which must not be opened.
        let plain = file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MOST_BYTES);
        plain.then(|| fs::read_to_string(file.path()).ok())?
    });
    let terminals = |(leader, from)| terminals_below(leader).into_iter().map(move |terminal| (terminal, from));
    sessions.filter_map(|text| session(&text)).flat_map(terminals).collect()
}

/// The first process and the address of a remote session.
fn session(text: &str) -> Option<(u32, IpAddr)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let from: IpAddr = value("REMOTE_HOST")?.parse().ok()?;
    Some((value("LEADER")?.parse().ok()?, from.to_canonical()))
}

/// The terminals of `leader` and its descendants; those with a terminal are not followed further.
fn terminals_below(leader: u32) -> Vec<u32> {
    let (mut found, mut looked_at, mut generation) = (Vec::new(), 0, vec![leader]);
    for _ in 0..MOST_DEPTH {
        let mut next = Vec::new();
        for pid in generation {
            looked_at += 1;
            if looked_at > MOST_PROCESSES {
                return found;
            }
            match process(pid, "stat").as_deref().and_then(terminal_of) {
                Some(terminal) => found.push(terminal),
                None => next.extend(children(pid)),
            }
        }
        generation = next;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let text = process(pid, &format!("task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The terminal below `/dev/pts` in a process's `stat`. The name in parentheses may contain anything.
fn terminal_of(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let device = after_name.split_ascii_whitespace().nth(4)?.parse::<i32>().ok()?.cast_unsigned();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    (major == PTS_MAJOR).then_some(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_an_address_and_a_first_process() {
        let text = "# This is private data. Do not parse.\nUID=0\nREMOTE=1\nREMOTE_HOST=192.0.2.7\nLEADER=17\n";
        assert_eq!(session(text), Some((17, [192, 0, 2, 7].into())));
        assert_eq!(session(&text.replace("192.0.2.7", "::ffff:192.0.2.7")), session(text));
        for bad in ["LEADER=17", "REMOTE_HOST=192.0.2.7", "REMOTE_HOST=laptop.example.com\nLEADER=17", "", "LEADER"] {
            assert_eq!(session(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_terminal_is_read_past_any_name() {
        let stat = |name: &str, device: u32| format!("7 ({name}) S 1 7 7 {device} 7 4194304 100");
        assert_eq!(terminal_of(&stat("sh", 136 << 8 | 3)), Some(3));
        assert_eq!(terminal_of(&stat(") S 1 7 7 34817 (", 136 << 8 | 3)), Some(3));
        assert_eq!(terminal_of(&stat("sh", 136 << 8 | 300 & 0xff | (300 & 0xf_ff00) << 12)), Some(300));
        for other in [stat("sh", 0), stat("login", 4 << 8 | 1), "7 (sh".to_owned(), String::new()] {
            assert_eq!(terminal_of(&other), None, "{other}");
        }
    }

    #[test]
    fn what_stands_beside_the_sessions_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("1.ref");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        fs::create_dir(folder.path().join("folder")).unwrap();
        fs::write(folder.path().join("1"), "REMOTE_HOST=192.0.2.7\nLEADER=2147483647\n").unwrap();
        assert_eq!(logins(folder.path()), []);
        assert_eq!(logins(&folder.path().join("none")), []);
    }
}
