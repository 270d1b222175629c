//! A host that only observes, and enforcing on trial: real connections, a real ssh, a posternd that is killed in between.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Output;
use std::time::Duration;

use postern_proto::v1::{
    ConfirmRequest, EnableRequest, ExplainRequest, GrantState, ListDeniedRequest, Mode, RollBackRequest,
};
use postern_tests::client::reason;
use postern_tests::clock::boot_ns;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::ssh::{Session, Sshd};
use postern_tests::{PATIENCE, until};

const OBSERVE: &str = "mode = \"observe\"";
const SECOND: u64 = 1_000_000_000;

struct Lab {
    postern: Postern,
    net: Net,
}

impl Lab {
    fn new(extra: &str) -> Self {
        let net = Net::pair();
        Self { postern: Postern::start(&net.server, options(extra)), net }
    }

    fn mode(&self) -> Mode {
        self.postern.client().status().expect("the status").mode.expect("the mode")
    }

    fn degraded(&self) -> String {
        self.postern.client().details().expect("the status").join("\n")
    }

    /// Whether ssh's port takes a connection from there.
    fn is_open(&self, from: IpAddr) -> bool {
        probe::tcp(&self.net.client, from, SocketAddr::new(SERVER.like(from), 22)) == Outcome::Answered
    }

    /// Whether ssh's port is open to whom nobody knows.
    fn is_open_to_all(&self) -> bool {
        NEIGHBOUR.both().into_iter().any(|from| self.is_open(from))
    }

    /// Whether it is closed to whom nobody knows. Somebody else than above: who had a connection when it closed is let in for a while.
    fn is_closed(&self) -> bool {
        !STRANGER.both().into_iter().any(|from| self.is_open(from))
    }

    /// What root types on the host.
    fn types(&self, words: &[&str]) -> Run {
        let socket = format!("unix://{}", self.postern.socket().display());
        Laptop::new(&self.net.server, &self.postern).run(&[words, &[&socket, "--json"]].concat())
    }

