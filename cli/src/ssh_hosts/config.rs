//! The user's `ssh_config` for a host, as `ssh -G HOST` prints it.
//!
//! Without ssh on this machine its documented defaults hold. The client never parses `ssh_config`, and runs nothing that `ssh HOST` would
//! not run (`Match exec`). Output that it does not understand is an error, because an empty list of known hosts would hide a revoked key.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{
    expand::{self, Tokens},
    identities::Identities,
};
use crate::{
    failure::{Failure, Kind, Result},
    state, text, within_ssh,
};

/// The time limit of `ssh -G`, which may resolve names (`CanonicalizeHostname`).
const LIMIT: Duration = Duration::from_secs(10);

/// The default port of sshd.
pub const SSH_PORT: u16 = 22;

/// The default of `GlobalKnownHostsFile` (ssh_config(5)).
const OF_SYSTEM: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// The default of `UserKnownHostsFile`, in the home directory.
const OF_USER: [&str; 2] = [".ssh/known_hosts", ".ssh/known_hosts2"];

/// The settings of ssh for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `HostName`: the real name or address.
    pub hostname: String,
    /// `Port`, of sshd.
    pub port: u16,
    /// `HostKeyAlias`, in lower case.
    pub alias: Option<String>,
    /// `UserKnownHostsFile` and `GlobalKnownHostsFile`, in ssh's order. They need not exist.
    pub files: Vec<PathBuf>,
    /// `RevokedHostKeys`: these must exist.
    pub revoked: Vec<PathBuf>,
    /// `CASignatureAlgorithms`; none without ssh.
    pub authority_algorithms: Option<Vec<String>>,
    /// `HostKeyAlgorithms`; none without ssh.
    pub host_key_algorithms: Option<Vec<String>>,
    /// Whether there is a `KnownHostsCommand`, which the client does not run.
    pub has_command: bool,
    /// The keys that ssh would offer.
    pub identities: Identities,
}

impl Config {
    /// The defaults for `host` with these files.
    pub fn plain(host: &str, files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            hostname: host.to_owned(),
            port: SSH_PORT,
            alias: None,
            files: files.into_iter().collect(),
            revoked: Vec::new(),
            authority_algorithms: None,
            host_key_algorithms: None,
            has_command: false,
            identities: Identities::plain(),
        }
    }

    /// The settings that `ssh HOST` would use.
    ///
    /// # Errors
    /// Fails with [`Kind::Local`] if ssh is installed but fails: then the keys that the user trusts are unknown.
    pub async fn of_ssh(host: &str) -> Result<Self> {
        let mut command = Command::new("ssh");
        command.args(["-G", "--", host]).stdin(Stdio::null()).kill_on_drop(true);
        // `Match exec` may run this program again.
        command.env(within_ssh::MARK, within_ssh::mark());
        let output = match timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default_of(host)),
            Ok(Err(error)) => return Err(untold(host, &error.to_string())),
            Err(_) => return Err(untold(host, &format!("no answer within {} s", LIMIT.as_secs()))),
        };
        // ssh does not start for a user outside the user database, as if it were not installed.
        if !output.status.success() && !state::user_is_listed() {
            return Ok(Self::default_of(host));
        }
        if !output.status.success() {
            return Err(untold(host, String::from_utf8_lossy(&output.stderr).trim()));
        }
        Self::parse(host, &output.stdout)
            .map_err(|why| untold(host, &format!("what it prints is not understood: {why}")))
    }

    fn default_of(host: &str) -> Self {
        let own = expand::home().into_iter().flat_map(|home| OF_USER.map(|file| home.join(file)));
        Self::plain(host, own.chain(OF_SYSTEM.map(PathBuf::from)))
    }

    /// Parses the output of `ssh -G` about `host`: lines of `keyword value`.
    ///
    /// # Errors
    /// Fails if a setting is missing or malformed. The error says what is wrong.
    pub fn parse(host: &str, printed: &[u8]) -> std::result::Result<Self, String> {
        let values = |keyword: &str| printed_values(printed, keyword);
        let text = |keyword: &str| text_of(keyword, values(keyword).first().copied());
        let needed = |keyword: &str| text(keyword)?.ok_or_else(|| format!("it has no {keyword}"));
        let files = |keyword: &str| {
            let line = values(keyword).first().copied().ok_or_else(|| format!("it has no {keyword}"))?;
            expand::list(line).map_err(|why| format!("{keyword}: {why}"))
        };
        let port = needed("port")?.parse().map_err(|_| "port is no number".to_owned())?;
        let alias = text("hostkeyalias")?.map(|alias| alias.to_ascii_lowercase());
        let tokens = Tokens {
            typed: host.to_owned(),
            hostname: needed("hostname")?,
            port,
            user: text("user")?.unwrap_or_default(),
            alias: text("hostkeyalias")?,
            jump: text("proxyjump")?.filter(|jump| jump != "none").unwrap_or_default(),
        };
        Ok(Self {
            port,
            alias,
            files: [files("userknownhostsfile")?, files("globalknownhostsfile")?].concat(),
            revoked: values("revokedhostkeys")
                .into_iter()
                .map(|line| revoked(line, &tokens))
                .collect::<std::result::Result<Vec<_>, _>>()?
                .concat(),
            authority_algorithms: text("casignaturealgorithms")?.as_deref().map(names),
            host_key_algorithms: text("hostkeyalgorithms")?.as_deref().map(names),
            has_command: values("knownhostscommand").first().is_some_and(|command| *command != "none"),
            identities: Identities::read(values, &tokens),
            hostname: tokens.hostname,
        })
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

fn printed_values<'a>(printed: &'a [u8], keyword: &str) -> Vec<&'a OsStr> {
    let lines = printed.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let blank = line.iter().position(|byte| *byte == b' ')?;
        Some((&line[..blank], &line[blank + 1..]))
    });
    pairs
        .filter(|(name, _)| name.eq_ignore_ascii_case(keyword.as_bytes()))
        .map(|(_, value)| OsStr::from_bytes(value))
        .collect()
}

