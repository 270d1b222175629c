//! The state of layers, and losses: faults of the enforcement in the kernel.
//!
//! Owns the names of states and losses, and their sentences. It reads nothing from the kernel.

use postern_core::{condition::Condition, verdict::Hook};

/// The state of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Attached at the right place, with Postern's program, and pinned.
    InForce,
    /// The kernel or another program detached it.
    Detached,
    /// An earlier run attached it to another place.
    Elsewhere,
    /// Attached, but it runs another program.
    OtherProgram,
    /// The pin is missing, so the layer ends with this process.
    Unpinned,
    /// As `Unpinned`, and the pin's name belongs to an object that is not Postern's.
    ForeignPin,
}

impl LayerState {
    /// The stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InForce => "in-force",
            Self::Detached => "detached",
            Self::Elsewhere => "elsewhere",
            Self::OtherProgram => "other-program",
            Self::Unpinned => "unpinned",
            Self::ForeignPin => "foreign-pin",
        }
    }

    /// Whether Postern's program judges packets at the right place now. It may end with this process.
    #[must_use]
    pub const fn holds(self) -> bool {
        matches!(self, Self::InForce | Self::Unpinned | Self::ForeignPin)
    }
}

/// One layer and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerStatus {
    /// The lock, or the cut in one direction.
    pub hook: Hook,
    /// The state of this layer.
    pub state: LayerState,
}

/// Another program runs beside the lock.
pub const BESIDE: &str = "other-program-beside";
pub const PIN_DIRECTORY: &str = "pin-directory";
/// The record of program tags could not be written.
pub const UNRECORDED: &str = "unrecorded";

/// A part that is not in order: another program changed it, or the kernel refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The part: `lock`, `cut-ingress`, `cut-egress`, `pin-directory`, `connect4`, `connect6`, `marks` or `lookup`.
    pub part: String,
    /// The stable name of the fault.
    pub state: &'static str,
    /// Why the repair failed, with the remedy. Empty before the first repair.
    pub why: String,
}

impl Loss {
    pub(super) fn new(part: impl Into<String>, state: &'static str) -> Self {
        Self { part: part.into(), state, why: String::new() }
    }

    pub(super) fn because(self, why: &str) -> Self {
        Self { why: why.to_owned(), ..self }
    }

    /// The condition of the host that this loss causes.
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

    /// The loss and its reason in words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let said = self.what();
        if self.why.is_empty() { said } else { format!("{said}: {}", self.why) }
    }

    fn what(&self) -> String {
        let Self { part, state, .. } = self;
        match *state {
            BESIDE => "another sk_lookup program is attached to this network namespace: it can hand connections to a \
                       socket although the lock refuses them; the cut still drops their packets"
                .to_owned(),
            UNRECORDED => format!("the {part} has no record of Postern's programs: the next start will replace them"),
            "partial" => {
                "this kernel does not show who opened an MPTCP connection (before Linux 5.19): the host's own TCP \
                          connections from protected ports need a grant"
                    .to_owned()
            }
            "full" => {
                "posternd has no room to record more sources that were admitted to UDP sockets of protected ports: UDP sockets that \
                 the host itself connects from such ports need a grant until the next boot"
                    .to_owned()
            }
            "missing" => {
                "posternd cannot recognise the host's own connections from protected ports: they need a grant"
                    .to_owned()
            }
            "unpinned" if part == "marks" => {
                "the marks of the host's own connections are not pinned: the next posternd will \
                                              cut those from protected ports"
                    .to_owned()
            }
            "detached" => format!("the {part} is not attached{}", missing(part)),
            "elsewhere" => format!("the {part} is attached, but not where it belongs{}", missing(part)),
            "other-program" => format!("the {part} runs a program that is not Postern's{}", missing(part)),
            "unpinned" => format!("the {part} is not pinned: it is in force only as long as posternd lives"),
            "foreign-pin" => format!("the object that is pinned as {part} is not Postern's"),
            "exposed" => format!("the {part} can be used by others than root"),
            _ => format!("the {part} is {state}"),
        }
    }
}

/// The effect while this layer is missing and the others are in force.
fn missing(part: &str) -> &'static str {
    match part {
        "lock" => {
            " (without it only the cut refuses packets without a grant, and nothing refuses packets to kernel tunnels on UDP ports)"
        }
        "cut-ingress" => {
            " (without it sessions still receive after the end of their grant, and only the lock refuses new ones)"
        }
        "connect4" | "connect6" => " (without it the host's own connected UDP sockets on protected ports need a grant)",
        "cut-egress" => " (without it the host still sends to sessions after the end of their grant)",
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
