//! A signature is good for one host: the one whose key was proved on the connection over which it was asked for.
//!
//! A host that the laptop's known_hosts trusts stands in front of the real host, claims its id, and passes on what the real `postern`
//! signs.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use postern_proto::v1::{GrantState, RequestAccessRequest, SignedMessage};
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::liar::{Liar, Lie, knows};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;
use tempfile::TempDir;

const CAROL: &str = "carol@example.com";
/// Where the liar listens, on the address that leads to both.
const EVIL: &str = "evil.test:7399";

/// The real host with an SSH host key, a liar with another, and the laptops of Alice and Carol, who know both from ssh.
struct Scene {
    net: Net,
    postern: Postern,
    carol: Key,
    keys: TempDir,
    evil: Key,
    _service: Service,
}

impl Scene {
    fn new() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let evil = Key::new(keys.path(), "evil");
        let _own = Key::new(keys.path(), "ssh_host_ed25519_key");
        let net = Net::pair();
        let approvers = format!("[[role]]\nname = \"approver\"\nprincipals = [\"{CAROL}\"]\n");
        let rules = format!("{}{}approvals = 1\n{ROLES}{approvers}", port(22, "tcp"), port(3389, "tcp"));
        let extra = format!("ssh_host_keys = {:?}", keys.path());
        let mut postern = Postern::prepared(&net.server, Options { rules, extra, ..Options::without_xdp() });
        let carol = Key::new(&postern.file(""), "carol");
        let trust = fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
        let more = format!("{CAROL} namespaces=\"approve@postern.v1,read@postern.v1\" {}\n", carol.public());
        fs::write(postern.file("allowed_signers"), trust + &more).expect("the trust file");
        postern.launch();
        let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        Self { net, postern, carol, keys, evil, _service: service }
    }

    fn liar(&self, lie: Lie) -> Liar {
        self.liar_with(lie, None)
    }

    fn liar_with(&self, lie: Lie, waits: Option<postern_proto::v1::GetGrantResponse>) -> Liar {
        let at = SocketAddr::new(SERVER.v4.into(), 7399);
        Liar::start(&self.net.server, (at, true), (SERVER.v4, 7322).into(), (&self.evil, lie), waits)
    }

    fn laptop(&self, key: &Key) -> Laptop {
        let laptop = Laptop::of(&self.net.client, key);
        let hosts = format!("{} vm1.test\n{} evil.test\n", SERVER.v4, SERVER.v4);
        fs::write(laptop.home().join("hosts"), hosts).expect("the hosts file");
        let own = fs::read_to_string(self.keys.path().join("ssh_host_ed25519_key.pub")).expect("the key");
        knows(laptop.home(), &[format!("vm1.test {own}"), format!("evil.test {}", self.evil.public())]);
        laptop
    }

    /// Whether the port is open for the address that everything here asks for.
    fn is_open(&self) -> bool {
        let source: IpAddr = GRANTED.v4.into();
        probe::tcp(&self.net.client, source, (SERVER.v4, 22).into()) == Outcome::Answered
    }
}

fn run(laptop: &Laptop, key: &Key, arguments: &[&str]) -> Run {
    laptop.run(&[arguments, &["--json", "--key", &key.path().display().to_string()]].concat())
}

fn source() -> String {
    GRANTED.v4.to_string()
}

#[test]
fn a_request_for_a_host_that_claims_anothers_id_opens_nothing_there() {
    let scene = Scene::new();
    let (liar, alice) = (scene.liar(Lie::Id), &scene.postern.alice);
    let laptop = scene.laptop(alice);
    let ask =
        |host: &str| run(&laptop, alice, &["request", host, "--port", "ssh", "--for", "10m", "--from", &source()]);
    let asked = ask(EVIL);
    assert!(!scene.is_open(), "the liar opened the other host: {}{}", asked.out, asked.err);
    assert_eq!(scene.postern.client().grants().expect("the grants"), []);
    assert_eq!((asked.code, &asked.error()["reason"]), (Some(1), &"AUDIENCE_KEY_MISSING".into()), "{}", asked.err);
    assert_eq!(liar.passed(), [("request", Some("AUDIENCE_KEY_MISSING".to_owned()))]);
    // The host itself is reached as before, though somebody else claimed its id first.
    let asked = ask("vm1.test");
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    assert!(scene.is_open());
}

