//! Which files are opened below the state directory, which are refused, and with whose rights.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use rustix::fs::mknodat;

use super::*;

/// A state directory with `journal` in it, and a file outside.
fn world() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (state, victim) = (folder.path().join("state"), folder.path().join("victim"));
    fs::create_dir_all(state.join("journal")).unwrap();
    fs::write(&victim, "precious").unwrap();
    (folder, state, victim)
}

#[test]
fn plain_files_are_opened_and_made() {
    let (_folder, state, _) = world();
    use std::io::Write as _;
    let path = state.join("journal/head");
    open(&path, 2, APPEND).unwrap().write_all(b"one").unwrap();
    open(&path, 2, APPEND).unwrap().write_all(b" two").unwrap();
    assert_eq!(read_to_string(&path, 2).unwrap(), "one two");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(open(&path, 2, NEW).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(open(&state.join("none"), 1, READ).unwrap_err().kind(), io::ErrorKind::NotFound);
    // The administrator's own link leads to the state directory.
    let link = state.with_file_name("link");
    symlink(&state, &link).unwrap();
    assert_eq!(read_to_string(&link.join("journal/head"), 2).unwrap(), "one two");
}

#[test]
fn no_link_fifo_device_or_directory_is_opened_and_none_is_waited_for() {
    let (_folder, state, victim) = world();
    let plant = |name: &str| state.join("journal").join(name);
    symlink(&victim, plant("symbolic")).unwrap();
    symlink("../../victim", plant("relative")).unwrap();
    symlink("/proc/self/exe", plant("magic")).unwrap();
    fs::create_dir(plant("directory")).unwrap();
    mknodat(CWD, plant("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(plant("socket")).unwrap();
    for name in ["symbolic", "relative", "magic", "directory", "fifo", "socket"] {
        for how in [READ, WRITE, APPEND, REWRITE] {
            let error = open(&plant(name), 2, how).expect_err(name).to_string();
            assert!(!error.contains("precious"), "{name}: {error}");
        }
    }
    fs::rename(state.join("journal"), state.join("elsewhere")).unwrap();
    symlink("elsewhere", state.join("journal")).unwrap();
    let error = open(&state.join("journal/head"), 2, WRITE).unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");
    assert!(open(&state.join("../victim"), 2, WRITE).is_err(), "nor upwards");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn root_writes_to_no_file_with_a_second_name() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    let (_folder, state, victim) = world();
    fs::hard_link(&victim, state.join("head")).unwrap();
    let error = open(&state.join("head"), 1, WRITE).unwrap_err().to_string();
    assert!(error.contains("2 names"), "{error}");
    fs::write(state.join("strange"), "").unwrap();
    chown(state.join("strange"), Some(54321), None).unwrap();
    assert!(open(&state.join("strange"), 1, READ).unwrap_err().to_string().contains("54321"));
}

#[test]
fn work_in_anothers_directory_is_done_with_that_users_rights() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    let (_folder, state, victim) = world();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    for path in [state.clone(), state.join("journal")] {
        chown(path, Some(12345), Some(23456)).unwrap();
    }
    let tried = as_owner(&state, || {
        fs::write(state.join("made"), "").unwrap();
        [
            fs::read(&victim).is_err(),
            fs::write(&victim, "gone").is_err(),
            fs::hard_link(&victim, state.join("x")).is_err(),
        ]
    });
    assert_eq!(tried.unwrap()[..2], [true, true]);
    let made = fs::metadata(state.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (12345, 23456));
    assert!(rustix::process::geteuid().is_root() && fs::read(&victim).is_ok(), "it is root as before");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}
