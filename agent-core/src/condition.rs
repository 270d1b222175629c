//! The conditions: each promise or function that may not hold fully, with a stable code. Owns the list, the codes and the words. The agent
//! decides whether a condition is present, and adds the particulars and the remedy.

macro_rules! conditions {
    ($($name:ident $code:literal $lacks:literal;)*) => {
        /// The kinds of condition, the gravest first: `GetStatus` shows them in this order. An old code never gets another meaning. A new
        /// condition needs a row in `docs/conditions.md` and a case in `tests/tests/field/all_is_well`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Condition { $(#[doc = concat!("`", $code, "`: ", $lacks, ".")] $name,)* }

        impl Condition {
            /// All conditions, in order.
            pub const ALL: &'static [Condition] = &[$(Condition::$name,)*];

            /// The stable code: `GetStatus.conditions[].code`.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Condition::$name => $code,)* } }

            /// The promise that does not hold, without particulars.
            #[must_use]
            pub const fn lacks(self) -> &'static str { match self { $(Condition::$name => $lacks,)* } }
        }
    };
}

conditions! {
    Open "open" "neither the lock nor the cut is attached: the protected ports are open to everybody";
    Observing "observing" "the host only observes: every protected port is open to everybody";
    OnTrial "on-trial" "the host enforces on trial: the protected ports open again unless root confirms the trial";
    LockLost "lock-lost" "the lock is not in force: the cut alone refuses packets without a grant";
    CutLost "cut-lost" "the cut is not in force: sessions do not end with their grant in the kernel";
    NotPinned "not-pinned" "a layer is in force only while posternd runs";
    PinDirectory "pin-directory" "the directory of pins is gone, is open to others, or lacks the record of posternd's programs";
    PinsNotLasting "pins-not-lasting" "the pins may end with posternd: then the ports may be open to everybody";
    CgroupPart "cgroup-part" "the cut covers only a part of the host's sockets: without posternd the sessions of the others outlive their grant";
    OtherLookup "other-lookup" "another sk_lookup program runs beside the lock: only the cut refuses the packets that this program admits";
    KernelRefused "kernel-refused" "the kernel refused a change: the kernel's tables differ from the record";
    ModeUnrecorded "mode-unrecorded" "the journal cannot record that the host observes: every protected port stays closed";
    XdpLost "xdp-lost" "the prefilter does not run on a device as configured: a flood costs more CPU time";
    KernelTunnel "kernel-tunnel" "a kernel tunnel uses a protected UDP port: the packets that the tunnel sends do not end with the grant";
    TunnelsUnknown "tunnels-unknown" "posternd does not know whether kernel tunnels use protected UDP ports";
    SubflowsUnjudged "subflows-unjudged" "an MPTCP subflow of an endpoint with a port of its own outlives its grant";
    SessionsNotEnded "sessions-not-ended" "posternd could not destroy sockets of ended grants: their sessions hang silently";
    SessionsNotKept "sessions-not-kept" "some sessions end with their grant although the policy lets them outlive the grant";
    BootstrapIncomplete "bootstrap-incomplete" "posternd could not retain the sessions that existed before their port was protected";
    OwnAddresses "own-addresses" "the kernel's list of the host's own addresses is out of date: the host's traffic to itself may be refused";
    OwnConnections "own-connections" "the host's own connections from protected ports may be refused";
    DevicesUnfollowed "devices-unfollowed" "posternd does not notice new addresses and devices";
    ReservedPorts "reserved-ports" "the host's own connections may get a protected port as their source port, and be refused";
    JournalUnwritten "journal-unwritten" "posternd cannot write the journal: posternd grants nothing new";
    DiskSlow "disk-slow" "the disk is slow: decisions that need a record wait";
    JournalDamaged "journal-damaged" "the journal was changed or damaged, or posternd could not verify it";
    JournalAside "journal-aside" "posternd set a damaged journal aside, and its directory is still there";
    SnapshotUnwritten "snapshot-unwritten" "posternd could not write a snapshot of the journal: the next start takes longer";
    SnapshotPassedOver "snapshot-passed-over" "posternd could not use a snapshot of the journal: the start took longer";
    JournaldLost "journald-lost" "journald did not get some lines of the audit journal";
    StateDirectory "state-directory" "posternd cannot use the state directory: posternd records nothing, and the host's identity may end with posternd";
    ReloadFailed "reload-failed" "the last reload failed: the older rules are in force";
    Configuration "configuration" "posternd cannot use the configuration: an older one, or the readable part of it, is in force";
    TrustFile "trust-file" "posternd cannot use the whole trust file: no new key is trusted";
    RevokedKeys "revoked-keys" "posternd cannot use the whole list of revoked keys: an older list holds, with the readable part of this one";
    PolicyRefused "policy-refused" "posternd refused the configuration's policy: the older policy is in force";
    RestartNeeded "restart-needed" "the configuration takes full effect only after a restart of posternd";
    NoWayIn "no-way-in" "no signature can open any port: only root's break-glass can";
    CopiesNotKept "copies-not-kept" "the last good copies of the files are out of date: a start with a broken file uses the older copies";
    UnixSocket "unix-socket" "root's Unix socket is not at its path, or others could replace it";
    ApiTls "api-tls" "the API does not work with TLS: nobody can send a request over the network";
    ApiAddress "api-address" "the API does not listen on an address of the configuration";
    HostKeys "host-keys" "the host cannot prove its identity with all of its SSH host keys";
    SynCookies "syn-cookies" "SYN cookies are off: a flood of SYNs can keep people out of the API";
    SynRate "syn-rate" "the kernel does not limit how fast one source may open connections to the API";
    DeniedUnnoted "denied-unnoted" "posternd does not list denied attempts";
    ClockUntrusted "clock-untrusted" "posternd does not trust the wall clock: posternd refuses an end or start by the wall clock";
    ClockUnwatched "clock-unwatched" "posternd does not notice at once that the clock was set or the machine was restored";
    TerminalsSilent "terminals-silent" "posternd may not be able to warn people at terminals before their session ends";
    Privileges "privileges" "posternd runs with more rights than it needs";
    SystemCalls "system-calls" "posternd may make system calls that it does not need";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_words_and_tell_conditions_apart() {
        let codes: BTreeSet<_> = Condition::ALL.iter().map(|condition| condition.code()).collect();
        assert_eq!(codes.len(), Condition::ALL.len());
        for condition in Condition::ALL {
            let is_of_words = |code: &str| code.split('-').all(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
            assert!(is_of_words(condition.code()), "{condition:?}");
            assert!(!condition.lacks().is_empty() && !condition.lacks().ends_with('.'), "{condition:?}");
        }
        assert!(Condition::ALL.is_sorted(), "the gravest first");
    }

    #[test]
    fn each_condition_is_documented() {
        let page = include_str!("../../docs/conditions.md");
        for condition in Condition::ALL {
            let row = format!("| `{}` | {} |", condition.code(), condition.lacks());
            assert!(page.lines().any(|line| line.starts_with(&row)), "docs/conditions.md lacks: {row} WHAT TO DO |");
        }
    }
}
