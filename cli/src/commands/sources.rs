//! For whom a request is signed.
//!
//! Owns the steps around [`crate::my_ip`]: what it has to know, the question to the person, and what is remembered afterwards.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Env, unique};
use crate::{
    console::Console,
    dialled::Dialled,
    failure::Result,
    my_ip::{self, Facts},
    own_addresses,
    parse::{From, host_prefix},
    session::{Reach, Session},
    text,
};

/// The sources to sign, and the ways over which the host said them.
pub(super) struct Sources {
    /// As the API writes them.
    pub prefixes: Vec<String>,
    /// To remember once the host has accepted what is signed for them.
    pub ways: Ways,
}

/// Dialled addresses of a host that are remembered when all went well.
pub(super) struct Ways {
    file: Dialled,
    key: String,
    dialled: Vec<IpAddr>,
}

impl Ways {
    /// Remembers them. Where that fails the person is asked again some day, so it is only said.
    pub(super) fn remember(&self, console: Console) {
        if let Err(error) = self.file.remember(&self.key, &self.dialled) {
            let path = self.file.path().display();
            console.note(format!("cannot remember the host's address in {path}: {error}"));
        }
    }
}

/// How far the session must reach for these sources.
pub(super) fn reach(from: &[From]) -> Reach {
    if wants_my_ip(from) { Reach::All } else { Reach::Any }
}

fn wants_my_ip(from: &[From]) -> bool {
    from.is_empty() || from.contains(&From::MyIp)
}

/// The sources that the person wrote.
fn written(from: &[From]) -> Vec<IpNet> {
    let net = |one: &From| match one {
        From::Prefix(net) => Some(*net),
        From::MyIp => None,
    };
    from.iter().filter_map(net).collect()
}

/// The prefixes to sign; `my-ip` becomes what the host saw, where that is in no doubt or a person agrees.
///
/// # Errors
/// [`crate::failure::Kind::Usage`] where the host saw no address, [`crate::failure::Kind::Identity`] where all that it saw is doubtful.
pub(super) async fn to_sign(env: &Env, from: &[From], session: &Session) -> Result<Sources> {
    let mut nets = written(from);
    let mut ways = Ways { file: session.dialled(), key: session.key()?.to_string(), dialled: Vec::new() };
    if wants_my_ip(from) {
        let (seen, own) = (session.seen()?, own_addresses(env, session));
        let known = known(env, &ways);
        let facts = Facts { own: &own, known: &known, written: &nets };
        let mut decision = my_ip::decide(&seen, facts);
        let asked = env.console.can_ask();
        for (source, doubtful) in decision.doubtful.clone() {
            if asked && env.console.ask(my_ip::question(source, &doubtful, &ways.key)).await? {
                decision.agree(source, facts);
            }
        }
        if decision.sign.is_empty() {
            return Err(my_ip::refused(&decision.doubtful, asked));
        }
        for (source, doubtful) in &decision.doubtful {
            env.console.note(my_ip::left_out(*source, doubtful, asked));
        }
        ways.dialled = decision.remember;
        nets.extend(prefixes(decision.sign));
    }
    Ok(Sources { prefixes: unique(nets.iter().map(ToString::to_string)), ways })
}

/// The prefixes to ask about; `my-ip` becomes what the host saw, whoever that is: nothing is signed for them.
///
/// # Errors
/// As [`to_sign`], where the host saw no address.
pub(super) fn to_ask_about(from: &[From], session: &Session) -> Result<Vec<String>> {
    let mut nets = written(from);
    if wants_my_ip(from) {
        nets.extend(prefixes(session.seen()?.iter().map(|seen| seen.source).collect()));
    }
    Ok(unique(nets.iter().map(ToString::to_string)))
}

fn prefixes(mut addresses: Vec<IpAddr>) -> Vec<IpNet> {
    addresses.sort_unstable();
    addresses.into_iter().map(host_prefix).collect()
}

/// The addresses of this machine: those of its interfaces, and the local ends of the session's connections.
fn own_addresses(env: &Env, session: &Session) -> Vec<IpAddr> {
    let mut own = own_addresses::of_this_machine().unwrap_or_else(|error| {
        env.console
            .note(format!("cannot read this machine's addresses, so only those of the connections count: {error}"));
        Vec::new()
    });
    own.extend(session.local_ends());
    own
}

/// The addresses at which this host was reached before; none where they cannot be read.
fn known(env: &Env, ways: &Ways) -> Vec<IpAddr> {
    ways.file.of(&ways.key).unwrap_or_else(|error| {
        let (path, error) = (ways.file.path().display(), text::clean(&error.to_string()));
        env.console.note(format!("cannot read {path}, so no address of the host is known: {error}"));
        Vec::new()
    })
}
