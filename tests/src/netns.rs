//! Anonymous network namespaces: made in a thread, held by a descriptor, gone with the last holder.
//!
//! Never gives a namespace a name and never mounts anything (`ip netns exec` would hide bpffs).

use crate::sys;
use crate::until::until;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// A network namespace. Clones hold the same one.
#[derive(Clone, Debug)]
pub struct Netns {
    descriptor: Arc<OwnedFd>,
}

impl Netns {
    /// A new namespace with nothing but a loopback device that is up. IPv6 addresses are usable at once (no
    /// duplicate address detection).
    ///
    /// # Panics
    /// Where the kernel refuses; it takes root.
    #[must_use]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            sys::unshare_net().expect("a network namespace (tests on the kernel take root)");
            File::open("/proc/thread-self/ns/net").expect("the new namespace")
        });
        let this = Self { descriptor: Arc::new(made.join().expect("a namespace").into()) };
        // A machine that was booted without IPv6 has no such setting.
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            this.sysctl("net/ipv6/conf/default/accept_dad", "0");
        }
        this.ip("link set lo up");
        this
    }

    /// Runs `work` in a thread of its own inside the namespace and returns what it returns. Sockets made there stay
    /// in the namespace wherever they are used later.
    ///
    /// # Panics
    /// Where `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            sys::enter_net(self.descriptor.as_fd()).expect("to enter the namespace");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command that will run inside the namespace, and die with the thread that starts it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        sys::confine(&mut command, Arc::clone(&self.descriptor));
        command
    }

    /// Runs lines of `ip`, each as one would type it after `ip`. Empty lines are passed over.
    ///
    /// # Panics
    /// Where `ip` refuses one, with what it said.
    pub fn ip(&self, lines: &str) {
        self.feed("ip", &["-batch", "-"], lines);
    }

    /// Loads an nftables script.
    ///
    /// # Panics
    /// Where `nft` refuses it, with what it said.
    pub fn nft(&self, script: &str) {
        self.feed("nft", &["-f", "-"], script);
    }

    fn feed(&self, program: &str, arguments: &[&str], input: &str) {
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error} (cargo xtask setup installs it)"));
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("to feed it");
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{program}:\n{input}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sets a sysctl of the namespace; `name` is a path below `/proc/sys`.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Has a device leave the checksums of what it sends to the hardware, or not: a change of its features.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn offload_checksums(&self, name: &str, on: bool) {
        self.run(|| sys::offload_checksums(name, on)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The index of one of its interfaces, as link-local addresses want it.
    ///
    /// # Panics
    /// Where there is none of that name.
    #[must_use]
    pub fn interface(&self, name: &str) -> u32 {
        self.run(|| sys::interface_index(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Waits until a device that was set up has its carrier: IPv6 has no routes over it before.
    ///
    /// # Panics
    /// Where there is no such device, or it stays down for seconds.
    pub fn wait_until_running(&self, name: &str) {
        until(&format!("{name} has its carrier"), || {
            self.run(|| sys::is_running(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
        });
    }

    /// Waits until the kernel has a route from `from`, one of the namespace's addresses, to `to`.
    ///
    /// # Panics
    /// Where there is none for seconds.
    pub fn wait_until_routed(&self, from: IpAddr, to: IpAddr) {
        // To connect a datagram socket sends nothing and fails where there is no address or no route.
        let is_routed = || UdpSocket::bind((from, 0)).and_then(|socket| socket.connect((to, 9))).is_ok();
        until(&format!("there is a route from {from} to {to}"), || self.run(is_routed));
    }

    /// The namespace's descriptor, for what takes one.
    #[must_use]
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// A path that names the namespace for other processes as long as this one lives, as `ip link … netns PATH` takes it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.descriptor.as_raw_fd())
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
