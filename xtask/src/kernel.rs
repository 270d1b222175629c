//! Debian's kernel for virtual machines: image and modules, unpacked for the tests that boot another kernel than this
//! machine's, and installed nowhere.
//!
//! Owns `target/vm/kernel`. Sources and mirror are the machine's own; for another release than the machine's they are asked in
//! a private directory. Never changes what apt knows or what is installed.

use crate::sh::{self, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that stands for the newest kernel of a release; it depends on the real one.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Where a kernel is unpacked. `None` is the one of the machine's own release.
pub fn folder(release: Option<&str>) -> PathBuf {
    sh::target().join("vm/kernel").join(release.unwrap_or("own"))
}

/// Whether the tests have a kernel to boot, or could not boot one on this architecture anyway.
pub fn is_here() -> bool {
    cfg!(not(target_arch = "x86_64")) || folder(None).exists()
}

/// Downloads and unpacks a kernel, where it is not there yet.
///
/// # Errors
/// Where apt does not know it, or the network or the disk fails.
pub fn fetch(release: Option<&str>) -> Result<PathBuf> {
    let folder = folder(release);
    if folder.exists() {
        return Ok(folder);
    }
    let work = folder.with_extension("new");
    let failed = |error: std::io::Error| format!("{}: {error}", work.display());
    let _left_by_one_that_was_stopped = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(failed)?;
    let options = release.map_or_else(|| Ok(own()), |release| private(&work, release))?;
    let name = real_package(&options)?;
    sh::run(apt("apt-get", &options).args(["--quiet", "download", &name]).current_dir(&work))?;
    let mut files = fs::read_dir(&work).map_err(failed)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package =
        files.find(|path| path.extension().is_some_and(|end| end == "deb")).ok_or("apt-get left no package")?;
    sh::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(work.join("root")))?;
    fs::rename(work.join("root"), &folder).map_err(failed)?;
    fs::remove_dir_all(&work).map_err(failed)?;
    Ok(folder)
}

fn own() -> Vec<String> {
    // Else apt complains that its own user may not write here.
    vec!["APT::Sandbox::User=root".to_owned()]
}

/// Lists of another release from the machine's own mirror, in a folder of our own. The keys are those of Debian's keyring.
fn private(work: &Path, release: &str) -> Result<Vec<String>> {
    let work = fs::canonicalize(work).map_err(|error| format!("{}: {error}", work.display()))?;
    let (apt_folder, sources) = (work.join("apt"), work.join("sources.list"));
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt_folder.join(folder)).map_err(|error| error.to_string())?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = format!("deb [signed-by={keys}] {} {release} main\n", mirror()?);
    fs::write(&sources, line).map_err(|error| error.to_string())?;
    let mut options = own();
    options.extend([
        format!("Dir::Etc::SourceList={}", sources.display()),
        "Dir::Etc::SourceParts=/nonexistent".to_owned(),
        format!("Dir::State::Lists={}", apt_folder.join("lists").display()),
        format!("Dir::Cache={}", apt_folder.join("cache").display()),
    ]);
    sh::run(apt("apt-get", &options).args(["--quiet=2", "update"]))?;
    Ok(options)
}

/// The mirror of Debian's main archive that this machine uses.
fn mirror() -> Result<String> {
    let told = sh::output(Command::new("apt-get").args(["indextargets", "--format", "$(SITE) $(COMPONENT)"]));
    let told = told.unwrap_or_default();
    let mut sites = told.lines().filter_map(|line| line.strip_suffix(" main"));
    sites
        .find(|site| site.ends_with("/debian"))
        .map(str::to_owned)
        .ok_or_else(|| "apt knows no mirror of Debian".to_owned())
}

/// The package that the general one stands for now.
fn real_package(options: &[String]) -> Result<String> {
    let told = sh::output(apt("apt-cache", options).args(["depends", PACKAGE])).unwrap_or_default();
    let mut names = told.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.find(|name| name.starts_with("linux-image-")).map(str::to_owned);
    name.ok_or_else(|| {
        let folder = folder(None);
        format!(
            "apt knows no {PACKAGE}: on Debian, `apt-get update`; elsewhere unpack that package into {}",
            folder.display()
        )
    })
}

fn apt(program: &str, options: &[String]) -> Command {
    let mut command = Command::new(program);
    options.iter().for_each(|option| {
        command.args(["--option", option]);
    });
    command
}
