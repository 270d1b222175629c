//! System calls that neither std nor aya offers. An error is that of the system call.
//!
//! Owns unsafe code, as `sys_maps.rs` and `shared.rs` do. It knows nothing about Postern.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_int, c_long},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;
const BPF_PROG_TEST_RUN: c_int = 10;
pub(super) const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;
const BPF_PROG_QUERY: c_int = 16;
pub(super) const BPF_LINK_CREATE: c_int = 28;
const BPF_LINK_UPDATE: c_int = 29;
const BPF_ITER_CREATE: c_int = 33;
const BPF_LINK_DETACH: c_int = 34;

// enum bpf_attach_type
pub const ATTACH_INGRESS: u32 = 0;
pub const ATTACH_EGRESS: u32 = 1;
pub const ATTACH_CONNECT4: u32 = 10;
pub const ATTACH_CONNECT6: u32 = 11;
pub const ATTACH_ITER: u32 = 28;
pub const ATTACH_LOOKUP: u32 = 36;
pub const ATTACH_XDP: u32 = 37;
/// Since Linux 6.6.
pub const ATTACH_TCX: u32 = 46;

// enum bpf_link_type
const LINK_CGROUP: u32 = 3;
const LINK_NETNS: u32 = 5;
const LINK_XDP: u32 = 6;
const LINK_TCX: u32 = 11;

/// include/uapi/linux/magic.h
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// `SO_NETNS_COOKIE`, since Linux 5.14.
const SO_NETNS_COOKIE: c_int = 71;

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct InfoAttr {
    pub(super) fd: u32,
    pub(super) len: u32,
    pub(super) info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// `struct bpf_link_info`, in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The kernel's number of the link.
    pub id: u32,
    /// The kernel's number of the present program.
    pub program: u32,
    /// The place. Its number is 0 after the kernel has detached the link.
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A network namespace by inode number, and the attach type.
    Namespace(u64, u32),
    /// A cgroup by id, and the attach type.
    Cgroup(u64, u32),
    /// A network device, by index.
    Device(u64),
    Other,
}

impl Place {
    #[must_use]
    pub fn is_cgroup(self, id: u64) -> bool {
        self.cgroup() == Some(id)
    }

    #[must_use]
    pub const fn cgroup(self) -> Option<u64> {
        match self {
            Self::Cgroup(id, _) => Some(id),
            _ => None,
        }
    }
}

/// Calls bpf(2). `attr` must be the leading part of `union bpf_attr` for `command`.
pub(super) fn bpf<T>(command: c_int, attr: &mut T) -> io::Result<c_int> {
    // SAFETY: `attr` is the leading part of `union bpf_attr` for `command`, and its size goes along with it.
    let result: c_long = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as c_int) }
}

pub(super) fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

pub(super) fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr { pathname: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr { pathname: path.as_ptr() as u64, ..PinAttr::default() };
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}

/// Attaches `program` to the object of a descriptor or to a device by index. Minimum kernel: 5.9 (XDP links).
pub fn create_link(program: BorrowedFd<'_>, target: u32, attach_type: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { program: raw(program), target, attach_type, flags };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Makes a file: a read of it runs an iterator's program, which writes the text. Minimum kernel: 5.8.
pub fn create_iter(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The link and the flags (none).
    bpf(BPF_ITER_CREATE, &mut [raw(link), 0]).map(owned)
}

/// Replaces the program of a link in one step. Minimum kernel: 5.7.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link: raw(link), program: raw(program), ..LinkUpdateAttr::default() };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once. Closing its last descriptor does so a little later. Minimum kernel: 5.9.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut raw(link)).map(drop)
}

pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = [0u32; 32];
    let mut attr = InfoAttr { fd: raw(link), len: size_of_val(&info) as u32, info: info.as_mut_ptr() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // type, id, prog_id, padding, then a union. For cgroups the union begins with a 64-bit number.
    let [kind, id, program, _, first, second, third, ..] = info;
    let place = match kind {
        LINK_NETNS => Place::Namespace(u64::from(first), second),
        LINK_XDP | LINK_TCX => Place::Device(u64::from(first)),
        LINK_CGROUP => Place::Cgroup(u64_of(first, second), third),
        _ => Place::Other,
    };
    Ok(LinkInfo { id, program, place })
}