#[test]
fn a_liar_reads_nothing_on_the_host_that_it_claims_to_be() {
    let scene = Scene::new();
    let grant = scene.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let (liar, alice) = (scene.liar(Lie::Id), &scene.postern.alice);
    let laptop = scene.laptop(alice);
    for arguments in [
        &["list", EVIL][..],
        &["list", EVIL, "--all"],
        &["show", EVIL, &grant.id],
        &["watch", EVIL, &grant.id],
        &["watch", EVIL],
        &["pending", EVIL],
        &["explain", EVIL, "--port", "ssh", "--from", &source()],
        &["extend", EVIL, "--for", "20m"],
        &["give-back", EVIL],
    ] {
        let run = run(&laptop, alice, arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}: {}{}", run.out, run.err);
        assert_eq!(run.error()["reason"], "AUDIENCE_KEY_MISSING", "{arguments:?}: {}", run.err);
        assert!(!run.out.contains(&grant.id), "{arguments:?}: {}", run.out);
    }
    let passed = liar.passed();
    assert!(passed.len() >= 9 && passed.iter().all(|(_, refused)| refused.is_some()), "{passed:?}");
}

#[test]
fn a_liar_ends_nothing_on_the_host_that_it_claims_to_be() {
    let scene = Scene::new();
    let grant = scene.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let liar = scene.liar(Lie::Id);
    for (key, arguments) in [
        (&scene.postern.alice, &["give-back", EVIL, &grant.id][..]),
        (&scene.postern.admin, &["revoke", EVIL, &grant.id]),
        (&scene.postern.admin, &["decline", EVIL, &grant.id, "--reason", "no"]),
    ] {
        let run = run(&scene.laptop(key), key, arguments);
        assert!(scene.is_open(), "the liar ended a grant: {arguments:?}");
        assert_eq!((run.code, &run.error()["reason"]), (Some(1), &"AUDIENCE_KEY_MISSING".into()), "{arguments:?}");
    }
    assert_eq!(liar.passed().len(), 3);
    assert_eq!(scene.postern.client().get(&grant.id).expect("it").grant.expect("it").state(), GrantState::Active);
}

#[test]
fn an_approver_signs_for_no_host_that_was_not_proved() {
    let scene = Scene::new();
    let (alice, carol) = (&scene.postern.alice, &scene.carol);
    let host = scene.laptop(alice);
    let rdp = ["request", "vm1.test", "--port", "rdp", "--for", "10m", "--from", &source(), "--reason", "a test"];
    let asked = run(&host, alice, &rdp);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    let id = asked.json()["grant"]["id"].as_str().expect("an id").to_owned();
    let state = || scene.postern.client().get(&id).expect("it").grant.expect("it").state();
    assert_eq!(state(), GrantState::Pending);
    // The liar has the bytes from somebody who knows them.
    let liar = scene.liar_with(Lie::Id, Some(scene.postern.client().get(&id).expect("the request")));
    let laptop = scene.laptop(carol);
    let approved = run(&laptop, carol, &["approve", EVIL, &id, "--yes"]);
    assert_eq!(state(), GrantState::Pending, "the liar got an approval: {}{}", approved.out, approved.err);
    assert_eq!(approved.code, Some(4), "{}{}", approved.out, approved.err);
    let said = approved.error()["message"].as_str().expect("a message").to_owned();
    assert!(said.contains("SHA256:") && said.contains("has not proved to be"), "{said}");
    assert!(liar.passed().iter().all(|(call, _)| *call != "approve"), "{:?}", liar.passed());
    // Over a connection to the host itself the same bytes are right.
    let approved = run(&laptop, carol, &["approve", "vm1.test", &id, "--yes"]);
    assert_eq!(approved.code, Some(0), "{}{}", approved.out, approved.err);
    assert_eq!(state(), GrantState::Active);
}

