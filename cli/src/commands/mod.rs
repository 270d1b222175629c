//! The commands, one module each, and their common code: find keys, open a session, sign, call.

mod approve;
mod audit;
mod break_glass;
mod denied;
mod explain;
mod extend;
mod files;
mod list;
mod mode;
mod narrow;
mod own;
mod pending;
mod policy;
mod report;
mod request;
mod revoke;
mod sealing;
mod show;
mod sign;
mod sources;
mod status;
mod wait;
mod watch;

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use postern_proto::v1::{Grant, SignedMessage, host_service_client::HostServiceClient};

use tokio::sync::OnceCell;
use tonic::transport::Channel;

use crate::{
    args::{Cli, Command, Common, What},
    console::Console,
    dialled::Dialled,
    failure::{Failure, Kind, Result},
    host_key::HostKey,
    keys::Signer,
    known_hosts::KnownHosts,
    parse,
    payload::{Lifetime, Wish},
    ports::{self, Port},
    session::{Plan, Reach, Session, limited},
    ssh_hosts::{SshHosts, config::Config},
    state,
    target::Target,
    trust::Trust,
    within_ssh,
};

/// Runs the command.
///
/// # Errors
/// Fails if the command fails. The kind of the [`Failure`] gives the exit code.
pub async fn run(cli: Cli) -> Result<()> {
    let console = Console { json: cli.common.json };
    if within_ssh::is_within() {
        // The `postern` above is about to request the access, so `Match exec` may succeed here without it.
        console.note(format!(
            "nothing is done here: another postern runs the ssh -G that runs this one ({})",
            within_ssh::MARK
        ));
        return Ok(());
    }
    let env = Env { common: cli.common, console, told: OnceCell::new() };
    match cli.command {
        Command::Request(args) => request::run(&env, args).await,
        Command::Extend(args) => extend::run(&env, args).await,
        Command::GiveBack(args) => revoke::give_back(&env, args).await,
        Command::Pending(args) => pending::run(&env, args.host).await,
        Command::Approve(args) => approve::run(&env, args).await,
        Command::Decline(args) => revoke::decline(&env, args).await,
        Command::Revoke(args) => revoke::run(&env, args).await,
        Command::List(args) => list::run(&env, args).await,
        Command::Show(args) => show::run(&env, args).await,
        Command::Watch(args) => watch::run(&env, args).await,
        Command::Explain(args) => explain::run(&env, args).await,
        Command::Status(args) => status::run(&env, args.host).await,
        Command::Denied(args) => denied::run(&env, args.host).await,
        Command::Report(args) => report::run(&env, args).await,
        Command::Audit(args) => audit::run(&env, args).await,
        Command::Policy(args) => policy::run(&env, args).await,
        Command::BreakGlass(args) => break_glass::run(&env, args).await,
        Command::Enable(args) => mode::enable(&env, args).await,
        Command::Confirm(args) => mode::confirm(&env, args).await,
        Command::RollBack(args) => mode::roll_back(&env, args).await,
        Command::Sign(args) => sign::run(&env, args).await,
        Command::Forget(args) => forget(&env, &args.host),
        Command::Completions { shell } => completions(&env, shell),
        Command::Man { directory } => man(&directory),
    }
}

struct Env {
    common: Common,
    console: Console,
    /// The name of the command's host and its ssh configuration.
    told: OnceCell<(String, Config)>,
}

impl Env {
    fn plan(&self, target: Target) -> Result<Plan> {
        let trust = Trust { fingerprint: self.common.fingerprint, accept_new: self.common.accept_new };
        let store = KnownHosts::of_user();
        if matches!(target, Target::Tls { .. }) && !state::user_is_listed() {
            let uid = rustix::process::getuid().as_raw();
            self.console.note(format!(
                "no list of users names uid {uid}, so ssh does not run: your ssh_config does not count, known_hosts does"
            ));
        }
        let told = self.told.get().map(|(name, config)| SshHosts::Told(name.clone(), Box::new(config.clone())));
        let ssh = told.unwrap_or(SshHosts::OfUser);
        Ok(Plan { target, trust, store, ssh, console: self.console, ports: Vec::new() })
    }
}

/// A session with the signed read for its calls.
struct Reading {
    session: Session,
    signer: Option<Arc<Signer>>,
    /// The signed read, part of each call.
    read: Option<SignedMessage>,
}

impl Reading {
    async fn open(env: &Env, host: Target) -> Result<Self> {
        Self::about(env, host, &[]).await
    }

    /// [`Self::open`], with a question about these ports.
    async fn about(env: &Env, host: Target, ports: &[String]) -> Result<Self> {
        let signer = env.reader(&host).await?;
        Self::over(env, env.plan(host)?.about(ports), signer).await
    }

