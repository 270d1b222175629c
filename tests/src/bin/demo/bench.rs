//! `bench`: the numbers that the documents claim, measured here and now.
//!
//! Reports and asserts nothing: absolute times are this machine's. Ratios come from rounds that alternate.

use crate::Result;
use crate::client::Client;
use crate::lab::{BULK, HOST, Lab, OPEN_BULK, PLAIN, wait};
use crate::probe::{self, Syn, since, syn};
use crate::story::{end_of, ms};
use postern_agent::enforcer::{Enforcer, Settings};
use postern_core::key::{Address, GrantKey, TCP};
use postern_core::table::{Edit, Entry, Table, diff};
use postern_tests::net::STRANGER;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// All measurements, one after the other.
pub fn run() -> Result<()> {
    let mut lab = Lab::new()?;
    idle(lab.postern.pid())?;
    let mut client = Client::connect(&lab)?;
    opening(&lab, &mut client)?;
    expiry(&lab, &mut client)?;
    bulk(&mut lab, &mut client)?;
    lab.unload();
    map_write(&lab)
}

fn report(what: &str, aim: &str, value: impl std::fmt::Display) {
    println!("{what:<56} {value:<34} aim: {aim}");
}

/// The enforcer alone: from the call that writes the maps to the SYN-ACK of a SYN that is sent when it returns.
fn map_write(lab: &Lab) -> Result<()> {
    let settings =
        Settings { pin_dir: "/sys/fs/bpf/bench".into(), pins: None, cgroup: None, grants: 1024, flows: 0, slots: 1024 };
    let closed = Table { protected: [(TCP, PLAIN)].into(), ..Table::default() };
    let mut open = closed.clone();
    let key = GrantKey::new(Address::v4(STRANGER.v4.octets()), 32, TCP, PLAIN);
    open.grants.insert(key, Entry { expires_boot_ns: u64::MAX, ..Entry::default() });
    let mut enforcer = lab.net.server.run(|| Enforcer::start(&settings, &closed)).map_err(|error| error.to_string())?;
    let (put, take): (Vec<Edit>, Vec<Edit>) = (diff(&closed, &open), diff(&open, &closed));
    let (mut writes, mut both) = (Vec::new(), Vec::new());
    let measured = lab.net.client.run(|| {
        for _ in 0..200 {
            let start = Instant::now();
            put.iter().try_for_each(|edit| enforcer.apply(edit)).map_err(|error| error.to_string())?;
            writes.push(start.elapsed());
            match syn(PLAIN) {
                Syn::Answered => both.push(start.elapsed()),
                Syn::Refused => return Err("a SYN after the map was written was refused".to_owned()),
                // The listener's queue was full, which says nothing.
                Syn::Silent => {}
            }
            take.iter().try_for_each(|edit| enforcer.apply(edit)).map_err(|error| error.to_string())?;
        }
        Ok(())
    });
    measured?;
    enforcer.unlock().map_err(|error| error.to_string())?;
    let (write, both) = (1e3 * ms(median(writes)), 1e3 * ms(median(both)));
    report(
        "maps written; then a whole TCP handshake, median",
        "≤ 50 µs",
        format!("{write:.1} µs; {both:.1} µs together"),
    );
    Ok(())
}

/// Memory, and how often the idle agent wakes up.
fn idle(agent: u32) -> Result<()> {
    let (before, busy, start) = (switches(agent)?, busy_ns(agent)?, Instant::now());
    postern_tests::pause(Duration::from_secs(10));
    let (woken, busy) = (switches(agent)? - before, busy_ns(agent)? - busy);
    let status = fs::read_to_string(format!("/proc/{}/status", agent))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown").trim().to_owned();
    report("idle: resident memory", "≤ 20 MiB", resident);
    // Twice a second it looks after its layers.
    let text =
        format!("{woken}, {:.1} ms of a processor, in {:.0} s", 1e-6 * busy as f64, start.elapsed().as_secs_f64());
    report("idle: wake-ups (no watchdog is set here)", "≤ 40", text);
    Ok(())
}

