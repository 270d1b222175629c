//! The reasons for which posternd refuses. Owns the list, the stable codes and the sentences. It never decides which reason applies.

use std::fmt;

/// Who caused a refusal. posternd only counts refusals of unverified peers; a refusal of a verified signer gets a line in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribution {
    /// No valid signature yet: posternd counts the refusal.
    Unverified,
    /// A trusted key signed the message: posternd records the refusal.
    Verified,
}

/// A refusal with its reason and particulars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The particulars, in words that the peer may see; may be empty. At most a few hundred bytes.
    pub detail: String,
    /// The rule or field that refused, for example `port[0].max_duration` or `source[1]`; may be empty.
    pub rule: String,
}

impl Refusal {
    /// A refusal of `reason` with the particulars `detail`.
    pub fn new(reason: Reason, detail: impl fmt::Display) -> Self {
        Self { reason, detail: detail.to_string(), rule: String::new() }
    }

    /// Sets the rule or field that refused.
    #[must_use]
    pub fn at(mut self, rule: impl fmt::Display) -> Self {
        self.rule = rule.to_string();
        self
    }

    /// One sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        if self.detail.is_empty() {
            self.reason.sentence().to_owned()
        } else {
            format!("{}: {}", self.reason.sentence(), self.detail)
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $attribution:ident $code:literal $sentence:literal;)*) => {
        /// The kinds of refusal. Codes are stable: they are the API's `ErrorInfo.reason` and the journal's `reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* #[doc = concat!("`", $code, "`: ", $sentence, ".")] $name,)* }

        impl Reason {
            /// All reasons, in order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Reason::$name => $code,)* } }

            /// The meaning, without particulars.
            #[must_use]
            pub const fn sentence(self) -> &'static str { match self { $(Reason::$name => $sentence,)* } }

            /// Whether a trusted signature was verified before this refusal.
            #[must_use]
            pub const fn attribution(self) -> Attribution { match self { $(Reason::$name => Attribution::$attribution,)* } }
        }
    };
}

