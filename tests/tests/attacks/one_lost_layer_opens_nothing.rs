//! Losing one layer never opens the other: what attached stays, the rest is named and attached as soon as it can be.
//!
//! The obstacles are real: 64 programs on the hook of a cgroup of the test's own, or of the namespace's look-ups; a cgroup that is not
//! there; a directory of pins that cannot be used.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::Output;

use postern_tests::bpf::{self, MOST_ATTACHED, Pass};
use postern_tests::cgroup::Cgroup;
use postern_tests::names;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::strace::Fault;
use postern_tests::until;

const PORT: u16 = 22;

/// Which layers something keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Lock,
    CutIngress,
    CutEgress,
    Cut,
    CgroupGone,
}

const ONE_LAYER: [Obstacle; 5] =
    [Obstacle::Lock, Obstacle::CutIngress, Obstacle::CutEgress, Obstacle::Cut, Obstacle::CgroupGone];

impl Obstacle {
    /// The layers that cannot be attached, and a word of why.
    const fn lost(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Lock => (&["lock"], "64 sk_lookup programs"),
            Self::CutIngress => (&["cut-ingress"], "64 programs"),
            Self::CutEgress => (&["cut-egress"], "64 programs"),
            Self::Cut => (&["cut-ingress", "cut-egress"], "64 programs"),
            Self::CgroupGone => (&["cut-ingress", "cut-egress"], "open the cgroup"),
        }
    }
}

/// A server whose sockets are in a cgroup of their own, with a TCP and a UDP service on the protected port.
struct World {
    net: Net,
    cgroup: Cgroup,
    udp: Service,
    _tcp: Service,
}

impl World {
    fn new() -> Self {
        let (net, cgroup) = (Net::pair(), Cgroup::new());
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let (tcp, udp) = cgroup.within(|| (Service::tcp_echo(&net.server, any), Service::udp_echo(&net.server, any)));
        Self { net, cgroup, udp, _tcp: tcp }
    }

    fn options(&self) -> Options {
        Options { extra: self.cgroup.line(), ..Options::without_xdp() }
    }

    /// Puts the obstacle there; dropping what this returns takes it away.
    fn put(&self, obstacle: Obstacle) -> Obstructed<'_> {
        let cut = |pass| bpf::fill(self.cgroup.open(), pass).expect("programs on the cgroup");
        let programs = match obstacle {
            Obstacle::Lock => bpf::fill(self.net.server.descriptor(), Pass::Lookup).expect("programs on look-ups"),
            Obstacle::CutIngress => cut(Pass::Ingress),
            Obstacle::CutEgress => cut(Pass::Egress),
            Obstacle::Cut => [cut(Pass::Ingress), cut(Pass::Egress)].into_iter().flatten().collect(),
            Obstacle::CgroupGone => {
                self.cgroup.remove();
                Vec::new()
            }
        };
        assert!(obstacle == Obstacle::CgroupGone || programs.len() >= MOST_ATTACHED, "{}", programs.len());
        Obstructed { _programs: programs, gone: (obstacle == Obstacle::CgroupGone).then_some(&self.cgroup) }
    }

    /// One SYN and one datagram of a stranger, over both families, reach nobody and get no answer.
    fn assert_closed(&self, when: &str) {
        let before = self.udp.served();
        for (from, to) in [(STRANGER.both()[0], SERVER.both()[0]), (STRANGER.both()[1], SERVER.both()[1])] {
            let to = SocketAddr::new(to, PORT);
            assert_ne!(probe::tcp(&self.net.client, from, to), Outcome::Answered, "{when}: TCP from {from}");
            assert_ne!(probe::udp(&self.net.client, from, to), Outcome::Answered, "{when}: UDP from {from}");
        }
        let reached = self.udp.served() - before;
        assert_eq!(reached, 0, "{when}: datagrams reached the server");
    }

    /// Takes the lock away, and the room for it, until what this returns is dropped.
    fn take_lock(&self, postern: &Postern) -> Vec<OwnedFd> {
        let fill = || bpf::fill(self.net.server.descriptor(), Pass::Lookup).expect("programs on look-ups");
        let mut programs = fill();
        // posternd may be faster, and attach it again.
        until("the lock is gone", || {
            postern.detach("lock");
            programs.extend(fill());
            programs.len() >= MOST_ATTACHED
        });
        programs
    }

    fn is_open(&self) -> bool {
        probe::tcp(&self.net.client, STRANGER.v4, (SERVER.v4, PORT).into()) == Outcome::Answered
    }

    fn early(&self, postern: &Postern) -> Output {
        let mut command = self.net.server.command(program());
        command.args(["early", "--config"]).arg(postern.config()).output().expect("posternd")
    }
}

/// What keeps a layer out, as long as this lives.
struct Obstructed<'a> {
    _programs: Vec<OwnedFd>,
    gone: Option<&'a Cgroup>,
}

impl Drop for Obstructed<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = self.gone {
            cgroup.make();
        }
    }
}

/// The layers that status says are not in force.
fn missing(postern: &Postern) -> Vec<String> {
    let layers = postern.client().status().expect("a status").layers;
    assert_eq!(layers.len(), 3, "{layers:?}");
    layers.into_iter().filter(|layer| !layer.attached).map(|layer| layer.name).collect()
}

