//! What the host tells of its rules, and what it says of others before they are in force.

use std::net::SocketAddr;

use postern_proto::v1::{GetPolicyRequest, ListDeniedRequest, ValidatePolicyRequest};
use postern_tests::client::reason;
use postern_tests::net::{NEIGHBOUR, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::request;
use postern_tests::until;

#[test]
fn the_rules_are_shown_and_others_are_checked_without_effect() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let client = postern.client();
    let shown = client.policy().expect("the policy");
    let ports: Vec<_> = shown.ports.iter().map(|port| port.port.as_str()).collect();
    assert_eq!(ports, ["22/any", "3389/any"]);
    assert_eq!(shown.roles[0].principals, ["alice@example.com"]);
    let check = |text: &str, read| {
        let call = ValidatePolicyRequest { read, text: text.to_owned() };
        client.wait(client.host().validate_policy(call)).map(|response| response.into_inner())
    };
    let bad = "[[port]]\nnumber = 22\nmax_durration = \"1h\"\n\n[[port]]\nnumber = 0\nmax_duration = \"25h\"\n";
    let told = check(bad, None).expect("an answer");
    let places: Vec<_> = told.problems.iter().map(|p| (p.line, p.field.as_str())).collect();
    assert_eq!(
        (places, told.policy),
        (vec![(3, "port[0].max_durration"), (6, "port[1].number"), (7, "port[1].max_duration")], None)
    );
    assert!(told.problems[0].message.contains("max_duration"), "{}", told.problems[0].message);
    let good = check("[[port]]\nnumber = \"ssh\"\napprovals = 1\n", None).expect("an answer");
    let meant = good.policy.expect("what it would mean");
    assert_eq!((meant.ports[0].port.as_str(), meant.ports[0].approvals), ("22/tcp", 1));
    assert_eq!(client.policy().expect("the policy").digest, shown.digest, "nothing came into force");
    // Alice may read the rules. Only an administrator may have other rules checked, or list denied attempts.
    let read = |key| Some(request::read(key, AUDIENCE));
    let alice = GetPolicyRequest { read: read(&postern.alice) };
    assert!(client.wait(client.host().get_policy(alice)).is_ok());
    let refused = |status: tonic::Status| reason(&status);
    assert_eq!(check("", read(&postern.alice)).map_err(refused).expect_err("no"), "NOT_PERMITTED");
    assert!(check("", read(&postern.admin)).is_ok());
    for source in NEIGHBOUR.both() {
        assert_ne!(probe::tcp(&net.client, source, SocketAddr::new(SERVER.like(source), 22)), Outcome::Answered);
    }
    let denied = |key| client.wait(client.host().list_denied(ListDeniedRequest { read: read(key) }));
    assert_eq!(denied(&postern.alice).map_err(refused).expect_err("no"), "NOT_PERMITTED");
    until("both sources are listed", || {
        let seen = denied(&postern.admin).expect("the denied").into_inner().denied;
        let from = |source: &std::net::IpAddr| seen.iter().any(|attempt| attempt.address == source.to_string());
        NEIGHBOUR.both().iter().all(from)
    });
}
