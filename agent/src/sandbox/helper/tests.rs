//! Requests that a helper refuses to an agent under an attacker's control.

use super::*;
use crate::enforcer::ebpf::{DirState, PinReply};

fn serving(directory: &Path) -> Serving {
    let duty = Duty {
        config: directory.join("postern.toml"),
        // This directory is not on a bpf file system, so the helper cannot take it.
        pin_dir: directory.join("pins"),
        socket: directory.join("socket"),
        files: vec![directory.join("postern.toml")],
        host_keys: directory.join("host_keys"),
    };
    Serving { confined: true, ..Serving::new(duty) }
}

fn is_refused((answer, fd): &Reply) -> bool {
    fd.is_none() && matches!(answer, Answer::Failed(_) | Answer::Pins(Err(_)))
}

#[test]
fn only_what_a_reload_reads_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for file in ["postern.toml", "other"] {
        fs::write(directory.join(file), file).unwrap();
    }
    let mut serving = serving(directory);
    let (answer, fd) = serving.answer(Question::Read(directory.join("postern.toml")), None);
    assert!(matches!(answer, Answer::Done), "{answer:?}");
    assert_eq!(std::io::read_to_string(std::fs::File::from(fd.unwrap())).unwrap(), "postern.toml");
    let elsewhere = [directory.join("other"), directory.join("./../postern.toml"), "/etc/shadow".into(), "".into()];
    for path in elsewhere {
        let reply = serving.answer(Question::Read(path.clone()), None);
        assert!(is_refused(&reply), "{path:?}: {:?}", reply.0);
    }
}

#[test]
fn the_host_keys_sign_one_text_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut serving = serving(directory.path());
    fs::create_dir(directory.path().join("host_keys")).unwrap();
    let mut ask = |text: &str| serving.answer(Question::HostKeys(text.to_owned()), None);
    assert!(matches!(ask("own").0, Answer::HostKeys(found) if found.proofs.is_empty()));
    let key = directory.path().join("host_keys/ssh_host_ed25519_key");
    let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status();
    assert!(made.unwrap().success());
    for _ in 0..2 {
        assert!(matches!(ask("own").0, Answer::HostKeys(found) if found.proofs.len() == 1));
        assert!(is_refused(&ask("another")));
        assert!(is_refused(&ask("")));
    }
}

#[test]
fn nothing_is_done_in_a_directory_that_was_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let mut serving = serving(directory.path());
    let asked = [
        PinRequest::Open,
        PinRequest::Heal,
        PinRequest::Settle(vec![]),
        PinRequest::Pin("lock".to_owned()),
        PinRequest::Remove("lock".to_owned()),
    ];
    for request in asked {
        let said = format!("{request:?}");
        let reply = serving.answer(Question::Pins(request), None);
        assert!(is_refused(&reply), "{said}: {:?}", reply.0);
    }
    let mut ask = |request| match serving.answer(Question::Pins(request), None).0 {
        Answer::Pins(Ok(reply)) => reply,
        other => panic!("{other:?}"),
    };
    assert!(matches!(ask(PinRequest::IsPinned), PinReply::Is(false)));
    // The helper still answers questions that change nothing: no pin exists, and no program is known.
    assert!(matches!(ask(PinRequest::State), PinReply::State(DirState::Gone)));
    assert!(matches!(ask(PinRequest::Knows("0123".to_owned())), PinReply::Is(false)));
    assert!(matches!(ask(PinRequest::Find("lock".to_owned())), PinReply::Absent));
    assert!(matches!(ask(PinRequest::Names { from: 0 }), PinReply::Names(names) if names.is_empty()));
}

#[test]
fn messages_cross_as_they_are_and_garbage_ends_the_talk() {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (ours, theirs) = pair();
    let file = tempfile::tempfile().unwrap();
    wire::send(ours.as_fd(), &Question::Pins(PinRequest::Pin("lock".to_owned())), Some(file.as_fd())).unwrap();
    let (question, fd) = wire::receive::<Question>(theirs.as_fd()).unwrap().unwrap();
    assert!(matches!(question, Question::Pins(PinRequest::Pin(name)) if name == "lock") && fd.is_some());
    let long = vec![b' '; 70_000];
    for garbage in [&b"null"[..], b"{\"Open\":1", b"\"Unlock\"", b"\xff", &long] {
        send(&ours, garbage, SendFlags::empty()).unwrap();
        assert!(wire::receive::<Question>(theirs.as_fd()).is_err(), "{} bytes", garbage.len());
    }
    drop(ours);
    assert!(wire::receive::<Question>(theirs.as_fd()).unwrap().is_none());
}
