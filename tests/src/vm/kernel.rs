//! A kernel package as `dpkg-deb --extract` leaves it: the image to boot, and modules with what they need.
//!
//! Reads the package's files; never runs depmod and never downloads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    image: PathBuf,
    /// Module files by the name that `modprobe` takes.
    modules: HashMap<String, PathBuf>,
}

impl Kernel {
    /// The one in `$POSTERN_VM_KERNEL`, else the one that `cargo xtask setup` has put under `target/`.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn chosen() -> Self {
        let usual = || target().join("vm/kernel/own");
        Self::at(&env::var_os("POSTERN_VM_KERNEL").map_or_else(usual, PathBuf::from))
    }

    /// The one that was unpacked into `folder`.
    ///
    /// # Panics
    /// Where that is not the content of a kernel package.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        let boot = fs::read_dir(folder.join("boot"))
            .unwrap_or_else(|error| panic!("{}: {error} (cargo xtask setup unpacks a kernel)", folder.display()));
        let mut names = boot.map(|entry| entry.expect("a name").path());
        let image = names.find(|path| name_of(path).starts_with("vmlinuz-")).expect("a kernel image");
        let mut modules = HashMap::new();
        // A package for a machine whose /lib is /usr/lib has its modules there.
        for place in ["lib/modules", "usr/lib/modules"] {
            gather(&folder.join(place), &mut modules);
        }
        Self { image, modules }
    }

    /// The image that the emulator boots.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What `uname -r` will say.
    #[must_use]
    pub fn release(&self) -> String {
        name_of(&self.image).trim_start_matches("vmlinuz-").to_owned()
    }

    /// These modules and everything that they need, in an order in which they can be loaded. A name that the package has no
    /// file for is passed over: it is built in, or the guest will say what it misses.
    #[must_use]
    pub fn load_order(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let mut order = Vec::new();
        names.iter().for_each(|name| self.add(name, &mut order));
        order
    }

    fn add(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) {
        let Some(path) = self.modules.get(name) else { return };
        if order.iter().any(|(known, _)| known == name) {
            return;
        }
        let bytes = read(path);
        needs(&bytes).iter().for_each(|need| self.add(need, order));
        order.push((name.to_owned(), bytes));
    }
}

fn gather(folder: &Path, modules: &mut HashMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&path, modules);
        } else if let Some((name, _)) = name_of(&path).split_once(".ko") {
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

/// A module's bytes; newer packages compress them.
fn read(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|end| end == "xz") {
        let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output().expect("xz");
        assert!(output.status.success(), "xz cannot read {}", path.display());
        return output.stdout;
    }
    fs::read(path).expect("a module")
}

/// The modules that a module says it needs, in its `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|bytes| bytes == FIELD) else { return Vec::new() };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(value);
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where cargo puts what it builds, found from where this program is.
fn target() -> PathBuf {
    let own = env::current_exe().expect("this program");
    let debug = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("a folder of programs");
    debug.parent().expect("cargo's target folder").to_owned()
}
