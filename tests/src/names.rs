//! Names of what a test makes where other tests can see it: directories of pins, cgroups and temporary files.
//!
//! Owns the one form of such a name: `postern-test-NAMESPACE-PROCESS-…`. By the name, a later test finds what a dead test process left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "postern-test-";

/// How the names of this process begin: with its namespace of process ids, without which the id means nothing, and its id.
#[must_use]
pub fn prefix() -> String {
    format!("{PREFIX}{}-{}-", namespace(), std::process::id())
}

/// A name that no other test has. `kind` says what is named.
#[must_use]
pub fn unique(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{kind}-{}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The process that made such a name in this namespace of process ids, if one did.
pub(crate) fn owner(name: &str) -> Option<u32> {
    let ids = name.strip_prefix(PREFIX)?.strip_prefix(&namespace().to_string())?;
    ids.strip_prefix('-')?.split('-').next()?.parse().ok()
}

fn namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").expect("a namespace of process ids").ino()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_new_and_names_its_process() {
        let (first, second) = (unique("pins"), unique("pins"));
        assert_ne!(first, second);
        assert_eq!(owner(&first), Some(std::process::id()));
        assert_eq!(owner("postern-test-1-2-pins-3"), None, "another namespace of process ids");
        assert_eq!(owner("elsewhere"), None);
    }
}
