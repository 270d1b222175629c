//! What a reload survives, a start survives; what takes trust away takes effect.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use postern_proto::v1::{BreakGlassRequest, ConfirmRequest, EnableRequest, GrantState};
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{ALICE, Options, Postern, port, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::spoil::Spoilt;
use postern_tests::{request, until};

fn at(port: u16) -> SocketAddr {
    (SERVER.v4, port).into()
}

/// A host that protects 22, 3389 and 2222, which is none of the default ports, and has a list of revoked keys.
struct Host {
    postern: Postern,
    net: Net,
    _services: [Service; 3],
}

impl Host {
    fn new() -> Self {
        let net = Net::pair();
        let _services =
            [22, 3389, 2222].map(|port| Service::tcp_echo(&net.server, SocketAddr::from(([0_u16; 8], port))));
        let postern = Postern::prepared(&net.server, Options::without_xdp());
        let host = Self { postern, net, _services };
        fs::write(host.revoked(), "# nobody yet\n").expect("the list");
        let extra = format!("revoked_keys = {:?}", host.revoked());
        let rules = port(2222, "tcp") + &Options::default().rules;
        host.postern.configure(&Options { extra, rules, ..Options::without_xdp() });
        host
    }

    fn started() -> Self {
        let mut host = Self::new();
        host.postern.launch();
        until("copies are held", || host.copies().join("revoked_keys").exists());
        host
    }

    fn copies(&self) -> PathBuf {
        self.postern.file("postern.toml.last-good")
    }

    fn revoked(&self) -> PathBuf {
        self.postern.file("revoked")
    }

    fn trust(&self) -> PathBuf {
        self.postern.file("allowed_signers")
    }

    fn degraded(&self) -> String {
        self.postern.client().details().expect("root is answered").join("\n")
    }

    fn is_open(&self, from: IpAddr, port: u16) -> bool {
        probe::tcp(&self.net.client, from, at(port)) == Outcome::Answered
    }

    /// Closed for strangers, and root lets in whom it wants.
    fn holds(&self, when: &str) {
        for port in [22, 3389, 2222] {
            assert!(!self.is_open(STRANGER.v4.into(), port), "{when}: {port} is open for a stranger");
        }
        let wish = BreakGlassRequest {
            ports: vec!["3389/tcp".to_owned()],
            source: vec![request::prefix(GRANTED.v4.into())],
            duration: Some(Duration::from_secs(600).into()),
            reason: "a file is broken".to_owned(),
        };
        let client = self.postern.client();
        let grant = client.wait(client.host().break_glass(wish)).expect(when).into_inner().grant.expect("the grant");
        assert!(self.is_open(GRANTED.v4.into(), 3389), "{when}: root opened it");
        assert_eq!(client.get(&grant.id).expect("it").grant.expect("it").state(), GrantState::Active, "{when}");
    }

    /// What a command of posternd does with the configuration.
    fn run(&self, command: &str) -> Output {
        let mut posternd = self.net.server.command(program());
        posternd.args([command, "--config"]).arg(self.postern.config()).output().expect("posternd")
    }

    /// Why Alice gets no grant; empty where she gets one.
    fn refusal(&self) -> String {
        let asked = self.postern.grant(&["22/tcp"], &[GRANTED.v6.into()], 600);
        asked.map_or_else(|status| reason(&status), |_| String::new())
    }

    fn reload_until(&self, what: &str, done: impl Fn(&str) -> bool) {
        self.postern.reload();
        until(what, || done(&self.degraded()));
    }

    fn restart(&mut self) {
        self.postern.kill();
        self.postern.launch();
    }

    /// The trust file, with `line` before Alice's and Alice's replaced.
    fn write_trust(&self, alice: &str, more: &str) {
        let admin =
            format!("root@example.com namespaces=\"revoke@*,read@*,admin@*\" {}\n", self.postern.admin.public());
        fs::write(self.trust(), format!("{alice}{admin}{more}")).expect("the trust file");
    }

    fn alice(&self, options: &str) -> String {
        format!("{ALICE} {options}{}\n", self.postern.alice.public())
    }
}

/// Each fault of each file, at a start and at a reload: closed, root is served, the file is named, and a mended one is taken.
fn every_fault(file: fn(&Host) -> PathBuf, trusted: impl Fn(Spoilt) -> Option<bool>, silent: &[Spoilt]) {
    let mut host = Host::started();
    for fault in Spoilt::ALL {
        for start in [false, true] {
            let when = format!("{fault:?} at a {}", if start { "start" } else { "reload" });
            let path = file(&host);
            let mended = fault.put(&path);
            if start {
                host.restart();
            } else {
                host.postern.reload();
            }
            let name = path.display().to_string();
            if !silent.contains(&fault) {
                until(&when, || !host.degraded().is_empty());
                let why = host.degraded();
                assert!(
                    why.contains(&name) || fault == Spoilt::Empty && why.contains("nobody can open"),
                    "{when}: {why}"
                );
            }
            host.holds(&when);
            if let Some(trusted) = trusted(fault) {
                assert_eq!(host.refusal().is_empty(), trusted, "{when}: {}", host.degraded());
            }
            mended.mend();
            host.reload_until(&format!("{when}: mended"), str::is_empty);
            assert_eq!(host.refusal(), "", "{when}: mended");
        }
    }
}

#[test]
fn every_fault_of_the_configuration() {
    every_fault(|host| host.postern.config(), |_| Some(true), &[]);
}

#[test]
fn every_fault_of_the_trust_file() {
    let trusted = |fault| match fault {
        Spoilt::Empty => Some(false),
        // Whether her line is whole in it depends on the lengths of paths and keys.
        Spoilt::HalfWritten => None,
        _ => Some(true),
    };
    every_fault(Host::trust, trusted, &[]);
}

#[test]
fn an_ssh_host_key_that_cannot_be_read_is_named_and_the_others_prove() {
    let mut host = Host::new();
    let keys = host.postern.file("host_keys");
    fs::create_dir(&keys).expect("a directory");
    let ed25519 = Key::new(&keys, "ssh_host_ed25519_key");
    let _ecdsa = Key::of_type(&keys, "ssh_host_ecdsa_key", &["-t", "ecdsa"]);
    let rules = port(2222, "tcp") + &Options::default().rules;
    host.postern.configure(&Options { extra: format!("ssh_host_keys = {keys:?}"), rules, ..Options::without_xdp() });
    host.postern.launch();
    let proofs = |host: &Host| host.postern.client().who_am_i().expect("an answer").proofs.len();
    assert_eq!((host.degraded(), proofs(&host)), (String::new(), 2));
    for fault in [Spoilt::HalfWritten, Spoilt::Fifo, Spoilt::Directory, Spoilt::NoText, Spoilt::Empty] {
        let mended = fault.put(ed25519.path());
        host.restart();
        assert!(host.degraded().contains("ssh_host_ed25519_key"), "{fault:?}: {}", host.degraded());
        assert_eq!(proofs(&host), 1, "{fault:?}");
        host.holds(&format!("{fault:?} in the place of a host key"));
        mended.mend();
    }
    host.restart();
    assert_eq!((host.degraded(), proofs(&host)), (String::new(), 2));
}

#[test]
fn every_fault_of_the_list_of_revoked_keys() {
    // An empty list, and half a comment, revoke nobody.
    every_fault(Host::revoked, |_| Some(true), &[Spoilt::Empty, Spoilt::HalfWritten]);
}

/// Spoils one of a host's files.
type Spoils = fn(&Host);

#[test]
fn without_a_copy_no_key_is_trusted_and_root_is_served() {
    let unknown = |host: &Host| {
        let text = fs::read_to_string(host.postern.config()).expect("the configuration");
        fs::write(host.postern.config(), format!("oops = 1\n{text}")).expect("the configuration");
    };
    let bad_line = |host: &Host| host.write_trust(&host.alice(""), "carol@example.com oops ssh-ed25519 AAAA\n");
    let gone = |host: &Host| fs::remove_file(host.revoked()).expect("to remove it");
    let cases: [(&str, &str, Spoils); 3] =
        [("configuration", "oops", unknown), ("trust file", "line 3", bad_line), ("revoked keys", "revoked", gone)];
    for (what, words, spoil) in cases {
        let mut host = Host::new();
        let files = [host.postern.config(), host.trust(), host.revoked()];
        let good = files.clone().map(|file| fs::read(file).expect("a file"));
        spoil(&host);
        host.postern.launch();
        let why = host.degraded();
        assert!(why.contains(words) && why.contains("nobody is trusted"), "{what}: {why}");
        host.holds(what);
        assert_ne!(host.refusal(), "", "{what}: no key is trusted");
        files.iter().zip(good).for_each(|(file, good)| fs::write(file, good).expect("to mend it"));
        host.reload_until("mended", str::is_empty);
        assert_eq!(host.refusal(), "", "{what}: mended");
    }
}

#[test]
fn what_was_closed_stays_closed_when_the_configuration_and_its_copy_are_gone() {
    let mut host = Host::started();
    host.postern.kill();
    fs::remove_dir_all(host.copies()).expect("to remove the copies");
    let text = fs::read_to_string(host.postern.config()).expect("the configuration");
    // The ports are behind what cannot be read; where state and pins are can be.
    let kept: String =
        text.lines().take_while(|line| !line.starts_with("[[")).map(|line| format!("{line}\n")).collect();
    fs::write(host.postern.config(), kept + "oops = 1\n").expect("the configuration");
    host.postern.launch();
    host.holds("without a copy");
    host.reload_until("at a reload", |why| why.contains("what was in force before"));
    host.holds("without a copy, at a reload");
}

#[test]
fn a_configuration_that_was_emptied_does_not_become_the_last_good_one() {
    let mut host = Host::started();
    let good = Spoilt::Empty.put(&host.postern.config());
    host.reload_until("it is named", |why| why.contains("contains no setting"));
    let why = host.degraded();
    assert!(why.contains("Write the settings") && !why.contains("check-config"), "what to do: {why}");
    let check = host.run("check-config");
    let told = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.code() == Some(78) && told.contains("contains no setting"), "not valid either: {check:?}");
    assert!(host.copies().join("revoked_keys").exists(), "the other copies stay");
    for start in ["first", "second"] {
        assert!(host.postern.stop().success());
        host.postern.launch();
        until(start, || host.degraded().contains("contains no setting"));
        host.holds(start);
        assert_eq!(host.refusal(), "", "{start}: she is trusted");
    }
    // Nor does the boot go by an emptied file.
    assert!(host.postern.stop().success());
    assert!(host.run("unlock").status.success());
    let output = host.run("early");
    assert!(output.status.success(), "{output:?}");
    assert!(!host.is_open(STRANGER.v4.into(), 2222), "early closes what the copy says");
    good.mend();
    host.postern.launch();
    assert_eq!(host.degraded(), "");
}

