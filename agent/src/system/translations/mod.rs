//! Whether the host may redirect a packet for one of its own addresses: by address translation, a transparent proxy, IPVS, a routing rule
//! before the table `local`, or a filter on a device. The prefilter sees packets before all of these, so it is not attached where one
//! exists (docs/decisions/0050-the-prefilter.md). Asks the kernel on a thread of its own, because the answer may be long. Changes nothing.

pub mod read;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::system::files::Opener;
use read::{DONE, ERROR, messages};

/// `sessions/diag.rs` has the reasons for both numbers.
const READ_BYTES: usize = 64 * 1024;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long the engine waits for an answer. Most take less than a millisecond; a later one counts at the next look.
const WAIT: Duration = Duration::from_millis(50);
/// How old an answer may be. The engine asks twice a second.
const FRESH: Duration = Duration::from_secs(2);

// include/uapi/linux/netlink.h, nfnetlink.h, nf_tables.h, rtnetlink.h
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const GET_RULES: u16 = 10 << 8 | 7;
const GET_GENERATION: u16 = 10 << 8 | 16;
const GET_ROUTING_RULES: u16 = 34;
const GET_QDISCS: u16 = 38;

/// The tables of legacy iptables. Only root may read these files.
pub const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
const IPVS: &str = "/proc/net/ip_vs";
/// Lines of [`IPVS`] before the first service.
const IPVS_HEAD: usize = 3;

/// The error until the first answer.
pub const READING: &str = "the host's rules are being read";

/// What may redirect packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translations {
    /// On the whole host, in words; `None`: nothing.
    pub host: Option<String>,
    /// On single devices, by index.
    pub devices: BTreeMap<u32, String>,
}

/// What may redirect packets, or why that is not known.
pub type Answer = Result<Translations, String>;

/// The handle of the thread that asks the kernel.
#[derive(Default)]
pub struct Watch {
    worker: Option<(Sender<()>, Receiver<Answer>)>,
    last: Option<(Instant, Answer)>,
}

impl Watch {
    /// What may redirect packets now.
    ///
    /// # Errors
    /// Fails if the rules cannot be read or are still being read. The error says why.
    pub fn ask(&mut self, opener: &Opener) -> Answer {
        let (questions, answers) = match &mut self.worker {
            Some(worker) => worker,
            none => none.insert(start(opener.clone()).map_err(|e| format!("no thread could be made: {e}"))?),
        };
        if questions.send(()).is_err() {
            self.worker = None;
            return Err("the thread that reads the rules has ended".to_owned());
        }
        if let Ok(answer) = answers.recv_timeout(WAIT) {
            self.last = Some((Instant::now(), answer));
        }
        while let Ok(answer) = answers.try_recv() {
            self.last = Some((Instant::now(), answer));
        }
        match &self.last {
            Some((when, answer)) if when.elapsed() < FRESH => answer.clone(),
            _ => Err(READING.to_owned()),
        }
    }

    /// Ends the thread until the next question.
    pub fn rest(&mut self) {
        (self.worker, self.last) = (None, None);
    }
}