#[test]
fn an_approval_for_several_hosts_or_for_a_name_takes_the_approvers_own_word() {
    let scene = Scene::new();
    let (alice, carol) = (&scene.postern.alice, &scene.carol);
    let client = scene.postern.client();
    let who = client.who_am_i().expect("an answer");
    let tls = format!("tls:{}", who.tls_fingerprint);
    let laptop = scene.laptop(carol);
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    for (audience, foreign) in [
        (vec![tls.clone(), who.host_id.clone(), other.to_owned()], other),
        (vec!["test.example".to_owned()], "test.example"),
        (vec![tls, who.host_id.clone(), "another.example".to_owned()], "another.example"),
    ] {
        let wish = Access::new("", &["3389/tcp"], &[GRANTED.v4.into()], 600);
        let wish = Access { audience, ..wish };
        client.request(wish.seal(alice)).expect("it waits");
        let refused = run(&laptop, carol, &["approve", "vm1.test", &wish.id, "--yes"]);
        assert_eq!(refused.code, Some(4), "{}{}", refused.out, refused.err);
        assert!(refused.err.contains(foreign), "{}", refused.err);
        let approve = ["approve", "vm1.test", &wish.id, "--yes", "--audience", foreign];
        let approved = run(&laptop, carol, &approve);
        assert_eq!(approved.code, Some(0), "{}{}", approved.out, approved.err);
        assert_eq!(client.get(&wish.id).expect("it").grant.expect("it").state(), GrantState::Active);
    }
}

/// What waits is judged by what the host is called when it is approved.
#[test]
fn a_request_that_waited_under_a_name_is_not_approved_when_the_host_lost_the_name() {
    let mut scene = Scene::new();
    let wish = Access::new("test.example", &["3389/tcp"], &[GRANTED.v4.into()], 600);
    scene.postern.client().request(wish.seal(&scene.postern.alice)).expect("it waits");
    scene.postern.stop();
    let config = fs::read_to_string(scene.postern.config()).expect("the configuration");
    fs::write(scene.postern.config(), config.replace("test.example", "renamed.example")).expect("the configuration");
    scene.postern.launch();
    let client = scene.postern.client();
    let approval = postern_tests::request::approve(&scene.carol, wish.json().as_bytes());
    assert_eq!(reason(&client.approve(approval).expect_err("a refusal")), "AUDIENCE_MISMATCH");
    assert_eq!(client.get(&wish.id).expect("it").grant.expect("it").state(), GrantState::Pending);
}

/// The liar repeats what the host states and proves: that is about another TLS key than the one that it holds.
#[test]
fn a_statement_or_a_proof_of_another_host_is_worth_nothing() {
    let scene = Scene::new();
    let alice = &scene.postern.alice;
    let own = fs::read_to_string(scene.keys.path().join("ssh_host_ed25519_key.pub")).expect("the key");
    for lie in [Lie::Everything, Lie::Old] {
        let liar = scene.liar(lie);
        let laptop = scene.laptop(alice);
        // Also where the person knows the liar's name by the key of the host that it repeats.
        for lines in [format!("evil.test {}", scene.evil.public()), format!("evil.test {own}")] {
            knows(laptop.home(), &[lines]);
            let list = run(&laptop, alice, &["list", EVIL, "--accept-new"]);
            assert_eq!(list.code, Some(4), "{lie:?}: {}{}", list.out, list.err);
        }
        assert_eq!(liar.passed(), [], "{lie:?}: nothing signed was sent");
    }
}

#[test]
fn an_old_clients_message_is_refused_at_once_and_says_why() {
    let scene = Scene::new();
    let client = scene.postern.client();
    let id = client.who_am_i().expect("an answer").host_id;
    for ports in [&["22/tcp"], &["3389/tcp"]] {
        let refused = client.request(Access::new(&id, ports, &[GRANTED.v4.into()], 600).seal(&scene.postern.alice));
        let status = refused.expect_err("a refusal");
        assert_eq!(reason(&status), "AUDIENCE_KEY_MISSING");
        assert!(status.message().contains("Update the postern client"), "{}", status.message());
    }
    assert_eq!(client.grants().expect("the grants"), [], "nothing waits either");
}

