//! Whom an accepted trust file and revocation list speak of, read once more: slowly, by code that shares nothing with the real one.
//!
//! Owns the twin's reading. It refuses nothing: it is asked about files that were accepted.

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use jiff::Timestamp;
use postern_core::envelope::{Purpose, Signer};

/// A line that is neither empty nor a comment.
pub struct Line {
    principals: String,
    options: Vec<(String, String)>,
    /// `SHA256:…` of the key that it lists.
    key: String,
}

/// The lines of an accepted trust file.
pub fn lines(file: &str) -> Vec<Line> {
    file.split('\n').filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    let text = text.trim_matches([' ', '\t', '\r']);
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let (principals, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => text.split_once([' ', '\t'])?,
    };
    let words = words(rest);
    let is_type = |word: &str| ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|start| word.starts_with(start));
    let (options, key) = match &words[..] {
        [kind, key, ..] if is_type(kind) => ("", key),
        [options, _, key, ..] => (&options[..], key),
        _ => return None,
    };
    Some(Line { principals: principals.to_owned(), options: options_of(options), key: fingerprint_of(key) })
}

impl Line {
    /// Whether it gives the signer's key, or authority, his name, for this role, at this time.
    pub fn trusts(&self, signer: &Signer, role: Purpose, now: i64, clock_trusted: bool) -> bool {
        let value = |name: &str| self.options.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..]);
        let by_authority = value("cert-authority").is_some();
        let listed = signer.certificate.as_ref().map_or(&signer.fingerprint, |certificate| &certificate.authority);
        if self.key != *listed || by_authority != signer.certificate.is_some() {
            return false;
        }
        let named = match by_authority {
            true => matches(&self.principals, &signer.principal),
            false => self.principals.split(',').next() == Some(&signer.principal[..]),
        };
        let now = now.max(0);
        let begun = value("valid-after").is_none_or(|text| seconds(text) <= now);
        let ended = value("valid-before").is_some_and(|text| seconds(text) < now);
        named
            && value("namespaces").is_none_or(|list| matches(list, role.namespace()))
            && (!clock_trusted || begun && !ended)
    }
}

