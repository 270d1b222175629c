//! Changes of an SSHSIG: of single bytes, and of one field as a whole, whose length is put right.
//!
//! Owns what three bytes mean: a kind, a place, a value.

/// Where its strings begin: magic and version are before them.
const HEAD: usize = 10;

/// `bytes`, an SSHSIG, with all changes made to it, one after the other.
pub fn apply(bytes: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes.chunks_exact(3).take(4) {
        let &[kind, place, value] = change else { continue };
        // An SSHSIG with a certificate has some 500 bytes.
        let at = (usize::from(place) + 256 * usize::from(kind / 8 % 2)) % (bytes.len() + 1);
        match kind % 8 {
            0 if at < bytes.len() => bytes[at] = value,
            1 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.insert(at, value),
            4 => bytes.truncate(at),
            5 => bytes.push(value),
            _ => bytes = with_field(&bytes, usize::from(place), |field| field.push(value)).unwrap_or(bytes),
        }
    }
    bytes
}

/// Key, namespace, reserved field, hash or signature is another one, and its length says so. Nothing where they cannot be read.
fn with_field(bytes: &[u8], which: usize, change: impl FnOnce(&mut Vec<u8>)) -> Option<Vec<u8>> {
    let (head, mut rest) = bytes.split_at_checked(HEAD)?;
    let mut fields = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (field, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        fields.push(field.to_vec());
        rest = behind;
    }
    let count = fields.len().max(1);
    change(fields.get_mut(which % count)?);
    let encode = |field: Vec<u8>| [&(field.len() as u32).to_be_bytes()[..], &field].concat();
    Some([head.to_vec(), fields.into_iter().flat_map(encode).collect(), rest.to_vec()].concat())
}
