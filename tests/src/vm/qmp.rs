//! The emulator's monitor (QMP): one JSON object a line, over a Unix socket.
//!
//! Never decides anything: it says a command and returns what was answered.

use crate::until::find;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a command may take; those that take longer are started by one and asked about by others.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is past its greeting.
#[derive(Debug)]
pub(super) struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects.
    pub(super) fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self { lines: BufReader::new(stream) };
        this.line();
        this.run("qmp_capabilities", &json!({}));
        Ok(this)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("an answer of the emulator's monitor");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the monitor said {line:?}: {error}"))
    }

    /// Runs a command and returns what it returned; events are passed over.
    pub(super) fn run(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes()).expect("to ask the monitor");
        loop {
            let answer = self.line();
            assert!(answer["error"].is_null(), "{command}: {}", answer["error"]);
            if !answer["return"].is_null() {
                return answer["return"].clone();
            }
        }
    }

    /// Asks until an answer's `status` is `wanted`.
    pub(super) fn until(&mut self, query: &str, wanted: &str) {
        find(|| {
            let answer = self.run(query, &json!({}));
            assert!(answer["status"] != "failed", "{query}: {answer}, not {wanted}");
            if answer["status"] == wanted { Ok(()) } else { Err(format!("{query}: {answer}, not {wanted}")) }
        });
    }
}
