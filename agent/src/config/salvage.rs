//! Reads what it can from a configuration that is not valid.
//!
//! Owns the choice of the ports to close: all that can be read, and the default ones. Reports no problem: `Config::load` does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use postern_core::grant::Protocol;
use postern_core::mode::Mode;
use postern_core::policy::default_ports;
use toml::de::DeTable;

use super::problem::Report;
use super::value::Section;
use super::{keys, ports};
use crate::system::files::read_owned;

/// What posternd needs to close ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The ports to close, as (IP protocol, port).
    pub protected: BTreeSet<(u8, u16)>,
    /// The directory of pinned links.
    pub pin_dir: PathBuf,
    /// The cgroup whose sockets the cut covers.
    pub cgroup: Option<PathBuf>,
    /// Whether anything is closed at all.
    pub mode: Mode,
}

impl Closing {
    /// The default ports, and all that can be read from the file at `path`. A file that others could have written counts as empty.
    #[must_use]
    pub fn salvage(path: &Path) -> Self {
        Self::from_text(&String::from_utf8_lossy(&read_owned(path).unwrap_or_default()))
    }

    /// As [`Closing::salvage`], from a text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut protected = numbers(default_ports().iter().map(|r| (r.port.number, r.port.protocol)));
        protected.extend(ports_of(text));
        // Each `[[port]]` is also read by itself, because an open bracket or quote above would hide it.
        let lines: Vec<&str> = text.lines().collect();
        for part in lines.chunk_by(|_, line| !line.starts_with('[')).filter(|part| part[0].starts_with("[[port]]")) {
            protected.extend(ports_of(&part.join("\n")));
        }
        let (pin_dir, cgroup, mode) = with_top(text, |top| {
            let path = |key| top.get(key).and_then(|value| value.path());
            (path("pin_dir"), path("cgroup"), super::mode(top))
        });
        Self { protected, pin_dir: pin_dir.unwrap_or_else(|| super::PIN_DIR.into()), cgroup, mode }
    }
}

/// Calls `read` with the part of `text` that can be parsed.
pub(super) fn with_top<T>(text: &str, read: impl FnOnce(&Section<'_>) -> T) -> T {
    let (table, report) = (DeTable::parse_recoverable(text).0, Report::of(text));
    read(&Section::new(table.get_ref(), 0..0, String::new(), keys::TOP, &report))
}

fn ports_of(text: &str) -> BTreeSet<(u8, u16)> {
    let port = |section: &Section<'_>| {
        let number = section.get("number").as_ref().and_then(ports::port_number)?;
        let protocol = section.get("protocol").map_or(Some(Protocol::Tcp), |value| value.choice(ports::PROTOCOLS));
        Some((number, protocol.unwrap_or(Protocol::Any)))
    };
    with_top(text, |top| numbers(top.tables("port", keys::PORT).iter().filter_map(port)))
}

fn numbers(ports: impl Iterator<Item = (u16, Protocol)>) -> BTreeSet<(u8, u16)> {
    ports.flat_map(|(port, protocol)| protocol.numbers().iter().map(move |&number| (number, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: [(u8, u16); 4] = [(6, 22), (6, 3389), (6, 5985), (6, 5986)];

    fn closed(text: &str) -> Vec<(u8, u16)> {
        let mut closed = Closing::from_text(text).protected;
        DEFAULTS.iter().for_each(|port| assert!(closed.remove(port), "{port:?} stays open: {text}"));
        closed.into_iter().collect()
    }

    #[test]
    fn what_can_be_read_is_closed() {
        assert_eq!(closed(""), []);
        assert_eq!(closed("\u{0}\u{fffd}[[["), []);
        let port = "[[port]]\nnumber = 2222\n";
        assert_eq!(closed(port), [(6, 2222)]);
        // A wrong value, a wrong key, a wrong protocol, another port that is wrong.
        assert_eq!(closed(&format!("{port}max_duration = \"never\"\n")), [(6, 2222)]);
        assert_eq!(closed(&format!("nonsense = 1\n{port}")), [(6, 2222)]);
        assert_eq!(closed(&format!("{port}protocol = \"tpc\"\n")), [(6, 2222), (17, 2222)]);
        assert_eq!(closed(&format!("[[port]]\nnumber = 0\n{port}protocol = \"any\"\n")), [(6, 2222), (17, 2222)]);
        // Not TOML, before and behind it.
        let open = format!("names = [\"a\n{port}protocol = \"udp\"\n[[port]]\nnumber = 1\n");
        assert_eq!(closed(&open), [(6, 1), (17, 2222)]);
        assert_eq!(closed(&format!("{port}name = \"ssh\nmore = = 1\n")), [(6, 2222)]);
    }

    #[test]
    fn a_host_that_only_observes_is_not_closed_for_a_slip_elsewhere_in_the_file() {
        for text in ["mode = \"observe\"\nnonsense = 1\n", "mode = \"observe\"\n[[port]]\nnumber = 0\n"] {
            assert_eq!(Closing::from_text(text).mode, Mode::Observe, "{text}");
        }
        for text in ["", "mode = \"observ\"\n", "mode = 1\n", "[[port]]\nmode = \"observe\"\n"] {
            assert_eq!(Closing::from_text(text).mode, Mode::Enforce, "{text}");
        }
    }

    #[test]
    fn where_it_is_pinned_is_read_too() {
        let text = "pin_dir = \"/sys/fs/bpf/other\"\ncgroup = \"/sys/fs/cgroup\"\nxdp = 7\n";
        let closing = Closing::from_text(text);
        assert_eq!(closing.pin_dir, Path::new("/sys/fs/bpf/other"));
        assert_eq!(closing.cgroup.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(Closing::from_text("").pin_dir, Path::new("/sys/fs/bpf/postern"));
    }
}
