//! Keys from the real `ssh-keygen`, in each of its types and formats; ssh-keygen verifies their signatures.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use postern_core::envelope::Signature;
use postern_core::ssh::{armor, dearmor, to_be_signed};

use super::*;
use crate::proof::NAMESPACE;

fn keygen(arguments: &[&str]) {
    let output = Command::new("ssh-keygen").arg("-q").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn make(path: &Path, arguments: &[&str]) {
    let _ = fs::remove_file(path);
    keygen(&[&["-N", "", "-f", path.to_str().unwrap()], arguments].concat());
}

fn signature(key: &PrivateKey, message: &[u8]) -> String {
    armor(&key.public, NAMESPACE, &key.sign(&to_be_signed(NAMESPACE, message)).unwrap())
}

/// Whether the real ssh-keygen accepts the signature by the key in `path`.
fn verifies(path: &Path, message: &[u8], signature: &str) -> bool {
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    let (signers, file) = (path.with_extension("signers"), path.with_extension("sig"));
    fs::write(&signers, format!("vm1 {public}")).unwrap();
    fs::write(&file, signature).unwrap();
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "verify", "-I", "vm1", "-n", NAMESPACE, "-f"]).arg(signers).arg("-s").arg(file);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn every_type_and_format_of_ssh_keygen_signs_what_it_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let kinds: [&[&str]; 6] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "3072"],
    ];
    for kind in kinds {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            make(&path, &[kind, &["-m", format]].concat());
            let key = PrivateKey::parse(&fs::read_to_string(&path).unwrap());
            let key = key.unwrap_or_else(|why| panic!("{kind:?} {format}: {why}"));
            let public = fs::read_to_string(path.with_extension("pub")).unwrap();
            assert_eq!(STANDARD.encode(&key.public), public.split(' ').nth(1).unwrap(), "{kind:?} {format}");
            let made = signature(&key, b"message");
            assert!(verifies(&path, b"message", &made), "{kind:?} {format}");
            assert!(!verifies(&path, b"another", &made), "{kind:?} {format}");
            keygen(&["-p", "-P", "", "-N", "secret", "-m", format, "-f", path.to_str().unwrap()]);
            let locked = PrivateKey::parse(&fs::read_to_string(&path).unwrap()).err();
            assert_eq!(locked, Some(Unusable::Passphrase), "{kind:?} {format}");
        }
    }
}

#[test]
fn a_number_that_takes_fewer_bytes_is_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    // Short numbers are one in 256; ssh-keygen makes about 200 keys in a second.
    for bits in ["256", "384"] {
        for _ in 0..10_000 {
            make(&path, &["-t", "ecdsa", "-b", bits]);
            let text = fs::read_to_string(&path).unwrap();
            if number_of(&text).len() < bits.parse::<usize>().unwrap() / 8 {
                break;
            }
        }
        for format in ["RFC4716", "PEM", "PKCS8"] {
            keygen(&["-p", "-P", "", "-N", "", "-m", format, "-f", path.to_str().unwrap()]);
            let key = PrivateKey::parse(&fs::read_to_string(&path).unwrap());
            let key = key.unwrap_or_else(|why| panic!("{bits} {format}: {why}"));
            assert!(verifies(&path, b"message", &signature(&key, b"message")), "{bits} {format}");
        }
    }
    // P-521 has 521 bits in 66 bytes, so half of the numbers have 65 bytes.
    for _ in 0..8 {
        make(&path, &["-t", "ecdsa", "-b", "521"]);
        let key = PrivateKey::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        assert!(verifies(&path, b"message", &signature(&key, b"message")));
    }
}

fn number_of(text: &str) -> Vec<u8> {
    let body: String = armored(text).unwrap().1.split_whitespace().collect();
    let bytes = STANDARD.decode(body).unwrap();
    let mut rest = Reader::new(bytes.strip_prefix(MAGIC).unwrap());
    for _ in 0..3 {
        rest.string("head").unwrap();
    }
    rest.u32("count").unwrap();
    rest.string("public half").unwrap();
    let mut secret = Reader::new(rest.string("private half").unwrap().get(8..).unwrap());
    for _ in 0..3 {
        secret.string("field").unwrap();
    }
    number(&mut secret).unwrap().to_vec()
}

#[test]
fn signatures_with_short_numbers_verify_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    make(&path, &["-t", "ecdsa"]);
    let key = PrivateKey::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    // r or s takes 31 bytes once in 128 signatures.
    let short = (0..10_000_u32).map(u32::to_be_bytes).find_map(|message| {
        let signature = key.sign(&to_be_signed(NAMESPACE, &message)).unwrap();
        let mut rest = Reader::new(&signature);
        rest.string("name").unwrap();
        let mut value = Reader::new(rest.string("value").unwrap());
        let both = [number(&mut value).unwrap().len(), number(&mut value).unwrap().len()];
        both.iter().any(|length| *length < 32).then_some((message, signature))
    });
    let (message, signature) = short.unwrap();
    assert!(verifies(&path, &message, &armor(&key.public, NAMESPACE, &signature)));
}

