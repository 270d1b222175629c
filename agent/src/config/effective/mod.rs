//! The host trust in force. The last good version replaces a file that cannot be used, without the keys that the file no longer lists.
//!
//! Owns reading configuration, trust file and list of revoked keys, so that a start and a reload always have rules
//! (docs/decisions/0042). Never decides about a request. Only [`Copies`] writes files.

mod copies;

use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use postern_core::condition::Condition;
use postern_core::mode::Mode;
use postern_core::policy::{Policy, PortRule};
use postern_core::trust::{Entry, Remains, Revocations, Trust, TrustError};
use ring::digest::{Context, SHA256};

use crate::config::{Config, lints};
use crate::system::files::{self, Contents, Opener};

pub use copies::{Copies, RootFiles};

/// The advice in most findings.
const MEND: &str =
    "Correct the file (posternd check-config names the mistakes) and reload posternd (systemctl reload posternd)";
/// The advice for a configuration without a setting, which has no mistake to correct.
const WRITE: &str = "Write the settings into the file, or mode = \"enforce\" for the defaults, and reload posternd \
                     (systemctl reload posternd)";
const NAMED: usize = 20;

/// A condition and its detail in words; `None`: the condition does not hold.
pub type Finding = (Condition, Option<String>);

/// The rules in force. A reload replaces them.
#[derive(Clone)]
pub struct Rules {
    /// Who may open which port.
    pub policy: Arc<Policy>,
    /// Whose signatures count.
    pub trust: Arc<Trust>,
    /// Hex SHA-256 of the files from which the rules were read.
    pub digest: Arc<str>,
}

/// The configuration and rules of a start or a reload.
pub struct Effective {
    /// From the file, from the last good copy, or [`Config::bare`].
    pub config: Config,
    /// Policy and trust.
    pub rules: Rules,
    /// Whether the configuration is bare: it closes the ports and trusts nobody.
    pub is_bare: bool,
    /// A finding for each file.
    pub findings: Vec<Finding>,
}

/// The last good files, each with words for its origin ("the last good copy, of …").
#[derive(Default)]
pub struct Last {
    /// The configuration.
    pub config: Option<(Config, String)>,
    /// Whose signatures counted.
    pub trust: Option<(Trust, String)>,
    /// Words for the origin of the revocations in `trust`; `None`: they are not known.
    pub revoked: Option<String>,
    /// The bytes that represent the last good files in [`Rules::digest`].
    pub seal: Vec<u8>,
}

impl Last {
    /// The configuration and rules of the running posternd.
    #[must_use]
    pub fn running(config: &Config, rules: &Rules) -> Self {
        let words = || "what was in force before".to_owned();
        // A confirmed trial enforces, whatever mode the file had at the start.
        let policy = Policy { mode: rules.policy.mode, ..config.policy() };
        Self {
            config: Some((config.clone().with_policy(policy), words())),
            trust: Some(((*rules.trust).clone(), words())),
            revoked: Some(words()),
            seal: rules.digest.as_bytes().to_vec(),
        }
    }
}

/// Reads the configuration at `path` and the files that it names. Never fails: `last` replaces an unusable file, with a finding.
#[must_use]
pub fn read(path: &Path, opener: &Opener, last: &Last) -> Effective {
    let at = |path: &Path| Contents::of(opener.open(path));
    let file = at(path);
    let (config, why, is_bare) = configuration(path, &file, last);
    let mut findings = vec![(Condition::Configuration, why)];
    let mut files = Context::new(&SHA256);
    let mut seal = |found: &Contents| {
        let bytes = found.bytes.as_deref().unwrap_or_default();
        files.update(&(bytes.len() as u64).to_be_bytes());
        files.update(bytes);
    };
    seal(&file);
    let trust = if is_bare {
        Trust::default()
    } else {
        let signers = at(&config.trust_file);
        let revoked = config.revoked_keys.as_deref().map(|path| (path, at(path)));
        seal(&signers);
        seal(revoked.as_ref().map_or(&Contents::default(), |(_, found)| found));
        let (trust, why) = signers_of(&config.trust_file, &signers, last);
        findings.push((Condition::TrustFile, why));
        let (trust, why) = match &revoked {
            None => (trust.revoking(Revocations::default()), None),
            Some((path, found)) => revoke(trust, path, found, last),
        };
        findings.push((Condition::RevokedKeys, why));
        trust
    };
    if findings.iter().any(|(_, why)| why.is_some()) {
        files.update(&last.seal);
    }
    let digest = files.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let rules = Rules { policy: Arc::new(config.policy()), trust: Arc::new(trust), digest: digest.into() };
    Effective { config, rules, is_bare, findings }
}

