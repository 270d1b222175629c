//! What an attacker with root, or a careless tool, does to what is pinned and attached.
//!
//! Never uses the agent's own code for it.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

const MAP_ARRAY: u32 = 2;
const MAP_SOCKMAP: u32 = 15;
const ATTACH_LOOKUP: u32 = 36;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX: u32 = 46;

/// One instruction (`struct bpf_insn`).
type Instruction = [u8; 8];

/// `r0 = value; exit`
const fn returns(value: u8) -> [Instruction; 2] {
    [[0xb7, 0, 0, 0, value, 0, 0, 0], EXIT]
}
const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// A program that lets everything pass.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// `sk_lookup`, with no word on which socket.
    Lookup,
    /// `cgroup_skb`, on the way in.
    Ingress,
    /// `cgroup_skb`, on the way out.
    Egress,
    /// XDP
    Xdp,
    /// TCX, on the way in.
    Tcx,
}

/// Loads it.
///
/// # Errors
/// As `bpf(2)`.
pub fn load(pass: Pass) -> io::Result<OwnedFd> {
    // enum bpf_prog_type and enum bpf_attach_type
    let (kind, attach, code) = match pass {
        Pass::Lookup => (30, ATTACH_LOOKUP, 1),
        Pass::Ingress => (8, 0, 1),
        Pass::Egress => (8, 1, 1),
        Pass::Xdp => (6, ATTACH_XDP, 2),
        Pass::Tcx => (3, ATTACH_TCX, 0),
    };
    load_code(kind, attach, &returns(code))
}

fn load_code(kind: u32, attach: u32, code: &[Instruction]) -> io::Result<OwnedFd> {
    let licence = c"GPL";
    let mut attr = [0u32; 20];
    (attr[0], attr[1]) = (kind, code.len() as u32);
    put(&mut attr, 2, code.as_ptr() as u64);
    put(&mut attr, 4, licence.as_ptr() as u64);
    attr[17] = attach;
    bpf(BPF_PROG_LOAD, &mut attr)
}

/// Makes every look-up of a port in the calling thread's network namespace end at `socket`, as a program beside the lock can. It is
/// gone when what this returns is dropped.
///
/// # Errors
/// As `bpf(2)`.
pub fn hijack(socket: impl AsFd, port: u16) -> io::Result<OwnedFd> {
    let map = create_map(MAP_SOCKMAP, 8)?;
    let (key, value) = (0u32, socket.as_fd().as_raw_fd() as u64);
    let mut attr = [0u32; 8];
    attr[0] = map.as_raw_fd() as u32;
    put(&mut attr, 2, &raw const key as u64);
    put(&mut attr, 4, &raw const value as u64);
    call(BPF_MAP_UPDATE_ELEM, &mut attr)?;
    let [a, b, c, d] = map.as_raw_fd().to_le_bytes();
    // include/uapi/linux/bpf.h: helper 1 bpf_map_lookup_elem, 86 bpf_sk_release, 124 bpf_sk_assign
    // The local port is at byte 60 of `struct bpf_sk_lookup`.
    let [low, high] = port.to_le_bytes();
    let code = [
        [0xbf, 0x16, 0, 0, 0, 0, 0, 0],             // r6 = r1
        [0x61, 0x67, 60, 0, 0, 0, 0, 0],            // r7 = local_port
        [0x55, 0x07, 7, 0, low, high, 0, 0],        // if r7 != port goto pass
        [0x62, 0x0a, 0xfc, 0xff, 0, 0, 0, 0],       // *(u32 *)(r10 - 4) = 0
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],             // r2 = r10
        [0x07, 0x02, 0, 0, 0xfc, 0xff, 0xff, 0xff], // r2 += -4
        [0x18, 0x11, 0, 0, a, b, c, d],             // r1 = map
        [0; 8],
        [0x85, 0, 0, 0, 1, 0, 0, 0],    // r0 = lookup(r1, r2)
        [0x55, 0x00, 2, 0, 0, 0, 0, 0], // if r0 != 0 goto +2
        [0xb7, 0, 0, 0, 1, 0, 0, 0],    // pass: r0 = SK_PASS
        EXIT,
        [0xbf, 0x07, 0, 0, 0, 0, 0, 0], // r7 = r0
        [0xbf, 0x61, 0, 0, 0, 0, 0, 0], // r1 = r6
        [0xbf, 0x72, 0, 0, 0, 0, 0, 0], // r2 = r7
        [0xb7, 0x03, 0, 0, 1, 0, 0, 0], // r3 = BPF_SK_LOOKUP_F_REPLACE
        [0x85, 0, 0, 0, 124, 0, 0, 0],  // sk_assign(r1, r2, r3)
        [0xbf, 0x71, 0, 0, 0, 0, 0, 0], // r1 = r7
        [0x85, 0, 0, 0, 86, 0, 0, 0],   // sk_release(r1)
        [0xb7, 0, 0, 0, 1, 0, 0, 0],    // r0 = SK_PASS
        EXIT,
    ];
    attach_lookup(&load_code(30, ATTACH_LOOKUP, &code)?)
}

