//! The files that `cargo xtask install` puts in place, judged by systemd's own tools.

use postern_agent::config::Config;
use postern_core::policy::RoleKind;
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
fn the_default_configuration_says_what_posternd_understands() {
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
    assert!(
        policy.holds("alice@example.com", RoleKind::Requester) && policy.holds("root@example.com", RoleKind::Admin)
    );
}

#[test]
fn the_empty_trust_file_trusts_nobody() {
    let text = fs::read_to_string(checkout("systemd/allowed_signers")).expect("the trust file");
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
}
