//! The engine's answers as plain values, without protobuf.

use std::net::IpAddr;

use jiff::Timestamp;
use postern_core::condition::Condition;
use postern_core::grant::{PortSpec, Source, Use};
use postern_core::mode::Mode;
use postern_core::policy::{Missing, PortRule};
use postern_core::refusal::Refusal;
use postern_core::request::{Ending, Request, State, Step};
use postern_core::time::Seconds;
use postern_core::wall::ClockState;
use postern_core::warn::Warning;
use uuid::Uuid;

use crate::enforcer::XdpStatus;

/// One request or grant as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantView {
    /// The number of the record that made it. It orders grants by age, and is a page token.
    pub seq: u64,
    /// The request or grant itself.
    pub life: Request,
    /// Its state by the clock, which may be over before the record of its end is written.
    pub state: State,
    /// Set once it has ended.
    pub ending: Option<Ending>,
    /// The remaining time on the boot clock, in nanoseconds; zero unless it is active.
    pub remaining_ns: u64,
    /// The packets that the kernel has counted so far.
    pub usage: Use,
    /// Its steps, the oldest first.
    pub steps: Vec<Step>,
    /// The grant that extends it.
    pub superseded_by: Option<Uuid>,
}

/// An update for a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantUpdate {
    /// The grant as it is now.
    pub view: GrantView,
    /// Set if the grant has not changed but ends soon: the warning, the end by the wall clock, and what happens to sessions.
    pub warning: Option<(Warning, Timestamp, String)>,
}

impl GrantView {
    /// Whether it has not ended.
    #[must_use]
    pub const fn is_living(&self) -> bool {
        matches!(self.state, State::Pending | State::Scheduled | State::Active)
    }
}

/// Which grants a query asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Also grants that have ended.
    pub include_ended: bool,
    /// Only these; empty: all.
    pub states: Vec<State>,
}

impl Filter {
    /// Whether `state` is asked for.
    #[must_use]
    pub fn wants(&self, state: State) -> bool {
        let living = matches!(state, State::Pending | State::Scheduled | State::Active);
        (living || self.include_ended) && (self.states.is_empty() || self.states.contains(&state))
    }
}

/// The answer of `WhoAmI`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhoAmI {
    /// The host's id, made at the first start.
    pub host_id: Uuid,
    /// Other audiences of this host.
    pub names: Vec<String>,
    /// The wall clock.
    pub host_time: Timestamp,
    /// Whether messages may do without a challenge.
    pub clock_trusted: bool,
    /// Valid for a minute.
    pub challenge: String,
}

/// The question of `Explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// The principal to judge: the reader, or a principal that root names. Empty if there is nobody to judge.
    pub principal: String,
    /// At least one.
    pub ports: Vec<PortSpec>,
    /// At least one.
    pub sources: Vec<Source>,
    /// `None`: the longest that the policy allows.
    pub duration: Option<Seconds>,
    /// As in a request.
    pub justification: String,
    /// As in a request.
    pub not_before: Option<Timestamp>,
    /// As in a request.
    pub supersedes: Option<Uuid>,
}

/// The answer of `Explain`.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `None` when such a request would be granted now.
    pub refusal: Option<Refusal>,
    /// The approvals that such a request still needs.
    pub missing: Option<Missing>,
    /// The caller's live grants that touch the ports.
    pub grants: Vec<GrantView>,
    /// Denied attempts at the ports.
    pub denied: Vec<DeniedView>,
    /// Findings, in sentences.
    pub findings: Vec<String>,
}

/// Packets from one source to one port that found no live grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedView {
    /// The source.
    pub address: IpAddr,
    /// The port.
    pub port: PortSpec,
    /// When the latest came, by the wall clock.
    pub last_seen: Timestamp,
    /// How many were reported. The kernel reports dropped packets at a limited rate.
    pub count: u64,
    /// Whether the packets passed, because the host only observes.
    pub observed: bool,
    /// How many of these packets began a new flow.
    pub new_flows: u64,
}

/// The mode of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeView {
    /// The mode in the kernel.
    pub effective: Mode,
    /// The mode in the configuration file when posternd last read it.
    pub file: Mode,
    /// Since when the effective mode holds.
    pub since: Option<Timestamp>,
    /// The person who changed it last; empty for the configuration and the clock.
    pub by: String,
    /// When a trial ends unless it is confirmed.
    pub until: Option<Timestamp>,
    /// Since when the host observes again, because nobody confirmed a trial.
    pub rolled_back: Option<Timestamp>,
}

/// One of the layers that keep the ports closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerView {
    /// `lock`, `cut-ingress` or `cut-egress`.
    pub name: &'static str,
    /// Whether the kernel reports it as attached.
    pub attached: bool,
    /// Where it is attached, or why it is not.
    pub detail: String,
}

/// The state of the wall clock, and what messages need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockView {
    /// The state of the wall clock.
    pub state: ClockState,
    /// Whether replay history is incomplete: since the boot, a restore, or the loss of a journal.
    pub forgetful: bool,
    /// Why posternd would not notice a restore from a snapshot. `None` if posternd would.
    pub unnoticed: Option<String>,
    /// How often the machine was restored since posternd started.
    pub restores: u64,
}

/// A promise or a function that does not hold fully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionView {
    /// The condition.
    pub condition: Condition,
    /// The problem, its cause and its remedy, in words.
    pub detail: String,
    /// The time since when it holds, as far as this posternd noticed.
    pub since: Timestamp,
}

/// Everything that `GetStatus` shows.
#[derive(Clone, Debug)]
pub struct HostState {
    /// The host's id, made at the first start.
    pub host_id: Uuid,
    /// Other audiences of this host.
    pub names: Vec<String>,
    /// When posternd started.
    pub started: Timestamp,
    /// The id of the boot.
    pub boot_id: Uuid,
    /// The clock.
    pub clock: ClockView,
    /// The layers, as the kernel reports them.
    pub layers: Vec<LayerView>,
    /// The mode: whether the layers drop packets.
    pub mode: ModeView,
    /// Interfaces with their prefilter.
    pub prefilters: Vec<XdpStatus>,
    /// The policy's ports.
    pub ports: Vec<PortRule>,
    /// The conditions, the gravest first.
    pub conditions: Vec<ConditionView>,
    /// (hook, reason, count).
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// (reason, count) of messages refused before a signature was verified.
    pub unverified: Vec<(&'static str, u64)>,
    /// How many grants are live.
    pub live_grants: u32,
    /// The newest record.
    pub journal_seq: u64,
    /// Hex SHA-256 of its line.
    pub journal_head: String,
    /// The journal's file.
    pub journal_path: String,
}
