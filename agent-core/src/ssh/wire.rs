//! The wire format of SSH (RFC 4251, section 5). Owns bounds and canonical form. The reader never copies and never panics.

use super::Error;

/// A reader of untrusted bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning. Each error names the field that the reader could not read.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The unread bytes.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// `N` raw bytes.
    /// # Errors
    /// [`Error::Malformed`].
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Malformed(field))?;
        self.0 = rest;
        Ok(head)
    }

    /// One byte.
    /// # Errors
    /// [`Error::Malformed`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array(field).map(|&[byte]| byte)
    }

    /// A number of four bytes.
    /// # Errors
    /// [`Error::Malformed`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A number of eight bytes.
    /// # Errors
    /// [`Error::Malformed`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Error> {
        self.array(field).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A length and that many bytes.
    ///
    /// # Errors
    /// Fails with [`Error::Malformed`] if the bytes end too early.
    pub fn string(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        let length = usize::try_from(self.u32(field)?).map_err(|_| Error::Malformed(field))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Error::Malformed(field))?;
        self.0 = rest;
        Ok(head)
    }

    /// A positive number in its canonical form; the result has no leading zero.
    ///
    /// # Errors
    /// Fails with [`Error::Malformed`] if the number is not positive or not canonical, or if the bytes end too early.
    pub fn mpint(&mut self, field: &'static str) -> Result<&'a [u8], Error> {
        match self.string(field)? {
            [0, magnitude @ ..] if magnitude.first().is_some_and(|high| *high >= 0x80) => Ok(magnitude),
            magnitude @ [1..=0x7f, ..] => Ok(magnitude),
            _ => Err(Error::Malformed(field)),
        }
    }

    /// Checks that nothing follows.
    /// # Errors
    /// [`Error::Malformed`].
    pub const fn finish(self, field: &'static str) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Malformed(field)) }
    }
}

/// Appends `value` after its length.
pub fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    // Each caller's input has a bound far below 4 GiB.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

/// Appends a positive big-endian number in its canonical form.
pub fn put_mpint(out: &mut Vec<u8>, number: &[u8]) {
    let number = without_zeros(number);
    let zero = number.first().is_some_and(|high| *high >= 0x80).then_some(0);
    put_string(out, &zero.into_iter().chain(number.iter().copied()).collect::<Vec<_>>());
}

/// A big-endian number without its leading zeros.
#[must_use]
pub fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// The type that a key, certificate or signature names; none if the name is unreadable.
#[must_use]
pub fn type_of(blob: &[u8]) -> Option<&str> {
    Reader::new(blob).string("type").ok().and_then(|name| std::str::from_utf8(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpints_have_one_form() {
        let read = |bytes: &[u8]| {
            let mut encoded = Vec::new();
            put_string(&mut encoded, bytes);
            Reader::new(&encoded).mpint("n").map(<[u8]>::to_vec)
        };
        assert_eq!(read(&[1]), Ok(vec![1]));
        assert_eq!(read(&[0, 0x80]), Ok(vec![0x80]));
        for bad in [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80]] {
            assert_eq!(read(bad), Err(Error::Malformed("n")), "{bad:?}");
        }
    }

    #[test]
    fn strings_come_back_and_cut_ones_do_not() {
        let mut blob = Vec::new();
        put_string(&mut blob, b"ssh-ed25519");
        put_string(&mut blob, &[7; 32]);
        for length in 0..blob.len() {
            let mut cut = Reader::new(&blob[..length]);
            assert!(cut.string("a").is_err() || cut.string("b").is_err(), "{length}");
        }
        assert_eq!(type_of(&blob), Some("ssh-ed25519"));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader::new(&[0xff; 8]).string("s"), Err(Error::Malformed("s")));
        assert_eq!(Reader::new(&[0, 0, 0]).string("s"), Err(Error::Malformed("s")));
    }
}