/// Two machines with the same SSH host key and the same TLS key, as after cloning an image.
#[test]
fn a_clone_with_the_same_keys_does_not_take_the_originals_messages() {
    let scene = Scene::new();
    let alice = &scene.postern.alice;
    let net = Net::pair();
    let state = tempfile::tempdir().expect("a directory");
    copy(&scene.postern.state().join("tls"), &state.path().join("tls"));
    let extra = format!("ssh_host_keys = {:?}", scene.keys.path());
    let options = Options { extra, state: Some(state.path().to_owned()), ..Options::without_xdp() };
    let mut clone = Postern::prepared(&net.server, options);
    fs::copy(scene.postern.file("allowed_signers"), clone.file("allowed_signers")).expect("the trust file");
    clone.launch();
    let (one, other) = (scene.postern.client(), clone.client());
    let names = |client: &postern_tests::client::Client| client.who_am_i().expect("an answer");
    assert_eq!(names(&one).tls_fingerprint, names(&other).tls_fingerprint);
    assert_ne!(names(&one).host_id, names(&other).host_id);
    let sign = ["sign", "vm1.test", "--port", "ssh", "--for", "10m", "--from", &source()];
    let signed = run(&scene.laptop(alice), alice, &sign);
    assert_eq!(signed.code, Some(0), "{}", signed.err);
    let message: RequestAccessRequest = serde_json::from_str(&signed.out).expect("a message");
    let message: SignedMessage = message.message.expect("a message");
    let refused = other.request(message.clone()).expect_err("the clone refuses");
    assert_eq!(reason(&refused), "AUDIENCE_HOST_ID_MISSING");
    assert_eq!(one.request(message).expect("the original takes it").state(), GrantState::Active);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
    let mut command = std::process::Command::new("chown");
    let status = command.arg("-R").arg(format!("--reference={}", from.display())).arg(to).status();
    assert!(status.expect("chown").success());
}

/// A host whose public half was removed still proves the key, and takes messages for it.
#[test]
fn a_key_counts_that_was_proved_though_its_public_file_is_gone() {
    let mut scene = Scene::new();
    let public = scene.keys.path().join("ssh_host_ed25519_key.pub");
    let laptop = scene.laptop(&scene.postern.alice);
    fs::remove_file(public).expect("the public half");
    scene.postern.stop();
    scene.postern.launch();
    let list = run(&laptop, &scene.postern.alice, &["list", "vm1.test"]);
    assert_eq!(list.code, Some(0), "{}{}", list.out, list.err);
}

/// One name, two known keys of one host: whichever is proved first is the audience, and the host takes it.
#[test]
fn every_key_and_every_certificate_of_a_host_is_its_audience() {
    let mut scene = Scene::new();
    scene.postern.stop();
    let ecdsa = Key::of_type(scene.keys.path(), "ssh_host_ecdsa_key", &["-t", "ecdsa"]);
    let authority = Key::new(scene.keys.path(), "authority");
    let own = fs::read_to_string(scene.keys.path().join("ssh_host_ed25519_key.pub")).expect("the key");
    scene.postern.launch();
    let mut certify = std::process::Command::new("ssh-keygen");
    certify.args(["-q", "-I", "vm1", "-h", "-n", "vm1.test", "-s"]).arg(authority.path());
    let output = certify.arg(ecdsa.path().with_extension("pub")).output().expect("ssh-keygen");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let alice = &scene.postern.alice;
    let laptop = scene.laptop(alice);
    for lines in [
        vec![format!("vm1.test {}", ecdsa.public())],
        vec![format!("vm1.test {own}"), format!("vm1.test {}", ecdsa.public())],
        vec![format!("@cert-authority vm1.test {}", authority.public())],
    ] {
        knows(laptop.home(), &lines);
        let list = run(&laptop, alice, &["list", "vm1.test"]);
        assert_eq!(list.code, Some(0), "{lines:?}: {}{}", list.out, list.err);
    }
}
