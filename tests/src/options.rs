//! What a test's posternd is configured to do.
//!
//! Owns the default that all tests start from. It writes no file.

use std::path::PathBuf;
use std::time::Duration;

/// The audience that every test host answers to.
pub const AUDIENCE: &str = "test.example";
/// Who may request and revoke, with `Postern::alice`.
pub const ALICE: &str = "alice@example.com";
/// Who may revoke everybody's, with `Postern::admin`.
pub const ADMIN: &str = "root@example.com";

/// Who every posternd of a test becomes: a user that each host has, and that owns nothing.
pub const USER: &str = "nobody";

/// As good as no limit for each person.
pub const NO_LIMITS: &str = "requests_per_minute = 1000000\nrequests_per_day = 10000000\napprovals_per_minute = 1000000\n\
    endings_per_minute = 1000000\nreads_per_minute = 1000000\nreplay_memory = 10000000\n\
    grants_each = 4096\nentries_each = 16384\n";

/// What differs between the tests' configurations.
#[derive(Clone, Debug)]
pub struct Options {
    /// The value of `prefilter`, as TOML.
    pub xdp: String,
    /// `[[port]]` and `[[role]]` tables, as TOML.
    pub rules: String,
    /// `[api] tcp`.
    pub tcp: Vec<String>,
    /// `[api] plaintext`.
    pub plaintext: Vec<String>,
    /// `[clock] unsynchronised`: machines that run tests may have no time server.
    pub clock: String,
    /// `[limits]`: most tests ask more than a person does.
    pub limits: String,
    /// Further lines at the top of the file.
    pub extra: String,
    /// How often posternd is to look after its layers, as systemd's watchdog makes it do; never when `None`.
    pub watchdog: Option<Duration>,
    /// Where posternd tells what it tells systemd; nowhere when `None`.
    pub notify: Option<PathBuf>,
    /// What posternd meets as `/run/systemd`: where journald's socket is.
    pub run_systemd: Option<PathBuf>,
    /// Who posternd is to become.
    pub user: String,
    /// The state directory; one of its own when `None`.
    pub state: Option<PathBuf>,
    /// The words before posternd's own, by which it gets other surroundings (see [`Options::within`]).
    pub wrapper: Vec<String>,
}

impl Default for Options {
    /// 22 and 3389 are protected, TCP and UDP; Alice may open them for 3 h to the test networks. The prefilter is for `eth0`.
    fn default() -> Self {
        Self {
            xdp: "{ interfaces = [\"eth0\"] }".to_owned(),
            rules: [port(22, "any"), port(3389, "any"), ROLES.to_owned()].concat(),
            tcp: vec!["[::]:7322".to_owned()],
            plaintext: Vec::new(),
            clock: "trust".to_owned(),
            limits: NO_LIMITS.to_owned(),
            extra: String::new(),
            watchdog: None,
            notify: None,
            run_systemd: None,
            user: USER.to_owned(),
            state: None,
            wrapper: Vec::new(),
        }
    }
}

impl Options {
    /// As the default, without the prefilter.
    #[must_use]
    pub fn without_xdp() -> Self {
        Self { xdp: "\"off\"".to_owned(), ..Self::default() }
    }

    /// As the default, without the prefilter, and with posternd in namespaces of its own, which `unshare` makes, once a shell there has run
    /// `line`.
    #[must_use]
    pub fn within(unshare: &[&str], line: &str) -> Self {
        let shell = format!("{line} && exec \"$0\" \"$@\"");
        let words = ["unshare"].into_iter().chain(unshare.iter().copied()).chain(["sh", "-c", &shell]);
        Self { wrapper: words.map(str::to_owned).collect(), ..Self::without_xdp() }
    }
}

/// The roles of the default options.
pub const ROLES: &str = "[[role]]\nname = \"requester\"\nprincipals = [\"alice@example.com\"]\n\
                         [[role]]\nname = \"admin\"\nprincipals = [\"root@example.com\"]\n";

/// A `[[port]]` that the test networks may be granted.
#[must_use]
pub fn port(number: u16, protocol: &str) -> String {
    format!(
        "[[port]]\nnumber = {number}\nprotocol = \"{protocol}\"\nname = \"port-{number}\"\nmax_duration = \"3h\"\n\
         allowed_sources = [\"10.0.0.0/8\", \"fd00::/8\", \"fe80::/10\"]\non_expiry = \"cut\"\n"
    )
}
