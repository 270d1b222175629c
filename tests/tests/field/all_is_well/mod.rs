//! The status never says that all is well while a promise does not hold: every condition, one after the other, brought about for
//! real, told in every view, and gone with its cause.
//!
//! [`scene`] has no arm for a condition that somebody adds: then this does not compile. A scene that does not bring about what
//! [`scene`] says fails.

mod files;

use std::process::Command;

use postern_core::condition::Condition::{self, *};
use postern_tests::bpf;
use postern_tests::cgroup::Cgroup;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern, ROLES, port};
use postern_tests::probe;
use postern_tests::service::Service;
use postern_tests::strace::{Fault, Scope};
use postern_tests::until::{find, until};

/// What brings a condition about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    NoProgram,
    NoOption,
    NoNetlink,
    NoSystemCall,
    RefusedChange,
    Files,
    Bare,
    Mode,
    NoBpffs,
    PrivateBpffs,
    Part,
    Beside,
    Device,
    Tunnel,
    Sessions,
    FullDisk,
    SlowDisk,
    Journal,
    Journald,
    State,
    RetainedSession,
    Socket,
    Tls,
    HostKey,
    Settings,
    User,
    /// Cannot be brought about here; why is said at the arm.
    Elsewhere,
}

const fn scene(condition: Condition) -> Scene {
    match condition {
        Open | LockLost | CutLost | TunnelsUnknown | OwnAddresses | SynRate | DeniedUnnoted => Scene::NoProgram,
        BootstrapIncomplete | ApiAddress => Scene::NoOption,
        DevicesUnfollowed => Scene::NoNetlink,
        ClockUnwatched | ClockUntrusted | SystemCalls => Scene::NoSystemCall,
        KernelRefused | ReloadFailed => Scene::RefusedChange,
        Configuration | TrustFile | RevokedKeys | NoWayIn | PolicyRefused => Scene::Files,
        RestartNeeded => Scene::Bare,
        Observing | OnTrial => Scene::Mode,
        NotPinned | PinDirectory => Scene::NoBpffs,
        PinsNotLasting => Scene::PrivateBpffs,
        CgroupPart => Scene::Part,
        OtherLookup => Scene::Beside,
        XdpLost => Scene::Device,
        KernelTunnel => Scene::Tunnel,
        SessionsNotEnded | SessionsNotKept => Scene::Sessions,
        JournalUnwritten | ModeUnrecorded => Scene::FullDisk,
        DiskSlow => Scene::SlowDisk,
        JournalDamaged | JournalAside | SnapshotPassedOver | SnapshotUnwritten => Scene::Journal,
        JournaldLost => Scene::Journald,
        StateDirectory => Scene::State,
        CopiesNotKept => Scene::RetainedSession,
        UnixSocket => Scene::Socket,
        ApiTls => Scene::Tls,
        HostKeys => Scene::HostKey,
        SynCookies | ReservedPorts => Scene::Settings,
        Privileges => Scene::User,
        // Linux before 5.19 with MPTCP: no kernel that the tests boot. The two halves are asked for each by itself:
        // `Enforcer::judges_subflows` and `sysctl::unjudged_subflows`.
        SubflowsUnjudged => Scene::Elsewhere,
        // A terminal whose file posternd may not write to takes a real sshd, a login record and a service without the group tty:
        // `service.rs` has these, and the agent's `terminals::tests` the refusal.
        TerminalsSilent => Scene::Elsewhere,
        // A kernel that shows no direction of MPTCP, or has no memory for a map: no kernel that the tests boot.
        OwnConnections => Scene::Elsewhere,
    }
}

/// What a scene has to bring about.
fn of(wanted: Scene) -> impl Iterator<Item = Condition> {
    Condition::ALL.iter().copied().filter(move |condition| scene(*condition) == wanted)
}

/// A host and its posternd.
struct Host {
    postern: Postern,
    net: Net,
}

impl Host {
    fn new(options: Options) -> Self {
        let net = Net::pair();
        Self { postern: Postern::start(&net.server, options), net }
    }

    fn prepared(options: Options) -> Self {
        let net = Net::pair();
        Self { postern: Postern::prepared(&net.server, options), net }
    }

    fn has(&self, condition: Condition) -> bool {
        self.postern.client().conditions().expect("root is answered").iter().any(|code| code == condition.code())
    }

    /// What root types on the host.
    fn types(&self, words: &[&str]) -> Run {
        let socket = format!("unix://{}", self.postern.socket().display());
        Laptop::new(&self.net.server, &self.postern).run(&[words, &[&socket]].concat())
    }

