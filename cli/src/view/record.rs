//! The journal's lines.

use postern_proto::v1::AuditEntry;

use super::{joined, moment, or_dash};
use crate::text::{clean, table};

/// Lines of the journal as a table with its header.
#[must_use]
pub fn audit(entries: &[AuditEntry]) -> Vec<String> {
    let header = ["LINE", "TIME", "EVENT", "WHO", "PORTS", "SOURCE", "GRANT", "WHY"].map(str::to_owned).to_vec();
    table(&std::iter::once(header).chain(entries.iter().map(row)).collect::<Vec<_>>())
}

/// One line without padding.
#[must_use]
pub fn audit_line(entry: &AuditEntry) -> String {
    row(entry).join("  ").trim_end().to_owned()
}

fn row(entry: &AuditEntry) -> Vec<String> {
    vec![
        entry.seq.to_string(),
        moment(entry.time.as_ref()),
        clean(&entry.event),
        or_dash(clean(&entry.principal)),
        or_dash(joined(&entry.ports)),
        or_dash(joined(&entry.source)),
        or_dash(clean(&entry.grant_id)),
        clean(&entry.reason),
    ]
}
