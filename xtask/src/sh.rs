//! Running other programs, and finding things on this machine.
//!
//! Never goes through a shell: arguments are passed as they are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An error is a sentence for the person who ran the command.
pub type Result<T> = std::result::Result<T, String>;

/// The top of this checkout.
pub fn root() -> PathBuf {
    let own =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that started us, so that a command never mixes two toolchains.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("PATH", search_path());
    // Set for us by `cargo run`; a build that inherits them is rebuilt for each of its callers.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "LD_LIBRARY_PATH"]
    {
        command.env_remove(name);
    }
    command
}

/// The same program, with what others leave it of the processors.
pub fn nice(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        nice.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    nice
}

/// Runs a program, shows its output and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", line(command))) }
}

/// Runs a program quietly and returns what it printed, or `None` if it is absent or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// A command as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Where a program is, in `PATH` and in the places that `PATH` often lacks: the sbin directories, cargo's and Go's.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// `PATH`, then the places that it often lacks.
pub fn search_path() -> std::ffi::OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = env::split_paths(&own).collect();
    all.extend([cargo_home().join("bin"), go_bin()]);
    all.extend(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from));
    env::join_paths(all).unwrap_or(own)
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

fn go_bin() -> PathBuf {
    let path = env::var_os("GOPATH").map_or_else(|| home().join("go"), PathBuf::from);
    env::var_os("GOBIN").map_or_else(|| path.join("bin"), PathBuf::from)
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Whether we may install packages and load eBPF programs.
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id == "0")
}

/// Whether this run is CI's, where nothing may be skipped.
pub fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Reads a file of the checkout.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
