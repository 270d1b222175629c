//! Names of services as ports of the configuration. The table is [`postern_core::text::services`]; this module has the error message.

use postern_core::text::services::{SERVICES, port_of as known};

use super::problem::suggestion;

/// The port of `name`, or an error that lists the known names.
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
