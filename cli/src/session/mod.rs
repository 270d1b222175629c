//! A session with one host whose identity the client has verified.
//!
//! Owns the order of steps: resolve, connect to every address at once, call `WhoAmI` over each, verify and compare the answers, settle
//! trust. The client sends nothing signed before all steps are done.

mod open;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use postern_proto::v1::{WhoAmIRequest, WhoAmIResponse, access_service_client::AccessServiceClient};
use tokio::time::timeout;

use crate::{
    connect::{self, Link, LinkError},
    console::Console,
    dialled::Dialled,
    failure::{Failure, Kind, Result},
    host_key::HostKey,
    known_hosts::KnownHosts,
    my_ip::Seen,
    ports::{self, Port},
    proof,
    ssh_hosts::SshHosts,
    statement::{self, Fault, Statement},
    target::Target,
    text,
    tls::Fingerprint,
    trust::Trust,
};

/// The time limit of one call.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);

/// How much longer the other addresses may take after the first answer.
const GRACE: Duration = Duration::from_secs(2);

/// How many addresses the client connects to.
const MOST_ADDRESSES: usize = 16;

/// A challenge is valid for a minute. The client asks again before it signs if its answer is older than this.
const FRESH: Duration = Duration::from_secs(10);

/// Which of the host's addresses the client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only the first that answers.
    Any,
    /// All of them: the host may see another source address over each.
    All,
}

/// One address of the host and what it answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The address that the client asked, for display.
    pub asked: String,
    /// The address that the client connected to; none over a Unix socket.
    pub dialled: Option<SocketAddr>,
    /// The connection.
    pub link: Link,
    /// The verified statement of the host about this call.
    pub said: Statement,
    /// The unverified answer. The client uses only the proofs in it and checks them against `said`.
    who: WhoAmIResponse,
}

/// A session with a trusted host.
#[derive(Debug)]
pub struct Session {
    /// As typed, with the port.
    pub address: String,
    plan: Plan,
    /// At least one. Calls use the first.
    answers: Vec<Answer>,
    /// Addresses that did not answer, with the reason.
    pub silent: Vec<String>,
    asked_at: Instant,
    key: Option<HostKey>,
}

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The host.
    pub target: Target,
    /// The options about trust.
    pub trust: Trust,
    /// The file of trusted hosts.
    pub store: KnownHosts,
    /// The ssh configuration.
    pub ssh: SshHosts,
    /// For questions and notes.
    pub console: Console,
    /// Ports as typed. The host is asked what they mean and whether their rules admit this machine.
    pub ports: Vec<String>,
}

impl Plan {
    /// Sets the ports to ask about.
    #[must_use]
    pub fn about(self, ports: &[String]) -> Self {
        Self { ports: ports.to_vec(), ..self }
    }
}

impl Session {
    fn first(&self) -> &Answer {
        // `gather` and `alone` always give at least one answer.
        &self.answers[0]
    }

