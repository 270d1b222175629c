//! A pseudo terminal: a keyboard and a screen for a program that asks a person.
//!
//! Owns both ends. It never answers by itself: a test types.

use crate::until::until;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// A terminal and everything that was shown on it.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    end: File,
}

impl Terminal {
    /// A new one, empty.
    ///
    /// # Panics
    /// Where the kernel has none.
    #[must_use]
    pub fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&master).expect("the other end's owner");
        unlockpt(&master).expect("the other end, unlocked");
        let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("ASCII");
        let mut options = OpenOptions::new();
        // The test must not get a controlling terminal.
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let end = options.open(name).expect("the other end");
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (keyboard.try_clone().expect("a copy"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().expect("the screen").push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { keyboard, screen, end }
    }

    /// The program's end.
    pub(crate) fn end(&self) -> Stdio {
        self.end.try_clone().expect("a copy").into()
    }

    /// Everything that was shown.
    ///
    /// # Panics
    /// Where the thread that reads it has panicked.
    #[must_use]
    pub fn screen(&self) -> String {
        self.screen.lock().expect("the screen").clone()
    }

    /// Waits until `text` was shown.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn wait_for(&self, text: &str) {
        until(&format!("{text:?} on the terminal"), || self.screen().contains(text));
    }

    /// Everything that was shown, when a program has ended that ran here: what it wrote last has then arrived too.
    ///
    /// # Panics
    /// Where the terminal is gone.
    #[must_use]
    pub fn last_screen(&self) -> String {
        const MARK: &str = "\u{1}end of the program\u{1}";
        (&self.end).write_all(MARK.as_bytes()).expect("to write");
        self.wait_for(MARK);
        self.screen().replace(MARK, "")
    }

    /// Types `text`.
    ///
    /// # Panics
    /// Where the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("to type");
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}
