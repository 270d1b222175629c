//! What is not as it has to be in the kernel, in words.
//!
//! Owns the names of losses and their sentences. It looks at nothing.

use postern_core::condition::Condition;

/// Another program runs beside the lock.
pub const BESIDE: &str = "other-program-beside";
/// The part that is the directory of pins.
pub const PIN_DIRECTORY: &str = "pin-directory";
/// The record of program tags could not be written.
pub const UNRECORDED: &str = "unrecorded";

/// Something that is not as it has to be in the kernel, because somebody or something changed it there, or because the kernel
/// refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which part: `lock`, `cut-ingress`, `cut-egress`, `pin-directory`, `connect4`, `connect6`, `marks`.
    pub part: String,
    /// A stable name of what is wrong with it.
    pub state: &'static str,
    /// Why it could not be brought back, with the remedy; empty where that was not tried yet.
    pub why: String,
}

impl Loss {
    pub(super) fn new(part: impl Into<String>, state: &'static str) -> Self {
        Self { part: part.into(), state, why: String::new() }
    }

    pub(super) fn because(self, why: &str) -> Self {
        Self { why: why.to_owned(), ..self }
    }

    /// What does not hold because of it.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match (self.part.as_str(), self.state) {
            (_, BESIDE) => Condition::OtherLookup,
            (PIN_DIRECTORY, _) => Condition::PinDirectory,
            ("marks" | "connect4" | "connect6", _) => Condition::OwnConnections,
            (_, "unpinned" | "foreign-pin") => Condition::NotPinned,
            ("lock", _) => Condition::LockLost,
            _ => Condition::CutLost,
        }
    }

    /// In words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let said = self.what();
        if self.why.is_empty() { said } else { format!("{said}: {}", self.why) }
    }

    fn what(&self) -> String {
        let Self { part, state, .. } = self;
        match *state {
            BESIDE => "another sk_lookup program is attached to this network namespace: it can hand connections to a \
                       socket in spite of the lock; the cut holds them back"
                .to_owned(),
            UNRECORDED => format!("the {part} holds no record of our programs: the next start will replace them"),
            "partial" => {
                "this kernel does not show who opened an MPTCP connection (before Linux 5.19): the host's own TCP \
                          connections from protected ports need a grant"
                    .to_owned()
            }
            "full" => {
                "more sources were let in to UDP sockets of protected ports than posternd has room for: UDP sockets that the host \
                 itself connects from such ports need a grant until the host boots again"
                    .to_owned()
            }
            "missing" => {
                "the host's own connections from protected ports cannot be told from others: they need a grant"
                    .to_owned()
            }
            "unpinned" if part == "marks" => {
                "the marks of the host's own connections are not pinned: the next posternd will \
                                              cut those from protected ports"
                    .to_owned()
            }
            "detached" => format!("the {part} is not attached{}", missing(part)),
            "elsewhere" => format!("the {part} is attached, but not where it belongs{}", missing(part)),
            "other-program" => format!("the {part} runs another program than ours{}", missing(part)),
            "unpinned" => format!("the {part} is not pinned: it is in force only as long as posternd lives"),
            "foreign-pin" => format!("what is pinned as {part} is not ours"),
            "exposed" => format!("the {part} is open to others than root"),
            _ => format!("the {part} is {state}"),
        }
    }
}

/// What does not hold without a layer while the others are there.
fn missing(part: &str) -> &'static str {
    match part {
        "lock" => {
            " (without it only the cut refuses packets without a grant, and kernel tunnels on UDP ports take theirs unasked)"
        }
        "cut-ingress" => {
            " (without it sessions go on receiving after their grant's end, and only the lock refuses new ones)"
        }
        "connect4" | "connect6" => " (without it the host's own connected UDP sockets on protected ports need a grant)",
        "cut-egress" => " (without it the host goes on sending to sessions after their grant's end)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_part_consequence_and_reason() {
        let loss = Loss::new("lock", "detached").because("cannot attach the lock: no room; make room");
        let said = loss.sentence();
        assert!(said.starts_with("the lock is not attached (without it only the cut"), "{said}");
        assert!(said.ends_with("no room; make room"), "{said}");
    }

    #[test]
    fn each_loss_is_a_condition() {
        let condition = |part: &str, state| Loss::new(part, state).condition();
        assert_eq!(condition("lock", "detached"), Condition::LockLost);
        assert_eq!(condition("lock", "unpinned"), Condition::NotPinned);
        assert_eq!(condition("cut-egress", "other-program"), Condition::CutLost);
        assert_eq!(condition(PIN_DIRECTORY, "exposed"), Condition::PinDirectory);
        assert_eq!(condition("lookup", BESIDE), Condition::OtherLookup);
    }
}