#[test]
fn a_confirmed_trial_lasts_although_the_configuration_breaks_before_any_reload() {
    let mut host = Host::new();
    let good = fs::read_to_string(host.postern.config()).expect("the configuration");
    let config = host.postern.config();
    fs::write(&config, format!("mode = \"observe\"\n{good}")).expect("the configuration");
    host.postern.launch();
    assert!(host.is_open(GRANTED.v4.into(), 22), "it observes");
    let client = host.postern.client();
    client.wait(client.host().enable(EnableRequest::default())).expect("a trial");
    fs::write(&config, &good).expect("the configuration");
    client.wait(client.host().confirm(ConfirmRequest { without_proof: true })).expect("it is confirmed");
    fs::write(&config, format!("oops = 1\n{good}")).expect("the configuration");
    host.reload_until("it is named", |why| why.contains("oops"));
    host.holds("at a reload");
    host.restart();
    host.holds("at a start");
}

#[test]
fn a_removed_key_is_refused_although_another_line_is_broken() {
    let mut host = Host::started();
    let grant = host.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(host.is_open(GRANTED.v4.into(), 22));
    // One unknown option: everybody keeps what they had.
    let broken = "carol@example.com no-touch-required ssh-ed25519 AAAA\n";
    host.write_trust(&host.alice("verify-required "), broken);
    host.reload_until("the line is named", |why| {
        why.contains("line 1") && why.contains("other lines with mistakes: 1")
    });
    assert_eq!(host.refusal(), "", "her line is broken, not gone");
    // Her line is taken out, carol's is as broken as before.
    host.write_trust("", broken);
    host.reload_until("she is named", |why| why.contains(ALICE) && why.contains("line 2"));
    let ended = || host.postern.client().get(&grant.id).expect("it").grant.expect("it").state();
    until("her grant ends", || ended() == GrantState::Revoked);
    assert!(!host.is_open(GRANTED.v4.into(), 22));
    assert_eq!(host.refusal(), "KEY_UNKNOWN");
    host.restart();
    assert_eq!(host.refusal(), "KEY_UNKNOWN", "after a start");
    host.write_trust(&host.alice(""), "");
    host.reload_until("mended", str::is_empty);
    // Nothing but a comment is left, in an older encoding than UTF-8: everybody is taken out.
    fs::write(host.trust(), b"# f\xfcr niemanden\n").expect("the trust file");
    host.reload_until("the line is named", |why| why.contains("line 1"));
    assert_eq!(host.refusal(), "KEY_UNKNOWN", "nothing but a comment");
    // A file that is gone brings nobody back.
    fs::remove_file(host.trust()).expect("to remove it");
    host.restart();
    assert!(host.degraded().contains("allowed_signers"));
    assert_eq!(host.refusal(), "KEY_UNKNOWN", "without the file");
    // Nor does a broken one that lists her again.
    host.write_trust(&host.alice(""), broken);
    host.restart();
    assert_eq!(host.refusal(), "KEY_UNKNOWN", "a broken file adds no key");
    host.write_trust(&host.alice(""), "");
    host.reload_until("mended", str::is_empty);
    assert_eq!(host.refusal(), "");
}

