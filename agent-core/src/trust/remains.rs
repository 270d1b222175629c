//! The readable parts of a broken trust file or list of revoked keys. Owns the rule that a broken file only removes trust: it adds no key,
//! no name and no time. It never reads a file.

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::tz::TimeZone;

use super::allowed_signers::{Line, Who};
use super::revoked::Revoked;
use super::{Entry, MOST_FILE, MOST_LINE, Trust, TrustError, TrustFile};
use crate::ssh::{Accept, Fingerprint, PublicKey};

/// An `allowed_signers` file: its readable lines, and the keys in its unreadable lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub(super) lines: Trust,
    spared: HashSet<Fingerprint>,
    errors: Vec<TrustError>,
}

/// The readable parts of a list of revoked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    revoked: Revoked,
    error: Option<TrustError>,
}

/// The part of the earlier trust that a broken file leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) lines: Trust,
    pub(super) spared: HashSet<Fingerprint>,
}

impl Remains {
    /// Reads each line. Times without `Z` are in `zone`; without a zone they are errors.
    #[must_use]
    pub fn of(allowed_signers: &[u8], zone: Option<&TimeZone>) -> Self {
        let mut remains = Self::default();
        let error = |line, reason: String| TrustError { file: TrustFile::AllowedSigners, line, reason };
        if allowed_signers.len() > MOST_FILE {
            remains.errors.push(error(0, format!("the file has more than {MOST_FILE} bytes")));
            return remains;
        }
        let mut named = HashSet::new();
        for (number, bytes) in (1..).zip(allowed_signers.split(|byte| *byte == b'\n')) {
            match line(number, bytes, zone) {
                Ok(read) => read.into_iter().for_each(|line| remains.lines.push(line)),
                Err(reason) => {
                    remains.errors.push(error(number, reason));
                    named.extend(keys_in(&String::from_utf8_lossy(bytes)));
                }
            }
        }
        remains.spared = named.into_iter().filter(|key| !remains.lines.by_key.contains_key(key)).collect();
        remains
    }

    /// The errors, line by line; empty for a file without errors.
    #[must_use]
    pub fn errors(&self) -> &[TrustError] {
        &self.errors
    }

    /// The lines of `trust` whose key this file no longer lists.
    pub fn missing<'a>(&self, trust: &'a Trust) -> impl Iterator<Item = Entry<'a>> {
        trust.entries().filter(|entry| !self.lists(entry.of_line()))
    }

    /// `good`, a file without errors, without the lines whose key this file no longer lists.
    #[must_use]
    pub fn keep(&self, good: &str, zone: Option<&TimeZone>) -> String {
        let stays =
            |text: &&str| !matches!(Line::parse(1, text.trim_end(), zone), Ok(Some(line)) if !self.lists(&line));
        good.split_inclusive('\n').filter(stays).collect()
    }

    fn lists(&self, line: &Line) -> bool {
        let authority = |line: &Line| matches!(line.who, Who::CertifiedAs(_));
        self.spared.contains(&line.key) || self.lines.lines_of(line.key, authority(line)).next().is_some()
    }
}

fn line(number: usize, bytes: &[u8], zone: Option<&TimeZone>) -> Result<Option<Line>, String> {
    if bytes.len() > MOST_LINE {
        return Err(format!("the line has more than {MOST_LINE} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Line::parse(number, text, zone)
}

fn keys_in(line: &str) -> Vec<Fingerprint> {
    if line.trim_start().starts_with('#') {
        return Vec::new();
    }
    let key = |word: &str| Some(PublicKey::parse(&STANDARD.decode(word).ok()?, Accept::Signers).ok()?.fingerprint());
    line.split(|c: char| c.is_whitespace() || c.is_control()).filter_map(key).collect()
}

impl Revocations {
    /// Reads the readable parts of a KRL, or of a text with one public key or `SHA256:…` in each line.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() > MOST_FILE {
            let reason = format!("the file has more than {MOST_FILE} bytes");
            return Self {
                revoked: Revoked::default(),
                error: Some(TrustError { file: TrustFile::Revoked, line: 0, reason }),
            };
        }
        let (revoked, error) = Revoked::salvage(bytes);
        Self { revoked, error }
    }

    /// The first error.
    #[must_use]
    pub fn error(&self) -> Option<&TrustError> {
        self.error.as_ref()
    }
}

impl Trust {
    /// The trust from the readable parts of both files.
    #[must_use]
    pub fn of(signers: Remains, revocations: Revocations) -> Self {
        Self { revoked: revocations.revoked, ..signers.lines }
    }

    /// This trust without the keys, names, purposes and times that `broken` no longer gives. Nothing is added, and the revocations stay.
    #[must_use]
    pub fn limited_by(&self, broken: &Remains) -> Self {
        let mut limited = Self { revoked: self.revoked.clone(), ..Self::default() };
        self.lines.iter().filter(|line| broken.lists(line)).for_each(|line| limited.push(line.clone()));
        limited.limit = Some(Box::new(Limit { lines: broken.lines.clone(), spared: broken.spared.clone() }));
        limited
    }

    /// Replaces the revocations of this trust by `revocations`.
    #[must_use]
    pub fn revoking(self, revocations: Revocations) -> Self {
        Self { revoked: revocations.revoked, ..self }
    }

    /// Replaces the revocations of this trust by those of `other`.
    #[must_use]
    pub fn revoking_as(self, other: &Self) -> Self {
        Self { revoked: other.revoked.clone(), ..self }
    }

    /// Adds `revocations` to those of this trust.
    #[must_use]
    pub fn also_revoking(mut self, revocations: Revocations) -> Self {
        self.revoked.extend(revocations.revoked);
        self
    }
}