fn text_of(keyword: &str, value: Option<&OsStr>) -> std::result::Result<Option<String>, String> {
    let Some(value) = value else { return Ok(None) };
    value.to_str().map(|text| Some(text.to_owned())).ok_or_else(|| format!("{keyword} is no UTF-8"))
}

/// A line of `RevokedHostKeys`: one file, or several in newer versions of ssh. ssh prints no quotes. If the whole line is no file, each
/// word that begins as an absolute path starts a name. A missing file stays in the list, and then no host is trusted, as in ssh.
fn revoked(line: &OsStr, tokens: &Tokens) -> std::result::Result<Vec<PathBuf>, String> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    for word in line.as_bytes().split(|byte| *byte == b' ') {
        match words.last_mut() {
            Some(last) if !word.starts_with(b"/") && !word.starts_with(b"~") => last.extend([b" ", word].concat()),
            _ => words.push(word.to_vec()),
        }
    }
    let whole = readings(line, tokens)?;
    if words.len() == 1 || whole.iter().any(|path| path.symlink_metadata().is_ok()) {
        return Ok(whole);
    }
    let each = words.iter().map(|word| readings(OsStr::from_bytes(word), tokens));
    Ok(each.collect::<std::result::Result<Vec<_>, _>>()?.concat())
}

/// ssh prints a name as configured; not every version expands tokens. Each reading that is a file counts, else one missing file.
fn readings(file: &OsStr, tokens: &Tokens) -> std::result::Result<Vec<PathBuf>, String> {
    if file == "none" {
        return Ok(Vec::new());
    }
    let plain = expand::tilde(file).map_err(|why| format!("revokedhostkeys: {why}"))?;
    let expanded = tokens.expand(plain.as_os_str()).unwrap_or_else(|_| OsString::from(plain.as_os_str()));
    let mut readings = vec![plain.clone()];
    readings.extend(Some(PathBuf::from(expanded)).filter(|expanded| *expanded != plain));
    let there: Vec<PathBuf> = readings.into_iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    Ok(if there.is_empty() { vec![plain] } else { there })
}

fn untold(host: &str, why: &str) -> Failure {
    let message = format!("ssh does not tell what your ssh_config says about {host}: {}", text::clean(why));
    Failure::new(Kind::Local, message)
        .next(format!("try: ssh -G {host}; until then it is not known which host keys you trust"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_prints_is_read() {
        let text = "host web\nhostname VM1.example.com\nport 2222\nhostkeyalias web\nrevokedhostkeys /x/revoked\n\
                    globalknownhostsfile none\nuserknownhostsfile /home/a/one /home/a/with a blank /home/a/two\n";
        let config = Config::parse("web", text.as_bytes()).unwrap();
        assert_eq!((config.hostname.as_str(), config.port), ("VM1.example.com", 2222));
        assert_eq!(config.alias.as_deref(), Some("web"));
        assert_eq!(config.files, ["/home/a/one", "/home/a/with a blank", "/home/a/two"].map(PathBuf::from));
        assert_eq!(config.revoked, [PathBuf::from("/x/revoked")]);
        assert!(Config::parse("a", b"hostname a\n").is_err(), "no port");
    }

    #[test]
    fn no_list_of_revoked_keys_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (one, two) = (at("one").display().to_string(), at("two b").display().to_string());
        let files = "userknownhostsfile none\nglobalknownhostsfile none\n";
        let revoked = |lines: &str| {
            let text = format!("hostname a\nport 22\n{files}{lines}\n");
            Config::parse("a", text.as_bytes()).unwrap().revoked
        };
        let both = [at("one"), at("two b")];
        assert_eq!(revoked(&format!("revokedhostkeys {one} {two}")), both);
        assert_eq!(revoked(&format!("revokedhostkeys {one}\nrevokedhostkeys {two}")), both);
        std::fs::write(at("two b"), "").unwrap();
        assert_eq!(revoked(&format!("revokedhostkeys {two}")), both[1..]);
        assert_eq!(revoked("revokedhostkeys none"), both[..0]);
    }

    #[test]
    fn what_an_older_ssh_prints_is_expanded_and_what_is_missing_is_an_error() {
        let home = expand::home().unwrap();
        let text = "hostname a\nport 22\nuserknownhostsfile ~/.ssh/known_hosts ~/x\nglobalknownhostsfile ~/y\n\
                    revokedhostkeys ~/revoked\nidentityfile ~/.ssh/%h-%p\nidentityfile ~/.ssh/b\nidentitiesonly yes\n\
                    identityagent ~/agent\ncertificatefile %d/c\n";
        let config = Config::parse("a", text.as_bytes()).unwrap();
        assert_eq!(config.files, [".ssh/known_hosts", "x", "y"].map(|name| home.join(name)));
        assert_eq!(config.revoked, [home.join("revoked")]);
        assert_eq!(config.identities.files, [".ssh/a-22", ".ssh/b"].map(|name| home.join(name)));
        assert_eq!(config.identities.certificates, [home.join("c")]);
        assert_eq!((config.identities.agent, config.identities.only), (Some(home.join("agent")), true));
        for keyword in ["hostname", "port", "userknownhostsfile", "globalknownhostsfile"] {
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(keyword)).collect();
            let why = Config::parse("a", lines.join("\n").as_bytes()).unwrap_err();
            assert!(why.contains(keyword), "{why}");
        }
    }
}
