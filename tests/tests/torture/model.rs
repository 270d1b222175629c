//! What must be open, by a model far simpler than posternd: a list of grants.
//!
//! Two of them are made and compared: what the test was answered, and what the journal on the disk says. Neither asks posternd.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::world::{Pair, Seen, Who};

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Who asked.
    pub who: Who,
    /// What it opens.
    pub pairs: Vec<Pair>,
    /// When it may open at the earliest, on the boot clock; posternd opens it, and says so first ([`Given::opened`]).
    pub starts: u64,
    /// When it ends at the latest, on the boot clock.
    pub expires: u64,
    /// It began at once, or its beginning is on record.
    pub opened: bool,
    /// It was ended before, its end is on record, or another one extends it.
    pub over: bool,
}

/// Grants by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<String, Given>);

impl Model {
    /// The fold of a journal's lines.
    ///
    /// # Panics
    /// Where a message was accepted twice, or something ended that never began.
    pub fn of(journal: &[Value]) -> Self {
        let (mut grants, mut messages, mut ended) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for line in journal {
            match line["event"].as_str() {
                Some("granted") => {
                    let (id, given) = granted(line);
                    assert!(grants.insert(id.clone(), given).is_none(), "{id} was granted twice");
                    if let Some(old) = line["grant"]["supersedes"].as_str() {
                        of(&mut grants, old).over = true;
                    }
                }
                Some("activated") => of(&mut grants, line["grant"].as_str().expect("an id")).opened = true,
                Some("ended") => {
                    let id = line["grant"].as_str().expect("an id");
                    of(&mut grants, id).over = true;
                    assert!(ended.insert(id.to_owned()), "{id} ended twice");
                }
                _ => {}
            }
            if let Some(message) = line["message"]["id"].as_str().or(line["message"].as_str()) {
                assert!(messages.insert(message.to_owned()), "the message {message} was taken twice");
            }
        }
        Self(grants)
    }

    /// Grants that are not over at `now`.
    pub fn live(&self, now: u64) -> impl Iterator<Item = (&String, &Given)> {
        self.0.iter().filter(move |(_, given)| !given.over && given.expires > now)
    }

    /// Whether a pair must be open throughout `from..=to`, must be closed, or changes in between.
    pub fn expects(&self, pair: Pair, from: u64, to: u64) -> Option<bool> {
        let named = self.0.values().filter(|given| !given.over && given.pairs.contains(&pair));
        let (mut whole, mut part) = (false, false);
        for given in named {
            whole |= given.opened && given.starts <= from && given.expires > to;
            // One that has not been opened yet may be at any moment.
            part |= given.starts <= to && given.expires > from;
        }
        if whole == part { Some(whole) } else { None }
    }

    /// Compares what was seen with what must be.
    ///
    /// # Panics
    /// Where they differ.
    pub fn check(&self, seen: &Seen, when: &str) {
        for (pair, open) in &seen.open {
            let expected = self.expects(*pair, seen.from, seen.to);
            assert!(
                expected.is_none_or(|expected| expected == *open),
                "{when}: {pair:?} is {}, and must not be; {self:#?}",
                if *open { "open" } else { "closed" }
            );
        }
    }
}

fn of<'a>(grants: &'a mut BTreeMap<String, Given>, id: &str) -> &'a mut Given {
    grants.get_mut(id).unwrap_or_else(|| panic!("{id} never began"))
}

fn granted(line: &Value) -> (String, Given) {
    let grant = &line["grant"];
    let texts = |name: &str| -> Vec<String> {
        let list = grant[name].as_array().unwrap_or_else(|| panic!("no {name} in {grant}"));
        list.iter().map(|text| text.as_str().expect("text").to_owned()).collect()
    };
    let ports = texts("ports").into_iter().map(|port| port.trim_end_matches("/tcp").parse().expect("a TCP port"));
    let ports: Vec<u16> = ports.collect();
    let address = |text: String| -> IpAddr { text.split('/').next().expect("a prefix").parse().expect("an address") };
    let sources = texts("sources").into_iter().map(address);
    let pairs = sources.flat_map(|source| ports.clone().into_iter().map(move |port| (source, port))).collect();
    let carol = grant["signer"]["principal"].as_str().is_some_and(|name| name.starts_with("carol"));
    let moment = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("a moment is missing in {line}"));
    let starts = grant["starts_boot"].as_u64().unwrap_or(0);
    let given = Given {
        who: if carol { Who::Carol } else { Who::Alice },
        pairs,
        starts,
        opened: starts <= moment(&line["boot"]),
        expires: moment(&grant["expires_boot"]),
        over: false,
    };
    (grant["id"].as_str().expect("an id").to_owned(), given)
}
