//! `posternd`: the command line of the agent.
//!
//! Owns arguments, exit codes and signals. Everything else is in the library.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use postern_agent::commands::offline::{self, Question};
use postern_agent::commands::run::{self, Failure};
use postern_agent::sandbox::helper;
use postern_agent::sandbox::privilege;
use postern_core::text;

/// Keeps management ports closed in the kernel and opens them for signed grants.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 failed (the ports are at least as closed as they were), 2 wrong usage, \
                                 3 explain: the request is not granted, \
                                 78 the configuration or the trust file has a mistake."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Protects the ports and serves requests until SIGTERM. A stop opens no port. SIGHUP reloads policy and trust.
    Run(ConfigFile),
    /// Checks the configuration and the trust file, and prints their mistakes or what they mean. Changes nothing.
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Explains from the files alone whether a request is granted: exit code 0 if yes, 3 if no.
    Explain {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        question: Question,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Closes the ports for everybody, then exits: for the time before `run`, and in case `run` never starts. Changes nothing where
    /// Postern is already in force.
    Early(ConfigFile),
    /// Opens all ports: removes Postern's programs from the kernel. Fails while `posternd run` is running.
    Unlock(ConfigFile),
    /// The audit journal on the disk. Works with and without a running posternd.
    #[command(subcommand)]
    Audit(Audit),
    /// The privileged helper. `run` starts it.
    #[command(hide = true)]
    Helper,
}

#[derive(Subcommand)]
enum Audit {
    /// Checks the whole chain, then prints the lines of the journal unchanged: JSON, the oldest first.
    Export {
        #[command(flatten)]
        file: ConfigFile,
        /// Prints only lines from this time on: 2026-11-21T18:00:00Z.
        #[arg(long, value_name = "TIME")]
        since: Option<jiff::Timestamp>,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, default_value = "/etc/postern/postern.toml")]
    config: PathBuf,
}

/// Standard error, one log entry on each line. Text in an entry cannot end the line or control a terminal.
struct Log;

impl io::Write for Log {
    /// One whole entry: tracing-subscriber writes each entry at once.
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let entry_text = String::from_utf8_lossy(entry);
        let text = entry_text.strip_suffix('\n').unwrap_or(&entry_text);
        io::stderr().write_all(format!("{}\n", text::line(text)).as_bytes()).map(|()| entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn main() -> ExitCode {
    // h2 warns about each misbehaving peer. Peers must not fill the log, so GetStatus counts them instead.
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTERN_LOG").unwrap_or_else(|_| "info,h2=error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log).with_ansi(false).init();
    let was_root = rustix::process::geteuid().is_root();
    let outcome = match Arguments::parse().command {
        Command::Run(_) | Command::Early(_) if !privilege::may_attach() => Err(Failure::Other(
            "this user cannot attach programs to the kernel. Nothing was started and no port was closed. Run posternd as root"
                .into(),
        )),
        Command::Run(ConfigFile { config }) => run::run(&config),
        Command::CheckConfig { file, json } => offline::check(&file.config, json),
        Command::Explain { file, question, json } => match offline::explain(&file.config, &question, json) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(3),
            Err(failure) => Err(failure),
        },
        Command::Early(ConfigFile { config }) => run::early(&config),
        Command::Unlock(ConfigFile { config }) => run::unlock(&config),
        Command::Helper => {
            helper::serve().map_err(|error| Failure::Usage(format!("`posternd run` starts the helper; do not start it by hand: {error}")))
        }
        Command::Audit(Audit::Export { file, since }) => run::export(&file.config, since),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", text::lines(&format!("posternd: {failure}")));
            if !was_root {
                eprintln!("posternd: posternd needs root. Run it with sudo");
            }
            ExitCode::from(match failure {
                // sysexits.h: EX_CONFIG
                Failure::Config(_) => 78,
                Failure::Usage(_) => 2,
                Failure::Other(_) => 1,
            })
        }
    }
}
