//! Every promise or function that may not hold fully, as a condition with a stable code.
//!
//! Owns the list, each code, and the words for what does not hold. It never decides whether a condition is there: the agent does,
//! and adds a sentence with the particulars and the remedy.

macro_rules! conditions {
    ($($name:ident $code:literal $lacks:literal;)*) => {
        /// The kinds of condition, the gravest first: `GetStatus` shows them in this order. Codes are stable, and an old one never
        /// gets another meaning. `docs/conditions.md` says what to do about each, and a test walks all of them
        /// (`tests/tests/field/all_is_well.rs`). A new condition needs a row on that page and a case in that test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Condition { $(#[doc = concat!("`", $code, "`: ", $lacks, ".")] $name,)* }

        impl Condition {
            /// All of them, in order.
            pub const ALL: &'static [Condition] = &[$(Condition::$name,)*];

            /// The stable code: `GetStatus.conditions[].code`.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Condition::$name => $code,)* } }

            /// What does not hold, without particulars.
            #[must_use]
            pub const fn lacks(self) -> &'static str { match self { $(Condition::$name => $lacks,)* } }
        }
    };
}

conditions! {
    Open "open" "neither the lock nor the cut is attached: the protected ports are open to everybody";
    Observing "observing" "the host only observes: every protected port is open to everybody";
    OnTrial "on-trial" "the host enforces on trial: the protected ports open again unless somebody confirms the trial";
    LockLost "lock-lost" "the lock is not in force: the cut alone refuses packets without a grant";
    CutLost "cut-lost" "the cut is not in force: sessions do not end with their grant in the kernel";
    NotPinned "not-pinned" "a layer is in force only as long as posternd lives";
    PinDirectory "pin-directory" "the directory of pins is gone or open to others, or it lacks the record of our programs";
    PinsNotLasting "pins-not-lasting" "the pins may end with posternd: after its death the ports may be open";
    CgroupPart "cgroup-part" "the cut judges a part of the host's sockets: sessions of the others outlive their grant without posternd";
    OtherLookup "other-lookup" "another sk_lookup program runs beside the lock: only the cut holds back what that program lets in";
    KernelRefused "kernel-refused" "the kernel refused a change: what it does and what is on record differ";
    ModeUnrecorded "mode-unrecorded" "the host was to observe, and that is not on record: every protected port stays closed";
    XdpLost "xdp-lost" "the prefilter gives way on a device, or cannot be attached as asked: floods cost the full price";
    KernelTunnel "kernel-tunnel" "a kernel tunnel takes a protected UDP port: what the tunnel sends does not end with the grant";
    TunnelsUnknown "tunnels-unknown" "whether kernel tunnels take protected UDP ports is not known";
    SubflowsUnjudged "subflows-unjudged" "an MPTCP subflow of an endpoint with a port of its own outlives its grant";
    SessionsNotEnded "sessions-not-ended" "sockets of ended grants could not be destroyed: they hang silently";
    SessionsNotKept "sessions-not-kept" "sessions that the policy lets outlive their grant end with it";
    BootstrapIncomplete "bootstrap-incomplete" "sessions that were there before their port was protected could not be kept";
    OwnAddresses "own-addresses" "the kernel's list of the host's own addresses is behind: the host's talk with itself may be refused";
    OwnConnections "own-connections" "the host's own connections from protected ports may be refused";
    DevicesUnfollowed "devices-unfollowed" "new addresses and devices are not followed";
    ReservedPorts "reserved-ports" "the host's own connections may get a protected port as their source port, and be refused";
    JournalUnwritten "journal-unwritten" "the journal takes no record: nothing new is granted";
    DiskSlow "disk-slow" "the disk is slow: what needs a record waits";
    JournalDamaged "journal-damaged" "the journal was changed or damaged, or could not be verified";
    JournalAside "journal-aside" "a damaged journal was set aside and still lies there";
    SnapshotUnwritten "snapshot-unwritten" "no snapshot of the journal could be written: the next start takes longer";
    SnapshotPassedOver "snapshot-passed-over" "a snapshot of the journal was of no use: the start took longer";
    JournaldLost "journald-lost" "lines of the audit journal did not reach journald";
    StateDirectory "state-directory" "the state directory cannot be used: nothing is recorded, and the host's identity may end with posternd";
    ReloadFailed "reload-failed" "the last reload failed: the older rules are in force";
    Configuration "configuration" "the configuration cannot be used: an older one, or what can be read of it, is in force";
    TrustFile "trust-file" "the trust file cannot be used as it is: nobody new is trusted";
    RevokedKeys "revoked-keys" "the list of revoked keys cannot be used as it is: an older one holds, with what can be read of it";
    PolicyRefused "policy-refused" "the configuration's policy was refused: the older policy is in force";
    RestartNeeded "restart-needed" "the configuration in force takes effect in full only at a new start";
    NoWayIn "no-way-in" "no signature can open any port: root's break-glass alone does";
    CopiesNotKept "copies-not-kept" "the last good copies of the files are out of date: a start with a broken file goes by older ones";
    UnixSocket "unix-socket" "root's Unix socket is not where it belongs, or others could put one in its place";
    ApiTls "api-tls" "the API is not served with TLS: nobody can ask over the network";
    ApiAddress "api-address" "the API does not listen on an address that the configuration names";
    HostKeys "host-keys" "the host cannot prove itself by all of its SSH host keys";
    SynCookies "syn-cookies" "SYN cookies are off: a flood of SYNs can keep people out of the API";
    SynRate "syn-rate" "the kernel does not limit how fast one source begins connections to the API";
    DeniedUnnoted "denied-unnoted" "denied attempts are not noted";
    ClockUntrusted "clock-untrusted" "the wall clock is not trusted: ends and starts by it are refused";
    ClockUnwatched "clock-unwatched" "posternd does not learn at once that the clock was set or the machine was restored";
    TerminalsSilent "terminals-silent" "people at terminals may not be warned before their session ends";
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
