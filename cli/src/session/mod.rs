//! A trusted conversation with one host: found, identified, and asked who it thinks we are.
//!
//! Owns the order of steps: resolve, connect to every address at once, `WhoAmI` over each, verify and compare the answers, settle
//! trust. Nothing signed is sent before all of that is done.

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

/// How long one call may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);

/// Once one address has answered, how long the others may still take.
const GRACE: Duration = Duration::from_secs(2);

/// More addresses than that are not asked.
const MOST_ADDRESSES: usize = 16;

/// A challenge lives a minute; an answer older than this is asked for again before signing.
const FRESH: Duration = Duration::from_secs(10);

/// Which of the host's addresses to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The first that answers.
    Any,
    /// All: the host may see us under another address over each.
    All,
}

/// One address of the host and what it answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The address that was asked, for people.
    pub asked: String,
    /// The address that this machine connected to; none over a Unix socket.
    pub dialled: Option<SocketAddr>,
    /// The connection.
    pub link: Link,
    /// What the host states about this call, verified.
    pub said: Statement,
    /// The answer as it came; only the proofs in it are looked at, and they are checked against `said`.
    who: WhoAmIResponse,
}

/// A trusted host.
#[derive(Debug)]
pub struct Session {
    /// As typed, with the port.
    pub address: String,
    plan: Plan,
    /// At least one; the first is used for calls.
    answers: Vec<Answer>,
    /// Addresses that did not answer, and why.
    pub silent: Vec<String>,
    asked_at: Instant,
    key: Option<HostKey>,
}

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The host.
    pub target: Target,
    /// What the command line says about trust.
    pub trust: Trust,
    /// Where trust is recorded.
    pub store: KnownHosts,
    /// What the person knows from ssh.
    pub ssh: SshHosts,
    /// For questions and notes.
    pub console: Console,
    /// The ports to ask about, as typed: what they mean there, and whether their rules admit this machine.
    pub ports: Vec<String>,
}

impl Plan {
    /// Asks about these ports as well.
    #[must_use]
    pub fn about(self, ports: &[String]) -> Self {
        Self { ports: ports.to_vec(), ..self }
    }
}

impl Session {
    fn first(&self) -> &Answer {
        // `gather` and `alone` never make a session without an answer.
        &self.answers[0]
    }

    /// The connection to make calls over.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.first().link
    }

    /// Every address of the host that answered; at least one.
    #[must_use]
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// What the host states about itself, over the connection that calls are made over.
    #[must_use]
    pub fn said(&self) -> &Statement {
        &self.first().said
    }

    /// The key that was proved on this connection and that trust rests on.
    ///
    /// # Errors
    /// [`Kind::Identity`] where this machine's own posternd is too old to prove one.
    pub fn key(&self) -> Result<HostKey> {
        self.key.ok_or_else(|| older(&self.address))
    }

    /// For whom messages to this host are: the key that was proved, and the id that was learnt with it.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn audience(&self) -> Result<Vec<String>> {
        Ok(vec![self.key()?.to_string(), self.said().host_id.clone()])
    }

    /// Every audience that was proved on this connection: all keys that the host holds, known or not, and its id.
    ///
    /// # Errors
    /// As [`Self::key`].
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

    /// Asks again if the challenge has grown old, for example because somebody had to answer a question.
    ///
    /// # Errors
    /// When the host cannot be reached any more, or another host answers now.
    pub async fn refresh(&mut self) -> Result<()> {
        self.refresh_older_than(FRESH).await
    }

    /// [`Self::refresh`] if the last answer is older than `age`. A host that hung up meanwhile, as it does after some
    /// idle minutes, is connected to again.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn refresh_older_than(&mut self, age: Duration) -> Result<()> {
        if self.asked_at.elapsed() < age {
            return Ok(());
        }
        let first = self.first();
        let again = ask_over(first.link.clone(), &self.plan, first.asked.clone(), first.dialled).await;
        let (answer, key) = match again {
            // The TLS key stands for the key that trust rests on: it was proved together with it.
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

    /// Every connection over which the host states that it saw an address that can be granted.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it saw none: over loopback or a Unix socket there is no address to offer.
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

    /// What the ports mean on the host that the session was opened for.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the host has no port of such a name.
    pub fn ports(&self) -> Result<Vec<Port>> {
        ports::on_host(&self.plan.ports, &self.said().ports, &self.address)
    }

    /// The addresses that the host saw and that the rules of these ports do not admit, each with the ports as typed.
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

    /// The addresses that this machine's ends of the connections have.
    pub fn local_ends(&self) -> impl Iterator<Item = IpAddr> {
        self.answers.iter().filter_map(|answer| answer.link.local)
    }

    /// Where the addresses are remembered at which hosts were reached.
    #[must_use]
    pub fn dialled(&self) -> Dialled {
        Dialled::beside(&self.plan.store)
    }
}

/// What the host states about one connection, if it can grant the address that it saw.
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

/// Asks `WhoAmI` over `link` and verifies what the host states about this very call.
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

/// A host that states nothing: a signature for it would be for whatever host it names.
fn older(address: &str) -> Failure {
    let message = format!(
        "{address} makes no statement about itself that its key signs: it runs an older posternd than this client needs. Nothing was signed"
    );
    Failure::new(Kind::Identity, message).next("update posternd on the host; until then use the client of its version")
}

/// Waits for one call, at most [`CALL_LIMIT`].
///
/// # Errors
/// The host's status, or that the time passed.
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