fn start(opener: Opener) -> io::Result<(Sender<()>, Receiver<Answer>)> {
    let ((ask, questions), (answer, answers)) = (channel(), channel());
    let run = move || {
        let mut rules = Rules::default();
        for () in &questions {
            // One look answers all questions asked meanwhile.
            while questions.try_recv().is_ok() {}
            let seen = look(&mut rules, &opener).map_err(|e| format!("the host's rules could not be read: {e}"));
            if answer.send(seen).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("translations".into()).spawn(run)?;
    Ok((ask, answers))
}

fn look(rules: &mut Rules, opener: &Opener) -> io::Result<Translations> {
    let host = match rules.look()? {
        Some(rule) => Some(format!("an nftables rule ({rule})")),
        None => legacy(opener)?.or(ipvs()?).or(routing()?),
    };
    let filters = |payload: &[u8]| read::classified(payload);
    let devices = dump(NETLINK_ROUTE, GET_QDISCS, &[0; 20], filters)?.into_iter();
    Ok(Translations {
        host,
        devices: devices.map(|index| (index, "its packets pass filters of tc".to_owned())).collect(),
    })
}

/// The rules of nftables. Each generation is read once.
#[derive(Default)]
struct Rules {
    known: Option<(u32, Option<String>)>,
}

impl Rules {
    fn look(&mut self) -> io::Result<Option<String>> {
        let Some(generation) = generation()? else { return Ok(None) };
        if let Some((known, found)) = &self.known
            && *known == generation
        {
            return Ok(found.clone());
        }
        let mut found = None;
        ask(NETLINK_NETFILTER, GET_RULES, DUMP, &[0; 4], |payload| {
            found = read::translation(payload);
            found.is_none()
        })?;
        // Rules that changed meanwhile are read again at the next look. Until then, a translation that was found counts.
        if self::generation()? == Some(generation) {
            self.known = Some((generation, found.clone()));
        } else if found.is_none() {
            return Err(io::Error::other("they are changing"));
        }
        Ok(found)
    }
}

/// The generation of the rules; `None` if the kernel has no nftables.
fn generation() -> io::Result<Option<u32>> {
    let mut found = None;
    let asked = ask(NETLINK_NETFILTER, GET_GENERATION, 0, &[0; 4], |payload| {
        found = read::generation(payload);
        false
    });
    match asked {
        Ok(()) => found.map(Some).ok_or_else(|| io::Error::other("nftables tells no generation")),
        // nfnetlink answers EINVAL for a subsystem that it does not have.
        Err(error)
            if [libc::EINVAL, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP].map(Some).contains(&error.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A table of legacy iptables that may translate. Asking whether a table is empty would create it.
fn legacy(opener: &Opener) -> io::Result<Option<String>> {
    for path in LEGACY {
        let mut names = String::new();
        match opener.open(Path::new(path)) {
            Ok(mut file) => drop(file.read_to_string(&mut names)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        if let Some(name) = names.lines().find(|name| ["nat", "mangle"].contains(name)) {
            return Ok(Some(format!("the table {name} of iptables (legacy)")));
        }
    }
    Ok(None)
}

fn ipvs() -> io::Result<Option<String>> {
    match fs::read_to_string(IPVS) {
        Ok(text) => Ok((text.lines().count() > IPVS_HEAD).then(|| "a service of IPVS".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A routing rule that may use another table before `local`.
fn routing() -> io::Result<Option<String>> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut first = None;
        let mut header = [0; 12];
        header[0] = u8::try_from(family).unwrap_or_default();
        let asked = ask(NETLINK_ROUTE, GET_ROUTING_RULES, DUMP, &header, |payload| {
            first = Some(read::is_plain_local(payload));
            false
        });
        match asked {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(error),
            _ if first == Some(false) => return Ok(Some("a routing rule before the table local".to_owned())),
            _ => {}
        }
    }
    Ok(None)
}

fn dump<T>(protocol: isize, kind: u16, header: &[u8], find: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    ask(protocol, kind, DUMP, header, |payload| {
        found.extend(find(payload));
        true
    })?;
    Ok(found)
}

/// Asks, and passes the answers to `each` until it returns false.
fn ask(protocol: isize, kind: u16, flags: u16, header: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
    let length = u32::try_from(16 + header.len()).unwrap_or(u32::MAX);
    let mut request =
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &(REQUEST | flags).to_ne_bytes(), &[0; 8]].concat();
    request.extend(header);
    socket.send(&request, 0)?;
    loop {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        socket.recv(&mut buffer, 0)?;
        let mut any = false;
        for (kind, payload) in messages(&buffer) {
            any = true;
            match kind {
                DONE => return Ok(()),
                ERROR => return Err(io::Error::from_raw_os_error(read::errno(payload))),
                _ if !each(payload) => return Ok(()),
                _ => {}
            }
        }
        if !any {
            return Err(io::Error::other("the kernel's answer cannot be read"));
        }
    }
}
