//! Checks what no compiler checks: who may import whom, and that the operating system has one door.
//! How long a file may grow is left to judgement: when it wants to be two, the reader feels it first.
//!
//! This is the architecture, written down where it cannot rot. To add a module, give it a rank; to
//! want an arrow upwards is to have put something in the wrong place.

#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test fails by panicking")]

use std::{fs, path::Path};

/// A module may import from modules of a lower rank, and from no other.
const RANKS: &[(&str, u32)] = &[
    ("base", 0),
    ("format", 1),
    ("env", 1),
    ("merge", 2),
    ("wal", 2),
    ("chunk", 3),
    ("phash", 3),
    ("memtable", 3),
    ("segment", 4),
    ("manifest", 5),
    ("compaction", 6),
    ("engine", 7),
    ("api", 8),
];

/// The same inside `engine/`: a room may import from rooms of a lower rank. `mod` is [`Engine`] itself, which puts the
/// parts below it together; what stands above it works on all of them.
const ENGINE_RANKS: &[(&str, u32)] = &[
    ("locks", 0),
    ("options", 0),
    ("watch", 0),
    ("counters", 1),
    ("catalogue", 1),
    ("context", 1),
    ("health", 1),
    ("clock", 1),
    ("work", 1),
    ("chunk_store", 2),
    ("files", 3),
    ("log", 4),
    ("timeline", 4),
    ("mod", 5),
    ("read", 6),
    ("jobs", 7),
    ("keyspaces", 8),
    ("pins", 9),
    ("write", 10),
    ("checkpoint", 11),
    ("rechunk", 11),
    ("stats", 11),
    ("check", 12),
    ("open", 13),
];

/// What `engine/mod.rs` hands out to the rooms of the engine by a shorter name, and where each is defined.
const ENGINE_NAMES: &[(&str, &str)] = &[
    ("Engine", "mod"),
    ("KeyspaceRef", "catalogue"),
    ("Durability", "options"),
    ("KeyspaceOptions", "options"),
    ("Options", "options"),
    ("Watch", "watch"),
    ("Catalogue", "catalogue"),
    ("Context", "context"),
    ("Counters", "counters"),
    ("Clock", "clock"),
    ("FileSet", "files"),
    ("Health", "health"),
    ("Jobs", "jobs"),
    ("Log", "log"),
    ("Work", "work"),
    ("ChunkStore", "chunk_store"),
];

/// Words that may appear only below the given places.
const DOORS: &[(&str, &[&str])] = &[
    ("std::fs", &["src/env/"]),
    ("Instant::now", &["src/env/"]),
    ("SystemTime::now", &["src/env/"]),
    ("thread::sleep", &[]),
    ("unsafe ", &["src/env/map.rs"]),
    // Parts own their state: whoever wants something of the whole is a function that takes it.
    ("impl Engine ", &["src/engine/mod.rs"]),
];

/// Locks of the engine have a place in the order, which `locks.rs` checks.
const ENGINE_LOCKS: &str = "src/engine/locks.rs";

/// What a module of a lower rank may name of a higher one: a re-export of the crate for doc links.
const ROOT_NAMES: &[&str] = &["Error"];

#[test]
fn source_is_tidy() {
    let mut faults = Vec::new();
    let mut files = 0;
    visit(Path::new("src"), &mut |path, text| {
        files += 1;
        check(path, text, &mut |line, what| faults.push(format!("{path}:{line}: {what}")));
    });
    assert!(files > 40, "only {files} files were found");
    assert!(faults.is_empty(), "untidy:\n{}", faults.join("\n"));
}

