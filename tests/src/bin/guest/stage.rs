//! Where scenarios run: the line to the test outside, on the machine's second serial port, and the world they share.
//!
//! Owns the port, and how the end of a scenario is told. It never decides what happens.

use crate::world::World;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What the first panic of a scenario said.
static WHY: Mutex<String> = Mutex::new(String::new());

/// The open port; the machine's first process has made it raw.
pub struct Stage {
    port: BufReader<File>,
    world: Option<World>,
}

impl Stage {
    pub fn open() -> Self {
        panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            let mut why = WHY.lock().unwrap_or_else(PoisonError::into_inner);
            // The first is the cause; what a destructor says after it is not.
            if why.is_empty() {
                *why = panic.to_string();
            }
        }));
        let port = File::options().read(true).write(true).open("/dev/ttyS1").expect("the second serial port");
        Self { port: BufReader::new(port), world: None }
    }

    /// Runs one scenario and tells how it ended.
    pub fn run(&mut self, name: &str, scenario: fn(&mut Self)) {
        self.say(&format!("START {name}"));
        let start = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| scenario(self)));
        if outcome.is_ok() {
            return self.say(&format!("PASS {name} {:.1}", start.elapsed().as_secs_f32()));
        }
        // What one scenario has broken is not the next one's; and this shows posternd's log on the console.
        let world = self.world.take();
        let shown = world.as_ref().map(|world| world.postern.log()).unwrap_or_default();
        eprintln!("--- posternd's log\n{shown}---");
        drop(world);
        let why = std::mem::take(&mut *WHY.lock().unwrap_or_else(PoisonError::into_inner));
        self.say(&format!("FAIL {name} {}", why.replace('\n', "\\n")));
    }

    /// The world, with nothing granted in it.
    pub fn world(&mut self) -> World {
        let world = self.world.take().unwrap_or_else(World::started);
        world.revoke_all();
        world
    }

    /// Leaves a world that is as it was to the next scenario.
    pub fn leave(&mut self, world: World) {
        self.world = Some(world);
    }

    /// One line to the outside.
    pub fn say(&mut self, line: &str) {
        self.port.get_mut().write_all(format!("{line}\n").as_bytes()).expect("to talk");
    }

    /// For the reader of the test's output.
    pub fn note(&mut self, text: &str) {
        self.say(&format!("NOTE {text}"));
    }

    /// Asks the outside to do something and returns what it answers, once it has.
    pub fn ask(&mut self, words: &str) -> String {
        self.say(&format!("ASK {words}"));
        let mut line = String::new();
        self.port.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }
}