/// What is not as it should be, but for the cgroup of the test's own, which is a part of the host's.
fn degraded(postern: &Postern) -> Vec<String> {
    let told = postern.client().status().expect("a status").conditions.into_iter();
    told.filter(|condition| condition.code != "cgroup-part").map(|condition| condition.detail).collect()
}

fn is_whole(postern: &Postern) -> bool {
    missing(postern).is_empty() && degraded(postern).is_empty()
}

/// Status names each lost layer, with the reason.
fn assert_named(postern: &Postern, obstacle: Obstacle) {
    let (lost, why) = obstacle.lost();
    until("the lost layers in status", || missing(postern) == lost);
    for layer in lost {
        let named = |said: &String| said.contains(&format!("the {layer} is not attached")) && said.contains(why);
        until("a sentence for each lost layer", || degraded(postern).iter().any(named));
    }
}

#[test]
fn run_keeps_what_attached_names_the_rest_and_attaches_it_later() {
    for obstacle in ONE_LAYER {
        let world = World::new();
        let held = world.put(obstacle);
        let postern = Postern::start(&world.net.server, world.options());
        world.assert_closed(&format!("{obstacle:?}"));
        assert_named(&postern, obstacle);
        // The API goes on, and so do grants.
        let grant = postern.grant(&["22/tcp", "22/udp"], &GRANTED.both(), 600).expect("a grant");
        assert!(probe::tcp_answers(&world.net.client, GRANTED.v4, (SERVER.v4, PORT).into()), "{obstacle:?}");
        assert!(probe::udp_answers(&world.net.client, GRANTED.v6, (SERVER.v6, PORT).into()), "{obstacle:?}");
        postern.revoke(&grant.id).expect("to revoke");
        world.assert_closed(&format!("{obstacle:?}, after a grant"));
        drop(held);
        until("the layer attaches by itself", || is_whole(&postern));
        world.assert_closed(&format!("{obstacle:?} gone"));
        assert_eq!(postern.pinned(), ["cut-egress", "cut-ingress", "layout", "lock"], "{obstacle:?}");
        for layer in obstacle.lost().0 {
            until("the record of the loss and of its end", || recorded(&postern, layer) == ["detached", "in-force"]);
        }
    }
}

/// The journal's lines about a part: its states, in order.
fn recorded(postern: &Postern, part: &str) -> Vec<String> {
    let of_part = |line: &serde_json::Value| line["event"] == "layer" && line["name"] == part;
    let lines = postern.on_disk().into_iter().filter(of_part);
    lines.map(|line| line["state"].as_str().expect("a state").to_owned()).collect()
}

#[test]
fn early_keeps_what_attached_and_fails_all_the_same() {
    for obstacle in ONE_LAYER {
        let world = World::new();
        let mut postern = Postern::prepared(&world.net.server, world.options());
        let held = world.put(obstacle);
        assert!(world.is_open(), "nothing is closed before");
        let said = world.early(&postern);
        assert_eq!(said.status.code(), Some(1), "{obstacle:?}: {said:?}");
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        let (lost, why) = obstacle.lost();
        for layer in lost {
            assert!(text.contains(&format!("the {layer} is not attached")) && text.contains(why), "{text}");
        }
        world.assert_closed(&format!("{obstacle:?}, early alone"));
        // A second try is no worse, and `run` takes it over.
        assert_eq!(world.early(&postern).status.code(), Some(1), "{obstacle:?}");
        world.assert_closed(&format!("{obstacle:?}, early twice"));
        postern.launch();
        assert_named(&postern, obstacle);
        world.assert_closed(&format!("{obstacle:?}, early and run"));
        postern.kill();
        drop(held);
        // With the agent dead, early completes what is missing.
        assert_eq!(world.early(&postern).status.code(), Some(0), "{obstacle:?}");
        assert_eq!(postern.pinned(), ["cut-egress", "cut-ingress", "layout", "lock"], "{obstacle:?}");
        world.assert_closed(&format!("{obstacle:?}, early completes"));
        postern.launch();
        until("everything in force", || is_whole(&postern));
    }
}

#[test]
fn with_no_layer_at_all_root_is_answered_and_the_first_condition_says_open() {
    let world = World::new();
    let held = (world.put(Obstacle::Lock), world.put(Obstacle::Cut));
    let mut postern = Postern::prepared(&world.net.server, world.options());
    let said = world.early(&postern);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("nothing keeps the protected ports closed"), "{said:?}");
    postern.launch();
    assert!(world.is_open());
    assert!(degraded(&postern)[0].starts_with("OPEN: "), "{:?}", degraded(&postern));
    assert_eq!(missing(&postern), ["lock", "cut-ingress", "cut-egress"]);
    // One layer closes the ports, and the condition goes.
    drop(held.0);
    until("the lock", || missing(&postern) == ["cut-ingress", "cut-egress"]);
    world.assert_closed("the lock came");
    assert!(!degraded(&postern).iter().any(|said| said.starts_with("OPEN")), "{:?}", degraded(&postern));
    drop(held.1);
    until("everything in force", || is_whole(&postern));
}

