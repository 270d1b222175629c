//! No cycle of imports between the top modules of a crate.
//!
//! A top module is a direct child of `src`. Whoever changes one then knows which others it can break. Follows `mod` declarations from the
//! roots of a package, so it sees what the compiler sees, without tests.

use super::imports::{self, Contents, Named};
use super::rust;
use crate::source::File;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The packages of the workspace.
const PACKAGES: &[&str] = &["agent", "agent-core", "cli", "proto", "tests", "xtask"];

/// A name in one top module that belongs to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tie {
    from: String,
    to: String,
    path: String,
    file: PathBuf,
    line: usize,
}

/// Complaints about each cycle in each crate.
pub fn check(files: &[File]) -> Vec<String> {
    let texts: Texts = files.iter().map(|file| (file.path.as_path(), file.text.as_str())).collect();
    roots(&texts).into_iter().flat_map(|root| complaints(root, &ties(&texts, root))).collect()
}

type Texts<'a> = BTreeMap<&'a Path, &'a str>;

/// Each file that the compiler starts a crate of the workspace with.
fn roots<'a>(texts: &Texts<'a>) -> Vec<&'a Path> {
    let is_root = |path: &Path| {
        let parts = path.iter().filter_map(|part| part.to_str()).collect::<Vec<_>>();
        let is_read = |package| PACKAGES.contains(package);
        match &parts[..] {
            [package, "src", "lib.rs" | "main.rs"] | [package, "src", "bin", _, "main.rs"] => is_read(package),
            [package, "src", "bin", file] => is_read(package) && file.ends_with(".rs"),
            _ => false,
        }
    };
    texts.keys().copied().filter(|path| is_root(path)).collect()
}

/// Every tie between two top modules of the crate that begins with `root`.
fn ties(texts: &Texts, root: &Path) -> Vec<Tie> {
    let top = read(texts, root, &[]);
    let mut all = Vec::new();
    let mut open = declared(texts, root.parent().unwrap_or(root), &[], &top);
    all.extend(top.named.iter().filter(|named| !named.module.is_empty()).map(|named| (root.to_owned(), named.clone())));
    while let Some((file, module)) = open.pop() {
        let contents = read(texts, &file, &module);
        let folder = file.parent().unwrap_or(&file);
        let is_folder = file.ends_with("mod.rs");
        let own = if is_folder { folder.to_owned() } else { file.with_extension("") };
        open.extend(declared(texts, &own, &module, &contents));
        all.extend(contents.named.into_iter().map(|named| (file.clone(), named)));
    }
    let mut ties: Vec<Tie> = all.iter().flat_map(|(file, named)| resolve(&top, file, named)).collect();
    ties.sort();
    ties.dedup();
    ties
}

fn read(texts: &Texts, file: &Path, module: &[String]) -> Contents {
    let text = texts.get(file).copied().unwrap_or_default();
    imports::read(module, &rust::without_tests(&rust::tokens(text)))
}

/// The files of the modules that `contents`, the text of `module`, declares; `folder` is where its children are.
fn declared(texts: &Texts, folder: &Path, module: &[String], contents: &Contents) -> Vec<(PathBuf, Vec<String>)> {
    let file_of = |path: &Vec<String>| {
        let place = path[module.len()..].iter().fold(folder.to_owned(), |place, part| place.join(part));
        let candidates = [place.with_extension("rs"), place.join("mod.rs")];
        let file = candidates.into_iter().find(|file| texts.contains_key(file.as_path()))?;
        Some((file, path.clone()))
    };
    contents.declared.iter().filter_map(file_of).collect()
}

/// The ties that one name makes: none within a module, more than one where the root imports all of several modules.
fn resolve(root: &Contents, file: &Path, named: &Named) -> Vec<Tie> {
    let Some(from) = named.module.first() else { return Vec::new() };
    let targets = targets(root, &named.path);
    let others = targets.into_iter().filter(|to| to != from);
    let tie = |to| Tie {
        from: from.clone(),
        to,
        path: format!("crate::{}", named.path.join("::")),
        file: file.to_owned(),
        line: named.line,
    };
    others.map(tie).collect()
}

/// The top modules that a path leads to. A name that the root only imports leads to where the root has it from.
fn targets(root: &Contents, path: &[String]) -> Vec<String> {
    let is_top = |name: &String| root.declared.iter().chain(&root.inline).any(|module| module[..] == [name.clone()]);
    let Some(first) = path.first() else { return Vec::new() };
    if is_top(first) {
        return vec![first.clone()];
    }
    let of_root = || root.named.iter().filter(|named| named.module.is_empty());
    let is_glob = |named: &&Named| named.path.last().is_some_and(|last| last == "*");
    let imported = of_root().filter(|named| first == "*" || named.alias.as_ref() == Some(first)).collect::<Vec<_>>();
    let sources = if imported.is_empty() { of_root().filter(is_glob).collect() } else { imported };
    sources.into_iter().filter_map(|named| named.path.first()).filter(|name| is_top(name)).cloned().collect()
}

