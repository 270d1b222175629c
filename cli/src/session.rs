//! A trusted conversation with one host: found, identified, and asked who it thinks we are.
//!
//! Owns the order of steps: resolve, connect to every address at once, `WhoAmI` over each, compare the answers, settle
//! trust. Nothing signed is sent before all of that is done.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use ipnet::IpNet;
use postern_proto::v1::{WhoAmIRequest, WhoAmIResponse, access_service_client::AccessServiceClient};
use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{timeout, timeout_at},
};

use crate::{
    connect::{self, Link, LinkError},
    console::Console,
    failure::{Failure, Kind, Result},
    known_hosts::KnownHosts,
    parse::host_prefix,
    proof,
    ssh_hosts::{Known, SshHosts, config::Config},
    target::Target,
    text,
    tls::Fingerprint,
    trust::{self, Shown, Trust},
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
#[derive(Debug)]
pub struct Answer {
    /// The address that was asked, for people.
    pub asked: String,
    /// The connection.
    pub link: Link,
    /// The answer.
    pub who: WhoAmIResponse,
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
}

impl Plan {
    /// Connects, asks `WhoAmI`, and settles trust.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] when no address answers, [`Kind::Identity`] when the host is not the trusted one.
    pub async fn open(&self, reach: Reach) -> Result<Session> {
        match &self.target {
            Target::Tls { host, port } => {
                let config = self.ssh.config(host).await?;
                let addresses = resolve(&config.hostname, *port).await?;
                self.open_known(host, &config, &addresses, reach).await
            }
            Target::Plaintext(address) => self.open_local(connect::plaintext(*address).await).await,
            Target::Unix(path) => self.open_local(connect::unix(path).await).await,
        }
    }

    /// [`Self::open`] for a host over TLS whose addresses are known.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_tls(&self, host: &str, addresses: &[SocketAddr], reach: Reach) -> Result<Session> {
        self.open_known(host, &self.ssh.config(host).await?, addresses, reach).await
    }

    async fn open_known(&self, host: &str, config: &Config, addresses: &[SocketAddr], reach: Reach) -> Result<Session> {
        let ssh = Known::find(config)?;
        let address = self.target.to_string();
        let known = self.store.find(&address)?;
        let pin = self.trust.pin(known.as_ref());
        let session = self.gather(host, addresses, pin, reach).await?;
        let first = session.first();
        let fingerprint = one_identity(&address, &session.answers)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let standing = proof::judge(host, &first.who, fingerprint, &ssh, now).await?;
        let shown = Shown { address: &address, host_id: &first.who.host_id, fingerprint, standing };
        trust::settle(&self.trust, &self.store, shown, self.console).await?;
        Ok(session)
    }

    /// Loopback and Unix sockets need no pin: who could stand in between is already root here.
    async fn open_local(&self, link: std::result::Result<Link, LinkError>) -> Result<Session> {
        let address = self.target.to_string();
        let link = match link {
            Ok(link) => link,
            Err(error) => return Err(self.unreachable(&[self.silence(Ask::Link(error))?])),
        };
        let who = who_am_i(&link, &address).await?;
        let answers = vec![Answer { asked: address.clone(), link, who }];
        Ok(Session { address, plan: self.clone(), answers, silent: Vec::new(), asked_at: Instant::now() })
    }

    /// Asks all `addresses` at once. A wrong certificate behind any of them ends it.
    async fn gather(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        pin: Option<Fingerprint>,
        reach: Reach,
    ) -> Result<Session> {
        let typed = self.target.to_string();
        let mut waiting = addresses[..addresses.len().min(MOST_ADDRESSES)].to_vec();
        let mut asking = JoinSet::new();
        for address in waiting.iter().copied() {
            let (host, typed) = (host.to_owned(), typed.clone());
            asking.spawn(async move { (address, ask(&host, &typed, address, pin).await) });
        }
        let (mut answers, mut silent) = (Vec::new(), Vec::new());
        let mut deadline = None;
        while let Some((address, result)) = next(&mut asking, deadline).await {
            waiting.retain(|other| *other != address);
            match result {
                Ok(answer) => answers.push(answer),
                Err(ask) => silent.push(format!("{}: {}", address.ip(), self.silence(ask)?)),
            }
            if !answers.is_empty() {
                deadline.get_or_insert_with(|| tokio::time::Instant::now() + GRACE);
            }
            if reach == Reach::Any && !answers.is_empty() {
                waiting.clear();
                break;
            }
        }
        silent.extend(waiting.iter().map(|address| format!("{}: no answer in time", address.ip())));
        if answers.is_empty() {
            return Err(self.unreachable(&silent));
        }
        Ok(Session { address: typed, plan: self.clone(), answers, silent, asked_at: Instant::now() })
    }

    /// Why an address does not count; or that somebody there is not who he says, which ends everything.
    fn silence(&self, ask: Ask) -> Result<String> {
        let typed = self.target.to_string();
        match ask {
            Ask::Link(LinkError::WrongCertificate { expected, shown }) => {
                Err(trust::wrong_certificate(&self.trust, &self.store, &typed, expected, shown))
            }
            Ask::Link(LinkError::Impostor(why)) => Err(trust::impostor(&typed, &why)),
            Ask::Link(LinkError::Unreachable(why)) => Ok(why),
            Ask::Call(failure) => Ok(failure.message),
        }
    }

    fn unreachable(&self, silent: &[String]) -> Failure {
        let next = match &self.target {
            Target::Unix(_) => "check that posternd runs and that you may open its socket",
            _ => "check the name, the network between, and that posternd runs there with this address under [api]",
        };
        Failure::new(Kind::Unreachable, format!("cannot reach {}: {}", self.target, silent.join("; "))).next(next)
    }
}

