//! The service as `cargo xtask install` installs it, under a real systemd.
//!
//! Boots this machine's own Debian in a container, over a throw-away layer, with a network of its own. Nothing is
//! downloaded, and nothing outlives the test: mounts are in a private mount namespace, the layer is in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a probe of a booted machine is made of.
struct Probe {
    /// The unit that is enabled.
    enabled: &'static str,
    /// When the probe runs.
    order: &'static str,
    script: &'static str,
}

const WHOLE: Probe = Probe {
    enabled: "posternd.service",
    order: "After=posternd.service network.target",
    script: concat!(
        include_str!("service/lib.sh"),
        include_str!("service/warnings.sh"),
        include_str!("service/probe.sh")
    ),
};

const EARLY: Probe = Probe {
    enabled: "postern-early.service",
    order: "DefaultDependencies=no\nAfter=network-pre.target\nBefore=network.target",
    script: concat!(include_str!("service/lib.sh"), include_str!("service/early.sh")),
};

/// Runs the probe, then switches the machine off. What stands before it says when.
const PROBE_UNIT: &str = "
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash /probe/probe.sh
";

/// systemd mounts bpffs on a machine, and leaves it out in a container; and it has no log of the kernel there. The group is
/// what `cargo xtask install` tells the administrator to make.
const PREPARE_UNIT: &str = "\
[Unit]
DefaultDependencies=no
Before=postern-early.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount -o remount,rw /sys
ExecStart=/bin/mkdir /sys/fs/bpf
ExecStart=/bin/mount -t bpf -o mode=700 bpf /sys/fs/bpf
ExecStart=/bin/mount -o remount,ro /sys
ExecStart=/bin/touch /dev/kmsg
ExecStart=-/bin/mount --bind /kmsg /dev/kmsg
ExecStart=systemd-sysusers
";

const CONFIGURATION: &str = r#"
names = ["vm1.example.com"]
xdp = { interfaces = "auto" }
[[port]]
number = 22
name = "ssh"
warn_before = ["5s"]
[[port]]
number = 2223
[[role]]
name = "requester"
principals = ["alice@example.com"]
"#;

/// In a mount namespace of its own: this machine's root as the lower layer, what was installed on top of it.
/// Arguments: the folder of the test. nspawn wants a terminal, which `script` gives it.
const BOOT: &str = r#"
set -euo pipefail
mkdir "$1/root"
log=; [ ! -e /dev/kmsg ] || log=--bind-ro=/dev/kmsg:/kmsg
mount --bind / "$1/root"
exec script --quiet --return --flush --log-out "$1/console" --command "systemd-nspawn \
  --directory='$1/root' --volatile=overlay --overlay=/usr:'$1/tree/usr':/usr --overlay=/etc:'$1/tree/etc':/etc \
  --bind='$1/probe':/probe --private-network --register=no --keep-unit --machine='$2' --hostname=vm1 \
  $log --capability=CAP_BPF,CAP_PERFMON,CAP_SYSLOG --system-call-filter='bpf seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self' --boot \
  systemd.unit=basic.target systemd.wants=prepare.service systemd.wants=probe.service"
"#;

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `cargo xtask install` of what the tests were built from.
fn install(tree: &Path) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(checkout()).args(["xtask", "install", "--profile", "dev", "--root"]).arg(tree);
    run(&mut command)
}

/// What root would do after the installation, and a key for alice.
fn configure(folder: &Path, tree: &Path, Probe { order, script, .. }: &Probe) {
    let probe = folder.join("probe");
    fs::create_dir(&probe).expect("a folder for the probe");
    let key = probe.join("alice");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f"]).arg(&key));
    let public = fs::read_to_string(key.with_extension("pub")).expect("alice's public key");
    let trust =
        format!("alice@example.com namespaces=\"request@postern.v1,revoke@postern.v1,read@postern.v1\" {public}");
    let unit = format!("[Unit]\n{order}{PROBE_UNIT}");
    for (path, text, mode) in [
        (tree.join("etc/postern/postern.toml"), CONFIGURATION, 0o644),
        (tree.join("etc/postern/allowed_signers"), &trust, 0o644),
        (tree.join("etc/systemd/system/prepare.service"), PREPARE_UNIT, 0o644),
        (tree.join("etc/systemd/system/probe.service"), &unit, 0o644),
        (probe.join("probe.sh"), script, 0o755),
    ] {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
    }
}

#[test]
fn the_installed_service_holds_its_promises_under_systemd() {
    boot(&WHOLE);
}

#[test]
fn the_early_unit_alone_closes_before_any_interface_is_up() {
    boot(&EARLY);
}

fn boot(probe: &Probe) {
    // In memory: a layer on top of this machine's root must not lie in it.
    let folder =
        tempfile::Builder::new().prefix("postern-service-").tempdir_in("/dev/shm").expect("a folder in memory");
    let folder = folder.path();
    let tree = folder.join("tree");
    install(&tree);
    run(Command::new("systemctl").arg(format!("--root={}", tree.display())).args(["enable", probe.enabled]));
    configure(folder, &tree, probe);

    let again = String::from_utf8_lossy(&install(&tree).stdout).into_owned();
    assert!(again.contains("kept      "), "{again}");
    let configuration = fs::read_to_string(tree.join("etc/postern/postern.toml")).expect("the configuration");
    assert_eq!(configuration, CONFIGURATION, "a second installation overwrites no configuration");

    let machine = format!("postern-{}-{}", std::process::id(), probe.script.len());
    let booted = Command::new("timeout")
        .args(["--kill-after=5", "120", "unshare", "--mount", "--propagation=slave", "bash", "-c", BOOT, "boot"])
        .arg(folder)
        .arg(machine)
        .output()
        .expect("unshare and bash");
    let report = fs::read_to_string(folder.join("probe/report")).unwrap_or_default();
    let console = fs::read(folder.join("console")).unwrap_or_default();
    let console = if report.is_empty() { String::from_utf8_lossy(&console) } else { "".into() };
    println!("{report}");
    assert!(report.ends_with("all shown\n"), "{report}{console}{}", String::from_utf8_lossy(&booted.stderr));
}