/// The number of programs at a network namespace. Minimum kernel: 5.9.
pub fn attached_programs(namespace: BorrowedFd<'_>, attach_type: u32) -> io::Result<u32> {
    let mut attr = QueryAttr { target: raw(namespace), attach_type, ..QueryAttr::default() };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(attr.count)
}

/// The number of programs at a network device. Minimum kernel: 6.6 (TCX).
pub fn attached_to_device(index: u32, attach_type: u32) -> io::Result<u32> {
    let mut attr = QueryAttr { target: index, attach_type, ..QueryAttr::default() };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(attr.count)
}

/// The kind of an object. `BPF_OBJ_GET_INFO_BY_FD` does not show it: the kernel's answers about links, maps and programs look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Link,
    Map,
    /// A program, or no bpf object.
    Other,
}

/// The kind of `object`, from /proc.
pub fn kind(object: BorrowedFd<'_>) -> io::Result<Kind> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    Ok(match name.as_os_str().as_bytes() {
        // The first name is that of a new link, the second that of a link opened from its pin.
        b"anon_inode:bpf_link" | b"anon_inode:bpf-link" => Kind::Link,
        b"anon_inode:bpf-map" => Kind::Map,
        _ => Kind::Other,
    })
}

/// The tag (a hash of the instructions) of a link's program, from /proc: bpf(2) needs CAP_SYS_ADMIN. Minimum kernel: 5.8.
pub fn program_tag(link: BorrowedFd<'_>) -> io::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let tag = text.lines().find_map(|line| line.strip_prefix("prog_tag:"));
    tag.map(|tag| tag.trim().to_owned()).ok_or_else(|| io::Error::other("the kernel shows no tag"))
}

fn u64_of(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Runs `program` once on `packet` and `context`, and returns its result. Either may be empty.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8], context: &[u8]) -> io::Result<u32> {
    let address = |bytes: &[u8]| {
        if bytes.is_empty() { 0 } else { bytes.as_ptr() as u64 }
    };
    let mut attr = TestRunAttr {
        program: raw(program),
        data_size_in: packet.len() as u32,
        data_in: address(packet),
        // sk_lookup allows no repeat count.
        repeat: u32::from(!packet.is_empty()),
        context_size_in: context.len() as u32,
        context_in: address(context),
        ..TestRunAttr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.result)
}

/// The cookie of the calling thread's network namespace. Minimum kernel: 5.14.
pub fn netns_cookie() -> io::Result<u64> {
    // SAFETY: plain numbers.
    let socket = owned(check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?);
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option is a u64, and `len` says that there is room for one.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    })?;
    Ok(cookie)
}

pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: all zero bytes are a valid `statfs`.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string, and a `statfs` to fill.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut stat) })?;
    Ok(stat.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

pub fn is_cgroup2(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: all zero bytes are a valid `statfs`.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and a `statfs` to fill.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.f_type as u64 & 0xffff_ffff == CGROUP2_MAGIC)
}

/// Mounts a bpf file system at `path` for root alone.
pub fn mount_bpffs(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: C strings all along.
    let result =
        unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, c"mode=0700".as_ptr().cast()) };
    check(result).map(drop)
}

/// Mounts the root of cgroup v2 for this process alone. Minimum kernel: 5.2.
pub fn private_cgroup2() -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: c_int = 6;
    const FSOPEN_CLOEXEC: c_int = 1;
    const FSMOUNT_CLOEXEC: c_int = 1;
    // SAFETY: a C string and numbers.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(check(context as c_int)?);
    let (none, fd) = (std::ptr::null::<libc::c_char>(), context.as_raw_fd());
    // SAFETY: this command takes neither key nor value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0) } as c_int)?;
    // SAFETY: numbers.
    check(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0) } as c_int).map(owned)
}
