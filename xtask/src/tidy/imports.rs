//! What one Rust file names: modules, imports and paths through the crate.
//!
//! Reads tokens and returns absolute paths of the crate. Paths of other crates and of the module's own children are left out: they never
//! tie two top modules.

use super::rust::Token;

/// A path that a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The module that names it; empty at the root of the crate.
    pub module: Vec<String>,
    /// From the root of the crate. The last part is `*` for a glob.
    pub path: Vec<String>,
    /// What the path is called here, where it is imported.
    pub alias: Option<String>,
    pub line: usize,
}

/// What a file declares and names.
#[derive(Debug, Default)]
pub struct Contents {
    /// Modules whose text is elsewhere: the module that declares each, then its name.
    pub declared: Vec<Vec<String>>,
    /// Modules in braces.
    pub inline: Vec<Vec<String>>,
    pub named: Vec<Named>,
}

/// Reads the file of `module`.
pub fn read(module: &[String], tokens: &[Token]) -> Contents {
    let mut reader = Reader { tokens, module: module.to_vec(), open: Vec::new(), contents: Contents::default() };
    reader.run();
    reader.contents
}

struct Reader<'t, 'a> {
    tokens: &'t [Token<'a>],
    module: Vec<String>,
    /// For each open brace, whether it is a module's.
    open: Vec<bool>,
    contents: Contents,
}

impl Reader<'_, '_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn run(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            at = match (self.text(at), self.text(at + 1), self.text(at + 2)) {
                ("mod", _, end @ (";" | "{")) => {
                    let is_inline = end == "{";
                    self.declare(at + 1, is_inline);
                    at + 3
                }
                ("use", next, _) if next != "<" => self.tree(at + 1, &[]),
                ("crate" | "self" | "super", "::", _) => self.inline_path(at),
                ("{", ..) => {
                    self.open.push(false);
                    at + 1
                }
                ("}", ..) => {
                    if self.open.pop() == Some(true) {
                        self.module.pop();
                    }
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    fn declare(&mut self, name: usize, is_inline: bool) {
        let mut path = self.module.clone();
        path.push(self.text(name).to_owned());
        if is_inline {
            self.contents.inline.push(path.clone());
            self.open.push(true);
            self.module = path;
        } else {
            self.contents.declared.push(path);
        }
    }

    /// A path in code, such as `crate::a::b(…)`. Returns where it ends.
    fn inline_path(&mut self, start: usize) -> usize {
        let mut at = start;
        while self.text(at + 1) == "::" && self.tokens.get(at + 2).is_some_and(Token::is_word) {
            at += 2;
        }
        let path = (start..=at).step_by(2).map(|at| self.text(at).to_owned()).collect::<Vec<_>>();
        self.name(&path, None, start);
        at + 1
    }

    /// One branch of an import, behind `prefix`. Returns where it ends.
    fn tree(&mut self, mut at: usize, prefix: &[String]) -> usize {
        let mut path = prefix.to_vec();
        let start = at;
        loop {
            match self.text(at) {
                "{" => return self.branches(at + 1, &path),
                // The path of another crate.
                "::" => path.push(String::new()),
                word => path.push(word.to_owned()),
            }
            at += 1;
            if self.text(at) != "::" {
                break;
            }
            at += 1;
        }
        let alias = (self.text(at) == "as").then(|| self.text(at + 1).to_owned());
        let end = at + 2 * usize::from(alias.is_some());
        self.name(&path, alias, start);
        end
    }

    fn branches(&mut self, mut at: usize, prefix: &[String]) -> usize {
        while at < self.tokens.len() && self.text(at) != "}" {
            at = self.tree(at, prefix);
            at += usize::from(self.text(at) == ",");
        }
        at + 1
    }

    /// Records a path, unless it leads into another crate or into a child of this module.
    fn name(&mut self, path: &[String], alias: Option<String>, at: usize) {
        let Some(mut path) = self.absolute(path) else { return };
        // `use a::{self}` names `a`.
        path.retain(|part| part != "self");
        let line = self.tokens[at].line;
        let alias = alias.or_else(|| path.last().cloned());
        self.contents.named.push(Named { module: self.module.clone(), path, alias, line });
    }

    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str)? {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            // Without a first word like these, only the root's own imports can name a top module.
            _ if !self.module.is_empty() => return None,
            _ => {}
        }
        while rest.first().is_some_and(|part| part == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rust;
    use super::read;

    /// The paths that a file names, as the file of the module `a::b`.
    fn named(text: &str) -> Vec<String> {
        let module = ["a".to_owned(), "b".to_owned()];
        read(&module, &rust::tokens(text)).named.iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn imports_are_read_with_groups_names_and_lines() {
        assert_eq!(named("use crate::{\n  c::{D, e::*},\n  f as g,\n};"), ["c::D", "c::e::*", "f"]);
        assert_eq!(named("pub(crate) use crate::c::{self, D};"), ["c", "c::D"]);
        assert_eq!(named("use std::fmt; use ::serde::de; use other::X;"), [""; 0]);
        assert_eq!(named("fn f() -> impl Fn() + use<'a> {} use crate::c;"), ["c"]);
    }

    #[test]
    fn super_counts_from_the_module_that_says_it() {
        assert_eq!(named("use super::c::D; use super::super::e; use self::f::G;"), ["a::c::D", "e", "a::b::f::G"]);
        assert_eq!(
            named("mod i { use super::super::c; mod j { use super::d; } } use super::e;"),
            ["a::c", "a::b::i::d", "a::e"]
        );
    }

    #[test]
    fn paths_in_code_are_read_as_imports_are() {
        assert_eq!(named("fn f(x: &crate::c::D) { super::super::e::f::<u8>(x); $crate::g!() }"), ["c::D", "e::f", "g"]);
        assert_eq!(named("pub(super) fn f(self) { self.x() }"), [""; 0]);
    }

    #[test]
    fn modules_are_told_by_where_their_text_is() {
        let contents = read(&[], &rust::tokens("pub mod a; mod b { mod c; } mod d {}"));
        assert_eq!(contents.declared, [vec!["a"], vec!["b", "c"]]);
        assert_eq!(contents.inline, [["b"], ["d"]]);
    }
}
