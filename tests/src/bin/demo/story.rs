//! The demo: the life of one grant, step by step, with the agent alive and with it killed.
//!
//! Owns the steps and what each must show; a step that does not ends the demo with an error.

use crate::Result;
use crate::client::Client;
use crate::lab::{Lab, OPEN, PLAIN, SSH, wait};
use crate::probe::{self, Syn, since};
use postern_proto::v1::Grant;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long the grant lives: long enough to log in, short enough to watch.
const LIFE: Duration = Duration::from_secs(4);

/// Both runs.
pub fn run() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.postern.stop();
    println!(
        "Two hosts in network namespaces: sshd on {SSH} (protected), a listener on {PLAIN} (protected), one on {OPEN} (not)."
    );
    println!("\nFirst: the agent runs all the time.\n");
    life(&mut lab, false)?;
    println!("\nOnce more: the agent is killed with SIGKILL right after the grant.\n");
    life(&mut lab, true)
}

/// One line of the story.
struct Steps(Instant);

impl Steps {
    fn say(&self, step: &str, text: impl std::fmt::Display) {
        println!("{:8.3} s  {step:<10} {text}", self.0.elapsed().as_secs_f64());
    }
}

fn life(lab: &mut Lab, kill: bool) -> Result<()> {
    let steps = Steps(Instant::now());
    let start = Instant::now();
    lab.postern.launch();
    steps.say("start", format!("posternd answers {:.0} ms after its start", ms(start.elapsed())));
    closed(lab, &steps)?;
    let mut client = Client::connect(lab)?;
    let grant = opened(lab, &steps, &mut client)?;
    let end = end_of(&grant)?;
    if kill {
        lab.postern.kill();
        steps.say("killed", "posternd is dead: what follows is the kernel alone");
    }
    let session = Session::start(lab)?;
    let stream = probe::stream(lab, PLAIN, LIFE + Duration::from_secs(1))?;
    in_use(lab, &steps, &session, (!kill).then_some(&grant))?;
    let edge = lab.net.client.run(|| probe::edge(PLAIN, end).map_err(|error| error.to_string()))?;
    let last = edge.last_answered.map_or("none".to_owned(), |time| format!("{:+.2} ms", since(time, end)));
    let first = since(edge.first_refused, end);
    steps.say("expiry", format!("relative to the grant's end: last SYN answered {last}, first refused {first:+.2} ms"));
    closed(lab, &steps)?;
    session_ended(lab, &steps, session, end, kill)?;
    let stream = stream.join().map_err(|_| "the stream's reader failed")?;
    let reset = stream.reset.map_or("silent".to_owned(), |time| format!("reset {:+.2} ms", since(time, end)));
    let text = format!("{} bytes arrived, the last one {:+.2} ms; {reset}", stream.bytes, since(stream.last_byte, end));
    steps.say("stream", text);
    if !kill {
        lab.postern.stop();
    }
    Ok(())
}

fn closed(lab: &Lab, steps: &Steps) -> Result<()> {
    for port in [SSH, PLAIN] {
        let (syn, took) = probe::timed_syn(lab, port);
        expect(syn == Syn::Refused, format!("a SYN to {port} must be refused, and was: {syn:?}"))?;
        steps.say("closed", format!("a SYN to {port} is refused ({:.2} ms)", ms(took)));
    }
    let (syn, took) = probe::timed_syn(lab, OPEN);
    expect(syn == Syn::Answered, format!("a SYN to {OPEN} must be answered, and was: {syn:?}"))?;
    steps.say("untouched", format!("a SYN to {OPEN} is answered ({:.2} ms)", ms(took)));
    Ok(())
}

/// Asks for access while SYNs go out one after the other; shows when the first one was answered.
fn opened(lab: &Lab, steps: &Steps, client: &mut Client) -> Result<Grant> {
    let address = client.address()?;
    let start = Instant::now();
    let (_, message) = client.sign(address, LIFE);
    steps.say("signed", format!("by ssh-keygen, for {address} alone ({:.1} ms)", ms(start.elapsed())));
    let (sent, grant, first) = lab.net.client.run(|| {
        let probe = move || {
            let kind = probe::until_answered(PLAIN);
            kind.map_err(|error| error.to_string())
        };
        let prober = thread::spawn(probe);
        let sent = Instant::now();
        let grant = client.request(message).map_err(|error| error.to_string());
        (sent, grant, prober.join().unwrap_or_else(|_| Err("the prober failed".to_owned())))
    });
    let (grant, first) = (grant?, first?);
    steps.say("request", format!("sent over TLS, granted until {}", until(&grant)));
    steps.say("open", format!("the first SYN was answered {:.2} ms after the request was sent", ms(first - sent)));
    Ok(grant)
}