/// The configuration in force, what is wrong with the file, and whether the configuration is bare ([`Config::bare`]).
fn configuration(path: &Path, file: &Contents, last: &Last) -> (Config, Option<String>, bool) {
    let differs = |config: &Config| last.config.as_ref().is_some_and(|(last, _)| last != config);
    let (error, mend) = match Config::of(path, file) {
        // A truncated file must not open closed ports. An administrator who wants the defaults writes a setting.
        Ok(config) if differs(&config) && says_nothing(file) => {
            (format!("{}: the file contains no setting", path.display()), WRITE)
        }
        Ok(config) => return (config, None, false),
        Err(error) => (error.brief(), MEND),
    };
    match &last.config {
        Some((config, when)) => (config.clone(), Some(format!("{error}. posternd uses {when}. {mend}")), false),
        None => {
            // A file that others than root could have written is ignored: its mode could be `observe`.
            let config = Config::bare(&String::from_utf8_lossy(file.owned().unwrap_or_default()));
            let why = format!(
                "{error}. There is no last good copy, so nobody is trusted. posternd closes the ports that it can read from the file, \
                 the default ports and those that were closed before. Root gets in by break-glass. Mend the file (posternd \
                 check-config names the mistakes) and start posternd again (systemctl restart posternd)"
            );
            (config, Some(why), true)
        }
    }
}

/// Why posternd does not use the valid file at `path`: it has no setting, and the last good copy differs from the defaults.
#[must_use]
pub fn emptied(path: &Path) -> Option<String> {
    let (last, when) = Copies::of(path).last().config?;
    let differs = Config::load(path).is_ok_and(|config| config != last);
    let path = (differs && says_nothing(&Contents::of(files::open(path)))).then(|| path.display())?;
    Some(format!("{path}: the file contains no setting, so posternd uses {when} and not the defaults. {WRITE}"))
}

/// Whether a configuration file contains no setting.
fn says_nothing(file: &Contents) -> bool {
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    String::from_utf8_lossy(file.bytes.as_deref().unwrap_or_default()).lines().all(is_blank)
}

/// Whether the configuration at `path` contains no setting although there is a good copy.
#[must_use]
pub fn is_emptied(path: &Path) -> bool {
    says_nothing(&Contents::of(files::open(path))) && Copies::of(path).last().config.is_some()
}

/// The trust by the trust file, and what is wrong with that file. The revocations are those of `last`, or none if the file is good.
fn signers_of(path: &Path, found: &Contents, last: &Last) -> (Trust, Option<String>) {
    let bytes = found.bytes.as_deref().unwrap_or_default();
    let remains = Remains::of(bytes, Some(&TimeZone::system()));
    let Some(wrong) = wrong(path, found, remains.errors()) else {
        return (Trust::of(remains, Revocations::default()), None);
    };
    let Some((trust, when)) = &last.trust else {
        return (Trust::default(), Some(format!("{wrong}. There is no last good copy, so nobody is trusted. {MEND}")));
    };
    if found.bytes.is_none() || is_noise(bytes, &remains, trust) {
        let all = named(trust.entries());
        return (trust.clone(), Some(format!("{wrong}. posternd uses {when}, with the keys of {all}. {MEND}")));
    }
    let gone = named(remains.missing(trust));
    let gone = if gone.is_empty() {
        gone
    } else {
        format!(" Not trusted any more, because the file does not list them: {gone}.")
    };
    let why = format!(
        "{wrong}. posternd uses {when}, without the keys that the file takes away, and the file adds nobody.{gone} {MEND}"
    );
    (trust.limited_by(&remains), Some(why))
}

