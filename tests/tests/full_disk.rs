//! A state directory on a disk that is full: nothing new opens, what runs still ends, and with space all goes on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_proto::v1::ListAuditRequest;
use postern_tests::client::reason;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;

/// A grant's length in seconds, the shortest that leaves time to look.
const SHORT: u64 = 8;

/// A small disk in the place of a directory; taken away when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).expect("a directory");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "tmpfs"]).arg(&at));
        Self(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves not a byte free.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).expect("a file");
        while file.write_all(&[0; 512]).is_ok() {}
    }

    /// Gives all of that back.
    fn clear(&self) {
        fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for us, and for posternd when it has ended.
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().expect("mount(8)").success(), "{command:?}");
}

fn degraded(postern: &Postern) -> String {
    postern.client().details().expect("its state").join("\n")
}

fn is_whole(postern: &Postern) -> bool {
    let client = postern.client();
    let found = client.wait(client.host().list_audit(ListAuditRequest::default())).expect("lines").into_inner();
    found.chain_verified
}

fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("its name").path());
    let mut found: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    found.sort();
    found
}

#[test]
fn a_full_disk_opens_nothing_keeps_no_grant_alive_and_recovers() {
    let net = Net::pair();
    let ssh = (SERVER.v4, 22).into();
    let _service = Service::tcp_echo(&net.server, ssh);
    // The smallest segments, so that decisions fall on either side of a rotation and of a snapshot.
    let rules = format!("[journal]\nsegment_bytes = 4096\n{}", Options::default().rules);
    let mut postern = Postern::start(&net.server, Options { rules, ..Options::without_xdp() });
    postern.kill();
    let disk = Disk::mount(postern.file("state"), "2m");
    postern.launch();
    let source = [GRANTED.v4.into()];
    for round in 0..12 {
        let mut granted = vec![postern.grant(&["22/tcp"], &source, 300).expect("a grant")];
        let open = probe::tcp_answers(&net.client, GRANTED.v4, ssh);
        assert!(open, "round {round}");
        disk.fill();
        let lines = postern.journal().lines().count();
        // A page that is half full may take one more line; then no more.
        let mut refused = None;
        until("a refusal", || {
            match postern.grant(&["3389/tcp"], &source, 300) {
                Ok(grant) => granted.push(grant),
                Err(status) => refused = Some(status),
            }
            refused.is_some()
        });
        assert_eq!(reason(&refused.expect("a refusal")), "JOURNAL_FAILED", "round {round}");
        assert!(degraded(&postern).contains("the journal could not be written"), "{}", degraded(&postern));
        let refused = postern.grant(&["3389/tcp"], &source, 300).expect_err("still full");
        assert_eq!(reason(&refused), "JOURNAL_FAILED");
        assert!(postern.journal().ends_with('\n'), "no part of a line stays");
        disk.clear();
        granted.push(postern.grant(&["3389/tcp"], &source, 300).expect("a grant once there is space"));
        assert!(postern.journal().lines().count() > lines);
        assert!(!degraded(&postern).contains("could not be written"), "{}", degraded(&postern));
        for grant in granted {
            postern.revoke(&grant.id).expect("its end");
        }
        assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered, "round {round}");
    }
    let dir = postern.file("state/journal");
    assert!(files(&dir, ".jsonl").len() > 3, "it rotated");
    until("a snapshot", || !files(&dir, ".snapshot").is_empty());
    assert_eq!(files(&dir, ".new"), Vec::<PathBuf>::new(), "nothing half written");
    assert!(is_whole(&postern));
    postern.stop();
    postern.launch();
    assert!(is_whole(&postern), "{}", degraded(&postern));

    // What runs ends in the kernel while nothing can be written; the record of it comes with the space.
    let short = postern.grant(&["22/tcp"], &source, SHORT).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh));
    // The next line begins a segment: what is left of the last page of this one is of no use to it.
    let newest = || fs::metadata(postern.segments().pop().expect("a segment")).expect("its length").len();
    while newest() < 4096 {
        postern.grant(&["3389/tcp"], &source, 300).expect("a grant");
    }
    disk.fill();
    until("its end", || probe::tcp(&net.client, GRANTED.v4, ssh) != Outcome::Answered);
    until("a complaint", || degraded(&postern).contains("the journal could not be written"));
    let ended = |line: &str| line.contains("\"ended\"") && line.contains(&short.id);
    assert!(!postern.journal().lines().any(ended), "that it ended cannot be written yet");
    disk.clear();
    until("the record of its end", || postern.journal().lines().any(ended));
    assert!(is_whole(&postern) && !degraded(&postern).contains("could not be written"), "{}", degraded(&postern));
}
