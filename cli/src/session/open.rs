//! Opens sessions over TLS, in plaintext on loopback, or over a Unix socket.
//!
//! Any local user may listen on a free loopback port or on a forwarded Unix socket, so both need the same proof as TLS. Only the socket of
//! this machine's own posternd needs no proof: the kernel identifies the listener.

use std::{net::SocketAddr, path::Path, time::Instant, time::SystemTime};

use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{timeout, timeout_at},
};

use super::{Answer, Ask, GRACE, MOST_ADDRESSES, Plan, Reach, Session, ask_over, ask_tls};
use crate::{
    connect::{self, Link, LinkError},
    failure::{Failure, Kind, Result},
    host_key::HostKey,
    proof::{self, HostTrust},
    ssh_hosts::{Known, config::Config, lines::Says},
    target::Target,
    tls::Fingerprint,
    trust::{self, Shown},
};

impl Plan {
    /// Connects, calls `WhoAmI`, and settles trust.
    ///
    /// # Errors
    /// Fails with [`Kind::Unreachable`] if no address answers, and with [`Kind::Identity`] if the host is not trusted.
    pub async fn open(&self, reach: Reach) -> Result<Session> {
        match &self.target {
            Target::Tls { host, port } => {
                let config = self.ssh.config(host).await?;
                let addresses = resolve(&config.hostname, *port).await?;
                self.open_known(host, &config, &addresses, reach).await
            }
            Target::Plaintext(address) => self.open_loopback(*address).await,
            Target::Unix(path) => self.open_unix(path).await,
        }
    }

    /// [`Self::open`] for a TLS host whose addresses are known.
    ///
    /// # Errors
    /// Fails as [`Self::open`] does.
    pub async fn open_tls(&self, host: &str, addresses: &[SocketAddr], reach: Reach) -> Result<Session> {
        self.open_known(host, &self.ssh.config(host).await?, addresses, reach).await
    }

    async fn open_known(&self, host: &str, config: &Config, addresses: &[SocketAddr], reach: Reach) -> Result<Session> {
        let ssh = Known::find(config)?;
        let known = self.store.find(&self.target.to_string())?;
        let session = self.gather(host, addresses, self.trust.pin(known.known()), reach).await?;
        one_identity(&session)?;
        self.settle(session, Some((host, &ssh))).await
    }

    /// Any local user can listen on a free loopback port, for example while `ssh -L` is down.
    async fn open_loopback(&self, address: SocketAddr) -> Result<Session> {
        let name = address.ip().to_string();
        let config = self.ssh.config(&name).await?;
        let mut ssh = Known::find(&config)?;
        // Forwarded ports lead from one loopback address to many machines. So a matching known key proves the host, and another known key
        // is no contradiction. Keys of other ports belong to other machines. HostKeyAlias names the machine.
        ssh.leads_to_many = config.alias.is_none();
        if ssh.leads_to_many {
            ssh.portless.retain(|line| line.says == Says::Revoked);
            ssh.elsewhere.retain(|line| line.says == Says::Revoked);
        }
        let session = self.alone(connect::plaintext(address).await, Some(address)).await?;
        self.check_way(&session)?;
        self.settle(session, Some((&name, &ssh))).await
    }

    async fn open_unix(&self, path: &Path) -> Result<Session> {
        let session = self.alone(connect::unix(path).await, None).await?;
        self.check_way(&session)?;
        if !session.link().is_own {
            return self.settle(session, None).await;
        }
        let Some(tls) = session.said().tls else { return Ok(session) };
        if let Some(expected) = self.trust.fingerprint.filter(|expected| *expected != tls) {
            return Err(trust::wrong_certificate(&self.trust, &self.store, &session.address, expected, tls));
        }
        Ok(Session { key: Some(HostKey::Tls(tls)), ..session })
    }

    async fn alone(&self, link: std::result::Result<Link, LinkError>, dialled: Option<SocketAddr>) -> Result<Session> {
        let asked = match link {
            Ok(link) => ask_over(link, self, self.target.to_string(), dialled).await,
            Err(error) => Err(Ask::Link(error)),
        };
        match asked {
            Ok(answer) => Ok(self.session(vec![answer], Vec::new())),
            Err(ask @ Ask::Link(_)) => Err(self.unreachable(&[self.silence(ask)?])),
            Err(Ask::Call(failure)) => Err(failure),
        }
    }