    /// [`Self::open`] with a key that was chosen before.
    async fn with(env: &Env, host: Target, signer: Option<Arc<Signer>>) -> Result<Self> {
        Self::over(env, env.plan(host)?, signer).await
    }

    async fn over(env: &Env, plan: Plan, signer: Option<Arc<Signer>>) -> Result<Self> {
        let mut session = plan.open(Reach::Any).await?;
        let read = env.read(&mut session, signer.as_ref()).await?;
        Ok(Self { session, signer, read })
    }

    fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.session.link().channel.clone())
    }

    /// One call. If a refusal is about the key, the message names the key.
    async fn ask<T>(
        &self,
        call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        limited(call, &self.session.address).await.map_err(signed_by(self.signer.as_ref()))
    }
}

fn signed_by(signer: Option<&Arc<Signer>>) -> impl Fn(Failure) -> Failure {
    let key = signer.map(|signer| signer.label());
    move |failure| match &key {
        Some(key) => failure.signed_with(key),
        None => failure,
    }
}

fn unique(items: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(&item) {
            found.push(item);
        }
    }
    found
}

/// The request on the command line, without sources and with ports as typed.
fn wish(what: What, source: Vec<String>) -> Result<Wish> {
    let lifetime = lifetime(what.duration, what.until.as_deref())?;
    let not_before = what.not_before.as_deref().map(|text| future("--not-before", text)).transpose()?;
    if let (Lifetime::Until(end), Some(start)) = (lifetime, not_before)
        && end <= start
    {
        return Err(Failure::usage("--until lies before --not-before"));
    }
    let What { ports, reason, ticket, .. } = what;
    if ports.is_empty() {
        return Err(Failure::usage("no port to open").next("name it with --port, for example --port ssh"));
    }
    let ports = unique(ports);
    Ok(Wish { ports, source, lifetime, not_before, supersedes: None, justification: reason, ticket })
}

fn lifetime(duration: Option<Duration>, until: Option<&str>) -> Result<Lifetime> {
    match (duration, until) {
        (Some(duration), _) => Ok(Lifetime::For(duration)),
        (None, Some(until)) => future("--until", until).map(Lifetime::Until),
        (None, None) => Err(Failure::usage("for how long?").next("say it with --for 30m or --until 18:00")),
    }
}

fn future(option: &str, text: &str) -> Result<Timestamp> {
    let time = parse::until(text, Timestamp::now(), &TimeZone::system());
    time.map_err(|error| Failure::usage(format!("{option} {error}")))
}

/// The session's ports as numbers. Notes the meaning of names before the client signs.
fn port_numbers(env: &Env, session: &Session) -> Result<Vec<String>> {
    told(env, &session.ports()?)
}

/// [`port_numbers`] for resolved ports.
fn told(env: &Env, found: &[Port]) -> Result<Vec<String>> {
    if let Some(line) = ports::told(found) {
        env.console.note(format!("  {line}"));
    }
    Ok(ports::all(found))
}

fn grant_of(grant: Option<Grant>) -> Result<Grant> {
    grant.ok_or_else(|| Failure::new(Kind::HostFailed, "the host's answer has no grant"))
}

fn forget(env: &Env, target: &Target) -> Result<()> {
    let store = KnownHosts::of_user();
    let pinned = store.find(&target.to_string())?;
    let pinned = pinned.known().map(|host| HostKey::Tls(host.fingerprint).to_string());
    let known = store.forget(&target.to_string())?;
    // Forgets a literal address for every host, because the file has keys and no names.
    let address = match target {
        Target::Tls { host, .. } => host.parse::<IpAddr>().ok().map(|address| address.to_canonical()),
        Target::Plaintext(_) | Target::Unix(_) => None,
    };
    let dialled = Dialled::beside(&store);
    let path = dialled.path().unwrap_or_default();
    let failed = |error| Failure::new(Kind::Local, format!("cannot change {}: {error}", path.display()));
    let known = dialled.forget(pinned.as_deref(), address).map_err(failed)? || known;
    if env.console.json {
        return env.console.out_json(&serde_json::json!({ "forgotten": known }));
    }
    let text = if known { format!("{target} is forgotten") } else { format!("{target} was not known") };
    env.console.out(text)
}

fn completions(env: &Env, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "postern", &mut script);
    env.console.own_text(String::from_utf8_lossy(&script).trim_end())
}

fn man(directory: &std::path::Path) -> Result<()> {
    let command = <Cli as clap::CommandFactory>::command();
    clap_mangen::generate_to(command, directory)
        .map_err(|error| Failure::new(Kind::Local, format!("cannot write to {}: {error}", directory.display())))
}
