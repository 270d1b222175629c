//! The same `known_hosts`, the same `ssh_config`, the same host keys: the real ssh in front of a real sshd, and the judgement
//! of `postern`, have to agree.
//!
//! sshd speaks over a pipe (`ProxyCommand`), so no network is needed, and nobody logs in: what counts is what ssh says about
//! the host.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use postern_cli::{
    proof::{self, HostTrust, NAMESPACE},
    ssh_hosts::{Known, config::Config},
    statement::Statement,
    tls::Fingerprint,
};
use postern_proto::v1::{HostProof, WhoAmIResponse};
use support::succeed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Known,
    New,
    Changed,
    Revoked,
    /// ssh refuses without asking, because a file of the configuration cannot be used.
    Broken,
}
use Verdict::{Broken, Changed, Known as Trusted, New, Revoked};

/// Keys by the real ssh-keygen: of a host, of authorities, of others.
struct Scene {
    directory: tempfile::TempDir,
}

/// One line of the table.
#[derive(Clone, Copy)]
struct Case<'a> {
    what: &'a str,
    /// As typed.
    host: &'a str,
    /// More lines of `ssh_config`.
    config: &'a str,
    /// `known_hosts`; `{own}`, `{ca}` and so on stand for public keys.
    lines: &'a str,
    /// The host's keys.
    keys: &'a [&'a str],
    /// How the Ed25519 key was certified.
    certificate: Option<&'a [&'a str]>,
    ssh: Verdict,
    ours: Verdict,
}

const VM1: Case<'_> =
    Case { what: "", host: "vm1", config: "", lines: "", keys: &["own"], certificate: None, ssh: New, ours: New };

const fn case<'a>(what: &'a str, lines: &'a str, verdict: Verdict) -> Case<'a> {
    Case { what, lines, ssh: verdict, ours: verdict, ..VM1 }
}

const fn certified<'a>(what: &'a str, by: &'a [&'a str], lines: &'a str, verdict: Verdict) -> Case<'a> {
    Case { what, certificate: Some(by), lines, ssh: verdict, ours: verdict, ..VM1 }
}

impl<'a> Case<'a> {
    const fn at(self, host: &'a str) -> Self {
        Self { host, ..self }
    }

    const fn with(self, config: &'a str) -> Self {
        Self { config, ..self }
    }

    const fn holding(self, keys: &'a [&'a str]) -> Self {
        Self { keys, ..self }
    }

    /// Where we mean to answer otherwise than ssh.
    const fn ours(self, ours: Verdict) -> Self {
        Self { ours, ..self }
    }
}

const OK: &[&str] = &["-s", "ca", "-h", "-n", "vm1,vm2"];