impl Session {
    fn first(&self) -> &Answer {
        // `gather` and `open_local` never make a session without an answer.
        &self.answers[0]
    }

    /// The connection to make calls over.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.first().link
    }

    /// What the host said about itself.
    #[must_use]
    pub fn who(&self) -> &WhoAmIResponse {
        &self.first().who
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
        let answer = match who_am_i(self.link(), &self.address).await {
            Ok(who) => Answer { asked: self.first().asked.clone(), link: self.link().clone(), who },
            Err(failure) if failure.kind == Kind::Unreachable => {
                let mut again = self.plan.open(Reach::Any).await?;
                again.answers.swap_remove(0)
            }
            Err(failure) => return Err(failure),
        };
        if answer.who.host_id != self.who().host_id {
            return Err(Failure::new(Kind::Identity, "the host changed its id during this command"));
        }
        self.answers[0] = answer;
        self.asked_at = Instant::now();
        Ok(())
    }

    /// Every address that the host saw us under and that can be granted, as prefixes of one address.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it saw none: over loopback or a Unix socket there is no address to offer.
    pub fn my_ips(&self) -> Result<Vec<IpNet>> {
        let mut seen: Vec<IpNet> = self.answers.iter().filter_map(|answer| offered(&answer.who.address)).collect();
        seen.sort();
        seen.dedup();
        if seen.is_empty() {
            let how = match self.who().address.as_str() {
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
}

/// The prefix for an address that the host saw, if it can be granted.
fn offered(address: &str) -> Option<IpNet> {
    let address = address.parse::<IpAddr>().ok()?.to_canonical();
    (!address.is_loopback() && !address.is_unspecified() && !address.is_multicast()).then(|| host_prefix(address))
}

/// Waits for the next answer; none when all have come or the deadline has passed.
async fn next<T: Send + 'static>(asking: &mut JoinSet<T>, deadline: Option<tokio::time::Instant>) -> Option<T> {
    let joined = match deadline {
        Some(deadline) => timeout_at(deadline, asking.join_next()).await.ok()??,
        None => asking.join_next().await?,
    };
    joined.ok()
}

enum Ask {
    Link(LinkError),
    Call(Failure),
}

async fn ask(
    host: &str,
    typed: &str,
    address: SocketAddr,
    pin: Option<Fingerprint>,
) -> std::result::Result<Answer, Ask> {
    let link = connect::tls(host, address, pin).await.map_err(Ask::Link)?;
    let who = who_am_i(&link, typed).await.map_err(Ask::Call)?;
    Ok(Answer { asked: address.ip().to_string(), link, who })
}

async fn who_am_i(link: &Link, address: &str) -> Result<WhoAmIResponse> {
    let mut client = AccessServiceClient::new(link.channel.clone());
    let who = limited(client.who_am_i(WhoAmIRequest::default()), address).await?;
    let sane = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if who.host_id.is_empty() || who.host_id.len() > 64 || !who.host_id.chars().all(sane) {
        return Err(Failure::new(Kind::HostFailed, format!("{address} does not say a usable host id")));
    }
    Ok(who)
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

/// All answers must come from one host with one key, and the key must be the one that the host itself names.
fn one_identity(address: &str, answers: &[Answer]) -> Result<Fingerprint> {
    let mut found: Option<(&Answer, Fingerprint)> = None;
    for answer in answers {
        let Some(fingerprint) = answer.link.fingerprint else {
            return Err(Failure::new(Kind::Identity, format!("{} shows no certificate", answer.asked)));
        };
        if answer.who.tls_fingerprint.parse() != Ok(fingerprint) {
            let says = text::clean(&answer.who.tls_fingerprint);
            return Err(Failure::new(
                Kind::Identity,
                format!("{} shows the certificate {fingerprint}, but the host behind it says {says:?}", answer.asked),
            )
            .next("something between you and the host ends TLS; reach the host without it"));
        }
        match found {
            Some((first, expected)) if expected != fingerprint || first.who.host_id != answer.who.host_id => {
                return Err(two_hosts(address, (first, expected), (answer, fingerprint)));
            }
            _ => found = Some((answer, fingerprint)),
        }
    }
    let (_, fingerprint) = found.ok_or_else(|| Failure::new(Kind::Unreachable, format!("{address} did not answer")))?;
    Ok(fingerprint)
}

fn two_hosts(address: &str, a: (&Answer, Fingerprint), b: (&Answer, Fingerprint)) -> Failure {
    let tell = |(answer, fingerprint): (&Answer, Fingerprint)| {
        format!("{} is host {} with {fingerprint}", answer.asked, answer.who.host_id)
    };
    Failure::new(Kind::Identity, format!("{address} leads to different hosts: {}; {}", tell(a), tell(b)))
        .next("name the one you mean by its own name or address")
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let failed = |why: String| {
        Failure::new(Kind::Unreachable, format!("cannot find {host}: {why}")).next("check the name, or use the address")
    };
    let found = timeout(connect::CONNECT_LIMIT, lookup_host((host, port))).await;
    let found = found.map_err(|_| failed("the name service does not answer".to_owned()))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.map_err(|error| failed(error.to_string()))? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failed("the name has no address".to_owned()));
    }
    Ok(addresses)
}
