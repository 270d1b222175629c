//! Whose signatures count, and for what: an OpenSSH `allowed_signers` file and a list of revoked keys.
//!
//! Owns both grammars and the question whether a key may sign in a role now. It never checks a signature
//! ([`crate::envelope`] does), never decides what a principal may have ([`crate::policy`] does) and never reads a file.

mod allowed_signers;
mod entry;
mod krl;
mod remains;
mod revoked;
mod window;

use std::collections::HashMap;

use allowed_signers::{Line, Who};
pub use entry::Entry;
use jiff::tz::TimeZone;
use remains::Limit;
pub use remains::{Remains, Revocations};
use revoked::Revoked;
pub(crate) use window::Moment;
use window::Window;

use crate::refusal::{Reason, Refusal};
use crate::signer::{Presented, Purpose, Signer, Vouched};
use crate::ssh::Fingerprint;

/// The largest file of either kind, in bytes.
pub const MOST_FILE: usize = 4 * 1024 * 1024;
/// The longest line, in bytes. An RSA-8192 key takes 1.5 KiB.
const MOST_LINE: usize = 16 * 1024;

/// Which of the two files an error is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustFile {
    /// The trust file.
    AllowedSigners,
    /// The list of revoked keys.
    Revoked,
}

/// Why a file was not accepted. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TrustError {
    /// Which file.
    pub file: TrustFile,
    /// The line, counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong with it, in words, without a full stop.
    pub reason: String,
}

/// The keys that this host trusts, with names, purposes and times. The default trusts none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    lines: Vec<Line>,
    by_key: HashMap<Fingerprint, Vec<usize>>,
    revoked: Revoked,
    /// What a broken file has taken away.
    limit: Option<Box<Limit>>,
}

impl Trust {
    /// Reads an `allowed_signers` file and a list of revoked keys: an OpenSSH KRL, or a text with one public key or
    /// `SHA256:…` in each line; it may be empty. A time without `Z` is not understood: see [`Self::parse_in`].
    ///
    /// # Errors
    /// The first line that is not understood, in either; ssh-keygen would skip it.
    pub fn parse(allowed_signers: &str, revoked: &[u8]) -> Result<Self, TrustError> {
        Self::parse_in(allowed_signers, revoked, None)
    }