fn plain_lines() -> Vec<Case<'static>> {
    vec![
        case("nothing", "", New),
        case("plain", "vm1 {own}", Trusted),
        case("other host", "vm2 {own}", New),
        case("comments", "# vm1 {other}\n\n   # x\nvm1 {own} a comment # here", Trusted),
        case("several names", "a,vm1,b {own}", Trusted),
        case("upper case in the file", "VM1 {own}", Trusted),
        case("upper case as typed", "vm1 {own}", Trusted).at("VM1"),
        case("blanks", "  \t vm1 \t  {own}", Trusted),
        case("CRLF", "vm1 {own}\r\nvm2 {other}\r", Trusted),
        case("no line end", "vm2 {other}\nvm1 {own}", Trusted),
        case("changed", "vm1 {other}", Changed),
        case("several keys, one fits", "vm1 {other}\nvm1 {own}", Trusted),
        case("malformed lines", "vm1\nvm1 ssh-ed25519\nvm1 ssh-ed25519 AAAA\n@what vm1 {other}\nvm1 {own}", Trusted),
        case("two markers", "@revoked @cert-authority vm1 {own}\nvm1 {own}", Trusted),
        case("key of another type name", "vm1 ssh-rsa {own-blob}", New),
        case("wildcard", "vm* {own}", Trusted),
        case("one character", "vm? {own}", Trusted),
        case("one character too many", "vm?? {own}", New),
        case("negated", "vm*,!vm1 {own}", New),
        case("negated first", "!vm1,vm* {own}", New),
        case("negated other", "*.example.com,!bad.example.com {own}", Trusted).at("good.example.com"),
        case("negated this", "*.example.com,!bad.example.com {own}", New).at("bad.example.com"),
        case("negated alone", "!vm2 {own}", New),
        case("negated, but named by another line", "vm*,!vm1 {other}\nvm1 {own}", Trusted),
        case("address", "192.0.2.1 {own}", Trusted).at("192.0.2.1"),
        case("IPv6 address", "2001:db8::1 {own}", Trusted).at("2001:db8::1"),
        case("revoked", "vm1 {own}\n@revoked vm1 {own}", Revoked),
        case("revoked by wildcard", "@revoked * {own}\nvm1 {own}", Revoked),
        case("revoked and not known", "@revoked * {own}", Revoked),
        case("revoked and changed", "@revoked * {own}\nvm1 {other}", Revoked),
        case("revoked for another host", "vm1 {own}\n@revoked vm2 {own}", Trusted),
        case("another key revoked", "vm1 {own}\n@revoked * {other}", Trusted),
        case("an authority is not a key", "@cert-authority vm1 {own}", New),
        case("ECDSA", "vm1 {ecdsa}", Trusted).holding(&["ecdsa"]),
        case("ECDSA changed", "vm1 {ecdsa}", Changed).holding(&["ecdsa2"]),
        case("only another type known", "vm1 {ecdsa}", Changed),
        case("the known type among several", "vm1 {ecdsa}", Trusted).holding(&["own", "ecdsa"]),
        case("one type known rightly, one wrongly", "vm1 {ecdsa}\nvm1 {other}", Changed).holding(&["own", "ecdsa"]),
        // sshd could show its RSA key where it has one; an older posternd does not sign with those, so this is no contradiction.
        case("only RSA known", "vm1 {rsa}", Changed).ours(New),
        case("RSA known and held", "vm1 {rsa}", Trusted).holding(&["own", "rsa"]),
        case("P-521 known and held", "vm1 {p521}", Trusted).holding(&["own", "p521"]),
        case("P-521 changed", "vm1 {p521}", Changed).holding(&["own", "p521b"]),
        case("RSA changed", "vm1 {rsa}", Changed).holding(&["own", "rsa2"]),
        case("RSA outdated, Ed25519 right", "vm1 {rsa}\nvm1 {own}", Trusted).holding(&["own", "rsa2"]),
        case("ECDSA outdated, Ed25519 right", "vm1 {ecdsa}\nvm1 {own}", Trusted).holding(&["own", "ecdsa2"]),
        case("RSA outdated, ECDSA right", "vm1 {rsa}\nvm1 {ecdsa}", Trusted).holding(&["own", "ecdsa", "rsa2"]),
        case("two keys of other types known", "vm1 {rsa}\nvm1 {ecdsa}", Changed).holding(&["own"]).ours(New),
    ]
}

