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
                                 3 explain: it would not be granted, \
                                 78 the configuration or the trust file is wrong."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Protects the ports and serves requests until SIGTERM; stopping opens nothing. SIGHUP reloads policy and trust.
    Run(ConfigFile),
    /// Reads the configuration and the trust file, says what is wrong with them or what they mean, and changes nothing.
    CheckConfig {
        #[command(flatten)]
        file: ConfigFile,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says what would become of a request, from the files alone: exit code 0 when it would be granted, 3 when not.
    Explain {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        question: Question,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Closes the ports for everybody and ends: for the time before `run`, and for when it never starts. Changes nothing where
    /// Postern is in force already.
    Early(ConfigFile),
    /// Opens all ports: takes Postern's programs out of the kernel. Refuses while the agent runs.
    Unlock(ConfigFile),
    /// The audit journal, from the disk: the agent may run or not.
    #[command(subcommand)]
    Audit(Audit),
    /// The part of `run` that stays root; `run` starts it.
    #[command(hide = true)]
    Helper,
}

#[derive(Subcommand)]
enum Audit {
    /// Checks the whole chain, then prints the journal's lines as they stand there: JSON, the oldest first.
    Export {
        #[command(flatten)]
        file: ConfigFile,
        /// From then on: 2026-11-21T18:00:00Z.
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

/// Standard error, one entry on each line: no text in an entry can end its line or command a terminal.
struct Log;

impl io::Write for Log {
    /// One whole entry, as tracing-subscriber writes them.
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
    // h2 warns of each misbehaving peer, and no peer may fill the log; GetStatus counts them.
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTERN_LOG").unwrap_or_else(|_| "info,h2=error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log).with_ansi(false).init();
    let was_root = rustix::process::geteuid().is_root();
    let outcome = match Arguments::parse().command {
        Command::Run(_) | Command::Early(_) if !privilege::may_attach() => Err(Failure::Other(
            "a user other than root cannot attach programs to the kernel: nothing was started and no port was closed"
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
            helper::serve().map_err(|error| Failure::Usage(format!("`posternd run` starts this by itself: {error}")))
        }
        Command::Audit(Audit::Export { file, since }) => run::export(&file.config, since),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", text::lines(&format!("posternd: {failure}")));
            if !was_root {
                eprintln!("posternd: this is not root, which posternd needs; try sudo");
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
