//! The sources of a request: collects the facts for [`crate::my_ip`], asks the user, and remembers dialled addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Env, unique};
use crate::{
    console::Console,
    dialled::Dialled,
    failure::Result,
    my_ip::{self, Facts, Seen},
    own_addresses,
    parse::{From, host_prefix},
    session::{Reach, Session},
    state, text,
};

pub(super) struct Sources {
    /// Prefixes as the API writes them.
    pub prefixes: Vec<String>,
    /// Those that the host saw and the user did not type.
    pub of_my_ip: Vec<String>,
    /// To remember after the host accepts the message.
    pub ways: Ways,
}

pub(super) struct Ways {
    file: Dialled,
    key: String,
    dialled: Vec<IpAddr>,
}

impl Ways {
    /// A failure is only a note, because it leads to no more than another question later.
    pub(super) fn remember(&self, console: Console) {
        if let Err(error) = self.file.remember(&self.key, &self.dialled) {
            state::not_remembered(console, self.file.path().as_deref(), error);
        }
    }
}

pub(super) fn reach(from: &[From]) -> Reach {
    if wants_my_ip(from) { Reach::All } else { Reach::Any }
}

fn wants_my_ip(from: &[From]) -> bool {
    from.is_empty() || from.contains(&From::MyIp)
}

fn written(from: &[From]) -> Vec<IpNet> {
    let net = |one: &From| match one {
        From::Prefix(net) => Some(*net),
        From::MyIp => None,
    };
    from.iter().filter_map(net).collect()
}

/// The prefixes to sign. `my-ip` becomes the addresses that the host saw and the ports' rules admit, if they are beyond doubt or the user
/// agrees. Typed sources always stay. Fails if the host saw no address, the rules admit none, or all are doubtful.
pub(super) async fn to_sign(env: &Env, from: &[From], session: &Session) -> Result<Sources> {
    let written = written(from);
    let mut of_my_ip = Vec::new();
    let mut ways = Ways { file: session.dialled(), key: session.key()?.to_string(), dialled: Vec::new() };
    if wants_my_ip(from) {
        let (seen, own) = (admitted(env, session, !written.is_empty())?, own_addresses(env, session));
        let known = known(env, &ways);
        let facts = Facts { own: &own, known: &known, written: &written };
        let mut decision = my_ip::decide(&seen, facts);
        let asked = env.console.can_ask();
        for (source, doubtful) in decision.doubtful.clone() {
            if asked && env.console.ask(my_ip::question(source, &doubtful, &ways.key)).await? {
                decision.agree(source, facts);
            }
        }
        if decision.sign.is_empty() && !(seen.is_empty() && decision.doubtful.is_empty()) {
            return Err(my_ip::refused(&decision.doubtful, asked));
        }
        for (source, doubtful) in &decision.doubtful {
            env.console.note(my_ip::left_out(*source, doubtful, asked));
        }
        ways.dialled = decision.remember;
        of_my_ip = prefixes(decision.sign);
        of_my_ip.retain(|net| !written.contains(net));
    }
    let text = |nets: &[IpNet]| unique(nets.iter().map(ToString::to_string));
    Ok(Sources { prefixes: text(&[&written[..], &of_my_ip].concat()), of_my_ip: text(&of_my_ip), ways })
}

/// The connections whose source the ports' rules admit; notes the others. Fails if none is left and the user typed no source.
fn admitted(env: &Env, session: &Session, has_written: bool) -> Result<Vec<Seen>> {
    let (mut seen, refused) = (session.seen()?, session.not_admitted());
    seen.retain(|one| !refused.contains_key(&one.source));
    if seen.is_empty() && !refused.is_empty() && !has_written {
        return Err(my_ip::not_admitted(&refused, &session.address));
    }
    for (source, ports) in &refused {
        env.console.note(my_ip::left_out_by_rule(*source, ports));
    }
    Ok(seen)
}

/// The prefixes to ask about, and those of them that are not typed. `my-ip` becomes every address that the host saw, because nothing is
/// signed. Sources that the ports' rules do not admit are left out, unless none is left.
pub(super) fn to_ask_about(env: &Env, from: &[From], session: &Session) -> Result<(Vec<String>, Vec<String>)> {
    let written = written(from);
    let mut of_my_ip = Vec::new();
    if wants_my_ip(from) {
        let refused = session.not_admitted();
        let seen: Vec<_> = session.seen()?.iter().map(|seen| seen.source).collect();
        let (out, mut left): (Vec<_>, Vec<_>) = seen.into_iter().partition(|source| refused.contains_key(source));
        if left.is_empty() && written.is_empty() {
            // The host's answer then explains why.
            left = out;
        } else {
            refused.iter().for_each(|(source, ports)| env.console.note(my_ip::left_out_by_rule(*source, ports)));
        }
        of_my_ip = prefixes(left);
        of_my_ip.retain(|net| !written.contains(net));
    }
    let text = |nets: &[IpNet]| unique(nets.iter().map(ToString::to_string));
    Ok((text(&[&written[..], &of_my_ip].concat()), text(&of_my_ip)))
}

fn prefixes(mut addresses: Vec<IpAddr>) -> Vec<IpNet> {
    addresses.sort_unstable();
    addresses.into_iter().map(host_prefix).collect()
}

/// The addresses of the interfaces, and the local ends of the session's connections.
fn own_addresses(env: &Env, session: &Session) -> Vec<IpAddr> {
    let mut own = own_addresses::of_this_machine().unwrap_or_else(|error| {
        env.console
            .note(format!("cannot read this machine's addresses, so only those of the connections count: {error}"));
        Vec::new()
    });
    own.extend(session.local_ends());
    own
}

/// The addresses at which the client reached this host before; none if the file is unreadable.
fn known(env: &Env, ways: &Ways) -> Vec<IpAddr> {
    ways.file.of(&ways.key).unwrap_or_else(|error| {
        let (path, error) = (ways.file.path().unwrap_or_default(), text::clean(&error.to_string()));
        env.console.note(format!("cannot read {}, so no address of the host is known: {error}", path.display()));
        Vec::new()
    })
}
