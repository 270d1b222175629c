//! `tidy`: the repository's own rules, which no other tool knows.
//!
//! Each rule is a function from one file to complaints. Reads the checkout; writes only with `--bless`, and then only
//! `xtask/contracts`.

mod cycles;
mod imports;
mod names;
mod rust;

use crate::sh::{self, Result};
use crate::source::{self, File};
use std::path::Path;
use std::process::Command;

/// No file of code is longer: beyond it a reader no longer finds the room.
const FILE_LINES: usize = 500;

/// No function is longer, tests aside: a table of cases is one thing however long it is.
const FUNCTION_LINES: usize = 80;

/// The one file in `tests/` that sleeps. All else there waits for a condition, or paces a sender by way of it.
const SLEEPS: &str = "tests/src/until.rs";

/// What no committed file may name: places on one machine, and hosts that a checkout must not depend on. In pieces, so
/// that this file does not name them either.
const BANNED: &[(&str, &str)] = &[
    ("/wor", "k/"),
    ("/tmp/", "lab"),
    ("/ro", "ot/"),
    ("deb.debian", ".org"),
    ("static.crates", ".io"),
    ("index.crates", ".io"),
    ("proxy.golang", ".org"),
    ("registry.npmjs", ".org"),
];

/// Files whose text others depend on, and what a change of them asks for.
const CONTRACTS: &[(&str, &str)] = &[
    ("agent-core/src/key.rs", "if a layout in it changed, raise LAYOUT_VERSION, which the directory of pins names"),
    (
        "proto/postern/v1/access.proto",
        "a released field keeps its number and its meaning; say in CHANGELOG.md what changed",
    ),
    (
        "proto/postern/v1/host.proto",
        "a released field keeps its number and its meaning; say in CHANGELOG.md what changed",
    ),
    (
        "proto/postern/v1/messages.proto",
        "a signed message keeps its meaning for ever; say in CHANGELOG.md what changed",
    ),
];

/// Checks every rule; `bless` records the contracts as they are now.
///
/// # Errors
/// Lists every breach, one a line.
pub fn run(bless: bool) -> Result<()> {
    if bless {
        return std::fs::write(sh::root().join(RECORD), recorded()?).map_err(|error| format!("{RECORD}: {error}"));
    }
    let files = source::files()?;
    let mut complaints: Vec<String> = files.iter().flat_map(check).collect();
    complaints.extend(contracts()?);
    complaints.extend(cycles::check(&files));
    complaints.extend(files.iter().flat_map(names::check));
    if complaints.is_empty() {
        println!("tidy: {} files keep the rules", files.len());
        return Ok(());
    }
    Err(complaints.join("\n"))
}

fn check(file: &File) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |text: String| complaints.push(format!("{}: {text}", file.path.display()));
    for (one, two) in BANNED {
        let banned = format!("{one}{two}");
        if file.text.contains(&banned) {
            complain(format!("names {banned}"));
        }
    }
    if file.is_rust() {
        if !file.text.starts_with("//!") {
            complain("does not start with a //! line that says what it owns".to_owned());
        }
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            complain(format!("{lines} lines, more than {FILE_LINES}"));
        }
        let sleeps = ["thread::sleep", "time::sleep"].iter().any(|call| file.text.contains(call));
        if sleeps && file.path.starts_with("tests") && !file.path.ends_with(SLEEPS) {
            complain(
                "sleeps: wait for a condition with `until`, or let a sender `pause` (tests/src/until.rs)".to_owned(),
            );
        }
        if !file.is_test() {
            long_functions(&file.text).for_each(complain);
        }
    }
    complaints
}

/// Functions beyond the limit. Formatted code ends a function with a brace at the depth at which it began.
fn long_functions(text: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = (0..lines.len()).filter(|&at| is_function(lines[at])).collect::<Vec<_>>();
    starts.into_iter().filter_map(move |at| {
        let depth = lines[at].len() - lines[at].trim_start().len();
        let end = (at..lines.len()).find(|&end| lines[end] == format!("{}}}", " ".repeat(depth)))?;
        let length = end - at + 1;
        (length > FUNCTION_LINES)
            .then(|| format!("line {}: a function of {length} lines, more than {FUNCTION_LINES}", at + 1))
    })
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let is_modifier = |word: &&str| word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(word);
    words.find(|word| !is_modifier(word)) == Some("fn") && line.ends_with('{')
}

/// Where the contracts' hashes are kept.
const RECORD: &str = "xtask/contracts";

/// The contracts' hashes as the files are now.
fn recorded() -> Result<String> {
    let mut text =
        String::from("# SHA-256 of files that others depend on; `cargo xtask tidy` says what a change asks for.\n");
    for (path, _) in CONTRACTS {
        text.push_str(&format!("{} {path}\n", hash(&sh::root().join(path))?));
    }
    Ok(text)
}

fn contracts() -> Result<Vec<String>> {
    let (kept, now) = (sh::read(&sh::root().join(RECORD))?, recorded()?);
    let changed = CONTRACTS.iter().zip(now.lines().skip(1)).filter(|(_, line)| !kept.lines().any(|old| old == *line));
    Ok(changed.map(|((path, ask), _)| format!("{path} changed: {ask}; then `cargo xtask tidy --bless`")).collect())
}

fn hash(path: &Path) -> Result<String> {
    let printed = sh::output(Command::new("sha256sum").arg(path));
    printed
        .and_then(|text| text.split(' ').next().map(str::to_owned))
        .ok_or(format!("{}: cannot be read", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{File, check, long_functions};

    fn complaints(name: &str, text: &str) -> usize {
        check(&File { path: name.into(), text: text.to_owned() }).len()
    }

    #[test]
    fn a_breach_of_each_rule_is_seen() {
        assert_eq!(complaints("a.rs", "//! Owns nothing.\nfn a() {}\n"), 0);
        assert_eq!(complaints("a.rs", "fn a() {}\n"), 1);
        assert_eq!(complaints("a.md", &format!("see {}{}x", "/wor", "k/")), 1);
        assert_eq!(complaints("a.rs", &format!("//! Long.\n{}", "// x\n".repeat(600))), 1);
    }

    #[test]
    fn long_functions_are_found_at_any_depth() {
        let body = "        x();\n".repeat(100);
        let text =
            format!("mod a {{\n    pub(crate) async fn long() {{\n{body}    }}\n    fn short() {{\n    }}\n}}\n");
        assert_eq!(long_functions(&text).count(), 1);
    }
}
