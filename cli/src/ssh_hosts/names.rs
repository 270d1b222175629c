//! Matches a host's name against the patterns of a `known_hosts` line as ssh does: hashed names, and names with a port.

use postern_core::ssh::pattern::PatternList;
use ring::hmac;
use ssh_key::known_hosts::HostPatterns;

use super::config::SSH_PORT;

/// The name of a host in the form of ssh, which omits port 22.
pub fn with_port(host: &str, port: u16) -> String {
    if port == SSH_PORT { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// `name` is in lower case.
pub fn match_name(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => listed(patterns, str::to_owned).matches(name),
    }
}

/// Matches `host`, which is in lower case, with any port. Never matches a hashed name.
pub fn match_any_port(patterns: &HostPatterns, host: &str) -> bool {
    let HostPatterns::Patterns(patterns) = patterns else { return false };
    let without_port = |pattern: &str| {
        let (mark, named) = pattern.strip_prefix('!').map_or(("", pattern), |named| ("!", named));
        let host = named.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")).map_or(named, |(host, _port)| host);
        format!("{mark}{host}")
    };
    listed(patterns, without_port).matches(host)
}

fn listed(patterns: &[String], name: impl Fn(&str) -> String) -> PatternList {
    let names: Vec<_> = patterns.iter().map(|pattern| name(&pattern.to_ascii_lowercase())).collect();
    PatternList::new(&names.join(","))
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
            assert_eq!(PatternList::new(pattern).matches(text), fits, "{pattern} {text}");
        }
    }
}
