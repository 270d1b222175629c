//! The client offers the keys that ssh would, in the order of ssh, and signs with the one that counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use postern_proto::v1::{Grant, KeyPurpose, KeyToJudge, WhichKeysCountRequest};
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::Net;
use postern_tests::postern::{ADMIN, ALICE, Options, Postern};
use postern_tests::until::until;
use tempfile::TempDir;

/// What every request of these tests asks for.
const ASK: [&str; 9] =
    ["request", "vm1.test", "--port", "ssh", "--for", "10m", "--json", "--accept-new", "--from=my-ip"];

/// A host that trusts what a test tells it to, and a laptop with an agent.
struct Scene {
    _net: Net,
    postern: Postern,
    laptop: Laptop,
    agent: Agent,
    keys: TempDir,
}

impl Scene {
    /// `lines` makes the trust file of keys in the directory.
    fn new(lines: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let lines = lines(keys.path());
        let net = Net::pair();
        let postern = Postern::prepared(&net.server, Options::default());
        fs::write(postern.file("allowed_signers"), lines.join("\n") + "\n").expect("the trust file");
        let mut postern = postern;
        postern.launch();
        let mut laptop = Laptop::new(&net.client, &postern);
        let agent = Agent::start(keys.path(), &[]);
        laptop.set("SSH_AUTH_SOCK", &agent.socket);
        Self { _net: net, postern, laptop, agent, keys }
    }

    /// Trusts one new key of Alice's, which is called `alice`.
    fn of_alice() -> Self {
        Self::new(|keys| vec![line(ALICE, &Key::new(keys, "alice"))])
    }

    /// Trusts one new authority, which is called `ca`, for Alice's name.
    fn of_authority() -> Self {
        Self::new(|keys| vec![authority(ALICE, &Key::new(keys, "ca"))])
    }

    fn key(&self, name: &str) -> Key {
        let known = Key::found(&self.keys.path().join(name));
        if known.path().exists() { known } else { Key::new(self.keys.path(), name) }
    }

    /// Certifies the key `name` by the authority `ca` for Alice.
    fn certified(&self, name: &str, valid: &str) -> Key {
        let key = self.key(name);
        certify(&self.key("ca"), &key, &["-n", ALICE, "-V", valid]);
        key
    }

    fn configures(&self, text: &str) {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        fs::write(directory.join("config"), text).expect("the configuration");
    }

    /// Copies a key with what lies beside it into the laptop's `.ssh`.
    fn install(&self, key: &Key, name: &str) -> PathBuf {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        for end in ["", ".pub", "-cert.pub"] {
            let from = format!("{}{end}", key.path().display());
            if Path::new(&from).exists() {
                fs::copy(from, directory.join(format!("{name}{end}"))).expect("a copy");
            }
        }
        directory.join(name)
    }

    fn ask(&self, more: &[&str]) -> Run {
        self.laptop.run(&[&ASK, more].concat())
    }

    /// Asks, and looks at who the host says has signed. Nothing else may be on the host's record.
    #[track_caller]
    fn signs(&self, more: &[&str], with: &Key) -> Run {
        let run = self.ask(more);
        assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
        let grant = run.json()["grant"].clone();
        assert_eq!(grant["keyFingerprint"], with.fingerprint().as_str(), "{}", run.err);
        self.assert_no_refusal();
        run
    }

    #[track_caller]
    fn fails(&self, more: &[&str], says: &[&str]) -> Run {
        let run = self.ask(more);
        assert_eq!(run.code, Some(5), "{}{}", run.out, run.err);
        let error = run.error();
        let all = format!("{} {}", error["message"], error["next"]);
        for part in says {
            assert!(all.contains(part), "{part:?} is not said: {all}");
        }
        assert!(self.grants().is_empty(), "nothing was opened");
        run
    }

