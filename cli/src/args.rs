//! The command line, and the help that teaches it.
//!
//! Owns names, grammar and texts. It never does anything.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{parse, payload::Purpose, target::Target, tls::Fingerprint};

const HOSTS: &str = "\
HOST is one of
  vm1.example.com, 192.0.2.1       TLS on port 7322
  vm1.example.com:9000             TLS on another port
  2001:db8::1, [2001:db8::1]:9000  the same for IPv6
  unix:///run/postern/posternd.sock
  http://127.0.0.1:7323            plaintext, loopback only

Trust: a host whose SSH host key is in your ssh known_hosts, under the name as typed, proves to hold it and needs nothing \
else. For any other, at the first use the host's TLS fingerprint is shown and asked about, then kept in ~/.config/postern/known_hosts.toml. \
Without a terminal pass --fingerprint SHA256:… or --accept-new. A host that shows another key later is refused.

Keys: without --key the first acceptable key of your ssh-agent signs, else ~/.ssh/id_ed25519, id_ecdsa or id_rsa. \
--key takes a private key, a .pub or -cert.pub file whose key is in the agent, agent, agent:SHA256:… or agent:COMMENT. \
A valid certificate beside a private key (KEY-cert.pub) is used.

With --json results are JSON on standard output, in the API's own form; notes and errors are JSON lines on standard \
error: {\"note\": …} and {\"error\": {\"kind\", \"exitCode\", \"message\", \"reason\", \"rule\", \"next\"}}.

Exit codes
  0  done
  1  the host refused; `postern explain CODE` says what a reason code means
  2  the command line does not make sense
  3  the host cannot be reached
  4  the host is not the one that was trusted, or not trusted yet
  5  no key to sign with, or it did not sign
  6  the host could not do it (overloaded, its disk or kernel failed); nothing was opened
  7  this machine: a file cannot be read or written
  130, 143  ended by Ctrl-C, by a termination signal";

const EXAMPLES: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
      opens ssh for the addresses that vm1 sees you under, then closes by itself
  postern request vm1 --port rdp --until 18:00 --from 10.1.0.0/24 --reason 'ticket 4711'
  postern explain vm1 --port ssh     why can't I connect?
  postern watch vm1                  time left, live
  postern revoke vm1 GRANT_ID        done early
";

const REQUEST: &str = "\
Examples
  postern request vm1.example.com --port ssh --for 30m
  postern request vm1 --port 22 --port 5986/tcp --for 1h30m --reason 'disk full' --ticket INC-4711
  postern request vm1.example.com --port ssh --until 18:00 --from 192.0.2.7 --from 2001:db8::/64
  postern request vm1.example.com --port ssh --for 30m --key ~/.ssh/id_ed25519_sk.pub --json

--from my-ip (the default) asks the host over every address its name has, IPv4 and IPv6, which address it sees you \
under, shows them, and asks for exactly those.";

const EXPLAIN: &str = "\
Examples
  postern explain vm1.example.com --port ssh            why can't I connect?
  postern explain vm1.example.com --port ssh --for 4h   would this be granted?
  postern explain DURATION_TOO_LONG                     what does this code mean? (asks no host)

Nothing is opened. The exit code is 0 when the question was answered, whatever the answer.";

const AUDIT: &str = "\
Examples
  postern audit vm1.example.com                                   the newest lines
  postern audit vm1 --port ssh --from 10.1.0.0/16 --since 24h     who could reach ssh from there since yesterday?
  postern audit vm1 --principal alice@example.com --event refused
  postern audit vm1 --limit 100000 --json | jq -r '.entries[].line'

Only admins and root see the journal. --port and --from match grants and their ends, so no refusals. The exit code is 6 \
when the journal was changed or lacks lines.";

const SIGN: &str = "\
Examples
  postern sign vm1.example.com --port ssh --for 30m > request.json
  grpcurl -insecure -d @ vm1.example.com:7322 postern.v1.AccessService/RequestAccess < request.json

  postern sign --audience vm1.example.com --port ssh --for 30m --from 192.0.2.7/32
      signs without asking the host: by this machine's clock, and without a challenge
  postern sign vm1.example.com --revoke GRANT_ID
  postern sign vm1.example.com --read
  postern sign --payload payload.json
      signs the file's bytes as they are; its content shows what kind of message it is, or --as says it

