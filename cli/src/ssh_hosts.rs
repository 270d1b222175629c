//! The hosts that this person knows from ssh: OpenSSH's `known_hosts` files.
//!
//! Owns finding the lines for a host as ssh does for port 22: patterns, hashed names, `@revoked`. It never writes those
//! files and never decides whether to trust; that is [`crate::proof`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ring::hmac;
use ssh_key::{
    PublicKey,
    known_hosts::{Entry, HostPatterns, Marker},
};

use crate::failure::{Failure, Kind, Result};

/// Those of ssh's own defaults (`GlobalKnownHostsFile`, ssh_config(5)).
const OF_SYSTEM: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// Those in the home directory (`UserKnownHostsFile`).
const OF_USER: [&str; 2] = [".ssh/known_hosts", ".ssh/known_hosts2"];

/// The files, in the order in which ssh reads them. None need exist.
#[derive(Clone, Debug, Default)]
pub struct SshHosts {
    files: Vec<PathBuf>,
}

/// What a line says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The host has it.
    Known,
    /// Whoever shows it is refused.
    Revoked,
}

/// A line that names the host.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub number: usize,
    /// What it says.
    pub says: Says,
    /// The key.
    pub key: PublicKey,
}

impl SshHosts {
    /// The files of the person who runs this process, and of this machine.
    #[must_use]
    pub fn of_user() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let own = home.iter().flat_map(|home| OF_USER.map(|file| home.join(file)));
        Self::at(own.chain(OF_SYSTEM.map(PathBuf::from)))
    }

    /// These files.
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect() }
    }

    /// The lines for `host`, a name or an address as typed. Certificate authorities are passed over: a proof is by a plain
    /// key. So is what cannot be read as a line, as ssh does.
    ///
    /// # Errors
    /// When a file is there but cannot be read: it might revoke a key.
    pub fn find(&self, host: &str) -> Result<Vec<Line>> {
        let host = host.to_ascii_lowercase();
        let mut lines = Vec::new();
        for file in &self.files {
            let text = read(file)?;
            lines.extend(text.lines().enumerate().filter_map(|(at, line)| parse(file, at + 1, line, &host)));
        }
        Ok(lines)
    }
}

fn read(file: &Path) -> Result<String> {
    match fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(error) => Err(Failure::new(Kind::Local, format!("cannot read {}: {error}", file.display()))
            .next("correct the file or its mode; until then it is not known which host keys you trust")),
    }
}

fn parse(file: &Path, number: usize, line: &str, host: &str) -> Option<Line> {
    // ssh takes any run of blanks between fields, the parser only one space.
    let line = line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let entry: Entry = line.parse().ok()?;
    let says = match entry.marker() {
        None => Says::Known,
        Some(Marker::Revoked) => Says::Revoked,
        Some(Marker::CertAuthority) => return None,
    };
    names(entry.host_patterns(), host).then(|| Line {
        file: file.to_owned(),
        number,
        says,
        key: entry.public_key().clone(),
    })
}

/// Whether the patterns name `host`, which is in lower case.
fn names(patterns: &HostPatterns, host: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, host.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let fits = |pattern: &str| is_like(pattern.to_ascii_lowercase().as_bytes(), host.as_bytes());
            let refused = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')).any(fits);
            !refused && patterns.iter().any(|pattern| !pattern.starts_with('!') && fits(pattern))
        }
    }
}

/// `*` stands for any run of characters, `?` for one. Takes at most the product of both lengths in steps.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and the text that it is tried with next.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
            }
            (Some(&c), _) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            (_, Some((behind, tried))) => {
                star = Some((behind, tried + 1));
                (p, t) = (behind, tried + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// The numbers of the lines that name `host`.
    fn found(file: &Path, host: &str) -> Vec<usize> {
        SshHosts::at([file.to_owned()]).find(host).unwrap().iter().map(|line| line.number).collect()
    }

    /// The same by `ssh-keygen -F`, given the name in lower case as `ssh` itself does.
    fn found_by_ssh(file: &Path, host: &str) -> Vec<usize> {
        let host = &host.to_lowercase();
        let output = Command::new("ssh-keygen").args(["-F", host, "-f"]).arg(file).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers =
            text.lines().filter_map(|line| line.split_once("found: line ")?.1.split(' ').next()?.parse().ok());
        numbers.collect()
    }

    #[test]
    fn the_same_lines_are_found_as_by_ssh_keygen_hashed_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let lines = [
            format!("vm1,192.0.2.1 {KEY} a comment"),
            format!("VM2.Example.com\t {KEY}"),
            format!("*.example.org,!bad.example.org {KEY}"),
            format!("vm? {KEY}"),
            format!("[vm1]:2222 {KEY}"),
            "# vm1".to_owned(),
            format!("@revoked   *.revoked.example {KEY}"),
            format!("2001:db8::1 {KEY}"),
        ];
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let hosts = [
            "vm1",
            "VM1",
            "vm2.example.com",
            "a.example.org",
            "bad.example.org",
            "example.org",
            "vm12",
            "vm",
            "192.0.2.1",
            "a.revoked.example",
            "2001:db8::1",
            "nobody",
        ];
        let compare = || hosts.map(|host| (found(&file, host), found_by_ssh(&file, host), host));
        for (ours, theirs, host) in compare() {
            assert_eq!(ours, theirs, "{host}");
        }
        assert_eq!(found(&file, "vm1"), [1, 4]);
        let hashed = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
        assert!(hashed.status.success(), "{}", String::from_utf8_lossy(&hashed.stderr));
        assert!(fs::read_to_string(&file).unwrap().contains("|1|"));
        for (ours, theirs, host) in compare() {
            assert_eq!(ours, theirs, "{host}");
        }
        assert!(!found(&file, "192.0.2.1").is_empty() && !found(&file, "vm1").is_empty());
    }

    #[test]
    fn markers_are_kept_and_authorities_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        fs::write(
            &file,
            format!("@cert-authority vm1 {KEY}\n@revoked\tvm1 {KEY}\n@other vm1 {KEY}\nvm1 ssh-ed25519 bad\n"),
        )
        .unwrap();
        let lines = SshHosts::at([file, directory.path().join("absent")]).find("vm1").unwrap();
        assert_eq!(lines.iter().map(|line| (line.number, line.says)).collect::<Vec<_>>(), [(2, Says::Revoked)]);
        let unreadable = SshHosts::at([directory.path().to_owned()]).find("vm1");
        assert_eq!(unreadable.unwrap_err().kind, Kind::Local, "a directory is no file");
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*a", "aa", true),
            ("?", "", false),
            ("a**", "a", true),
            ("*.b", "a.b.b", true),
        ] {
            assert_eq!(is_like(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