#[test]
fn what_narrows_a_key_holds_although_another_line_is_broken() {
    let mut host = Host::started();
    for (options, expected) in [
        ("namespaces=\"read@postern.v1\" ", "ROLE_NOT_TRUSTED"),
        ("valid-before=\"20200101Z\" ", "KEY_EXPIRED"),
        ("namespaces=\"*\" ", ""),
    ] {
        host.write_trust(&host.alice(options), "broken\n");
        host.postern.reload();
        until(&format!("{options}at a reload"), || host.refusal() == expected);
        assert!(host.degraded().contains("line 3"));
        host.restart();
        assert_eq!(host.refusal(), expected, "{options}at a start");
    }
}

#[test]
fn a_longer_list_of_revoked_keys_counts_whatever_else_is_broken() {
    let mut host = Host::started();
    let alice = host.postern.alice.public();
    // The trust file is broken elsewhere.
    host.write_trust(&host.alice(""), "broken\n");
    fs::write(host.revoked(), format!("{alice}\n")).expect("the list");
    host.reload_until("the line is named", |why| why.contains("line 3"));
    assert_eq!(host.refusal(), "KEY_REVOKED");
    // So is the configuration.
    fs::write(host.revoked(), "").expect("the list");
    host.write_trust(&host.alice(""), "");
    host.reload_until("mended", str::is_empty);
    assert_eq!(host.refusal(), "");
    let good = fs::read_to_string(host.postern.config()).expect("the configuration");
    fs::write(host.postern.config(), format!("oops = 1\n{good}")).expect("the configuration");
    // And the list itself, behind the key.
    fs::write(host.revoked(), format!("{alice}\nbroken\n")).expect("the list");
    host.reload_until("both are named", |why| why.contains("oops") && why.contains("revoked: line 2"));
    assert_eq!(host.refusal(), "KEY_REVOKED");
    host.restart();
    assert_eq!(host.refusal(), "KEY_REVOKED", "after a start");
    fs::remove_file(host.revoked()).expect("to remove it");
    host.restart();
    assert_eq!(host.refusal(), "KEY_REVOKED", "a list that is gone gives nothing back");
    fs::write(host.revoked(), "").expect("the list");
    fs::write(host.postern.config(), good).expect("the configuration");
    host.reload_until("mended", str::is_empty);
    assert_eq!(host.refusal(), "");
}

