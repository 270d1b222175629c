//! Two hosts of the test harness, and what runs on them.
//!
//! Owns sshd and two listeners; posternd is the harness's. Nothing has a name outside: all of it goes with this process.
//!
//! ```text
//!   client 10.1.0.2 ──── veth ──── 10.1.0.1 server: posternd :7322, sshd :22, a listener :5986 (both protected),
//!                                                    a listener :9000 (not protected)
//! ```

use crate::Result;
use postern_tests::net::{Net, SERVER};
use postern_tests::postern::{Options, Postern, ROLES, port};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The server's address.
pub const HOST: Ipv4Addr = SERVER.v4;
/// Where sshd listens.
pub const SSH: u16 = 22;
/// Protected too: a listener that accepts and writes, so that packets can be counted without asking sshd for each.
pub const PLAIN: u16 = 5986;
/// Not protected.
pub const OPEN: u16 = 9000;
/// For bulk traffic: protected.
pub const BULK: u16 = 5985;
/// For bulk traffic: not protected.
pub const OPEN_BULK: u16 = 9001;
/// Where posternd's API listens.
pub const API: u16 = 7322;

/// Both hosts and their services.
pub struct Lab {
    /// The client's and the server's host.
    pub net: Net,
    /// posternd, on the server.
    pub postern: Postern,
    sshd: Child,
}

impl Lab {
    /// Makes both hosts and starts everything.
    pub fn new() -> Result<Self> {
        // Over the machine's own, in this process's mount namespace: what is pinned here goes with it.
        if !Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status()?.success() {
            return Err("no bpffs could be mounted (is this root?)".into());
        }
        let net = Net::pair();
        for port in [PLAIN, OPEN] {
            let listener = net.server.run(|| TcpListener::bind((HOST, port)))?;
            thread::spawn(move || listener.incoming().flatten().for_each(|peer| drop(thread::spawn(|| talk(peer)))));
        }
        let postern = Postern::start(&net.server, options());
        let sshd = sshd(&net, &postern)?;
        wait("sshd", || net.server.run(|| TcpStream::connect((HOST, SSH)).is_ok()))?;
        Ok(Self { net, postern, sshd })
    }

    /// Takes posternd and everything of it out of the kernel.
    pub fn unload(&mut self) {
        self.postern.kill();
        ["lock", "cut", "xdp"]
            .iter()
            .filter(|layer| self.has_pinned(layer))
            .for_each(|layer| self.postern.detach(layer));
    }

    fn has_pinned(&self, layer: &str) -> bool {
        self.postern.pinned().iter().any(|name| name.starts_with(layer))
    }

    /// How many sessions sshd serves: each has a process of its own.
    pub fn ssh_sessions(&self) -> usize {
        let path = format!("/proc/{0}/task/{0}/children", self.sshd.id());
        fs::read_to_string(path).map_or(0, |children| children.split_whitespace().count())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // It dies with us at the latest; a failure here cannot be reported.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// The prefilter is off: it drops in silence, and what is shown here is what the other two hooks answer.
fn options() -> Options {
    let ports = [SSH, PLAIN, BULK].map(|number| port(number, "tcp")).concat();
    Options { rules: ports + ROLES, tcp: vec![format!("{HOST}:{API}")], ..Options::without_xdp() }
}

/// A real sshd that lets alice's key in as root.
fn sshd(net: &Net, postern: &Postern) -> Result<Child> {
    let file = |name: &str| postern.file(name).display().to_string();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file("host_key")]).status()?;
    if !made.success() {
        return Err("ssh-keygen made no key".into());
    }
    fs::write(file("authorized_keys"), postern.alice.public())?;
    fs::write(
        file("sshd_config"),
        format!(
            "ListenAddress {HOST}:{SSH}\nHostKey {}\nPidFile none\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n",
            file("host_key"),
            file("authorized_keys")
        ),
    )?;
    // Debian's sshd wants it for its unprivileged part.
    fs::create_dir_all("/run/sshd")?;
    let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists());
    let mut command = net.server.command(program.ok_or("there is no sshd: run `cargo xtask setup`")?);
    let log = File::create(file("sshd.log"))?;
    Ok(command.args(["-D", "-e", "-f", &file("sshd_config")]).stdin(Stdio::null()).stderr(log).spawn()?)
}

/// Writes until the peer is gone, thousands of times a second: what arrives at the other end shows when packets stopped.
fn talk(mut peer: TcpStream) {
    // Each write a packet of its own.
    let _ = peer.set_nodelay(true);
    while std::io::Write::write_all(&mut peer, b"postern ").is_ok() {
        postern_tests::pause(Duration::from_micros(100));
    }
}

/// Waits for a condition, for at most ten seconds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return Err(format!("waited 10 s in vain for {what}").into());
        }
        postern_tests::pause(Duration::from_millis(1));
    }
    Ok(())
}
