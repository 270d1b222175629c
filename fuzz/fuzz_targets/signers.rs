//! Real signatures in the places that an input leaves for them.
//!
//! Owns the names of those places, and who really signed.

use std::collections::BTreeSet;

use postern_agent::engine::SignedBytes;
use postern_core::envelope::Purpose;

use crate::{host, valid};

/// `message` with real signatures in their places, and who really signed: role and person.
pub fn signed(mut message: SignedBytes) -> (SignedBytes, BTreeSet<(Purpose, String)>) {
    let mut who = BTreeSet::new();
    // No more than that is ever looked at.
    for text in message.signatures.iter_mut().take(16) {
        let Some(Place { role, seed, key, elsewhere }) = place(text) else { continue };
        let name = match key {
            Key::Plain => host::TRUSTED.iter().find(|(_, own)| *own == seed).map_or("nobody", |(name, _)| *name),
            Key::Certified | Key::Forged => "alice@example.com",
        };
        if key != Key::Forged && !elsewhere {
            who.insert((role, name.to_owned()));
        }
        let payload = if elsewhere { [&message.payload[..], b"x"].concat() } else { message.payload.clone() };
        let bytes = match key {
            Key::Plain => valid::sign(seed, role, &payload),
            Key::Certified => valid::sign_certified(seed, 2, role, &payload),
            Key::Forged => valid::sign_forged(seed, 5, 2, role, &payload),
        };
        *text = valid::armor(&bytes);
    }
    (message, who)
}

/// A place for a signature.
struct Place {
    role: Purpose,
    seed: u8,
    key: Key,
    /// Over other bytes.
    elsewhere: bool,
}

#[derive(PartialEq, Eq)]
enum Key {
    Plain,
    Certified,
    Forged,
}

/// `@r1`, `@r1c` or `@r1f`, each with an `x` behind it or not.
fn place(text: &str) -> Option<Place> {
    let (elsewhere, text) = (text.ends_with('x') && text.len() > 3, text.strip_suffix('x').unwrap_or(text));
    let (key, text) = match (text.strip_suffix('c'), text.strip_suffix('f')) {
        (Some(text), _) => (Key::Certified, text),
        (_, Some(text)) => (Key::Forged, text),
        _ => (Key::Plain, text),
    };
    let &[b'@', role, seed @ b'1'..=b'5'] = text.as_bytes() else { return None };
    let role = Purpose::ALL.into_iter().zip(*b"ravxd").find(|(_, letter)| *letter == role)?.0;
    Some(Place { role, seed: seed - b'0', key, elsewhere })
}

/// The place that a byte stands for: any role, any key, plain, certified, forged, or over other bytes.
pub fn named(byte: u8) -> String {
    let (role, seed) = (char::from(b"ravxd"[usize::from(byte % 5)]), 1 + byte / 5 % 5);
    format!("@{role}{seed}{}", ["", "c", "f", "x"][usize::from(byte / 25 % 4)])
}
