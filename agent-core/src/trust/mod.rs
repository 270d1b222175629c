//! Trust: an OpenSSH `allowed_signers` file and a list of revoked keys. Owns both grammars, and decides whether a key may sign in a role
//! now. It checks no signatures ([`crate::envelope`] does), gives no rights ([`crate::policy`] does) and never reads a file.

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

/// The file with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustFile {
    /// The trust file.
    AllowedSigners,
    /// The list of revoked keys.
    Revoked,
}

/// Why a whole file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TrustError {
    /// Which file.
    pub file: TrustFile,
    /// The line, counted from 1; 0 for the whole file.
    pub line: usize,
    /// The error, in words, without a full stop.
    pub reason: String,
}

/// The trusted keys, with names, purposes and times. The default trusts none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    lines: Vec<Line>,
    by_key: HashMap<Fingerprint, Vec<usize>>,
    revoked: Revoked,
    /// The trust that a broken file has removed.
    limit: Option<Box<Limit>>,
}

impl Trust {
    /// Reads an `allowed_signers` file and a list of revoked keys: an OpenSSH KRL, or one public key or `SHA256:…` in each line. A time
    /// without `Z` is an error: see [`Self::parse_in`].
    /// # Errors
    /// The first unreadable line in either file; ssh-keygen would skip it.
    pub fn parse(allowed_signers: &str, revoked: &[u8]) -> Result<Self, TrustError> {
        Self::parse_in(allowed_signers, revoked, None)
    }

    /// As [`Self::parse`]; times without `Z` are local times in `zone`, as for ssh-keygen.
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

    /// The number of keys and authorities in the trust file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether the trust file lists no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The holder of the key that signed in this role. The first line that fits decides, as in ssh-keygen. This checks no signature.
    /// # Errors
    /// The key is unknown, revoked, not for this role, not valid now, or its authority may not certify any of the names.
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

    /// Whether a signer who was accepted before still counts; a reload ends the grants of the others. It checks the trust file and the
    /// revocations, and ignores the certificate's own dates, which limit when it may sign. Without a trusted clock it ignores all dates: a
    /// wrong clock must not end live grants. `now` is in seconds since the Unix epoch.
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

    fn lines_of(&self, key: Fingerprint, authority: bool) -> impl Iterator<Item = &Line> {
        let indices = self.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        let lines = indices.iter().filter_map(|&index| self.lines.get(index));
        lines.filter(move |line| matches!(line.who, Who::CertifiedAs(_)) == authority)
    }
}

/// `certified` are the names in the certificate.
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
    fn principal<'a>(&'a self, certified: &[&'a str]) -> Result<&'a str, Refusal> {
        let name = match &self.who {
            Who::Holder(names) => names.first().map(String::as_str),
            Who::CertifiedAs(list) => certified.iter().copied().find(|name| list.matches(name)),
        };
        name.filter(|n| !n.is_empty()).ok_or_else(|| {
            Refusal::new(Reason::CertificateInvalid, "its authority may vouch for none of its principals")
        })
    }

    fn names(&self, principal: &str) -> bool {
        match &self.who {
            Who::Holder(names) => names.first().is_some_and(|name| name == principal),
            Who::CertifiedAs(list) => list.matches(principal),
        }
    }
}