/// Whether the bytes are not text and contain no known key: such a file is damaged, and nobody removed keys from it. Text in an encoding
/// other than UTF-8 is text, because it has no control characters.
fn is_noise(bytes: &[u8], remains: &Remains, before: &Trust) -> bool {
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    let is_text = std::str::from_utf8(bytes).is_ok() || !bytes.iter().any(is_control);
    !is_text && remains.missing(before).count() == before.len()
}

fn revoke(trust: Trust, path: &Path, found: &Contents, last: &Last) -> (Trust, Option<String>) {
    let read = Revocations::of(found.bytes.as_deref().unwrap_or_default());
    let Some(wrong) = wrong(path, found, read.error().map_or(&[], std::slice::from_ref)) else {
        return (trust.revoking(read), None);
    };
    match (&last.revoked, &last.trust) {
        (Some(when), Some((before, _))) => {
            let why = format!(
                "{wrong}. posternd takes as revoked the keys of {when}, and those that it can read from the file. {MEND}"
            );
            (trust.revoking_as(before).also_revoking(read), Some(why))
        }
        _ => {
            let why = format!(
                "{wrong}. There is no last good copy, so any key may be revoked, and nobody is trusted. {MEND}"
            );
            (Trust::default(), Some(why))
        }
    }
}

/// What is wrong with the file as a whole, or else with its first wrong line.
fn wrong(path: &Path, found: &Contents, errors: &[TrustError]) -> Option<String> {
    let more = match errors.len() {
        0 | 1 => String::new(),
        many => format!(" (other lines with mistakes: {})", many - 1),
    };
    let text = errors.first().map(|error| format!("{error}{more}"));
    let why = found.wrong.clone().or(text)?;
    Some(format!("{}: {why}", path.display()))
}

fn named<'a>(entries: impl Iterator<Item = Entry<'a>>) -> String {
    let all: Vec<_> =
        entries.map(|entry| format!("{} ({})", entry.principals().join(","), entry.fingerprint())).collect();
    let more = all.len().saturating_sub(NAMED);
    let shown = all.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Finds [`Condition::NoWayIn`]: no signature can open any port. `at` is in seconds since the Unix epoch.
#[must_use]
pub fn way_in(rules: &Rules, at: i64) -> Finding {
    let ports = lints::unaskable(&rules.policy, &rules.trust, at);
    let nobody = rules.policy.mode == Mode::Enforce && !ports.is_empty() && ports.len() == rules.policy.ports.len();
    let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let why = format!(
        "nobody can open {ports}: no requester whose role covers it has a key in the trust file that counts now. Root gets in by \
         break-glass; posternd check-config has the details"
    );
    (Condition::NoWayIn, nobody.then_some(why))
}

/// Adds to `rules` the ports that the record lists as closed before.
pub fn keep_closed(rules: &mut Rules, before: &[postern_core::grant::PortSpec]) {
    let mut policy = (*rules.policy).clone();
    for port in before {
        let protected: Vec<_> = policy.protected().collect();
        if port.transports().any(|transport| !protected.contains(&transport)) {
            policy.ports.retain(|rule| rule.port != *port);
            policy.ports.push(PortRule::new(*port));
        }
    }
    rules.policy = Arc::new(policy);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn without_a_copy_the_words_of_others_are_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        fs::write(&path, "mode = \"observe\"\nstate_dir = \"/nonexistent\"\n[api]\ntcp = [\"[::]:1\"]\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let Effective { config, is_bare, findings, .. } = read(&path, &Opener::default(), &Last::default());
        assert!(is_bare && findings[0].1.is_some());
        assert_eq!(config.policy().mode, Mode::Enforce);
        assert!(config.api.tcp.is_empty() && config.state_dir == Path::new("/var/lib/postern"), "{config:?}");
    }
}