    fn enable(&self, seconds: u64) -> u64 {
        let run = self.types(&["enable", "--confirm-within", &format!("{seconds}s")]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        let records = self.records("enabled");
        records.last().expect("a record")["trial"]["until_boot"].as_u64().expect("an end")
    }

    /// Why a command was refused.
    fn refused(&self, words: &[&str]) -> String {
        let run = self.types(words);
        assert_eq!(run.code, Some(1), "{words:?}: {} {}", run.out, run.err);
        run.error()["reason"].as_str().expect("a reason").to_owned()
    }

    fn records(&self, kind: &str) -> Vec<serde_json::Value> {
        self.postern.on_disk().into_iter().filter(|record| record["event"] == kind).collect()
    }

    fn reload(&self, extra: &str) {
        let before = self.records("policy-loaded").len();
        self.postern.configure(&options(extra));
        self.postern.reload();
        until("the reload", || self.records("policy-loaded").len() > before);
        // The record is first; a call after it is behind its effect.
        let _ = self.mode();
    }

    fn early(&self) -> Output {
        let mut command = self.net.server.command(program());
        command.args(["early", "--config"]).arg(self.postern.config()).output().expect("posternd")
    }

    /// Closed until `end` on the boot clock, then open: whoever the process is that looks, no other does anything.
    fn opens_at(&self, end: u64) {
        loop {
            let open = self.is_open_to_all();
            let now = boot_ns();
            assert!(!open || now >= end, "open {} ms before the end of the trial", (end - now) / 1_000_000);
            if open {
                return;
            }
            assert!(now < end + 20 * SECOND, "it does not open again");
        }
    }
}

fn options(extra: &str) -> Options {
    Options { extra: extra.to_owned(), ..Options::default() }
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn talks(session: &Session) {
    for _ in 0..5 {
        assert!(session.ticks(PATIENCE), "{}", session.errors());
    }
}

#[test]
fn what_would_be_dropped_passes_and_is_counted_for_each_port_and_source() {
    let lab = Lab::new(OBSERVE);
    let services = [22, 3389]
        .map(|port| (Service::tcp_echo(&lab.net.server, any(port)), Service::udp_echo(&lab.net.server, any(port))));
    let (mut wanted, mut tcp, mut udp) = (Vec::new(), 0, 0);
    for (index, from) in [STRANGER.both(), NEIGHBOUR.both()].concat().into_iter().enumerate() {
        for (port, times) in [(22, 1 + index as u64), (3389, 2)] {
            let to = SocketAddr::new(SERVER.like(from), port);
            for _ in 0..times {
                assert_eq!(probe::udp(&lab.net.client, from, to), Outcome::Answered, "{from} {to}");
                assert_eq!(probe::tcp(&lab.net.client, from, to), Outcome::Answered, "{from} {to}");
            }
            (tcp, udp) = (tcp + times, udp + times);
            wanted.extend(["tcp", "udp"].map(|protocol| (from.to_string(), format!("{port}/{protocol}"), times)));
        }
    }
    until("every packet at its service", || {
        let sum = services.iter().fold((0, 0), |(t, u), s| (t + s.0.served(), u + s.1.served()));
        sum == (tcp, udp)
    });
    let denied = || {
        let client = lab.postern.client();
        client.wait(client.host().list_denied(ListDeniedRequest::default())).expect("the denied").into_inner().denied
    };
    let mut seen: Vec<_> = denied().into_iter().map(|k| (k.address, k.port, k.new_flows)).collect();
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted, "every connection and every datagram, and nothing else");
    assert!(denied().iter().all(|k| k.observed && k.count >= k.new_flows && k.last_seen.is_some()), "{:?}", denied());
    let of_udp: u64 = denied().iter().filter(|k| k.port.ends_with("udp")).map(|k| k.count).sum();
    assert_eq!(of_udp, udp, "a datagram counts once, however many layers saw it");

    // Whoever has a grant would not have been dropped.
    lab.postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    assert!(GRANTED.both().into_iter().all(|from| lab.is_open(from)));
    assert!(denied().iter().all(|k| !GRANTED.both().map(|a| a.to_string()).contains(&k.address)));
    let status = lab.postern.client().status().expect("the status");
    let counted = |reason: &str| status.counters.iter().filter(|c| c.reason == reason).map(|c| c.count).sum::<u64>();
    assert!(counted("observed") >= tcp + udp && counted("granted") > 0, "{:?}", status.counters);
    assert_eq!(["no-grant", "expired", "unreadable", "only-established"].map(counted), [0; 4]);

    // It is said wherever somebody looks.
    assert_eq!((&*lab.mode().effective, &*lab.mode().file), ("observe", "observe"));
    assert!(lab.degraded().contains("observe mode"), "{}", lab.degraded());
    let asked = ExplainRequest {
        ports: vec!["22/tcp".to_owned()],
        source: vec![format!("{}/32", STRANGER.v4)],
        ..ExplainRequest::default()
    };
    let said = lab.postern.client().explain(asked).expect("an explanation");
    assert!(said.findings.iter().any(|f| f.contains("only observes")) && !said.denied.is_empty(), "{said:?}");
    let told = Laptop::new(&lab.net.server, &lab.postern);
    let socket = format!("unix://{}", lab.postern.socket().display());
    let (status, denied) = (told.run(&["status", &socket]).out, told.run(&["denied", &socket]).out);
    assert!(status.contains("mode: OBSERVE") && status.contains("DEGRADED"), "{status}");
    assert!(denied.contains("would be dropped, 2 of them new"), "{denied}");
}

#[test]
fn a_trial_closes_and_the_kernel_ends_it_without_the_agent() {
    let mut lab = Lab::new(OBSERVE);
    let sshd = Sshd::start(&lab.net.server);
    let session = sshd.session(&lab.net.client, GRANTED.both()[0], SERVER.both()[0]);
    talks(&session);
    let end = lab.enable(10);
    // Nobody is locked out who sits on the host; everybody else is.
    assert!(lab.is_open(GRANTED.both()[0]) || boot_ns() > end, "bootstrap");
    assert!(lab.is_closed() || boot_ns() > end);
    talks(&session);
    if boot_ns() < end {
        assert_eq!((&*lab.mode().effective, &*lab.mode().by), ("enforce", "root"));
        assert!(lab.mode().until.is_some() && lab.degraded().contains("on trial"), "{:?}", lab.mode());
        assert_eq!(lab.refused(&["enable"]), "ALREADY_ENFORCING");
    }
    // A start in the middle changes nothing about its end, whatever the file says.
    lab.postern.kill();
    assert!(lab.is_closed() || boot_ns() > end, "no agent");
    lab.postern.configure(&options(""));
    lab.postern.launch();
    assert!(lab.is_closed() || boot_ns() > end, "another agent");
    assert_eq!(lab.records("granted").len(), 1, "no second bootstrap");
    lab.postern.kill();
    lab.opens_at(end);
    talks(&session);
    assert_eq!(lab.records("rolled-back").len(), 0, "no agent was there to write");

    // The next start finds it over and says since when. The file says enforce by now, but nobody has asked for it.
    lab.postern.launch();
    assert!(lab.is_open_to_all());
    let [record] = &lab.records("rolled-back")[..] else { panic!("one record") };
    assert_eq!(record["at"], lab.records("enabled")[0]["trial"]["until"]);
    let mode = lab.mode();
    assert_eq!((&*mode.effective, &*mode.file, &*mode.by), ("observe", "enforce", ""));
    assert!(mode.rolled_back.is_some() && mode.until.is_none() && mode.since == mode.rolled_back, "{mode:?}");
    assert!(lab.degraded().contains("nobody confirmed"), "{}", lab.degraded());
    assert_eq!(lab.refused(&["confirm"]), "NO_TRIAL");
    lab.postern.kill();
    lab.postern.launch();
    assert!(lab.is_open_to_all(), "nor does a second start close");
    assert_eq!(lab.records("rolled-back").len(), 1);
    // To ask for it is to read the file anew.
    lab.reload("");
    assert!(lab.is_closed());
    talks(&session);
    assert_eq!((&*lab.mode().effective, lab.mode().rolled_back), ("enforce", None));
    assert_eq!(lab.degraded(), "");
}

#[test]
fn a_trial_is_confirmed_by_a_session_under_a_signed_grant_and_lasts() {
    let mut lab = Lab::new(OBSERVE);
    let sshd = Sshd::start(&lab.net.server);
    let ssh = |from: IpAddr| sshd.session(&lab.net.client, from, SERVER.like(from));
    let first = ssh(GRANTED.both()[0]);
    talks(&first);
    let end = lab.enable(600);
    // The file would open it again at the next start.
    assert_eq!(lab.refused(&["confirm"]), "MODE_NOT_IN_FILE");
    lab.postern.configure(&options("mode = 7"));
    assert_eq!(lab.refused(&["confirm"]), "MODE_NOT_IN_FILE", "a file that cannot be read");
    lab.postern.configure(&options(""));
    // A session that was there proves nothing, nor does one that bootstrap let in.
    assert_eq!(lab.refused(&["confirm"]), "WAY_IN_UNPROVEN");
    let second = ssh(GRANTED.both()[0]);
    talks(&second);
    assert_eq!(lab.refused(&["confirm"]), "WAY_IN_UNPROVEN", "bootstrap");
    // Nor does a grant that nobody uses.
    let grant = lab.postern.grant(&["22/tcp"], &NEIGHBOUR.both(), 600).expect("a grant");
    assert_eq!(lab.refused(&["confirm"]), "WAY_IN_UNPROVEN", "unused");
    let third = ssh(NEIGHBOUR.both()[1]);
    talks(&third);
    let run = lab.types(&["confirm"]);
    assert_eq!((run.code, run.json()["grantId"].as_str()), (Some(0), Some(&*grant.id)), "{}", run.err);
    let [record] = &lab.records("confirmed")[..] else { panic!("one record") };
    assert_eq!((&record["by"], &record["grant"]), (&"root".into(), &(&*grant.id).into()));
    let lasts = |lab: &Lab, when: &str| {
        assert!(lab.is_closed(), "{when}");
        assert_eq!(
            (&*lab.mode().effective, &*lab.mode().file, lab.mode().until),
            ("enforce", "enforce", None),
            "{when}"
        );
        assert_eq!(lab.degraded(), "", "{when}");
    };
    lasts(&lab, "confirmed");
    assert_eq!(lab.postern.client().policy().expect("the policy").mode, "enforce");
    assert_eq!(lab.refused(&["confirm"]), "NO_TRIAL");
    assert_eq!(lab.refused(&["roll-back"]), "NO_TRIAL");
    lab.reload("");
    lasts(&lab, "a reload");
    lab.postern.kill();
    lab.postern.launch();
    lasts(&lab, "SIGKILL");
    assert!(lab.postern.stop().success());
    lab.postern.launch();
    lasts(&lab, "a restart");
    assert!(boot_ns() < end, "all of it within the trial");
    for session in [&first, &second, &third] {
        talks(session);
    }
    assert_eq!(lab.postern.client().get(&grant.id).expect("it").grant.expect("it").state(), GrantState::Active);
}

#[test]
fn a_confirmed_trial_ends_at_no_time_and_one_that_is_rolled_back_ends_at_once() {
    let lab = Lab::new(OBSERVE);
    let _ssh = Service::tcp_echo(&lab.net.server, any(22));
    lab.enable(600);
    assert!(lab.is_closed());
    assert_eq!(lab.types(&["roll-back"]).code, Some(0));
    assert!(lab.is_open_to_all());
    assert_eq!((&*lab.mode().effective, &*lab.mode().by), ("observe", "root"));
    assert_eq!(lab.records("rolled-back")[0]["by"], "root");

    let end = lab.enable(10);
    lab.postern.configure(&options(""));
    assert_eq!(lab.types(&["confirm", "--without-proof"]).code, Some(0));
    assert_eq!(lab.records("confirmed")[0].get("grant"), None);
    until("the trial would be over", || boot_ns() > end + SECOND / 10);
    assert!(lab.is_closed());
    assert_eq!(lab.records("rolled-back").len(), 1);
    // What is already enforced needs no trial, and an hour is no trial.
    assert_eq!(lab.refused(&["enable"]), "ALREADY_ENFORCING");
    lab.reload(OBSERVE);
    assert_eq!(lab.refused(&["enable", "--confirm-within", "61m"]), "DURATION_TOO_LONG");
    assert!(lab.is_open_to_all());
}

#[test]
fn only_root_on_the_host_changes_the_mode() {
    let net = Net::pair();
    let options = Options { plaintext: vec!["127.0.0.1:7323".to_owned()], ..options(OBSERVE) };
    let lab = Lab { postern: Postern::start(&net.server, options), net };
    let unsigned = |outcome: Result<(), tonic::Status>| assert_eq!(reason(&outcome.expect_err("not root")), "UNSIGNED");
    lab.net.server.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let endpoint =
                tonic::transport::Endpoint::from_static("http://127.0.0.1:7323").timeout(Duration::from_secs(20));
            let channel = endpoint.connect().await.expect("the API");
            let mut host = postern_proto::v1::host_service_client::HostServiceClient::new(channel);
            unsigned(host.enable(EnableRequest::default()).await.map(drop));
            unsigned(host.confirm(ConfirmRequest { without_proof: true }).await.map(drop));
            unsigned(host.roll_back(RollBackRequest {}).await.map(drop));
        });
    });
    assert_eq!(lab.mode().effective, "observe");
    assert!(lab.records("enabled").is_empty());
}

