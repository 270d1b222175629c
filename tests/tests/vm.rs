//! What takes another kernel or a machine of one's own: Debian's 6.1 in an emulator, booted once for all tests here.
//!
//! The scenarios are in `src/bin/guest`; each test here asserts on one of them.

use postern_tests::postern;
use postern_tests::vm::{self, Image, Incoming, Kernel, Machine, Outcome, Report};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// How long the guest may be silent: many times what any of its scenarios takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Programs of this machine that the guest calls.
const PROGRAMS: [&str; 4] = ["ssh-keygen", "ip", "wg", "unshare"];

/// Drivers that a distribution's early boot would load, and the devices under test.
const MODULES: [&str; 36] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "macvlan",
    "veth",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "8021q",
    "bonding",
    "vrf",
    "wireguard",
    "ip_gre",
    "ip6_gre",
    "ipip",
    "sit",
    "vxlan",
    "geneve",
    "fou",
    "bridge",
    "tun",
    "dummy",
    "fw_cfg",
    "vmgenid",
    "crc32c_generic",
    "xfrm_user",
    "xfrm_interface",
    "esp4",
    "esp6",
    "sha512_generic",
    "jitterentropy_rng",
    "drbg",
    "ctr",
    "ghash_generic",
    "gcm",
    "seqiv",
];

fn guest_root(kernel: &Kernel, folder: &Path) -> PathBuf {
    let built =
        [PathBuf::from(env!("CARGO_BIN_EXE_guest")), postern::program(), postern::program().with_file_name("postern")];
    let image = Image::default()
        .folders(&["proc", "sys", "dev", "tmp", "run", "root", "disk", "t", "var/tmp"])
        .file("init", 0o755, include_bytes!("../src/vm/init.sh").as_slice())
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\n")
        .file("etc/hosts", 0o644, "127.0.0.1 localhost\n")
        .file("etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n")
        .file("t/only", 0o644, std::env::var("POSTERN_VM_ONLY").unwrap_or_default())
        .host_program(Path::new("/bin/busybox"))
        .modules(kernel, &MODULES);
    let image = PROGRAMS.iter().fold(image, |image, name| image.host_program(&find(name)));
    built.iter().fold(image, |image, path| image.built(path)).write(folder)
}

fn find(program: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).join(program));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{program} (cargo xtask setup installs it)"))
}

fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk");
    std::fs::File::create(&path).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    let done = Command::new("/sbin/mkfs.ext4").arg("-q").arg(&path).status().expect("mkfs.ext4");
    assert!(done.success(), "mkfs.ext4: {done}");
    path
}

/// What the guest reported; booted once, also where that fails.
fn report() -> &'static Report {
    static REPORT: OnceLock<Option<Report>> = OnceLock::new();
    let told = REPORT.get_or_init(|| std::panic::catch_unwind(run).ok());
    told.as_ref().expect("a machine that boots; the first of these tests says why it did not")
}

/// Two machines that believe to be one: the second comes out of the first one's snapshot and is told that it is another.
const GENERATIONS: [&str; 2] = ["d1e2f3a4-0000-4000-8000-000000000001", "d1e2f3a4-0000-4000-8000-000000000002"];

fn run() -> Report {
    let kernel = Kernel::chosen();
    println!("Linux {}", kernel.release());
    let folder = vm::folder();
    let (root, disk) = (guest_root(&kernel, folder.path()), disk(folder.path()));
    let boot = |generation, incoming: Option<&Incoming>| Machine::start(&kernel, &root, &disk, generation, incoming);
    let (mut machine, mut guest) = boot(GENERATIONS[0], None);
    let (mut report, mut snapshot) = (Report::default(), None);
    let ended = loop {
        match guest.listen(&mut report, PATIENCE) {
            Ok(None) => break Ok(()),
            Ok(Some(words)) if words == "snapshot" => {
                snapshot = Some(machine.snapshot(folder.path()));
                guest.answer("taken");
            }
            Ok(Some(words)) if words == "restore" => {
                drop(machine);
                (machine, guest) = boot(GENERATIONS[1], snapshot.as_ref());
                guest.answer("restored");
            }
            Ok(Some(words)) => break Err(format!("the guest asks for {words:?}")),
            Err(error) => break Err(error),
        }
    };
    if ended.is_err() || report.outcomes.iter().any(|(_, outcome)| *outcome != Outcome::Passed) {
        println!("{ended:?}\n{}", machine.console());
    }
    report
}

/// A boot of its own, with one scenario: on a kernel without IPv6.
#[test]
fn a_host_without_ipv6() {
    if skipped() {
        return;
    }
    let (kernel, folder) = (Kernel::chosen(), vm::folder());
    let (root, disk) = (guest_root(&kernel, folder.path()), disk(folder.path()));
    let (machine, mut guest) = Machine::start_with(&kernel, &root, &disk, GENERATIONS[0], None, "ipv6.disable=1");
    let mut report = Report::default();
    let ended = guest.listen(&mut report, PATIENCE);
    if report.outcome("a_host_without_ipv6") != Some(&Outcome::Passed) {
        panic!("{ended:?} {report:?}\n{}", machine.console());
    }
}

/// Whether this machine cannot run the other one.
fn skipped() -> bool {
    let skipped = cfg!(not(target_arch = "x86_64"));
    if skipped {
        println!("skipped: the virtual machine is an x86-64 one, with Debian's kernel for that");
    }
    skipped
}

fn passed(name: &str) {
    if skipped() {
        return;
    }
    match report().outcome(name) {
        Some(Outcome::Passed) => {}
        Some(Outcome::Failed(why)) => panic!("{why}"),
        None => panic!("the guest never came so far"),
    }
}

/// One test for each scenario of this name.
macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            passed(stringify!($name));
        })*
    };
}

scenarios! {
    a_port_is_closed_granted_and_closed_again
    over_vlan_bond_wireguard_gre_ipip_and_sit
    own_traffic_in_a_vrf_passes_and_strangers_do_not
    a_larger_mtu_loses_nothing_and_bonds_take_their_ports_back
    ipsec_ends_with_the_peers_grant
    time_asleep_counts
    steps_of_the_wall_clock_change_nothing_that_runs
    what_is_pinned_holds_and_is_adopted
    nothing_is_open_after_a_reboot
    out_of_a_snapshot
}
