//! The host's statement about one `WhoAmI` call, signed by its TLS key.
//!
//! Owns the text of the statement, how many are signed at once, and the order of calls. The key never signs bytes that a peer chose: the
//! nonce and the texts of ports are encoded, behind a mark with which no other signature of this key begins (decisions 0040 and 0056).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1::{PortMeaning, WhoAmIResponse};
use postern_proto::{STATEMENT_MARK, STATEMENT_NONCE};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::{Peer, Source};
use super::tls::TlsIdentity;

/// The most statements signed at once, on threads for blocking work. A signature by an RSA key takes milliseconds.
const AT_ONCE: usize = 2;
/// The longest wait for a turn, the same as for a signed message.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Statements {
    tls: Arc<TlsIdentity>,
    turns: Turns,
}

/// The order in which calls are signed. A stranger may call as often as the connections allow. So each source waits behind its own calls
/// first, and has one place in the queue of all sources. Root on the Unix socket waits only for root.
#[derive(Clone)]
struct Turns {
    shared: Arc<Semaphore>,
    root: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<Source, Arc<Semaphore>>>>,
}

/// A turn; given back when dropped.
#[derive(Debug)]
struct Turn {
    _own: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

impl Turns {
    fn new() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self { shared: Arc::new(Semaphore::new(AT_ONCE)), root: one(), sources: Arc::default() }
    }

    /// Waits for a turn of `peer`, at most [`WAIT`].
    async fn take(&self, peer: Peer) -> Option<Turn> {
        let take = async {
            if peer.is_local_root() {
                return Some(Turn { _own: Arc::clone(&self.root).acquire_owned().await.ok()?, _shared: None });
            }
            let own = self.of(peer.source()).acquire_owned().await.ok()?;
            Some(Turn { _own: own, _shared: Some(Arc::clone(&self.shared).acquire_owned().await.ok()?) })
        };
        tokio::time::timeout(WAIT, take).await.ok()?
    }

    /// The queue of one source. Only sources with a call have a queue.
    fn of(&self, source: Source) -> Arc<Semaphore> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if !sources.contains_key(&source) {
            // Each permit and each waiting call holds a reference to its queue.
            sources.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        Arc::clone(sources.entry(source).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
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
    /// Left out if the caller asked for no ports: a client without this field never sees it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Meaning<'a>>,
}

#[derive(Serialize)]
struct Meaning<'a> {
    asked: String,
    ports: &'a [String],
    admitted: bool,
}

impl<'a> Meaning<'a> {
    fn of(meaning: &'a PortMeaning) -> Self {
        let PortMeaning { asked, ports, admitted } = meaning;
        Self { asked: BASE64_URL_SAFE_NO_PAD.encode(asked), ports, admitted: *admitted }
    }
}

impl Statements {
    pub(super) fn new(tls: TlsIdentity) -> Self {
        Self { tls: Arc::new(tls), turns: Turns::new() }
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.tls.fingerprint
    }

    /// Adds the statement with this nonce to the answer for `peer`; without a nonce there is no statement. Refuses a nonce of a wrong
    /// length ([`Reason::EnvelopeMalformed`]), and a call that waits too long ([`Reason::Overloaded`]).
    pub(super) async fn state(
        &self,
        peer: Peer,
        answer: WhoAmIResponse,
        nonce: &[u8],
    ) -> Result<WhoAmIResponse, Refusal> {
        if nonce.is_empty() {
            return Ok(answer);
        }
        if !STATEMENT_NONCE.contains(&nonce.len()) {
            let (least, most) = (STATEMENT_NONCE.start(), STATEMENT_NONCE.end());
            let detail = format!("the nonce has {} bytes; it may have {least} to {most}, or none", nonce.len());
            return Err(Refusal::new(Reason::EnvelopeMalformed, detail).at("nonce"));
        }
        let busy = || Refusal::new(Reason::Overloaded, "try again in a moment");
        let turn = self.turns.take(peer).await.ok_or_else(busy)?;
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
    let WhoAmIResponse {
        host_id, names, clock_trusted, challenge, address, local_address, tls_fingerprint, ports, ..
    } = answer;
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
        ports: ports.iter().map(Meaning::of).collect(),
    };
    serde_json::to_string(&statement).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_waits_behind_its_own_calls_and_root_waits_for_nobody() {
        let turns = Turns::new();
        let peer = |last: u8| Peer::remote([192, 0, 2, last].into());
        let first = turns.take(peer(1)).await.expect("a turn");
        assert!(turns.take(peer(1)).await.is_none(), "one source has one turn");
        let second = turns.take(peer(2)).await.expect("a turn for another source");
        assert!(turns.take(peer(3)).await.is_none(), "all turns are taken");
        let root = turns.take(Peer::Local(0)).await.expect("root's own turn");
        assert!(turns.take(Peer::Local(1000)).await.is_none(), "another local user is a source as others");
        drop((first, second, root));
        assert!(turns.take(peer(3)).await.is_some());
        let sources = turns.sources.lock().unwrap().len();
        assert!(sources <= 2, "queues that nobody waits in are gone: {sources}");
    }
}