    /// The condition is in the status, and nothing that shows the status says that all is well.
    fn tells(&self, condition: Condition) {
        let code = condition.code();
        until(code, || self.has(condition));
        let (text, json) = (self.types(&["status"]), self.types(&["status", "--json"]));
        assert!(text.code == Some(8) && text.out.contains(code), "{code}: {}{}", text.out, text.err);
        assert!(!text.out.contains("all is well"), "{code}: {}", text.out);
        let value = json.json();
        let all = value["conditions"].as_array().expect("conditions");
        let said = all.iter().find(|one| one["code"] == code).expect("it")["detail"].as_str().expect("words");
        assert!(json.code == Some(8) && !said.is_empty() && json.error()["kind"] == "degraded", "{code}: {}", json.err);
    }

    fn tells_all(&self, wanted: Scene) {
        of(wanted).for_each(|condition| self.tells(condition));
    }

    fn forgets(&self, condition: Condition) {
        until(&format!("the end of {}", condition.code()), || !self.has(condition));
    }

    /// Nothing is wrong any more, and that is said.
    fn is_well(&self) {
        let left = || self.postern.client().status().expect("root is answered").conditions;
        find(|| match left() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("not all is well: {left:?}")),
        });
        let shown = self.types(&["status"]);
        assert!(shown.code == Some(0) && shown.out.contains("all is well"), "{}{}", shown.out, shown.err);
    }

    /// Starts posternd anew with these options.
    fn restart(&mut self, options: &Options) {
        if self.postern.is_running() {
            self.postern.kill();
        }
        self.postern.configure(options);
        self.postern.launch();
    }

    fn reload(&self, options: &Options) {
        self.postern.configure(options);
        self.postern.reload();
    }

    fn grant(&self, seconds: u64) -> String {
        self.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], seconds).expect("a grant").id
    }
}

fn plain() -> Options {
    Options::without_xdp()
}

