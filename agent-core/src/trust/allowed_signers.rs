//! The grammar of one line of an `allowed_signers` file (ssh-keygen(1), ALLOWED SIGNERS).
//! ssh-keygen skips an unreadable line. Here such a line makes the whole file invalid, so that nobody relies on an entry without effect
//! (see `remains`). Each accepted line means the same to ssh-keygen.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::tz::TimeZone;

use super::window::{Window, parse_time};
use crate::ssh::pattern::{PatternList, is_literal};
use crate::ssh::{Accept, Algorithm, Fingerprint, PublicKey};
use crate::text::Shown;

/// The longest name, in bytes: the journal stores it with each grant.
const MOST_NAME: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of the line, from 1.
    pub(super) number: usize,
    pub(super) key: Fingerprint,
    pub(super) who: Who,
    pub(super) namespaces: Option<PatternList>,
    pub(super) window: Window,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The key's holder. Only the first name counts.
    Holder(Vec<String>),
    /// The key is a certificate authority. The line trusts each name in its certificates that a pattern matches.
    CertifiedAs(PatternList),
}

#[derive(Default)]
struct Options {
    authority: bool,
    namespaces: Option<PatternList>,
    after: Option<u64>,
    before: Option<u64>,
}

const BLANKS: [char; 2] = [' ', '\t'];

impl Line {
    /// Reads line `number`; `None` for blank lines and comments. Times without `Z` are in `zone`.
    /// # Errors
    /// The error, in words.
    pub(super) fn parse(number: usize, line: &str, zone: Option<&TimeZone>) -> Result<Option<Self>, String> {
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err("it contains a control character".to_owned());
        }
        let (principals, rest) = split_principals(line)?;
        let (options, rest) = if starts_with_key_type(rest) { ("", rest) } else { split_options(rest)? };
        let options = Options::parse(options, zone)?;
        let key = parse_key(rest)?;
        let window = options.window()?;
        let who = if options.authority {
            Who::CertifiedAs(PatternList::new(principals))
        } else {
            Who::Holder(principals.split(',').map(parse_name).collect::<Result<_, _>>()?)
        };
        Ok(Some(Self { number, key, who, namespaces: options.namespaces, window }))
    }

    /// Whether a signature made for `namespace` counts.
    pub(super) fn admits(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|list| list.matches(namespace))
    }
}

/// Principals in quotes may contain blanks.
fn split_principals(line: &str) -> Result<(&str, &str), String> {
    let (principals, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or("the quote before the principals is not closed")?,
        None => line.split_once(BLANKS).ok_or("a line is: principals [options] key-type key")?,
    };
    if principals.is_empty() || principals.contains(['"', '\t']) {
        return Err("the principals are malformed".to_owned());
    }
    Ok((principals, rest.trim_start_matches(BLANKS)))
}

fn parse_name(name: &str) -> Result<String, String> {
    if !is_literal(name) {
        return Err(format!(
            "the pattern {name:?} names nobody: write the name of the key's holder, or add cert-authority"
        ));
    }
    if name.is_empty() || name.len() > MOST_NAME {
        return Err(format!("a principal has 1 to {MOST_NAME} bytes"));
    }
    Ok(name.to_owned())
}

fn starts_with_key_type(rest: &str) -> bool {
    let word = rest.split(BLANKS).next().unwrap_or_default();
    let known = Algorithm::of_name(word.as_bytes()).or_else(|| Algorithm::of_certificate_name(word.as_bytes()));
    known.is_some() || ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|prefix| word.starts_with(prefix))
}

fn split_options(rest: &str) -> Result<(&str, &str), String> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                let (options, key) = rest.split_at(at);
                return Ok((options, key.trim_start_matches(BLANKS)));
            }
            _ => {}
        }
        escaped = c == '\\';
    }
    Err(if quoted { "a quote in the options is not closed" } else { "the key is missing" }.to_owned())
}

fn split_at_commas(options: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let separator = |c: char| {
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\';
        c == ',' && !quoted
    };
    options.split(separator).collect()
}

impl Options {
    fn parse(text: &str, zone: Option<&TimeZone>) -> Result<Self, String> {
        let mut options = Self::default();
        if text.is_empty() {
            return Ok(options);
        }
        for option in split_at_commas(text) {
            let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
            match (name.to_ascii_lowercase().as_str(), value) {
                ("cert-authority", None) => options.authority = true,
                ("namespaces", Some(v)) => once(&mut options.namespaces, name, PatternList::new(&dequote(name, v)?))?,
                ("valid-after", Some(v)) => once(&mut options.after, name, time(name, v, zone)?)?,
                ("valid-before", Some(v)) => once(&mut options.before, name, time(name, v, zone)?)?,
                _ => return Err(format!("the option {option:?} is unknown")),
            }
        }
        Ok(options)
    }

