//! The meaning of each of the host's reason codes and the user's next step, for `postern explain REASON_CODE` and error messages. An
//! unknown code gets no advice.

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Advice {
    /// The host's stable code.
    pub code: &'static str,
    /// The meaning, as a sentence.
    pub meaning: &'static str,
    /// The next step; `{host}` is a placeholder for the host as typed.
    pub next: &'static str,
    /// Whether the code means a failure of the host, not a refusal.
    pub host_failure: bool,
}

macro_rules! advice {
    ($($code:literal $failure:literal $meaning:literal $next:literal)*) => {
        /// Every code that posternd of this version sends.
        pub const ALL: &[Advice] =
            &[$(Advice { code: $code, meaning: $meaning, next: $next, host_failure: $failure },)*];
    };
}

advice! {
    "MESSAGE_TOO_LARGE" false "The signed message is larger than the host accepts."
        "ask for fewer ports or sources, or shorten --reason"
    "ENVELOPE_MALFORMED" false "The host cannot read the message's envelope."
        "update postern or posternd so that both speak the same version"
    "UNSIGNED" false "This call needs a signed message, and it had none."
        "sign with --key, or run this as root on the host with unix:///run/postern/posternd.sock"
    "PAYLOAD_REPEATED" false "The host has seen these exact bytes before; a message counts once."
        "make a new request; a copied one is worthless by design"
    "SIGNATURE_MALFORMED" false "The signature is not one the host can read."
        "update OpenSSH or the agent that signed, or choose another key with --key"
    "NAMESPACE_MISMATCH" false "The signature was made for another purpose than this call."
        "sign with the namespace of the call: request@postern.v1, approve@postern.v1, revoke@postern.v1 or read@postern.v1"
    "ALGORITHM_NOT_ALLOWED" false "The host does not accept signatures of this kind."
        "use an Ed25519, ECDSA P-256 or P-384, or RSA (3072 bits or more) key: --key FILE"
    "KEY_UNKNOWN" false "The host's trust file does not list the key that signed."
        "choose another key with --key, or ask the host's administrator to add yours (ssh-add -L) to its allowed_signers"
    "KEY_REVOKED" false "The key that signed is revoked on this host."
        "choose another key with --key, and ask the host's administrator why this one was revoked"
    "KEY_NOT_YET_VALID" false "The host's trust file does not accept this key yet."
        "wait until its valid-after, or ask the host's administrator"
    "KEY_EXPIRED" false "The host's trust file, or the certificate, accepts this key no longer."
        "get a fresh certificate, or ask the host's administrator to renew your line in its allowed_signers"
    "KEY_WINDOW_UNKNOWABLE" false "Your key is trusted for a time only, and the host does not trust its clock to judge that."
        "ask the host's administrator to set its clock, or use a key that is trusted without valid-after and valid-before"
    "ROLE_NOT_TRUSTED" false "The trust file lists your key, but not for this purpose."
        "ask the host's administrator to add the namespace to your line in its allowed_signers"
    "CERTIFICATE_INVALID" false "The certificate that signed is not valid on this host."
        "look at it with ssh-keygen -L -f KEY-cert.pub: validity, principals and CA must fit the host's allowed_signers"
    "USER_PRESENCE_MISSING" false "The security key signed without being touched, which the host does not accept."
        "use a key made without no-touch-required, and touch it when it blinks"
    "SIGNATURE_INVALID" false "The signature does not fit the message, so something changed it on the way."
        "try again; if it stays so, something between you and the host alters messages"
    "OVERLOADED" true "The host is too busy to check signatures now."
        "wait some seconds and try again"
    "PAYLOAD_MALFORMED" false "The host understands the envelope, but not what was signed."
        "update postern or posternd so that both speak the same version; with --payload, correct the file"
    "AUDIENCE_MISMATCH" false "The message was signed for another host."
        "sign it for this one: `postern status {host}` shows its id and names"
    "AUDIENCE_KEY_MISSING" false "The message names the host's id, which any other host can claim, but no key of the host."
        "update the postern client: it signs for the key that the host proves. By hand, name the fingerprint of the host's SSH host key beside its id, or one of its configured names"
    "AUDIENCE_HOST_ID_MISSING" false "The message names a key of the host, which a cloned machine may share, but not the host's id."
        "name the host's id beside the key: `postern status {host}` shows the id"
    "MESSAGE_EXPIRED" false "The message came after its not_after."
        "make a new request; if it stays so, compare the clocks here and there"
    "MESSAGE_TOO_LONG_LIVED" false "The message's not_after is further away than the host accepts (15 minutes)."
        "sign with a nearer not_after"
    "CHALLENGE_INVALID" false "The challenge is not one that this host gave since it booted."
        "make a new request; the host may just have restarted"
    "CHALLENGE_EXPIRED" false "More than a minute passed between asking the host and showing it the signature."
        "make a new request and touch the security key or type the passphrase sooner"
    "CLOCK_UNTRUSTED" false "The host cannot go by its clock now, or may have forgotten what it was shown: it needs a challenge, and judges no absolute times."
        "use --for instead of --until, and sign with the host reachable so that the challenge is included"
    "REPLAYED" false "A message with this id was already decided."
        "make a new request; `postern list {host} --all` shows what became of the first"
    "RATE_LIMITED" false "You have sent the host as many messages of this kind as one person may send for now."
        "wait for as long as the host says, or until one of your messages or streams has ended, and try again; the administrator sets the limits in [limits] of the host's configuration"
    "REPLAY_MEMORY_FULL" true "The host remembers as many recent messages as it can."
        "wait some minutes and try again"
    "NOT_PERMITTED" false "Your key is known, but no role on the host lets you do this."
        "ask the host's administrator for the role, which may be limited to some ports, sources and times; `postern explain {host} --port PORT` judges a request without effect"
    "PORT_NOT_PROTECTED" false "The host's policy does not name this port, so there is nothing to open."
        "`postern status {host}` lists the protected ports; if yours is not there, it is not Postern that blocks it"
    "SOURCE_NOT_ALLOWED" false "The policy does not open this port for your address."
        "connect from an allowed network (for example the VPN); `postern status {host}` lists the allowed sources"
    "SOURCE_INVALID" false "This source cannot be granted."
        "name plain prefixes without host bits, for example --from 192.0.2.7/32"
    "DURATION_TOO_SHORT" false "The grant would be shorter than the host allows."
        "ask for longer with --for"
    "DURATION_TOO_LONG" false "The grant would be longer than the policy allows."
        "ask for less with --for; `postern status {host}` shows each port's longest time"
    "START_TOO_FAR" false "The host plans at most a week ahead."
        "ask again nearer to the time, or with an earlier --not-before"
    "EXTENSION_MISMATCH" false "An extension names the same ports and sources as the grant that it extends."
        "extend with postern extend {host}, which takes both over, or make a new request"
    "WOULD_SHORTEN" false "An extension may not end before the grant that it extends."
        "ask for longer (--for counts from now), or end it early with postern give-back {host}"
    "JUSTIFICATION_REQUIRED" false "The policy wants to know why."
        "say it with --reason \"…\""
    "APPROVALS_MISSING" false "The policy wants more people to approve this."
        "this host lets no request wait, so have the approvers sign the same payload (`postern sign --payload FILE --as approve`) and send all signatures in one envelope"
    "SELF_APPROVAL" false "Nobody approves their own request."
        "ask somebody else with the role approver to run postern approve {host} ID"
    "PAYLOAD_DIFFERS" false "What was approved is not exactly what the requester signed."
        "approve with postern approve {host} ID, which signs the bytes that the host holds"
    "NOT_PENDING" false "The request does not wait for approval: it was decided already."
        "`postern show {host} ID` tells what became of it"
    "TOO_MANY_PENDING" false "As many requests wait for approval as the host allows."
        "`postern pending {host}` shows them: have one decided, or take one of yours back with postern give-back {host} ID"
    "TOO_MANY_GRANTS" false "As many grants are live as the policy allows."
        "end one you need no longer: `postern list {host}`, then `postern give-back {host} ID`"
    "TABLE_FULL" true "The host's kernel table is full, and nobody is evicted for you."
        "wait for a grant to end, or ask the host's administrator"
    "GRANT_NOT_FOUND" false "There is no such grant, or it is not yours to see."
        "`postern list {host} --all` shows yours"
    "GRANT_ENDED" false "The grant has already ended; there is nothing to end."
        "`postern list {host} --all` shows when and why"
    "ALREADY_ENFORCING" false "The host enforces already, or has begun to on trial."
        "`postern status {host}` shows the mode; a trial waits for postern confirm or postern roll-back"
    "NO_TRIAL" false "No trial waits for a confirmation: none was begun, or its time was up and the host observes again."
        "`postern status {host}` shows the mode; `postern enable` begins another trial"
    "MODE_NOT_IN_FILE" false "The host's configuration file would have it observe again at its next start."
        "take mode = \"observe\" out of /etc/postern/postern.toml, then confirm again"
    "NOTHING_OUTLIVES" false "After the death of posternd the protected ports would be open to everybody, because of where it runs."
        "mend what the message names (docs/conditions.md, pins-not-lasting and not-pinned), or say postern enable --only-while-running"
    "WAY_IN_UNPROVEN" false "Nobody has come in through a protected port under a signed grant since the host enforces."
        "from your own machine: postern request HOST --port ssh, then a new ssh session, and confirm from there; on a host without such a port: postern confirm --without-proof"
    "JOURNAL_FAILED" true "The host could not write its record, so it did nothing."
        "tell the host's administrator: the disk that holds its state is full, read-only or broken; the host goes on by itself once it works, and root on the host can open a port until then (`postern break-glass`)"
    "KERNEL_FAILED" true "The host's kernel refused the change, so it was taken back."
        "tell the host's administrator: `postern status {host}` and the journal say more"
}