    /// As [`Self::parse`]; times without `Z` are local ones in `zone`, as ssh-keygen reads them.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_in(allowed_signers: &str, revoked: &[u8], zone: Option<&TimeZone>) -> Result<Self, TrustError> {
        let revocations = Revocations::of(revoked);
        if let Some(error) = revocations.error() {
            return Err(error.clone());
        }
        let remains = Remains::of(allowed_signers.as_bytes(), zone);
        match remains.errors().first() {
            Some(error) => Err(error.clone()),
            None => Ok(Self::of(remains, revocations)),
        }
    }

    fn push(&mut self, line: Line) {
        self.by_key.entry(line.key).or_default().push(self.lines.len());
        self.lines.push(line);
    }

    /// How many keys and authorities the trust file lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether the trust file lists nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Who the holder of the key is that signed in this role. The first line that fits answers, as in ssh-keygen. No
    /// signature has been checked here.
    ///
    /// # Errors
    /// Unknown, revoked, not for this role, not at this time, or not vouched for under any name.
    pub(crate) fn admit(&self, presented: &Presented, moment: Moment) -> Result<Signer, Refusal> {
        let Presented { role, key, certificate } = presented;
        let listed = certificate.as_ref().map_or(*key, |c| c.authority);
        let lines: Vec<_> = self.lines_of(listed, certificate.is_some()).collect();
        if lines.is_empty() {
            return Err(Refusal::new(Reason::KeyUnknown, ""));
        }
        let vouched = certificate.as_ref().map(|c| Vouched {
            authority: listed.to_string(),
            serial: c.serial,
            key_id: c.key_id.clone(),
        });
        if self.revoked.contains(*key, vouched.as_ref()) {
            return Err(Refusal::new(Reason::KeyRevoked, ""));
        }
        if let Some(c) = certificate {
            Window::of_certificate(c.valid_after, c.valid_before).check(moment)?;
        }
        let names: Vec<&str> = certificate.iter().flat_map(|c| &c.principals).map(String::as_str).collect();
        let principal = first_principal(&lines, &names, *role, moment)?;
        if let Some(limit) = self.limit.as_ref().filter(|limit| !limit.spared.contains(&listed))
            && limit.lines.admit(presented, moment)?.principal != principal
        {
            return Err(Refusal::new(Reason::KeyUnknown, ""));
        }
        Ok(Signer { principal, fingerprint: key.to_string(), certificate: vouched })
    }

    /// Whether a signer who was accepted before would still be, so that a reload ends the grants of those who would not.
    ///
    /// Judged are the trust file as it is now (key or authority, name, namespace, `valid-after`, `valid-before`) and
    /// the revocations. Not judged are the certificate's own dates, which bound when it may sign and not how long what it
    /// signed lasts; and, while the clock is not trusted, no dates at all: a wrong clock ends nothing that runs.
    ///
    /// `now` is in seconds since the Unix epoch.
    #[must_use]
    pub fn trusts(&self, signer: &Signer, role: Purpose, now: i64, clock_trusted: bool) -> bool {
        let moment = Moment::new(now, clock_trusted);
        let listed = signer.certificate.as_ref().map_or(&signer.fingerprint, |c| &c.authority);
        let (Ok(key), Ok(listed)) = (signer.fingerprint.parse(), listed.parse()) else { return false };
        let fits = |line: &Line| {
            line.names(&signer.principal)
                && line.admits(role.namespace())
                && (!moment.is_trusted() || line.window.check(moment).is_ok())
        };
        !self.revoked.contains(key, signer.certificate.as_ref())
            && self.lines_of(listed, signer.certificate.is_some()).any(fits)
            && self.limit.as_ref().is_none_or(|limit| {
                limit.spared.contains(&listed) || limit.lines.trusts(signer, role, now, clock_trusted)
            })
    }

    /// The lines that list `key`, as an authority or not, in the file's order.
    fn lines_of(&self, key: Fingerprint, authority: bool) -> impl Iterator<Item = &Line> {
        let indices = self.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        let lines = indices.iter().filter_map(|&index| self.lines.get(index));
        lines.filter(move |line| matches!(line.who, Who::CertifiedAs(_)) == authority)
    }
}

/// The name that the first fitting line gives. `certified` are the names in the certificate, if there is one.
fn first_principal(lines: &[&Line], certified: &[&str], role: Purpose, moment: Moment) -> Result<String, Refusal> {
    let mut refusal = Refusal::new(Reason::RoleNotTrusted, format_args!("-n {}", role.namespace()));
    for line in lines.iter().filter(|line| line.admits(role.namespace())) {
        match line.window.check(moment).and_then(|()| line.principal(certified)) {
            Ok(name) => return Ok(name.to_owned()),
            Err(other) => refusal = other,
        }
    }
    Err(refusal)
}

impl Line {
    /// The holder's name: from the line itself, or the certificate's first name that the line lets its authority give.
    fn principal<'a>(&'a self, certified: &[&'a str]) -> Result<&'a str, Refusal> {
        let name = match &self.who {
            Who::Holder(names) => names.first().map(String::as_str),
            Who::CertifiedAs(list) => certified.iter().copied().find(|name| list.matches(name)),
        };
        name.filter(|n| !n.is_empty()).ok_or_else(|| {
            Refusal::new(Reason::CertificateInvalid, "its authority may vouch for none of its principals")
        })
    }

    /// Whether the line still gives `principal` as the holder's name, or lets its authority give it.
    fn names(&self, principal: &str) -> bool {
        match &self.who {
            Who::Holder(names) => names.first().is_some_and(|name| name == principal),
            Who::CertifiedAs(list) => list.matches(principal),
        }
    }
}
