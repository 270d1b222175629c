//! The command line: names, grammar and help texts.

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
/// A Postern host keeps its management ports closed in the kernel. A signed request opens a port for your address and
/// a few minutes. Then the kernel closes the port again.
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
    /// Trusts an unknown host without a question; a host with a changed key is still refused
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
    /// Asks for more time for a live grant; sessions stay up
    #[command(after_help = help::EXTEND)]
    Extend(Extend),
    /// Ends a grant of your own now, or withdraws a pending request
    #[command(after_help = help::GIVE_BACK)]
    GiveBack(GiveBack),
    /// Shows the requests that wait for approval
    Pending(Host),
    /// Shows a pending request and approves it
    #[command(after_help = help::APPROVE)]
    Approve(Approve),
    /// Declines a pending request
    Decline(Decline),
    /// Ends any grant now, if your role allows it
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
    /// Shows which sources tried a closed port recently, and how often
    Denied(Host),
    /// Shows who requested and used each port recently, and which grants were never used
    Report(Report),
    /// Shows the host's audit journal, the newest line first, and checks its integrity
    #[command(after_help = help::AUDIT)]
    Audit(Audit),
    /// Shows the host's rules, or checks a file of new ones
    #[command(subcommand)]
    Policy(Policy),
    /// On the host, as root: opens ports without a signature; it is logged as an error
    #[command(after_help = help::BREAK_GLASS)]
    BreakGlass(BreakGlass),
    /// On the host, as root: starts a trial of enforcing on a host that observes
    #[command(after_help = help::ENABLE)]
    Enable(Enable),
    /// On the host, as root: confirms the trial, so that the host goes on enforcing
    #[command(after_help = help::ENABLE)]
    Confirm(Confirm),
    /// On the host, as root: ends the trial now, so that the host observes again
    #[command(after_help = help::ENABLE)]
    RollBack(Own),
    /// Signs a message and prints it for grpcurl, without sending it
    #[command(after_help = help::SIGN)]
    Sign(Sign),
    /// Forgets the TLS fingerprint and addresses of a host, for example after they changed on purpose
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
    /// The host (see `postern --help`)
    pub host: Target,
}