    /// The host has counted no refusal, and written none into its journal.
    #[track_caller]
    fn assert_no_refusal(&self) {
        let status = self.postern.client().status().expect("the status");
        let api: Vec<_> = status.counters.iter().filter(|counter| counter.hook == "api").collect();
        let refused = api.iter().filter(|counter| counter.reason.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
        assert_eq!(refused.count(), 0, "{api:?}");
        assert!(!self.postern.journal().contains("refused"), "{}", self.postern.journal());
    }

    fn grants(&self) -> Vec<Grant> {
        self.postern.client().grants().expect("the grants")
    }
}

fn line(name: &str, key: &Key) -> String {
    format!("{name} {}", key.public())
}

fn authority(names: &str, key: &Key) -> String {
    format!("{names} cert-authority {}", key.public())
}

fn certify(authority: &Key, key: &Key, arguments: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-I", "id", "-s"]).arg(authority.path()).args(arguments);
    succeed(command.arg(key.path().with_extension("pub")));
}

fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A real ssh-agent. It lives as long as its command, and `cat` lives as long as this process holds the other end of
/// the pipe, so a test that is killed leaves none behind.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let socket = (0..).map(|n| directory.join(format!("agent{n}"))).find(|path| !path.exists()).expect("a name");
        let mut command = Command::new("ssh-agent");
        command.arg("-a").arg(&socket).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
        let process = command.envs(environment.iter().copied()).spawn().expect("ssh-agent");
        let agent = Self { process, socket };
        until("the agent's socket", || agent.socket.exists());
        agent
    }

    /// `ssh-add` with these arguments, in front of the key's file.
    fn add(&self, arguments: &[&str], key: &Key) {
        let mut command = Command::new("ssh-add");
        succeed(command.arg("-q").args(arguments).arg(key.path()).env("SSH_AUTH_SOCK", &self.socket));
    }

    /// The fingerprints as `ssh-add -l` prints them, one for each thing that it holds.
    fn listed(&self) -> Vec<String> {
        let text = succeed(Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &self.socket));
        text.lines().filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_key_and_its_certificate_in_the_agent_whichever_of_them_counts() {
    for trusts_authority in [true, false] {
        let scene = match trusts_authority {
            true => Scene::of_authority(),
            false => Scene::of_alice(),
        };
        let alice = scene.certified("alice", "-1h:+1h");
        scene.agent.add(&[], &alice);
        let listed = scene.agent.listed();
        assert_eq!(listed, [alice.fingerprint(), alice.fingerprint()], "the agent holds both");
        for choice in [vec![], vec!["--key".to_owned(), "agent".to_owned()], vec![format!("--key=agent:{}", listed[0])]]
        {
            let choice: Vec<_> = choice.iter().map(String::as_str).collect();
            scene.signs(&choice, &alice);
        }
    }
}

#[test]
fn a_certificate_is_found_by_the_fingerprint_that_ssh_add_prints() {
    let scene = Scene::of_authority();
    let alice = scene.certified("alice", "-1h:+1h");
    scene.agent.add(&[], &alice);
    // The plain key goes, the certificate stays.
    scene.agent.add(&["-k", "-d"], &alice);
    let listed = scene.agent.listed();
    assert_eq!(listed, [alice.fingerprint()]);
    scene.signs(&["--key", &format!("agent:{}", listed[0])], &alice);
    scene.signs(&["--key", "agent:alice"], &alice);
}

#[test]
fn an_expired_certificate_that_comes_first_is_left_out() {
    let scene = Scene::new(|keys| vec![authority(ALICE, &Key::new(keys, "ca")), line(ALICE, &Key::new(keys, "alice"))]);
    let (old, alice) = (scene.certified("old", "20200101:20200102"), scene.key("alice"));
    scene.agent.add(&[], &old);
    scene.agent.add(&[], &alice);
    let run = scene.signs(&[], &alice);
    assert!(run.err.contains("expired"), "the note says so: {}", run.err);
    // The same in files.
    let scene = Scene::of_authority();
    let alice = scene.certified("alice", "-1h:+1h");
    let old = scene.certified("old", "20200101:20200102");
    scene.install(&old, "id_rsa");
    scene.install(&alice, "id_ed25519");
    scene.signs(&[], &alice);
}

#[test]
fn the_key_that_counts_is_found_among_others() {
    let scene = Scene::of_alice();
    for number in 0..20 {
        scene.agent.add(&[], &scene.key(&format!("other{number}")));
    }
    scene.agent.add(&[], &scene.key("alice"));
    scene.signs(&[], &scene.key("alice"));
    scene.signs(&["--key", "agent"], &scene.key("alice"));
    // What was named is what signs, and the host says what it thinks of that key.
    let named = scene.ask(&["--key", "agent:other3"]);
    assert_eq!((named.code, named.error()["reason"].as_str()), (Some(1), Some("KEY_UNKNOWN")), "{}", named.err);
}

#[test]
fn a_file_counts_where_no_key_of_the_agent_does() {
    let scene = Scene::of_alice();
    scene.agent.add(&[], &scene.key("other"));
    scene.install(&scene.key("another"), "id_rsa");
    scene.install(&scene.key("alice"), "id_ed25519");
    scene.signs(&[], &scene.key("alice"));
}

