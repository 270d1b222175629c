//! The shared types in the form that aya's maps need.
//!
//! Owns the guarantee that they are plain bytes. It never touches a map.
#![allow(unsafe_code)]

use postern_core::key::{
    Address, DeniedEvent, FlowValue, GrantKey, GrantValue, Lengths, Listener, ObservedValue, RefusedAt, SlotUsage,
    SynRate,
};
use postern_core::own::OwnValue;

/// A type of [`postern_core::key`], byte for byte.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Shared<T>(pub T);

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: `repr(C)` without padding (a test in postern-core holds that), made of integers alone.
        unsafe impl aya::Pod for Shared<$type> {}
    )* };
}

plain!(Address, FlowValue, GrantKey, GrantValue, Lengths, Listener, ObservedValue, RefusedAt, SlotUsage, SynRate);

/// The marks of the host's own sockets. The kernel writes them one after the other; an incomplete rest is ignored.
#[must_use]
pub fn own_values(bytes: &[u8]) -> Vec<OwnValue> {
    // SAFETY: each chunk has the size of a value, every bit pattern is valid, and the read is unaligned.
    let value = |bytes: &[u8]| unsafe { bytes.as_ptr().cast::<OwnValue>().read_unaligned() };
    bytes.chunks_exact(size_of::<OwnValue>()).map(value).collect()
}

#[must_use]
pub fn key_bytes(key: &GrantKey) -> [u8; size_of::<GrantKey>()] {
    // SAFETY: `repr(C)` without padding, made of integers alone; the sizes are the same.
    unsafe { std::mem::transmute(*key) }
}

/// The event in a ring-buffer entry. `None` if the entry has another size.
#[must_use]
pub fn denied_event(bytes: &[u8]) -> Option<DeniedEvent> {
    let bytes: &[u8; size_of::<DeniedEvent>()] = bytes.try_into().ok()?;
    // SAFETY: the size fits, every bit pattern is valid, and the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<DeniedEvent>().read_unaligned() })
}
