//! Reads the SSH wire format (RFC 4251, section 5) from bytes that nobody has vouched for.
//!
//! Owns bounds and canonical form: each value has one encoding that is accepted. It never copies and never panics.

/// A field that is not what the format says; the text names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes not read yet.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// `N` raw bytes.
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(|&[byte]| byte)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A length and that many bytes.
    pub(crate) fn string(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32(field)?).map_err(|_| Malformed(field))?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(head)
    }

    /// A string that is UTF-8 without control characters: it may end up in the journal or on a terminal.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        let text = std::str::from_utf8(self.string(field)?).map_err(|_| Malformed(field))?;
        if text.chars().any(char::is_control) { Err(Malformed(field)) } else { Ok(text) }
    }

    /// A positive number in its one canonical form; the answer has no leading zero.
    pub(crate) fn mpint(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        match self.string(field)? {
            [0, magnitude @ ..] if magnitude.first().is_some_and(|high| *high >= 0x80) => Ok(magnitude),
            magnitude @ [1..=0x7f, ..] => Ok(magnitude),
            _ => Err(Malformed(field)),
        }
    }

    /// Nothing may follow.
    pub(crate) const fn finish(self, field: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(field)) }
    }
}

/// Appends `value` as a string.
pub(crate) fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    // No caller has 4 GiB: every input is bounded long before.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
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
            assert_eq!(read(bad), Err(Malformed("n")), "{bad:?}");
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader::new(&[0xff; 8]).string("s"), Err(Malformed("s")));
        assert_eq!(Reader::new(&[0, 0, 0]).string("s"), Err(Malformed("s")));
    }
}
