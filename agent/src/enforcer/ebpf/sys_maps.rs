//! System calls about maps that aya does not offer. An error is that of the system call.
//!
//! Owns unsafe code, as `sys.rs` does. It knows nothing about Postern.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use super::sys::{ATTACH_ITER, BPF_LINK_CREATE, BPF_OBJ_GET_INFO_BY_FD, InfoAttr, bpf, check, owned, raw};

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_MAP_UPDATE_ELEM: c_int = 2;
const BPF_BTF_LOAD: c_int = 18;

#[repr(C)]
#[derive(Default)]
struct MapIterLinkAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    info: u64,
    info_len: u32,
    zero: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
    device: u32,
    btf: u32,
    btf_key: u32,
    btf_value: u32,
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BtfLoadAttr {
    btf: u64,
    log: u64,
    len: u32,
    log_len: u32,
    log_level: u32,
    zero: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub id: u32,
    pub shape: MapShape,
}

pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = [0u32; 32];
    let mut attr = InfoAttr { fd: raw(map), len: size_of_val(&info) as u32, info: info.as_mut_ptr() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [kind, id, key, value, entries, flags, ..] = info;
    Ok(MapInfo { id, shape: MapShape { kind, key, value, entries, flags } })
}

pub fn make_map(name: &CStr, shape: MapShape) -> io::Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, &mut create_attr(name, shape)).map(owned)
}

fn create_attr(name: &CStr, shape: MapShape) -> MapCreateAttr {
    let MapShape { kind, key, value, entries, flags } = shape;
    let mut attr = MapCreateAttr { kind, key, value, entries, flags, ..MapCreateAttr::default() };
    // The last byte stays 0.
    attr.name.iter_mut().take(15).zip(name.to_bytes()).for_each(|(to, from)| *to = *from);
    attr
}

/// Makes a socket storage with values of 64-bit words. Minimum kernel: 5.2.
pub fn make_socket_storage(name: &CStr, shape: MapShape) -> io::Result<OwnedFd> {
    let btf = load_btf(&words_btf(shape.value / 8))?;
    let mut attr = create_attr(name, shape);
    (attr.btf, attr.btf_key, attr.btf_value) = (btf.as_raw_fd() as u32, 1, 3);
    bpf(BPF_MAP_CREATE, &mut attr).map(owned)
}

/// BTF (Documentation/bpf/btf.rst) of a key and a value of `count` 64-bit words. The kernel requires it for a socket storage.
fn words_btf(count: u32) -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    let strings = b"\0key\0word\0";
    let types = [[1, INT, 4, 32].as_slice(), &[5, INT, 8, 64], &[0, ARRAY, 0, 2, 1, count]].concat();
    let len = (types.len() * 4) as u32;
    // Magic, version and flags; the header's length; offset and length of the types and of the strings.
    let header = [0x0001_eb9f_u32, 24, 0, len, len, strings.len() as u32];
    let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
    words.chain(strings.iter().copied()).collect()
}

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = BtfLoadAttr { btf: bytes.as_ptr() as u64, len: bytes.len() as u32, ..BtfLoadAttr::default() };
    bpf(BPF_BTF_LOAD, &mut attr).map(owned)
}

/// Sets the value of `key` to 0 (one byte).
pub fn put_zero(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let value = 0u8;
    let mut attr = ElementAttr {
        map: raw(map),
        key: key.as_ptr() as u64,
        value: (&raw const value) as u64,
        ..ElementAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// The value of `key` (one byte).
pub fn get_byte(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<u8> {
    let mut value = 0u8;
    let mut attr = ElementAttr {
        map: raw(map),
        key: key.as_ptr() as u64,
        value: (&raw mut value) as u64,
        ..ElementAttr::default()
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &mut attr)?;
    Ok(value)
}

/// Replaces the object of the descriptor `of` with `object`.
pub fn put_in_place(of: BorrowedFd<'_>, object: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open, and the holder of `of` goes on holding one under the same number.
    check(unsafe { libc::dup3(object.as_raw_fd(), of.as_raw_fd(), libc::O_CLOEXEC) }).map(drop)
}

/// Makes a link that runs `program` on each element of `map`. Minimum kernel: 5.9.
pub fn create_map_iter_link(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`
    let info = [raw(map), 0, 0, 0];
    let mut attr = MapIterLinkAttr {
        program: raw(program),
        attach_type: ATTACH_ITER,
        info: info.as_ptr() as u64,
        info_len: size_of_val(&info) as u32,
        ..MapIterLinkAttr::default()
    };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}