#[test]
fn untidiness_is_noticed() {
    let faults_of = |path: &str, text: &str| {
        let mut faults = Vec::new();
        check(path, text, &mut |_, what| faults.push(what));
        faults.join("; ")
    };
    assert_eq!(faults_of("src/wal/a.rs", "//! Head.\nuse crate::base::Error;\n"), "");
    assert!(faults_of("src/wal/a.rs", "//! Head.\nuse crate::engine::Engine;\n").contains("wal may not import engine"));
    assert!(
        faults_of("src/wal/a.rs", "//! Head.\nuse crate::{base::X, api::Db};\n").contains("wal may not import api")
    );
    assert!(faults_of("src/wal/a.rs", "//! Head.\nuse std::fs;\n").contains("std::fs"));
    assert!(faults_of("src/wal/mod.rs", "//! Head.\nuse super::engine;\n").contains("super"));
    assert!(faults_of("src/wal/a.rs", "fn f() {}\n").contains("what it is for"));
    assert!(faults_of("src/new/a.rs", "//! Head.\n").contains("no rank"));

    let inside = |path: &str, code: &str| faults_of(&format!("src/engine/{path}"), &format!("//! Head.\n{code}\n"));
    assert_eq!(inside("log/mod.rs", "use crate::engine::{files::FileSet, health::Health};"), "");
    assert_eq!(
        inside("write/decide.rs", "use super::update::optimistic;\nuse crate::engine::{Engine, log::CommitState};"),
        ""
    );
    assert_eq!(inside("pins.rs", "use super::{Engine, keyspaces::commit_change};"), "");
    assert!(inside("log/mod.rs", "use crate::engine::Engine;").contains("engine/log may not import engine/mod"));
    assert!(inside("files/tree.rs", "use crate::engine::log::Log;").contains("engine/files may not import engine/log"));
    assert!(inside("keyspaces.rs", "use super::{Engine, pins::pin};").contains("may not import engine/pins"));
    assert!(inside("read/mod.rs", "fn f() { super::super::jobs::flush() }").contains("super"));
    assert!(inside("read/mod.rs", "use crate::engine::Pin;").contains("import Pin by the room that defines it"));
    assert!(inside("new.rs", "").contains("no rank"));
    assert!(inside("jobs/mod.rs", "use parking_lot::Mutex;").contains("place in the order"));
    assert!(inside("read/mod.rs", "impl Engine {\n}").contains("impl Engine"));
}

/// Comments and pages wrap at this column, as code does.
const WIDTH: usize = 120;

#[test]
fn comments_and_pages_wrap_where_code_does() {
    let mut wide = Vec::new();
    let mut note = |path: &str, line: usize| wide.push(format!("{path}:{line}"));
    for folder in ["src", "tests", "examples", "benches", "fuzz"] {
        visit(Path::new(folder), &mut |path, text| {
            let mut in_code = false;
            for (number, line) in text.lines().enumerate() {
                let comment = line.trim_start().starts_with("//");
                in_code = comment && (in_code ^ line.contains("```"));
                if comment && !in_code && is_wide(line) {
                    note(path, number + 1);
                }
            }
        });
    }
    for page in pages(Path::new(".")) {
        let text = fs::read_to_string(&page).unwrap();
        let mut in_code = false;
        for (number, line) in text.lines().enumerate() {
            in_code ^= line.trim_start().starts_with("```");
            if !in_code && is_wide(line) {
                note(&page, number + 1);
            }
        }
    }
    assert!(wide.is_empty(), "wider than {WIDTH} columns:\n{}", wide.join("\n"));
}

/// Whether a line of prose is too wide: not a row of a table, nor a link that cannot be broken.
fn is_wide(line: &str) -> bool {
    let text = line.trim_start_matches([' ', '/', '!']);
    line.chars().count() > WIDTH && !text.starts_with('|') && !text.starts_with('[') && text.contains(' ')
}

/// The Markdown pages of the project.
fn pages(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found
}

/// The golden listing of what is public: nothing comes or goes unseen. What is `pub` can be reached, since the lint
/// `unreachable_pub` leaves no other; so the source tells it.
const PUBLIC_API: &str = "tests/golden/public-api.txt";

#[test]
fn nothing_public_comes_or_goes_unseen() {
    let mut listing = Vec::new();
    visit(Path::new("src"), &mut |path, text| {
        let code = text.split("#[cfg(test)]\n").next().unwrap_or(text);
        listing.extend(public_items(path, code));
    });
    listing.sort();
    listing.dedup();
    if std::env::var_os("CHRONOLITH_ACCEPT_API").is_some() {
        fs::write(PUBLIC_API, listing.join("\n") + "\n").unwrap();
    }
    let known = fs::read_to_string(PUBLIC_API).unwrap();
    let known: Vec<&str> = known.lines().collect();
    let gone = known.iter().filter(|line| !listing.iter().any(|found| found == *line)).map(|line| format!("- {line}"));
    let new = listing.iter().filter(|line| !known.contains(&line.as_str())).map(|line| format!("+ {line}"));
    let changes: Vec<String> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public API has changed; if that is meant, run this with CHRONOLITH_ACCEPT_API=1 and commit {PUBLIC_API}:\n{}",
        changes.join("\n")
    );
}

