//! Expands file names of `ssh_config` as ssh does (ssh_config(5), TOKENS): `~`, `~user`, `%` tokens, `${VARIABLE}`, and several names in a
//! line. Text that ssh would not understand is an error, never an empty name.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User, gethostname};
use ring::digest;

/// The values of the tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// `%n`: the host as typed.
    pub typed: String,
    /// `%h`: `HostName`.
    pub hostname: String,
    /// `%p`: `Port`.
    pub port: u16,
    /// `%r`: `User`, on the host.
    pub user: String,
    /// `%k`: `HostKeyAlias`, if set.
    pub alias: Option<String>,
    /// `%j`: `ProxyJump`.
    pub jump: String,
}

/// The home directory that ssh uses: from the user database, and only then from `HOME`.
#[must_use]
pub fn home() -> Option<PathBuf> {
    let listed = User::from_uid(Uid::current()).ok().flatten().map(|user| user.dir);
    let named = || std::env::var_os("HOME").map(PathBuf::from);
    listed.or_else(named).filter(|home| home.is_absolute())
}

/// Expands `~` and `~user` at the beginning.
///
/// # Errors
/// Fails if the user or the home directory does not exist.
pub fn tilde(name: &OsStr) -> Result<PathBuf, String> {
    let bytes = name.as_bytes();
    let Some(rest) = bytes.strip_prefix(b"~") else { return Ok(PathBuf::from(name)) };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (user, below) = rest.split_at(end);
    let unknown = || format!("there is no home directory for {:?}", String::from_utf8_lossy(bytes));
    let home = match user {
        [] => home(),
        user => {
            let user = std::str::from_utf8(user).map_err(|_| unknown())?;
            User::from_name(user).ok().flatten().map(|user| user.dir)
        }
    };
    let home = home.ok_or_else(unknown)?;
    let below = below.iter().skip_while(|byte| **byte == b'/').copied().collect::<Vec<_>>();
    Ok(if below.is_empty() { home } else { home.join(OsString::from_vec(below)) })
}

