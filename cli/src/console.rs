//! Standard output, notes, questions, passphrases, and the state of the terminal.
//!
//! Results go to standard output, notes and errors to standard error. With `--json` every line of both is JSON.

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

/// The exit status after Ctrl-C, as shells report it.
pub const EXIT_INTERRUPTED: i32 = 128 + 2;

/// The exit status after SIGTERM, as shells report it.
pub const EXIT_TERMINATED: i32 = 128 + 15;

/// The exit status after a write into a closed pipe, as shells report it.
const EXIT_BROKEN_PIPE: i32 = 128 + 13;

/// The form of the output.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Whether the output is JSON.
    pub json: bool,
}

impl Console {
    /// Writes one result to standard output. A closed pipe ends the process without an error message, as is usual.
    ///
    /// # Errors
    /// Fails if the write fails for another reason than a closed pipe.
    pub fn out(self, text: impl std::fmt::Display) -> Result<()> {
        self.own_text(&text::lines(&text.to_string()))
    }

    /// [`Self::out`] for text that this program made, such as a shell script: tabs stay tabs.
    ///
    /// # Errors
    /// Fails as [`Self::out`] does.
    pub fn own_text(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(EXIT_BROKEN_PIPE),
            Err(error) => Err(Failure::new(Kind::Local, format!("cannot write the result: {error}"))),
        }
    }

    /// Writes a line of the host's journal. A file or pipe gets the exact bytes, which the journal's chain binds. A terminal gets them
    /// escaped. A line with control characters cannot come from a journal and is always escaped.
    ///
    /// # Errors
    /// Fails as [`Self::out`] does.
    pub fn out_line(self, line: &str) -> Result<()> {
        if io::stdout().is_terminal() || line.chars().any(char::is_control) {
            return self.own_text(&text::line(&text::json(line)));
        }
        self.own_text(line)
    }

    /// Writes one result as a JSON line.
    ///
    /// # Errors
    /// Fails as [`Self::out`] does, or if `value` has no JSON form.
    pub fn out_json(self, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| Failure::new(Kind::Local, error))?;
        self.out(text::json(&text))
    }

    /// Writes a note to standard error.
    pub fn note(self, text: impl std::fmt::Display) {
        let text = text.to_string();
        let line = if self.json { json!({ "note": text }).to_string() } else { text };
        // A note that cannot be written must not stop the command.
        let _ = writeln!(io::stderr(), "{}", self.last_step(&line));
    }

    /// Writes a failure to standard error.
    pub fn fail(self, failure: &Failure) {
        let text = if self.json { failure.to_json().to_string() } else { failure.to_human() };
        let _ = writeln!(io::stderr(), "{}", self.last_step(&text));
    }

    /// Escapes text of other people even where a caller forgot to.
    fn last_step(self, text: &str) -> Cow<'_, str> {
        if self.json { text::json(text) } else { text::lines(text) }
    }

    /// Whether a person can answer questions.
    #[must_use]
    pub fn can_ask(self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks until the answer is `yes` or `no`. The end of input counts as no.
    ///
    /// # Errors
    /// Fails if standard input is unreadable.
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

    /// Asks once; any answer besides `y` and `yes` counts as no.
    ///
    /// # Errors
    /// Fails if standard input is unreadable.
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

    /// Reads a passphrase from the terminal without echo. Blocks.
    ///
    /// # Errors
    /// Fails with [`Kind::Key`] if there is no terminal.
    pub fn passphrase(self, prompt: &str) -> Result<String> {
        remember_terminal();
        rpassword::prompt_password(&*text::lines(prompt)).map_err(|error| match error.kind() {
            // While echo is off, the terminal delivers Ctrl-C as a character and not as a signal.
            io::ErrorKind::Interrupted => end(EXIT_INTERRUPTED),
            _ => Failure::new(Kind::Key, format!("cannot ask for the passphrase: {error}"))
                .next("add the key to an agent first (ssh-add FILE), then use --key agent"),
        })
    }
}

/// Runs blocking work on another thread, so that the reactor still sees Ctrl-C.
///
/// # Errors
/// Fails if `work` fails or panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Failure::new(Kind::Local, format!("a part of postern stopped: {error}"))))
}

/// The terminal and its settings from before echo went off.
static SETTINGS: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// A passphrase always comes from the terminal, even if standard input is a file.
fn remember_terminal() {
    let Ok(terminal) = File::open("/dev/tty") else { return };
    if let Ok(settings) = tcgetattr(&terminal) {
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, settings));
    }
}

/// The note to print when a signal ends the process.
static LAST_WORDS: Mutex<Option<(Console, String)>> = Mutex::new(None);

/// Sets the note to print when a signal ends the process; an empty text removes it.
pub fn at_signal(console: Console, text: &str) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = (!text.is_empty()).then(|| (console, text.to_owned()));
}

/// Restores the terminal and ends the process with `code`.
pub fn end(code: i32) -> ! {
    restore_terminal();
    if let Some((console, text)) = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        console.note(text);
    }
    std::process::exit(code)
}

/// Turns echo and the cursor on again.
pub fn restore_terminal() {
    if let Some((terminal, settings)) = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(terminal, OptionalActions::Now, &settings);
    }
    if io::stdout().is_terminal() {
        let _ = write!(io::stdout(), "\x1b[?25h").and_then(|()| io::stdout().flush());
    }
}