#[test]
fn with_a_kernel_that_takes_no_program_root_is_answered_too() {
    let world = World::new();
    let mut postern = Postern::prepared(&world.net.server, world.options());
    assert_eq!(postern.launch_with(&[Fault::fail("bpf", "ENOMEM")]), None, "posternd goes on");
    assert!(world.is_open());
    assert!(degraded(&postern)[0].starts_with("OPEN: "), "{:?}", degraded(&postern));
    assert_eq!(missing(&postern), ["lock", "cut-ingress", "cut-egress"]);
    assert!(degraded(&postern).iter().any(|said| said.contains("Cannot allocate memory")), "{:?}", degraded(&postern));
    // Nothing is granted that the kernel does not know of.
    let refused = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect_err("no grant");
    assert_eq!(postern_tests::client::reason(&refused), "KERNEL_FAILED", "{refused:?}");
    postern.kill();
    // With a kernel that does, the next start closes.
    postern.launch();
    until("everything in force", || is_whole(&postern));
    world.assert_closed("the next start");
}

#[test]
fn a_cgroup_that_is_made_anew_gets_the_cut_again() {
    let world = World::new();
    let postern = Postern::start(&world.net.server, world.options());
    assert!(is_whole(&postern));
    world.cgroup.remove();
    until("the cut is lost", || missing(&postern) == ["cut-ingress", "cut-egress"]);
    world.assert_closed("the cgroup is gone");
    world.cgroup.make();
    until("the cut is at the new cgroup", || is_whole(&postern));
    // And there it cuts: without the lock, a new service in that cgroup is closed.
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 3389));
    let service = world.cgroup.within(|| Service::udp_echo(&world.net.server, any));
    let held = world.take_lock(&postern);
    let to = SocketAddr::from((SERVER.v4, 3389));
    assert_ne!(probe::udp(&world.net.client, STRANGER.v4, to), Outcome::Answered);
    drop(held);
    until("everything in force", || is_whole(&postern));
    assert_eq!(service.served(), 0);
}

#[test]
fn a_layer_of_an_earlier_run_stays_where_the_new_one_cannot_be_attached() {
    let world = World::new();
    let mut postern = Postern::start(&world.net.server, world.options());
    postern.kill();
    // The file names another cgroup now, which is not there: the old cut is kept, with the new run's grants.
    let other = Cgroup::planned();
    postern.configure(&Options { extra: other.line(), ..Options::without_xdp() });
    postern.launch();
    assert_eq!(missing(&postern), ["cut-ingress", "cut-egress"]);
    let layers = postern.client().status().expect("a status").layers;
    assert!(layers.iter().all(|layer| layer.attached || layer.detail == "elsewhere"), "{layers:?}");
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    assert!(probe::tcp_answers(&world.net.client, GRANTED.v4, (SERVER.v4, PORT).into()), "the old cut knows the grant");
    let full = world.take_lock(&postern);
    world.assert_closed("the cut of the earlier run alone");
    drop(full);
    other.make();
    until("the cut is where the file says", || is_whole(&postern));
    drop(postern);
}

#[test]
fn a_directory_of_pins_that_cannot_be_used_keeps_no_layer_out() {
    let world = World::new();
    // A file where the directory's parent belongs.
    let parent = std::path::Path::new("/sys/fs/bpf").join(names::unique("no-directory"));
    std::os::unix::fs::symlink("/sys/fs/bpf/nothing", &parent).expect("an obstacle");
    let postern = Postern::start_pinned(&world.net.server, world.options(), parent.join("pins"));
    world.assert_closed("nothing is pinned");
    let layers = postern.client().status().expect("a status").layers;
    assert!(layers.iter().all(|layer| layer.detail == "unpinned"), "{layers:?}");
    until("the reason", || degraded(&postern).iter().any(|said| said.contains("is a symbolic link")));
    let output = world.early(&postern);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    fs::remove_file(&parent).expect("the obstacle");
    until("pinned by itself", || is_whole(&postern));
    assert_eq!(postern.pinned(), ["cut-egress", "cut-ingress", "layout", "lock"]);
    drop(postern);
    let _ = fs::remove_dir_all(parent);
}

#[test]
fn a_death_between_two_attaches_leaves_what_attached() {
    let world = World::new();
    let mut deaths = 0;
    let mut closed_once = false;
    for nth in 1.. {
        let mut postern = Postern::prepared(&world.net.server, world.options());
        let ended = postern.launch_with(&[Fault::kill("bpf", nth)]);
        let layers = postern.pinned();
        if layers.iter().any(|name| name == "lock" || name == "cut-ingress") {
            closed_once = true;
            world.assert_closed(&format!("death at call {nth}, pinned {layers:?}"));
        }
        if ended.is_none() {
            break;
        }
        deaths += 1;
        // Whatever was left is completed.
        postern.launch();
        until("everything in force", || is_whole(&postern));
        world.assert_closed(&format!("after death at call {nth}"));
    }
    println!("{deaths} deaths");
    assert!(deaths > 3 && closed_once);
}
