//! One emulator: its process, its console, its monitor, and the serial port on which the guest's program talks.
//!
//! Owns a folder with the sockets and the console's text. The emulator dies with the thread that started it.

use super::kernel::Kernel;
use super::qmp::Monitor;
use super::talk::Guest;
use crate::until::find;
use crate::{pins, sys};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const PROGRAM: &str = "qemu-system-x86_64";
/// Two processors, so that what races on a host can race there. Without cmpxchg16b: up to 7.2 the emulator computes the flags after it from
/// a state that is not theirs, and the interrupt that comes just then is returned from into nowhere (docs/decisions/0038).
const FIXED: &str = "-accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m 1024 -nodefaults -display none -no-user-config";

/// The state that a machine goes on from, instead of booting.
#[derive(Clone, Debug)]
pub struct Incoming {
    memory: PathBuf,
    disk: PathBuf,
}

/// A running virtual machine.
#[derive(Debug)]
pub struct Machine {
    disk: PathBuf,
    process: Child,
    monitor: Monitor,
    directory: TempDir,
}

impl Machine {
    /// Boots `kernel` with the archive `root` and a disk at `disk`, or goes on from `incoming` with the disk of then; `generation` is
    /// what the machine says it is (the VM generation id). Returns it with the guest at the other end of the talk.
    ///
    /// # Panics
    /// Where the emulator does not start.
    #[must_use]
    pub fn start(
        kernel: &Kernel,
        root: &Path,
        disk: &Path,
        generation: &str,
        incoming: Option<&Incoming>,
    ) -> (Self, Guest) {
        Self::start_with(kernel, root, disk, generation, incoming, "")
    }

    /// As [`Machine::start`], with further words for the kernel's command line.
    ///
    /// # Panics
    /// As [`Machine::start`].
    #[must_use]
    pub fn start_with(
        kernel: &Kernel,
        root: &Path,
        disk: &Path,
        generation: &str,
        incoming: Option<&Incoming>,
        words: &str,
    ) -> (Self, Guest) {
        let directory = pins::directory();
        let disk = incoming.map_or(disk, |incoming| &incoming.disk);
        let place = |name: &str| directory.path().join(name).display().to_string();
        let log = File::create(place("emulator")).expect("a log");
        let mut command = Command::new(PROGRAM);
        command.args(FIXED.split(' ')).arg("-kernel").arg(kernel.image()).arg("-initrd").arg(root);
        command.args(["-append", &format!("console=ttyS0 panic=-1 quiet {words}")]);
        command.args(["-serial", &format!("file:{}", place("console"))]);
        command.args(["-chardev", &format!("socket,id=talk,path={},server=on,wait=off", place("talk"))]);
        command.args(["-serial", "chardev:talk"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", place("monitor"))]);
        command.args(["-device", &format!("vmgenid,guid={generation}")]);
        // Two network cards on one wire, without firmware to boot from them.
        for (name, last) in [("one", 1), ("two", 2)] {
            command.args(["-netdev", &format!("hubport,id={name},hubid=0")]);
            let mac = format!("52:54:00:00:00:{last:02x}");
            command.args(["-device", &format!("virtio-net-pci,netdev={name},mac={mac},romfile=")]);
        }
        command.args(["-drive", &format!("file={},format=raw,if=virtio", disk.display())]);
        if let Some(Incoming { memory, .. }) = incoming {
            command.args(["-incoming", &format!("exec:cat {}", memory.display())]);
        }
        sys::die_with_parent(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        let process =
            command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error} (cargo xtask setup installs it)"));
        let (monitor, talk) = sockets(directory.path());
        let mut this = Self { disk: disk.to_owned(), process, monitor, directory };
        if incoming.is_some() {
            // As it was saved: stopped.
            this.monitor.until("query-status", "paused");
            this.monitor.run("cont", &json!({}));
        }
        (this, Guest::new(talk))
    }

    /// Writes the whole machine into `folder`, memory and disk, as a snapshot of a running machine does, and lets it go on.
    ///
    /// # Panics
    /// Where the emulator fails.
    pub fn snapshot(&mut self, folder: &Path) -> Incoming {
        let memory = folder.join("memory");
        self.monitor.run("stop", &json!({}));
        self.monitor.run("migrate", &json!({ "uri": format!("exec:cat > {}", memory.display()) }));
        self.monitor.until("query-migrate", "completed");
        let disk = folder.join("disk-of-then");
        fs::copy(&self.disk, &disk).expect("a copy of the disk");
        self.monitor.run("cont", &json!({}));
        Incoming { memory, disk }
    }

    /// What the kernel and its programs have written on the console, and the emulator's own complaints.
    #[must_use]
    pub fn console(&self) -> String {
        let read = |name: &str| fs::read(self.directory.path().join(name)).unwrap_or_default();
        let [console, emulator] = ["console", "emulator"].map(|name| String::from_utf8_lossy(&read(name)).into_owned());
        format!("--- console\n{console}\n--- {PROGRAM}\n{emulator}---")
    }
}

/// Connects to the sockets as soon as they are there.
fn sockets(folder: &Path) -> (Monitor, UnixStream) {
    find(|| {
        let talk = UnixStream::connect(folder.join("talk"));
        talk.and_then(|talk| Ok((Monitor::connect(&folder.join("monitor"))?, talk))).map_err(|error| {
            let said = fs::read_to_string(folder.join("emulator")).unwrap_or_default();
            assert!(said.is_empty(), "{PROGRAM}: {error}\n{said}");
            format!("{PROGRAM}: {error}")
        })
    })
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
