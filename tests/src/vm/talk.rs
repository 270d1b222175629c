//! What the guest's program and the test say to each other, a line each, over a serial port.
//!
//! | the guest says | which means |
//! |---|---|
//! | `START name` | a scenario begins |
//! | `PASS name seconds` | it held |
//! | `FAIL name why` | it did not; line ends in `why` are `\n` in two letters |
//! | `NOTE text` | for the reader |
//! | `ASK words` | the outside is to do something; the guest waits for one line |
//! | `END` | nothing more will come |

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How one scenario ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not, and why.
    Failed(String),
}

/// What a guest reported, in its order.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Scenarios that ended.
    pub outcomes: Vec<(String, Outcome)>,
    /// Everything it said.
    pub lines: Vec<String>,
}

impl Report {
    /// How a scenario ended; `None` where it never did.
    #[must_use]
    pub fn outcome(&self, name: &str) -> Option<&Outcome> {
        self.outcomes.iter().find(|(known, _)| known == name).map(|(_, outcome)| outcome)
    }

    fn read(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let outcome = match word {
            "PASS" => Outcome::Passed,
            "FAIL" => Outcome::Failed(text.replace("\\n", "\n")),
            _ => return,
        };
        self.outcomes.push((name.to_owned(), outcome));
    }
}

/// The guest's end of the talk.
#[derive(Debug)]
pub struct Guest {
    stream: BufReader<UnixStream>,
}

impl Guest {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Listens until the guest asks for something, which is returned, or has nothing more to say.
    ///
    /// # Errors
    /// Where it says nothing for so long as `patience`, or the machine is gone.
    pub fn listen(&mut self, report: &mut Report, patience: Duration) -> Result<Option<String>, String> {
        loop {
            let line = self.line(patience)?;
            println!("guest: {line}");
            report.lines.push(line.clone());
            report.read(&line);
            match line.strip_prefix("ASK ") {
                Some(words) => return Ok(Some(words.to_owned())),
                None if line == "END" => return Ok(None),
                None => {}
            }
        }
    }

    fn line(&mut self, patience: Duration) -> Result<String, String> {
        let told = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock => format!("the guest has said nothing for {patience:?}"),
            _ => format!("the guest's line: {error}"),
        };
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(told)?;
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line).map_err(told)? {
            0 => Err("the machine is gone".to_owned()),
            _ => Ok(String::from_utf8_lossy(&line).trim().to_owned()),
        }
    }

    /// Answers what was asked.
    ///
    /// # Panics
    /// Where the machine is gone.
    pub fn answer(&mut self, words: &str) {
        self.stream.get_mut().write_all(format!("{words}\n").as_bytes()).expect("to answer the guest");
    }
}
