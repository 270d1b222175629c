//! Placeholder until the sign branch lands: take theirs.
use serde::{Deserialize, Serialize};
/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// As the trust file names them.
    pub principal: String,
    /// `SHA256:…` of the key that signed.
    pub fingerprint: String,
}
