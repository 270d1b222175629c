//! Failures: their kinds, exit codes and texts. The meaning of a refusal is in [`crate::advice`].

use std::fmt;

use serde_json::json;
use tonic_types::StatusExt as _;

use crate::{advice, text};

/// The result of each step of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// The cause of a failure. Each kind has an exit code, listed in `postern --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host refused (1).
    Refused,
    /// The command line is wrong (2).
    Usage,
    /// No answer from the host (3).
    Unreachable,
    /// The host is not the one that was trusted before, or is not trusted yet (4).
    Identity,
    /// There is no key to sign with, or the key could not sign (5).
    Key,
    /// The host failed and opened nothing (6).
    HostFailed,
    /// A file of this machine cannot be read or written (7).
    Local,
    /// The host answered, and reports a condition (8).
    Degraded,
}

impl Kind {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Identity => 4,
            Self::Key => 5,
            Self::HostFailed => 6,
            Self::Local => 7,
            Self::Degraded => 8,
        }
    }

    /// The stable name in JSON output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Unreachable => "unreachable",
            Self::Identity => "host-identity",
            Self::Key => "signing-key",
            Self::HostFailed => "host-failed",
            Self::Local => "local",
            Self::Degraded => "degraded",
        }
    }
}

/// One failure, ready to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// The events, in one or more sentences.
    pub message: String,
    /// The host's stable reason code.
    pub reason: Option<String>,
    /// The rule or field behind the host's refusal.
    pub rule: Option<String>,
    /// The next step of the user.
    pub next: Option<String>,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), reason: None, rule: None, next: None }
    }

    /// A mistake on the command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Whether the signed read of a stream has expired. The client then signs another.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.reason.as_deref() == Some("MESSAGE_EXPIRED")
    }

    /// Adds the next step.
    #[must_use]
    pub fn next(mut self, next: impl fmt::Display) -> Self {
        self.next = Some(next.to_string());
        self
    }

    /// Adds the key that signed if the reason code is about keys.
    #[must_use]
    pub fn signed_with(mut self, key: &str) -> Self {
        const ABOUT_KEYS: [&str; 5] =
            ["ALGORITHM_NOT_ALLOWED", "CERTIFICATE_INVALID", "KEY_", "NOT_PERMITTED", "ROLE_NOT_"];
        let reason = self.reason.as_deref().unwrap_or_default();
        if ABOUT_KEYS.iter().any(|prefix| reason.starts_with(prefix)) {
            self.message = format!("{}; signed with {key}", self.message);
        }
        self
    }

    /// Converts a gRPC status. `host` is the address as typed, for the advice.
    #[must_use]
    pub fn from_status(status: &tonic::Status, host: &str) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == postern_proto::ERROR_DOMAIN);
        let Some(info) = info else { return Self::from_bare_status(status) };
        let failed = advice::is_host_failure(&info.reason);
        let kind = if failed { Kind::HostFailed } else { Kind::Refused };
        Self {
            kind,
            message: text::sentence(status.message()),
            rule: info.metadata.get("rule").filter(|rule| !rule.is_empty()).map(|rule| text::clean(rule)),
            next: advice::next_step(&info.reason, host),
            reason: Some(text::clean(&info.reason)),
        }
    }

    /// A status without Postern's details comes from the transport, or from a server other than Postern.
    fn from_bare_status(status: &tonic::Status) -> Self {
        use tonic::Code;
        let message = text::sentence(status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                Self::new(Kind::Unreachable, format!("the connection to the host failed: {message}"))
                    .next("check that posternd runs there, and try again")
            }
            Code::Unimplemented => Self::new(Kind::HostFailed, "the host does not know this call")
                .next("it may run an older posternd, or something else answers at this address"),
            Code::Internal | Code::DataLoss | Code::Aborted | Code::ResourceExhausted => {
                Self::new(Kind::HostFailed, format!("the host failed: {message}"))
                    .next("try again; its journal says more")
            }
            code => Self::new(Kind::Refused, format!("the host refused ({code:?}): {message}")),
        }
    }

    /// The text for people, without a final newline.
    #[must_use]
    pub fn to_human(&self) -> String {
        let mut out = format!("postern: {}", self.message);
        let mut particulars = Vec::new();
        particulars.extend(self.reason.as_deref().map(str::to_owned));
        particulars.extend(self.rule.as_deref().map(|rule| format!("rule {rule}")));
        if !particulars.is_empty() {
            out.push_str(&format!(" [{}]", particulars.join(", ")));
        }
        if let Some(next) = &self.next {
            out.push_str("\n  next: ");
            out.push_str(&next.replace('\n', "\n        "));
        }
        out
    }

    /// One JSON object: `{"error": {kind, exitCode, message, reason?, rule?, next?}}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut error = json!({
            "kind": self.kind.name(),
            "exitCode": self.kind.exit_code(),
            "message": self.message,
        });
        for (name, value) in [("reason", &self.reason), ("rule", &self.rule), ("next", &self.next)] {
            if let Some(value) = value {
                error[name] = json!(value);
            }
        }
        json!({ "error": error })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(reason: &str, rule: &str) -> tonic::Status {
        let metadata = HashMap::from([("rule".to_owned(), rule.to_owned())]);
        let details = ErrorDetails::with_error_info(reason, postern_proto::ERROR_DOMAIN, metadata);
        tonic::Status::with_error_details(tonic::Code::PermissionDenied, "no: \u{1b}[31mred", details)
    }

    #[test]
    fn a_refusal_carries_reason_rule_and_advice_but_no_escape_sequence() {
        let failure = Failure::from_status(&status("DURATION_TOO_LONG", "port[0].max_duration"), "vm1:7322");
        assert_eq!(failure.kind, Kind::Refused);
        assert_eq!(failure.rule.as_deref(), Some("port[0].max_duration"));
        assert!(!failure.message.contains('\u{1b}'));
        let human = failure.to_human();
        assert!(human.contains("[DURATION_TOO_LONG, rule port[0].max_duration]"), "{human}");
        assert!(human.contains("next: "), "{human}");
        assert_eq!(failure.to_json()["error"]["exitCode"], 1);
        assert!(!failure.signed_with("id_rsa").message.contains("id_rsa"), "the key does not matter here");
        let failure = Failure::from_status(&status("KEY_UNKNOWN", ""), "vm1:7322").signed_with("id_rsa");
        assert!(failure.message.ends_with("signed with id_rsa"), "{failure}");
    }

    #[test]
    fn a_failing_host_and_a_dead_connection_are_not_refusals() {
        assert_eq!(Failure::from_status(&status("KERNEL_FAILED", ""), "vm1").kind, Kind::HostFailed);
        assert_eq!(Failure::from_status(&tonic::Status::unavailable("gone"), "vm1").kind, Kind::Unreachable);
    }

    #[test]
    fn details_of_another_domain_are_not_ours() {
        let details = ErrorDetails::with_error_info("DURATION_TOO_LONG", "example.com", HashMap::new());
        let status = tonic::Status::with_error_details(tonic::Code::PermissionDenied, "no", details);
        assert_eq!(Failure::from_status(&status, "vm1").reason, None);
    }
}
