//! Commands about a host.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{parse, target::Target};

/// `postern audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Who asked, approved, was refused, or ended a grant
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    pub principal: String,
    /// Grants that touch this port: ssh, rdp, 22 or 22/tcp
    #[arg(long, short = 'p', value_name = "PORT", value_parser = parse::port)]
    pub port: Option<String>,
    /// Grants with a source inside this prefix or around it
    #[arg(long, value_name = "CIDR", value_parser = parse::prefix)]
    pub from: Option<ipnet::IpNet>,
    /// From then on: 24h (ago), 18:00 (the last one), 2026-11-21, "2026-11-21 18:00", or RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Before then; written like --since
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Only lines of this kind: requested, approved, granted, ended, refused, break-glass, …; may be repeated
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub event: Vec<String>,
    /// Only refusals or ends with this code: DURATION_TOO_LONG, revoked, …
    #[arg(long, value_name = "CODE", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Only the life of this request or grant
    #[arg(value_parser = parse::grant_id, long, value_name = "ID")]
    pub grant: Option<uuid::Uuid>,
    /// At most this many lines; the default is 100, or all with --jsonl
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Shows each new line as it is written, until Ctrl-C
    #[arg(long, short = 'F', conflicts_with_all = ["since", "until", "limit"])]
    pub follow: bool,
    /// Export the lines of the journal as they are stored (JSON), the oldest first
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
}

/// `postern report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The host (see `postern --help`)
    pub host: Target,
    /// How far back
    #[arg(long, short = 'd', value_name = "N", default_value = "7", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// `postern policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Shows the rules in force: ports, roles, limits
    Show(super::Host),
    /// Has the host check a configuration file, without effect
    Check(PolicyCheck),
}

/// `postern policy check`.
#[derive(Debug, Args)]
pub struct PolicyCheck {
    /// The host (see `postern --help`)
    pub host: Target,
    /// The file (- is standard input)
    pub file: PathBuf,
}

/// `postern break-glass`.
#[derive(Debug, Args)]
pub struct BreakGlass {
    /// posternd's socket
    #[arg(default_value = "unix:///run/postern/posternd.sock")]
    pub host: Target,
    /// What to open: a name that the host has (ssh, rdp, …), 22, 53/udp or 3389/any; may be repeated
    #[arg(long = "port", short = 'p', required = true, value_name = "PORT", value_delimiter = ',', value_parser = parse::port)]
    pub ports: Vec<String>,
    /// Sources: an address or a prefix, also 0.0.0.0/0; may be repeated
    #[arg(long, required = true, value_name = "CIDR", value_delimiter = ',', value_parser = parse::prefix)]
    pub from: Vec<ipnet::IpNet>,
    /// For how long, a day at most: 30m, 1h30m, 90s, 2h
    #[arg(long = "for", short = 'f', value_name = "TIME", value_parser = parse::duration)]
    pub duration: Duration,
    /// Why; it is written to the journal
    #[arg(long, short = 'r', value_name = "TEXT")]
    pub reason: String,
}

/// A command for the host on which it runs.
#[derive(Debug, Args)]
pub struct Own {
    /// posternd's socket
    #[arg(default_value = "unix:///run/postern/posternd.sock")]
    pub host: Target,
}

/// `postern enable`.
#[derive(Debug, Args)]
pub struct Enable {
    /// Where.
    #[command(flatten)]
    pub own: Own,
    /// How long the trial is, an hour at most: 5m, 90s
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse::duration)]
    pub confirm_within: Duration,
    /// Enforce even if the ports would open when posternd dies, as in some containers
    #[arg(long)]
    pub only_while_running: bool,
}

/// `postern confirm`.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Where.
    #[command(flatten)]
    pub own: Own,
    /// Confirm although nobody has come in under a signed grant since
    #[arg(long)]
    pub without_proof: bool,
}
