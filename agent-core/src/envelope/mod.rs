//! Verification of signed messages: who signed these exact bytes, and for which purpose. Owns the order of checks from an envelope to
//! [`Verified`] (DESIGN 5), cheap before costly. It never reads the payload: signatures cover bytes.

mod basis;
mod certificate;
mod signature;

use ring::digest;

pub use basis::Basis;
pub use signature::Signature;

use crate::refusal::{Reason, Refusal};
use crate::signer::Presented;
pub use crate::signer::{Claims, Purpose, Signer, Vouched};
use crate::ssh::dearmor;
use crate::trust::{Moment, Trust};

/// The largest payload, in bytes.
pub const MOST_PAYLOAD: usize = 32 * 1024;
/// The most signatures on one envelope: a requester and some approvers.
pub const MOST_SIGNATURES: usize = 8;

/// A signed message, borrowed.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The signed bytes.
    pub payload: &'a [u8],
    /// The claimed type, for example `application/vnd.postern.access-request.v1+json`.
    pub payload_type: &'a str,
    /// Armored SSHSIGs.
    pub signatures: Vec<&'a str>,
}

/// The proof from a valid envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// At least one: first the signer in `role`, then the approvers. No principal twice.
    pub signers: Vec<Signer>,
    /// The purpose of the payload's type.
    pub role: Purpose,
    /// SHA-256 of the payload.
    pub payload_digest: [u8; 32],
    /// The data to judge the signers again when the message takes effect.
    pub basis: Basis,
}

impl Verified {
    /// The signer in [`Verified::role`]. It always exists; the option avoids a panic.
    #[must_use]
    pub fn signer(&self) -> Option<&Signer> {
        self.signers.first()
    }
}

/// Checks an envelope: first the size and form, then keys, roles and validity, then the signatures. `now` is in seconds since the Unix
/// epoch. Without `clock_trusted` it refuses keys and certificates with an end (docs/decisions/0010-trust.md).
/// # Errors
/// The first failed check. All reasons count as those of an unverified peer.
pub fn verify(envelope: &Envelope<'_>, trust: &Trust, now: i64, clock_trusted: bool) -> Result<Verified, Refusal> {
    let role = check_form(envelope)?;
    verify_in(role, envelope, trust, now, clock_trusted)
}

/// Checks a separate approval: the payload of a request with one signature in the approver's namespace. Otherwise as [`verify`].
/// # Errors
/// As [`verify`]; [`Reason::EnvelopeMalformed`] if the payload is no request.
pub fn verify_approval(
    envelope: &Envelope<'_>,
    trust: &Trust,
    now: i64,
    clock_trusted: bool,
) -> Result<Verified, Refusal> {
    if check_form(envelope)? != Purpose::Request {
        return Err(Refusal::new(Reason::EnvelopeMalformed, "only requests are approved").at("payload_type"));
    }
    verify_in(Purpose::Approve, envelope, trust, now, clock_trusted)
}

fn verify_in(
    role: Purpose,
    envelope: &Envelope<'_>,
    trust: &Trust,
    now: i64,
    clock_trusted: bool,
) -> Result<Verified, Refusal> {
    let moment = Moment::new(now, clock_trusted);
    let bytes = envelope.signatures.iter().map(|text| dearmor(text)).collect::<Result<Vec<_>, _>>()?;
    let mut signed = Vec::with_capacity(bytes.len());
    for bytes in &bytes {
        let signature = Signature::parse(bytes)?;
        let signed_role = signature_role(role, &signature)?;
        let presented = signature.presented(signed_role);
        let signer = trust.admit(&presented, moment)?;
        signed.push((signer, presented, signature));
    }
    signed.sort_by_key(|(_, presented, _)| presented.role != role);
    check_people(role, &signed)?;
    for (.., signature) in &signed {
        signature.verify(envelope.payload)?;
    }
    let signers = signed.iter().map(|(signer, ..)| signer.clone()).collect();
    let basis = Basis::new(signed.into_iter().map(|(signer, presented, _)| (signer, presented)).collect());
    Ok(Verified { signers, role, payload_digest: payload_digest(envelope.payload), basis })
}

/// The SHA-256 of a payload, by which the host refuses a repeat before all other checks.
#[must_use]
pub fn payload_digest(payload: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, payload).as_ref());
    bytes
}

fn check_form(envelope: &Envelope<'_>) -> Result<Purpose, Refusal> {
    if envelope.payload.len() > MOST_PAYLOAD {
        let detail = format!("a payload of {} bytes, at most {MOST_PAYLOAD}", envelope.payload.len());
        return Err(Refusal::new(Reason::MessageTooLarge, detail).at("payload"));
    }
    if envelope.signatures.is_empty() {
        return Err(Refusal::new(Reason::Unsigned, "the envelope has no signature").at("signatures"));
    }
    if envelope.signatures.len() > MOST_SIGNATURES {
        let detail = format!("{} signatures, at most {MOST_SIGNATURES}", envelope.signatures.len());
        return Err(Refusal::new(Reason::MessageTooLarge, detail).at("signatures"));
    }
    let unknown = || Refusal::new(Reason::EnvelopeMalformed, "the payload's type is unknown").at("payload_type");
    Purpose::of_payload_type(envelope.payload_type).ok_or_else(unknown)
}

fn signature_role(role: Purpose, signature: &Signature) -> Result<Purpose, Refusal> {
    let made_for = Purpose::ALL.into_iter().find(|r| r.namespace().as_bytes() == signature.namespace());
    made_for.filter(|&r| role.admits(r)).ok_or_else(|| {
        let detail = format!("this payload is signed with -n {}", role.namespace());
        Refusal::new(Reason::NamespaceMismatch, detail).at("signatures")
    })
}

/// `signed` has the payload's own role first.
fn check_people(role: Purpose, signed: &[(Signer, Presented, Signature)]) -> Result<(), Refusal> {
    let malformed = |detail: &str| Err(Refusal::new(Reason::EnvelopeMalformed, detail).at("signatures"));
    if signed.iter().filter(|(_, presented, _)| presented.role == role).count() != 1 {
        return malformed(&format!("exactly one signature with -n {} is needed", role.namespace()));
    }
    let mut principals: Vec<_> = signed.iter().map(|(signer, ..)| signer.principal.as_str()).collect();
    principals.sort_unstable();
    if principals.windows(2).any(|pair| pair.first() == pair.last()) {
        return malformed("the same person signed twice");
    }
    Ok(())
}
