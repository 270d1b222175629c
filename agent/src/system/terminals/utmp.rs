//! utmp: the sessions that sshd and login record, in the layout that glibc fixes. Debian 13 has no utmp, but logind.

use std::fs::File;
use std::io::Read as _;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::{number_of, process};

type Raw = libc::utmpx;

/// The most bytes that are read: about 10,000 records.
const MOST_BYTES: u64 = 4 << 20;

/// The terminals of remote sessions in `file`, with the remote address. An entry whose process is gone is stale.
pub(super) fn logins(file: &Path) -> impl Iterator<Item = (u32, IpAddr)> + use<> {
    let mut bytes = Vec::new();
    // A file that cannot be read has no entries.
    let _ = File::open(file).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    let alive = |(pid, terminal, from)| process(pid, "stat").map(|_| (terminal, from));
    entries(&bytes).into_iter().filter_map(alive)
}

/// Process, terminal and address of each remote session.
fn entries(bytes: &[u8]) -> Vec<(u32, u32, IpAddr)> {
    bytes.chunks_exact(size_of::<Raw>()).filter_map(entry).collect()
}

fn entry(record: &[u8]) -> Option<(u32, u32, IpAddr)> {
    let kind = i16::from_ne_bytes(field(record, offset_of!(Raw, ut_type))?);
    let pid = u32::from_ne_bytes(field(record, offset_of!(Raw, ut_pid))?);
    let line: [u8; 32] = field(record, offset_of!(Raw, ut_line))?;
    let address: [u8; 16] = field(record, offset_of!(Raw, ut_addr_v6))?;
    let terminal = number_of(text(&line)?)?;
    // An IPv4 address has the first four bytes only. All bytes are 0 for a name that nobody looked up.
    let from = match address {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => {
            let host: [u8; 256] = field(record, offset_of!(Raw, ut_host))?;
            text(&host)?.parse().ok()?
        }
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => IpAddr::from([a, b, c, d]),
        six => IpAddr::V6(Ipv6Addr::from(six)),
    };
    (kind == libc::USER_PROCESS).then_some((pid, terminal, from.to_canonical()))
}

fn field<const N: usize>(record: &[u8], at: usize) -> Option<[u8; N]> {
    record.get(at..at + N)?.try_into().ok()
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: i16, line: &str, host: &str, address: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Raw>()];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(offset_of!(Raw, ut_type), &kind.to_ne_bytes());
        put(offset_of!(Raw, ut_pid), &std::process::id().to_ne_bytes());
        put(offset_of!(Raw, ut_line), line.as_bytes());
        put(offset_of!(Raw, ut_host), host.as_bytes());
        put(offset_of!(Raw, ut_addr_v6), address);
        bytes
    }

    #[test]
    fn sessions_from_elsewhere_have_a_terminal_and_an_address() {
        let (user, dead) = (libc::USER_PROCESS, libc::DEAD_PROCESS);
        let mapped = "::ffff:192.0.2.8".parse::<Ipv6Addr>().unwrap().octets();
        let six = "2001:db8::7".parse::<Ipv6Addr>().unwrap();
        let file = [
            record(user, "pts/3", "laptop.example.com", &[192, 0, 2, 7]),
            record(user, "pts/4", "192.0.2.9", &[]),
            record(user, "pts/5", "x", &mapped),
            record(user, "pts/6", "x", &six.octets()),
            // Logged out, on the console, local, by a name alone, nonsense.
            record(dead, "pts/7", "", &[192, 0, 2, 7]),
            record(user, "tty1", "", &[192, 0, 2, 7]),
            record(user, "pts/8", "", &[]),
            record(user, "pts/9", "laptop.example.com", &[]),
            record(user, "pts/../1", "", &[192, 0, 2, 7]),
            vec![0xff; size_of::<Raw>()],
            vec![0xff; 17],
        ]
        .concat();
        let found: Vec<_> = entries(&file).into_iter().map(|(_, terminal, from)| (terminal, from)).collect();
        let v4 = |last| IpAddr::from([192, 0, 2, last]);
        assert_eq!(found, [(3, v4(7)), (4, v4(9)), (5, v4(8)), (6, six.into())]);
    }

    #[test]
    fn whose_process_is_gone_has_no_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("utmp");
        let alive = record(libc::USER_PROCESS, "pts/3", "", &[192, 0, 2, 7]);
        let mut gone = alive.clone();
        let at = offset_of!(Raw, ut_pid);
        gone[at..at + 4].copy_from_slice(&i32::MAX.to_ne_bytes());
        std::fs::write(&path, [gone, alive].concat()).unwrap();
        assert_eq!(logins(&path).count(), 1);
        assert_eq!(logins(&folder.path().join("none")).count(), 0);
    }
}