#[test]
fn the_file_opens_and_closes_by_reload_and_start_and_the_record_comes_first() {
    let mut lab = Lab::new("");
    let sshd = Sshd::start(&lab.net.server);
    assert!(lab.is_closed());
    lab.reload(OBSERVE);
    assert!(lab.is_open_to_all());
    assert_eq!(lab.records("policy-loaded").last().expect("it")["mode"], "observe");
    assert_eq!(lab.mode().effective, "observe");
    // The end of a grant ends no session here.
    let from = GRANTED.both()[0];
    let grant = lab.postern.grant(&["22/tcp"], &[from], 1).expect("a grant");
    let session = sshd.session(&lab.net.client, from, SERVER.both()[0]);
    until("its end", || {
        lab.postern.client().get(&grant.id).expect("it").grant.expect("it").state() == GrantState::Expired
    });
    talks(&session);
    // Closing meets it, by reload and by start.
    lab.reload("");
    talks(&session);
    assert!(lab.is_closed() && lab.is_open(from));
    for again in 1..=2 {
        lab.postern.kill();
        lab.postern.configure(&options(OBSERVE));
        lab.postern.launch();
        assert!(lab.is_open_to_all());
        lab.postern.kill();
        lab.postern.configure(&options(""));
        assert!(lab.is_open_to_all(), "a dead agent's programs go on observing");
        lab.postern.launch();
        assert!(lab.is_closed(), "{again}");
        talks(&session);
    }
    // Each time it opened that was on record before the start was.
    let records = lab.postern.on_disk();
    let kinds: Vec<_> =
        records.windows(2).filter(|pair| pair[1]["event"] == "started" && pair[1]["mode"] == "observe").collect();
    assert_eq!(kinds.len(), 2);
    assert!(kinds.iter().all(|pair| pair[0]["event"] == "policy-loaded" && pair[0]["mode"] == "observe"), "{kinds:?}");
}

