//! Trust files and lists of revoked keys, made of words that a byte each stands for.
//!
//! Owns the words.

use crate::valid;

const WHO: [&str; 10] = [
    "alice@example.com",
    "bob,alice@example.com",
    "\"Alice Smith,a@b\"",
    "*@example.com",
    "*@example.com,!alice@example.com",
    "!bob,*",
    "a?ice@*",
    "**@*.com",
    "\t# alice@example.com",
    "al\\*@example.com",
];

const OPTIONS: [&str; 16] = [
    "",
    "",
    "",
    "cert-authority",
    "Cert-Authority",
    "namespaces=\"request@*\"",
    "namespaces=\"*,!request@postern.v1\"",
    "namespaces=\"admin@postern.v1,read@postern.v1\"",
    "NAMESPACES=\"a\\\",request@postern.v1\"",
    "valid-after=\"20260101Z\"",
    "valid-after=\"20260101000001Z\"",
    "valid-after=\"202601011200Z\"",
    "valid-before=\"20260101Z\"",
    "valid-before=\"20260101000001Z\"",
    "valid-before=\"20251231235959Z\"",
    "valid-before=\"20260230Z\"",
];

/// Four bytes for a line of the trust file (who, two options, key) up to a byte 255, and one for each line of the list behind it.
pub fn files(bytes: &[u8]) -> (String, String) {
    let mut parts = bytes.splitn(2, |byte| *byte == 255);
    let (lines, list) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    (lines.chunks_exact(4).map(line).collect(), list.iter().map(revoked).collect())
}

fn line(bytes: &[u8]) -> String {
    let option = |at: usize| OPTIONS[usize::from(bytes[at]) % OPTIONS.len()];
    let options: Vec<_> = [option(1), option(2)].into_iter().filter(|option| !option.is_empty()).collect();
    let start = format!("{} {}", WHO[usize::from(bytes[0]) % WHO.len()], options.join(","));
    valid::line(start.trim_end(), 1 + bytes[3] % 3)
}

fn revoked(byte: &u8) -> String {
    let key = valid::line("", 1 + byte % 3);
    let key = key.trim();
    let words: Vec<_> = key.split(' ').collect();
    let fingerprint = crate::trust_twin::fingerprint_of(words[1]);
    match byte / 3 % 8 {
        0 => format!("{fingerprint}\n"),
        1 => format!("\t{fingerprint} alice # gone\r\n"),
        2 => format!("{key}\n"),
        3 => format!("  {key} # gone\r\n"),
        4 => format!("# {fingerprint}\n"),
        5 => format!("#{key}\n"),
        6 => "\r\n".to_owned(),
        _ => format!("{}\n", fingerprint.to_lowercase()),
    }
}

/// A binary list, three bytes for each part of it: serials, a range, a bitmap, key ids; what nobody knows; and what is no part of
/// a certificates' section.
pub fn list(bytes: &[u8]) -> Vec<u8> {
    let section = |kind: u8, content: &[u8]| [&[kind][..], &valid::strings(&[content])].concat();
    let (mut parts, mut others) = (valid::strings(&[b"", b""]), Vec::new());
    for bytes in bytes.chunks_exact(3).take(8) {
        let &[kind, a, b] = bytes else { continue };
        let (first, last) = (u64::from(a).to_be_bytes(), u64::from(b).to_be_bytes());
        let extension = [&valid::strings(&[b"x"])[..], &[a % 2], &valid::strings(&[b""])].concat();
        match kind % 12 {
            0 => parts.extend(section(0x20, &[first, last].concat())),
            1 => parts.extend(section(0x21, &[first, last].concat())),
            2 => parts.extend(section(0x22, &[&first[..], &valid::strings(&[&[b]])].concat())),
            3 => parts.extend(section(0x23, &valid::strings(&[[&b"key id"[..], b"another"][usize::from(a % 2)], b""]))),
            4 => parts.extend(section(0x24 + a % 2, &first)),
            5 => parts.extend(section(0x39, &extension)),
            6 => others.extend(section(255, &extension)),
            7 => others.extend(section(6 + a % 4, &first)),
            8 => others.extend(section(3 + a % 2, &valid::strings(&[&[b; 20]]))),
            9 => others.extend(section(5, &valid::strings(&[&[a; 32]]))),
            10 => others.extend(section(2, &valid::strings(&[&[a; 4]]))),
            _ => parts.extend(section(0x22, &[&first[..], &valid::strings(&[&[1, a, b]])].concat())),
        }
    }
    let header = [&b"SSHKRL\n\0\0\0\0\x01"[..], &[0; 24], &valid::strings(&[b"", b""])].concat();
    [header, section(1, &parts), others].concat()
}
