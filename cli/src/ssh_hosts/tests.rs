//! The lines about a host: the same lines that `ssh-keygen -F` finds.

use std::{fs, path::Path, process::Command};

use super::{lines::Says, *};
use crate::failure::Kind;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

fn known(file: &Path, host: &str, port: u16) -> Known {
    Known::find(&Config { port, ..Config::plain(host, [file.to_owned()]) }).unwrap()
}

fn found(file: &Path, (host, port): (&str, u16)) -> Vec<usize> {
    known(file, host, port).own.iter().map(|line| line.number).collect()
}

/// The numbers that `ssh-keygen -F` prints for the name in lower case, which is how `ssh` looks up names.
fn found_by_ssh(file: &Path, (host, port): (&str, u16)) -> Vec<usize> {
    let name = names::with_port(&host.to_lowercase(), port);
    let output = Command::new("ssh-keygen").args(["-F", &name, "-f"]).arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers = text.lines().filter_map(|line| line.split_once("found: line ")?.1.split(' ').next()?.parse().ok());
    numbers.collect()
}

#[test]
fn the_same_lines_are_found_as_by_ssh_keygen_hashed_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    let lines = [
        format!("vm1,192.0.2.1 {KEY} a comment"),
        format!("VM2.Example.com\t {KEY}"),
        format!("*.example.org,!bad.example.org {KEY}"),
        format!("vm? {KEY}"),
        format!("[vm1]:2222 {KEY}"),
        "# vm1".to_owned(),
        format!("@revoked   *.revoked.example {KEY}"),
        format!("2001:db8::1 {KEY}\r"),
        format!("[*.example.org]:2222,![bad.example.org]:2222,[2001:db8::1]:2222 {KEY}"),
        format!("@cert-authority *.example.net {KEY}"),
        format!("[vm1]:* {KEY}"),
    ];
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let names = [
        "vm1",
        "VM1",
        "vm2.example.com",
        "a.example.org",
        "bad.example.org",
        "example.org",
        "a.example.net",
        "vm12",
        "vm",
        "192.0.2.1",
        "a.revoked.example",
        "2001:db8::1",
        "nobody",
    ];
    let compare = || {
        for host in names.into_iter().flat_map(|name| [(name, 22), (name, 2222), (name, 2200)]) {
            assert_eq!(found(&file, host), found_by_ssh(&file, host), "{host:?}");
        }
    };
    compare();
    assert_eq!(found(&file, ("vm1", 22)), [1, 4]);
    assert_eq!(found(&file, ("vm1", 2222)), [5, 11]);
    let hashed = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap();
    assert!(hashed.status.success(), "{}", String::from_utf8_lossy(&hashed.stderr));
    assert!(fs::read_to_string(&file).unwrap().contains("|1|"));
    compare();
    for host in [("192.0.2.1", 22), ("vm1", 22), ("vm1", 2222)] {
        assert!(!found(&file, host).is_empty(), "{host:?}");
    }
}

#[test]
fn lines_of_the_name_alone_and_of_other_ports_are_kept_apart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    let lines = ["[vm1]:2222", "vm1", "[vm?]:2200,!vm9", "[VM1]:2201", "![vm1]:2300,[*]:2300", "vm2", "|1|aGk=|aGk="];
    fs::write(&file, lines.map(|names| format!("{names} {KEY}\n")).concat()).unwrap();
    let numbers = |lines: &[Line]| lines.iter().map(|line| line.number).collect::<Vec<_>>();
    let apart = |known: &Known| (numbers(&known.own), numbers(&known.portless), numbers(&known.elsewhere));
    assert_eq!(apart(&known(&file, "vm1", 2222)), (vec![1], vec![2], vec![3, 4]));
    assert_eq!(apart(&known(&file, "vm1", 22)), (vec![2], vec![], vec![1, 3, 4]));
    assert_eq!(apart(&known(&file, "vm9", 22)), (vec![], vec![], vec![5]), "line 3 says no");
    let alias = Config { alias: Some("vm2".to_owned()), port: 2222, ..Config::plain("vm1", [file.clone()]) };
    let alias = Known::find(&alias).unwrap();
    assert_eq!((apart(&alias), alias.principal.as_str()), ((vec![6], vec![], vec![]), "vm2"));
}

#[test]
fn markers_are_kept_and_what_is_no_line_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    let lines = format!(
        "@cert-authority vm1 {KEY}\n@revoked\tvm1 {KEY}\n@other vm1 {KEY}\nvm1 ssh-ed25519 bad\nvm1\n\n \t vm1 {KEY}\n"
    );
    fs::write(&file, lines).unwrap();
    let files = [file, directory.path().join("absent")];
    let lines = Known::find(&Config::plain("vm1", files)).unwrap().own;
    let says: Vec<_> = lines.iter().map(|line| (line.number, line.says)).collect();
    assert_eq!(says, [(1, Says::Authority), (2, Says::Revoked), (7, Says::Known)]);
    let unreadable = Known::find(&Config::plain("vm1", [directory.path().to_owned()]));
    assert_eq!(unreadable.unwrap_err().kind, Kind::Local, "a directory is no file");
}