    /// The connection for calls.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.first().link
    }

    /// The answer of each address; at least one.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// The host's statement over the connection for calls.
    #[must_use]
    pub fn said(&self) -> &Statement {
        &self.first().said
    }

    /// The key that the host proved on this connection and that trust rests on.
    ///
    /// # Errors
    /// Fails with [`Kind::Identity`] if this machine's posternd is too old to prove one.
    pub fn key(&self) -> Result<HostKey> {
        self.key.ok_or_else(|| older(&self.address))
    }

    /// The audience of messages to this host: the proved key, and the host id.
    ///
    /// # Errors
    /// Fails as [`Self::key`] does.
    pub fn audience(&self) -> Result<Vec<String>> {
        Ok(vec![self.key()?.to_string(), self.said().host_id.clone()])
    }

    /// Every audience that the host proved on this connection: its id and all its keys, whether the client trusts them or not.
    ///
    /// # Errors
    /// Fails as [`Self::key`] does.
    pub fn proved(&self) -> Result<Vec<String>> {
        let first = self.first();
        let ssh = proof::proved(&first.who, &first.said).into_iter().map(|key| HostKey::Ssh(key).to_string());
        let tls = first.said.tls.map(|tls| HostKey::Tls(tls).to_string());
        Ok(self.audience()?.into_iter().chain(tls).chain(ssh).collect())
    }

    /// A client for calls.
    #[must_use]
    pub fn access(&self) -> AccessServiceClient<tonic::transport::Channel> {
        AccessServiceClient::new(self.link().channel.clone())
    }

    /// Calls `WhoAmI` again if the challenge is old.
    ///
    /// # Errors
    /// Fails if the host is unreachable or refuses the call, or if another host answers.
    pub async fn refresh(&mut self) -> Result<()> {
        self.refresh_older_than(FRESH).await
    }

    /// [`Self::refresh`] if the last answer is older than `age`. Connects again if the host closed the idle connection.
    ///
    /// # Errors
    /// Fails as [`Self::refresh`] does.
    pub async fn refresh_older_than(&mut self, age: Duration) -> Result<()> {
        if self.asked_at.elapsed() < age {
            return Ok(());
        }
        let first = self.first();
        let again = ask_over(first.link.clone(), &self.plan, first.asked.clone(), first.dialled).await;
        let (answer, key) = match again {
            // The host proved its TLS key together with the key that trust rests on, so the same TLS key is enough.
            Ok(answer) if answer.said.tls == self.said().tls => (answer, self.key),
            Ok(_) => return Err(self.another()),
            Err(Ask::Call(failure)) if failure.kind != Kind::Unreachable => return Err(failure),
            Err(_) => {
                let mut again = self.plan.open(Reach::Any).await?;
                (again.answers.swap_remove(0), again.key)
            }
        };
        if key != self.key {
            return Err(self.another());
        }
        if answer.said.host_id != self.said().host_id {
            let (before, now) = (&self.said().host_id, &answer.said.host_id);
            self.plan
                .console
                .note(format!("{} was host {before} and is host {now} now, with the same key", self.address));
        }
        self.answers[0] = answer;
        self.asked_at = Instant::now();
        Ok(())
    }

    fn another(&self) -> Failure {
        let message = format!(
            "the host that answers at {} is not the one that answered at the beginning of this command",
            self.address
        );
        Failure::new(Kind::Identity, message).next("try again; if it stays so, ask the host's administrator")
    }

    /// Every connection on which the host saw an address that it can grant.
    ///
    /// # Errors
    /// Fails with [`Kind::Usage`] if there is none, as over loopback or a Unix socket.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let seen: Vec<Seen> = self.answers.iter().filter_map(seen).collect();
        if seen.is_empty() {
            let how = match self.said().address.as_str() {
                "" => "this connection has no network address (a Unix socket)".to_owned(),
                address => {
                    format!("the host sees this connection from {}, which it cannot open for", text::clean(address))
                }
            };
            return Err(Failure::usage(format!("my-ip does not work here: {how}"))
                .next("name the address to open for: --from 192.0.2.7"));
        }
        Ok(seen)
    }

    /// The meaning of the session's ports on this host.
    ///
    /// # Errors
    /// Fails with [`Kind::Usage`] if the host has no port of such a name.
    pub fn ports(&self) -> Result<Vec<Port>> {
        ports::on_host(&self.plan.ports, &self.said().ports, &self.address)
    }

    /// The addresses that the host saw and that the rules of these ports do not admit, each with its ports as typed.
    #[must_use]
    pub fn not_admitted(&self) -> BTreeMap<IpAddr, Vec<String>> {
        let mut found = BTreeMap::new();
        for (answer, seen) in self.answers.iter().filter_map(|answer| Some((answer, seen(answer)?))) {
            let typed = self.plan.ports.iter().zip(&answer.said.ports);
            let refused: Vec<_> =
                typed.filter(|(_, meaning)| !meaning.admitted).map(|(typed, _)| typed.clone()).collect();
            if !refused.is_empty() {
                found.insert(seen.source, refused);
            }
        }
        found
    }

    /// This machine's own addresses on the connections.
    pub fn local_ends(&self) -> impl Iterator<Item = IpAddr> {
        self.answers.iter().filter_map(|answer| answer.link.local)
    }

    /// The record of the addresses at which the client reached hosts.
    #[must_use]
    pub fn dialled(&self) -> Dialled {
        Dialled::beside(&self.plan.store)
    }
}

