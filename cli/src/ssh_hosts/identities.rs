//! The keys that ssh would offer to a host, by its settings. Reads no key and calls no agent.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use super::expand::{self, Tokens};

/// The variable that names the agent by default.
const AUTH_SOCK: &str = "SSH_AUTH_SOCK";

/// ssh's default files in `~/.ssh`, in its order.
const DEFAULT_FILES: [&str; 5] = ["id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"];

/// The places of the keys for a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// `IdentityFile`, in ssh's order. They need not exist.
    pub files: Vec<PathBuf>,
    /// `CertificateFile`.
    pub certificates: Vec<PathBuf>,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    /// `IdentitiesOnly`: no key of the agent without a file that names it.
    pub only: bool,
    /// Notes about malformed settings, which are left out.
    pub notes: Vec<String>,
}

impl Identities {
    /// The defaults of ssh.
    #[must_use]
    pub fn plain() -> Self {
        let folder = expand::home().map(|home| home.join(".ssh"));
        let files = folder.iter().flat_map(|folder| DEFAULT_FILES.map(|name| folder.join(name))).collect();
        Self { files, agent: of_environment(AUTH_SOCK), ..Self::default() }
    }

    /// Reads the output of `ssh -G`; `values` gives the values of a keyword.
    pub(super) fn read<'a>(values: impl Fn(&str) -> Vec<&'a OsStr>, tokens: &Tokens) -> Self {
        let mut notes = Vec::new();
        let mut files = |keyword: &str| {
            let named = values(keyword).into_iter().filter(|name| !name.eq_ignore_ascii_case("none"));
            let mut found = Vec::new();
            for name in named {
                match file(name, tokens) {
                    Ok(path) => found.push(path),
                    Err(why) => notes.push(format!("{keyword} {} is left out: {why}", name.to_string_lossy())),
                }
            }
            found
        };
        let (identities, certificates) = (files("identityfile"), files("certificatefile"));
        let agent = match values("identityagent").first().map(|value| agent(value, tokens)) {
            None => of_environment(AUTH_SOCK),
            Some(Ok(agent)) => agent,
            Some(Err(why)) => {
                notes.push(format!("no agent is asked, because IdentityAgent is not understood: {why}"));
                None
            }
        };
        let only = values("identitiesonly").first().is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        Self { files: identities, certificates, agent, only, notes }
    }
}

/// ssh prints these names unexpanded.
fn file(name: &OsStr, tokens: &Tokens) -> Result<PathBuf, String> {
    tokens.expand(expand::tilde(name)?.as_os_str()).map(PathBuf::from)
}

/// `IdentityAgent`. Older versions of ssh print it unexpanded. A file that exists under the printed name is the right one.
fn agent(value: &OsStr, tokens: &Tokens) -> Result<Option<PathBuf>, String> {
    if value == "none" {
        return Ok(None);
    }
    if value == AUTH_SOCK {
        return Ok(of_environment(AUTH_SOCK));
    }
    if let Some(name) = value.as_bytes().strip_prefix(b"$").filter(|name| !name.starts_with(b"{")) {
        return Ok(of_environment(OsStr::from_bytes(name)));
    }
    let path = expand::tilde(value)?;
    if path.symlink_metadata().is_ok() {
        return Ok(Some(path));
    }
    tokens.expand(path.as_os_str()).map(|path| Some(PathBuf::from(path)))
}

fn of_environment(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
