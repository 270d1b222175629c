//! The binary `postern`: parses the command line, runs the command, and sets the exit code, also on a signal.

use std::process::ExitCode;

use clap::{Parser as _, error::ErrorKind};
use postern_cli::{
    args::Cli,
    commands,
    console::{Console, EXIT_INTERRUPTED, EXIT_TERMINATED, end, restore_terminal},
    failure::{Failure, Kind},
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_arguments(&error),
    };
    let asked_for_json = Console { json: cli.common.json };
    // A value that is not UTF-8 must stay an invalid value. If it counted as empty, another key would sign.
    let variable = |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    let common = match cli.common.with_environment(variable) {
        Ok(common) => common,
        Err(failure) => {
            asked_for_json.fail(&failure);
            return ExitCode::from(failure.kind.exit_code());
        }
    };
    let cli = Cli { common, ..cli };
    let console = Console { json: cli.common.json };
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Local, format!("cannot start: {error}")))
        .and_then(|runtime| runtime.block_on(until_signal(commands::run(cli))));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            restore_terminal();
            console.fail(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// A signal ends the process at once and restores the terminal, even while a key or a question waits.
async fn until_signal(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::new(Kind::Local, format!("cannot start: {error}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => end(EXIT_INTERRUPTED),
        _ = terminate.recv() => end(EXIT_TERMINATED),
    }
}

/// Help and version go to standard output; mistakes go to standard error, as JSON with `--json`.
fn wrong_arguments(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked_for && std::env::args().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Console { json: true }.fail(&Failure::usage(message));
    } else {
        // There is no other place to report that this write failed.
        let _ = error.print();
    }
    if asked_for { ExitCode::SUCCESS } else { ExitCode::from(Kind::Usage.exit_code()) }
}
