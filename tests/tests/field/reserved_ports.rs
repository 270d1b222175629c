//! posternd puts the list of reserved ports right after another program has overwritten it.

use std::fs;
use std::process::{Child, Stdio};

use postern_tests::client::Client;
use postern_tests::net::Net;
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, port, program};
use postern_tests::until;

const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const COOKIES: &str = "net/ipv4/tcp_syncookies";

fn reserved(server: &Netns) -> String {
    let read = || fs::read_to_string(format!("/proc/sys/{RESERVED}")).expect("the setting");
    server.run(read).trim().to_owned()
}

fn has(client: &Client, code: &str) -> bool {
    client.status().expect("a status").conditions.iter().any(|condition| condition.code == code)
}

fn unlock(net: &Net, postern: &Postern) {
    let mut command = net.server.command(program());
    let output = command.args(["unlock", "--config"]).arg(postern.config()).output().expect("posternd");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_ports_come_back_and_what_others_wrote_stays() {
    let net = Net::pair();
    net.server.sysctl(RESERVED, "5000-5002,3389");
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    assert_eq!(reserved(&net.server), "22,3389,5000-5002");
    // A program with a list of its own; one that empties the list; one that names a port of ours itself.
    for (written, whole) in [("9000", "22,3389,9000"), ("", "22,3389"), ("22,8080-8082", "22,3389,8080-8082")] {
        net.server.sysctl(RESERVED, &format!("{written}\n"));
        until("the ports are reserved again", || reserved(&net.server) == whole);
    }
    let client = postern.client();
    assert!(!has(&client, "reserved-ports"), "that is mended");
    // A restart knows what it has added.
    postern.kill();
    postern.launch();
    postern.stop();
    unlock(&net, &postern);
    assert_eq!(reserved(&net.server), "22,8080-8082", "what the other program wrote stays, 22 too");
}

#[test]
fn what_was_written_while_posternd_was_dead_stays() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    assert_eq!(reserved(&net.server), "22,3389");
    postern.kill();
    net.server.sysctl(RESERVED, "22,9000");
    postern.launch();
    until("the ports are reserved again", || reserved(&net.server) == "22,3389,9000");
    // A reload adds a port, and takes out none.
    let rules = [Options::default().rules, port(2222, "tcp")].concat();
    postern.configure(&Options { rules, ..Options::without_xdp() });
    postern.reload();
    until("the new port is reserved", || reserved(&net.server) == "22,2222,3389,9000");
    net.server.sysctl(RESERVED, "9001");
    until("all ports of the new policy are reserved", || reserved(&net.server) == "22,2222,3389,9001");
    postern.stop();
    unlock(&net, &postern);
    assert_eq!(reserved(&net.server), "9001");
}

#[test]
fn a_program_that_keeps_overwriting_the_list_is_a_condition() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let client = postern.client();
    let mut overwritten = 0;
    until("the quarrel is named", || {
        if reserved(&net.server) == "22,3389" {
            net.server.sysctl(RESERVED, "\n");
            overwritten += 1;
        }
        has(&client, "reserved-ports")
    });
    assert!((2..20).contains(&overwritten), "posternd was overwritten {overwritten} times");
    until("the ports are reserved again, and the condition goes", || {
        reserved(&net.server) == "22,3389" && !has(&client, "reserved-ports")
    });
}

/// A posternd that sees `/proc/sys` as many containers show it. Ends when dropped.
struct ReadOnly(Child);

impl ReadOnly {
    fn start(net: &Net, postern: &Postern) -> Self {
        let seen = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec \"$@\"";
        let mut command = net.server.command("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", seen, "sh"]).arg(program());
        command.args(["run", "--config"]).arg(postern.config()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("unshare"))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn where_the_list_cannot_be_written_a_condition_names_the_ports() {
    let net = Net::pair();
    let postern = Postern::prepared(&net.server, Options::without_xdp());
    let _posternd = ReadOnly::start(&net, &postern);
    until("posternd answers", || Client::unix(&postern.socket()).is_ok_and(|client| client.who_am_i().is_ok()));
    let client = postern.client();
    let message = || {
        let conditions = client.status().expect("a status").conditions;
        conditions.into_iter().find(|condition| condition.code == "reserved-ports").map(|condition| condition.detail)
    };
    until("the ports are missing", || message().is_some_and(|message| message.contains("22,3389")));
    net.server.sysctl(RESERVED, "22,3389");
    until("another program has reserved them", || message().is_none());
    net.server.sysctl(RESERVED, "3389");
    until("one is missing", || message().is_some_and(|message| message.contains("lacks 22:")));
}

#[test]
fn syn_cookies_are_checked_all_the_time() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let client = postern.client();
    assert!(!has(&client, "syn-cookies"));
    net.server.sysctl(COOKIES, "0");
    until("it is named", || has(&client, "syn-cookies"));
    net.server.sysctl(COOKIES, "1");
    until("it is named no longer", || !has(&client, "syn-cookies"));
}
