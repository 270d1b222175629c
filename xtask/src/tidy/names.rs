//! Names that Postern no longer uses.
//!
//! Owns the list, and where it holds: keys of the configuration, names of the protobuf contract, commands and options, and names of types.
//! People depend on the first three, and types give the rest of the code its words.

use super::rust::{self, Token};
use crate::source::File;

/// A retired name.
struct Retired {
    /// In lower case. Two words must follow each other.
    words: &'static str,
    /// What to write in its place.
    now: &'static str,
    why: &'static str,
}

const fn retired(words: &'static str, now: &'static str, why: &'static str) -> Retired {
    Retired { words, now, why }
}

/// Ordinary words such as "found", "keep", "lock" and "cut" are not here: the policy and the hooks use them.
const RETIRED: &[Retired] = &[
    retired("shed", "xdp, or prefilter", "the mechanism has a standard name"),
    retired("knock", "denied attempt", "a knock is a request in a single packet"),
    retired("keeper", "helper", "it is the privileged helper process"),
    retired("kept", "retained", "a session that outlives its grant is retained"),
    retired("keeping", "retained", "a session that outlives its grant is retained"),
    retired("seat", "connection", "it is a connection to the API"),
    retired("door", "verifier, or listener", "it verifies messages, or listens"),
    retired("flight", "commit", "it is the batch that the journal commits"),
    retired("depart", "submit", "the batch is submitted to the journal"),
    retired("arrived", "committed", "the journal has committed the batch"),
    retired("unwritten", "append failure", "the journal could not append"),
    retired("owed", "unrecorded", "the journal does not have the record yet"),
    retired("survey", "segment index", "it is an index of the journal's segments"),
    retired("news", "clock events", "the word does not say what happened"),
    retired("foretell", "explain", "it explains a decision"),
    retired("doubt", "lint", "it is a lint of the rules"),
    retired("role kind", "Role", "an envelope has a Purpose, so Role is the policy's"),
    retired("held", "RequestRecord", "it is the record of a request"),
    retired("life", "Request", "it is a request and its states"),
    retired("standing", "ModeState, or HostTrust", "the word had two meanings"),
    retired("barred", "blocked", "the standard word is blocked"),
    retired("spoke", "last pause", "it is the time of the last pause"),
    retired("burn", "mark rejected", "a rejected id is marked"),
    retired("meet", "existing sessions", "they are sessions that existed before"),
    retired("road", "tunnel", "the tests send packets through tunnels"),
];

/// What names a file has that the list is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Names of types alone.
    Code,
    Configuration,
    CommandLine,
    Contract,
}

impl Place {
    /// The place of a Rust file.
    fn of(file: &File, tokens: &[Token]) -> Self {
        let is_command_line = || tokens.iter().any(|token| ["Parser", "Subcommand", "Args"].contains(&token.text));
        if file.is_test() {
            Self::Code
        } else if file.path.starts_with("agent/src/config") {
            Self::Configuration
        } else if is_command_line() {
            Self::CommandLine
        } else {
            Self::Code
        }
    }
}

/// Complaints about retired names in one file.
pub fn check(file: &File) -> Vec<String> {
    let is_contract = file.path.extension().is_some_and(|extension| extension == "proto");
    if !file.is_rust() && !is_contract {
        return Vec::new();
    }
    let tokens = rust::tokens(&file.text);
    let place = if is_contract { Place::Contract } else { Place::of(file, &tokens) };
    let complain = |token: &Token| {
        let words = words(token.text);
        let retired = RETIRED.iter().find(|retired| has(&words, retired.words))?;
        let (path, Token { text, line }) = (file.path.display(), token);
        Some(format!("{path}:{line}: the name {text} is retired: write {} ({})", retired.now, retired.why))
    };
    (0..tokens.len()).filter(|&at| counts(place, &tokens, at)).filter_map(|at| complain(&tokens[at])).collect()
}