fn in_use(lab: &Lab, steps: &Steps, session: &Session, counted: Option<&Grant>) -> Result<()> {
    wait("three lines from ssh", || session.lines() >= 3)?;
    let text = format!("ssh is logged in; sshd serves {} session(s)", lab.ssh_sessions());
    steps.say("in use", text);
    if let Some(grant) = counted {
        let grants = lab.postern.client().grants()?;
        let seen = grants.into_iter().find(|seen| seen.id == grant.id).ok_or("the host does not know its grant")?;
        let usage = seen.usage.ok_or("the grant has no usage")?;
        expect(usage.bytes_in > 0 && usage.bytes_out > 0, "the kernel counted nothing")?;
        let (inward, outward) = (usage.bytes_in, usage.bytes_out);
        steps.say("in use", format!("the kernel counted {inward} bytes in and {outward} bytes out for this grant"));
    }
    Ok(())
}

/// With the agent: both sides are told. Without: nothing passes any more.
fn session_ended(lab: &Lab, steps: &Steps, mut session: Session, end: SystemTime, killed: bool) -> Result<()> {
    if killed {
        let lines = session.lines();
        let last = since(session.last(), end);
        expect(last < 1000.0 && session.child.try_wait()?.is_none(), "the killed agent ended a session")?;
        steps.say("session", format!("{lines} lines arrived, the last one {last:+.1} ms from the end; then silence"));
        session.child.kill()?;
    }
    session.child.wait()?;
    let client_side = since(SystemTime::now(), end);
    if !killed {
        wait("sshd to end the session", || lab.ssh_sessions() == 0)?;
        let server_side = since(SystemTime::now(), end);
        steps.say(
            "session",
            format!("ended on both sides: ssh left {client_side:+.1} ms, sshd's process {server_side:+.1} ms"),
        );
    }
    Ok(())
}

/// A real ssh session that prints a line twenty times a second.
struct Session {
    child: Child,
    /// How many lines came, and when the last one did.
    seen: Arc<Mutex<(usize, SystemTime)>>,
}

impl Session {
    fn start(lab: &Lab) -> Result<Self> {
        let mut command = lab.net.client.command("ssh");
        command.arg("-i").arg(lab.postern.alice.path()).arg("-F").arg("/dev/null");
        for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
            command.args(["-o", option]);
        }
        command.arg(format!("root@{}", crate::lab::HOST)).arg("while sleep 0.05; do echo line; done");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let seen = Arc::new(Mutex::new((0, SystemTime::now())));
        let output = child.stdout.take().ok_or("no pipe from ssh")?;
        let counter = Arc::clone(&seen);
        thread::spawn(move || {
            for _ in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                let mut seen = counter.lock().expect("nobody panics with it");
                *seen = (seen.0 + 1, SystemTime::now());
            }
        });
        Ok(Self { child, seen })
    }

    fn lines(&self) -> usize {
        self.seen.lock().expect("nobody panics with it").0
    }

    fn last(&self) -> SystemTime {
        self.seen.lock().expect("nobody panics with it").1
    }
}

fn expect(holds: bool, otherwise: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(otherwise.into().into()) }
}

/// When the kernel closes again, by the wall clock.
pub fn end_of(grant: &Grant) -> Result<SystemTime> {
    let end = grant.expires.ok_or("the grant has no end")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::new(end.seconds.try_into()?, end.nanos.try_into()?))
}

fn until(grant: &Grant) -> String {
    let remaining = grant.remaining.map_or(0.0, |left| left.seconds as f64 + f64::from(left.nanos) / 1e9);
    format!("{remaining:.3} s from now")
}

/// A duration in milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
