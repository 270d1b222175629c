//! Revoked keys and certificates. Owns the check, and the text form of the list. A revoked authority's key revokes all its certificates.

use std::collections::{HashMap, HashSet};

use super::allowed_signers::parse_key;
use super::{TrustError, TrustFile, krl};
use crate::signer::Vouched;
use crate::ssh::Fingerprint;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    /// Keys of signers and of authorities.
    pub(super) keys: HashSet<Fingerprint>,
    /// Revoked certificates by authority; `None` stands for all authorities.
    pub(super) certificates: HashMap<Option<Fingerprint>, Certificates>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Ranges, both ends included; sorted and disjoint after reading.
    pub(super) serials: Vec<(u64, u64)>,
    /// Big-endian numbers; bit n stands for the serial `offset + n`.
    pub(super) bitmaps: Vec<(u64, Vec<u8>)>,
    pub(super) key_ids: HashSet<String>,
}

impl Revoked {
    /// Reads the readable parts of a KRL, or of a text with one public key or `SHA256:…` in each line. Also returns the first error.
    pub(super) fn salvage(bytes: &[u8]) -> (Self, Option<TrustError>) {
        let wrong = |line, reason: String| TrustError { file: TrustFile::Revoked, line, reason };
        let (mut revoked, mut error) = (Self::default(), None);
        if bytes.starts_with(krl::MAGIC) {
            error = krl::read(bytes, &mut revoked).err().map(|reason| wrong(0, reason));
            revoked.certificates.values_mut().for_each(Certificates::sort);
            return (revoked, error);
        }
        for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            match std::str::from_utf8(line).map_err(|_| "it is not UTF-8 text".to_owned()).map(str::trim) {
                Ok(line) if line.is_empty() || line.starts_with('#') => {}
                read => match read.and_then(revoked_key) {
                    Ok(key) => drop(revoked.keys.insert(key)),
                    Err(reason) => drop(error.get_or_insert_with(|| wrong(number, reason))),
                },
            }
        }
        (revoked, error)
    }

    /// Adds the revocations of `other`.
    pub(super) fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        for (authority, more) in other.certificates {
            let own = self.certificates.entry(authority).or_default();
            own.serials.extend(more.serials);
            own.bitmaps.extend(more.bitmaps);
            own.key_ids.extend(more.key_ids);
            own.sort();
        }
    }

    /// Whether the key or its certificate is revoked.
    pub(super) fn contains(&self, key: Fingerprint, certificate: Option<&Vouched>) -> bool {
        if self.keys.contains(&key) {
            return true;
        }
        let Some(certificate) = certificate else { return false };
        // posternd wrote this fingerprint. An unreadable one counts as revoked.
        let Ok(authority) = certificate.authority.parse::<Fingerprint>() else { return true };
        let lists = [None, Some(authority)].into_iter().filter_map(|a| self.certificates.get(&a));
        self.keys.contains(&authority) || lists.into_iter().any(|list| list.contain(certificate))
    }
}

impl Certificates {
    fn contain(&self, certificate: &Vouched) -> bool {
        let serial = certificate.serial;
        self.key_ids.contains(&certificate.key_id)
            || self.in_ranges(serial)
            || self.bitmaps.iter().any(|bitmap| is_set(bitmap, serial))
    }

    fn in_ranges(&self, serial: u64) -> bool {
        let after = self.serials.partition_point(|(first, _)| *first <= serial);
        after.checked_sub(1).and_then(|at| self.serials.get(at)).is_some_and(|(_, last)| serial <= *last)
    }

    fn sort(&mut self) {
        self.serials.sort_unstable();
        self.serials.dedup_by(|next, kept| {
            let joined = next.0 <= kept.1;
            if joined {
                kept.1 = kept.1.max(next.1);
            }
            joined
        });
    }
}

fn is_set((offset, bits): &(u64, Vec<u8>), serial: u64) -> bool {
    let Some(bit) = serial.checked_sub(*offset) else { return false };
    let from_end = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    let byte = bits.iter().rev().nth(from_end);
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

fn revoked_key(line: &str) -> Result<Fingerprint, String> {
    if line.starts_with("SHA256:") {
        let word = line.split_whitespace().next().unwrap_or_default();
        return word.parse().map_err(|_| "the fingerprint is malformed".to_owned());
    }
    parse_key(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_agree_with_a_loop_over_all(ranges in prop::collection::vec((0..40_u64, 0..9_u64), 0..8)) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
            let mut list = Certificates { serials: ranges.clone(), ..Certificates::default() };
            list.sort();
            for serial in 0..50 {
                let naive = ranges.iter().any(|(first, last)| (*first..=*last).contains(&serial));
                prop_assert_eq!(list.in_ranges(serial), naive, "{} in {:?}", serial, &ranges);
            }
        }
    }

    #[test]
    fn what_a_list_says_drives_no_terminal() {
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIPU1aQ9rUqUTbjZhUGbXrJpLGbYqZ8M+1rPmTf5dMhhO";
        let error = Revoked::salvage(format!("\nssh-\u{1b}[2J {key}\n").as_bytes()).1.unwrap();
        assert!(error.line == 2 && error.reason.contains("ssh-ed25519"), "{error}");
        assert!(!error.reason.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn a_bitmap_counts_from_its_last_bit() {
        let bitmap = (1000, vec![0b1, 0b1000_0010]);
        let set: Vec<_> = (990..1020).filter(|serial| is_set(&bitmap, *serial)).collect();
        assert_eq!(set, [1001, 1007, 1008]);
        assert!(!is_set(&bitmap, u64::MAX) && !is_set(&bitmap, 0));
    }
}
