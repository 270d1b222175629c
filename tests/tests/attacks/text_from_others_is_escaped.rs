//! Text from others reaches terminals, logs and JSON without control characters.
//!
//! People write what they may: reasons, tickets, their names in a certificate, its key id. The real client, posternd's own commands,
//! its log and its lines for journald show all of it, escaped. What a lying host can say besides is in `cli/tests/hostile_host.rs`,
//! what reaches the terminals of sessions in the agent's `warn` tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net};
use postern_tests::postern::{Options, Postern, port, program};
use postern_tests::terminal::Terminal;
use postern_tests::until::until;
use serde_json::Value;

/// Zero-width, soft, filling, selecting, tagging, for private use, unassigned; and a backslash, which must not be taken for an escape.
const WHY: &str = "disk\u{200b}full\u{ad}\u{3164}\u{115f}\u{fe0f}\u{e0041}\u{e000}\u{180e}\u{2060}\u{378} \\u{202e}";
const TICKET: &str = "T\u{34f}\u{ffa0}\u{e0101}-1\u{2064}";
/// In the trust file and the configuration; turns the reading order around.
const MALLORY: &str = "mal\u{202e}lory\u{200d}\u{61c}@example.com";
/// In a certificate.
const CARL: &str = "carl\u{2067}\u{feff}@ca.example";
const KEY_ID: &str = "id\u{202d}\u{fff9}\u{17b4}";
const CAROL: &str = "carol@example.com";

/// What no output may hold as it is, but for the ends of lines.
const FORBIDDEN: &[(u32, u32)] = &[
    (0x00, 0x1f),
    (0x7f, 0x9f),
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x378, 0x379),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180e),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff9, 0xfffb),
    (0xe0000, 0xe01ef),
];

#[track_caller]
fn is_harmless(text: &str, what: &str) {
    let forbidden = |c: char| FORBIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)));
    let found: Vec<char> = text.chars().filter(|c| *c != '\n' && forbidden(*c)).collect();
    assert!(found.is_empty(), "{what} shows {found:?}: {text:?}");
}

#[track_caller]
fn harmless(run: &Run, what: &str) {
    is_harmless(&run.out, what);
    is_harmless(&run.err, what);
}