#[test]
fn a_missing_first_list_of_revoked_keys_locks_no_principal_out() {
    let mut host = Host::new();
    let listed = fs::read_to_string(host.postern.config()).expect("the configuration");
    let keeps = |line: &&str| !line.starts_with("revoked_keys");
    let without: String = listed.lines().filter(keeps).map(|line| format!("{line}\n")).collect();
    fs::write(host.postern.config(), without).expect("the configuration");
    fs::remove_file(host.revoked()).expect("to remove it");
    host.postern.launch();
    until("copies are held", || host.copies().join("allowed_signers").exists());
    fs::write(host.postern.config(), listed).expect("the configuration");
    // Nobody was revoked before, and that is what holds: at a start without a reload, at a reload, and at the start after it.
    host.restart();
    assert_eq!(host.refusal(), "", "at a start: {}", host.degraded());
    host.reload_until("it is named", |why| why.contains("revoked: cannot be read"));
    assert_eq!(host.refusal(), "", "at a reload");
    host.restart();
    assert_eq!(host.refusal(), "", "at the start after it: {}", host.degraded());
    // From then on it is a list as any other.
    fs::write(host.revoked(), format!("{}\n", host.postern.alice.public())).expect("the list");
    host.reload_until("mended", |why| !why.contains("cannot be read"));
    assert_eq!(host.refusal(), "KEY_REVOKED");
    host.postern.kill();
    fs::remove_file(host.revoked()).expect("to remove it");
    host.postern.launch();
    assert_eq!(host.refusal(), "KEY_REVOKED", "a list that is gone gives nothing back");
}

