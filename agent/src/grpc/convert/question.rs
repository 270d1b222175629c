//! The question of `WhichKeysCount`.
//!
//! Owns the bounds of its fields. It never decides whether a key counts.

use postern_core::envelope::{Claims, Purpose};
use postern_core::question::{KeyToJudge, MOST_KEYS, MOST_PRINCIPALS, MOST_TEXT};
use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1;

/// The purpose and the keys of a question.
///
/// # Errors
/// Fails with [`Reason::EnvelopeMalformed`] if the purpose is missing, the number of keys is out of bounds, or a key is malformed.
pub fn which_keys(question: v1::WhichKeysCountRequest) -> Result<(Purpose, Vec<KeyToJudge>), Refusal> {
    let role = match question.purpose() {
        v1::KeyPurpose::Request => Purpose::Request,
        v1::KeyPurpose::Approve => Purpose::Approve,
        v1::KeyPurpose::Revoke => Purpose::Revoke,
        v1::KeyPurpose::Read => Purpose::Read,
        v1::KeyPurpose::Unspecified => return Err(malformed("purpose", "name the purpose of the keys")),
    };
    let count = question.keys.len();
    if count == 0 || count > MOST_KEYS {
        return Err(malformed("keys", format!("there are {count}; ask about 1 to {MOST_KEYS}")));
    }
    let keys = question.keys.into_iter().enumerate().map(|(at, key)| key_to_judge(at, key));
    Ok((role, keys.collect::<Result<_, _>>()?))
}

fn key_to_judge(at: usize, asked: v1::KeyToJudge) -> Result<KeyToJudge, Refusal> {
    let v1::KeyToJudge { fingerprint, authority, principals, serial, key_id, valid_after, valid_before } = asked;
    let parse = |text: &str, field| {
        let parsed = text.parse();
        parsed.map_err(|_| malformed(&format!("keys[{at}].{field}"), "it is not SHA256: and 43 characters of base64"))
    };
    let key = parse(&fingerprint, "fingerprint")?;
    if authority.is_empty() {
        return Ok(KeyToJudge { key, certificate: None });
    }
    let authority = parse(&authority, "authority")?;
    if principals.len() > MOST_PRINCIPALS {
        return Err(malformed(&format!("keys[{at}].principals"), format!("at most {MOST_PRINCIPALS} names")));
    }
    if principals.iter().chain([&key_id]).any(|text| text.len() > MOST_TEXT) {
        return Err(malformed(
            &format!("keys[{at}]"),
            format!("at most {MOST_TEXT} bytes for each name and the key id"),
        ));
    }
    let certificate = Claims { authority, serial, key_id, principals, valid_after, valid_before };
    Ok(KeyToJudge { key, certificate: Some(certificate) })
}

fn malformed(field: &str, detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::EnvelopeMalformed, detail).at(field)
}