/// The row of `code`.
#[must_use]
pub fn find(code: &str) -> Option<&'static Advice> {
    ALL.iter().find(|advice| advice.code == code)
}

/// The next step for `code` on `host`.
#[must_use]
pub fn next_step(code: &str, host: &str) -> Option<String> {
    find(code).map(|advice| advice.next.replace("{host}", host))
}

/// Whether `code` means a failure of the host.
#[must_use]
pub fn is_host_failure(code: &str) -> bool {
    find(code).is_some_and(|advice| advice.host_failure)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_of_the_host_has_advice_and_no_other() {
        let host: BTreeSet<&str> = postern_core::refusal::Reason::ALL.iter().map(|reason| reason.code()).collect();
        let ours: BTreeSet<&str> = ALL.iter().map(|advice| advice.code).collect();
        assert_eq!(ours, host);
        assert_eq!(ALL.len(), ours.len(), "a code is listed twice");
    }

    #[test]
    fn the_host_is_put_in_and_an_unknown_code_gets_nothing() {
        let next = next_step("AUDIENCE_MISMATCH", "vm1").expect("a known code");
        assert!(next.contains("postern status vm1") && !next.contains('{'), "{next}");
        assert_eq!(next_step("SOMETHING_NEW", "vm1"), None);
    }
}
