//! The system calls that neither the standard library nor socket2 wraps. All of the harness's unsafe code is here.
//!
//! Never keeps state: every function is one call and its error.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts the calling thread into a new network namespace.
pub fn unshare_net() -> io::Result<()> {
    // SAFETY: takes a flag and touches no memory of ours.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Puts the calling thread into a network namespace.
pub fn enter_net(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed and so open; the kernel checks its kind.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Puts the calling thread, and what it starts from now on, into a mount namespace of its own, whose mounts no other process sees.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: takes a flag and touches no memory of ours.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (nothing, all) = (std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: the path is a valid C string, and the kernel reads none of the others when it changes propagation.
    check(unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, all, nothing.cast()) }).map(drop)
}

/// Makes `command` start in a network namespace and die with the thread that starts it.
pub fn confine(command: &mut Command, namespace: Arc<OwnedFd>) {
    let enter = move || {
        // SAFETY: only changes what the kernel keeps about the calling process.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: the closure holds the descriptor open.
        check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(enter) };
}

/// Makes `command` die with the thread that starts it.
pub fn die_with_parent(command: &mut Command) {
    let bind = || {
        // SAFETY: only changes what the kernel keeps about the calling process.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(bind) };
}

/// Has a listener complete a connection only when its first data arrives.
pub fn defer_accept(listener: BorrowedFd<'_>) -> io::Result<()> {
    let seconds: libc::c_int = 30;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so open, and the option's value and length describe one c_int that outlives the call.
    check(unsafe {
        let value = (&raw const seconds).cast();
        libc::setsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length)
    })
    .map(drop)
}

/// Dissolves a datagram socket's connection.
pub fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so open, and the address and its length describe one structure that outlives the call.
    check(unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) }).map(drop)
}

/// The index of an interface in the calling thread's network namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name is a valid C string for the length of the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index) }
}

/// Whether an interface of the calling thread's network namespace is up and has its carrier (`IFF_RUNNING`).
pub fn is_running(name: &str) -> io::Result<bool> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the kernel has just set this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_RUNNING != 0)
}

/// Has an interface of the calling thread's network namespace leave checksums of what it sends to the hardware, or not
/// (`ETHTOOL_STXCSUM`), as ethtool(8) does.
pub fn offload_checksums(name: &str, on: bool) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut request = interface_request(name);
    // struct ethtool_value: cmd, data
    let mut value = [0x17u32, u32::from(on)];
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads one ifreq, and this command one ethtool_value behind it, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) }).map(drop)
}

/// An `ifreq` that names an interface.
fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// A packet socket that sends and sees whole frames of one interface, without blocking.
pub fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Protocol 0 until it is bound: else it would see every interface for a moment.
    // SAFETY: takes plain numbers.
    let descriptor = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor was just made and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: sockaddr_ll is plain data for which all zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every;
    address.sll_ifindex = interface as i32;
    // SAFETY: the pointer and the length describe `address`.
    check(unsafe { libc::bind(descriptor, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) })?;
    Ok(socket)
}

/// The next frame that came in on a packet socket; frames that this side sent are passed over.
pub fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: sockaddr_ll is plain data for which all zeros are valid.
        let mut from: libc::sockaddr_ll = unsafe { zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let (data, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: both pointers come with the lengths of what they point to.
        let got = unsafe { libc::recvfrom(socket.as_raw_fd(), data, size, 0, (&raw mut from).cast(), &raw mut length) };
        match usize::try_from(got) {
            Ok(_) if from.sll_pkttype == libc::PACKET_OUTGOING => {}
            Ok(got) => return Ok(Some(got)),
            Err(_) => {
                let error = io::Error::last_os_error();
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
            }
        }
    }
}

/// Sends a frame as it is.
pub fn send_frame(socket: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `frame`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until a descriptor can be read; false when the time is over.
pub fn wait_readable(descriptor: BorrowedFd<'_>, milliseconds: u64) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    // SAFETY: one pollfd, and its count is 1.
    check(unsafe { libc::poll(&raw mut poll, 1, timeout) }).map(|ready| ready > 0)
}

/// Tells the kernel that the wall clock is synchronised, with an error of nothing.
pub fn say_synchronised() -> io::Result<()> {
    // SAFETY: timex is plain data for which all zeros are valid.
    let mut change: libc::timex = unsafe { zeroed() };
    change.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
    change.status = libc::STA_PLL;
    // SAFETY: the kernel reads and writes one timex.
    check(unsafe { libc::adjtimex(&raw mut change) }).map(drop)
}

/// Mounts bpffs where there is none.
pub fn mount_bpffs(path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    let kind = c"bpf".as_ptr();
    // SAFETY: all pointers are valid C strings for the length of the call.
    check(unsafe { libc::mount(kind, path.as_ptr(), kind, 0, c"mode=0700".as_ptr().cast()) }).map(drop)
}

/// Sends a signal to one process.
pub fn signal(process: u32, number: i32) -> io::Result<()> {
    let process = i32::try_from(process).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes plain numbers; the caller names a child of its own.
    check(unsafe { libc::kill(process, number) }).map(drop)
}

/// A TUN device without packet information, held by the descriptor.
pub fn tun(name: &str) -> io::Result<OwnedFd> {
    let device = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(device.into())
}

/// `write(2)`
pub fn write(descriptor: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `bytes`.
    let written = unsafe { libc::write(descriptor.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `read(2)`
pub fn read(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length describe `buffer`.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Has one thread of another process stand still, wherever it is, while the others go on. To be called, and undone by [`go_on`], by
/// one and the same thread; when that ends, the kernel undoes it.
pub fn halt(thread: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: takes plain numbers and reads no memory of ours.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing) } as libc::c_int)?;
    // SAFETY: as above.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) } as libc::c_int)?;
    // SAFETY: the kernel writes no status where there is no room for one.
    check(unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) }).map(drop)
}

/// Lets a thread go on that [`halt`] stopped.
pub fn go_on(thread: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: takes plain numbers and reads no memory of ours.
    check(unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, nothing, nothing) } as libc::c_int).map(drop)
}