/// Splits at blanks outside of quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut before) = (false, ' ');
    for c in line.chars() {
        quoted ^= c == '"' && before != '\\';
        match words.last_mut() {
            Some(word) if quoted || ![' ', '\t'].contains(&c) => word.push(c),
            _ => words.push(String::new()),
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Names, in small letters, and what stands in the quotes behind them.
fn options_of(text: &str) -> Vec<(String, String)> {
    let mut options = vec![(String::new(), String::new())];
    let (mut quoted, mut before, mut in_value) = (false, ' ', false);
    for c in text.chars() {
        let (name, value) = options.last_mut().expect("one");
        match c {
            '"' if before == '\\' => {
                value.pop();
                value.push('"');
            }
            '"' => quoted = !quoted,
            '=' if !quoted && !in_value => in_value = true,
            ',' if !quoted => {
                options.push((String::new(), String::new()));
                in_value = false;
            }
            c if in_value => value.push(c),
            c => name.push(c.to_ascii_lowercase()),
        }
        before = c;
    }
    options
}

/// `SHA256:…` of a key in base64.
pub fn fingerprint_of(key: &str) -> String {
    fingerprint(&STANDARD.decode(key).unwrap_or_default())
}

fn fingerprint(blob: &[u8]) -> String {
    shown(ring::digest::digest(&ring::digest::SHA256, blob).as_ref())
}

fn shown(hash: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(hash))
}

/// A list of patterns, by a table of what matches up to where.
fn matches(list: &str, name: &str) -> bool {
    let hit = |negated: bool| {
        let patterns = list.split(',').filter(|pattern| pattern.starts_with('!') == negated);
        patterns
            .into_iter()
            .any(|pattern| glob(pattern.strip_prefix('!').unwrap_or(pattern).as_bytes(), name.as_bytes()))
    };
    hit(false) && !hit(true)
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    // Which beginnings of the name the pattern's beginning matches.
    let mut fits: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for p in pattern {
        let next = |at: usize| match p {
            b'*' => fits[..=at].contains(&true),
            p => at > 0 && fits[at - 1] && (*p == b'?' || *p == name[at - 1]),
        };
        fits = (0..=name.len()).map(next).collect();
    }
    fits[name.len()]
}

/// `20260102Z`, `202601020304Z`, `20260102030405Z`
fn seconds(text: &str) -> i64 {
    let padded = format!("{:0<14}", text.trim_end_matches('Z'));
    let part = |from: usize, to: usize| &padded[from..to];
    let (date, time) =
        ([part(0, 4), part(4, 6), part(6, 8)].join("-"), [part(8, 10), part(10, 12), part(12, 14)].join(":"));
    format!("{date}T{time}Z").parse::<Timestamp>().expect("a moment").as_second()
}

/// Whether an accepted list names the signer's key, his authority's, or his certificate.
pub fn revokes(list: &[u8], signer: &Signer) -> bool {
    let authority = signer.certificate.as_ref().map(|certificate| &certificate.authority);
    let keys = [Some(&signer.fingerprint), authority];
    let is_ours = |found: String| keys.contains(&Some(&found));
    if !list.starts_with(b"SSHKRL\n\0") {
        let text = std::str::from_utf8(list).expect("accepted text");
        return text.split('\n').map(str::split_whitespace).any(|mut words| match (words.next(), words.next()) {
            (Some(word), _) if word.starts_with("SHA256:") => is_ours(word.to_owned()),
            (Some(word), Some(key)) => !word.starts_with('#') && is_ours(fingerprint_of(key)),
            _ => false,
        });
    }
    // Magic, format version, list version, date, flags.
    let mut rest = &list[8 + 4 + 24..];
    let _comments = (string(&mut rest), string(&mut rest));
    parts(rest).into_iter().any(|(kind, section)| match kind {
        1 => revokes_certificate(section, signer),
        2 => strings(section).into_iter().any(|blob| is_ours(fingerprint(blob))),
        5 => strings(section).into_iter().any(|hash| is_ours(shown(hash))),
        255 => false,
        _ => panic!("section {kind} was accepted"),
    })
}

fn revokes_certificate(mut section: &[u8], signer: &Signer) -> bool {
    let Some(certificate) = &signer.certificate else { return false };
    let (authority, _reserved) = (string(&mut section), string(&mut section));
    let serials = |bytes: &[u8]| bytes.chunks(8).map(|bytes| number(bytes)).collect::<Vec<_>>();
    let named = parts(section).into_iter().any(|(kind, part)| match kind {
        0x20 => serials(part).contains(&certificate.serial),
        0x21 => (number(&part[..8])..=number(&part[8..])).contains(&certificate.serial),
        0x22 => is_set(&part[12..], certificate.serial.checked_sub(number(&part[..8]))),
        0x23 => strings(part).into_iter().any(|id| id == certificate.key_id.as_bytes()),
        0x39 => false,
        _ => panic!("certificates of kind {kind} were accepted"),
    });
    named && (authority.is_empty() || fingerprint(authority) == certificate.authority)
}

/// Whether a big-endian number has this bit, counted from its end.
fn is_set(number: &[u8], bit: Option<u64>) -> bool {
    let bits = number.iter().rev().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    (0..).zip(bits).any(|(at, set)| set && bit == Some(at))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number * 256 + u64::from(*byte))
}

fn string<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, behind) = rest.split_at(4);
    let (value, behind) = behind.split_at(number(length) as usize);
    *rest = behind;
    value
}

fn strings(mut rest: &[u8]) -> Vec<&[u8]> {
    std::iter::from_fn(|| (!rest.is_empty()).then(|| string(&mut rest))).collect()
}

/// Each a byte for its kind, and a string.
fn parts(mut rest: &[u8]) -> Vec<(u8, &[u8])> {
    let next = || {
        let (kind, behind) = rest.split_first()?;
        rest = behind;
        Some((*kind, string(&mut rest)))
    };
    std::iter::from_fn(next).collect()
}