    fn window(&self) -> Result<Window, String> {
        let always = Window::ALWAYS;
        let window = Window { first: self.after.unwrap_or(always.first), last: self.before.unwrap_or(always.last) };
        let empty = self.after.is_some() && self.before.is_some() && window.last <= window.first;
        if empty { Err("valid-before does not come after valid-after".to_owned()) } else { Ok(window) }
    }
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        Some(_) => Err(format!("{name} is given twice")),
        None => Ok(()),
    }
}

fn time(name: &str, value: &str, zone: Option<&TimeZone>) -> Result<u64, String> {
    parse_time(&dequote(name, value)?, zone).map_err(|reason| format!("{name}: {reason}"))
}

/// Removes the quotes around a value; `\"` inside stands for a quote.
fn dequote(name: &str, value: &str) -> Result<String, String> {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let text = inner.ok_or_else(|| format!("the value of {name} stands in double quotes"))?.replace("\\\"", "\0");
    if text.is_empty() || text.contains('"') || text.ends_with('\\') {
        return Err(format!("the value of {name} is malformed"));
    }
    Ok(text.replace('\0', "\""))
}

pub(super) fn parse_key(text: &str) -> Result<Fingerprint, String> {
    let mut words = text.split(BLANKS).filter(|w| !w.is_empty());
    let kind = words.next().ok_or("the key is missing")?;
    if Algorithm::of_certificate_name(kind.as_bytes()).is_some() {
        return Err(
            "a certificate cannot be listed: list the key itself, or its authority with cert-authority".to_owned()
        );
    }
    let blob = STANDARD.decode(words.next().ok_or("the key's base64 part is missing")?);
    let blob = blob.map_err(|_| "the key is not base64")?;
    let key = PublicKey::parse(&blob, Accept::Signers).map_err(|error| error.to_string())?;
    if key.algorithm().name() != kind {
        // Lists of revoked keys may contain any text.
        return Err(format!("the key says {} but is {}", Shown::new(kind), key.algorithm().name()));
    }
    Ok(key.fingerprint())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPU1aQ9rUqUTbjZhUGbXrJpLGbYqZ8M+1rPmTf5dMhhO";

    fn parse(line: &str) -> Result<Option<Line>, String> {
        Line::parse(1, &line.replace("KEY", KEY), None)
    }

    fn names(line: &str) -> Vec<String> {
        match parse(line).unwrap().unwrap().who {
            Who::Holder(names) => names,
            Who::CertifiedAs(_) => panic!("{line} is an authority"),
        }
    }

    #[test]
    fn the_forms_that_ssh_keygen_reads() {
        assert_eq!(names("alice@example.com KEY"), ["alice@example.com"]);
        assert_eq!(names("\talice@example.com\t KEY comment with words\r"), ["alice@example.com"]);
        assert_eq!(names("a@b,c@d KEY"), ["a@b", "c@d"]);
        assert_eq!(names("\"Alice Smith,a@b\" KEY"), ["Alice Smith", "a@b"]);
        let line =
            parse("*@b,!eve@b Cert-Authority,NAMESPACES=\"request@*,read@postern.v1\",valid-after=\"20260101Z\" KEY");
        let line = line.unwrap().unwrap();
        assert!(matches!(&line.who, Who::CertifiedAs(list) if list.matches("x@b") && !list.matches("eve@b")));
        assert!(
            line.admits("request@postern.v1") && line.admits("read@postern.v1") && !line.admits("admin@postern.v1")
        );
        assert_eq!(line.window, Window { first: 1_767_225_600, last: u64::MAX });
        for nothing in ["", "  \t", "# alice KEY", "  # alice"] {
            assert_eq!(parse(nothing), Ok(None));
        }
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        for (line, words) in [
            ("alice", "a line is"),
            ("\"alice KEY", "not closed"),
            ("alice KEYextra=", "not base64"),
            ("*@example.com KEY", "names nobody"),
            ("a,!b KEY", "names nobody"),
            ("a,,b KEY", "1 to 255"),
            ("alice cert-authority", "key is missing"),
            ("alice cert-authority ", "key is missing"),
            ("alice no-touch-required KEY", "unknown"),
            ("alice cert-authority,, KEY", "unknown"),
            ("alice namespaces=request KEY", "double quotes"),
            ("alice namespaces=\"a\",namespaces=\"b\" KEY", "twice"),
            ("alice namespaces=\"\" KEY", "malformed"),
            ("alice namespaces=\"a KEY", "not closed"),
            ("alice valid-after=\"20260101\" KEY", "time zone"),
            ("alice valid-before=\"yesterdayZ\" KEY", "YYYYMMDD"),
            ("alice valid-after=\"20260102Z\",valid-before=\"20260101Z\" KEY", "does not come after"),
            ("alice ssh-dss AAAAB3NzaC1kc3M=", "ssh-dss keys are not accepted"),
            ("alice ssh-ed25519-cert-v01@openssh.com AAAA", "certificate cannot be listed"),
            ("alice sk-KEY", "says sk-ssh-ed25519"),
            ("alice ssh-ed25519", "base64 part is missing"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