reasons! {
    MessageTooLarge Unverified "MESSAGE_TOO_LARGE" "the message is larger than the host accepts";
    EnvelopeMalformed Unverified "ENVELOPE_MALFORMED" "the envelope is not one this host understands";
    Unsigned Unverified "UNSIGNED" "this call needs a signed message";
    PayloadRepeated Unverified "PAYLOAD_REPEATED" "these exact bytes were shown before";
    SignatureMalformed Unverified "SIGNATURE_MALFORMED" "the signature is not a valid SSHSIG";
    NamespaceMismatch Unverified "NAMESPACE_MISMATCH" "the signature was made for another purpose";
    AlgorithmNotAllowed Unverified "ALGORITHM_NOT_ALLOWED" "the signature's algorithm is not accepted";
    KeyUnknown Unverified "KEY_UNKNOWN" "the trust file does not list the key that signed";
    KeyRevoked Unverified "KEY_REVOKED" "the key that signed is revoked";
    KeyNotYetValid Unverified "KEY_NOT_YET_VALID" "the trust file does not accept this key yet";
    KeyExpired Unverified "KEY_EXPIRED" "the trust file accepts this key no longer";
    KeyWindowUnknowable Unverified "KEY_WINDOW_UNKNOWABLE" "the host's clock cannot be trusted, so only keys and certificates without an end are accepted";
    RoleNotTrusted Unverified "ROLE_NOT_TRUSTED" "the trust file does not let this key sign for this purpose";
    CertificateInvalid Unverified "CERTIFICATE_INVALID" "the certificate that signed is not valid here";
    UserPresenceMissing Unverified "USER_PRESENCE_MISSING" "the security key was not touched for this signature";
    SignatureInvalid Unverified "SIGNATURE_INVALID" "the signature does not fit the payload";
    Overloaded Unverified "OVERLOADED" "the host is too busy to check signatures now";
    PayloadMalformed Verified "PAYLOAD_MALFORMED" "the payload is not valid";
    AudienceMismatch Verified "AUDIENCE_MISMATCH" "the message is for another host";
    AudienceKeyMissing Verified "AUDIENCE_KEY_MISSING" "the message names this host's id but none of its keys";
    AudienceHostIdMissing Verified "AUDIENCE_HOST_ID_MISSING" "the message names a key of this host but not its id";
    MessageExpired Verified "MESSAGE_EXPIRED" "the message's not_after has passed";
    MessageTooLongLived Verified "MESSAGE_TOO_LONG_LIVED" "the message's not_after is too far away";
    ChallengeInvalid Verified "CHALLENGE_INVALID" "the challenge is not one of this host since it booted";
    ChallengeExpired Verified "CHALLENGE_EXPIRED" "the challenge is too old";
    ClockUntrusted Verified "CLOCK_UNTRUSTED" "the host cannot go by its clock now";
    Replayed Verified "REPLAYED" "a message with this id was already decided";
    RateLimited Verified "RATE_LIMITED" "the caller has used up their share for now";
    ReplayMemoryFull Verified "REPLAY_MEMORY_FULL" "the host remembers as many messages as it can";
    NotPermitted Verified "NOT_PERMITTED" "no role lets this person do this";
    PortNotProtected Verified "PORT_NOT_PROTECTED" "the policy does not name this port";
    SourceNotAllowed Verified "SOURCE_NOT_ALLOWED" "the source does not lie inside an allowed one";
    SourceInvalid Verified "SOURCE_INVALID" "the source cannot be granted";
    DurationTooShort Verified "DURATION_TOO_SHORT" "the grant would be too short";
    DurationTooLong Verified "DURATION_TOO_LONG" "the grant would be longer than the policy allows";
    StartTooFar Verified "START_TOO_FAR" "the start is too far away";
    ExtensionMismatch Verified "EXTENSION_MISMATCH" "an extension names the same ports and sources as the grant that it extends";
    WouldShorten Verified "WOULD_SHORTEN" "an extension may not end before the grant that it extends";
    JustificationRequired Verified "JUSTIFICATION_REQUIRED" "the policy wants a justification";
    ApprovalsMissing Verified "APPROVALS_MISSING" "the policy wants more people to approve this";
    SelfApproval Verified "SELF_APPROVAL" "nobody approves their own request";
    PayloadDiffers Verified "PAYLOAD_DIFFERS" "these are not the bytes that the requester signed";
    NotPending Verified "NOT_PENDING" "the request does not wait for approval";
    TooManyPending Verified "TOO_MANY_PENDING" "as many requests wait for approval as the host allows";
    TooManyGrants Verified "TOO_MANY_GRANTS" "as many grants are live as the policy allows";
    TableFull Verified "TABLE_FULL" "the kernel table is full and nobody is evicted";
    GrantNotFound Verified "GRANT_NOT_FOUND" "there is no such grant that you may see";
    GrantEnded Verified "GRANT_ENDED" "the grant has already ended";
    AlreadyEnforcing Verified "ALREADY_ENFORCING" "the host enforces already";
    NoTrial Verified "NO_TRIAL" "no trial waits for a confirmation";
    ModeNotInFile Verified "MODE_NOT_IN_FILE" "the configuration file does not have the host enforce";
    NothingOutlives Verified "NOTHING_OUTLIVES" "nothing would keep the ports closed after the death of posternd";
    WayInUnproven Verified "WAY_IN_UNPROVEN" "nobody has come in under a signed grant since the host enforces";
    JournalFailed Verified "JOURNAL_FAILED" "the record could not be written, so nothing was done";
    KernelFailed Verified "KERNEL_FAILED" "the kernel refused the change, so it was taken back";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_sentences_have_no_full_stop() {
        let codes: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|r| !r.sentence().ends_with('.') && !r.sentence().is_empty()));
    }
}
