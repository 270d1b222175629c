//! OpenSSH's binary key revocation lists (`ssh-keygen -k`, PROTOCOL.krl). Owns their encoding. An unsupported part makes the whole list
//! invalid: to skip a revocation would be a hole. The readable parts of an invalid list still revoke.

use super::revoked::{Certificates, Revoked};
use crate::ssh::wire::Reader;
use crate::ssh::{Error, Fingerprint};

pub(super) const MAGIC: &[u8; 8] = b"SSHKRL\n\0";
const FORMAT_VERSION: u32 = 1;

const CERTIFICATES: u8 = 1;
const EXPLICIT_KEYS: u8 = 2;
const SHA1: u8 = 3;
const SIGNATURE: u8 = 4;
const SHA256: u8 = 5;
const EXTENSION: u8 = 255;

const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATE_EXTENSION: u8 = 0x39;

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.to_string()
    }
}

/// Reads a list into `revoked`; from a damaged list, the readable parts. Returns the first error.
pub(super) fn read(bytes: &[u8], revoked: &mut Revoked) -> Result<(), String> {
    let mut reader = Reader::new(bytes);
    if reader.array("magic")? != MAGIC {
        return Err("it does not start with SSHKRL".to_owned());
    }
    let version = reader.u32("format version")?;
    if version != FORMAT_VERSION {
        return Err(format!("its format version {version} is unknown"));
    }
    for field in ["list version", "date", "flags"] {
        reader.u64(field)?;
    }
    for field in ["reserved field", "comment"] {
        reader.string(field)?;
    }
    let mut outcome = Ok(());
    while !reader.rest().is_empty() {
        let (kind, section) = (reader.u8("section type")?, Reader::new(reader.string("section")?));
        outcome = outcome.and(read_section(kind, section, revoked));
    }
    outcome
}

fn read_section(kind: u8, mut section: Reader<'_>, revoked: &mut Revoked) -> Result<(), String> {
    match kind {
        CERTIFICATES => return read_certificates(section, revoked),
        EXTENSION => return read_extension(section),
        SHA1 => return Err("it revokes keys by SHA-1: make it with sha256: or key: instead".to_owned()),
        SIGNATURE => return Err("it is signed, which is not supported".to_owned()),
        EXPLICIT_KEYS | SHA256 => {}
        _ => return Err(format!("its section type {kind} is unknown")),
    }
    while !section.rest().is_empty() {
        let entry = section.string("key")?;
        let key = match kind {
            EXPLICIT_KEYS => Fingerprint::of(entry),
            _ => Fingerprint(entry.try_into().map_err(|_| "its hash is malformed")?),
        };
        revoked.keys.insert(key);
    }
    Ok(())
}

/// This module knows no extension, so a critical one makes the list invalid.
fn read_extension(mut section: Reader<'_>) -> Result<(), String> {
    section.string("extension's name")?;
    let critical = section.u8("extension's flag")?;
    section.string("extension's content")?;
    section.finish("extension's end")?;
    if critical == 0 { Ok(()) } else { Err("it has a critical extension, and none is known".to_owned()) }
}

fn read_certificates(mut section: Reader<'_>, revoked: &mut Revoked) -> Result<(), String> {
    let authority = section.string("authority")?;
    section.string("reserved field")?;
    let authority = (!authority.is_empty()).then(|| Fingerprint::of(authority));
    let certificates = revoked.certificates.entry(authority).or_default();
    while !section.rest().is_empty() {
        let (kind, part) = (section.u8("certificates' type")?, Reader::new(section.string("certificates")?));
        read_part(kind, part, certificates)?;
    }
    Ok(())
}

fn read_part(kind: u8, mut part: Reader<'_>, certificates: &mut Certificates) -> Result<(), String> {
    match kind {
        SERIAL_LIST => {
            while !part.rest().is_empty() {
                let serial = part.u64("serial")?;
                certificates.serials.push(range(serial, serial)?);
            }
        }
        SERIAL_RANGE => {
            certificates.serials.push(range(part.u64("first serial")?, part.u64("last serial")?)?);
            part.finish("range's end")?;
        }
        SERIAL_BITMAP => {
            certificates.bitmaps.push(bitmap(part.u64("bitmap's offset")?, part.mpint("bitmap")?)?);
            part.finish("bitmap's end")?;
        }
        KEY_ID => {
            while !part.rest().is_empty() {
                // A key id that is not UTF-8 belongs to a certificate that hosts refuse anyway.
                let id = part.string("key id")?;
                certificates.key_ids.insert(String::from_utf8_lossy(id).into_owned());
            }
        }
        CERTIFICATE_EXTENSION => return read_extension(part),
        _ => return Err(format!("its certificates' type {kind} is unknown")),
    }
    Ok(())
}

/// Serial 0 means that the authority does not count, so a list cannot revoke it; ssh-keygen refuses such a list.
fn range(first: u64, last: u64) -> Result<(u64, u64), String> {
    if first == 0 || first > last { Err("a range of serials is malformed".to_owned()) } else { Ok((first, last)) }
}

fn bitmap(offset: u64, bits: &[u8]) -> Result<(u64, Vec<u8>), String> {
    let names_zero = offset == 0 && bits.last().is_some_and(|byte| byte & 1 == 1);
    let unused = bits.first().map_or(0, |high| u64::from(high.leading_zeros()));
    let highest = (bits.len() as u64 * 8).saturating_sub(unused + 1);
    if names_zero || offset.checked_add(highest).is_none() {
        return Err("a bitmap of serials is malformed".to_owned());
    }
    Ok((offset, bits.to_vec()))
}
