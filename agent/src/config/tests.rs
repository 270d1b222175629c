//! A full file, an empty file, and every mistake.

use postern_core::key::SynRate;
use postern_core::policy::{Approvals, Justification, OnExpiry, PortRule, Role};
use postern_core::time::Seconds;

use super::*;

const FULL: &str = r#"
    names = ["vm1.example.com"]
    state_dir = "/s"
    trust_file = "/t"
    revoked_keys = "/r"
    pin_dir = "/p"
    cgroup = "/c"
    xdp = { interfaces = ["eth0"] }
    [api]
    unix = "/u"
    tcp = ["[::]:7322"]
    plaintext = ["127.0.0.1:7323"]
    syn_rate = { per_second = 5, burst = 7 }
    [limits]
    grants = 10
    entries = 100
    [journal]
    segment_bytes = 65536
    keep_days = 400
    keep_bytes = 5_000_000_000
    [[port]]
    number = 22
    name = "ssh"
    max_duration = "1h30m"
    allowed_sources = ["10.0.0.0/8", "2001:db8::/32"]
    on_expiry = "cut"
    justification = "required"
    max_grants = 3
    [[port]]
    number = 3389
    protocol = "any"
    [[role]]
    name = "requester"
    principals = ["alice@example.com"]
    [[role]]
    name = "admin"
    principals = ["root@example.com"]
"#;

#[test]
fn a_full_file() {
    let config = Config::parse(FULL).unwrap();
    let policy = config.policy();
    assert_eq!(config.xdp, PrefilterConfig::List(vec!["eth0".into()]));
    let (segment_bytes, keep_bytes, room) = (65536, 5_000_000_000, config.limits.room);
    assert_eq!(config.journal, Settings { segment_bytes, keep_days: Some(400), keep_bytes, room });
    assert_eq!(config.api.syn_rate, Some(SynRate::new(5, 7)));
    assert_eq!(policy.ports[0].max_duration, Seconds(5400));
    assert_eq!(policy.ports[1].max_duration, Seconds::hours(3));
    assert_eq!(policy.protected().collect::<Vec<_>>(), [(6, 22), (6, 3389), (17, 3389)]);
    assert!(policy.holds("alice@example.com", Role::Requester));
    assert!(!policy.holds("alice@example.com", Role::Admin));
}

#[test]
fn an_empty_file_closes_the_usual_ports_and_lets_nobody_in() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.policy().ports.len(), 4);
    assert!(config.policy().roles.is_empty());
    assert_eq!(config.xdp, PrefilterConfig::Auto);
    assert!(config.api.plaintext.is_empty());
    assert_eq!(config.api.syn_rate, Some(SynRate::new(20, 40)));
}

#[test]
fn no_limit_is_a_word_and_half_a_limit_has_twice_its_rate_at_once() {
    let rate = |text: &str| Config::parse(&format!("[api]\nsyn_rate = {text}")).map(|config| config.api.syn_rate);
    assert_eq!(rate("'off'").unwrap(), None);
    assert_eq!(rate("{ per_second = 3 }").unwrap(), Some(SynRate::new(3, 6)));
}

