//! DER (X.690), as far as private keys in OpenSSL's formats need it. Knows no key and never panics.

use postern_core::ssh::wire::without_zeros;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// A numbered field that contains another element: `[0]`, `[1]`.
pub(super) const fn field(number: u8) -> u8 {
    0xa0 | number
}

/// Takes the element of type `tag` off the front. `None` for another type or a wrong length.
pub(super) fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, rest) = input.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if *first >= 0x80 {
        // A key is shorter than 64 KiB, so its length has at most two bytes.
        let (bytes, after) = rest.split_at_checked(usize::from(*first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 2)?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (value, after) = rest.split_at_checked(length)?;
    (*found == tag).then(|| *input = after)?;
    Some(value)
}

/// A number without leading zeros; `None` if it is negative.
pub(super) fn number<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = take(input, INTEGER)?;
    (*bytes.first()? < 0x80).then(|| without_zeros(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_taken_and_cut_ones_are_not() {
        let long = [&[OCTET_STRING, 0x81, 0x80][..], &[7; 128], &[INTEGER, 2, 0, 0x80]].concat();
        let mut rest = long.as_slice();
        assert_eq!(take(&mut rest, INTEGER), None, "another type");
        assert_eq!(take(&mut rest, OCTET_STRING), Some(&[7; 128][..]));
        assert_eq!(number(&mut rest), Some(&[0x80][..]));
        for length in 0..130 {
            assert_eq!(take(&mut &long[..length], OCTET_STRING), None, "{length}");
        }
        for bad in [&[][..], &[2], &[2, 0x80], &[2, 0x83, 0, 0, 1, 1], &[2, 0xff, 0], &[2, 1, 0x80], &[2, 0]] {
            assert_eq!(number(&mut &*bad), None, "{bad:?}");
        }
    }
}
