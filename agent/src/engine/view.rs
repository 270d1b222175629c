//! What the engine tells its callers: plain values, no protobuf.

use std::net::IpAddr;

use jiff::Timestamp;
use postern_core::condition::Condition;
use postern_core::grant::{PortSpec, Source, Use};
use postern_core::mode::Mode;
use postern_core::policy::PortRule;
use postern_core::refusal::Refusal;
use postern_core::request::{Ending, Request, State, Step};
use postern_core::time::Seconds;
use postern_core::wall::ClockState;
use postern_core::warn::Warning;
use uuid::Uuid;

/// One request or grant as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantView {
    /// The record that made it: orders grants by age, and is a page token.
    pub seq: u64,
    /// What it is.
    pub life: Request,
    /// Where it is in its life. What is over by the clock is over, even before the record says so.
    pub state: State,
    /// Set once it has ended.
    pub ending: Option<Ending>,
    /// What is left on the boot clock, in nanoseconds; zero unless it is active.
    pub remaining_ns: u64,
    /// What the kernel has counted so far.
    pub usage: Use,
    /// What happened to it, the oldest first.
    pub steps: Vec<Step>,
    /// The grant that extends it.
    pub superseded_by: Option<Uuid>,
}

/// What those who watch are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantUpdate {
    /// A grant as it is now.
    pub view: GrantView,
    /// Nothing about it has changed, but it is about to end; by the wall clock when, and what becomes of sessions then.
    pub warning: Option<(Warning, Timestamp, String)>,
}

impl GrantView {
    /// Whether it has not ended.
    #[must_use]
    pub const fn is_living(&self) -> bool {
        matches!(self.state, State::Pending | State::Scheduled | State::Active)
    }
}

/// Which of them are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Also what has ended.
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

/// What anybody may know of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhoAmI {
    /// Made at the first start.
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

/// What `Explain` is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainQuery {
    /// Whom to judge: the reader, or whom root names (empty: nobody in particular, so no judgement).
    pub principal: String,
    /// At least one.
    pub ports: Vec<PortSpec>,
    /// At least one.
    pub sources: Vec<Source>,
    /// `None`: the policy's most.
    pub duration: Option<Seconds>,
    /// As in a request.
    pub justification: String,
    /// As in a request.
    pub not_before: Option<Timestamp>,
    /// As in a request.
    pub supersedes: Option<Uuid>,
}

/// What `Explain` answers.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `None` when such a request would be granted now.
    pub refusal: Option<Refusal>,
    /// How many people would have to approve it.
    pub missing: u32,
    /// The caller's live grants that touch the ports.
    pub grants: Vec<GrantView>,
    /// Who was denied in vain.
    pub denied: Vec<DeniedView>,
    /// What it means, in sentences.
    pub findings: Vec<String>,
}

/// Packets that found no live grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedView {
    /// From where.
    pub address: IpAddr,
    /// To which port.
    pub port: PortSpec,
    /// The latest, by the wall clock.
    pub last_seen: Timestamp,
    /// How many were reported (of those that were dropped the kernel reports at a limited rate).
    pub count: u64,
    /// They were let through, because the host only observes.
    pub observed: bool,
    /// Of those that were let through: how many began something new.
    pub new_flows: u64,
}

/// Whether the host enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeView {
    /// What the kernel does.
    pub effective: Mode,
    /// What the configuration said when it was last read.
    pub file: Mode,
    /// Since when the effective mode holds.
    pub since: Option<Timestamp>,
    /// Who changed it last; empty for the configuration and the clock.
    pub by: String,
    /// When a trial is over unless it is confirmed.
    pub until: Option<Timestamp>,
    /// Since when the host observes again, because nobody confirmed a trial.
    pub rolled_back: Option<Timestamp>,
}

/// One of the layers that guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerView {
    /// `lock`, `cut-ingress` or `cut-egress`.
    pub name: &'static str,
    /// Whether the kernel says that it is attached.
    pub attached: bool,
    /// Where, or why not.
    pub detail: String,
}

/// The prefilter on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpView {
    /// The interface's name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// `tcx`, `native`, `generic`, `standby` or `off`.
    pub mode: &'static str,
    /// Why this mode.
    pub reason: String,
}

/// How the wall clock stands, and what messages need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockView {
    /// How it stands.
    pub state: ClockState,
    /// Whether messages may be fresh whose use may have been forgotten: since the boot, a restore, or the loss of a journal.
    pub forgetful: bool,
    /// Why a restore from a snapshot would not be noticed, where it would not.
    pub unnoticed: Option<String>,
    /// How often the machine was restored since the agent started.
    pub restores: u64,
}

/// A promise or a function that does not hold fully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionView {
    /// Which.
    pub condition: Condition,
    /// What does not hold and why, and what to do, in words.
    pub detail: String,
    /// Since when, as far as this posternd noticed.
    pub since: Timestamp,
}

/// Everything that `GetStatus` shows.
#[derive(Clone, Debug)]
pub struct HostState {
    /// Made at the first start.
    pub host_id: Uuid,
    /// Other audiences of this host.
    pub names: Vec<String>,
    /// When this agent started.
    pub started: Timestamp,
    /// Which boot.
    pub boot_id: Uuid,
    /// How the wall clock stands.
    pub clock: ClockView,
    /// The layers, as the kernel tells.
    pub layers: Vec<LayerView>,
    /// Whether all of this has an effect.
    pub mode: ModeView,
    /// Interfaces with their prefilter.
    pub prefilters: Vec<XdpView>,
    /// The policy's ports.
    pub ports: Vec<PortRule>,
    /// Everything that does not hold, the gravest first.
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