/// How a text is shown to people: each hidden character by its number, each backslash as two.
fn shown(text: &str) -> String {
    let hidden = |c: char| FORBIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)));
    let show = |c: char| match c {
        '\\' => "\\\\".to_owned(),
        c if hidden(c) => format!("\\u{{{:x}}}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(show).collect()
}

struct Office {
    net: Net,
    postern: Postern,
    journald: UnixDatagram,
    /// Holds journald's socket.
    _systemd: tempfile::TempDir,
    mallory: Laptop,
    carl: Laptop,
    carol: Laptop,
}

impl Office {
    fn open() -> Self {
        let net = Net::pair();
        let systemd = tempfile::tempdir().expect("a directory");
        fs::create_dir(systemd.path().join("journal")).expect("a directory");
        let journald = UnixDatagram::bind(systemd.path().join("journal/socket")).expect("a socket");
        for path in ["", "journal"] {
            fs::set_permissions(systemd.path().join(path), fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        fs::set_permissions(systemd.path().join("journal/socket"), fs::Permissions::from_mode(0o666)).expect("a mode");
        journald.set_nonblocking(true).expect("a socket that is not waited for");
        let roles = format!(
            "[[role]]\nname = \"requester\"\nprincipals = [\"{MALLORY}\", \"{CARL}\"]\n\
             [[role]]\nname = \"approver\"\nprincipals = [\"{CAROL}\"]\n\
             [[role]]\nname = \"admin\"\nprincipals = [\"{CAROL}\"]\n"
        );
        let rules = format!("{}approvals = 1\n{}{roles}", port(22, "tcp"), port(3389, "tcp"));
        let run_systemd = Some(systemd.path().to_owned());
        let mut postern = Postern::prepared(&net.server, Options { rules, run_systemd, ..Options::without_xdp() });
        let key = |name: &str| Key::new(&postern.file(""), name);
        let (mallory, carl, carol, authority) = (key("mallory"), key("carl"), key("carol"), key("authority"));
        let mut certify = Command::new("ssh-keygen");
        certify.args(["-q", "-I", KEY_ID, "-n", CARL, "-s"]).arg(authority.path()).arg(postern.file("carl.pub"));
        assert!(certify.status().expect("ssh-keygen").success());
        let all = "namespaces=\"*@postern.v1\"";
        let trust = format!(
            "{MALLORY} {all} {}\n*@ca.example cert-authority,{all} {}\n{CAROL} {all} {}\n",
            mallory.public(),
            authority.public(),
            carol.public()
        );
        fs::write(postern.file("allowed_signers"), trust).expect("the trust file");
        postern.launch();
        let laptop = |key: &Key| Laptop::of(&net.client, key);
        let (mallory, carl, carol) = (laptop(&mallory), laptop(&carl), laptop(&carol));
        Self { net, postern, journald, _systemd: systemd, mallory, carl, carol }
    }

    /// What an offline command of posternd's prints.
    fn posternd(&self, words: &[&str]) -> String {
        let mut command = self.net.server.command(program());
        let output = command.args(words).arg("--config").arg(self.postern.config()).output().expect("posternd");
        String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8")
    }
}

/// The grant of a request.
fn asked(laptop: &Laptop, port: &str) -> String {
    let from = GRANTED.v4.to_string();
    let words =
        ["request", "vm1.test", "--port", port, "--from", &from, "--for", "10m", "--reason", WHY, "--ticket", TICKET];
    let run = laptop.postern(&words);
    harmless(&run, "request --json");
    let grant = run.json()["grant"].clone();
    assert_eq!((&grant["justification"], &grant["ticket"]), (&WHY.into(), &TICKET.into()), "the value survives");
    grant["id"].as_str().expect("an id").to_owned()
}

#[test]
fn text_from_people_never_commands_a_terminal() {
    let office = Office::open();
    let (waiting, live) = (asked(&office.mallory, "22/tcp"), asked(&office.carl, "3389/tcp"));
    let key = office.carol.key().display().to_string();
    let views: [&[&str]; 10] = [
        &["list", "vm1.test"],
        &["pending", "vm1.test"],
        &["show", "vm1.test", &live],
        &["show", "vm1.test", &waiting],
        &["audit", "vm1.test"],
        &["status", "vm1.test"],
        &["report", "vm1.test"],
        &["explain", "vm1.test", "--port", "3389/tcp", "--from", "10.1.0.10"],
        &["policy", "show", "vm1.test"],
        &["revoke", "vm1.test", &live, "--reason", WHY],
    ];
    for words in views {
        let json = office.carol.postern(words);
        harmless(&json, &format!("{words:?} --json"));
        let plain = office.carol.run(&[words, &["--accept-new", "--key", &key]].concat());
        harmless(&plain, &format!("{words:?}"));
        if ["list", "show", "pending"].contains(&words[0]) {
            let told = plain.out.contains(&shown(WHY)) && plain.out.contains(&shown(TICKET));
            assert!(told || words[0] == "list", "{words:?}: {}", plain.out);
            let who = if words.contains(&&*waiting) || words[0] == "pending" { MALLORY } else { CARL };
            assert!(plain.out.contains(&shown(who)), "{words:?}: {}", plain.out);
            assert!(json.out.contains("disk\\u200bfull"), "{words:?}: {}", json.out);
            let _: Value = json.json();
        }
    }
    approves_at_a_terminal(&office, &waiting, &key);
    let watching = office.carol.start(&["watch", "vm1.test"]);
    until("the watch shows something", || office.postern.journal().contains("approved"));
    watching.signal(libc::SIGINT);
    harmless(&watching.wait(), "watch --json");
}

/// The question that an approver answers.
fn approves_at_a_terminal(office: &Office, waiting: &str, key: &str) {
    let mut terminal = Terminal::new();
    let approving = office.carol.start_at(&terminal, &["approve", "vm1.test", waiting, "--accept-new", "--key", key]);
    terminal.wait_for("[y/N]");
    terminal.type_in("y\n");
    let run = approving.wait();
    assert_eq!(run.code, Some(0), "{}{}", run.out, terminal.screen());
    harmless(&run, "approve");
    // A terminal ends its lines with both.
    let screen = terminal.screen().replace("\r\n", "\n");
    is_harmless(&screen, "the question");
    for text in [WHY, TICKET, MALLORY] {
        assert!(screen.contains(&shown(text)), "{text:?} in {screen:?}");
    }
}

#[test]
fn log_journald_and_commands_escape_text_from_people() {
    let office = Office::open();
    let live = asked(&office.carl, "3389/tcp");
    let revoked = office.carol.postern(&["revoke", "vm1.test", &live, "--reason", WHY]);
    assert_eq!(revoked.code, Some(0), "{}", revoked.err);

    let lines = office.postern.journal();
    is_harmless(&lines, "the journal");
    let granted = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let granted = granted.into_iter().find(|line| line["event"] == "granted").expect("the grant's line");
    assert_eq!(
        (&granted["grant"]["justification"], &granted["grant"]["signer"]["principal"]),
        (&WHY.into(), &CARL.into())
    );

    for words in [
        &["audit", "export"][..],
        &["check-config"],
        &["check-config", "--json"],
        &["explain", "--principal", MALLORY, "--port", "22/tcp", "--source", "10.1.0.10/32", "--justification", WHY],
        &["explain", "--json", "--principal", "x\u{1b}[2J\u{9b}\u{7f}", "--port", "22/tcp", "--source", "10.1.0.10/32"],
    ] {
        let said = office.posternd(words);
        assert!(!said.is_empty(), "{words:?} says nothing");
        is_harmless(&said, &format!("posternd {words:?}"));
    }

    // A mistake in a file of somebody's is quoted in the log and in the status.
    let trust = fs::read_to_string(office.postern.file("allowed_signers")).expect("the trust file");
    fs::write(office.postern.file("allowed_signers"), format!("{trust}x \u{202e}option\u{200b} ssh-ed25519 AAAA\n"))
        .expect("the trust file");
    office.postern.reload();
    let status = || office.carol.postern(&["status", "vm1.test"]);
    until("the mistake is told", || status().out.contains("option"));
    harmless(&status(), "status --json");
    let key = office.carol.key().display().to_string();
    let plain = office.carol.run(&["status", "vm1.test", "--accept-new", "--key", &key]);
    harmless(&plain, "status");
    // posternd has escaped the mistake already: the client does not escape it again.
    for condition in status().json()["conditions"].as_array().expect("conditions") {
        let why = condition["detail"].as_str().expect("a sentence");
        assert!(plain.out.contains(why), "{why} in {}", plain.out);
    }
    is_harmless(&office.posternd(&["check-config"]), "check-config of a wrong file");
    is_harmless(&office.postern.log(), "the log");

    let mut records = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    until("journald gets the revocation", || {
        while let Ok(length) = office.journald.recv(&mut buffer) {
            records.push(String::from_utf8(buffer[..length].to_vec()).expect("UTF-8"));
        }
        records.iter().any(|record| record.contains("POSTERN_EVENT=ended"))
    });
    for record in &records {
        // A value with an end of a line would come with its length, in bytes that are forbidden here.
        is_harmless(record, "journald's record");
    }
    let told = records.iter().any(|record| record.contains(&format!("POSTERN_PRINCIPAL={}\n", shown(CARL))));
    assert!(told, "{records:?}");
}
