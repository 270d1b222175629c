//! Settings of the kernel on which Postern depends, and the one setting that it changes ([`Reserved`]).

use std::fs;

mod reserved;

pub use reserved::Reserved;

/// In the network namespace of the thread that reads the file.
const COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// The warning if SYN cookies are off: SYNs from many forged sources then fill the queue of half-open connections, and nobody reaches the
/// API over the network. The setting covers IPv6 too.
#[must_use]
pub fn without_cookies() -> Option<String> {
    let off = fs::read_to_string(COOKIES).is_ok_and(|text| text.trim() == "0");
    off.then(|| "net.ipv4.tcp_syncookies is 0: a flood of SYNs can keep people out of the API; set it to 1".to_owned())
}

const MPTCP: &str = "/proc/sys/net/mptcp/enabled";

/// The warning if the kernel has MPTCP and the cut cannot judge a subflow by its connection (`Enforcer::judges_subflows`).
#[must_use]
pub fn unjudged_subflows() -> Option<String> {
    let on = fs::read_to_string(MPTCP).is_ok_and(|text| text.trim() == "1");
    let why = "the kernel does not show which MPTCP connection a subflow belongs to: a subflow of an endpoint with a port of its own \
               outlives its grant; set net.mptcp.enabled to 0, or use Linux 5.19 or newer";
    on.then(|| why.to_owned())
}