fn configured() -> Vec<Case<'static>> {
    let port = |what, lines, verdict| case(what, lines, verdict).with("Port 2222");
    vec![
        port("port", "[vm1]:2222 {own}", Trusted),
        port("port of IPv6", "[2001:db8::1]:2222 {own}", Trusted).at("2001:db8::1"),
        port("port and wildcard", "[vm*]:2222 {own}", Trusted),
        port("port negated", "[vm*]:2222,![vm1]:2222 {own}", New),
        port("port changed", "[vm1]:2222 {other}", Changed),
        port("port revoked", "[vm1]:2222 {own}\n@revoked [vm1]:2222 {own}", Revoked),
        port("the name alone proves", "vm1 {own}", Trusted),
        port("the name alone does not disprove", "vm1 {other}", New),
        port("the name alone revokes", "@revoked vm1 {own}", Revoked),
        port("port changed, name alone right", "[vm1]:2222 {other}\nvm1 {own}", Changed),
        // ssh was told another port; the machine is the same one unless several are known behind its name.
        port("another port", "[vm1]:2200 {own}", New).ours(Trusted),
        case("a port, and none configured", "[vm1]:2222 {own}", New).ours(Trusted),
        case("a port with another key", "[vm1]:2222 {other}", New),
        case("several machines by port", "[vm1]:2222 {own}\n[vm1]:2223 {other}", New),
        case("another port revoked", "[vm1]:2222 {own}\n@revoked [vm1]:2223 {own}", New).ours(Revoked),
        case("a port, but the name says otherwise", "vm1 {other}\n[vm1]:2222 {own}", Changed),
        case("HostName", "vm1 {own}", Trusted).at("web").with("HostName vm1"),
        case("HostName hides what was typed", "web {own}", New).at("web").with("HostName vm1"),
        case("HostName with %h", "web.example.com {own}", Trusted).at("web").with("HostName %h.example.com"),
        case("alias", "store {own}", Trusted).with("HostKeyAlias Store\nPort 2222"),
        case("alias hides the name", "vm1 {own}\n[vm1]:2222 {own}", New).with("HostKeyAlias store\nPort 2222"),
        case("second file", "", Trusted).with("UserKnownHostsFile {dir}/none {dir}/second"),
        case("global file", "", Trusted).with("GlobalKnownHostsFile {dir}/second"),
        case("global file revokes", "vm1 {own}", Revoked).with("GlobalKnownHostsFile {dir}/revoking"),
        case("list of revoked keys", "vm1 {own}", Revoked).with("RevokedHostKeys {dir}/own.pub"),
        case("list of other revoked keys", "vm1 {own}", Trusted).with("RevokedHostKeys {dir}/other.pub"),
        case("list with other blanks", "vm1 {own}", Revoked).with("RevokedHostKeys {dir}/blanks"),
        case("list with a certificate", "vm1 {own}", Revoked).with("RevokedHostKeys {dir}/certified"),
        case("list with a line that is no key", "vm1 {own}", Broken).with("RevokedHostKeys {dir}/spoiled"),
        case("list with options", "vm1 {own}", Broken).with("RevokedHostKeys {dir}/options"),
        case("list of others with a comment", "vm1 {own}", Trusted).with("RevokedHostKeys {dir}/comment"),
        case("binary list", "vm1 {own}", Revoked).with("RevokedHostKeys {dir}/krl"),
        case("binary list of others", "vm1 {ecdsa}", Trusted).holding(&["ecdsa"]).with("RevokedHostKeys {dir}/krl"),
        case("one type accepted", "vm1 {ecdsa}", Trusted)
            .holding(&["own", "ecdsa"])
            .with("HostKeyAlgorithms ecdsa-sha2-nistp256"),
        case("RSA with SHA-256 accepted", "vm1 {rsa}", Trusted)
            .holding(&["rsa"])
            .with("HostKeyAlgorithms rsa-sha2-256"),
        case("the outdated type not accepted", "vm1 {other}\nvm1 {ecdsa}", Trusted)
            .holding(&["own", "ecdsa"])
            .with("HostKeyAlgorithms ecdsa-sha2-nistp256"),
        case("missing list", "vm1 {own}", Broken).with("RevokedHostKeys {dir}/none"),
    ]
}

