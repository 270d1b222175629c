//! Configuration files: each problem stands where it says, and what is accepted keeps its promises, however often it is read.
//!
//! An input is the text; behind a byte 1 it is one byte for each line, of which there are many that are only nearly right.
//!
//! `cargo fuzz run config`
#![no_main]

mod lines;
mod short;
mod written;

use std::collections::BTreeSet;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use postern_agent::config::{Closing, Config, PrefilterConfig, Problem};
use postern_core::envelope::MOST_SIGNATURES;
use postern_core::key::TCP;
use postern_core::policy::{MAX_DURATION_RANGE, MAX_PENDING_TTL, OnExpiry, PortRule, SESSIONS_MOST};
use postern_core::time::Seconds;

fuzz_target!(|input: &[u8]| match input {
    [1, lines @ ..] => configuration(&lines::text(lines)),
    _ => str::from_utf8(input).iter().for_each(|text| configuration(text)),
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    short::mutate(data, size, max_size, seed, &lines::RIGHT)
});

fn configuration(text: &str) {
    let closing = Closing::from_text(text);
    match Config::parse(text) {
        Err(problems) => located(text, &problems),
        Ok(config) => {
            accepted(&config);
            written::compare(text, &config);
            same(text, &config);
            let protected: BTreeSet<_> = config.policy().protected().collect();
            assert!(protected.is_subset(&closing.protected), "closed before the agent starts: less than it protects");
            assert_eq!((closing.pin_dir, closing.cgroup), (config.pin_dir, config.cgroup));
        }
    }
}

fn located(text: &str, problems: &[Problem]) {
    assert!(!problems.is_empty() && problems.is_sorted(), "refused without a reason, or in no order");
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in problems {
        let Problem { line, column, message, excerpt, length, .. } = problem;
        assert!((1..=lines.len()).contains(line), "line {line} of {}", lines.len());
        assert!(lines[line - 1].starts_with(excerpt.as_str()), "line {line} is not {excerpt:?}");
        assert!((1..=excerpt.chars().count() + 2).contains(column), "column {column} of {excerpt:?}");
        assert!(*length >= 1 && !message.is_empty());
        // It goes to a terminal.
        let shown = format!("{problem}\n{}", problem.picture());
        assert!(shown.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{shown:?}");
    }
}

fn accepted(config: &Config) {
    let policy = config.policy();
    assert!((MAX_DURATION_RANGE.0..=MAX_DURATION_RANGE.1).contains(&policy.max_duration));
    assert!(policy.pending_ttl.is_none_or(|ttl| ttl > Seconds(0) && ttl <= MAX_PENDING_TTL));
    let mut transports = BTreeSet::new();
    for rule in &policy.ports {
        accepted_port(rule, policy.max_duration);
        assert!(rule.port.transports().all(|transport| transports.insert(transport)), "{} twice", rule.port);
    }
    assert!(!transports.is_empty(), "a host that protects nothing");
    for role in &policy.roles {
        let most = role.max_duration.unwrap_or(policy.max_duration);
        assert!(most >= MAX_DURATION_RANGE.0 && most <= policy.max_duration);
        assert!(role.principals.iter().all(|principal| !principal.trim().is_empty()));
        assert!(role.sources.iter().flatten().all(|net| *net == net.trunc()));
    }
    for listener in config.api.tcp.iter().chain(&config.api.plaintext) {
        assert!(listener.port() == 0 || !transports.contains(&(TCP, listener.port())), "the API's port is protected");
    }
    assert!(config.api.plaintext.iter().all(|listener| listener.ip().is_loopback()), "plaintext on a network");
    assert!(config.limits.grants > 0 && config.limits.entries >= config.limits.grants);
    let paths = [&config.state_dir, &config.trust_file, &config.ssh_host_keys, &config.pin_dir, &config.api.unix];
    let others = [&config.revoked_keys, &config.cgroup];
    assert!(paths.into_iter().chain(others.into_iter().flatten()).all(|path| path.is_absolute()));
    if let PrefilterConfig::List(names) | PrefilterConfig::Xdp(names, _) = &config.xdp {
        assert!(names.iter().all(|name| !name.trim().is_empty()));
    }
}

fn accepted_port(rule: &PortRule, most: Seconds) {
    assert_ne!(rule.port.number, 0);
    assert!(rule.max_duration >= MAX_DURATION_RANGE.0 && rule.max_duration <= most, "{}", rule.max_duration);
    assert!(rule.allowed_sources.iter().flatten().all(|net| *net == net.trunc()), "bits behind a prefix");
    assert!(rule.max_grants != Some(0), "nobody could ever get in");
    assert!(rule.first_use_within != Some(Seconds(0)) && rule.idle_timeout != Some(Seconds(0)));
    assert!((rule.approvals.count as usize) < MOST_SIGNATURES, "more approvals than a message has room for");
    assert!(rule.approvals.count == 0 || !rule.approvals.roles.is_empty(), "approvals that nobody can give");
    match rule.on_expiry {
        OnExpiry::Drain(length) => assert!(length > Seconds(0) && length <= SESSIONS_MOST),
        OnExpiry::Cut | OnExpiry::Keep => {}
    }
}

/// Comments and empty lines mean nothing.
fn same(text: &str, config: &Config) {
    // A byte order mark may only stand at the very beginning.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let other = format!("\n# a comment\n{text}\n# a comment");
    assert_eq!(Config::parse(&other).as_ref(), Ok(config), "{other:?}");
}