#[test]
fn a_certificate_beside_a_key_file_does_not_hide_the_key() {
    let scene = Scene::of_alice();
    let alice = scene.certified("alice", "-1h:+1h");
    let file = scene.install(&alice, "work").display().to_string();
    scene.signs(&["--key", &file], &alice);
    scene.configures("Host *\n  IdentityFile ~/.ssh/work\n");
    scene.signs(&[], &alice);
}

#[test]
fn ssh_config_says_which_keys_are_offered() {
    let scene = Scene::new(|keys| ["one", "two", "three"].map(|name| line(ALICE, &Key::new(keys, name))).to_vec());
    let keys = ["one", "two", "three"].map(|name| scene.key(name));
    let [one, two, three] = &keys;
    scene.agent.add(&[], one);
    scene.agent.add(&[], two);
    scene.signs(&[], one);
    let file = scene.install(two, "chosen");
    fs::remove_file(&file).expect("to leave the public half alone");
    // A public half names a key of the agent.
    scene.configures("Host vm1.test\n  IdentityFile ~/.ssh/chosen.pub\n");
    scene.signs(&[], two);
    scene.install(three, "only key");
    for identity in ["\"~/.ssh/only key\"", "\"%d/.ssh/only key\"", "\"${HOME}/.ssh/only key\""] {
        scene.configures(&format!("Host vm1.test\n  IdentityFile {identity}\n  IdentitiesOnly yes\n"));
        scene.signs(&[], three);
    }
    // Without IdentitiesOnly the agent's keys come before the file.
    scene.configures("Host vm1.test\n  IdentityFile \"~/.ssh/only key\"\n");
    scene.signs(&[], one);
    let second = Agent::start(scene.keys.path(), &[]);
    second.add(&[], three);
    let socket = second.socket.display();
    scene.configures(&format!("Host vm1.test\n  IdentityAgent {socket}\n"));
    scene.signs(&[], three);
    scene.signs(&["--key", "agent"], three);
    scene.configures("Host vm1.test\n  IdentityAgent none\n  IdentityFile ~/.ssh/absent\n");
    let run = scene.ask(&[]);
    assert_eq!(run.code, Some(5), "{}{}", run.out, run.err);
    scene.configures("Host vm1.test\n  IdentityAgent SSH_AUTH_SOCK\n");
    scene.signs(&[], one);
    scene.configures("Host vm1.test\n  IdentityAgent $SSH_AUTH_SOCK\n");
    scene.signs(&[], one);
}

#[test]
fn a_certificate_that_ssh_config_names_is_signed_with_by_the_agent() {
    let scene = Scene::of_authority();
    let alice = scene.key("alice");
    scene.agent.add(&[], &alice);
    let alice = scene.certified("alice", "-1h:+1h");
    let certificate = format!("{}-cert.pub", alice.path().display());
    let elsewhere = scene.laptop.home().join("certificate");
    fs::copy(certificate, &elsewhere).expect("a copy");
    scene.configures("Host *\n  CertificateFile ~/certificate\n  IdentityFile ~/.ssh/absent\n");
    scene.signs(&[], &alice);
}

#[test]
fn a_key_that_may_not_sign_gives_way_to_the_next() {
    let mut scene =
        Scene::new(|keys| ["asked", "bound", "free"].map(|name| line(ALICE, &Key::new(keys, name))).to_vec());
    let [asked, bound, free] = ["asked", "bound", "free"].map(|name| scene.key(name));
    // Nobody agrees to what the first key is asked for, and the second may only log in to another host.
    let denying = [("SSH_ASKPASS", "/bin/false"), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":0")];
    let agent = Agent::start(scene.keys.path(), &denying);
    agent.add(&["-c"], &asked);
    let known = scene.keys.path().join("known_hosts");
    fs::write(&known, format!("elsewhere.test {}\n", scene.key("host").public())).expect("known_hosts");
    agent.add(&["-H", &known.display().to_string(), "-h", "elsewhere.test"], &bound);
    scene.laptop.set("SSH_AUTH_SOCK", &agent.socket);
    let run =
        scene.fails(&[], &[&asked.fingerprint(), &bound.fingerprint(), "refused to sign", "ssh-add -c", "ssh-add -h"]);
    assert!(!run.error()["next"].as_str().unwrap_or_default().contains("allowed_signers"), "{}", run.err);
    scene.fails(&["--key", "agent:bound"], &[&bound.fingerprint(), "refused to sign"]);
    agent.add(&[], &free);
    let run = scene.signs(&[], &free);
    assert!(run.err.contains(&asked.fingerprint()) && run.err.contains(&bound.fingerprint()), "{}", run.err);
    // Where somebody agrees, the first one signs.
    let agreeing = [("SSH_ASKPASS", "/bin/true"), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":0")];
    let agent = Agent::start(scene.keys.path(), &agreeing);
    agent.add(&["-c"], &asked);
    agent.add(&[], &free);
    scene.laptop.set("SSH_AUTH_SOCK", &agent.socket);
    scene.signs(&[], &asked);
}

