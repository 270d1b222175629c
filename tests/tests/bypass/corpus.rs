//! The corpus against bare Linux, against all layers, and against each layer that guarantees, alone.

use crate::PORT;
use postern_tests::corpus::{self, Case, Transport};
use postern_tests::net::{GRANTED, Host, Net, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::service::Service;
use postern_tests::wire::Wire;
use std::net::{Ipv6Addr, SocketAddr};

/// Servers on the port, TCP and UDP, and which cases Linux itself answers.
struct Bare {
    net: Net,
    _servers: [Service; 2],
    wire: Wire,
    /// The first source port that no case had yet: a source port that was answered once is not new to the kernel.
    next: u16,
    answered: Vec<bool>,
}

impl Bare {
    fn new() -> Self {
        let net = Net::pair();
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let servers = [Service::tcp_echo(&net.server, all), Service::udp_echo(&net.server, all)];
        let wire = net.client_wire();
        let mut this = Self { net, _servers: servers, wire, next: 10_000, answered: Vec::new() };
        this.answered = this.send(STRANGER).into_iter().map(|(_, answered)| answered).collect();
        this
    }

    /// Sends the whole corpus from one client's addresses, as SYNs and as datagrams.
    fn send(&mut self, from: Host) -> Vec<(Case, bool)> {
        let mut cases = corpus::corpus(Transport::Tcp, from, PORT, self.next);
        cases.extend(corpus::corpus(Transport::Udp, from, PORT, self.next));
        self.next += cases.len() as u16;
        let answered = corpus::answered(&self.wire, &cases);
        cases.into_iter().zip(answered).collect()
    }

    /// Nothing is answered, of the cases that these layers answer for.
    fn assert_closed(&mut self, layers: &str, theirs: impl Fn(&Case) -> bool) {
        let sent = self.send(STRANGER);
        let through = sent.iter().filter(|(case, answered)| *answered && theirs(case));
        let names: Vec<_> = through.map(|(case, _)| (case.transport, &case.name)).collect();
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
        assert!(expected.len() >= 120, "{}", expected.len());
        assert!(lost.is_empty(), "granted, but not answered with {layers}: {lost:#?}");
    }

    /// Closed to the stranger, open to the granted.
    fn assert_exact(&mut self, layers: &str) {
        self.assert_closed(layers, |_| true);
        self.assert_open_to_granted(layers);
    }

    fn start(&self, options: Options) -> Postern {
        Postern::start(&self.net.server, options)
    }
}

/// A posternd that opened the port for [`GRANTED`] until the test is over.
fn granting(bare: &Bare, options: Options) -> Postern {
    let postern = bare.start(options);
    postern.grant(&["22/tcp", "22/udp"], &GRANTED.both(), 600).expect("a grant");
    postern
}

#[test]
fn linux_itself_answers_most_of_it() {
    let mut bare = Bare::new();
    let outcomes = bare.send(STRANGER);
    for (case, answered) in &outcomes {
        println!("{:?} {} {}", case.transport, if *answered { "answered  " } else { "unanswered" }, case.name);
    }
    for transport in [Transport::Tcp, Transport::Udp] {
        let these = || outcomes.iter().filter(|(case, _)| case.transport == transport);
        let count = these().filter(|(_, answered)| *answered).count();
        println!("Linux answers {count} of {} {transport:?} encodings", these().count());
        assert!(count >= 60, "{transport:?}: {count}");
    }
    let changed: Vec<_> = outcomes.iter().zip(&bare.answered).filter(|((_, now), before)| now != *before).collect();
    assert!(changed.is_empty(), "not the same answer twice: {changed:#?}");
}

#[test]
fn all_layers_hold_also_after_the_agents_death() {
    let mut bare = Bare::new();
    let mut postern = bare.start(Options::default());
    bare.assert_closed("all layers and an empty table", |_| true);
    postern.grant(&["22/tcp", "22/udp"], &GRANTED.both(), 600).expect("a grant");
    bare.assert_exact("all layers");
    postern.kill();
    bare.assert_exact("all layers, the agent dead");
    postern.launch();
    bare.assert_exact("all layers, the agent back");
}

#[test]
fn lock_and_cut_hold_without_the_prefilter() {
    let mut bare = Bare::new();
    let postern = granting(&bare, Options::without_xdp());
    bare.assert_exact("lock and cut");
    assert!(!postern.pinned().iter().any(|name| name.starts_with("xdp")), "{:?}", postern.pinned());
}

#[test]
fn the_lock_alone_holds() {
    let mut bare = Bare::new();
    let mut postern = granting(&bare, Options::without_xdp());
    postern.kill();
    postern.detach("cut-");
    // Broadcast and multicast are the cut's alone.
    bare.assert_closed("the lock alone", |case| !case.to_many);
    bare.assert_open_to_granted("the lock alone");
    // That it is indeed alone.
    postern.detach("lock");
    assert!(bare.send(STRANGER).iter().any(|(_, answered)| *answered), "closed without any layer");
}

#[test]
fn the_cut_alone_holds() {
    let mut bare = Bare::new();
    let mut postern = granting(&bare, Options::without_xdp());
    postern.kill();
    postern.detach("lock");
    bare.assert_exact("the cut alone");
    postern.detach("cut-");
    assert!(bare.send(STRANGER).iter().any(|(_, answered)| *answered), "closed without any layer");
}