fn certificates() -> Vec<Case<'static>> {
    const AUTHORITY: &str = "@cert-authority vm* {ca}";
    let by = |what, arguments, verdict| certified(what, arguments, AUTHORITY, verdict);
    vec![
        by("certificate", OK, Trusted),
        by("of another name", OK, New).at("vm3"),
        by("upper case as typed", OK, Trusted).at("VM1"),
        by("upper case in the certificate", &["-s", "ca", "-h", "-n", "VM1"], New),
        by("a principal is no pattern", &["-s", "ca", "-h", "-n", "vm*"], New),
        by("no principals", &["-s", "ca", "-h"], Trusted).ours(New),
        by("expired", &["-s", "ca", "-h", "-n", "vm1", "-V", "-2d:-1d"], New),
        by("not yet valid", &["-s", "ca", "-h", "-n", "vm1", "-V", "+1d:+2d"], New),
        by("valid now", &["-s", "ca", "-h", "-n", "vm1", "-V", "-1d:+1d"], Trusted),
        by("a person's", &["-s", "ca", "-n", "vm1"], New),
        by("critical option", &["-s", "ca", "-h", "-n", "vm1", "-O", "critical:unheard-of=1"], New),
        by("extension", &["-s", "ca", "-h", "-n", "vm1", "-O", "extension:unheard-of=1"], Trusted),
        by("wrong authority", &["-s", "ca2", "-h", "-n", "vm1"], New),
        by("certified by itself", &["-s", "own", "-h", "-n", "vm1"], New),
        certified("other hosts' authority", OK, "@cert-authority *.example.com {ca}", New),
        certified("negated for this host", OK, "@cert-authority *,!vm1 {ca}", New),
        certified("two authorities", OK, "@cert-authority * {ca2}\n@cert-authority * {ca}", Trusted),
        certified("RSA authority", &["-s", "rsa", "-h", "-n", "vm1"], "@cert-authority * {rsa}", Trusted),
        certified(
            "RSA with SHA-256",
            &["-s", "rsa", "-t", "rsa-sha2-256", "-h", "-n", "vm1"],
            "@cert-authority * {rsa}",
            Trusted,
        ),
        certified("RSA with SHA-1", &["-s", "rsa", "-t", "ssh-rsa", "-h", "-n", "vm1"], "@cert-authority * {rsa}", New),
        certified("RSA not allowed", &["-s", "rsa", "-h", "-n", "vm1"], "@cert-authority * {rsa}", New)
            .with("CASignatureAlgorithms ssh-ed25519,rsa-sha2-256"),
        certified("RSA allowed", &["-s", "rsa", "-h", "-n", "vm1"], "@cert-authority * {rsa}", Trusted)
            .with("CASignatureAlgorithms ssh-ed25519,rsa-sha2-512"),
        certified("ECDSA authority", &["-s", "ecdsa", "-h", "-n", "vm1"], "@cert-authority * {ecdsa}", Trusted),
        certified("P-521 authority", &["-s", "p521", "-h", "-n", "vm1"], "@cert-authority * {p521}", Trusted),
        certified("authority as a plain key", OK, "vm1 {ca}", Changed),
        certified("plain key, no authority", OK, "vm1 {own}", Trusted),
        certified(
            "expired, plain key known",
            &["-s", "ca", "-h", "-n", "vm1", "-V", "-2d:-1d"],
            "@cert-authority * {ca}\nvm1 {own}",
            Trusted,
        ),
        certified(
            "expired, another plain key",
            &["-s", "ca", "-h", "-n", "vm1", "-V", "-2d:-1d"],
            "@cert-authority * {ca}\nvm1 {other}",
            Changed,
        ),
        certified("valid, another plain key", OK, "@cert-authority * {ca}\nvm1 {other}", Trusted),
        certified("wrong authority, another plain key", OK, "@cert-authority * {ca2}\nvm1 {other}", Changed),
        certified("certified key revoked", OK, "@cert-authority * {ca}\n@revoked * {own}", Revoked),
        certified("authority revoked", OK, "@cert-authority * {ca}\n@revoked * {ca}", Revoked),
        certified("authority revoked, plain key known", OK, "vm1 {own}\n@revoked * {ca}", Revoked),
        certified("authority revoked for others", OK, "@cert-authority * {ca}\n@revoked vm2 {ca}", Trusted),
        certified("port", OK, "@cert-authority [vm1]:2222 {ca}", Trusted).with("Port 2222"),
        certified("port, authority for the name", OK, "@cert-authority vm1 {ca}", Trusted).with("Port 2222"),
        certified("alias is the principal", OK, "@cert-authority store {ca}", New).with("HostKeyAlias store"),
        certified("alias among the principals", OK, "@cert-authority vm2 {ca}", Trusted).with("HostKeyAlias vm2"),
        certified("HostName is the principal", OK, "@cert-authority vm1 {ca}", Trusted).at("web").with("HostName vm1"),
        certified("the key that is certified among several", OK, "@cert-authority * {ca}", Trusted)
            .holding(&["own", "ecdsa"]),
        certified("listed authority revoked", OK, "@cert-authority * {ca}", Revoked)
            .with("RevokedHostKeys {dir}/ca.pub"),
        certified("no certificate left", OK, "@cert-authority * {ca}", New).holding(&["ecdsa"]),
    ]
}

