//! Commands about access.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{parse, payload::Purpose, target::Target};

/// What is asked for, shared by `request`, `explain` and `sign`.
#[derive(Clone, Debug, Args)]
pub struct What {
    /// What to open: a name that the host has (ssh, rdp, …), 22, 53/udp or 3389/any; may be repeated
    #[arg(long = "port", short = 'p', value_name = "PORT", value_delimiter = ',', value_parser = parse::port)]
    pub ports: Vec<String>,
    /// For how long: 30m, 1h30m, 90s, 2h
    #[arg(long = "for", short = 'f', value_name = "TIME", value_parser = parse::duration, conflicts_with = "until")]
    pub duration: Option<Duration>,
    /// Until when: 18:00, "2026-11-21 18:00", or RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Start later instead of at once; --for counts from then. Written like --until
    #[arg(long, value_name = "WHEN")]
    pub not_before: Option<String>,
    /// Sources: my-ip (the default), an address or a prefix; may be repeated
    #[arg(long, value_name = "my-ip|CIDR", value_delimiter = ',')]
    pub from: Vec<parse::From>,
    /// Why; some policies require a reason
    #[arg(long, short = 'r', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// A reference into another system, kept in the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub ticket: String,
}

/// `postern request`.
#[derive(Debug, Args)]
pub struct Request {
    /// The host (see `postern --help`)
    pub host: Target,
    /// What to ask for.
    #[command(flatten)]
    pub what: What,
    /// Wait until the port is open or the request is refused; Ctrl-C does not withdraw the request
    #[arg(long, short = 'w')]
    pub wait: bool,
}

/// `postern extend`.
#[derive(Debug, Args)]
pub struct Extend {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which grant; not needed if you have only one
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: Option<uuid::Uuid>,
    /// For how long from now: 30m, 1h30m, 90s, 2h
    #[arg(long = "for", short = 'f', value_name = "TIME", value_parser = parse::duration, conflicts_with = "until")]
    pub duration: Option<Duration>,
    /// Until when: 18:00, "2026-11-21 18:00", or RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Why; without it the reason of the grant
    #[arg(long, short = 'r', value_name = "TEXT")]
    pub reason: Option<String>,
    /// Wait until the grant is extended or the request is refused; Ctrl-C does not withdraw the request
    #[arg(long, short = 'w')]
    pub wait: bool,
}

/// `postern give-back`.
#[derive(Debug, Args)]
pub struct GiveBack {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which grant or request; not needed if you have only one
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: Option<uuid::Uuid>,
    /// Why, for the record
    #[arg(long, short = 'r', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `postern approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which request; `postern pending` shows it
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: uuid::Uuid,
    /// Approves without asking; for scripts that have looked at `postern pending --json`
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Approves for this host as well, where the request names it by a name, id or key that HOST does not prove; may be repeated
    #[arg(long, value_name = "NAME|ID|KEY", value_delimiter = ',')]
    pub audience: Vec<String>,
}

/// `postern decline`.
#[derive(Debug, Args)]
pub struct Decline {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which request; `postern pending` shows it
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: uuid::Uuid,
    /// Why; the requester reads it
    #[arg(long, short = 'r', value_name = "TEXT")]
    pub reason: String,
}

/// `postern show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which grant; `postern list --all` shows it
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: uuid::Uuid,
}

/// `postern revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Which grant; `postern list` shows it
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: uuid::Uuid,
    /// Why, for the record
    #[arg(long, short = 'r', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `postern list`.
#[derive(Debug, Args)]
pub struct List {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Also grants that have ended
    #[arg(long, short = 'a')]
    pub all: bool,
}

/// `postern watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// The host (see `postern --help`)
    pub host: Target,
    /// Only this grant; the command ends with it
    #[arg(value_parser = parse::grant_id)]
    pub grant_id: Option<uuid::Uuid>,
}

/// `postern explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The host (see `postern --help`), or a reason code
    #[arg(value_name = "HOST|REASON_CODE")]
    pub host: String,
    /// What to judge.
    #[command(flatten)]
    pub what: What,
    /// The principal to judge; only for root on the Unix socket
    #[arg(long, value_name = "PRINCIPAL", default_value = "", hide_default_value = true)]
    pub principal: String,
}

/// `postern sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// Asks this host for its id, clock and challenge
    #[arg(conflicts_with_all = ["payload", "audience"])]
    pub host: Option<Target>,
    /// What to ask for.
    #[command(flatten)]
    pub what: What,
    /// Signs a revocation of this grant
    #[arg(value_parser = parse::grant_id, long, value_name = "GRANT_ID", conflicts_with_all = ["ports", "read", "payload"])]
    pub revoke: Option<uuid::Uuid>,
    /// Signs a read
    #[arg(long, conflicts_with_all = ["ports", "payload"])]
    pub read: bool,
    /// Signs this file's bytes (- is standard input)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ports", "duration", "until", "from", "audience"])]
    pub payload: Option<PathBuf>,
    /// What kind of message the file holds
    #[arg(long = "as", value_name = "KIND", requires = "payload")]
    pub kind: Option<Purpose>,
    /// Sign for these hosts without a connection: a configured name, or a key's fingerprint and the host id; may be repeated
    #[arg(long, value_name = "NAME|KEY,ID", value_delimiter = ',')]
    pub audience: Vec<String>,
}