/// Attaches a program to the look-ups of the calling thread's network namespace, for as long as the link is held.
///
/// # Errors
/// As `bpf(2)`.
pub fn attach_lookup(program: &OwnedFd) -> io::Result<OwnedFd> {
    let namespace = std::fs::File::open("/proc/thread-self/ns/net")?;
    bpf(BPF_LINK_CREATE, &mut [program.as_raw_fd() as u32, namespace.as_raw_fd() as u32, ATTACH_LOOKUP, 0])
}

/// Attaches a program that lets everything pass to the device `index` of the calling thread's network namespace, for as long as
/// the link is held. XDP goes in the driver, or where that knows none after it.
///
/// # Errors
/// As `bpf(2)`.
pub fn attach_device(pass: Pass, index: u32) -> io::Result<OwnedFd> {
    let attach = if let Pass::Tcx = pass { ATTACH_TCX } else { ATTACH_XDP };
    bpf(BPF_LINK_CREATE, &mut [load(pass)?.as_raw_fd() as u32, index, attach, 0])
}

/// How many programs are attached to the device `index` of the calling thread's network namespace by TCX (Linux 6.6).
///
/// # Errors
/// As `bpf(2)`.
pub fn attached_tcx(index: u32) -> io::Result<u32> {
    let mut attr = [0u32; 8];
    (attr[0], attr[1]) = (index, ATTACH_TCX);
    call(BPF_PROG_QUERY, &mut attr)?;
    Ok(attr[6])
}

/// How many programs the kernel takes for one cgroup's hook, and for one network namespace's look-ups.
pub const MOST_ATTACHED: usize = 64;

/// Attaches a program that lets everything pass to `target`, a cgroup or network namespace, as often as the kernel takes it. All
/// of it is gone when what this returns is dropped, or this process ends.
///
/// # Errors
/// As `bpf(2)`, other than that there is no more room.
pub fn fill(target: impl AsFd, pass: Pass) -> io::Result<Vec<OwnedFd>> {
    let attach = match pass {
        Pass::Lookup => ATTACH_LOOKUP,
        Pass::Ingress => 0,
        Pass::Egress => 1,
        Pass::Xdp | Pass::Tcx => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let program = load(pass)?;
    let mut links = Vec::new();
    loop {
        let fd = target.as_fd().as_raw_fd() as u32;
        match bpf(BPF_LINK_CREATE, &mut [program.as_raw_fd() as u32, fd, attach, 0]) {
            Ok(link) => links.push(link),
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => return Ok(links),
            Err(error) => return Err(error),
        }
    }
}

/// A map that has nothing to do with Postern.
///
/// # Errors
/// As `bpf(2)`.
pub fn some_map() -> io::Result<OwnedFd> {
    create_map(MAP_ARRAY, 4)
}

fn create_map(kind: u32, value: u32) -> io::Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, &mut [kind, 4, value, 1, 0])
}

/// Pins an object.
///
/// # Errors
/// As `bpf(2)`.
pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [0u32; 4];
    put(&mut attr, 0, path.as_ptr() as u64);
    attr[2] = object.as_raw_fd() as u32;
    call(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Detaches the link pinned at `path`, as `bpftool link detach` does. The pin stays.
///
/// # Errors
/// As `bpf(2)`.
pub fn detach_link(path: &Path) -> io::Result<()> {
    call(BPF_LINK_DETACH, &mut [open(path)?.as_raw_fd() as u32]).map(drop)
}

/// Gives the link pinned at `path` another program.
///
/// # Errors
/// As `bpf(2)`.
pub fn replace_program(path: &Path, program: &OwnedFd) -> io::Result<()> {
    let link = open(path)?;
    call(BPF_LINK_UPDATE, &mut [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0]).map(drop)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = [0u32; 4];
    put(&mut attr, 0, path.as_ptr() as u64);
    bpf(BPF_OBJ_GET, &mut attr)
}

/// A 64-bit number at this place of `union bpf_attr`, counted in words of 32 bits.
fn put(attr: &mut [u32], at: usize, number: u64) {
    attr[at] = number as u32;
    attr[at + 1] = (number >> 32) as u32;
}

/// A call that makes a descriptor.
fn bpf(command: libc::c_int, attr: &mut [u32]) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: libc::c_int, attr: &mut [u32]) -> io::Result<libc::c_int> {
    // SAFETY: the attributes and their size go together, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
