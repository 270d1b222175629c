//! A refusal as a gRPC status: `google.rpc.Status` with a stable reason.
//!
//! Owns the one mapping from [`Reason`] to a status code. The text is the refusal's own sentence.

use std::collections::HashMap;
use std::time::Duration;

use postern_core::refusal::{Reason, Refusal};
use postern_proto::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When a client may retry a call that posternd refused because of its load.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[must_use]
pub fn status(refusal: &Refusal) -> Status {
    let code = code(refusal.reason);
    let mut metadata = HashMap::new();
    if !refusal.rule.is_empty() {
        metadata.insert("rule".to_owned(), refusal.rule.clone());
    }
    let mut details = ErrorDetails::with_error_info(refusal.reason.code(), ERROR_DOMAIN, metadata);
    if code == Code::InvalidArgument && !refusal.rule.is_empty() {
        details.add_bad_request_violation(refusal.rule.clone(), refusal.sentence());
    }
    if code == Code::Unavailable {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, refusal.sentence(), details)
}

/// Never returns `OUT_OF_RANGE`, and `INTERNAL` only with details: tonic uses both for messages that it cannot decode.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::MessageTooLarge
        | Reason::EnvelopeMalformed
        | Reason::SignatureMalformed
        | Reason::PayloadMalformed
        | Reason::SourceInvalid
        | Reason::DurationTooShort
        | Reason::StartTooFar
        | Reason::ExtensionMismatch
        | Reason::WouldShorten
        | Reason::PayloadDiffers
        | Reason::JustificationRequired => Code::InvalidArgument,
        Reason::Unsigned
        | Reason::NamespaceMismatch
        | Reason::AlgorithmNotAllowed
        | Reason::KeyUnknown
        | Reason::KeyRevoked
        | Reason::KeyNotYetValid
        | Reason::KeyExpired
        | Reason::KeyWindowUnknowable
        | Reason::CertificateInvalid
        | Reason::UserPresenceMissing
        | Reason::SignatureInvalid => Code::Unauthenticated,
        Reason::RoleNotTrusted
        | Reason::ApprovalsMissing
        | Reason::SelfApproval
        | Reason::NotPermitted
        | Reason::PortNotProtected
        | Reason::SourceNotAllowed
        | Reason::DurationTooLong => Code::PermissionDenied,
        Reason::AudienceMismatch
        | Reason::AudienceKeyMissing
        | Reason::AudienceHostIdMissing
        | Reason::MessageExpired
        | Reason::MessageTooLongLived
        | Reason::ChallengeInvalid
        | Reason::ChallengeExpired
        | Reason::ClockUntrusted
        | Reason::NotPending
        | Reason::AlreadyEnforcing
        | Reason::NoTrial
        | Reason::ModeNotInFile
        | Reason::WayInUnproven
        | Reason::NothingOutlives
        | Reason::GrantEnded => Code::FailedPrecondition,
        Reason::PayloadRepeated | Reason::Replayed => Code::AlreadyExists,
        Reason::RateLimited
        | Reason::ReplayMemoryFull
        | Reason::TooManyGrants
        | Reason::TooManyPending
        | Reason::TableFull => Code::ResourceExhausted,
        Reason::Overloaded => Code::Unavailable,
        Reason::GrantNotFound => Code::NotFound,
        Reason::JournalFailed | Reason::KernelFailed => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_carries_its_reason_and_rule() {
        for &reason in Reason::ALL {
            let refusal = Refusal::new(reason, "detail").at("ports[0]");
            let status = status(&refusal);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.code(), "postern.v1"));
            assert_eq!(info.metadata["rule"], "ports[0]");
            assert_eq!(status.message(), refusal.sentence());
            assert!(!matches!(status.code(), Code::Ok | Code::OutOfRange | Code::Unknown));
            let violations = details.bad_request().map(|b| b.field_violations.len());
            assert_eq!(violations, (status.code() == Code::InvalidArgument).then_some(1));
        }
    }
}