/// A text, and its only problem: `LINE:COLUMN: FIELD: MESSAGE`, or the beginning of that.
const MISTAKES: &[(&str, &str)] = &[
    ("nonsense", "1:9: not valid TOML"),
    ("[[port]]\nnumber = 22\n[[port]]\nnumber = = 2", "4:10: port[1].number: not valid TOML"),
    ("[api]\nunix = 'x", "2:10: api.unix: not valid TOML"),
    ("names = ['a']\nnames = ['b']", "2:1: names: not valid TOML: duplicate key"),
    ("color = 1", "1:1: color: unknown key 'color' in the top of the file; it knows names, "),
    ("shed = 'off'", "1:1: shed: the key 'shed' is called 'xdp' now: write 'xdp', with the same value"),
    ("namse = ['x']", "1:1: namse: unknown key 'namse' in the top of the file; did you mean 'names'?"),
    ("ports = []", "1:1: ports: unknown key 'ports' in the top of the file; did you mean 'port'?"),
    (
        "max_grants = 1",
        "1:1: max_grants: unknown key 'max_grants' in the top of the file; 'max_grants' belongs into [[port]]",
    ),
    (
        "[[port]]\nnumber = 22\n  max_durration = '1h'",
        "3:3: port[0].max_durration: unknown key 'max_durration' in [[port]]; did you mean 'max_duration'?",
    ),
    (
        "[[port]]\nnumber = 22\nMax-Duration = '1h'",
        "3:1: port[0].Max-Duration: unknown key 'Max-Duration' in [[port]]; did you mean 'max_duration'?",
    ),
    (
        "[[port]]\nnumber = 22\ntrust_file = '/t'",
        "3:1: port[0].trust_file: unknown key 'trust_file' in [[port]]; 'trust_file' belongs above the first section",
    ),
    ("[api]\nentries = 7", "2:1: api.entries: unknown key 'entries' in [api]; 'entries' belongs into [limits]"),
    ("xdp = { interface = 'auto' }", "1:9: xdp.interface: unknown key 'interface' in xdp; did you mean 'interfaces'?"),
    ("[[port]]\nname = 'x'", "1:1: port[0].number: is missing; [[port]] needs it"),
    ("[[port]]\nnumber = 0", "2:10: port[0].number: 0 is not from 1 to 65535"),
    ("[[port]]\nnumber = 65536", "2:10: port[0].number: 65536 is not from 1 to 65535"),
    ("[[port]]\nnumber = -1", "2:10: port[0].number: -1 is not from 1 to 65535"),
    ("[[port]]\nnumber = 2.5", "2:10: port[0].number: the number 2.5 where a whole number belongs"),
    ("[[port]]\nnumber = 99999999999999999999999999999999999999999999", "2:10: port[0].number: "),
    ("[[port]]\nnumber = 'shs'", "2:10: port[0].number: 'shs' is not a port that has a name here; did you mean 'ssh'?"),
    ("[[port]]\nnumber = 'quake'", "2:10: port[0].number: 'quake' is not a port that has a name here (ssh, "),
    (
        "[[port]]\nnumber = 22\nprotocol = 'tpc'",
        "3:12: port[0].protocol: 'tpc' is none of \"tcp\", \"udp\", \"any\"; did you mean 'tcp'?",
    ),
    ("[[port]]\nnumber = 22\nprotocol = 'icmp'", "3:12: port[0].protocol: 'icmp' is none of \"tcp\", \"udp\", \"any\""),
    ("[[port]]\nnumber = 22\nprotocol = 6", "3:12: port[0].protocol: the number 6 where one of \"tcp\", "),
    (
        "[[port]]\nnumber = 22\n[[port]]\nnumber = 'ssh'\nprotocol = 'any'",
        "4:10: port[1].number: port 22 is named twice for one protocol, first in line 2",
    ),
    ("[port]\nnumber = 22", "1:1: port: is written [[port]], with double brackets"),
    ("port = [22]", "1:9: port[0]: the number 22 where the table [[port]] belongs"),
    ("[[port]]\nnumber = 22\nmax_duration = '4m'", "3:16: port[0].max_duration: 4m is not from 5m to 24h"),
    (
        "[[port]]\nnumber = 22\n[[port]]\nnumber = 23\n  max_duration = '25h'",
        "5:18: port[1].max_duration: 25h is not from 5m to 24h",
    ),
    ("[[port]]\nnumber = 22\nmax_duration = 'soon'", "3:16: port[0].max_duration: 'soon' is not a duration"),
    ("[[port]]\nnumber = 22\nmax_duration = 3600", "3:16: port[0].max_duration: the number 3600 where a duration"),
    ("[[port]]\nnumber = 22\nmax_duration = '300.5s'", "3:16: port[0].max_duration: '300.5s' is not a duration"),
    ("[[port]]\nnumber = 22\nmax_duration = '-3h'", "3:16: port[0].max_duration: '-3h' is not a duration"),
    (
        "[[port]]\nnumber = 22\nallowed_sources = [\n  '::1/128',\n  '10.0.0.1/8']",
        "5:3: port[0].allowed_sources[1]: 10.0.0.1/8 has bits set behind its prefix; did you mean 10.0.0.0/8?",
    ),
    (
        "[[port]]\nnumber = 22\nallowed_sources = ['office']",
        "3:20: port[0].allowed_sources[0]: 'office' is not a prefix",
    ),
    (
        "[[port]]\nnumber = 22\nallowed_sources = '10.0.0.0/8'",
        "3:19: port[0].allowed_sources: the text '10.0.0.0/8' where a list",
    ),
    (
        "[[port]]\nnumber = 22\non_expiry = 'cot'",
        "3:13: port[0].on_expiry: 'cot' is none of \"cut\", \"drain 10m\", \"keep\"; did you mean 'cut'?",
    ),
    (
        "[[port]]\nnumber = 22\non_expiry = 'drain'",
        "3:13: port[0].on_expiry: 'drain' is none of \"cut\", \"drain 10m\", \"keep\"",
    ),
    ("[[port]]\nnumber = 22\non_expiry = 'drain 0s'", "3:13: port[0].on_expiry: drains for 0s; write \"cut\""),
    ("[[port]]\nnumber = 22\non_expiry = 'drain 25h'", "3:13: port[0].on_expiry: drains for 25h; 24h is the most"),
    ("warn_before = '5m'", "1:15: warn_before: the text '5m' where a list in [ ] belongs"),
    ("warn_before = ['0s']", "1:16: warn_before[0]: 0s is not from 1s to 24h"),
    ("[[port]]\nnumber = 22\nwarn_before = ['1h', '25h']", "3:22: port[0].warn_before[1]: 25h is not from 1s to 24h"),
    (
        "warn_before = ['1s', '2s', '3s', '4s', '5s', '6s', '7s', '8s', '9s']",
        "1:15: warn_before: 9 warnings before one end; 8 are the most",
    ),
    (
        "[[port]]\nnumber = 22\non_expiry = 'drain soon'",
        "3:13: port[0].on_expiry: 'soon' is not a duration in whole seconds",
    ),
    (
        "[[port]]\nnumber = 22\njustification = 'require'",
        "3:17: port[0].justification: 'require' is none of \"optional\", \"required\"; did you mean 'required'?",
    ),
    ("[[port]]\nnumber = 22\nmax_grants = 0", "3:14: port[0].max_grants: 0 would never let anybody in"),
    ("[[port]]\nnumber = 22\nname = 22", "3:8: port[0].name: the number 22 where a text"),
    ("[[port]]\nnumber = 22\napprovals = 8", "3:13: port[0].approvals: 8 is not from 0 to 7"),
    ("[[port]]\nnumber = 22\napprovals = -1", "3:13: port[0].approvals: -1 is not from 0 to 7"),
    ("[[port]]\nnumber = 7322", "2:10: port[0].number: tcp port 7322 is the API's own"),
    ("[api]\ntcp = ['[::]:1', '[::]:22']", "2:18: api.tcp[1]: tcp port 22 is the API's own"),
    ("[[port]]\nnumber = 7322\nprotocol = \"any\"", "2:10: port[0].number: tcp port 7322 is the API's own"),
    ("mode = \"observ\"", "1:8: mode: "),
    ("[[port]]\nnumber = 22\nmode = \"observe\"", "3:1: port[0].mode: unknown key 'mode' in [[port]]"),
    ("[api]\nplaintext = ['127.0.0.1:22']", "2:14: api.plaintext[0]: tcp port 22 is the API's own"),
    (
        "[[role]]\nname = 'reqester'\nprincipals = []",
        "2:8: role[0].name: 'reqester' is none of \"viewer\", \"requester\", \"approver\", \"admin\"; did you mean 'requester'?",
    ),
    ("[[role]]\nname = 'admin'", "1:1: role[0].principals: is missing; [[role]] needs it"),
    ("[[role]]\nname = 'admin'\nprincipals = ['a', '']", "3:20: role[0].principals[1]: an empty text"),
    ("[[role]]\nname = 'admin'\nprincipals = 'a'", "3:14: role[0].principals: the text 'a' where a list"),
    ("[api]\nsyn_rate = 0", "2:12: api.syn_rate: the number 0 where one of \"off\" belongs"),
    ("[api]\nsyn_rate = 'on'", "2:12: api.syn_rate: 'on' is none of \"off\""),
    ("[api]\nsyn_rate = {}", "2:12: api.syn_rate.per_second: is missing; syn_rate needs it"),
    ("[api]\nsyn_rate = { per_second = 0 }", "2:27: api.syn_rate.per_second: 0 is not from 1 to 100000"),
    ("[api]\nsyn_rate = { per_second = 1, burst = 0 }", "2:38: api.syn_rate.burst: 0 is not from 1 to 1000000"),
    ("[api]\nplaintext = ['0.0.0.0:1']", "2:14: api.plaintext[0]: 0.0.0.0:1 is not a loopback address"),
    ("[api]\ntcp = ['localhost']", "2:8: api.tcp[0]: 'localhost' is not an address with a port"),
    ("api = 'on'", "1:7: api: the text 'on' where the table [api] belongs"),
    ("[limits]\ngrants = 0", "2:10: limits.grants: 0 is not 1 or more"),
    ("[limits]\ngrants = 9\nentries = 8", "3:11: limits.entries: 8 entries are too few for 9 grants"),
    ("[limits]\ngrants = 20000", "2:10: limits.grants: 16384 entries are too few for 20000 grants"),
    ("[journal]\nsegment_bytes = 1", "2:17: journal.segment_bytes: 1 is not from 4096 to 1073741824"),
    ("[journal]\nkeep_bytes = 8388608", "2:14: journal.keep_bytes: 8388608 bytes are kept, and must be two segments"),
    ("[journal]\nkeep_days = 0", "2:13: journal.keep_days: 0 is not 1 or more"),
    ("[journal]\nkeep_days = 4294967296", "2:13: journal.keep_days: 4294967296 is more than 4294967295"),
    ("xdp = 'on'", "1:7: xdp: 'on' is none of \"off\""),
    ("xdp = { interfaces = 'eth0' }", "1:22: xdp.interfaces: 'eth0' is none of \"auto\""),
    ("xdp = { }", "1:7: xdp.interfaces: is missing"),
    ("names = 'x'", "1:9: names: the text 'x' where a list in [ ] belongs"),
    ("names = [true]", "1:10: names[0]: true where a text in quotes belongs"),
    ("names = ['v', 'tls:SHA256:a']", "1:9: names: 'tls:SHA256:a' looks like a host id or a key; leave it out"),
    ("state_dir = 'var'", "1:13: state_dir: 'var' is not a path that begins with /"),
    // Limits of the whole host.
    (
        "max_duration = '1h'\n[[port]]\nnumber = 22\nmax_duration = '2h'",
        "4:16: port[0].max_duration: 2h is longer than the host's own max_duration in line 1, which is 1h",
    ),
    (
        "max_duration = '1h'\n[[role]]\nname = 'requester'\nprincipals = []\nmax_duration = '2h'",
        "5:16: role[0].max_duration: 2h is longer than the host's own",
    ),
    ("max_duration = '25h'", "1:16: max_duration: 25h is not from 5m to 24h"),
    (
        "max_duration = 'long'\n[[port]]\nnumber = 22\nmax_duration = '2h'",
        "1:16: max_duration: 'long' is not a duration",
    ),
    ("pending_ttl = '25h'", "1:15: pending_ttl: 25h is longer than 24h"),
    ("pending_ttl = 0", "1:15: pending_ttl: the number 0 where a duration"),
    (
        "[[port]]\nnumber = 22\npending_ttl = '1h'",
        "3:1: port[0].pending_ttl: unknown key 'pending_ttl' in [[port]]; 'pending_ttl' belongs above the first section",
    ),
    (
        "[api]\nmax_duration = '1h'",
        "2:1: api.max_duration: unknown key 'max_duration' in [api]; 'max_duration' belongs above the first section or into [[port]] or into [[role]]",
    ),
    // Justifications and approvals.
    (
        "[[port]]\nnumber = 22\njustification = { matches = 'CHG-[0-9' }",
        "3:29: port[0].justification.matches: is not a regular expression: unclosed character class",
    ),
    (
        "[[port]]\nnumber = 22\njustification = { matches = '(a)\\1' }",
        "3:29: port[0].justification.matches: is not a regular expression: backreferences are not supported",
    ),
    (
        "[[port]]\nnumber = 22\njustification = { matches = '((\\w{100}){100}){100}' }",
        "3:29: port[0].justification.matches: is not a regular expression: ",
    ),
    (
        "[[port]]\nnumber = 22\njustification = { match = 'x' }",
        "3:19: port[0].justification.match: unknown key 'match' in justification; did you mean 'matches'?",
    ),
    (
        "[[port]]\nnumber = 22\njustification = { matches = 3 }",
        "3:29: port[0].justification.matches: the number 3 where a text",
    ),
    (
        "[[port]]\nnumber = 22\njustification = true",
        "3:17: port[0].justification: true where one of \"optional\", \"required\" belongs",
    ),
    ("[[port]]\nnumber = 22\napprovals = { count = 8 }", "3:23: port[0].approvals.count: 8 is not from 0 to 7"),
    (
        "[[port]]\nnumber = 22\napprovals = { roles = ['admin'] }",
        "3:13: port[0].approvals.count: is missing; approvals needs it",
    ),
    (
        "[[port]]\nnumber = 22\napprovals = { count = 1, roles = ['aprover'] }",
        "3:35: port[0].approvals.roles[0]: 'aprover' is none of \"viewer\", \"requester\", \"approver\", \"admin\"; did you mean 'approver'?",
    ),
    ("[[port]]\nnumber = 22\napprovals = { count = 1, roles = [] }", "3:34: port[0].approvals.roles: names no role"),
    (
        "[[port]]\nnumber = 22\napprovals = { count = 1, role = ['admin'] }",
        "3:26: port[0].approvals.role: unknown key 'role' in approvals; did you mean 'roles'?",
    ),
    (
        "[[port]]\nnumber = 22\nfirst_use_within = '0s'",
        "3:20: port[0].first_use_within: 0s would end every grant at once",
    ),
    (
        "[[port]]\nnumber = 22\nidle_timeout = '1 fortnight'",
        "3:16: port[0].idle_timeout: '1 fortnight' is not a duration",
    ),
    // Narrower roles.
    (
        "[[role]]\nname = 'viewer'\nprincipals = []\nports = ['22/tcp']",
        "4:9: role[0].ports: only requesters and approvers can be narrowed, and this is role \"viewer\"",
    ),
    (
        "[[role]]\nname = 'admin'\nprincipals = []\nmax_duration = '1h'",
        "4:16: role[0].max_duration: only requesters and approvers can be narrowed, and this is role \"admin\"",
    ),
    (
        "[[role]]\nname = 'admin'\nprincipals = []\nsources = ['10.0.0.0/8']",
        "4:11: role[0].sources: only requesters and approvers",
    ),
    (
        "[[role]]\nname = 'requester'\nprincipals = []\nports = ['22/tcp', 'shs']",
        "4:20: role[0].ports[1]: no [[port]] is named 'shs', and it is not written as 22/tcp",
    ),
    (
        "[[role]]\nname = 'requester'\nprincipals = []\nports = ['22/udp']",
        "4:10: role[0].ports[0]: no [[port]] is 22/udp, so nobody could ever ask for it",
    ),
    (
        "[[role]]\nname = 'requester'\nprincipals = []\nports = ['22/icmp']",
        "4:10: role[0].ports[0]: '22/icmp' does not end in /tcp, /udp or /any",
    ),
    (
        "[[role]]\nname = 'requester'\nprincipals = []\nports = [22]",
        "4:10: role[0].ports[0]: the number 22 where a text",
    ),
    (
        "[[role]]\nname = 'approver'\nprincipals = []\nsources = ['10.0.0.1/8']",
        "4:12: role[0].sources[0]: 10.0.0.1/8 has bits set",
    ),
    ("# ö\n\tstate_dir = 'ü'", "2:14: state_dir: 'ü' is not a path"),
];

