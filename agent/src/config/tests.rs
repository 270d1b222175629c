//! A full file, an empty one, and every mistake by name.

use super::*;

const FULL: &str = r#"
    names = ["vm1.example.com"]
    state_dir = "/s"
    trust_file = "/t"
    revoked_keys = "/r"
    pin_dir = "/p"
    cgroup = "/c"
    shed = { interfaces = ["eth0"] }
    [api]
    unix = "/u"
    tcp = ["[::]:7322"]
    plaintext = ["127.0.0.1:7323"]
    [limits]
    grants = 10
    entries = 100
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
    assert_eq!(config.shed, Shed::List(vec!["eth0".into()]));
    assert_eq!(policy.ports[0].max_duration, Seconds(5400));
    assert_eq!(policy.ports[1].max_duration, Seconds::hours(3));
    assert_eq!(policy.protected().collect::<Vec<_>>(), [(6, 22), (6, 3389), (17, 3389)]);
    assert!(policy.holds("alice@example.com", RoleKind::Requester));
    assert!(!policy.holds("alice@example.com", RoleKind::Admin));
}

#[test]
fn an_empty_file_closes_the_usual_ports_and_lets_nobody_in() {
    let config = Config::parse("").unwrap();
    assert_eq!(config.policy().ports.len(), 4);
    assert!(config.policy().roles.is_empty());
    assert_eq!(config.shed, Shed::Auto);
    assert!(config.api.plaintext.is_empty());
}

#[test]
fn every_mistake_is_named() {
    for (text, want) in [
        ("nonsense", "line 1"),
        ("color = 1", "unknown field `color`"),
        ("[[port]]\nnumbr = 22", "line 2"),
        ("[[port]]\nname = 'x'", "missing field `number`"),
        ("[[port]]\nnumber = 0", "port[0].number"),
        ("[[port]]\nnumber = 65536", "line 2"),
        ("[[port]]\nnumber = -1", "line 2"),
        ("[[port]]\nnumber = 22\nprotocol = 'icmp'", "unknown variant `icmp`"),
        ("[[port]]\nnumber = 22\n[[port]]\nnumber = 22\nprotocol = 'any'", "port[1].number"),
        ("[[port]]\nnumber = 22\nmax_duration = '4m'", "port[0].max_duration"),
        ("[[port]]\nnumber = 22\nmax_duration = '25h'", "port[0].max_duration"),
        ("[[port]]\nnumber = 22\nmax_duration = 'soon'", "'soon' is not a duration"),
        ("[[port]]\nnumber = 22\nmax_duration = '300.5s'", "is not a duration"),
        ("[[port]]\nnumber = 22\nmax_duration = '-3h'", "is not a duration"),
        ("[[port]]\nnumber = 22\nallowed_sources = ['10.0.0.1/8']", "did you mean 10.0.0.0/8"),
        ("[[port]]\nnumber = 22\nallowed_sources = ['office']", "line 3"),
        ("[[port]]\nnumber = 22\non_expiry = 'keep'", "unknown variant `keep`"),
        ("[[port]]\nnumber = 22\njustification = 'maybe'", "unknown variant `maybe`"),
        ("[[port]]\nnumber = 22\nmax_grants = 0", "port[0].max_grants"),
        ("[[port]]\nnumber = 22\napprovals = 8", "port[0].approvals"),
        ("[[port]]\nnumber = 22\napprovals = -1", "line 3"),
        ("[[port]]\nnumber = 7322", "the API's own"),
        ("[[role]]\nname = 'boss'\nprincipals = []", "unknown variant `boss`"),
        ("[[role]]\nname = 'admin'\nprincipals = ['']", "role[0].principals"),
        ("[api]\nplaintext = ['0.0.0.0:1']", "api.plaintext"),
        ("[api]\ntcp = ['localhost']", "line 2"),
        ("[limits]\ngrants = 0", "limits"),
        ("shed = 'on'", "shed is \"off\""),
        ("shed = { interfaces = 'eth0' }", "shed is \"off\""),
        ("names = 'x'", "line 1"),
    ] {
        let error = Config::parse(text).expect_err(text);
        assert!(error.contains(want), "{text:?} gave {error:?}");
    }
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
