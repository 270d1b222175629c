//! The engine of posternd on the real kernel, with clocks that a test may set.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use postern_agent::config::Config;
use postern_agent::config::effective::RootFiles;
use postern_agent::enforcer;
use postern_agent::engine::{self, Engine, GrantView, HostState, Rules, Setup, SignedBytes, WATCH_BACKLOG};
use postern_agent::journal::Journal;
use postern_agent::sandbox::privilege::Confinement;
use postern_agent::system::clock::{Clock, Clocks};
use postern_agent::system::surroundings::Surroundings;
use postern_core::message::Identity;
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::State;
use postern_core::time::BootNanos;
use postern_core::trust::Trust;
use postern_core::wall::ClockState;
use postern_proto::v1::SignedMessage;
use postern_tests::clock::boot_ns;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

const S: i64 = 1_000_000_000;

/// What differs from the real clocks.
#[derive(Clone, Copy)]
pub struct Differences {
    /// The boot clock, in seconds; the kernel's programs do not share it.
    pub boot: i64,
    /// The wall clock, in seconds.
    pub wall: i64,
    /// By how many millionths the wall clock runs faster, since the test began.
    pub ppm: i64,
    /// As the kernel would say it.
    pub max_error: Option<u64>,
}

/// Clocks that a test may set.
#[derive(Clone)]
pub struct Fake {
    began: Instant,
    differences: Arc<Mutex<Differences>>,
}

impl Fake {
    /// The real ones, which somebody synchronises.
    pub fn new() -> Self {
        let differences = Differences { boot: 0, wall: 0, ppm: 0, max_error: Some(1000) };
        Self { began: Instant::now(), differences: Arc::new(Mutex::new(differences)) }
    }

    pub fn change(&self, change: impl FnOnce(&mut Differences)) {
        change(&mut self.differences.lock().expect("no panic"));
    }

    /// Sets the wall clock, as `date -s` or a daemon does: the kernel forgets that it was synchronised.
    pub fn step(&self, seconds: i64) {
        self.change(|d| (d.wall, d.max_error) = (d.wall + seconds, None));
    }

    fn now(&self) -> Differences {
        *self.differences.lock().expect("no panic")
    }
}

impl Clocks for Fake {
    fn boot(&self) -> BootNanos {
        BootNanos(boot_ns().saturating_add_signed(self.now().boot * S))
    }

    fn wall(&self) -> Timestamp {
        let Differences { wall, ppm, .. } = self.now();
        let drift = i64::try_from(self.began.elapsed().as_nanos()).expect("a short test") / 1_000_000 * ppm;
        Timestamp::now() + SignedDuration::from_secs(wall) + SignedDuration::from_nanos(drift)
    }

    fn max_error(&self) -> Option<u64> {
        self.now().max_error
    }
}

/// A host with an engine and an echo on port 22.
pub struct Host {
    pub net: Net,
    pub clocks: Fake,
    postern: Postern,
    runtime: Runtime,
    running: Option<(Engine, JoinHandle<()>)>,
    boot: u8,
    _service: Service,
}

impl Host {
    /// Started for the first time. `unsynchronised` as in the configuration.
    pub fn start(clocks: Fake, unsynchronised: &str) -> Self {
        let net = Net::pair();
        let options = Options { clock: unsynchronised.to_owned(), ..Options::without_xdp() };
        let postern = Postern::prepared(&net.server, options);
        std::fs::create_dir_all(postern.file("state")).expect("the state directory");
        let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        let runtime = Runtime::new().expect("a runtime");
        let mut this = Self { net, clocks, postern, runtime, running: None, boot: 1, _service: service };
        this.launch();
        this
    }

    fn launch(&mut self) {
        let config = Config::load(&self.postern.config()).expect("the configuration");
        let signers = std::fs::read_to_string(self.postern.file("allowed_signers")).expect("the trust file");
        let trust = Trust::parse(&signers, &[]).expect("the trust file");
        let boot_id = format!("00000000-0000-0000-0000-{:012}", self.boot).parse().expect("a boot id");
        let host_id = "00000000-0000-0000-0000-00000000abcd".parse().expect("a host id");
        let confinement = Confinement::of(&self.postern.config(), &config);
        let setup = Setup {
            opened: Journal::open(&config.state_dir, config.journal).expect("the journal"),
            clock: Clock::with(Box::new(self.clocks.clone()), boot_id, config.clock.unsynchronised),
            identity: Identity { host_id, names: vec![AUDIENCE.to_owned()], host_keys: Vec::new(), tls_key: None },
            rules: Rules { policy: config.policy().into(), trust: trust.into(), digest: "".into() },
            secret: [self.boot; 32],
            enforcer: enforcer::Settings {
                pin_dir: config.pin_dir.clone(),
                pins: None,
                cgroup: None,
                grants: 1000,
                flows: 100,
                slots: 100,
            },
            xdp: config.xdp.clone(),
            surroundings: Surroundings::open(&config.pin_dir),
            config_file: self.postern.config(),
            files: RootFiles::own(&self.postern.config()),
            confine: Box::new(move |loads, in_force| confinement.with_loading(loads).apply(in_force)),
            rates: config.limits.rates,
            lines: broadcast::channel(WATCH_BACKLOG).0,
        };
        // What is given up is given up for that thread and those that it starts.
        let started = self.net.server.run(|| engine::start(setup));
        let (engine, thread, _denied) = started.expect("the engine");
        self.running = Some((engine, thread));
    }