/// What all threads have had of a processor so far, in nanoseconds.
fn busy_ns(agent: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Context switches of all threads so far.
fn switches(agent: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        sum += counts.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

/// A request on an open TLS connection, while SYNs go out one after the other.
fn opening(lab: &Lab, client: &mut Client) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let address = client.address()?;
        let (id, message) = client.sign(address, Duration::from_secs(300));
        let (sent, first) = lab.net.client.run(|| {
            let prober = thread::spawn(|| probe::until_answered(PLAIN).map_err(|error| error.to_string()));
            let sent = Instant::now();
            let granted = client.request(message).map(drop).map_err(|error| error.to_string());
            let first = prober.join().unwrap_or_else(|_| Err("the prober failed".to_owned()));
            granted.and(first).map(|first| (sent, first))
        })?;
        times.push(first - sent);
        lab.postern.revoke(&id)?;
        wait("the port to close", || probe::timed_syn(lab, PLAIN).0 == Syn::Refused)?;
    }
    let worst = times.iter().copied().max().unwrap_or_default();
    let text = format!("{:.2} ms, worst {:.2} ms", ms(median(times)), ms(worst));
    report("request sent to first SYN answered, median of 50", "≤ 5 ms", text);
    Ok(())
}

/// Around the ends of ten grants: SYNs, and a stream that the server never stops.
fn expiry(lab: &Lab, client: &mut Client) -> Result<()> {
    let (mut late, mut early, mut stream_late) = (f64::MIN, f64::MIN, f64::MIN);
    for _ in 0..10 {
        let address = client.address()?;
        let (_, message) = client.sign(address, Duration::from_secs(1));
        let end = end_of(&client.request(message)?)?;
        let stream = probe::stream(lab, PLAIN, Duration::from_secs(2))?;
        let edge = lab.net.client.run(|| probe::edge(PLAIN, end).map_err(|error| error.to_string()))?;
        late = late.max(edge.last_answered.map_or(f64::MIN, |time| since(time, end)));
        early = early.max(-since(edge.first_refused, end));
        let ended = stream.join().map_err(|_| "the stream's reader failed")?;
        stream_late = stream_late.max(since(ended.last_byte, end));
    }
    let text = format!("SYN {late:+.2} ms, stream {stream_late:+.2} ms");
    report("latest that passed after a grant's end, of 10", "≤ 1 ms", text);
    report("earliest that was refused before it", "≤ 1 ms", format!("{early:+.2} ms"));
    Ok(())
}

/// iperf3 on a granted and on an unprotected port, with lock and cut on and with nothing loaded, in turn.
fn bulk(lab: &mut Lab, client: &mut Client) -> Result<()> {
    let address = client.address()?;
    let (_, message) = client.sign(address, Duration::from_secs(3600));
    client.request(message)?;
    let _servers = [iperf_server(lab, BULK)?, iperf_server(lab, OPEN_BULK)?];
    let (mut granted, mut open) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let on = (iperf(lab, BULK)?, iperf(lab, OPEN_BULK)?);
        lab.unload();
        let off = (iperf(lab, BULK)?, iperf(lab, OPEN_BULK)?);
        lab.postern.launch();
        granted.push(on.0 / off.0);
        open.push(on.1 / off.1);
    }
    report("bulk TCP, granted port, lock and cut on : nothing loaded", "≥ 0.98", ratio(granted));
    report("bulk TCP, unprotected port, likewise", "≥ 0.98", ratio(open));
    Ok(())
}

fn ratio(mut rounds: Vec<f64>) -> String {
    rounds.sort_by(f64::total_cmp);
    let (least, most) = (rounds.first().copied().unwrap_or(0.0), rounds.last().copied().unwrap_or(0.0));
    format!("{:.3} ({least:.3} to {most:.3})", rounds.get(rounds.len() / 2).copied().unwrap_or(0.0))
}

/// A server that goes with the bench.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn iperf_server(lab: &Lab, port: u16) -> Result<Server> {
    let mut command = lab.net.server.command("iperf3");
    command.args(["--server", "--bind", &HOST.to_string(), "--port", &port.to_string()]);
    Ok(Server(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
}

/// Bits per second over two seconds.
fn iperf(lab: &Lab, port: u16) -> Result<f64> {
    let mut rate = None;
    wait("iperf3", || {
        let mut command = lab.net.client.command("iperf3");
        command.args(["--client", &HOST.to_string(), "--port", &port.to_string(), "--time", "2", "--json"]);
        let output = command.stdin(Stdio::null()).output().ok();
        let said = output.and_then(|output| serde_json::from_slice::<serde_json::Value>(&output.stdout).ok());
        rate = said.and_then(|said| said.pointer("/end/sum_received/bits_per_second")?.as_f64());
        rate.is_some()
    })?;
    rate.ok_or_else(|| "iperf3 gave no rate".into())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
