//! The command line, and the help that teaches it.
//!
//! Owns names, grammar and texts. It never does anything.

mod access;
mod environment;
mod help;
mod host;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use self::{
    access::{Approve, Decline, Explain, Extend, GiveBack, List, Request, Revoke, Show, Sign, Watch, What},
    host::{Audit, BreakGlass, Confirm, Enable, Own, Policy, PolicyCheck, Report},
};
use crate::{target::Target, tls::Fingerprint};

/// Asks a Postern host for just-in-time access to its protected ports.
///
/// A Postern host keeps its management ports closed in the kernel. A signed request opens one for your address and
/// some minutes; then it closes by itself.
#[derive(Debug, Parser)]
#[command(name = "postern", version, arg_required_else_help = true, before_long_help = help::EXAMPLES, after_long_help = help::HOSTS)]
#[command(after_help = "`postern --help` shows examples, the forms of HOST, and the exit codes.")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Writes JSON, for programs
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Signs with this key: a file, agent, agent:FINGERPRINT or agent:COMMENT
    #[arg(long, short = 'k', global = true, help_heading = "Options of every command", value_name = "FILE|agent")]
    pub key: Option<String>,
    /// Trusts a host that is not known yet without asking; a changed one is still refused
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub accept_new: bool,
    /// Trusts exactly this TLS certificate, now and from now on
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "SHA256:…", value_parser = crate::tls::fingerprint)]
    pub fingerprint: Option<Fingerprint>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks for ports to be opened for some time
    #[command(after_help = help::REQUEST)]
    Request(Request),
    /// Asks for a live grant to last longer; what is connected stays connected
    #[command(after_help = help::EXTEND)]
    Extend(Extend),
    /// Ends a grant of your own now, or takes a request back that waits
    #[command(after_help = help::GIVE_BACK)]
    GiveBack(GiveBack),
    /// Shows which requests wait for approval
    Pending(Host),
    /// Shows a waiting request in plain words, and approves it
    #[command(after_help = help::APPROVE)]
    Approve(Approve),
    /// Declines a waiting request
    Decline(Decline),
    /// Ends a grant now, also somebody else's, for those who may
    Revoke(Revoke),
    /// Shows grants and requests that have not ended
    List(List),
    /// Shows one grant with everything that happened to it
    Show(Show),
    /// Shows live grants and their time left, until Ctrl-C
    Watch(Watch),
    /// Says why you cannot connect, why you were refused, or what a reason code means
    #[command(after_help = help::EXPLAIN)]
    Explain(Explain),
    /// Shows what the host protects and how well
    Status(Host),
    /// Shows which sources tried a closed port lately, and how often
    Denied(Host),
    /// Shows who asked for and used each port lately, and what was never used
    Report(Report),
    /// Shows the host's audit journal, the newest line first, and checks that nothing in it was changed
    #[command(after_help = help::AUDIT)]
    Audit(Audit),
    /// Shows the host's rules, or checks a file of new ones
    #[command(subcommand)]
    Policy(Policy),
    /// On the host, as root: opens ports without anybody's signature, loudly
    #[command(after_help = help::BREAK_GLASS)]
    BreakGlass(BreakGlass),
    /// On the host, as root: has a host that only observes enforce, on trial
    #[command(after_help = help::ENABLE)]
    Enable(Enable),
    /// On the host, as root: has it go on enforcing after the trial
    #[command(after_help = help::ENABLE)]
    Confirm(Confirm),
    /// On the host, as root: ends the trial now, so that the host observes again
    #[command(after_help = help::ENABLE)]
    RollBack(Own),
    /// Signs without sending: prints what grpcurl sends
    #[command(after_help = help::SIGN)]
    Sign(Sign),
    /// Forgets a host's TLS fingerprint and addresses, after they were changed on purpose
    Forget(Host),
    /// Prints a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// Where to.
        directory: PathBuf,
    },
}

/// A command that takes only a host.
#[derive(Debug, Args)]
pub struct Host {
    /// Where to (see `postern --help`)
    pub host: Target,
}
