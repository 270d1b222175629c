//! The real ssh-keygen, and signatures that it cannot make here because they need a security key or a bad one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::envelope::{Envelope, Purpose, Verified, verify};
use postern_core::refusal::{Reason, Refusal};
use postern_core::trust::Trust;
use ring::{digest, rand::SystemRandom, signature as ring_signature};
use ring_signature::KeyPair as _;

/// A moment inside of every certificate's and key's window that the tests call valid: 2026-06-15T12:00:00Z.
pub const NOON: i64 = 1_781_524_800;
/// The same for ssh-keygen.
const NOON_TEXT: &str = "20260615120000Z";
pub const REQUEST: &str = "application/vnd.postern.access-request.v1+json";
/// Whom most trust files list.
pub const ALICE: &str = "alice@example.com";
pub const PAYLOAD: &[u8] = br#"{"id":"0b1e8b9e-7c1f-4f0e-9d6b-0d5b1f6d2a11","ports":["22/tcp"]}"#;

/// A directory with keys, which goes away with it.
pub struct Lab(tempfile::TempDir);

impl Lab {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file in the temporary directory");
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file that was made before")
    }

    /// A new key pair in `name` and `name.pub`.
    pub fn key(&self, name: &str, options: &str) -> Key<'_> {
        let path = self.path(name);
        let args = options.split_whitespace().chain(["-q", "-N", "", "-C", "", "-f"]);
        run(Command::new("ssh-keygen").args(args).arg(&path), b"");
        Key { lab: self, name: name.to_owned() }
    }

    /// A key of which there is only the public part: the test signs in its place.
    pub fn public_key(&self, name: &str, line: &str) -> Key<'_> {
        self.write(&format!("{name}.pub"), line);
        Key { lab: self, name: name.to_owned() }
    }

    /// What `ssh-keygen -Y verify` says.
    pub fn ssh_accepts(&self, case: &Case<'_>, principal: &str, namespace: &str) -> bool {
        let (trust, signature) = (self.write("trust", case.trust), self.write("signature", case.signature));
        let mut command = Command::new("ssh-keygen");
        command.env("TZ", "UTC").args(["-Y", "verify", "-q", "-n", namespace, "-I", principal]);
        command.arg(format!("-Overify-time={}", case.time.unwrap_or(NOON_TEXT)));
        command.arg("-f").arg(trust).arg("-s").arg(signature);
        if !case.revoked.is_empty() {
            command.arg("-r").arg(self.write("revoked", case.revoked));
        }
        status(&mut command, case.payload)
    }
}

/// A key pair.
pub struct Key<'a> {
    lab: &'a Lab,
    pub name: String,
}

impl Key<'_> {
    /// `key-type base64`
    pub fn public(&self) -> String {
        self.lab.read(&format!("{}.pub", self.name)).trim_end().to_owned()
    }

    /// The SSH encoding of the key.
    pub fn blob(&self) -> Vec<u8> {
        decode_line(&self.public())
    }

    /// The SSH encoding of the certificate that was made last.
    pub fn certificate(&self) -> Vec<u8> {
        decode_line(&self.lab.read(&format!("{}-cert.pub", self.name)))
    }

    /// Where the certificate that was made last is.
    pub fn certificate_path(&self) -> PathBuf {
        self.lab.path(&format!("{}-cert.pub", self.name))
    }

    pub fn public_path(&self) -> PathBuf {
        self.lab.path(&format!("{}.pub", self.name))
    }

    pub fn fingerprint(&self) -> String {
        let path = self.lab.path(&format!("{}.pub", self.name));
        let listed = run(Command::new("ssh-keygen").arg("-lf").arg(path), b"");
        listed.split(' ').nth(1).expect("ssh-keygen -l prints size, fingerprint, …").to_owned()
    }

    /// An armored signature for the namespace of `role`.
    pub fn sign(&self, role: Purpose, payload: &[u8]) -> String {
        self.sign_as(role.namespace(), payload, &[])
    }

    pub fn sign_as(&self, namespace: &str, payload: &[u8], options: &[&str]) -> String {
        sign(&self.lab.path(&self.name), namespace, payload, options)
    }

    /// Makes a certificate for this key by `authority`.
    pub fn certify(&self, authority: &Key<'_>, options: &[&str]) {
        let mut command = Command::new("ssh-keygen");
        command.env("TZ", "UTC").args(["-q", "-I", "the key id", "-s"]).arg(self.lab.path(&authority.name));
        run(command.args(options).arg(self.lab.path(&format!("{}.pub", self.name))), b"");
    }

    /// An armored signature with the certificate that was made last.
    pub fn sign_certified(&self, role: Purpose, payload: &[u8]) -> String {
        sign(&self.lab.path(&format!("{}-cert.pub", self.name)), role.namespace(), payload, &[])
    }
}