/// Whether posternd's own check of signatures accepts the signature.
fn is_taken(key: &PrivateKey, message: &[u8], signature: &[u8]) -> bool {
    let armored = armor(&key.public, NAMESPACE, signature);
    let bytes = dearmor(&armored).unwrap();
    Signature::parse(&bytes).unwrap().verify(message).is_ok()
}

#[test]
fn people_sign_with_short_numbers_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for kind in [&["-t", "ecdsa", "-b", "256"][..], &["-t", "ecdsa", "-b", "384"], &["-t", "rsa", "-b", "3072"]] {
        make(&path, kind);
        let key = PrivateKey::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut short = 0;
        // One in 128 signatures of ECDSA has a short r or s, one in 256 of RSA begins with a zero.
        for message in (0..10_000_u32).map(u32::to_be_bytes) {
            let signature = key.sign(&to_be_signed(NAMESPACE, &message)).unwrap();
            assert!(is_taken(&key, &message, &signature), "{kind:?} {message:?}");
            let mut rest = Reader::new(&signature);
            let name = rest.string("name").unwrap();
            let value = rest.string("name").unwrap();
            if kind[1] == "rsa" {
                // Some ssh-agents omit the zeros.
                let without = without_zeros(value);
                let again = blob(std::str::from_utf8(name).unwrap(), |out| put_string(out, without));
                assert!(is_taken(&key, &message, &again), "{message:?}");
                short += usize::from(without.len() < value.len());
            } else {
                short += usize::from(value.len() < kind[3].parse::<usize>().unwrap() / 8 * 2 + 8);
            }
            if short > 0 {
                break;
            }
        }
        assert!(short > 0, "{kind:?}");
    }
}

#[test]
fn what_is_no_key_is_refused_and_what_is_cut_off_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for (kind, format) in
        [("ed25519", "RFC4716"), ("ecdsa", "RFC4716"), ("ecdsa", "PEM"), ("ecdsa", "PKCS8"), ("rsa", "PEM")]
    {
        make(&path, &["-t", kind, "-m", format]);
        let text = fs::read_to_string(&path).unwrap();
        for length in (0..text.len() - 1).step_by(7) {
            assert!(PrivateKey::parse(&text[..length]).is_err(), "{kind} {format}: {length}");
        }
        // A changed byte is refused or, if nothing depends on the byte, gives the same key.
        let (label, body) = armored(&text).unwrap();
        let bytes = STANDARD.decode(body.split_whitespace().collect::<String>()).unwrap();
        let own = PrivateKey::parse(&text).unwrap().public;
        for at in (0..bytes.len()).step_by(5) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            let changed = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(changed));
            if let Ok(key) = PrivateKey::parse(&changed) {
                let made = key.sign(b"message").is_some();
                assert!(!made || key.public == own || kind == "ed25519", "{kind} {format}: {at}");
            }
        }
    }
    for text in
        ["", "oops", "-----BEGIN PRIVATE KEY-----", "-----BEGIN X PRIVATE KEY-----\nAAAA\n-----END X PRIVATE KEY-----"]
    {
        assert_eq!(PrivateKey::parse(text).err(), Some(Unusable::Malformed), "{text:?}");
    }
    make(&path, &["-t", "rsa", "-b", "1024"]);
    assert_eq!(PrivateKey::parse(&fs::read_to_string(&path).unwrap()).err(), Some(Unusable::RsaBits(1024)));
}

#[test]
fn remainders_are_right() {
    for number in [0_u64, 1, 255, 256, 65_537, 0xdead_beef_cafe, u64::MAX] {
        for modulus in [1_u64, 2, 3, 250, 256, 65_536, 0xffff_fffe, u64::MAX] {
            let left = remainder(&number.to_be_bytes(), without_zeros(&modulus.to_be_bytes()));
            let left = left.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            assert_eq!(left, number % modulus, "{number} mod {modulus}");
        }
    }
}

#[test]
fn numbers_longer_than_the_key_are_refused_at_once() {
    let long = vec![0x55; 300_000];
    let parts = Rsa { n: &[0xaa; 256], e: &[1, 0, 1], d: &long, p: &long, q: &[0xbb; 128], q_inverse: &[1] };
    assert_eq!(PrivateKey::rsa(&parts).err(), Some(Unusable::Inconsistent));
    for e in [&[3][..], &[35], &[0xff, 0xff], &[1, 0, 0]] {
        let why = PrivateKey::rsa(&Rsa { e, ..parts }).err().expect("no key").to_string();
        assert!(why.contains("exponent"), "{why}");
    }
}
