//! Two hosts of the test harness, and what runs on them.
//!
//! Owns posternd, sshd and two listeners. Nothing has a name outside: namespaces live as long as this process.
//!
//! ```text
//!   client 10.1.0.2 ──── veth ──── 10.1.0.1 server: posternd :7322, sshd :22, a listener :5986 (both protected),
//!                                                    a listener :9000 (not protected)
//! ```

use crate::Result;
use postern_tests::net::{Net, SERVER};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
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
/// For bulk traffic, one protected and one not.
pub const BULK: u16 = 5985;
/// The one that is not.
pub const OPEN_BULK: u16 = 9001;
/// Where posternd's API listens.
pub const API: u16 = 7322;
const PRINCIPAL: &str = "alice@example.com";

/// Both hosts and their services.
pub struct Lab {
    /// The client's and the server's host.
    pub net: Net,
    /// Everything on disk, and the bpffs.
    folder: tempfile::TempDir,
    sshd: Child,
}

impl Lab {
    /// Makes both hosts and starts all but posternd.
    pub fn new() -> Result<Self> {
        let net = Net::pair();
        let folder = tempfile::tempdir()?;
        files(folder.path())?;
        for port in [PLAIN, OPEN] {
            let listener = net.server.run(|| TcpListener::bind((HOST, port)))?;
            thread::spawn(move || listener.incoming().flatten().for_each(|peer| drop(thread::spawn(|| talk(peer)))));
        }
        let sshd = sshd(&net, folder.path())?;
        let lab = Self { net, folder, sshd };
        wait("sshd", || lab.net.client.run(|| TcpStream::connect((HOST, SSH)).is_ok()))?;
        Ok(lab)
    }

    /// Starts posternd and waits until its API answers.
    pub fn start_agent(&self) -> Result<Agent> {
        let program = std::env::current_exe()?.with_file_name("posternd");
        let config = self.path("postern.toml");
        let log = File::create(self.path("posternd.log"))?;
        let mut command = self.net.server.command(&program);
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let mut agent = Agent(child);
        let answers = || agent.0.try_wait().is_ok_and(|ended| ended.is_some()) || self.net.client.run(|| api().is_ok());
        let waited = wait("posternd", answers);
        if waited.is_err() || self.net.client.run(|| api().is_err()) {
            return Err(format!("posternd does not answer:\n{}", fs::read_to_string(self.path("posternd.log"))?).into());
        }
        Ok(agent)
    }

    /// Takes everything out of the kernel.
    pub fn unlock(&self) -> Result<()> {
        let program = std::env::current_exe()?.with_file_name("posternd");
        let mut command = self.net.server.command(program);
        command.args(["unlock", "--config"]).arg(self.path("postern.toml")).stdout(Stdio::null());
        let status = command.status()?;
        if status.success() { Ok(()) } else { Err(format!("posternd unlock: {status}").into()) }
    }

    /// A file of the lab.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many sessions sshd serves: each has a process of its own.
    pub fn ssh_sessions(&self) -> usize {
        let path = format!("/proc/{0}/task/{0}/children", self.sshd.id());
        fs::read_to_string(path).map_or(0, |children| children.split_whitespace().count())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The rest goes with the namespaces; a failure here has nobody to tell.
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
        let _ = Command::new("umount").args(["--lazy"]).arg(self.path("bpf")).status();
    }
}

/// posternd while it runs.
pub struct Agent(Child);

impl Agent {
    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn api() -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((HOST, API)), Duration::from_secs(1))
}

/// Keys, trust file, configurations, and a bpffs of our own.
fn files(folder: &Path) -> Result<()> {
    for (key, comment) in [("alice", PRINCIPAL), ("host_key", "host")] {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(folder.join(key));
        if !command.status()?.success() {
            return Err("ssh-keygen made no key".into());
        }
    }
    let public = fs::read_to_string(folder.join("alice.pub"))?;
    fs::write(folder.join("authorized_keys"), &public)?;
    fs::write(
        folder.join("allowed_signers"),
        format!("{PRINCIPAL} namespaces=\"request@postern.v1,revoke@postern.v1,read@postern.v1\" {public}"),
    )?;
    fs::write(folder.join("postern.toml"), configuration(folder))?;
    fs::write(folder.join("sshd_config"), sshd_configuration(folder))?;
    fs::create_dir(folder.join("bpf"))?;
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.join("bpf")).status()?;
    if mounted.success() { Ok(()) } else { Err("no bpffs could be mounted (is this root?)".into()) }
}

/// The shed is off: it drops in silence, and what is shown here is what the other two hooks answer.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"names = ["host"]
state_dir = "{folder}/state"
trust_file = "{folder}/allowed_signers"
pin_dir = "{folder}/bpf/postern"
shed = "off"
[api]
unix = "{folder}/posternd.sock"
tcp = ["{HOST}:{API}"]
[[port]]
number = {SSH}
name = "ssh"
[[port]]
number = {PLAIN}
[[port]]
number = {BULK}
[[role]]
name = "requester"
principals = ["{PRINCIPAL}"]
"#
    )
}

fn sshd_configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "ListenAddress {HOST}:{SSH}\nHostKey {folder}/host_key\nPidFile none\nAuthorizedKeysFile {folder}/authorized_keys\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\n"
    )
}

fn sshd(net: &Net, folder: &Path) -> Result<Child> {
    // Debian's sshd wants it for its unprivileged part.
    fs::create_dir_all("/run/sshd")?;
    let program = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists());
    let log = File::create(folder.join("sshd.log"))?;
    let mut command = net.server.command(program.ok_or("there is no sshd: run `cargo xtask setup`")?);
    Ok(command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config")).stdin(Stdio::null()).stderr(log).spawn()?)
}

/// Writes until the peer is gone, ten thousand times a second: what arrives at the other end shows when packets stopped.
fn talk(mut peer: TcpStream) {
    // Each write a packet of its own.
    let _ = peer.set_nodelay(true);
    while std::io::Write::write_all(&mut peer, b"postern ").is_ok() {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Waits for a condition, for at most ten seconds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        if Instant::now() > deadline {
            return Err(format!("waited 10 s in vain for {what}").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