fn sign(key: &Path, namespace: &str, payload: &[u8], options: &[&str]) -> String {
    let mut command = Command::new("ssh-keygen");
    // No agent: the key file itself signs.
    command.env_remove("SSH_AUTH_SOCK").args(["-Y", "sign", "-q", "-n", namespace]).args(options).arg("-f").arg(key);
    run(&mut command, payload)
}

fn decode_line(line: &str) -> Vec<u8> {
    let encoded = line.split(' ').nth(1).expect("a public key line has two words");
    STANDARD.decode(encoded).expect("ssh-keygen writes base64")
}

/// One signature before the two judges.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub trust: &'a str,
    pub revoked: &'a [u8],
    pub signature: &'a str,
    pub payload: &'a [u8],
    /// `YYYYMMDDHHMMSSZ`; noon when absent.
    pub time: Option<&'a str>,
    /// The principals that ssh-keygen is asked about.
    pub candidates: &'a [&'a str],
}

impl<'a> Case<'a> {
    pub fn new(trust: &'a str, signature: &'a str) -> Self {
        Self { trust, revoked: b"", signature, payload: PAYLOAD, time: None, candidates: &[ALICE] }
    }

    /// Our answer.
    pub fn ours(&self) -> Result<Verified, Refusal> {
        let trust = Trust::parse(self.trust, self.revoked).expect("a valid trust file");
        verify(&self.envelope(), &trust, self.now(), true)
    }

    pub fn envelope(&self) -> Envelope<'a> {
        Envelope { payload: self.payload, payload_type: REQUEST, signatures: vec![self.signature] }
    }

    fn now(&self) -> i64 {
        let Some(text) = self.time else { return NOON };
        jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text)
            .and_then(|t| t.to_zoned(jiff::tz::TimeZone::UTC))
            .map(|t| t.timestamp().as_second())
            .expect("a time as ssh-keygen reads it")
    }

    /// Asserts that both judges say the same, and that ssh-keygen knows the principal that we found.
    #[track_caller]
    pub fn agrees(&self, lab: &Lab) -> Result<Verified, Refusal> {
        let ours = self.ours();
        let namespace = Purpose::Request.namespace();
        let theirs = self.candidates.iter().any(|principal| lab.ssh_accepts(self, principal, namespace));
        assert_eq!(ours.is_ok(), theirs, "we say {ours:?}, ssh-keygen says {theirs}, trust file:\n{}", self.trust);
        if let Ok(verified) = &ours {
            let principal = &verified.signer().expect("a signer").principal;
            assert!(lab.ssh_accepts(self, principal, namespace), "ssh-keygen does not know {principal}");
        }
        ours
    }
}

/// A security key in software: what OpenSSH's PROTOCOL.u2f says a FIDO2 token signs.
pub enum SecurityKey {
    Ed25519(ring_signature::Ed25519KeyPair),
    P256(ring_signature::EcdsaKeyPair),
}

