//! The person's side: standard output, notes, questions, passphrases, and the terminal's state.
//!
//! Owns everything that is written or read there. Results go to standard output; notes and errors to standard error, so
//! that output can be piped. With `--json` every line of both is JSON.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use postern_core::text;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;

use crate::failure::{Failure, Kind, Result};

/// How the shell sees a program that Ctrl-C ended.
pub const EXIT_INTERRUPTED: i32 = 128 + 2;

/// How the shell sees a program that was asked to end.
pub const EXIT_TERMINATED: i32 = 128 + 15;

/// How the shell sees a program that died of writing into a closed pipe.
const EXIT_BROKEN_PIPE: i32 = 128 + 13;

/// How to talk.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Machine-readable output.
    pub json: bool,
}

impl Console {
    /// Writes one result to standard output.
    ///
    /// # Errors
    /// When it cannot be written. A closed pipe ends the process quietly, as is the custom.
    pub fn out(self, text: impl std::fmt::Display) -> Result<()> {
        self.own_text(&text::lines(&text.to_string()))
    }

    /// As [`Self::out`], for a text of which this program wrote each character, such as a shell's script: tabs stay tabs.
    ///
    /// # Errors
    /// As [`Self::out`].
    pub fn own_text(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(EXIT_BROKEN_PIPE),
            Err(error) => Err(Failure::new(Kind::Local, format!("cannot write the result: {error}"))),
        }
    }

    /// Writes a line of the host's journal. A file or a pipe gets the bytes that the journal's chain binds; a terminal gets none that
    /// command it. A line with control characters is none of a journal and is escaped everywhere.
    ///
    /// # Errors
    /// As [`Self::out`].
    pub fn out_line(self, line: &str) -> Result<()> {
        if io::stdout().is_terminal() || line.chars().any(char::is_control) {
            return self.own_text(&text::line(&text::json(line)));
        }
        self.own_text(line)
    }

    /// Writes one result as a JSON line.
    ///
    /// # Errors
    /// As [`Self::out`].
    pub fn out_json(self, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Failure::new(Kind::Local, error))?;
        self.out(text::json(&text))
    }

    /// Tells something on standard error that is not the result.
    pub fn note(self, text: impl std::fmt::Display) {
        let text = text.to_string();
        let line = if self.json { json!({ "note": text }).to_string() } else { text };
        // A note that cannot be written must not stop the command.
        let _ = writeln!(io::stderr(), "{}", self.last_step(&line));
    }

    /// Tells a failure on standard error.
    pub fn fail(self, failure: &Failure) {
        let text = if self.json { failure.to_json().to_string() } else { failure.to_human() };
        let _ = writeln!(io::stderr(), "{}", self.last_step(&text));
    }

    /// Nothing that others wrote leaves here unescaped, also where it was forgotten before.
    fn last_step(self, text: &str) -> Cow<'_, str> {
        if self.json { text::json(text) } else { text::lines(text) }
    }

    /// Whether somebody is there to answer.
    #[must_use]
    pub fn can_ask(self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks for `yes` or `no` until one is typed; the end of input is a no.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub async fn ask(self, question: String) -> Result<bool> {
        blocking(move || {
            let mut hint = question;
            loop {
                let _ = write!(io::stderr(), "{} (yes/no) ", text::lines(&hint)).and_then(|()| io::stderr().flush());
                let mut answer = String::new();
                let read = io::stdin().read_line(&mut answer);
                let read =
                    read.map_err(|error| Failure::new(Kind::Local, format!("cannot read the answer: {error}")))?;
                match answer.trim().to_ascii_lowercase().as_str() {
                    "yes" => return Ok(true),
                    "no" => return Ok(false),
                    _ if read == 0 => return Ok(false),
                    _ => "Please type yes or no:".clone_into(&mut hint),
                }
            }
        })
        .await
    }

    /// Asks for a yes; anything else, also nothing, is a no.
    ///
    /// # Errors
    /// When the terminal cannot be read.
    pub async fn confirm(self, question: String) -> Result<bool> {
        blocking(move || {
            let _ = write!(io::stderr(), "{} [y/N] ", text::lines(&question)).and_then(|()| io::stderr().flush());
            let mut answer = String::new();
            let read = io::stdin().read_line(&mut answer);
            read.map_err(|error| Failure::new(Kind::Local, format!("cannot read the answer: {error}")))?;
            Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
        })
        .await
    }

    /// Reads a passphrase from the terminal without showing it. Blocks.
    ///
    /// # Errors
    /// When there is no terminal.
    pub fn passphrase(self, prompt: &str) -> Result<String> {
        remember_terminal();
        rpassword::prompt_password(&*text::lines(prompt)).map_err(|error| match error.kind() {
            // While echo is off Ctrl-C is read as a character, so no signal comes.
            io::ErrorKind::Interrupted => end(EXIT_INTERRUPTED),
            _ => Failure::new(Kind::Key, format!("cannot ask for the passphrase: {error}"))
                .next("add the key to an agent first (ssh-add FILE), then use --key agent"),
        })
    }
}

/// Runs blocking work beside the reactor, so that Ctrl-C is seen while it waits.
///
/// # Errors
/// What `work` returns, or that it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Failure::new(Kind::Local, format!("a part of postern stopped: {error}"))))
}

/// The terminal and its settings from before echo was turned off.
static SETTINGS: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// The passphrase is read from the terminal itself, wherever standard input comes from.
fn remember_terminal() {
    let Ok(terminal) = File::open("/dev/tty") else { return };
    if let Ok(settings) = tcgetattr(&terminal) {
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, settings));
    }
}

/// What to tell when a signal ends the process; nothing when it is empty.
static LAST_WORDS: Mutex<Option<(Console, String)>> = Mutex::new(None);

/// Has `text` told when a signal ends the process from now on; an empty one takes that back.
pub fn at_signal(console: Console, text: &str) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = (!text.is_empty()).then(|| (console, text.to_owned()));
}

/// Ends the process with `code`, the terminal as it was.
pub fn end(code: i32) -> ! {
    restore_terminal();
    if let Some((console, text)) = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        console.note(text);
    }
    std::process::exit(code)
}

/// Brings the terminal back as it was: echo on, cursor shown. Called when a signal ends the process.
pub fn restore_terminal() {
    if let Some((terminal, settings)) = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(terminal, OptionalActions::Now, &settings);
    }
    if io::stdout().is_terminal() {
        let _ = write!(io::stdout(), "\x1b[?25h").and_then(|()| io::stdout().flush());
    }
}
