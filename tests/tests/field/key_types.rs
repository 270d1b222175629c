//! Every type of host key that sshd serves proves the host, and a file that cannot be read is no alarm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_tests::keys::Key;
use postern_tests::until::until;

use super::host_keys_change::Scene;

/// A type of key in one of the formats that ssh-keygen writes: the file's name, and the arguments.
const KINDS: [(&str, &[&str]); 13] = [
    ("ssh_host_ed25519_key", &["-t", "ed25519"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "256"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "384"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "384", "-m", "PEM"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "521"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "521", "-m", "PEM"]),
    ("ssh_host_ecdsa_key", &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"]),
    ("ssh_host_rsa_key", &["-t", "rsa", "-b", "3072"]),
    ("ssh_host_rsa_key", &["-t", "rsa", "-b", "2048", "-m", "PEM"]),
    ("ssh_host_rsa_key", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
];

fn line(key: &Key) -> String {
    format!("vm1.test {}", key.public())
}

#[test]
fn every_type_in_every_format_proves_where_only_its_line_is_known() {
    let scene = Scene::new();
    let _ = scene.new_key("ssh_host_ed25519_key", &["-t", "ed25519"]);
    for (name, arguments) in KINDS {
        let key = scene.new_key(name, arguments);
        scene.knows(&[line(&key)]);
        scene.is_trusted(&format!("{arguments:?}"));
        let other = Key::of_type(scene.laptop.home(), "other", arguments);
        scene.knows(&[line(&other)]);
        let _ = scene.is_refused(&format!("{arguments:?}"), "HAS CHANGED");
        for file in ["other", "other.pub"] {
            fs::remove_file(scene.laptop.home().join(file)).expect("to remove it");
        }
    }
    assert_eq!(scene.wrong(), "");
}

#[test]
fn a_key_with_a_short_number_proves_and_signs() {
    let scene = Scene::new();
    let key = short_key(&scene.keys, "ssh_host_ecdsa_key");
    scene.knows(&[line(&key)]);
    scene.is_trusted("a host key");
    assert_eq!(scene.wrong(), "");
    let person = short_key(scene.laptop.home(), "person");
    trust(&scene, &person);
    for format in ["RFC4716", "PEM", "PKCS8"] {
        converted(&person, format);
        let path = person.path().display().to_string();
        let status = scene.laptop.run(&["status", "vm1.test", "--json", "--key", &path]);
        assert_eq!(status.code, Some(0), "{format}: {}{}", status.out, status.err);
    }
}

#[test]
fn what_cannot_prove_is_named_and_is_no_alarm() {
    let scene = Scene::new();
    let key = scene.new_key("ssh_host_ed25519_key", &["-t", "ed25519"]);
    let other = Key::of_type(scene.laptop.home(), "other", &["-t", "ecdsa"]);
    let path = scene.keys.join("ssh_host_ecdsa_key");
    fs::copy(other.path().with_extension("pub"), path.with_extension("pub")).expect("a copy");
    // posternd must never see the key without its passphrase: it would prove with that key until it ends.
    let aside = scene.keys.join("aside");
    let encrypted = |format: &str| {
        fs::copy(other.path(), &aside).expect("a copy");
        let mut command = Command::new("ssh-keygen");
        let output =
            command.args(["-q", "-p", "-P", "", "-N", "a passphrase", "-m", format, "-f"]).arg(&aside).output();
        assert!(output.expect("ssh-keygen").status.success(), "{format}");
        fs::rename(&aside, &path).expect("to rename it");
    };
    let garbage = "-----BEGIN SOME PRIVATE KEY-----\nAAAA\n-----END SOME PRIVATE KEY-----\n";
    for what in ["RFC4716", "PEM", "PKCS8", garbage, "", "oops"] {
        match what {
            "RFC4716" | "PEM" | "PKCS8" => encrypted(what),
            text => fs::write(&path, text).expect("to write it"),
        }
        until("it is named", || scene.wrong().contains("ssh_host_ecdsa_key"));
        scene.knows(&[line(&other)]);
        let refused = scene.is_refused(what, "ecdsa-sha2-nistp256");
        assert!(!refused.err.contains("HAS CHANGED"), "{what}: an alarm: {}", refused.err);
        scene.knows(&[line(&other), line(&key)]);
        scene.is_trusted(what);
    }
    // Its private half may be in an agent (HostKeyAgent) or elsewhere.
    fs::remove_file(&path).expect("to remove it");
    until("only a public half is no fault", || scene.wrong().is_empty());
    scene.knows(&[line(&other)]);
    let refused = scene.is_refused("only a public half", "ecdsa-sha2-nistp256");
    assert!(!refused.err.contains("HAS CHANGED"), "an alarm: {}", refused.err);
    fs::remove_file(path.with_extension("pub")).expect("to remove it");
    let _ = scene.is_refused("the host has no such key", "HAS CHANGED");
}

#[test]
fn one_of_several_lines_may_be_outdated_as_for_ssh() {
    let scene = Scene::new();
    let ed25519 = scene.new_key("ssh_host_ed25519_key", &["-t", "ed25519"]);
    let ecdsa = scene.new_key("ssh_host_ecdsa_key", &["-t", "ecdsa"]);
    let rsa = scene.new_key("ssh_host_rsa_key", &["-t", "rsa", "-b", "2048"]);
    let old = |name: &str, arguments: &[&str]| line(&Key::of_type(scene.laptop.home(), name, arguments));
    let old_rsa = old("old-rsa", &["-t", "rsa", "-b", "2048"]);
    let old_ecdsa = old("old-ecdsa", &["-t", "ecdsa"]);
    for (what, lines) in [
        ("RSA is outdated", vec![old_rsa.clone(), line(&ed25519)]),
        ("ECDSA is outdated", vec![old_ecdsa.clone(), line(&ed25519), line(&rsa)]),
        ("only ECDSA and an older RSA key", vec![old_rsa.clone(), line(&ecdsa)]),
        ("by its port", vec![format!("[vm1.test]:22,x {}", ecdsa.public())]),
    ] {
        scene.knows(&lines);
        scene.is_trusted(what);
        let known = scene.laptop.home().join(".ssh/known_hosts");
        assert!(
            Command::new("ssh-keygen")
                .args(["-q", "-H", "-f"])
                .arg(&known)
                .output()
                .expect("ssh-keygen")
                .status
                .success()
        );
        if what != "by its port" {
            scene.is_trusted(&format!("{what}, hashed"));
        }
    }
    scene.knows(&[old_ecdsa]);
    let _ = scene.is_refused("ssh would be shown the other ECDSA key", "HAS CHANGED");
}

#[test]
fn authorities_of_every_type_certify_keys_of_every_type() {
    let scene = Scene::new();
    for (at, authority) in
        [&["-t", "rsa", "-b", "3072"][..], &["-t", "ecdsa"], &["-t", "ecdsa", "-b", "521"]].iter().enumerate()
    {
        let authority = Key::of_type(scene.laptop.home(), &format!("authority-{at}"), authority);
        scene.knows(&[format!("@cert-authority *.test {}", authority.public())]);
        for (name, arguments) in [KINDS[1], KINDS[7], KINDS[11]] {
            for (other, _) in KINDS {
                let _ = fs::remove_file(scene.keys.join(format!("{other}-cert.pub")));
            }
            let key = scene.new_key(name, arguments);
            let mut command = Command::new("ssh-keygen");
            command.args(["-q", "-I", "vm1", "-h", "-n", "vm1.test", "-s"]).arg(authority.path());
            assert!(command.arg(key.path().with_extension("pub")).status().expect("ssh-keygen").success());
            scene.is_trusted(&format!("authority {at}, {arguments:?}"));
        }
    }
}

/// Makes P-256 keys until one has a number of 31 bytes or fewer: one in 256.
fn short_key(directory: &Path, name: &str) -> Key {
    loop {
        for file in [name.to_owned(), format!("{name}.pub")] {
            let _ = fs::remove_file(directory.join(file));
        }
        let key = Key::of_type(directory, name, &["-t", "ecdsa"]);
        if secret_length(key.path()) < 32 {
            return key;
        }
    }
}

/// How many bytes the secret number of an ECDSA key in OpenSSH's format takes, without a zero before it.
fn secret_length(file: &Path) -> usize {
    fn string(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (length, rest) = bytes.split_first_chunk::<4>().expect("a length");
        rest.split_at(u32::from_be_bytes(*length) as usize)
    }
    let text = fs::read_to_string(file).expect("a key");
    let encoded: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let bytes = BASE64_STANDARD.decode(encoded).expect("base64");
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0").expect("the format");
    for _ in 0..3 {
        rest = string(rest).1;
    }
    let (_public, rest) = string(&rest[4..]);
    let (secret, _) = string(rest);
    let (_kind, rest) = string(&secret[8..]);
    let (_curve, rest) = string(rest);
    let (_point, rest) = string(rest);
    let number = string(rest).0;
    number.strip_prefix(&[0]).unwrap_or(number).len()
}

fn converted(key: &Key, format: &str) {
    let mut command = Command::new("ssh-keygen");
    let output = command.args(["-q", "-p", "-P", "", "-N", "", "-m", format, "-f"]).arg(key.path()).output();
    assert!(output.expect("ssh-keygen").status.success(), "{format}");
}

/// Has posternd trust a person's key as Alice's.
fn trust(scene: &Scene, key: &Key) {
    let file: PathBuf = scene.postern.file("allowed_signers");
    let text = fs::read_to_string(&file).expect("the trust file");
    let line = format!("alice@example.com namespaces=\"request@postern.v1,read@postern.v1\" {}\n", key.public());
    fs::write(&file, text + &line).expect("the trust file");
    scene.postern.reload();
    let path = key.path().display().to_string();
    until("the key is trusted", || scene.laptop.run(&["status", "vm1.test", "--json", "--key", &path]).code == Some(0));
}