pub const TOUCHED: u8 = 0x01;
pub const VERIFIED: u8 = 0x04;
const APPLICATION: &[u8] = b"ssh:";

impl SecurityKey {
    pub fn ed25519() -> Self {
        let document = ring_signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed25519(ring_signature::Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("the same key"))
    }

    pub fn p256() -> Self {
        let (kind, random) = (&ring_signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = ring_signature::EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        Self::P256(ring_signature::EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).expect("the same key"))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "sk-ssh-ed25519@openssh.com",
            Self::P256(_) => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    /// `key-type base64`
    pub fn public(&self) -> String {
        let blob = match self {
            Self::Ed25519(key) => strings(&[self.name().as_bytes(), key.public_key().as_ref(), APPLICATION]),
            Self::P256(key) => strings(&[self.name().as_bytes(), b"nistp256", key.public_key().as_ref(), APPLICATION]),
        };
        format!("{} {}", self.name(), STANDARD.encode(blob))
    }

    fn sign(&self, flags: u8, message: &[u8]) -> Vec<u8> {
        let counter = [0, 0, 0, 7];
        let sha256 = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes).as_ref().to_vec();
        let signed = [&sha256(APPLICATION)[..], &[flags], &counter, &sha256(message)].concat();
        let blob = match self {
            Self::Ed25519(key) => key.sign(&signed).as_ref().to_vec(),
            Self::P256(key) => ecdsa_blob(key.sign(&SystemRandom::new(), &signed).expect("a signature").as_ref()),
        };
        [&strings(&[self.name().as_bytes(), &blob])[..], &[flags], &counter].concat()
    }

    /// An armored SSHSIG; `key` is the key's blob or its certificate's.
    pub fn sshsig(&self, key: &[u8], namespace: &str, flags: u8, payload: &[u8]) -> String {
        sshsig(key, namespace, payload, |signed| self.sign(flags, signed))
    }
}

/// An armored SSHSIG over `payload`, by whatever `sign` does.
pub fn sshsig(key: &[u8], namespace: &str, payload: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let hash = digest::digest(&digest::SHA512, payload);
    let signed = [&b"SSHSIG"[..], &strings(&[namespace.as_bytes(), b"", b"sha512", hash.as_ref()])].concat();
    let fields = strings(&[key, namespace.as_bytes(), b"", b"sha512", &sign(&signed)]);
    armor(&[&b"SSHSIG\0\0\0\x01"[..], &fields].concat())
}

pub fn armor(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<_> = encoded.as_bytes().chunks(70).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

pub fn strings(values: &[&[u8]]) -> Vec<u8> {
    let with_length = |v: &&[u8]| [&u32::try_from(v.len()).expect("short").to_be_bytes()[..], v].concat();
    values.iter().flat_map(with_length).collect()
}

fn ecdsa_blob(fixed: &[u8]) -> Vec<u8> {
    let (r, s) = fixed.split_at(fixed.len() / 2);
    strings(&[&mpint(r), &mpint(s)])
}

fn mpint(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap_or(number.len());
    let sign: &[u8] = if number.get(start).is_some_and(|b| b & 0x80 != 0) { &[0] } else { &[] };
    [sign, &number[start..]].concat()
}

/// Runs a command that must succeed, and answers with what it printed.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> String {
    let output = feed(command.stdout(Stdio::piped()).stderr(Stdio::piped()), input);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ssh-keygen prints text")
}

/// Runs a command that may fail.
pub fn status(command: &mut Command, input: &[u8]) -> bool {
    feed(command.stdout(Stdio::null()).stderr(Stdio::null()), input).status.success()
}

fn feed(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("ssh-keygen, from the package openssh-client");
    // It may have ended without reading its input.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("the child's end")
}

/// The reason of an answer that must be a refusal.
#[track_caller]
pub fn reason<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> Reason {
    answer.expect_err("a refusal").reason
}
