//! Every way to write a SYN down that Linux understands, and every place where it may come in: none reaches a
//! protected port.

use postern_tests::corpus;
use postern_tests::net::{Net, STRANGER};
use postern_tests::service::Service;

/// The port of most tests; it is protected in none of the host's real namespaces.
const PORT: u16 = 22;

#[test]
fn linux_itself_answers_most_of_the_corpus() {
    let net = Net::pair();
    let _server = Service::tcp_echo(&net.server, format!("[::]:{PORT}").parse().expect("an address"));
    let cases = corpus::corpus(STRANGER, PORT, 20_000);
    let answered = corpus::answered(&net.client_wire(), &cases);
    for (case, answered) in cases.iter().zip(&answered) {
        println!("{} {}", if *answered { "answered  " } else { "unanswered" }, case.name);
    }
    let count = answered.iter().filter(|answered| **answered).count();
    println!("Linux answers {count} of {} encodings", cases.len());
    assert!(count >= 60, "{count}");
}