/// None if the host saw no address that it can grant.
fn seen(answer: &Answer) -> Option<Seen> {
    let source = answer.said.address.parse::<IpAddr>().ok()?.to_canonical();
    let grantable = !source.is_loopback() && !source.is_unspecified() && !source.is_multicast();
    let dialled = answer.dialled.map(|dialled| dialled.ip().to_canonical());
    let reached = answer.said.local_address.parse::<IpAddr>().ok().map(|reached| reached.to_canonical());
    grantable.then_some(Seen { dialled, source, reached })
}

enum Ask {
    Link(LinkError),
    Call(Failure),
}

async fn ask_tls(
    host: &str,
    plan: &Plan,
    address: SocketAddr,
    pin: Option<Fingerprint>,
) -> std::result::Result<Answer, Ask> {
    let link = connect::tls(host, address, pin).await.map_err(Ask::Link)?;
    if link.fingerprint.is_none() {
        let failure = Failure::new(Kind::Identity, format!("{} shows no certificate", address.ip()));
        return Err(Ask::Call(failure));
    }
    ask_over(link, plan, address.ip().to_string(), Some(address)).await
}

/// Calls `WhoAmI` over `link` and verifies the host's statement about this call.
async fn ask_over(
    link: Link,
    plan: &Plan,
    asked: String,
    dialled: Option<SocketAddr>,
) -> std::result::Result<Answer, Ask> {
    let typed = &plan.target.to_string();
    let nonce = statement::nonce().map_err(Ask::Call)?;
    let mut client = AccessServiceClient::new(link.channel.clone());
    let request = WhoAmIRequest { nonce: nonce.to_vec(), ports: plan.ports.clone() };
    let who = limited(client.who_am_i(request), typed).await.map_err(Ask::Call)?;
    if let Some(shown) = link.fingerprint
        && who.tls_fingerprint.parse() != Ok(shown)
    {
        return Err(Ask::Call(ends_tls(&asked, shown, &who.tls_fingerprint)));
    }
    let said = match statement::verify(&who, &nonce, &plan.ports, link.fingerprint) {
        Ok(said) => said,
        Err(Fault::Missing) if link.is_own => {
            let unusable = |why| Ask::Call(Failure::new(Kind::HostFailed, format!("{typed}: {why}")));
            Statement::unsigned(&who).map_err(unusable)?
        }
        Err(Fault::Missing) => return Err(Ask::Call(older(typed))),
        Err(Fault::Wrong(why)) => return Err(Ask::Call(proof::wrong_statement(typed, &why))),
    };
    Ok(Answer { asked, dialled, link, said, who })
}

fn ends_tls(asked: &str, shown: Fingerprint, says: &str) -> Failure {
    let says = text::clean(says);
    let message = format!("{asked} shows the certificate {shown}, but the host behind it says {says:?}");
    Failure::new(Kind::Identity, message).next("something between you and the host ends TLS; reach the host without it")
}

/// Without a statement the client would sign for any host whose name the answer holds.
fn older(address: &str) -> Failure {
    let message = format!(
        "{address} makes no statement about itself that its key signs: it runs an older posternd than this client needs. Nothing was signed"
    );
    Failure::new(Kind::Identity, message).next("update posternd on the host; until then use the client of its version")
}

/// Waits for one call, at most [`CALL_LIMIT`].
///
/// # Errors
/// Fails with the host's status, or with [`Kind::Unreachable`] after the limit.
pub async fn limited<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    address: &str,
) -> Result<T> {
    match timeout(CALL_LIMIT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(&status, address)),
        Err(_) => Err(Failure::new(Kind::Unreachable, format!("no answer within {} s", CALL_LIMIT.as_secs()))),
    }
}
