//! The `[[role]]` sections: who may do what. The trust file defines whose signatures count.

use postern_core::grant::PortSpec;
use postern_core::policy::{PortRule, Role, RoleRule};

use super::limits::Cap;
use super::ports::prefixes;
use super::problem::suggestion;
use super::value::{Section, Value};

pub(super) const ROLES: &[(&str, Role)] =
    &[("viewer", Role::Viewer), ("requester", Role::Requester), ("approver", Role::Approver), ("admin", Role::Admin)];
const NARROWING: [&str; 3] = ["ports", "sources", "max_duration"];

/// `rules` are the ports to which the role may be narrowed.
pub(super) fn read(section: &Section<'_>, rules: &[PortRule], cap: &Cap) -> Option<RoleRule> {
    let kind = section.need("name").and_then(|value| value.choice(ROLES));
    let principals = section.need("principals").and_then(|value| value.texts());
    if let Some(kind @ (Role::Viewer | Role::Admin)) = kind {
        for value in NARROWING.iter().filter_map(|key| section.get(key)) {
            // The role would otherwise see or end more than the file says.
            value.wrong(format!("only requesters and approvers can be narrowed, and this is role \"{}\"", kind.name()));
        }
    }
    let ports = section.get("ports").map(|value| ports(&value, rules));
    let sources = section.get("sources").map(|value| prefixes(&value));
    let max_duration = section.get("max_duration").and_then(|value| cap.duration(&value));
    Some(RoleRule { kind: kind?, principals: principals?, ports, sources, max_duration })
}

/// Ports as `22/tcp`, or by the name of a `[[port]]`.
fn ports(value: &Value<'_>, rules: &[PortRule]) -> Vec<PortSpec> {
    let found = value.list(|item| {
        let text = item.text()?;
        let found = named(text, rules);
        found.map_err(|sentence| item.wrong(sentence)).ok()
    });
    found.unwrap_or_default().concat()
}

fn named(text: &str, rules: &[PortRule]) -> Result<Vec<PortSpec>, String> {
    let by_name: Vec<_> = rules.iter().filter(|rule| rule.name == text).map(|rule| rule.port).collect();
    if !by_name.is_empty() && !text.is_empty() {
        return Ok(by_name);
    }
    if !text.contains('/') {
        let names = rules.iter().map(|rule| &rule.name[..]).filter(|name| !name.is_empty());
        return Err(format!(
            "no [[port]] is named '{text}', and it is not written as 22/tcp{}",
            suggestion(text, names)
        ));
    }
    let port: PortSpec = text.parse()?;
    let protected =
        |n: &u8| rules.iter().any(|r| r.port.number == port.number && r.port.protocol.numbers().contains(n));
    if !port.protocol.numbers().iter().any(protected) {
        return Err(format!("no [[port]] is {port}, so nobody could ever ask for it"));
    }
    Ok(vec![port])
}