A signed request is worth something for two minutes, a read for ten.";

/// Asks a Postern host for just-in-time access to its protected ports.
///
/// A Postern host keeps its management ports closed in the kernel. A signed request opens one for your address and
/// some minutes; then it closes by itself.
#[derive(Debug, Parser)]
#[command(name = "postern", version, arg_required_else_help = true, before_long_help = EXAMPLES, after_long_help = HOSTS)]
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
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "SHA256:…")]
    pub fingerprint: Option<Fingerprint>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Opens ports for some time
    #[command(after_help = REQUEST)]
    Request(Request),
    /// Ends a grant now
    Revoke(Revoke),
    /// Shows your live grants
    List(List),
    /// Shows your live grants and their time left, until Ctrl-C
    Watch(Watch),
    /// Says why you cannot connect, why you were refused, or what a reason code means
    #[command(after_help = EXPLAIN)]
    Explain(Explain),
    /// Shows what the host protects and how well
    Status(Host),
    /// Shows the host's audit journal, the newest line first, and checks that nothing in it was changed
    #[command(after_help = AUDIT)]
    Audit(Audit),
    /// Signs without sending: prints what grpcurl sends
    #[command(after_help = SIGN)]
    Sign(Sign),
    /// Forgets a host's TLS fingerprint, after its key was changed on purpose
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

/// What is asked for, shared by `request`, `explain` and `sign`.
#[derive(Clone, Debug, Args)]
pub struct What {
    /// What to open: ssh, rdp, winrm, winrm-https, 22 or 22/tcp; may be repeated
    #[arg(long = "port", short = 'p', value_name = "PORT", value_delimiter = ',', value_parser = parse::port)]
    pub ports: Vec<String>,
    /// For how long: 30m, 1h30m, 90s, 2h
    #[arg(long = "for", short = 'f', value_name = "TIME", value_parser = parse::duration, conflicts_with = "until")]
    pub duration: Option<Duration>,
    /// Until when: 18:00, "2026-11-21 18:00", or RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// For whom: my-ip (the default), an address or a prefix; may be repeated
    #[arg(long, value_name = "my-ip|CIDR", value_delimiter = ',')]
    pub from: Vec<parse::From>,
    /// Why; some policies want to know
    #[arg(long, short = 'r', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// A reference into another system, kept in the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub ticket: String,
}

/// `postern request`.
#[derive(Debug, Args)]
pub struct Request {
    /// Where to (see `postern --help`)
    pub host: Target,
    /// What to ask for.
    #[command(flatten)]
    pub what: What,
}

/// `postern revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Where to (see `postern --help`)
    pub host: Target,
    /// Which grant; `postern list` shows it
    pub grant_id: uuid::Uuid,
    /// Why, for the record
    #[arg(long, short = 'r', value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `postern list`.
#[derive(Debug, Args)]
pub struct List {
    /// Where to (see `postern --help`)
    pub host: Target,
    /// Also grants that have ended
    #[arg(long, short = 'a')]
    pub all: bool,
}

/// `postern watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Where to (see `postern --help`)
    pub host: Target,
    /// Only this grant; the command ends with it
    pub grant_id: Option<uuid::Uuid>,
}

/// `postern audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// Where to (see `postern --help`)
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
    /// started, stopped, granted, ended, refused, unverified, unlocked or repaired; may be repeated
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub event: Vec<String>,
    /// At most this many lines
    #[arg(long, short = 'n', value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// `postern explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// Where to (see `postern --help`), or a reason code
    #[arg(value_name = "HOST|REASON_CODE")]
    pub host: String,
    /// What to judge.
    #[command(flatten)]
    pub what: What,
    /// Whom to judge; only for root on the Unix socket
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
    #[arg(long, value_name = "GRANT_ID", conflicts_with_all = ["ports", "read", "payload"])]
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
    /// For these hosts (id or name), without asking one; may be repeated
    #[arg(long, value_name = "ID|NAME", value_delimiter = ',')]
    pub audience: Vec<String>,
}
