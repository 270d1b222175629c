//! What the host states about one `WhoAmI` call, signed by its TLS key.
//!
//! Owns the text of the statement and how many are signed at once. It never signs what a peer chose: of the peer's bytes only the
//! nonce is in it, encoded, behind a mark that no other signature of this key begins with (docs/decisions/0040).

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1::WhoAmIResponse;
use postern_proto::{STATEMENT_MARK, STATEMENT_NONCE};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::tls::TlsIdentity;

/// Statements that are signed at the same time, on threads for blocking work. A signature by an RSA key takes milliseconds.
const AT_ONCE: usize = 2;
/// How long a call waits for its turn, as a signed message does.
const WAIT: Duration = Duration::from_secs(1);

/// Makes statements.
#[derive(Clone)]
pub(super) struct Statements {
    tls: Arc<TlsIdentity>,
    turns: Arc<Semaphore>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    nonce: String,
    host_id: &'a str,
    names: &'a [String],
    host_time: String,
    clock_trusted: bool,
    challenge: &'a str,
    address: &'a str,
    local_address: &'a str,
    tls_fingerprint: &'a str,
}

impl Statements {
    /// By this key.
    pub(super) fn new(tls: TlsIdentity) -> Self {
        Self { tls: Arc::new(tls), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// `SHA256:…` of the TLS certificate.
    pub(super) fn fingerprint(&self) -> &str {
        &self.tls.fingerprint
    }

    /// Adds the statement for a call with this nonce to its answer. Without a nonce there is none.
    ///
    /// # Errors
    /// [`Reason::EnvelopeMalformed`] for a nonce of a wrong length, [`Reason::Overloaded`] where too many calls wait.
    pub(super) async fn state(&self, answer: WhoAmIResponse, nonce: &[u8]) -> Result<WhoAmIResponse, Refusal> {
        if nonce.is_empty() {
            return Ok(answer);
        }
        if !STATEMENT_NONCE.contains(&nonce.len()) {
            let (least, most) = (STATEMENT_NONCE.start(), STATEMENT_NONCE.end());
            let detail = format!("the nonce has {} bytes; it may have {least} to {most}, or none", nonce.len());
            return Err(Refusal::new(Reason::EnvelopeMalformed, detail).at("nonce"));
        }
        let busy = || Refusal::new(Reason::Overloaded, "try again in a moment");
        let turn = tokio::time::timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let statement = text(&answer, nonce).ok_or_else(busy)?;
        let tls = Arc::clone(&self.tls);
        let marked = [STATEMENT_MARK, statement.as_bytes()].concat();
        let sign = move || {
            let _turn = turn;
            tls.sign(&marked)
        };
        let signature = tokio::task::spawn_blocking(sign).await.map_err(|_| busy())?;
        let signature = signature.map_err(|error| {
            tracing::error!(%error, "the TLS key does not sign the statement that clients ask for");
            Refusal::new(Reason::Overloaded, "the host's TLS key does not sign")
        })?;
        let (statement_signature, tls_certificate) = (signature, self.tls.certificate.to_vec());
        Ok(WhoAmIResponse { statement, statement_signature, tls_certificate, ..answer })
    }
}

fn text(answer: &WhoAmIResponse, nonce: &[u8]) -> Option<String> {
    let WhoAmIResponse { host_id, names, clock_trusted, challenge, address, local_address, tls_fingerprint, .. } =
        answer;
    let time = answer.host_time.as_ref()?;
    let statement = Statement {
        nonce: BASE64_URL_SAFE_NO_PAD.encode(nonce),
        host_id,
        names,
        host_time: Timestamp::new(time.seconds, time.nanos).ok()?.to_string(),
        clock_trusted: *clock_trusted,
        challenge,
        address,
        local_address,
        tls_fingerprint,
    };
    serde_json::to_string(&statement).ok()
}
