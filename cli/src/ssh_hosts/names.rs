//! Whether a line of `known_hosts` names a host, as ssh matches names.
//!
//! Owns patterns, hashed names and names with a port. It never reads a file.

use ring::hmac;
use ssh_key::known_hosts::HostPatterns;

use super::config::SSH_PORT;

/// As ssh writes a host whose sshd is not on port 22.
pub fn with_port(host: &str, port: u16) -> String {
    if port == SSH_PORT { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// Whether the patterns name `name`, which is in lower case.
pub fn match_name(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => listed(patterns, |pattern| is_like(pattern.as_bytes(), name.as_bytes())),
    }
}

/// Whether the patterns name `host`, which is in lower case, with any port. Of a hashed name that cannot be told.
pub fn match_any_port(patterns: &HostPatterns, host: &str) -> bool {
    let HostPatterns::Patterns(patterns) = patterns else { return false };
    listed(patterns, |pattern| {
        let of_host = pattern.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")).map(|(host, _port)| host);
        is_like(of_host.unwrap_or(pattern).as_bytes(), host.as_bytes())
    })
}

/// One that fits, and none with a `!` that fits.
fn listed(patterns: &[String], fits: impl Fn(&str) -> bool) -> bool {
    let (mut named, mut refused) = (false, false);
    for pattern in patterns.iter().map(|pattern| pattern.to_ascii_lowercase()) {
        match pattern.strip_prefix('!') {
            Some(pattern) => refused |= fits(pattern),
            None => named |= fits(&pattern),
        }
    }
    named && !refused
}

/// `*` stands for any run of characters, `?` for one. Takes at most the product of both lengths in steps.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star, and the text that it is tried with next.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
            }
            (Some(&c), _) if c == b'?' || c == text[t] => (p, t) = (p + 1, t + 1),
            (_, Some((behind, tried))) => {
                star = Some((behind, tried + 1));
                (p, t) = (behind, tried + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*a", "aa", true),
            ("?", "", false),
            ("a**", "a", true),
            ("*.b", "a.b.b", true),
        ] {
            assert_eq!(is_like(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
