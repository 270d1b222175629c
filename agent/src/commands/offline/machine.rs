//! Checks of this machine for `posternd check-config`: user, addresses, tunnels, directories.
//!
//! Owns the sentences about the machine. `config::lints` owns those about the configuration. This module changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use postern_core::key::UDP;
use postern_core::policy::Policy;

use crate::sandbox::privilege::User;
use crate::system::sockets;
use crate::{config, enforcer};

/// A warning if this machine has no user of this name for posternd.
#[must_use]
pub fn user(name: &str) -> Option<String> {
    User::named(name).err().map(|why| format!("posternd will stay root here: {why}"))
}

/// A warning for each address of the API that this machine does not have now.
#[must_use]
pub fn addresses(api: &config::Api) -> Vec<String> {
    let missing = api.tcp.iter().chain(&api.plaintext).filter(|address| sockets::is_missing(**address));
    missing
        .map(|address| {
            format!("this host does not have the address of {address} now: posternd starts without this address, and serves it as soon as the host has it")
        })
        .collect()
}

/// The kernel tunnels on protected UDP ports, or why posternd could not read them: that needs root.
#[must_use]
pub fn tunnels(policy: &Policy) -> Vec<String> {
    let protected: BTreeSet<u16> =
        policy.protected().filter(|(protocol, _)| *protocol == UDP).map(|(_, p)| p).collect();
    if protected.is_empty() {
        return Vec::new();
    }
    match enforcer::tunnels() {
        Ok(found) => found.iter().filter(|t| protected.contains(&t.port)).map(enforcer::Tunnel::sentence).collect(),
        Err(error) => vec![format!("posternd could not see whether kernel tunnels use protected UDP ports: {error}")],
    }
}

/// A warning for each directory above `paths` in which users other than root can replace files that posternd trusts.
#[must_use]
pub fn above<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let folders: BTreeSet<&Path> = paths.into_iter().flat_map(|path| path.ancestors().skip(1)).collect();
    let lint = |folder: &Path| {
        let found = fs::metadata(folder).ok()?;
        // In a sticky directory only the owner of a file can replace it.
        let shared = found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && found.gid() != 0);
        let why = match found.uid() {
            0 if shared && found.mode() & 0o1000 == 0 => "others than root may write in it (chmod go-w)".to_owned(),
            0 => return None,
            user => format!("it belongs to user {user} (chown root)"),
        };
        Some(format!("others than root can replace files that posternd reads below {}: {why}", folder.display()))
    };
    folders.into_iter().filter_map(lint).collect()
}