impl Tokens {
    /// Expands `%` tokens and `${VARIABLE}`.
    ///
    /// # Errors
    /// Fails if ssh does not know a token, or a variable is not set.
    pub fn expand(&self, name: &OsStr) -> Result<OsString, String> {
        let mut out = Vec::new();
        let mut rest = name.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            rest = match (first, after.first()) {
                (b'%', Some(&token)) => {
                    out.extend(self.token(token)?);
                    &after[1..]
                }
                (b'%', None) => return Err("a % stands at the end".to_owned()),
                (b'$', Some(b'{')) => {
                    let end = after.iter().position(|byte| *byte == b'}').ok_or("a ${ is not closed")?;
                    let variable = OsStr::from_bytes(&after[1..end]);
                    let value = std::env::var_os(variable);
                    let unset = || format!("the variable {} is not set", variable.to_string_lossy());
                    out.extend_from_slice(value.ok_or_else(unset)?.as_bytes());
                    &after[end + 1..]
                }
                _ => {
                    out.push(first);
                    after
                }
            };
        }
        Ok(OsString::from_vec(out))
    }

    fn token(&self, token: u8) -> Result<Vec<u8>, String> {
        let text = match token {
            b'%' => "%".to_owned(),
            b'C' => self.connection()?,
            b'd' => return Ok(home().ok_or("there is no home directory for %d")?.into_os_string().into_vec()),
            b'h' => self.hostname.clone(),
            b'i' => Uid::current().to_string(),
            b'j' => self.jump.clone(),
            b'k' => self.alias.clone().unwrap_or_else(|| self.typed.clone()),
            b'L' => this_machine()?.split('.').next().unwrap_or_default().to_owned(),
            b'l' => this_machine()?,
            b'n' => self.typed.clone(),
            b'p' => self.port.to_string(),
            b'r' => self.user.clone(),
            b'u' => User::from_uid(Uid::current()).ok().flatten().ok_or("no user is listed for %u")?.name,
            other => return Err(format!("%{} is no token", other.escape_ascii())),
        };
        Ok(text.into_bytes())
    }

    /// `%C`: the SHA-1 of `%l%h%p%r%j`. Older versions of ssh omit `%j`, which is the same if it is empty.
    fn connection(&self) -> Result<String, String> {
        let all = format!("{}{}{}{}{}", this_machine()?, self.hostname, self.port, self.user, self.jump);
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, all.as_bytes());
        Ok(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn this_machine() -> Result<String, String> {
    let name = gethostname().map_err(|error| format!("the name of this machine is not known: {error}"))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The files in a line of several. ssh prints no quotes, so a blank may separate two names or belong to one. A part that is no absolute
/// path belongs to the name before, unless existing files show otherwise.
///
/// # Errors
/// Fails if both readings name existing files, or a user has no home directory.
pub fn list(line: &OsStr) -> Result<Vec<PathBuf>, String> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    for word in line.as_bytes().split(|byte| *byte == b' ') {
        match words.last_mut() {
            Some(last) if !word.starts_with(b"/") && !word.starts_with(b"~") => {
                last.push(b' ');
                last.extend_from_slice(word);
            }
            _ => words.push(word.to_vec()),
        }
    }
    let mut files = Vec::new();
    for word in words.iter().filter(|word| word.as_slice() != b"none") {
        files.extend(read_one(word)?);
    }
    for pair in words.windows(2) {
        let joined = tilde(OsStr::from_bytes(&pair.join(&b' ')))?;
        if exists(&joined) {
            return Err(ambiguous(&joined));
        }
    }
    Ok(files)
}

/// One name with blanks in it, or several that are relative to the working directory.
fn read_one(word: &[u8]) -> Result<Vec<PathBuf>, String> {
    let whole = tilde(OsStr::from_bytes(word))?;
    let parts: Vec<_> = word.split(|byte| *byte == b' ').filter(|part| !part.is_empty()).collect();
    let parts = parts.into_iter().map(|part| tilde(OsStr::from_bytes(part))).collect::<Result<Vec<_>, _>>()?;
    match (parts.len() > 1 && parts.iter().any(|part| exists(part)), exists(&whole)) {
        (true, true) => Err(ambiguous(&whole)),
        (true, false) => Ok(parts),
        (false, _) => Ok(vec![whole]),
    }
}

/// Whether the path exists, readable or not.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn ambiguous(path: &Path) -> String {
    format!("{:?} may be one file or several, and there are files for both", path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let text = str::to_owned;
        Tokens {
            typed: text("Web"),
            hostname: text("vm1"),
            port: 2222,
            user: text("bob"),
            alias: None,
            jump: text("gate"),
        }
    }

    #[test]
    fn tokens_are_those_of_ssh() {
        let expand = |name: &str| tokens().expand(OsStr::new(name)).map(|name| name.into_string().unwrap());
        assert_eq!(expand("/a%%b/%h-%n-%p-%r-%k-%j$x"), Ok("/a%b/vm1-Web-2222-bob-Web-gate$x".to_owned()));
        assert_eq!(expand("%i"), Ok(Uid::current().to_string()));
        assert_eq!(expand("${PATH}"), Ok(std::env::var("PATH").unwrap()));
        assert_eq!(expand("%C").map(|hash| hash.len()), Ok(40));
        for wrong in ["%", "%z", "%\u{e9}", "${PATH", "${POSTERN_NOT_SET_ANYWHERE}"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_home_is_that_of_the_list_of_users() {
        let root = User::from_name("root").unwrap().unwrap().dir;
        assert_eq!(tilde(OsStr::new("~root/x")), Ok(root.join("x")));
        assert_eq!(tilde(OsStr::new("~root")), Ok(root));
        assert_eq!(tilde(OsStr::new("~//x")), Ok(home().unwrap().join("x")));
        assert_eq!(tilde(OsStr::new("/a/~")), Ok(PathBuf::from("/a/~")));
        assert!(tilde(OsStr::new("~nobody-of-this-name/x")).is_err());
    }

    #[test]
    fn a_line_of_several_files_is_split_where_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let line = |names: &[&str]| {
            OsString::from(names.iter().map(|n| at(n).display().to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(list(&line(&["one", "a  blank", "two"])), Ok(vec![at("one"), at("a  blank"), at("two")]));
        std::fs::write(at("a  blank"), "").unwrap();
        assert_eq!(list(&line(&["a  blank"])), Ok(vec![at("a  blank")]));
        std::fs::write(at("a"), "").unwrap();
        assert!(list(&line(&["a  blank"])).is_err(), "both are there");
        std::fs::remove_file(at("a  blank")).unwrap();
        assert_eq!(list(&line(&["a  blank"])), Ok(vec![at("a"), PathBuf::from("blank")]));
        assert_eq!(list(OsStr::new("none")), Ok(vec![]));
    }
}
