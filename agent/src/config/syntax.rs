//! Finds line and setting of a TOML syntax error. There is no parsed tree yet, so it reads the lines above the error.

use super::problem::Report;

pub(super) fn note(report: &Report<'_>, text: &str, error: &toml::de::Error) {
    let span = error.span().unwrap_or(text.len()..text.len());
    report.add(&span, &field_at(text, span.start), format!("not valid TOML: {}", error.message().replace('\n', "; ")));
}

/// The setting in the line of byte `at`, for example `port[1].number`.
fn field_at(text: &str, at: usize) -> String {
    let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let (before, rest) = text.split_at(at);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let (above, start) = before.split_at(begin);
    let line = format!("{start}{}", rest.lines().next().unwrap_or_default());
    let heads = || above.lines().map(str::trim).filter(|line| line.starts_with('['));
    let section = heads().next_back().map(|head| {
        let name = head.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
        let twins = heads().filter(|other| *other == head).count();
        if head.starts_with("[[") { format!("{name}[{}]", twins - 1) } else { name.to_owned() }
    });
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| is_bare(key));
    [section.as_deref(), key].into_iter().flatten().collect::<Vec<_>>().join(".")
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}