#[test]
fn every_mistake_names_line_column_and_setting() {
    let mut wrong = Vec::new();
    for (text, want) in MISTAKES {
        let problems = Config::parse(text).expect_err(text);
        if problems.len() != 1 || !problems[0].to_string().starts_with(want) {
            let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
            wrong.push(format!("{text:?}\n  should say {want:?}\n  and says {said:?}"));
        }
        // With Windows' line ends the lines are the same.
        let again = Config::parse(&text.replace('\n', "\r\n")).expect_err(text);
        assert_eq!(again[0].line, problems[0].line, "{text:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_mistakes_are_said_at_once_and_in_order() {
    let text: String =
        "[[role]]\nname = 'boss'\n[[port]]\nnumbr = 0\nmax_duration = '25h'\n[limits]\ngrants = 0\n".into();
    let problems = Config::parse(&text).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| (p.line, &p.field[..])).collect();
    let want = [
        (1, "role[0].principals"),
        (2, "role[0].name"),
        (4, "port[0].numbr"),
        (5, "port[0].max_duration"),
        (7, "limits.grants"),
    ];
    assert_eq!(places, want);
}

fn policy(text: &str) -> Policy {
    Config::parse(text).map_err(|problems| problems[0].to_string()).unwrap().policy()
}

#[test]
fn a_host_wide_cap_shortens_what_is_not_written() {
    let capped = policy("max_duration = '1h'\n[[port]]\nnumber = 22\n[[port]]\nnumber = 23\nmax_duration = '10m'");
    assert_eq!(capped.max_duration, Seconds::hours(1));
    assert_eq!(
        capped.ports.iter().map(|p| p.max_duration).collect::<Vec<_>>(),
        [Seconds::hours(1), Seconds::minutes(10)]
    );
    assert!(policy("max_duration = '1h'").ports.iter().all(|port| port.max_duration == Seconds::hours(1)));
    assert!(policy("max_duration = '24h'").ports.iter().all(|port| port.max_duration == Seconds::hours(3)));
}

#[test]
fn requests_wait_for_approvals_for_an_hour_or_as_long_as_it_says() {
    let ttl = |text| policy(text).pending_ttl;
    assert_eq!(ttl(""), Some(Seconds::hours(1)));
    assert_eq!(ttl("pending_ttl = '24h'"), Some(Seconds::hours(24)));
    assert_eq!(ttl("pending_ttl = '0s'"), None);
}

#[test]
fn what_a_port_asks_for() {
    let port = |line: &str| policy(&format!("[[port]]\nnumber = 22\n{line}")).ports.remove(0);
    assert_eq!(port(""), PortRule::new("22/tcp".parse().unwrap()));
    assert_eq!(port("justification = 'required'").justification, Justification::Required);
    let Justification::Matching(pattern) = port("justification = { matches = '^(CHG|INC)-[0-9]+' }").justification
    else {
        panic!("no pattern")
    };
    assert!(pattern.matches("CHG-17: disk") && !pattern.matches("see CHG-17"));
    assert_eq!(port("approvals = 2").approvals, Approvals { count: 2, roles: vec![Role::Approver] });
    assert_eq!(port("approvals = { count = 2 }").approvals, port("approvals = 2").approvals);
    let both = Approvals { count: 1, roles: vec![Role::Admin, Role::Approver] };
    assert_eq!(port("approvals = { count = 1, roles = ['admin', 'approver'] }").approvals, both);
    assert_eq!(port("first_use_within = '10m'").first_use_within, Some(Seconds::minutes(10)));
    assert_eq!(port("idle_timeout = '1h30m'").idle_timeout, Some(Seconds(5400)));
    assert_eq!(port("on_expiry = 'keep'").on_expiry, OnExpiry::Keep);
    assert_eq!(port("on_expiry = 'drain 1h 30m'").on_expiry, OnExpiry::Drain(Seconds(5400)));
    assert_eq!(port("on_expiry = 'drain 24h'").on_expiry, OnExpiry::Drain(Seconds::hours(24)));
    // Everywhere is a source only if the file says so.
    let everywhere = "0.0.0.0/0".parse().unwrap();
    assert!(!port("").admits(everywhere) && port("allowed_sources = ['0.0.0.0/0']").admits(everywhere));
    assert!(!port("allowed_sources = []").admits("10.0.0.1/32".parse().unwrap()));
}

#[test]
fn a_role_may_be_narrower() {
    let policy = policy(
        "[[port]]\nnumber = 22\n[[port]]\nnumber = 53\nprotocol = 'udp'\nname = 'dns'\n[[port]]\nnumber = 53\nname = 'dns'
        [[role]]\nname = 'requester'\nprincipals = ['alice']\nports = ['22/any', 'dns']\nsources = ['10.0.0.0/8']\nmax_duration = '1h'
        [[role]]\nname = 'approver'\nprincipals = ['bob']\nports = []",
    );
    let [alice, bob] = &policy.roles[..] else { panic!("two roles") };
    let specs = ["22/any", "53/udp", "53/tcp"].map(|text| text.parse().unwrap());
    assert_eq!(alice.ports.as_deref(), Some(&specs[..]));
    assert_eq!(alice.sources, Some(vec!["10.0.0.0/8".parse().unwrap()]));
    assert_eq!((alice.max_duration, bob.max_duration), (Some(Seconds::hours(1)), None));
    // Zero means closed: no port, not every port.
    assert_eq!((&bob.ports, &bob.sources), (&Some(Vec::new()), &None));
}

#[test]
fn a_problem_has_a_picture() {
    let problems = Config::parse("[[port]]\nnumber = 22\n\tmax_duration = \"25h\" # ä\n").unwrap_err();
    assert_eq!(problems[0].picture(), "3 |  max_duration = \"25h\" # ä\n  |                 ^^^^^");
}

#[test]
fn services_have_names() {
    for (name, number) in services::all() {
        let config = Config::parse(&format!("[[port]]\nnumber = '{name}'\n")).unwrap();
        assert_eq!((config.policy().ports[0].port.number, &config.policy().ports[0].name[..]), (number, name));
    }
    let named = Config::parse("[[port]]\nnumber = 'rdp'\nname = 'desktop'").unwrap().policy();
    assert_eq!((named.ports[0].port.to_string(), &named.ports[0].name[..]), ("3389/tcp".to_owned(), "desktop"));
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postern.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("can be written by others"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::load(&path).is_ok());
    chown(&path, Some(65534), None).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("must belong to root"));
    assert!(Config::load(dir.path()).unwrap_err().to_string().contains("not a plain file"));
    assert!(Config::load(&dir.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
}

/// The reference and the installed file have every key.
#[test]
fn the_documents_know_every_key() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let (reference, installed) = (read("docs/configuration.md"), read("systemd/postern.toml"));
    for place in keys::PLACES {
        let heading = if place.name == keys::TOP.name { "Above the first section" } else { place.name };
        let (_, chapter) = reference.split_once(&format!("\n## {heading}\n")).expect(heading);
        let chapter = chapter.split("\n## ").next().unwrap();
        let documented: Vec<_> =
            chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let (mut known, mut said) = (place.keys.to_vec(), documented.clone());
        known.sort_unstable();
        said.sort_unstable();
        assert_eq!(said, known, "the chapter {heading}");
        let missing: Vec<_> = place.keys.iter().filter(|key| !installed.contains(**key)).collect();
        assert!(missing.is_empty(), "systemd/postern.toml does not name {missing:?} of {heading}");
    }
    for (name, number) in services::all() {
        assert!(reference.contains(&format!("| `{name}` | {number} |")), "{name}");
    }
    let blocks: Vec<_> = reference.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        Config::parse(block).unwrap_or_else(|problems| panic!("{}\n{block}", problems[0]));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// After any change to a good file: no panic, and each problem points into the file.
    #[test]
    fn a_mangled_file_is_read_or_refused_with_a_place(
        cuts in proptest::collection::vec((0..FULL.len(), 0..20usize, "[\\[\\]{}=\"'0-9a-z\n ,.ö-]{0,6}"), 1..4)
    ) {
        let mut text = FULL.to_owned();
        for (at, length, with) in cuts {
            let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap();
            text.replace_range(boundary(at)..boundary(at + length), &with);
        }
        for problem in Config::parse(&text).err().unwrap_or_default() {
            let line = text.split('\n').nth(problem.line - 1);
            proptest::prop_assert!(line.is_some_and(|line| problem.column <= line.chars().count() + 1), "{problem:?}");
            proptest::prop_assert!(!problem.message.is_empty() && !problem.picture().is_empty());
        }
    }
}