/// Whether the token names a type, or what people use in such a place.
fn counts(place: Place, tokens: &[Token], at: usize) -> bool {
    let before = |steps: usize| at.checked_sub(steps).map_or("", |at| tokens[at].text);
    let token = &tokens[at];
    // As a key, a command or an option is written.
    let is_text = token.text.starts_with('"')
        && token.text.trim_matches('"').split(['_', '-']).all(|word| word.chars().all(char::is_alphanumeric));
    let is_type = || token.is_word() && ["struct", "enum", "trait", "type", "union"].contains(&before(1));
    match place {
        Place::Contract => token.is_word(),
        Place::CommandLine => token.is_word() || is_text && before(1) == "=",
        // A key stands in a list, or is asked for. The names of earlier versions stand in pairs.
        Place::Configuration if is_text => before(1) != "(" || ["get", "need"].contains(&before(2)),
        Place::Configuration => is_type() || token.is_word() && declares_field(tokens, at),
        Place::Code => is_type(),
    }
}

/// Whether a struct's field is declared here: a name, a colon and a type.
fn declares_field(tokens: &[Token], at: usize) -> bool {
    let after = tokens.get(at + 1).map_or("", |token| token.text);
    let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
    after == ":" && ["{", ",", "pub", ")", "]"].contains(&before)
}

/// The words of a name, in lower case: `ShedMode`, `SHED_MODE` and `"shed-mode"` are `shed` and `mode`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut last = '_';
    for character in name.chars() {
        if !character.is_alphanumeric() || character.is_uppercase() && !last.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character.is_alphanumeric()) {
            word.extend(character.to_lowercase());
        }
        last = character;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether `wanted` follow each other among `words`, or their plurals.
fn has(words: &[String], wanted: &str) -> bool {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    let is = |word: &String, wanted: &str| word.strip_prefix(wanted).is_some_and(|rest| ["", "s"].contains(&rest));
    words.windows(wanted.len()).any(|part| part.iter().zip(&wanted).all(|(word, wanted)| is(word, wanted)))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::source::File;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&File { path: path.into(), text: text.to_owned() })
    }

    #[test]
    fn retired_names_are_found_where_people_or_types_use_them() {
        for (path, text) in [
            ("proto/postern/v1/host.proto", "enum ShedMode {}"),
            ("proto/postern/v1/host.proto", "message A { uint64 knocks_seen = 1; }"),
            ("proto/postern/v1/host.proto", "enum A { SHED_MODE_OFF = 1; }"),
            ("agent/src/config/keys.rs", "const A: &[&str] = &[\"shed\"];"),
            ("agent/src/config/xdp.rs", "fn f(s: Section) { s.get(\"shed\") }"),
            ("agent/src/config/xdp.rs", "struct A { pub shed: B }"),
            ("cli/src/args/host.rs", "#[derive(Subcommand)] enum C { Knocks(X) }"),
            ("cli/src/args/host.rs", "#[derive(Args)] struct C { #[arg(long = \"knocks\")] a: X }"),
            ("agent/src/engine/mod.rs", "pub(crate) struct Keeper;"),
            ("agent-core/src/policy/mod.rs", "enum RoleKind {}"),
            ("tests/tests/a.rs", "type Doors = X;"),
        ] {
            assert_eq!(complaints(path, text).len(), 1, "{path}: {text}");
        }
        let complaint = &complaints("agent/src/a.rs", "\nstruct Knocks;")[0];
        assert!(
            complaint.starts_with("agent/src/a.rs:2: the name Knocks is retired: write denied attempt ("),
            "{complaint}"
        );
    }

    #[test]
    fn other_words_and_other_places_are_free() {
        for (path, text) in [
            (
                "proto/postern/v1/host.proto",
                "// A shed.\nmessage Lifetime { bool finished = 1; string role = 2; reserved \"shed\"; }",
            ),
            ("agent/src/config/keys.rs", "const RENAMED: [(&str, &str); 1] = [(\"shed\", \"xdp\")];"),
            ("agent/src/config/ports.rs", "match x { \"keep\" => section.get(\"keep_days\") }"),
            ("agent/src/a.rs", "fn f() { let held = true; }\nstruct Lock; struct Found; enum Role {}"),
            ("docs/a.md", "struct Knock"),
        ] {
            assert_eq!(complaints(path, text), [""; 0], "{path}: {text}");
        }
    }
}
