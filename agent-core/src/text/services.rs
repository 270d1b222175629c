//! Names of the services that people use to manage machines. Owns one table for all hosts and clients, independent of `/etc/services`. A
//! `[[port]]` of the same name has precedence ([`crate::policy`]).

/// Names and TCP port numbers: IANA's names, and common names for the same port.
pub const SERVICES: &[(&str, u16)] = &[
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

/// The port number of `name` in the table.
#[must_use]
pub fn port_of(name: &str) -> Option<u16> {
    SERVICES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
