//! Two hosts, two services behind protected ports, two people who may open them, and what is open, shown by packets.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use postern_proto::payload_type;
use postern_proto::v1::SignedMessage;
use postern_tests::clock::boot_ns;
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::postern::{ADMIN, ALICE, AUDIENCE, Options, Postern, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::{self, Access};
use postern_tests::service::Service;
use postern_tests::until;

/// The protected ports, TCP.
pub const PORTS: [u16; 2] = [22, 3389];
/// Who is granted access.
pub const SOURCES: [IpAddr; 3] = [IpAddr::V4(GRANTED.v4), IpAddr::V4(NEIGHBOUR.v4), IpAddr::V6(GRANTED.v6)];
/// The second requester, whom a reload may cease to trust.
const CAROL: &str = "carol@example.com";

/// A source and a port.
pub type Pair = (IpAddr, u16);

/// Which of the two forms each file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// 3389 may not be opened to [`NEIGHBOUR`].
    pub narrow: bool,
    /// Carol's key is not trusted.
    pub without_carol: bool,
}

impl Rules {
    /// Whether `who` may hold a grant of these pairs.
    pub fn allow(self, who: Who, pairs: &[Pair]) -> bool {
        let untrusted = self.without_carol && who == Who::Carol;
        let too_wide = self.narrow && pairs.contains(&(IpAddr::V4(NEIGHBOUR.v4), PORTS[1]));
        !untrusted && !too_wide
    }
}

/// A person who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Always trusted.
    Alice,
    /// Trusted unless [`Rules::without_carol`].
    Carol,
}

/// What somebody asks for: every port for every source.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Who.
    pub who: Who,
    /// Which TCP ports.
    pub ports: &'a [u16],
    /// For whom.
    pub sources: &'a [IpAddr],
    /// For how long.
    pub seconds: u64,
    /// In how many milliseconds it shall open; at once when `None`.
    pub in_ms: Option<i64>,
    /// The grant that it extends.
    pub extends: Option<&'a str>,
}

impl<'a> Wish<'a> {
    /// Alice's, at once.
    pub fn new(ports: &'a [u16], sources: &'a [IpAddr], seconds: u64) -> Self {
        Self { who: Who::Alice, ports, sources, seconds, in_ms: None, extends: None }
    }

    /// What it opens.
    pub fn pairs(&self) -> Vec<Pair> {
        self.sources.iter().flat_map(|source| self.ports.iter().map(move |port| (*source, *port))).collect()
    }
}

/// What was seen, and between which two moments of the boot clock.
#[derive(Debug)]
pub struct Seen {
    /// Before the first packet.
    pub from: u64,
    /// After the last answer.
    pub to: u64,
    /// Each pair, and whether it answered.
    pub open: BTreeMap<Pair, bool>,
}

/// Everything that a torture test has around it.
pub struct World {
    /// Dropped first: posternd.
    pub postern: Postern,
    /// Alice's and Carol's keys.
    carol: Key,
    _services: [Service; 2],
    /// Whether the prefilter is configured.
    xdp: bool,
    /// The hosts.
    pub net: Net,
}

impl World {
    /// Everything up and closed, without the prefilter unless `prefilter`.
    pub fn new(xdp: bool) -> Self {
        Self::with_state(xdp, None)
    }

    /// As [`World::new`], with this state directory.
    pub fn with_state(xdp: bool, state: Option<PathBuf>) -> Self {
        let net = Net::pair();
        let any = |port| SocketAddr::new("::".parse().expect("an address"), port);
        let _services = PORTS.map(|port| Service::tcp_echo(&net.server, any(port)));
        let options = Options { state, ..options(Rules::default(), xdp) };
        let postern = Postern::start(&net.server, options);
        let carol = Key::new(&postern.file(""), "carol");
        let world = Self { postern, carol, _services, xdp, net };
        world.write(Rules::default());
        world.reload();
        world
    }