    /// Without TLS a peer can forward another host's statement. At the end of a loopback port, a Unix socket or `ssh -L`, the host sees the
    /// call on loopback or a Unix socket. Behind a relay over the network it does not.
    fn check_way(&self, session: &Session) -> Result<()> {
        let said = session.said();
        let is_local = match session.link().is_own {
            true => said.address.is_empty() && said.local_address.is_empty(),
            false => said.arrived_locally(),
        };
        if is_local {
            return Ok(());
        }
        let message = format!(
            "{} reaches host {} over the network: the host sees {}. Another program forwards the connection. Nothing was sent",
            self.target,
            said.host_id,
            crate::text::clean(&said.address)
        );
        Err(Failure::new(Kind::Identity, message)
            .next("reach the host over TLS, or through ssh -L to its loopback address or socket"))
    }

    /// Settles trust in the host, and with it the key that messages name.
    async fn settle(&self, session: Session, ssh: Option<(&str, &Known)>) -> Result<Session> {
        let first = session.first();
        let Some(fingerprint) = first.said.tls else {
            return Err(Failure::new(Kind::Identity, format!("{} sent no proof of its key", session.address)));
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        // All addresses have one TLS key, so a proof or a revoked key at any of them counts for the host.
        let (mut host_trust, mut explanation) = (HostTrust::Unknown, None);
        for (answer, (host, known)) in session.answers.iter().filter_map(|answer| Some((answer, ssh?))) {
            let judged = proof::judge(host, &answer.who, &answer.said, known, now).await?;
            host_trust = if matches!(host_trust, HostTrust::Proven(_)) { host_trust } else { judged };
            explanation = explanation.or_else(|| proof::explanation(&answer.who, known));
        }
        let host_id = &first.said.host_id;
        let explanation = explanation.as_deref();
        let shown = Shown { address: &session.address, host_id, fingerprint, host_trust, explanation };
        trust::settle(&self.trust, &self.store, shown, self.console).await?;
        let key = match host_trust {
            HostTrust::Proven(key) => HostKey::Ssh(key),
            HostTrust::Unknown | HostTrust::Unproven(_) => HostKey::Tls(fingerprint),
        };
        Ok(Session { key: Some(key), ..session })
    }

    fn session(&self, answers: Vec<Answer>, silent: Vec<String>) -> Session {
        let (address, plan, asked_at) = (self.target.to_string(), self.clone(), Instant::now());
        Session { address, plan, answers, silent, asked_at, key: None }
    }

    /// Asks all `addresses` at once. A wrong certificate at any of them ends the command.
    async fn gather(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        pin: Option<Fingerprint>,
        reach: Reach,
    ) -> Result<Session> {
        let mut waiting = addresses[..addresses.len().min(MOST_ADDRESSES)].to_vec();
        let mut asking = JoinSet::new();
        for address in waiting.iter().copied() {
            let (host, plan) = (host.to_owned(), self.clone());
            asking.spawn(async move { (address, ask_tls(&host, &plan, address, pin).await) });
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
        Ok(self.session(answers, silent))
    }

    /// The reason why an address does not count. A wrong identity ends the command instead.
    fn silence(&self, ask: Ask) -> Result<String> {
        let typed = self.target.to_string();
        match ask {
            Ask::Link(LinkError::WrongCertificate { expected, shown }) => {
                Err(trust::wrong_certificate(&self.trust, &self.store, &typed, expected, shown))
            }
            Ask::Link(LinkError::Impostor(why)) => Err(trust::impostor(&typed, &why)),
            Ask::Link(LinkError::Unreachable(why)) => Ok(why),
            Ask::Call(failure) if failure.kind == Kind::Identity => Err(failure),
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

/// The next answer; none after the last one or the deadline.
async fn next<T: Send + 'static>(asking: &mut JoinSet<T>, deadline: Option<tokio::time::Instant>) -> Option<T> {
    let joined = match deadline {
        Some(deadline) => timeout_at(deadline, asking.join_next()).await.ok()??,
        None => asking.join_next().await?,
    };
    joined.ok()
}

/// All answers must come from one host with one key. If one key has two ids, a machine was cloned, and the user has to name one of them.
fn one_identity(session: &Session) -> Result<()> {
    let first = session.first();
    let is_other = |answer: &&Answer| answer.said.tls != first.said.tls || answer.said.host_id != first.said.host_id;
    match session.answers.iter().find(is_other) {
        None => Ok(()),
        Some(other) => Err(two_hosts(&session.address, first, other)),
    }
}

fn two_hosts(address: &str, one: &Answer, other: &Answer) -> Failure {
    let tell = |answer: &Answer| {
        let key = answer.said.tls.map(|tls| tls.to_string()).unwrap_or_default();
        format!("{} is host {} with {key}", answer.asked, answer.said.host_id)
    };
    let cloned =
        if one.said.tls == other.said.tls { ", which share a key because one is a copy of the other" } else { "" };
    Failure::new(
        Kind::Identity,
        format!("the addresses of {address} belong to different hosts{cloned}: {}; {}", tell(one), tell(other)),
    )
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
