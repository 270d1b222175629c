//! Valid input to start from: signatures, trust files, revocation lists. The fuzz targets and their seeds use it too.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::envelope::Purpose;
use ring::{digest, signature};
use signature::KeyPair as _;

/// What is signed.
pub const PAYLOAD: &[u8] = b"{}";

/// Each with its length before it, as SSH writes them.
pub fn strings(values: &[&[u8]]) -> Vec<u8> {
    let with_length = |v: &&[u8]| [&u32::try_from(v.len()).expect("short").to_be_bytes()[..], v].concat();
    values.iter().flat_map(with_length).collect()
}

/// As `ssh-keygen -Y sign` does it.
pub fn armor(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<_> = encoded.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

/// Trust files, and the bytes of SSHSIGs over [`PAYLOAD`] that are valid under them: by a key, and by a certificate.
pub fn texts() -> Vec<(String, Vec<u8>)> {
    vec![
        (line("alice@example.com", 1), sign(1, Purpose::Request, PAYLOAD)),
        (line("*@example.com cert-authority", 2), sign_certified(1, 2, Purpose::Request, PAYLOAD)),
    ]
}

/// A line of a trust file: who or what, and the key made from `seed`.
pub fn line(start: &str, seed: u8) -> String {
    format!("{start} ssh-ed25519 {}\n", STANDARD.encode(blob(&ed25519(seed))))
}

/// An SSHSIG by the key made from `seed`.
pub fn sign(seed: u8, role: Purpose, payload: &[u8]) -> Vec<u8> {
    let key = ed25519(seed);
    sshsig(&blob(&key), &key, role, payload)
}

/// As [`sign`], by a certificate that names alice@example.com, from the authority whose key is made from `by`.
pub fn sign_certified(seed: u8, by: u8, role: Purpose, payload: &[u8]) -> Vec<u8> {
    let (holder, authority) = (ed25519(seed), ed25519(by));
    sshsig(&certificate(&holder, &authority, &blob(&authority)), &holder, role, payload)
}

/// As [`sign_certified`], but in the name of the authority whose key is made from `named`: it knows nothing of the certificate.
pub fn sign_forged(seed: u8, by: u8, named: u8, role: Purpose, payload: &[u8]) -> Vec<u8> {
    let (holder, forger) = (ed25519(seed), ed25519(by));
    sshsig(&certificate(&holder, &forger, &blob(&ed25519(named))), &holder, role, payload)
}

fn ed25519(seed: u8) -> signature::Ed25519KeyPair {
    signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any 32 bytes are a seed")
}

fn blob(pair: &signature::Ed25519KeyPair) -> Vec<u8> {
    strings(&[b"ssh-ed25519", pair.public_key().as_ref()])
}

fn sshsig(key: &[u8], signer: &signature::Ed25519KeyPair, role: Purpose, payload: &[u8]) -> Vec<u8> {
    let namespace = role.namespace().as_bytes();
    let hash = digest::digest(&digest::SHA512, payload);
    let signed = [&b"SSHSIG"[..], &strings(&[namespace, b"", b"sha512", hash.as_ref()])].concat();
    let signature = strings(&[b"ssh-ed25519", signer.sign(&signed).as_ref()]);
    [&b"SSHSIG\0\0\0\x01"[..], &strings(&[key, namespace, b"", b"sha512", &signature])].concat()
}

fn certificate(holder: &signature::Ed25519KeyPair, by: &signature::Ed25519KeyPair, authority: &[u8]) -> Vec<u8> {
    let mut out = strings(&[b"ssh-ed25519-cert-v01@openssh.com", &[7; 32], holder.public_key().as_ref()]);
    out.extend(7_u64.to_be_bytes());
    out.extend(1_u32.to_be_bytes());
    out.extend(strings(&[b"key id", &strings(&[b"alice@example.com"])]));
    out.extend(0_u64.to_be_bytes());
    out.extend(u64::MAX.to_be_bytes());
    out.extend(strings(&[b"", &strings(&[b"permit-pty", b""]), b"", authority]));
    let signature = strings(&[b"ssh-ed25519", by.sign(&out).as_ref()]);
    out.extend(strings(&[&signature]));
    out
}

/// A binary revocation list with each kind of entry.
pub fn revocation_list() -> Vec<u8> {
    let section = |kind: u8, content: &[u8]| [&[kind][..], &strings(&[content])].concat();
    let serials = [7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
    let bitmap = [&100_u64.to_be_bytes()[..], &strings(&[&[0x55, 0xaa]])].concat();
    let certificates = [
        strings(&[b"", b""]),
        section(0x20, &serials),
        section(0x21, &serials),
        section(0x22, &bitmap),
        section(0x23, &strings(&[b"key id", b"another"])),
    ];
    let header = [&b"SSHKRL\n\0\0\0\0\x01"[..], &[0; 24], &strings(&[b"", b"comment"])].concat();
    let keys =
        [section(2, &strings(&[b"a key"])), section(5, &strings(&[&[1; 32]])), section(1, &certificates.concat())];
    [header, keys.concat()].concat()
}
