//! `[[role]]`: who may do what.
//!
//! Owns reading them into [`RoleRule`]s. Whose signature counts is the trust file's matter.

use postern_core::policy::{RoleKind, RoleRule};

use super::value::Section;

pub(super) const ROLES: &[(&str, RoleKind)] = &[
    ("viewer", RoleKind::Viewer),
    ("requester", RoleKind::Requester),
    ("approver", RoleKind::Approver),
    ("admin", RoleKind::Admin),
];

/// One rule.
pub(super) fn read(section: &Section<'_>) -> Option<RoleRule> {
    let kind = section.need("name").and_then(|value| value.choice(ROLES));
    let principals = section.need("principals").and_then(|value| value.texts());
    Some(RoleRule::new(kind?, principals?))
}
