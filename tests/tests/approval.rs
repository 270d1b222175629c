//! Two people, offline: the approver signs the very bytes that the requester signed, and one envelope carries both.

use postern_proto::v1::{GrantState, Signature, SignedMessage};
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;

const APPROVE: &str = "approve@postern.v1";

/// `message` with one more signature, over the same bytes.
fn with(mut message: SignedMessage, key: &Key, namespace: &str) -> SignedMessage {
    let sshsig = key.sign(namespace, &message.payload);
    message.signatures.push(Signature { sshsig });
    message
}

#[test]
fn a_port_that_wants_an_approval_opens_for_two_people_and_not_for_one() {
    let net = Net::pair();
    let ports = format!("{}approvals = 1\n", port(22, "tcp"));
    let approvers = "[[role]]\nname = \"approver\"\nprincipals = [\"carol@example.com\", \"alice@example.com\"]\n";
    let rules = [&ports, ROLES, approvers].concat();
    let mut postern = Postern::start(&net.server, Options { rules, ..Options::default() });
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    postern.stop();
    let carol = Key::new(&postern.file(""), "carol");
    let trust = std::fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
    let more = [("carol@example.com", &carol), ("alice@example.com", &postern.alice)]
        .map(|(who, key)| format!("{who} namespaces=\"{APPROVE}\" {}\n", key.public()));
    std::fs::write(postern.file("allowed_signers"), [trust, more.concat()].concat()).expect("the trust file");
    postern.launch();
    let client = postern.client();
    let fresh = || Access::new(AUDIENCE, &["22/tcp"], &GRANTED.both(), 60).seal(&postern.alice);
    let ask = |message: SignedMessage| client.request(message).map_err(|status| reason(&status));
    let alone = ask(fresh()).expect("a request that waits");
    assert_eq!((alone.state(), alone.approvals_missing), (GrantState::Pending, 1), "alone");
    let own = ask(with(fresh(), &postern.alice, APPROVE)).expect_err("nobody approves their own");
    assert_eq!(own, "ENVELOPE_MALFORMED", "the same person signed twice");
    assert_eq!(ask(with(fresh(), &postern.admin, APPROVE)), Err("ROLE_NOT_TRUSTED".to_owned()));
    let other_bytes = fresh().signatures.remove(0);
    let mut mixed = with(fresh(), &carol, APPROVE);
    mixed.signatures[0] = other_bytes;
    assert_eq!(ask(mixed), Err("SIGNATURE_INVALID".to_owned()), "both sign the same bytes");
    let [source, _] = GRANTED.both();
    let to = std::net::SocketAddr::new(SERVER.like(source), 22);
    assert_ne!(probe::tcp(&net.client, source, to), Outcome::Answered);
    let grant = ask(with(fresh(), &carol, APPROVE)).expect("a grant");
    assert_eq!(grant.approvers, ["carol@example.com"]);
    assert_eq!(probe::tcp(&net.client, source, to), Outcome::Answered);
    let journal = postern.journal();
    assert!(journal.lines().any(|line| line.contains("\"granted\"") && line.contains("carol@example.com")));
}
