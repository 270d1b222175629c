//! OpenSSH, grpcurl and a shell are enough: the shell lines of docs/grpcurl.md as they stand there, and other calls that people type.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use postern_tests::grpcurl;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;
use serde_json::{Value, json};

/// The marked shell lines of docs/grpcurl.md.
fn script() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grpcurl.md");
    let text = std::fs::read_to_string(path).expect("docs/grpcurl.md");
    let (_, rest) = text.split_once("<!-- test: grpcurl -->\n```sh\n").expect("the marked block");
    rest.split_once("```").expect("its end").0.to_owned()
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.output().expect("to run it");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_documented_shell_lines_open_the_port() {
    let Some(grpcurl) = grpcurl::program() else { return };
    let net = Net::pair();
    // As it is where nobody says otherwise: a host that has nobody to ask for the time takes no message without a challenge.
    let postern = Postern::start(&net.server, Options { clock: "challenge".to_owned(), ..Options::default() });
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    for source in GRANTED.both() {
        let to = SocketAddr::new(SERVER.like(source), 22);
        assert_ne!(probe::tcp(&net.client, source, to), Outcome::Answered, "before");
        let mut shell = net.client.command("bash");
        let path =
            std::env::join_paths([grpcurl.parent().expect("a directory"), Path::new("/usr/bin"), Path::new("/bin")]);
        shell.args(["-euc", &script()]).env("PATH", path.expect("a path")).env("key", postern.alice.path());
        shell.env("audience", AUDIENCE).env("source", postern_tests::request::prefix(source));
        shell.env("server", SocketAddr::new(SERVER.like(source), 7322).to_string());
        let (output, said) = run(shell);
        assert!(output.status.success() && said.contains("GRANT_STATE_ACTIVE"), "{said}");
        assert_eq!(probe::tcp(&net.client, source, to), Outcome::Answered, "during: {source}");
        assert_ne!(probe::tcp(&net.client, NEIGHBOUR.like(source), to), Outcome::Answered);
    }
}

#[test]
fn grpcurl_needs_no_files_and_shows_the_reason_of_a_refusal() {
    let Some(grpcurl) = grpcurl::program() else { return };
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let over_tls = |arguments: &[&str]| {
        let mut command = net.client.command(&grpcurl);
        command.arg("-insecure").args(arguments);
        run(command)
    };
    let on_socket = |arguments: &[&str]| {
        let mut command = Command::new(&grpcurl);
        let (last, first) = arguments.split_last().expect("arguments");
        command.arg("-plaintext").args(first).arg(format!("unix://{}", postern.socket().display())).arg(last);
        run(command)
    };
    let server = SocketAddr::new(SERVER.both()[0], 7322).to_string();
    let (_, listed) = over_tls(&[&server, "list"]);
    for service in ["postern.v1.AccessService", "postern.v1.HostService", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{listed}");
    }
    let (_, described) = over_tls(&[&server, "describe", "postern.v1.AccessRequest"]);
    assert!(described.contains("string justification"), "{described}");
    let (_, healthy) = on_socket(&["grpc.health.v1.Health/Check"]);
    assert!(healthy.contains("SERVING"), "{healthy}");
    let (_, me) = over_tls(&[&server, "postern.v1.AccessService/WhoAmI"]);
    let me: Value = serde_json::from_str(&me).expect("JSON");
    assert_eq!(me["names"][0], AUDIENCE);
    let (_, status) = on_socket(&["postern.v1.HostService/GetStatus"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["layers"].as_array().map(Vec::len), Some(3), "{status}");
    let (output, unsigned) = over_tls(&[&server, "postern.v1.HostService/GetStatus"]);
    assert!(!output.status.success() && unsigned.contains("UNSIGNED"), "{unsigned}");
    let far = Access::new(AUDIENCE, &["22/tcp"], &["192.0.2.7".parse().expect("an address")], 60);
    let message = far.seal(&postern.alice);
    let base64 = |bytes: &[u8]| {
        let file = postern.file("payload");
        std::fs::write(&file, bytes).expect("a file");
        run({
            let mut command = Command::new("base64");
            command.arg("-w0").arg(file);
            command
        })
        .1
    };
    let body = json!({ "message": {
        "payload": base64(&message.payload), "payloadType": message.payload_type,
        "signatures": [{ "sshsig": message.signatures[0].sshsig }],
    }});
    let (output, refused) = over_tls(&["-d", &body.to_string(), &server, "postern.v1.AccessService/RequestAccess"]);
    assert!(!output.status.success() && refused.contains("SOURCE_NOT_ALLOWED"), "{refused}");
    assert!(refused.contains("port[0].allowed_sources") && refused.contains("PermissionDenied"), "{refused}");
}