#[test]
fn nothing_is_closed_before_a_host_that_only_observes() {
    let net = Net::pair();
    let _services = [22, 3389].map(|port| Service::tcp_echo(&net.server, any(port)));
    let mut lab = Lab { postern: Postern::prepared(&net.server, options(OBSERVE)), net };
    let early = lab.early();
    assert!(early.status.success() && lab.postern.pinned().is_empty(), "{early:?}");
    assert!(lab.is_open_to_all());
    // Nor for a slip elsewhere in the file, which is told all the same.
    let text = std::fs::read_to_string(lab.postern.config()).expect("the file");
    std::fs::write(lab.postern.config(), format!("nonsense = 1\n{text}")).expect("the file");
    assert_eq!(lab.early().status.code(), Some(78));
    assert!(lab.is_open_to_all());
    lab.postern.configure(&options(OBSERVE));
    lab.postern.launch();
    assert!(lab.is_open_to_all());
    // What a dead agent left goes on as it was; early is for a boot, when there is none of that.
    lab.postern.kill();
    lab.postern.configure(&options(""));
    let early = lab.early();
    assert!(early.status.success() && lab.is_open_to_all(), "{early:?}");
    lab.postern.launch();
    assert!(lab.is_closed());
}

#[test]
fn a_reload_that_would_cut_the_running_api_off_changes_nothing() {
    let lab = Lab::new("");
    let moved = Options {
        tcp: vec!["[::]:7399".to_owned()],
        rules: Options::default().rules + &postern_tests::postern::port(7322, "any"),
        ..Options::default()
    };
    lab.postern.configure(&moved);
    lab.postern.reload();
    until("it is told", || lab.degraded().contains("7322"));
    let to = SocketAddr::new(SERVER.v4.into(), 7322);
    assert!(probe::tcp_answers(&lab.net.client, STRANGER.v4, to), "the API");
    assert_eq!(lab.records("policy-loaded").len(), 0);
}
