//! Proofs by a directory of keys from the real `ssh-keygen`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::prover::{Found, Prover, files};
use super::*;

fn keygen(dir: &Path, file: &str, arguments: &[&str]) {
    let _ = fs::remove_file(dir.join(file));
    let status = Command::new("ssh-keygen").args(["-q", "-f"]).arg(dir.join(file)).args(arguments).status();
    assert!(status.unwrap().success());
}

fn kinds(found: &Found) -> Vec<String> {
    found.proofs.iter().map(|proof| postern_core::ssh::wire::type_of(&proof.blob()).unwrap().to_owned()).collect()
}

#[test]
fn the_payload_says_who_this_is_and_which_tls_key_is_meant() {
    let names = ["vm1.example.com".to_owned(), "\"quoted\"".to_owned()];
    let said: serde_json::Value = serde_json::from_str(&payload(Uuid::from_u128(7), &names, "SHA256:tls")).unwrap();
    assert_eq!(said["names"][1], "\"quoted\"");
    assert_eq!(said["tlsFingerprint"], "SHA256:tls");
    assert_eq!(said["hostId"], "00000000-0000-0000-0000-000000000007");
}

#[test]
fn each_look_sees_the_files_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ssh");
    let mut prover = Prover::new(&dir, "payload".to_owned());
    assert_eq!(prover.look(), Found::default(), "there is no directory");
    fs::create_dir(&dir).unwrap();
    assert_eq!(prover.look(), Found::default(), "there is no key");
    keygen(&dir, "ssh_host_rsa_key", &["-N", "", "-t", "rsa", "-b", "2048"]);
    keygen(&dir, "ssh_host_ecdsa_key", &["-N", "", "-t", "ecdsa", "-b", "384"]);
    keygen(&dir, "ssh_host_ed25519_key", &["-N", "", "-t", "ed25519"]);
    let found = prover.look();
    assert_eq!(kinds(&found), ["ssh-ed25519", "ecdsa-sha2-nistp384", "ssh-rsa"], "ssh's own order");
    assert!(found.without.is_empty());
    assert_eq!(prover.look(), found, "an unchanged file signs once");
    keygen(&dir, "ssh_host_ed25519_key", &["-N", "", "-t", "ed25519"]);
    let other = prover.look();
    assert_ne!(other.proofs[0].public, found.proofs[0].public);
    assert_eq!(other.proofs[1..], found.proofs[1..]);
    // The same key under another name, and files that are no host keys.
    fs::copy(dir.join("ssh_host_ed25519_key"), dir.join("ssh_host_copy_key")).unwrap();
    fs::copy(dir.join("ssh_host_ed25519_key"), dir.join("ssh_host_ed25519_key.bak")).unwrap();
    fs::copy(dir.join("ssh_host_ed25519_key"), dir.join("id_key")).unwrap();
    assert_eq!(prover.look().proofs.len(), 3);
}

#[test]
fn what_does_not_prove_is_named_with_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut prover = Prover::new(dir, "payload".to_owned());
    keygen(dir, "ssh_host_ecdsa_key", &["-N", "secret", "-t", "ecdsa"]);
    let without = |prover: &mut Prover| {
        let found = prover.look();
        assert!(found.proofs.is_empty());
        found.without.into_iter().map(|one| (one.kind, one.is_fault)).collect::<Vec<_>>()
    };
    assert_eq!(without(&mut prover), [("ecdsa-sha2-nistp256".to_owned(), true)], "a passphrase");
    fs::remove_file(dir.join("ssh_host_ecdsa_key.pub")).unwrap();
    assert_eq!(without(&mut prover), [("ecdsa-sha2".to_owned(), true)], "nobody can tell the curve");
    fs::remove_file(dir.join("ssh_host_ecdsa_key")).unwrap();
    keygen(dir, "ssh_host_x_key", &["-N", "", "-t", "ecdsa", "-b", "521"]);
    fs::remove_file(dir.join("ssh_host_x_key")).unwrap();
    assert_eq!(without(&mut prover), [("ecdsa-sha2-nistp521".to_owned(), false)], "only a public half");
    fs::create_dir(dir.join("ssh_host_x_key")).unwrap();
    fs::write(dir.join("ssh_host_x_key.pub"), "oops").unwrap();
    assert_eq!(without(&mut prover), [(String::new(), true)], "a directory");
}

#[test]
fn a_directory_with_many_files_is_read_in_part() {
    let dir = tempfile::tempdir().unwrap();
    for at in 10..40 {
        fs::write(dir.path().join(format!("ssh_host_{at}_key")), "oops").unwrap();
    }
    keygen(dir.path(), "ssh_host_rsa_key", &["-N", "", "-t", "rsa", "-b", "2048"]);
    assert_eq!(files(dir.path(), "_key").unwrap().len(), prover::MOST);
    assert_eq!(
        kinds(&Prover::new(dir.path(), "payload".to_owned()).look()),
        ["ssh-rsa"],
        "sshd's own names come first"
    );
}