fn with(extra: &str) -> Options {
    Options { extra: extra.to_owned(), ..plain() }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect(program);
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn a_kernel_that_refuses_every_program() {
    let mut host = Host::prepared(plain());
    assert_eq!(host.postern.launch_with(&[Fault::fail("bpf", "ENOMEM")]), None, "posternd goes on");
    host.tells_all(Scene::NoProgram);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn a_kernel_that_does_not_list_sockets() {
    let mut host = Host::prepared(plain());
    assert_eq!(host.postern.launch_with(&[Fault::fail("setsockopt", "ENOBUFS")]), None, "posternd goes on");
    host.tells_all(Scene::NoOption);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn a_kernel_that_does_not_list_devices() {
    let mut host = Host::prepared(plain());
    assert_eq!(host.postern.launch_with(&[Fault::fail("sendto", "ENOBUFS")]), None, "posternd goes on");
    host.tells_all(Scene::NoNetlink);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn a_kernel_without_some_system_calls() {
    let mut host = Host::prepared(Options { clock: "challenge".to_owned(), ..plain() });
    let faults =
        [("timerfd_create", "EINVAL"), ("seccomp", "EINVAL"), ("adjtimex", "EPERM"), ("clock_adjtime", "EPERM")];
    let faults = faults.map(|(call, error)| Fault::fail(call, error));
    assert_eq!(host.postern.launch_with(&faults), None, "posternd goes on");
    host.tells_all(Scene::NoSystemCall);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn a_kernel_that_refuses_a_change() {
    let host = Host::new(plain());
    let grant = host.grant(600);
    let tracer = host.postern.trace(Scope::Thread("engine"), &[Fault::fail("bpf", "ENOMEM")]);
    let _refused = host.postern.revoke(&grant);
    host.tells(KernelRefused);
    host.reload(&Options { rules: [port(22, "any"), ROLES.to_owned()].concat(), ..plain() });
    host.tells_all(Scene::RefusedChange);
    drop(tracer);
    host.forgets(KernelRefused);
    host.reload(&plain());
    host.is_well();
}

#[test]
fn observing_and_on_trial() {
    let host = Host::new(with("mode = \"observe\""));
    host.tells(Observing);
    assert_eq!(host.types(&["enable"]).code, Some(0));
    host.tells(OnTrial);
    assert!(!host.has(Observing));
    host.postern.configure(&plain());
    assert_eq!(host.types(&["confirm", "--without-proof"]).code, Some(0));
    host.is_well();
}

#[test]
fn the_bpf_file_system_goes_and_comes() {
    let folder = tempfile::tempdir().expect("a directory");
    let place = folder.path().display().to_string();
    let mount = || run("mount", &["-t", "bpf", "-o", "mode=0700", "bpf", &place]);
    mount();
    let net = Net::pair();
    let postern = Postern::start_pinned(&net.server, plain(), folder.path().join("postern"));
    let host = Host { postern, net };
    host.is_well();
    run("umount", &["--lazy", &place]);
    host.tells_all(Scene::NoBpffs);
    mount();
    host.is_well();
    drop(host);
    run("umount", &["--lazy", &place]);
}

#[test]
fn a_bpf_file_system_of_posternds_own() {
    let private = ["--mount", "--propagation", "private"];
    let host = Host::new(Options::within(&private, "mount -t bpf bpf /sys/fs/bpf"));
    host.tells_all(Scene::PrivateBpffs);
    // Below it the host's appears, in which posternd pins anew.
    let process = host.postern.pid().to_string();
    run("nsenter", &["--target", &process, "--mount", "umount", "--lazy", "/sys/fs/bpf"]);
    host.is_well();
}

#[test]
fn a_part_of_the_cgroups() {
    let cgroup = Cgroup::new();
    let mut host = Host::new(with(&cgroup.line()));
    host.tells_all(Scene::Part);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn another_program_beside_the_lock() {
    let host = Host::new(plain());
    let listener = host.net.server.run(|| std::net::TcpListener::bind((SERVER.v4, 22)).expect("a listener"));
    let other = host.net.server.run(|| bpf::hijack(&listener, 22)).expect("another program");
    host.tells_all(Scene::Beside);
    drop(other);
    host.is_well();
}

#[test]
fn a_prefilter_that_would_do_harm() {
    let host = Host::new(Options { xdp: "{ interfaces = [\"eth0\"], mode = \"native\" }".to_owned(), ..plain() });
    host.is_well();
    host.net.server.ip("link add br0 type bridge\nlink set eth0 master br0");
    host.tells_all(Scene::Device);
    host.net.server.ip("link set eth0 nomaster");
    host.is_well();
}

#[test]
fn a_kernel_tunnel_on_a_protected_port() {
    let host = Host::new(plain());
    let (own, peer) = (SERVER.v4, GRANTED.v4);
    host.net
        .server
        .ip(&format!("link add vx0 type vxlan id 7 dstport 3389 local {own} remote {peer} dev eth0\nlink set vx0 up"));
    host.tells_all(Scene::Tunnel);
    host.net.server.ip("link del vx0");
    host.is_well();
}

#[test]
fn sessions_that_cannot_be_found() {
    let rules = [port(22, "any").replace("\"cut\"", "\"drain 10m\""), ROLES.to_owned()].concat();
    let host = Host::new(Options { rules, ..plain() });
    let _service = Service::tcp_echo(&host.net.server, (SERVER.v4, 22).into());
    let session = || probe::connect(&host.net.client, GRANTED.v4, (SERVER.v4, 22).into()).expect("a session");
    let (short, long) = (host.grant(3), session());
    let tracer = host.postern.trace(Scope::Thread("engine"), &[Fault::fail("setsockopt", "ENOBUFS")]);
    host.tells(SessionsNotKept);
    host.tells(SessionsNotEnded);
    assert_eq!(of(Scene::Sessions).count(), 2);
    drop((tracer, short, long));
    // The next sessions are kept, and ended.
    let (short, _session) = (host.grant(3), session());
    host.forgets(SessionsNotKept);
    let _ended = host.postern.revoke(&short);
    host.is_well();
}

#[test]
fn settings_of_the_kernel() {
    let host = Host::new(plain());
    host.net.server.sysctl("net/ipv4/tcp_syncookies", "0");
    host.tells(SynCookies);
    host.net.server.sysctl("net/ipv4/tcp_syncookies", "1");
    host.is_well();
    // Where posternd may write the setting, as above, there is no such condition.
    let private = ["--mount", "--propagation", "private"];
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys";
    let fixed = Host::new(Options::within(&private, read_only));
    fixed.tells(ReservedPorts);
    assert_eq!(of(Scene::Settings).count(), 2);
}

#[test]
fn a_user_that_is_none() {
    let mut host = Host::new(Options { user: "nobody-of-this-name".to_owned(), ..plain() });
    host.tells_all(Scene::User);
    assert!(host.postern.stop().success());
    host.postern.configure(&plain());
    host.postern.launch();
    host.is_well();
}

#[test]
fn few_conditions_are_covered_by_other_tests() {
    let told: Vec<_> = of(Scene::Elsewhere).collect();
    assert_eq!(told, [SubflowsUnjudged, OwnConnections, TerminalsSilent], "each with a reason at its arm");
}