#[test]
fn plain_keys_get_the_verdict_of_ssh() {
    Scene::new().compare(&plain_lines());
}

#[test]
fn ssh_config_is_read_as_by_ssh() {
    Scene::new().compare(&configured());
}

#[test]
fn certificates_get_the_verdict_of_ssh() {
    Scene::new().compare(&certificates());
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let scene = Self { directory };
        let kinds: [(&str, &[&str]); 10] = [
            ("own", &["-t", "ed25519"]),
            ("other", &["-t", "ed25519"]),
            ("ca", &["-t", "ed25519"]),
            ("ca2", &["-t", "ed25519"]),
            ("ecdsa", &["-t", "ecdsa"]),
            ("ecdsa2", &["-t", "ecdsa", "-b", "256"]),
            ("p521", &["-t", "ecdsa", "-b", "521"]),
            ("p521b", &["-t", "ecdsa", "-b", "521"]),
            ("rsa", &["-t", "rsa", "-b", "3072"]),
            ("rsa2", &["-t", "rsa", "-b", "2048"]),
        ];
        for (name, kind) in kinds {
            succeed(scene.command("ssh-keygen").args(["-q", "-N", "", "-C", name, "-f", name]).args(kind));
        }
        succeed(scene.command("ssh-keygen").args(["-q", "-k", "-f", "krl", "own.pub"]));
        fs::write(scene.path("second"), format!("vm1 {}\n", scene.public("own"))).unwrap();
        let (own, other) = (scene.public("own"), scene.public("other"));
        let lists = [
            ("blanks", format!("\n \t{} \r\n", own.replace(' ', "\t "))),
            ("spoiled", format!("no key\n{other}\n")),
            ("options", format!("from=\"x\" {own}\n")),
            ("comment", format!("# {own}\n\n\t# x\n{other}\n")),
        ];
        for (name, list) in lists {
            fs::write(scene.path(name), list).unwrap();
        }
        succeed(scene.command("ssh-keygen").args(["-q", "-s", "ca", "-I", "x", "-h", "-n", "x", "own.pub"]));
        fs::rename(scene.path("own-cert.pub"), scene.path("certified")).unwrap();
        fs::write(scene.path("revoking"), format!("@revoked * {}\n", scene.public("own"))).unwrap();
        // Where sshd's unprivileged half lives; systemd makes it on a host.
        let _ = fs::create_dir_all("/run/sshd");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        command
    }

    fn public(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(name).with_extension("pub")).unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    /// Puts in the keys.
    fn filled(&self, template: &str) -> String {
        let mut text = template.replace("{dir}", &self.directory.path().display().to_string());
        for name in ["own", "other", "ca2", "ca", "ecdsa", "p521", "rsa"] {
            text = text.replace(&format!("{{{name}}}"), &self.public(name));
        }
        text.replace("{own-blob}", self.public("own").split(' ').nth(1).unwrap())
    }

    fn compare(&self, cases: &[Case<'_>]) {
        for case in cases {
            self.certify(case);
            let file = self.path("known_hosts");
            fs::write(&file, self.filled(case.lines)).unwrap();
            self.configure(case);
            assert_eq!(self.by_ssh(case), case.ssh, "ssh: {}", case.what);
            assert_eq!(self.by_us(case), case.ours, "ours: {}", case.what);
            // Names with other ports cannot be told when they are hashed.
            if self.hash(&file) && case.ssh == case.ours {
                assert_eq!(self.by_ssh(case), case.ssh, "ssh, hashed: {}", case.what);
                assert_eq!(self.by_us(case), case.ours, "ours, hashed: {}", case.what);
            }
        }
    }

    fn certify(&self, case: &Case<'_>) {
        let _ = fs::remove_file(self.path("own-cert.pub"));
        if let Some(arguments) = case.certificate {
            succeed(self.command("ssh-keygen").args(["-q", "-I", "id"]).args(arguments).arg("own.pub"));
        }
    }

    fn configure(&self, case: &Case<'_>) {
        let files: String = case.keys.iter().map(|key| format!("HostKey {}\n", self.path(key).display())).collect();
        let certificate = match case.certificate {
            Some(_) if case.keys.contains(&"own") => {
                format!("HostCertificate {}\n", self.path("own-cert.pub").display())
            }
            _ => String::new(),
        };
        let sshd = format!("{files}{certificate}PidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile none\n");
        fs::write(self.path("sshd_config"), sshd).unwrap();
        // The first value counts.
        let ssh = format!(
            "{}\nUserKnownHostsFile {dir}/known_hosts\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nBatchMode yes\nKexAlgorithms curve25519-sha256\n\
             PreferredAuthentications none\nProxyCommand /usr/sbin/sshd -i -f {dir}/sshd_config\n",
            self.filled(case.config),
            dir = self.directory.path().display(),
        );
        fs::write(self.path("ssh_config"), ssh).unwrap();
    }

    /// Whether all lines that can be hashed are.
    fn hash(&self, file: &Path) -> bool {
        let output = self.command("ssh-keygen").args(["-q", "-H", "-f"]).arg(file).output().unwrap();
        output.status.success() && fs::read_to_string(file).unwrap().contains("|1|")
    }

    fn by_ssh(&self, case: &Case<'_>) -> Verdict {
        let output = self.command("ssh").args(["-F", "ssh_config", "--", case.host, "true"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let says = |words: &str| said.contains(words);
        match () {
            () if says("REVOKED HOST KEY DETECTED") || says("revoked by file") => Revoked,
            () if says("REMOTE HOST IDENTIFICATION HAS CHANGED") => Changed,
            () if says("host key is known for") => New,
            () if says("Error checking host key") => Broken,
            () if says("Permission denied") => Trusted,
            () => panic!("{}: {said}", case.what),
        }
    }

    fn by_us(&self, case: &Case<'_>) -> Verdict {
        let output = succeed(self.command("ssh").args(["-F", "ssh_config", "-G", "--", case.host]));
        let config = Config::parse(case.host, &output.stdout).expect("a configuration");
        let known = Known::find(&config).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tls = Fingerprint::of(b"certificate");
        match runtime.block_on(proof::judge(case.host, &self.answer(case, tls), &said(tls), &known, now)) {
            Ok(HostTrust::Proven(_)) => Trusted,
            Ok(HostTrust::Unknown | HostTrust::Unproven(_)) => New,
            Err(failure) if failure.message.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") => Changed,
            Err(failure) if failure.message.contains("REVOKED HOST KEY DETECTED") => Revoked,
            Err(failure) if failure.message.contains("RevokedHostKeys") => Broken,
            Err(failure) => panic!("{}: {failure}", case.what),
        }
    }

    /// What posternd would show with these host keys.
    fn answer(&self, case: &Case<'_>, tls: Fingerprint) -> WhoAmIResponse {
        let payload = format!(r#"{{"hostId":"7","names":[],"tlsFingerprint":"{tls}"}}"#);
        fs::write(self.path("payload"), &payload).unwrap();
        let prove = |key: &&str| {
            let _ = fs::remove_file(self.path("payload.sig"));
            succeed(self.command("ssh-keygen").args(["-Y", "sign", "-n", NAMESPACE, "-f", key, "payload"]));
            let certificate = match *key {
                "own" => fs::read_to_string(self.path("own-cert.pub")).unwrap_or_default(),
                _ => String::new(),
            };
            HostProof { signature: fs::read_to_string(self.path("payload.sig")).unwrap(), certificate }
        };
        let proofs: Vec<_> = case.keys.iter().map(prove).collect();
        WhoAmIResponse { proof_payload: payload, proofs, ..WhoAmIResponse::default() }
    }
}

/// A verified statement of host 7.
fn said(tls: Fingerprint) -> Statement {
    Statement {
        host_id: "7".to_owned(),
        names: Vec::new(),
        host_time: jiff::Timestamp::UNIX_EPOCH,
        challenge: String::new(),
        address: String::new(),
        local_address: String::new(),
        tls: Some(tls),
        ports: Vec::new(),
    }
}
