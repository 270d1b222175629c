//! The files that `cargo xtask install` puts in place, judged by systemd's own tools.

use postern_agent::config::Config;
use postern_core::policy::Role;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

const UNITS: [&str; 2] = ["posternd.service", "postern-early.service"];

/// A root with a unit and the programs that it names: systemd asks only whether they are there.
fn root_with(name: &str, unit: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    for (path, text, mode) in [
        (&*format!("usr/lib/systemd/system/{name}"), unit, 0o644),
        ("usr/sbin/posternd", "", 0o755),
        ("bin/kill", "", 0o755),
        ("bin/mkdir", "", 0o755),
    ] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
    }
    root
}

/// What `systemd-analyze verify` has to say; it calls some faults warnings and still succeeds.
fn verify(name: &str, unit: &str) -> String {
    let root = root_with(name, unit);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(format!("--root={}", root.path().display()))
        .arg(name)
        .output()
        .expect("systemd-analyze (cargo xtask setup installs it)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { said } else { format!("failed: {said}") }
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    for name in UNITS {
        let unit = fs::read_to_string(checkout("systemd").join(name)).expect("the unit");
        assert_eq!(verify(name, &unit), "");
        // That it would have found one.
        assert!(verify(name, &unit.replace("UMask=0077", "UMaks=0077")).contains("UMaks"));
        assert!(verify(name, &unit.replace("/usr/sbin/posternd", "/usr/sbin/nothing")).contains("not executable"));
    }
}

#[test]
fn the_units_stay_closed_to_what_posternd_does_not_need() {
    // Exposure by systemd's own count, in tenths of 10. It counts what posternd.service starts with; what it gives up before it serves,
    // which is most of that, `privileges` measures.
    for (name, most) in [("posternd.service", 40), ("postern-early.service", 30)] {
        let root = root_with(name, &fs::read_to_string(checkout("systemd").join(name)).expect("the unit"));
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")])
            .arg(format!("--root={}", root.path().display()))
            .arg(name)
            .output()
            .expect("systemd-analyze");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn user_and_directories_are_made() {
    let root = tempfile::tempdir().expect("a directory");
    let etc = root.path().join("etc");
    fs::create_dir_all(&etc).expect("etc");
    fs::write(etc.join("passwd"), "root:x:0:0::/:/bin/sh\n").expect("passwd");
    fs::write(etc.join("group"), "root:x:0:\n").expect("group");
    for (tool, file) in
        [("systemd-sysusers", "sysusers.d/postern.conf"), ("systemd-tmpfiles", "tmpfiles.d/postern.conf")]
    {
        let mut command = Command::new(tool);
        if tool == "systemd-tmpfiles" {
            command.arg("--create");
        }
        let root = format!("--root={}", root.path().display());
        let output = command.arg(root).arg(checkout("systemd").join(file)).output().expect("one of systemd's tools");
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for file in ["passwd", "group"] {
        let text = fs::read_to_string(etc.join(file)).expect("a list");
        assert!(text.contains("\npostern:"), "{text}");
    }
    let mode =
        |path: &str| fs::metadata(root.path().join(path)).expect("made by tmpfiles").permissions().mode() & 0o777;
    assert_eq!((mode("etc/postern"), mode("var/lib/postern"), mode("run/postern")), (0o755, 0o700, 0o750));
}

#[test]
fn posternd_accepts_the_default_configuration() {
    let text = fs::read_to_string(checkout("systemd/postern.toml")).expect("the configuration");
    let protected = |text: &str| Config::parse(text).map(|config| config.policy().protected().collect::<Vec<_>>());
    assert_eq!(protected(&text), Ok(vec![(6, 22)]));
    // Each setting that is commented out is one that may be put in.
    let (settings, roles) = text.split_once("# Who may do what").expect("the part about roles");
    let lines: Vec<&str> = settings.lines().collect();
    let is_setting = |line: &str| line.strip_prefix("# ").is_some_and(|rest| rest.split(' ').nth(1) == Some("="));
    let commented: Vec<usize> = (0..lines.len()).filter(|&at| is_setting(lines[at])).collect();
    assert!(commented.len() > 12, "{commented:?}");
    for at in commented {
        let mut with: Vec<&str> = lines.clone();
        with[at] = lines[at].trim_start_matches("# ");
        assert_eq!(protected(&with.join("\n")), Ok(vec![(6, 22)]), "{}", lines[at]);
    }
    let (_, example) = roles.split_once("Examples:\n").expect("examples of roles");
    let example: Vec<&str> = example.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
    let policy = Config::parse(&format!("{settings}\n{}", example.join("\n"))).expect("roles").policy();
    assert!(policy.holds("alice@example.com", Role::Requester) && policy.holds("root@example.com", Role::Admin));
}

#[test]
fn the_empty_trust_file_trusts_no_key() {
    let text = fs::read_to_string(checkout("systemd/allowed_signers")).expect("the trust file");
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
}

/// Where `/var` may come from: a name, the line of fstab, the line of crypttab.
const VAR: [(&str, &str, &str); 8] = [
    ("the root file system", "", ""),
    ("a partition", "/dev/vdb1 /var ext4 defaults 0 2", ""),
    ("NFS", "server:/export /var nfs defaults,_netdev 0 0", ""),
    ("NFS on demand", "server:/export /var nfs x-systemd.automount,_netdev 0 0", ""),
    ("NFS below it", "server:/export /var/lib nfs defaults 0 0", ""),
    ("iSCSI", "/dev/sdb1 /var ext4 defaults,_netdev 0 2", ""),
    ("an encrypted partition", "/dev/mapper/var /var ext4 defaults 0 2", "var /dev/vdb2 none luks"),
    ("an encrypted iSCSI", "/dev/mapper/var /var ext4 defaults,_netdev 0 2", "var /dev/sdb2 none luks,_netdev"),
];

/// systemd's own units and our two, with what its generators make of `fstab` and `crypttab`, and a program that configures the network.
fn boot_tree(units: &[(&str, String)], fstab: &str, crypttab: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let system = root.path().join("usr/lib/systemd/system");
    // Where units of an administrator are: with a root of its own, systemd-analyze passes over the generated ones.
    let generated = root.path().join("etc/systemd/system");
    for folder in [system.parent().expect("a folder"), &generated] {
        fs::create_dir_all(folder).expect("a directory");
    }
    let mut copy = Command::new("cp");
    let copied = copy.arg("-a").arg("/lib/systemd/system").arg(&system).status().expect("cp");
    assert!(copied.success(), "cp: {copied}");
    // A unit of systemd's own for containers makes a cycle by itself where /var is on the network.
    let _where_it_is_installed = fs::remove_file(system.join("var-lib-machines.mount"));
    let link = |target: &str, unit: &str| {
        let wants = system.join(format!("{target}.wants"));
        fs::create_dir_all(&wants).expect("a directory");
        let _of_the_package = fs::remove_file(wants.join(unit));
        std::os::unix::fs::symlink(Path::new("..").join(unit), wants.join(unit)).expect("a link");
    };
    for (name, text) in units {
        fs::write(system.join(name), text).expect("a unit");
        link("sysinit.target", name);
    }
    link("multi-user.target", "systemd-networkd.service");
    link("multi-user.target", "remote-fs.target");
    for (generator, variable, text) in [
        ("systemd-fstab-generator", "SYSTEMD_FSTAB", fstab),
        ("systemd-cryptsetup-generator", "SYSTEMD_CRYPTTAB", crypttab),
    ] {
        let table = root.path().join(variable);
        fs::write(&table, format!("{text}\n")).expect("a table");
        let mut command = Command::new(Path::new("/lib/systemd/system-generators").join(generator));
        let made = command.args([&generated; 3]).env(variable, &table).status().expect("one of systemd's generators");
        assert!(made.success(), "{generator}: {made}");
    }
    root
}

/// The cycles that systemd finds in a whole boot.
fn cycles(root: &Path) -> Vec<String> {
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", &format!("--root={}", root.display()), "multi-user.target"])
        .output()
        .expect("systemd-analyze");
    // Programs that this root lacks are named too.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().filter(|line| line.contains("cycle")).map(str::to_owned).collect()
}

#[test]
fn wherever_var_comes_from_the_boot_has_no_ordering_cycle() {
    let units: Vec<(&str, String)> = UNITS
        .iter()
        .map(|name| (*name, fs::read_to_string(checkout("systemd").join(name)).expect("the unit")))
        .collect();
    // Two ways back: posternd before the network, and the early unit after the journal's files in /var.
    let with = |from: &str, to: &str| -> Vec<(&str, String)> {
        units.iter().map(|(name, text)| (*name, text.replace(from, to))).collect()
    };
    let wrong = [
        with("Before=shutdown.target", "Before=network-pre.target shutdown.target"),
        with(
            "After=local-fs.target systemd-sysctl",
            "After=local-fs.target systemd-tmpfiles-setup.service systemd-sysctl",
        ),
    ];
    for (name, fstab, crypttab) in VAR {
        let tree = boot_tree(&units, fstab, crypttab);
        assert_eq!(cycles(tree.path()), Vec::<String>::new(), "/var on {name}");
        // That it would have found one.
        let on_the_network = fstab.contains("nfs") || fstab.contains("_netdev");
        let under_var = !fstab.contains("/var/lib");
        for (units, expected) in wrong.iter().zip([on_the_network, on_the_network && under_var]) {
            let tree = boot_tree(units, fstab, crypttab);
            assert_eq!(!cycles(tree.path()).is_empty(), expected, "/var on {name}");
        }
    }
}

#[test]
fn the_ports_are_closed_before_the_network_whatever_posternd_waits_for() {
    let early = fs::read_to_string(checkout("systemd/postern-early.service")).expect("the unit");
    let words = |text: &str, key: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    assert!(words(&early, "Before").contains(&"network-pre.target".to_owned()), "{early}");
    assert!(words(&early, "Wants").contains(&"network-pre.target".to_owned()), "{early}");
    for key in ["Requires", "RequiresMountsFor", "BindsTo", "Requisite", "StateDirectory"] {
        assert_eq!(words(&early, key), Vec::<String>::new(), "{key}: it needs nothing that may be missing");
    }
    let posternd = fs::read_to_string(checkout("systemd/posternd.service")).expect("the unit");
    assert!(words(&posternd, "After").contains(&"postern-early.service".to_owned()));
    for text in [&early, &posternd] {
        assert!(words(text, "After").contains(&"systemd-sysctl.service".to_owned()), "{text}");
    }
}