#[test]
fn every_kind_of_public_item_is_listed() {
    let code = "\
pub struct A {
    /// A field.
    pub b: u64,
    c: u64,
}

impl<T> A {
    pub fn d(
        &self,
        e: u64,
    ) -> u64 {
        0
    }

    fn f() {}
}

pub enum G {
    H,
    I(u64),
    J {
        k: u64,
    },
}

pub trait L {
    fn m(&self) -> u64;
}

impl fmt::Display for A {
    fn fmt() {}
}

impl Clone for Private {}

pub const N: u64 = 7;

pub(crate) fn o() {}
";
    let expected = [
        "A as Display",
        "A::b: u64",
        "A::fn d(&self, e: u64) -> u64",
        "G::H",
        "G::I(u64)",
        "G::J",
        "L::fn m(&self) -> u64",
        "const N: u64",
        "enum G",
        "struct A",
        "trait L",
    ];
    let mut found = public_items("src/api/a.rs", code);
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(public_items("src/lib.rs", "pub use api::{\n    A, B,\n};\nmod c;\n"), ["use api::{A, B}"]);
    assert!(public_items("src/api/mod.rs", "pub use a::A;\n").is_empty(), "what a hidden module hands on");
}

/// The modules whose re-exports are public.
const FACES: &[&str] = &["src/lib.rs", "src/env/mod.rs", "src/merge/mod.rs", "src/phash/mod.rs"];

/// The public items of a file, as rustfmt writes them: at the left edge, or one step inside a type, trait or enum.
fn public_items(path: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().collect();
    let (mut found, mut types, mut implemented) = (Vec::new(), Vec::new(), Vec::new());
    // What the line stands in: `impl`, `trait`, `enum`, `struct`, and its name.
    let mut inside = ("", String::new());
    for (at, line) in lines.iter().enumerate() {
        let item = || declaration(lines.get(at..).unwrap_or_default());
        if let Some(inner) = line.strip_prefix("    ").filter(|inner| !inner.starts_with([' ', '/', '#', '}'])) {
            let (kind, of) = &inside;
            let shown = match *kind {
                "enum" => inner.starts_with(char::is_uppercase),
                "trait" => inner.starts_with("fn "),
                "" => false,
                _ => inner.starts_with("pub "),
            };
            if shown {
                let item = item();
                found.push(format!("{of}::{}", item.strip_prefix("pub ").unwrap_or(&item)));
            }
        } else if let Some(rest) = line.strip_prefix("impl") {
            // Behind the parameters: a type, or a trait for a type.
            let rest = if rest.starts_with('<') { rest.split_once("> ").map_or(rest, |(_, rest)| rest) } else { rest };
            inside = ("impl", word(rest.trim()).to_owned());
            if let Some((what, of)) = rest.split_once(" for ") {
                let what = what.rsplit("::").next().unwrap_or(what).trim();
                implemented.push((word(of).to_owned(), what.to_owned()));
                inside = ("", String::new());
            }
        } else if let Some(rest) = line.strip_prefix("pub ") {
            let kind = word(rest);
            let name = word(rest[kind.len()..].trim()).to_owned();
            match kind {
                "struct" | "enum" | "trait" => {
                    found.push(format!("{kind} {name}"));
                    types.push(name.clone());
                    inside = (kind, name);
                }
                "use" if !FACES.contains(&path) => {}
                _ => found.push(item()[4..].to_owned()),
            }
        } else if !line.starts_with([' ', '/', '#']) && !line.is_empty() && *line != "}" {
            inside = ("", String::new());
        }
    }
    let implemented = implemented.into_iter().filter(|(of, _)| types.contains(of));
    found.extend(implemented.map(|(of, what)| format!("{of} as {what}")));
    found
}