/// One complaint for each set of modules that reach each other.
fn complaints(root: &Path, ties: &[Tie]) -> Vec<String> {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let modules: BTreeSet<&str> = ties.iter().flat_map(|tie| [tie.from.as_str(), tie.to.as_str()]).collect();
    for module in &modules {
        reached.insert(module, reachable(ties, module));
    }
    let mut done = BTreeSet::new();
    let mut complaints = Vec::new();
    for module in modules {
        let cycle: BTreeSet<&str> =
            reached[module].iter().copied().filter(|other| reached[other].contains(module)).collect();
        if cycle.contains(module) && done.insert(cycle.clone()) {
            complaints.push(complaint(root, ties, &cycle));
        }
    }
    complaints
}

/// The modules that `start` depends on, directly or through others.
fn reachable<'a>(ties: &'a [Tie], start: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![start];
    while let Some(module) = open.pop() {
        let next = ties.iter().filter(|tie| tie.from == module).map(|tie| tie.to.as_str());
        open.extend(next.filter(|to| found.insert(*to)));
    }
    found
}

fn complaint(root: &Path, ties: &[Tie], cycle: &BTreeSet<&str>) -> String {
    let names = cycle.iter().copied().collect::<Vec<_>>().join(", ");
    let mut text = format!("{}: these modules import each other in a cycle: {names}", root.display());
    let is_inside = |tie: &&Tie| cycle.contains(tie.from.as_str()) && cycle.contains(tie.to.as_str());
    let mut last = ("", "");
    for tie in ties.iter().filter(is_inside) {
        if (tie.from.as_str(), tie.to.as_str()) != last {
            last = (&tie.from, &tie.to);
            text.push_str(&format!("\n  {} imports {}:", tie.from, tie.to));
        }
        text.push_str(&format!("\n    {} ({}:{})", tie.path, tie.file.display(), tie.line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::source::File;

    fn complaints(files: &[(&str, &str)]) -> Vec<String> {
        let file = |(path, text): &(&str, &str)| File { path: path.into(), text: (*text).to_owned() };
        check(&files.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn a_cycle_fails_with_the_names_that_tie_it() {
        let found = complaints(&[
            ("tests/src/lib.rs", "pub mod a;\npub mod b;\npub mod c;\npub mod d;"),
            ("tests/src/a.rs", "use crate::b::X;"),
            ("tests/src/b/mod.rs", "mod deep;\npub struct X;"),
            ("tests/src/b/deep.rs", "fn f() {\n    super::super::c::g()\n}"),
            ("tests/src/c.rs", "use crate::{\n    a::Y,\n};"),
            ("tests/src/d.rs", "use crate::a;"),
        ]);
        let [found] = &found[..] else { panic!("{found:?}") };
        assert!(
            found.starts_with("tests/src/lib.rs: these modules import each other in a cycle: a, b, c\n"),
            "{found}"
        );
        for tie in [
            "a imports b:\n    crate::b::X (tests/src/a.rs:1)",
            "b imports c:\n    crate::c::g (tests/src/b/deep.rs:2)",
            "c imports a:\n    crate::a::Y (tests/src/c.rs:2)",
        ] {
            assert!(found.contains(tie), "{found}");
        }
    }

    #[test]
    fn a_re_export_at_the_root_does_not_hide_a_cycle() {
        for import in ["use crate::X;", "use crate::*;", "use super::*;", "fn f(x: crate::Renamed) {}"] {
            let root = "mod a; mod b; pub use a::{X, Y as Renamed};";
            let files = [("xtask/src/lib.rs", root), ("xtask/src/a.rs", "use crate::b;"), ("xtask/src/b.rs", import)];
            assert_eq!(complaints(&files).len(), 1, "{import}");
        }
        let files = [
            ("xtask/src/lib.rs", "mod a; mod b; pub use a::*;"),
            ("xtask/src/a.rs", "use crate::b;"),
            ("xtask/src/b.rs", "use crate::X;"),
        ];
        assert_eq!(complaints(&files).len(), 1);
    }

    #[test]
    fn tests_comments_strings_and_one_direction_make_no_cycle() {
        let b = "//! See [`crate::a`].\nconst A: &str = \"crate::a\";\n#[cfg(test)]\nmod tests { use crate::a; }\n\
                 #[cfg(test)]\nmod helpers;";
        assert_eq!(
            complaints(&[
                ("tests/src/lib.rs", "mod a; mod b;"),
                ("tests/src/a.rs", "use crate::b;"),
                ("tests/src/b.rs", b),
                ("tests/src/b/helpers.rs", "use crate::a;"),
            ]),
            [""; 0]
        );
    }
}