#[test]
fn what_was_offered_is_listed_where_nothing_counts() {
    let scene = Scene::of_alice();
    let (first, second) = (scene.key("first"), scene.key("second"));
    scene.agent.add(&[], &first);
    scene.install(&second, "id_ed25519");
    let second = second.fingerprint();
    scene.fails(&[], &[&first.fingerprint(), "first", &second, "id_ed25519", "request@postern.v1"]);
    scene.assert_no_refusal();
}

#[test]
fn a_key_that_counts_for_something_else_is_passed_over() {
    let scene = Scene::new(|keys| {
        let reads = format!("{ALICE} namespaces=\"read@postern.v1\" {}", Key::new(keys, "reads").public());
        let no_role = line("nobody@example.com", &Key::new(keys, "norole"));
        vec![reads, no_role, line(ALICE, &Key::new(keys, "alice")), line(ADMIN, &Key::new(keys, "admin"))]
    });
    for name in ["reads", "norole", "admin", "alice"] {
        scene.agent.add(&[], &scene.key(name));
    }
    scene.signs(&[], &scene.key("alice"));
    // Extending reads first, and the same key has to count for both.
    let extended = scene.laptop.run(&["extend", "vm1.test", "--for", "20m", "--json", "--accept-new"]);
    assert_eq!(extended.code, Some(0), "{}{}", extended.out, extended.err);
    assert_eq!(extended.json()["grant"]["keyFingerprint"], scene.key("alice").fingerprint().as_str());
    let back = scene.laptop.run(&["give-back", "vm1.test", "--json", "--accept-new"]);
    assert_eq!(back.code, Some(0), "{}{}", back.out, back.err);
    scene.assert_no_refusal();
}

#[test]
fn the_host_answers_yes_or_no_to_few_and_not_too_often() {
    let scene = Scene::new(|keys| vec![authority(ALICE, &Key::new(keys, "ca")), line(ALICE, &Key::new(keys, "alice"))]);
    let (client, journal) = (scene.postern.client(), scene.postern.journal());
    let ask = |keys: Vec<KeyToJudge>, purpose: KeyPurpose| {
        let call = WhichKeysCountRequest { purpose: purpose.into(), keys };
        client.wait(client.access().which_keys_count(call)).map(|answer| answer.into_inner().counts)
    };
    let plain = |key: &Key| KeyToJudge { fingerprint: key.fingerprint(), ..Default::default() };
    let [alice, ca, other] = ["alice", "ca", "other"].map(|name| scene.key(name));
    let certified = |name: &str| KeyToJudge {
        authority: ca.fingerprint(),
        principals: vec![name.to_owned()],
        valid_before: u64::MAX,
        ..plain(&other)
    };
    let keys = vec![plain(&other), plain(&alice), plain(&ca), certified(ALICE), certified(ADMIN)];
    assert_eq!(ask(keys, KeyPurpose::Request).expect("an answer"), [false, true, false, true, false]);
    assert_eq!(ask(vec![plain(&alice)], KeyPurpose::Approve).expect("an answer"), [false], "no approver");
    for wrong in [
        ask(vec![plain(&alice); 17], KeyPurpose::Request),
        ask(vec![], KeyPurpose::Request),
        ask(vec![plain(&alice)], KeyPurpose::Unspecified),
        ask(vec![KeyToJudge { fingerprint: "SHA256:x".to_owned(), ..Default::default() }], KeyPurpose::Request),
        ask(vec![KeyToJudge { principals: vec![ALICE.to_owned(); 65], ..certified(ALICE) }], KeyPurpose::Request),
    ] {
        assert_eq!(reason(&wrong.expect_err("a refusal")), "ENVELOPE_MALFORMED");
    }
    let mut answered = 0_u64;
    let refusal = loop {
        match ask(vec![plain(&alice)], KeyPurpose::Read) {
            Ok(_) => answered += 1,
            Err(refusal) => break refusal,
        }
        assert!(answered < 10_000, "the host goes on answering");
    };
    assert_eq!(reason(&refusal), "RATE_LIMITED");
    assert!(answered >= 40, "a person's tools are not limited: {answered}");
    assert_eq!(scene.postern.journal(), journal, "no line for questions");
    let counters = client.status().expect("the status").counters;
    let asked = counters.iter().find(|counter| counter.reason == "keys-asked").expect("a count");
    assert!(asked.count > answered, "{asked:?}");
}
