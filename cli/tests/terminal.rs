//! The client at a real (pseudo) terminal: passphrases, the question about a new host, the live watch, and Ctrl-C.

mod support;

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use postern_proto::v1::SignedMessage;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use support::{
    Home, Signed,
    peer::{GRANTS, HOST_ID, Peer, Serving, TlsKey},
    wait_for,
};

/// A terminal and everything that was shown on it.
struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    slave: File,
}

impl Terminal {
    fn new() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        // setsid makes it the child's controlling terminal; it must not become ours.
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
            .open(name)
            .unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        });
        Self { keyboard, screen, slave }
    }

    /// Runs `command` in a session of its own at this terminal. Standard output stays where the caller put it.
    fn run(&self, command: &Command, stdout: Stdio) -> Child {
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.stdin(self.slave.try_clone().unwrap()).stderr(self.slave.try_clone().unwrap()).stdout(stdout);
        session.spawn().expect("setsid")
    }

    fn shows(&self, text: &str) -> bool {
        self.screen.lock().unwrap().contains(text)
    }

    fn wait_for(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.shows(text) {
            let screen = self.screen.lock().unwrap().clone();
            assert!(start.elapsed() < std::time::Duration::from_secs(10), "{text:?} is not shown: {screen:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

const SIGN: [&str; 9] = ["sign", "--audience", "vm1", "--port", "ssh", "--for", "30m", "--from", "192.0.2.7"];

fn with_encrypted_key(home: &Home) -> Command {
    let key = home.keygen("key", &["-t", "ed25519", "-N", "secret"]);
    let mut command = home.postern(&SIGN);
    command.arg("--key").arg(key);
    command
}

#[test]
fn a_passphrase_is_asked_for_without_echo_and_a_wrong_one_again() {
    let (home, mut terminal) = (Home::new(), Terminal::new());
    let child = terminal.run(&with_encrypted_key(&home), Stdio::piped());
    terminal.wait_for("Passphrase for");
    wait_for("echo to go off", || !terminal.echoes());
    terminal.type_in("wrong\n");
    terminal.wait_for("that is not the passphrase");
    wait_for("echo to go off", || !terminal.echoes());
    terminal.type_in("secret\n");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let signed = Signed::from_output(&output, "message");
    let line = format!("alice {}", std::fs::read_to_string(home.path("key.pub")).unwrap());
    assert!(home.verifies(&line, "request@postern.v1", &signed.payload, &signed.sshsig));
    assert!(!terminal.shows("secret") && !terminal.shows("wrong\r"), "a passphrase was shown");
}

#[test]
fn ctrl_c_at_the_passphrase_ends_with_130_and_brings_echo_back() {
    let (home, mut terminal) = (Home::new(), Terminal::new());
    let mut child = terminal.run(&with_encrypted_key(&home), Stdio::null());
    terminal.wait_for("Passphrase for");
    wait_for("echo to go off", || !terminal.echoes());
    terminal.type_in("\x03");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(terminal.echoes(), "the terminal was left without echo");
}

#[test]
fn a_new_host_is_asked_about_and_only_yes_trusts_it() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]);
    let (peer, tls) = (Peer::seeing("192.0.2.7"), TlsKey::new());
    let serving = Serving::tls(peer.clone(), &tls, "127.0.0.1", 0);
    let host = serving.address.to_string();
    for (answers, code) in [("maybe\nno\n", 4), ("yes\n", 0)] {
        let mut terminal = Terminal::new();
        let mut command = home.postern(&["request", &host, "--port", "ssh", "--for", "30m", "--from", "192.0.2.7"]);
        let mut child = terminal.run(command.arg("--key").arg(&key), Stdio::null());
        terminal.wait_for("Trust it from now on? (yes/no)");
        assert!(terminal.shows(&tls.fingerprint().to_string()));
        assert!(peer.heard().is_empty(), "something signed was sent before the answer");
        terminal.type_in(answers);
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
    assert_eq!(peer.heard().len(), 1);
}

#[test]
fn an_approver_is_asked_and_anything_but_yes_approves_nothing() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]);
    let payload = format!(
        r#"{{"id":"{}","audience":["{HOST_ID}"],"notAfter":"2040-01-01T00:00:00Z","ports":["22/tcp"],"source":["192.0.2.7/32"],"duration":"60s"}}"#,
        GRANTS[0]
    );
    let payload_type = postern_proto::payload_type::ACCESS_REQUEST.to_owned();
    let message = SignedMessage { payload: payload.into_bytes(), payload_type, signatures: Vec::new() };
    for (answer, code, heard) in [("\n", 1, 1), ("maybe\n", 1, 1), ("y\n", 0, 2), ("YES\n", 0, 2)] {
        let peer = Peer { waits: Some(message.clone()), ..Peer::seeing("192.0.2.7") };
        let serving = Serving::trusted(peer.clone(), &home);
        let mut terminal = Terminal::new();
        let mut command = home.postern(&["approve", &serving.address.to_string(), GRANTS[0]]);
        let mut child = terminal.run(command.arg("--key").arg(&key), Stdio::null());
        terminal.wait_for("Approve this? [y/N]");
        assert!(terminal.shows("alice@example.com") && terminal.shows("192.0.2.7/32") && terminal.shows("1m 0s"));
        terminal.type_in(answer);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{answer:?}");
        assert_eq!(peer.heard().len(), heard, "{answer:?}");
    }
}

#[test]
fn a_watch_redraws_and_ctrl_c_shows_the_cursor_again() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]);
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let mut terminal = Terminal::new();
    let mut command = home.postern(&["watch", &serving.address.to_string()]);
    let stdout = Stdio::from(terminal.slave.try_clone().unwrap());
    let mut child = terminal.run(command.arg("--key").arg(&key), stdout);
    for text in ["2 live", "1 live", GRANTS[1], "29m 5", "\x1b[?25l", "trying again"] {
        terminal.wait_for(text);
    }
    terminal.type_in("\x03");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    terminal.wait_for("\x1b[?25h");
}