    /// Writes configuration and trust file; nobody reads them yet.
    pub fn write(&self, rules: Rules) {
        self.postern.configure(&options(rules, self.xdp));
        let mut trust = format!(
            "{ALICE} namespaces=\"request@postern.v1,revoke@postern.v1\" {}\n\
             {ADMIN} namespaces=\"revoke@postern.v1,read@postern.v1,admin@postern.v1\" {}\n",
            self.postern.alice.public(),
            self.postern.admin.public()
        );
        if !rules.without_carol {
            trust.push_str(&format!("{CAROL} namespaces=\"request@postern.v1\" {}\n", self.carol.public()));
        }
        // As an editor does: a crash never finds half a file.
        let fresh = self.postern.file("allowed_signers.new");
        fs::write(&fresh, trust).expect("the trust file");
        fs::rename(fresh, self.postern.file("allowed_signers")).expect("the trust file");
    }

    /// Has posternd read its files again. False when it died over it.
    pub fn reload(&self) -> bool {
        let loaded = || self.postern.on_disk().iter().filter(|line| line["event"] == "policy-loaded").count();
        let before = loaded();
        self.postern.reload();
        let is_dead = || !is_alive(self.postern.pid());
        until("the reload is on record", || loaded() > before || is_dead());
        // The engine answers after it has put in force what it has recorded.
        let answered = self.postern.connect().and_then(|client| client.status());
        answered.is_ok() && !is_dead()
    }

    /// A signed request and its id.
    pub fn request(&self, wish: &Wish<'_>) -> (String, SignedMessage) {
        let names: Vec<String> = wish.ports.iter().map(|port| format!("{port}/tcp")).collect();
        let names: Vec<&str> = names.iter().map(|name| &name[..]).collect();
        let access = Access::new(AUDIENCE, &names, wish.sources, wish.seconds);
        let mut payload: serde_json::Value = serde_json::from_str(&access.json()).expect("JSON");
        if let Some(milliseconds) = wish.in_ms {
            let moment = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(milliseconds);
            payload["notBefore"] = moment.to_string().into();
        }
        if let Some(old) = wish.extends {
            payload["supersedes"] = old.into();
        }
        let key = if wish.who == Who::Alice { &self.postern.alice } else { &self.carol };
        (access.id, key.seal(request::REQUEST, payload_type::ACCESS_REQUEST, &payload.to_string()))
    }

    /// What is open, by one connection attempt from each source, and the stranger, to each port.
    pub fn look(&self) -> Seen {
        let from = boot_ns();
        let strangers = STRANGER.both();
        let pairs = SOURCES.iter().chain(&strangers).flat_map(|source| PORTS.map(|port| (*source, port)));
        let open = std::thread::scope(|scope| {
            // All at once: where a prefilter drops them, each waits for its whole time.
            let probes: Vec<_> = pairs.map(|pair| scope.spawn(move || (pair, self.answers(pair)))).collect();
            probes.into_iter().map(|probe| probe.join().expect("a probe")).collect()
        });
        Seen { from, to: boot_ns(), open }
    }

    /// One attempt. What should answer and does not at once may be a busy machine's fault; the caller looks again.
    fn answers(&self, (source, port): Pair) -> bool {
        probe::tcp(&self.net.client, source, SocketAddr::new(SERVER.like(source), port)) == Outcome::Answered
    }
}

/// Whether a process runs (a zombie does not).
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

fn options(rules: Rules, xdp: bool) -> Options {
    let narrow = |text: String| text.replace("\"10.0.0.0/8\"", &format!("\"{}/32\"", GRANTED.v4));
    let second = port(PORTS[1], "any");
    let roles = format!(
        "[[role]]\nname = \"requester\"\nprincipals = [\"{ALICE}\", \"{CAROL}\"]\n\
         [[role]]\nname = \"admin\"\nprincipals = [\"{ADMIN}\"]\n"
    );
    let rules = [port(PORTS[0], "any"), if rules.narrow { narrow(second) } else { second }, roles].concat();
    let options = if xdp { Options::default() } else { Options::without_xdp() };
    Options { rules, ..options }
}
