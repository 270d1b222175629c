//! The system calls that posternd does not use.
//!
//! Owns the list of forbidden calls. The unit's filter lists allowed calls (`SystemCallFilter=`); here a later version of a library could
//! need a call that such a list lacks.

use std::collections::BTreeMap;

use seccompiler::{BackendError, SeccompCmpOp, SeccompRule};

use super::condition;

/// Forbidden with all arguments.
const NEVER: &[i64] = &[
    // Other programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_kill,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // The kernel itself, and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_personality,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Clocks.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    // adjtimex is allowed: posternd only reads the clock's state with it, and has no CAP_SYS_TIME to set the clock.
    libc::SYS_clock_adjtime,
    // Keys, and a second way to make every other call.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_kexec_file_load,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// All forbidden calls, with the arguments that are forbidden.
pub(super) fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        NEVER.iter().chain(NEVER_HERE).map(|&number| (number, Vec::new())).collect();
    // clone without CLONE_THREAD makes a process.
    let thread = libc::CLONE_THREAD.cast_unsigned().into();
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![condition(0, SeccompCmpOp::MaskedEq(thread), 0)?])?]);
    rules.insert(libc::SYS_socket, sockets()?);
    Ok(rules)
}

/// Forbids Unix stream sockets, because root's services (the message bus, systemd) listen on them.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let number = |value: i32| u64::from(value.unsigned_abs());
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let others = families.into_iter().map(|family| condition(0, SeccompCmpOp::Ne, number(family)));
    let mut rules = vec![SeccompRule::new(others.collect::<Result<_, _>>()?)?];
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        rules.push(SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, number(libc::AF_UNIX))?,
            condition(1, SeccompCmpOp::MaskedEq(0xf), number(kind))?,
        ])?);
    }
    Ok(rules)
}
