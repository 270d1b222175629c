//! Ports by the names of the services that people manage machines with.
//!
//! Owns the table, which is part of the configuration's grammar: the same on every host, whatever `/etc/services` says.

use super::problem::suggestion;

/// IANA's names, and in brackets of the same port what people call them. All are TCP.
const SERVICES: &[(&str, u16)] = &[
    ("ssh", 22),
    ("telnet", 23),
    ("msrpc", 135),
    ("epmap", 135),
    ("smb", 445),
    ("microsoft-ds", 445),
    ("ipmi", 623),
    ("netconf-ssh", 830),
    ("mssql", 1433),
    ("ms-sql-s", 1433),
    ("docker", 2375),
    ("docker-tls", 2376),
    ("mysql", 3306),
    ("rdp", 3389),
    ("ms-wbt-server", 3389),
    ("postgresql", 5432),
    ("vnc", 5900),
    ("rfb", 5900),
    ("winrm", 5985),
    ("wsman", 5985),
    ("winrm-https", 5986),
    ("wsmans", 5986),
    ("kube-api", 6443),
    ("cockpit", 9090),
    ("webmin", 10000),
    ("kubelet", 10250),
];

/// The port of `name`.
///
/// # Errors
/// A sentence that says which names there are.
pub(super) fn port_of(name: &str) -> Result<u16, String> {
    let found = SERVICES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    found.ok_or_else(|| {
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
