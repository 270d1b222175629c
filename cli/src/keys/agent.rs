//! A client of ssh-agent (draft-miller-ssh-agent). Blocks; a security key may wait for a touch without limit.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use postern_core::ssh::wire::{Reader, put_string, type_of};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Asks for rsa-sha2-512. The default is SHA-1, which is obsolete.
const RSA_SHA2_512: u32 = 4;
/// The largest answer of OpenSSH's agent.
const LONGEST_ANSWER: u32 = 256 * 1024;

/// The time limit for the list of keys, because a forwarded agent may be gone. Signing has no limit.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// One key of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentKey {
    /// The public key or certificate.
    pub blob: Vec<u8>,
    /// The comment, often a file name.
    pub comment: String,
}

/// The agent at a Unix socket.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The agent at `socket`.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The keys in the agent's order.
    ///
    /// # Errors
    /// Fails if the agent does not answer, or not in its protocol.
    pub fn keys(&self) -> io::Result<Vec<AgentKey>> {
        let answer = self.call(&[REQUEST_IDENTITIES], Some(LIST_LIMIT))?;
        parse_keys(&answer).ok_or_else(|| io::Error::other("the agent's list of keys is not readable"))
    }

    /// A signature blob over `data` by the key `blob`.
    ///
    /// # Errors
    /// Fails if the agent does not answer, refuses, or signs with another algorithm.
    pub fn sign(&self, blob: &[u8], data: &[u8]) -> io::Result<Vec<u8>> {
        let rsa = type_of(blob).is_some_and(|kind| kind.starts_with("ssh-rsa"));
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, blob);
        put_string(&mut request, data);
        request.extend_from_slice(&(if rsa { RSA_SHA2_512 } else { 0 }).to_be_bytes());
        let answer = self.call(&request, None)?;
        let signature = match answer.split_first() {
            Some((&SIGN_RESPONSE, rest)) => Reader::new(rest).string("signature").map(<[u8]>::to_vec),
            _ => return Err(io::Error::other("the ssh-agent refused to sign")),
        };
        let signature = signature.map_err(|_| io::Error::other("the ssh-agent's signature is not readable"))?;
        if rsa && type_of(&signature) != Some("rsa-sha2-512") {
            return Err(io::Error::other("the ssh-agent cannot sign with rsa-sha2-512"));
        }
        Ok(signature)
    }

    fn call(&self, request: &[u8], limit: Option<Duration>) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(limit)?;
        let mut framed = Vec::with_capacity(request.len() + 4);
        put_string(&mut framed, request);
        stream.write_all(&framed)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > LONGEST_ANSWER {
            return Err(io::Error::other("the agent's answer is too long"));
        }
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

fn parse_keys(answer: &[u8]) -> Option<Vec<AgentKey>> {
    let mut rest = Reader::new(answer);
    if rest.u8("kind").ok()? != IDENTITIES_ANSWER {
        return None;
    }
    let count = rest.u32("count").ok()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let blob = rest.string("key").ok()?.to_vec();
        let comment = String::from_utf8_lossy(rest.string("key").ok()?).into_owned();
        keys.push(AgentKey { blob, comment });
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_ends_early_or_is_no_list_is_refused() {
        let mut answer = vec![IDENTITIES_ANSWER, 0, 0, 0, 1];
        put_string(&mut answer, b"blob");
        put_string(&mut answer, b"comment");
        let keys = parse_keys(&answer).expect("a list of one");
        assert_eq!(keys, [AgentKey { blob: b"blob".to_vec(), comment: "comment".to_owned() }]);
        for length in 0..answer.len() {
            assert_eq!(parse_keys(&answer[..length]), None, "{length}");
        }
        assert_eq!(parse_keys(&[5]), None);
        assert_eq!(parse_keys(&[IDENTITIES_ANSWER, 255, 255, 255, 255]), None);
    }
}
