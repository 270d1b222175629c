//! The rights that posternd gives up once the lock and the cut are in force (docs/decisions/0031).
//!
//! Owns the user, capabilities, Landlock and seccomp of this process. The steps are independent, and a missing kernel feature is only
//! reported: without posternd people would be locked out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use capctl::caps::{Cap, CapSet, CapState, bounding};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope, make_bitflags,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::config::Config;
use crate::config::effective::Copies;
use crate::sandbox::helper::{Duty, Helper};
use crate::system::sockets::fallbacks;

mod calls;
mod user;

pub use user::User;

/// Whether this process may attach programs: it is root or has CAP_NET_ADMIN.
#[must_use]
pub fn may_attach() -> bool {
    rustix::process::geteuid().is_root()
        || CapState::get_current().is_ok_and(|state| state.effective.has(Cap::NET_ADMIN))
}

/// The newest version of Landlock that posternd uses. Older kernels enforce the part that they know.
const LANDLOCK: ABI = ABI::V6;

/// The rights that a process keeps.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    reads: Vec<PathBuf>,
    writes: Vec<PathBuf>,
    /// Below this directory the process may make and remove names, but not write files.
    pins: Option<PathBuf>,
    kept: CapSet,
    /// In words, a right that an earlier step could not give up.
    besides: Option<String>,
}

impl Confinement {
    /// The rights of the agent with the configuration at `path`.
    #[must_use]
    pub fn of(path: &Path, config: &Config) -> Self {
        // Folders, because a file is replaced by renaming another file over it.
        let files = [Some(path), Some(&config.trust_file), config.revoked_keys.as_deref()];
        let reads = files.into_iter().flatten().map(folder).chain([existing(&config.ssh_host_keys)]);
        // A listener's port below 1024 needs a capability.
        let low_port =
            config.api.tcp.iter().chain(&config.api.plaintext).any(|address| (1..1024).contains(&address.port()));
        // Kernel information, the list of terminals for warnings, time zones.
        let system = ["/proc", "/sys", "/run/systemd", "/run/utmp", "/etc/localtime", "/usr/share/zoneinfo"];
        Self {
            reads: reads.chain(system.map(PathBuf::from)).collect(),
            writes: [config.state_dir.clone(), Copies::of(path).path().to_owned()]
                .into_iter()
                .chain(sockets(&config.api.unix))
                .collect(),
            pins: Some(above_the_mount(&config.pin_dir)),
            kept: [Cap::NET_ADMIN].into_iter().chain(low_port.then_some(Cap::NET_BIND_SERVICE)).collect(),
            besides: None,
        }
    }

    /// The rights of a helper: names of pins, one socket, the files of a reload, and the SSH host keys. No capability.
    #[must_use]
    pub fn of_helper(duty: &Duty) -> Self {
        Self {
            // Time zones, because dates of keys may be local.
            reads: duty
                .files
                .iter()
                .map(|file| folder(file))
                .chain([existing(&duty.host_keys)])
                .chain(["/proc", "/etc/localtime", "/usr/share/zoneinfo"].map(PathBuf::from))
                .collect(),
            writes: sockets(&duty.socket).chain([Copies::of(&duty.config).path().to_owned()]).collect(),
            pins: Some(above_the_mount(&duty.pin_dir)),
            ..Self::default()
        }
    }

    /// The rights of an agent with a helper, or with the reason why it has none.
    #[must_use]
    pub fn with_helper(mut self, config: &Config, helper: Result<&Option<Helper>, &String>) -> Self {
        if matches!(helper, Ok(Some(_))) {
            self.pins = None;
            self.writes = vec![config.state_dir.clone()];
        }
        Self { besides: helper.err().cloned(), ..self }
    }

    /// The rights of a process that must still load programs into the kernel.
    #[must_use]
    pub fn with_loading(mut self, has_to_load: bool) -> Self {
        if has_to_load {
            self.kept.add(Cap::PERFMON);
        }
        self
    }