    /// Stops and starts again, on the same boot.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    /// Stops and starts again, on another boot that has lasted for `seconds`. The kernel has not booted: what is pinned stays.
    pub fn reboot(&mut self, seconds: u64) {
        self.stop();
        self.boot += 1;
        let up = i64::try_from(boot_ns()).expect("a boot clock") / S;
        self.clocks.change(|d| d.boot = i64::try_from(seconds).expect("seconds") - up);
        self.launch();
    }

    fn stop(&mut self) {
        let (engine, thread) = self.running.take().expect("a running engine");
        self.runtime.block_on(engine.stop());
        thread.join().expect("its end");
    }

    pub fn engine(&self) -> &Engine {
        &self.running.as_ref().expect("a running engine").0
    }

    pub fn challenge(&self) -> String {
        self.engine().who_am_i().challenge
    }

    /// A right request for ten minutes by the host's clock.
    pub fn wish(&self, challenge: &str) -> Access {
        Access {
            not_after: self.after(120),
            challenge: challenge.to_owned(),
            ..Access::new(AUDIENCE, &["22/tcp"], &[GRANTED.v4.into()], 600)
        }
    }

    /// So many seconds from now by the host's wall clock.
    pub fn after(&self, seconds: i64) -> String {
        (self.clocks.wall() + SignedDuration::from_secs(seconds)).to_string()
    }

    pub fn ask(&self, access: &Access) -> Result<GrantView, Refusal> {
        self.show(access.seal(&self.postern.alice))
    }

    /// Shows a message that was signed before.
    pub fn show(&self, message: SignedMessage) -> Result<GrantView, Refusal> {
        let SignedMessage { payload, payload_type, signatures } = message;
        let signatures = signatures.into_iter().map(|signature| signature.sshsig).collect();
        self.runtime.block_on(self.engine().request(SignedBytes { payload, payload_type, signatures }))
    }

    pub fn seal(&self, access: &Access) -> SignedMessage {
        access.seal(&self.postern.alice)
    }

    pub fn refusal(&self, access: &Access) -> Option<Reason> {
        self.ask(access).err().map(|refusal| refusal.reason)
    }

    pub fn status(&self) -> HostState {
        self.runtime.block_on(self.engine().status(&engine::Reader::Root)).expect("the status")
    }

    /// Has the engine look, as the kernel's news do, and waits until it has.
    pub fn look(&self) -> ClockState {
        self.engine().clock_changed();
        self.runtime.block_on(self.engine().alive()).expect("the worker");
        self.status().clock.state
    }

    pub fn grant(&self, id: &str) -> GrantView {
        let id = id.parse().expect("an id");
        self.runtime.block_on(self.engine().get(&engine::Reader::Root, id)).expect("the grant")
    }

    /// Waits until the grant is in this state.
    pub fn wait_for(&self, id: &str, state: State) {
        postern_tests::find(|| match self.grant(id).state {
            now if now == state => Ok(()),
            now => Err(format!("{id} is {now:?}, not {state:?}")),
        });
    }

    /// Whether a packet from the granted address reaches the socket.
    pub fn is_open(&self) -> bool {
        let to = SocketAddr::new(SERVER.v4.into(), 22);
        probe::tcp(&self.net.client, GRANTED.v4, to) == Outcome::Answered
    }

    /// The states on record, in their order.
    pub fn recorded(&self) -> Vec<String> {
        let lines = self.postern.on_disk();
        let clocks = lines.iter().filter(|line| line["event"] == "clock");
        clocks.map(|line| line["state"].as_str().expect("a state").to_owned()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some((engine, thread)) = self.running.take() {
            self.runtime.block_on(engine.stop());
            let _ = thread.join();
        }
    }
}
