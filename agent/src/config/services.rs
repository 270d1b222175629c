//! Ports by the names of the services that people manage machines with, as the configuration's grammar has them.
//!
//! Owns the words about a name that is not in the table. The table is [`postern_core::text::services`].

use postern_core::text::services::{SERVICES, port_of as known};

use super::problem::suggestion;

/// The port of `name`.
///
/// # Errors
/// A sentence that says which names there are.
pub(super) fn port_of(name: &str) -> Result<u16, String> {
    known(name).ok_or_else(|| {
        let names = || SERVICES.iter().map(|(known, _)| *known);
        match suggestion(name, names()) {
            none if none.is_empty() => {
                let listed = names().collect::<Vec<_>>().join(", ");
                format!("'{name}' is not a port that has a name here ({listed}); write its number")
            }
            meant => format!("'{name}' is not a port that has a name here{meant}"),
        }
    })
}

/// All names with their ports, for the documents.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, u16)> {
    SERVICES.iter().copied()
}
