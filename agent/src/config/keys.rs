//! Every key of the file, and the section to which it belongs. Reads no values.

use super::problem::nearest;

/// A table that the file may contain.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// Above the first section.
pub(super) const TOP: Place = Place {
    name: "the top of the file",
    keys: &[
        "names",
        "state_dir",
        "trust_file",
        "revoked_keys",
        "user",
        "ssh_host_keys",
        "pin_dir",
        "cgroup",
        "xdp",
        "api",
        "limits",
        "journal",
        "audit",
        "clock",
        "port",
        "role",
        "max_duration",
        "pending_ttl",
        "warn_before",
        "mode",
    ],
};
pub(super) const XDP: Place = Place { name: "xdp", keys: &["interfaces", "mode"] };
pub(super) const API: Place = Place { name: "[api]", keys: &["unix", "tcp", "plaintext", "syn_rate"] };
pub(super) const SYN_RATE: Place = Place { name: "syn_rate", keys: &["per_second", "burst"] };
pub(super) const LIMITS: Place = Place {
    name: "[limits]",
    keys: &[
        "grants",
        "entries",
        "grants_each",
        "entries_each",
        "requests_per_minute",
        "requests_per_day",
        "approvals_per_minute",
        "endings_per_minute",
        "reads_per_minute",
        "replay_memory",
        "pending",
        "pending_each",
        "pending_bytes",
        "history",
        "history_bytes",
    ],
};
pub(super) const JOURNAL: Place = Place { name: "[journal]", keys: &["segment_bytes", "keep_days", "keep_bytes"] };
pub(super) const AUDIT: Place = Place { name: "[audit]", keys: &["journald"] };
pub(super) const CLOCK: Place = Place { name: "[clock]", keys: &["unsynchronised"] };
pub(super) const PORT: Place = Place {
    name: "[[port]]",
    keys: &[
        "number",
        "protocol",
        "name",
        "max_duration",
        "allowed_sources",
        "on_expiry",
        "justification",
        "approvals",
        "max_grants",
        "first_use_within",
        "idle_timeout",
        "warn_before",
    ],
};
pub(super) const JUSTIFICATION: Place = Place { name: "justification", keys: &["matches"] };
pub(super) const APPROVALS: Place = Place { name: "approvals", keys: &["count", "roles"] };
pub(super) const ROLE: Place =
    Place { name: "[[role]]", keys: &["name", "principals", "ports", "sources", "max_duration"] };

pub(super) const PLACES: &[Place] =
    &[TOP, XDP, API, SYN_RATE, LIMITS, JOURNAL, AUDIT, CLOCK, PORT, JUSTIFICATION, APPROVALS, ROLE];

/// Keys of earlier versions, with their present names. All are above the first section.
const RENAMED: &[(&str, &str)] = &[("shed", "xdp")];

/// `text` with the present names of its keys. Nobody edits a last good copy, so a copy that an earlier version made must stay valid.
pub(super) fn with_present_names(text: &str) -> String {
    let (top, rest) = text.find("\n[").map_or((text, ""), |at| text.split_at(at));
    let present = |line: &str| {
        let is_old = |(old, _): &&(&str, &str)| {
            line.trim_start().strip_prefix(old).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
        };
        RENAMED.iter().find(is_old).map_or_else(|| line.to_owned(), |(old, new)| line.replacen(old, new, 1))
    };
    top.lines().map(present).collect::<Vec<_>>().join("\n") + rest
}

/// The message about `key`, which `place` does not know.
pub(super) fn unknown(key: &str, place: Place) -> String {
    if let Some((old, new)) = RENAMED.iter().find(|(old, new)| *old == key && place.keys.contains(new)) {
        return format!("the key '{old}' is called '{new}' now: write '{new}', with the same value");
    }
    let known = place.keys.iter().copied();
    let elsewhere = PLACES.iter().filter(|other| other.keys.contains(&key)).map(|other| other.name).collect::<Vec<_>>();
    let hint = match nearest(key, known) {
        // A frequent mistake in TOML: a key below a section's head belongs to that section.
        _ if place.name.starts_with('[') && elsewhere.starts_with(&[TOP.name]) => {
            let others: String = elsewhere[1..].iter().map(|name| format!(" or into {name}")).collect();
            format!("; '{key}' belongs above the first section{others}")
        }
        Some(meant) => format!("; did you mean '{meant}'?"),
        None if elsewhere.is_empty() => format!("; it knows {}", place.keys.join(", ")),
        None => format!("; '{key}' belongs into {}", elsewhere.join(" or ")),
    };
    format!("unknown key '{key}' in {}{hint}", place.name)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_last_good_copy_may_have_the_keys_of_an_earlier_version() {
        let sections =
            "[[port]]\nnumber = 22\nname = \"shed\"\n[[role]]\nname = \"requester\"\nprincipals = [\"shed\"]\n";
        for (old, now) in [
            ("shed = \"off\"\n", "xdp = \"off\"\n"),
            (
                "names = [\"a\"]\n  shed={ interfaces = [\"eth0\"] } # shed\n",
                "names = [\"a\"]\n  xdp={ interfaces = [\"eth0\"] } # shed\n",
            ),
            ("shed.interfaces = [\"eth0\"]\n", "xdp.interfaces = [\"eth0\"]\n"),
        ] {
            let old = format!("{old}{sections}");
            assert!(Config::parse(&old).is_err(), "{old}");
            let present = Config::parse(&format!("{now}{sections}")).expect("the present key");
            assert_eq!(Config::parse_copy(&old).expect("a copy"), present, "{old}");
        }
    }
}