    /// Gives up all other rights, for the calling thread and the threads that it starts. CAP_BPF stays unless `works`, called without it,
    /// shows that the kernel's tables can still be used. Returns in words the rights that could not be given up.
    #[must_use]
    pub fn apply(&self, works: impl Fn() -> bool) -> Vec<String> {
        let capabilities = self.drop_capabilities(works).err().map(|e| format!("capabilities were kept: {e}"));
        let gains = capctl::prctl::set_no_new_privs().err().map(|e| format!("no_new_privs was not set: {e}"));
        let files = match self.restrict_files() {
            Ok(RulesetStatus::NotEnforced) => {
                Some("the kernel has no Landlock: only owner and mode protect files".into())
            }
            Ok(_) => None,
            Err(error) => Some(format!("Landlock was not set up: {error}")),
        };
        [self.besides.clone(), capabilities, gains, files].into_iter().flatten().collect()
    }

    fn drop_capabilities(&self, works: impl Fn() -> bool) -> capctl::Result<()> {
        let mut kept = self.kept;
        kept.add(Cap::BPF);
        let mut state = CapState::get_current()?;
        kept &= state.permitted;
        // Linux 5.19 and later do not require CAP_BPF for a program or map that is already open. (CAP_SYS_ADMIN would replace it.)
        let mut without = kept;
        without.drop(Cap::BPF);
        CapState { effective: without, ..state }.set_current()?;
        if works() {
            kept = without;
        }
        state.set_current()?;
        // This needs CAP_SETPCAP. If the unit has taken it, the bounding set stays as the unit made it.
        for cap in bounding::probe() - kept {
            let _ = bounding::drop(cap);
        }
        (state.permitted, state.effective, state.inheritable) = (kept, kept, CapSet::empty());
        state.set_current()
    }

    fn restrict_files(&self) -> Result<RulesetStatus, landlock::RulesetError> {
        let read = AccessFs::from_read(LANDLOCK) & !AccessFs::Execute;
        let write = AccessFs::from_all(LANDLOCK) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
        let names = read | make_bitflags!(AccessFs::{MakeDir | MakeReg | MakeSym | RemoveDir | RemoveFile | Refer});
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?;
        let reads = self.reads.iter().map(|path| (path, read));
        let writes = self.writes.iter().map(|path| (path, write));
        let pins = self.pins.iter().map(|path| (path, names));
        let terminals = (Path::new("/dev/pts").to_owned(), read | AccessFs::WriteFile);
        for (path, access) in reads.chain(writes).chain(pins).chain([(&terminals.0, terminals.1)]) {
            rules = allow(rules, path, access)?;
        }
        Ok(rules.restrict_self()?.ruleset)
    }
}

/// Adds a rule for `path`. A plain file has fewer kinds of access. A missing path needs no rule.
fn allow(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let Ok(fd) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
    rules.add_rule(PathBeneath::new(fd, access))
}

fn sockets(path: &Path) -> impl Iterator<Item = PathBuf> {
    [path.to_owned()].into_iter().chain(fallbacks(path)).map(|path| folder(&path))
}

fn folder(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// The directory, or its parent if it is missing: the first boot makes it later.
fn existing(directory: &Path) -> PathBuf {
    if directory.exists() { directory.to_owned() } else { folder(directory) }
}

/// The directory above the mount point of the file system of `path`. A rule for it also holds for a later mount.
fn above_the_mount(path: &Path) -> PathBuf {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let known = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    let other = known.ancestors().find(|part| device(part) != device(known));
    other.unwrap_or(Path::new("/")).to_owned()
}

/// Forbids the system calls that posternd does not use, for all threads and for ever. Bind all Unix sockets before.
///
/// # Errors
/// The kernel refused, in words.
pub fn forbid_calls() -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("seccomp was not set up: {e}");
    let denied = calls::denied().map_err(|e| failed(&e))?;
    // On ENOSYS glibc makes threads with clone, whose arguments seccomp can check. Those of clone3 it cannot.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, errno) in [(denied, libc::EPERM), (absent, libc::ENOSYS)] {
        let program = program(rules, errno).map_err(|e| failed(&e))?;
        seccompiler::apply_filter_all_threads(&program).map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch)?.try_into()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests;