/// A declaration on one line, without what stands behind it.
fn declaration(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.trim());
        text.push(' ');
        let count = |sign: char| text.matches(sign).count();
        let is_use = text.starts_with("pub use");
        let balanced = count('(') == count(')') && count('[') == count(']') && (!is_use || count('{') == count('}'));
        if balanced && text.trim_end().ends_with(['{', ';', ',', '}']) {
            break;
        }
    }
    let text = text.split(" = ").next().unwrap_or(&text).replace("( ", "(").replace(", )", ")");
    let text = text.replace("{ ", "{").replace(", }", "}");
    text.trim().trim_end_matches([';', ',']).trim_end_matches('{').trim().to_owned()
}

fn check(path: &str, text: &str, fault: &mut dyn FnMut(usize, String)) {
    let code = text.split("#[cfg(test)]\n").next().unwrap_or(text);
    if !text.starts_with("//!") {
        fault(1, "does not say what it is for".into());
    }
    for (number, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap_or(line);
        if line.contains("super::super::") || path.ends_with("mod.rs") && line.contains("super::") {
            fault(number + 1, "names another module by `super`, not `crate`".into());
        }
        for (word, doors) in DOORS {
            if line.contains(word) && !doors.iter().any(|door| path.starts_with(door)) {
                fault(number + 1, format!("`{word}` belongs in {}", doors.join(" or ")));
            }
        }
    }
    let Some((user, user_rank)) = RANKS.iter().find(|(m, _)| path.starts_with(&format!("src/{m}/"))) else {
        if path != "src/lib.rs" {
            fault(1, "has no rank".into());
        }
        return;
    };
    if *user == "engine" {
        check_engine(path, code, fault);
    }
    for used in imports(code, "crate::") {
        match RANKS.iter().find(|(module, _)| *module == used) {
            Some((other, rank)) if other != user && rank >= user_rank => {
                fault(1, format!("{user} may not import {other}"));
            }
            None if !ROOT_NAMES.contains(&used) => {
                fault(1, format!("import {used} by the module that defines it"));
            }
            _ => {}
        }
    }
}

/// Who may import whom inside the engine.
fn check_engine(path: &str, code: &str, fault: &mut dyn FnMut(usize, String)) {
    if path != ENGINE_LOCKS && code.contains("parking_lot") {
        fault(1, format!("a lock that has no place in the order: take one of {ENGINE_LOCKS}"));
    }
    let inner = path.strip_prefix("src/engine/").unwrap_or(path);
    // The face names everything; what it composes, its type says.
    if inner == "mod.rs" {
        return;
    }
    let (room, is_folder) =
        inner.split_once('/').map_or((inner.trim_end_matches(".rs"), false), |(room, _)| (room, true));
    let rank = |name: &str| ENGINE_RANKS.iter().find(|(room, _)| *room == name).map(|(_, rank)| *rank);
    let Some(own) = rank(room) else { return fault(1, "has no rank inside the engine".into()) };
    // In a folder `super` is the folder.
    let by_super = if is_folder { Vec::new() } else { imports(code, "super::") };
    for used in imports(code, "engine::").into_iter().chain(by_super) {
        let defined = ENGINE_NAMES.iter().find(|(name, _)| *name == used).map_or(used, |(_, room)| room);
        match rank(defined) {
            Some(other) if defined != room && other >= own => {
                fault(1, format!("engine/{room} may not import engine/{defined}"));
            }
            None => fault(1, format!("import {used} by the room that defines it")),
            Some(_) => {}
        }
    }
}

/// The modules that `code` names right after a prefix as `crate::`, alone or in a `{group}`; documentation may name
/// anything.
fn imports<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = code[at..].find(prefix) {
        let start = at + next;
        let line = &code[code[..start].rfind('\n').map_or(0, |end| end + 1)..start];
        let path = &code[start + prefix.len()..];
        at = start + prefix.len();
        if !line.contains("//") {
            found.extend(path.strip_prefix('{').map_or_else(|| vec![path], arms).into_iter().map(word));
        }
    }
    found
}

/// The arms of a use group, up to the brace that closes it.
fn arms(group: &str) -> Vec<&str> {
    let (mut arms, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                arms.push(group[start..at].trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    arms.retain(|arm| !arm.is_empty());
    arms
}

/// The identifier that `text` begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

fn visit(dir: &Path, check: &mut impl FnMut(&str, &str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, check);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            check(&path.to_string_lossy().replace('\\', "/"), &fs::read_to_string(&path).unwrap());
        }
    }
}
