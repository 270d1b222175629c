//! The corpus against bare Linux, against all layers, and against each layer that guarantees, alone.

use crate::PORT;
use postern_tests::corpus::{self, Case};
use postern_tests::net::{GRANTED, Host, Net, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::service::Service;
use postern_tests::wire::Wire;

/// A server on the port, and which cases Linux itself answers.
struct Bare {
    net: Net,
    _server: Service,
    wire: Wire,
    /// The first source port that no case had yet: a source port that was answered once is not new to the kernel.
    next: u16,
    answered: Vec<bool>,
}

impl Bare {
    fn new() -> Self {
        let net = Net::pair();
        let server = Service::tcp_echo(&net.server, format!("[::]:{PORT}").parse().expect("an address"));
        let wire = net.client_wire();
        let mut this = Self { net, _server: server, wire, next: 10_000, answered: Vec::new() };
        this.answered = this.send(STRANGER).into_iter().map(|(_, answered)| answered).collect();
        this
    }

    /// Sends the whole corpus from one client's addresses.
    fn send(&mut self, from: Host) -> Vec<(Case, bool)> {
        let cases = corpus::corpus(from, PORT, self.next);
        self.next += cases.len() as u16;
        let answered = corpus::answered(&self.wire, &cases);
        cases.into_iter().zip(answered).collect()
    }

    /// Nothing is answered.
    fn assert_closed(&mut self, layers: &str) {
        let through: Vec<_> = self.send(STRANGER).into_iter().filter(|(_, answered)| *answered).collect();
        let names: Vec<_> = through.iter().map(|(case, _)| &case.name).collect();
        assert!(names.is_empty(), "answered with {layers}: {names:#?}");
    }

    /// What Linux answers, it answers to the granted address too: silence towards others means something.
    fn assert_open_to_granted(&mut self, layers: &str) {
        let (cases, bare) = (self.send(GRANTED), self.answered.clone());
        let from_granted = cases.iter().zip(bare).filter(|((case, _), bare)| *bare && case.is_from(GRANTED));
        let expected: Vec<_> = from_granted.map(|(case, _)| case).collect();
        let lost: Vec<_> = expected.iter().filter(|(_, answered)| !answered).map(|(case, _)| &case.name).collect();
        println!(
            "{layers}: 0 answered to a stranger, {} of {} to the granted",
            expected.len() - lost.len(),
            expected.len()
        );
        assert!(expected.len() >= 60, "{}", expected.len());
        assert!(lost.is_empty(), "granted, but not answered with {layers}: {lost:#?}");
    }

    /// Closed to the stranger, open to the granted.
    fn assert_exact(&mut self, layers: &str) {
        self.assert_closed(layers);
        self.assert_open_to_granted(layers);
    }

    fn start(&self, options: Options) -> Postern {
        Postern::start(&self.net.server, options)
    }
}

/// A posternd that opened the port for [`GRANTED`] until the test is over.
fn granting(bare: &Bare, options: Options) -> Postern {
    let postern = bare.start(options);
    let ports = [format!("{PORT}/tcp")];
    postern.grant(&[&ports[0]], &GRANTED.both(), 600).expect("a grant");
    postern
}

#[test]
fn linux_itself_answers_most_of_it() {
    let mut bare = Bare::new();
    let outcomes = bare.send(STRANGER);
    for (case, answered) in &outcomes {
        println!("{} {}", if *answered { "answered  " } else { "unanswered" }, case.name);
    }
    let count = bare.answered.iter().filter(|answered| **answered).count();
    println!("Linux answers {count} of {} encodings", outcomes.len());
    assert!(count >= 60, "{count}");
    let again: Vec<_> = outcomes.iter().map(|(_, answered)| *answered).collect();
    assert_eq!(again, bare.answered, "the corpus does not answer the same way twice");
}

#[test]
fn all_layers_hold_also_after_the_agents_death() {
    let mut bare = Bare::new();
    let mut postern = bare.start(Options::default());
    bare.assert_closed("all layers and an empty table");
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    bare.assert_exact("all layers");
    postern.kill();
    bare.assert_exact("all layers, the agent dead");
    postern.launch();
    bare.assert_exact("all layers, the agent back");
}

#[test]
fn lock_and_cut_hold_without_the_shed() {
    let mut bare = Bare::new();
    let postern = granting(&bare, Options::without_shed());
    bare.assert_exact("lock and cut");
    assert!(!postern.pinned().iter().any(|name| name.starts_with("shed")), "{:?}", postern.pinned());
}

#[test]
fn the_lock_alone_holds() {
    let mut bare = Bare::new();
    let mut postern = granting(&bare, Options::without_shed());
    postern.kill();
    postern.detach("cut-");
    bare.assert_exact("the lock alone");
    // That it is indeed alone.
    postern.detach("lock");
    assert!(bare.send(STRANGER).iter().any(|(_, answered)| *answered), "closed without any layer");
}

#[test]
fn the_cut_alone_holds() {
    let mut bare = Bare::new();
    let mut postern = granting(&bare, Options::without_shed());
    postern.kill();
    postern.detach("lock");
    bare.assert_exact("the cut alone");
    postern.detach("cut-");
    assert!(bare.send(STRANGER).iter().any(|(_, answered)| *answered), "closed without any layer");
}