#[test]
fn a_time_without_z_is_taken_as_ssh_keygen_takes_it() {
    let mut host = Host::new();
    host.write_trust(&host.alice("valid-after=\"20200101\",valid-before=\"203712312359\" "), "");
    host.postern.launch();
    assert_eq!((host.degraded().as_str(), host.refusal().as_str()), ("", ""));
    host.write_trust(&host.alice("valid-before=\"20200101\" "), "");
    host.reload_until("nobody is left", |why| why.contains("nobody can open"));
    assert_eq!(host.refusal(), "KEY_EXPIRED");
}

#[test]
fn a_state_directory_that_cannot_be_used_leaves_root_its_way_in() {
    for what in ["a file", "a dangling link", "a FIFO for a lock", "a file for the journal"] {
        let mut host = Host::new();
        let state = host.postern.state().to_owned();
        match what {
            "a file" => fs::write(&state, "").expect("a file"),
            "a dangling link" => std::os::unix::fs::symlink("/proc/nonexistent", &state).expect("a link"),
            "a FIFO for a lock" => {
                fs::create_dir(&state).expect("a directory");
                postern_tests::spoil::fifo(&state.join("lock"));
            }
            _ => {
                fs::create_dir(&state).expect("a directory");
                fs::write(state.join("journal"), "").expect("a file");
            }
        }
        host.postern.launch();
        host.holds(what);
        until(what, || host.degraded().contains(&state.display().to_string()));
        // Where it can be recorded, Alice gets in: only the lock is missing there.
        let expected = if what == "a FIFO for a lock" { "" } else { "JOURNAL_FAILED" };
        assert_eq!(host.refusal(), expected, "{what}: no record, no grant");
    }
}

#[test]
fn unlock_and_early_know_their_places_from_the_copy() {
    let mut host = Host::started();
    assert!(host.postern.stop().success());
    fs::remove_file(host.postern.config()).expect("to remove it");
    assert!(!host.is_open(STRANGER.v4.into(), 2222));
    let output = host.run("unlock");
    assert!(output.status.success(), "{output:?}");
    assert!(host.is_open(STRANGER.v4.into(), 2222));
    let output = host.run("early");
    assert_eq!(output.status.code(), Some(78), "the file is wrong all the same: {output:?}");
    assert!(!host.is_open(STRANGER.v4.into(), 2222), "and what was closed is closed");
    assert_eq!(host.run("check-config").status.code(), Some(78));
}

#[test]
fn the_copies_are_roots_and_root_keeps_what_is_good_alone() {
    use std::os::unix::fs::MetadataExt as _;
    let host = Host::started();
    let folder = fs::metadata(host.copies()).expect("the folder");
    assert_eq!((folder.uid(), folder.mode() & 0o7777), (0, 0o700));
    for name in ["configuration", "allowed_signers", "revoked_keys"] {
        let copy = fs::metadata(host.copies().join(name)).expect(name);
        assert_eq!((copy.uid(), copy.mode() & 0o7777), (0, 0o600), "{name}");
    }
    let copy = || fs::read(host.copies().join("allowed_signers")).expect("the copy");
    let good = copy();
    assert_eq!(good, fs::read(host.trust()).expect("the file"));
    fs::write(host.trust(), [&good[..], b"broken\n"].concat()).expect("the file");
    host.reload_until("it is named", |why| why.contains("line 3"));
    assert_eq!(copy(), good);
}
