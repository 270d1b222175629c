//! Actions that a confined process cannot do. This test program starts itself again and tries them.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "POSTERN_TEST_CONFINED_TO";
/// Set for the process that stays root.
const HELPER: &str = "POSTERN_TEST_HELPER";

/// Whether the attempt was refused. Any other failure would prove nothing.
fn refused<T>(result: std::io::Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(error) => {
            assert!([libc::EPERM, libc::EACCES].contains(&error.raw_os_error().unwrap()), "{error}");
            true
        }
    }
}

#[test]
fn a_confined_process_cannot_get_out() {
    if fs::metadata("/etc/shadow").is_err() || !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    for helper in [None, Some((HELPER, "1"))] {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sandbox::privilege::tests::confined", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .envs(helper)
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        let (said, complained) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success() && said.contains("1 passed"), "{helper:?} {said}{complained}");
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn confined() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("the test above starts this one"));
    let listener = UnixListener::bind(folder.join("listener")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    // Before confinement each attempt works.
    let append = |path: &&str| fs::OpenOptions::new().append(true).open(path);
    let mut paths =
        vec!["/etc/shadow", "/etc/passwd", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/dev/null"];
    paths.retain(|path| append(path).is_ok());
    assert!(paths.len() >= 3, "{paths:?}");
    assert!(Command::new("/bin/true").status().unwrap().success());
    assert!(UnixStream::connect(folder.join("listener")).is_ok());
    let config = Config::parse(&format!(
        "state_dir = {:?}\ntrust_file = {:?}\n[api]\nunix = {:?}\n",
        folder.join("state"),
        folder.join("trust"),
        folder.join("socket")
    ));
    fs::create_dir(folder.join("state")).unwrap();
    let (file, config) = (folder.join("postern.toml"), config.unwrap());
    let is_helper = std::env::var_os(HELPER).is_some();
    let confinement = match is_helper {
        true => Confinement::of_helper(&Duty::of(&file, &config)),
        false => Confinement::of(&file, &config),
    };
    assert_eq!(confinement.apply(|| true), Vec::<String>::new());
    forbid_calls().unwrap();

    // Refused: root's files, programs, processes, services, sockets.
    for path in paths {
        assert!(refused(append(&path)), "{path}");
    }
    assert!(refused(fs::read("/etc/shadow")));
    assert!(refused(fs::write("/etc/postern-test", "")));
    assert!(refused(Command::new("/bin/true").status()));
    assert!(refused(
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::WINCH).map_err(Into::into)
    ));
    assert!(refused(UnixStream::connect(folder.join("listener"))));
    assert!(refused(TcpStream::connect(tcp.local_addr().unwrap())));
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    assert!(refused(rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).map_err(Into::into)));
    // Allowed: the kernel's clock estimate, its own folders and listeners, threads, kernel information, messages to systemd.
    fs::write(folder.join("state/file"), "text").unwrap();
    fs::rename(folder.join("state/file"), folder.join("state/other")).unwrap();
    fs::File::open(folder.join("state")).unwrap().sync_all().unwrap();
    fs::read("/proc/self/status").unwrap();
    crate::enforcer::ntp_error().unwrap();
    std::thread::spawn(|| std::io::stderr().flush().unwrap()).join().unwrap();
    UnixDatagram::unbound().unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap();
    drop((listener, tcp));
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let value = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    // CAP_NET_ADMIN, or nothing.
    let rights = format!("{:016x}", if is_helper { 0 } else { 1 << 12 });
    assert_eq!([value("CapEff:"), value("CapPrm:"), value("CapBnd:")], [rights.clone(), rights.clone(), rights]);
    assert_eq!([value("NoNewPrivs:"), value("Seccomp:"), value("Seccomp_filters:")], ["1", "2", "2"]);
}
