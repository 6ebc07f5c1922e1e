//! Public names in Rust sources, as far as formatted text shows them: items begin their line, methods stand four
//! spaces in.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every source below `folder` without its tests, with the name of the module that lies directly in `folder`.
fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path: PathBuf = entry.expect("a folder lists its entries").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
                false => {}
            }
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let text = without_tests(&text);
        let module = path.strip_prefix(folder).expect("found below it").components().next().expect("a file has a name");
        (module.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned(), text)
    };
    files.into_iter().map(read).collect()
}

/// `text` without modules for tests, which end where a line is a closing brace alone.
fn without_tests(text: &str) -> String {
    let mut parts = text.split("#[cfg(test)]\nmod ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once("\n}\n").map_or("", |(_, after)| after))
}

/// The identifier that `text` begins with.
fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// The name that a public item declares on this line, without its indentation.
fn declared(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ")?;
    // A name that something gets by being exported again.
    if let Some((_, name)) = rest.strip_prefix("use ").and_then(|path| path.rsplit_once(" as ")) {
        return Some(identifier(name));
    }
    let rest = rest.strip_prefix("const ").filter(|rest| rest.starts_with("fn ")).unwrap_or(rest);
    let rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
    let kinds = ["fn ", "struct ", "enum ", "trait ", "type ", "mod ", "static ", "const "];
    kinds.iter().find_map(|kind| rest.strip_prefix(kind)).map(identifier).filter(|name| !name.is_empty())
}

/// Top-level blocks of `text` whose first line `head` accepts: that line and the lines inside.
fn blocks(text: &str, head: impl Fn(&str) -> bool) -> Vec<(&str, Vec<&str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match found.last_mut() {
            Some((_, lines)) if inside => {
                inside = !line.starts_with(['}', ')']);
                lines.push(line);
            }
            _ if head(line) => {
                inside = !line.trim_end().ends_with(['}', ';']);
                found.push((line, Vec::new()));
            }
            _ => {}
        }
    }
    found
}

/// The type that an inherent `impl` is of.
fn implemented(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if line.contains(" for ") {
        return None;
    }
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0
        })?;
        rest = &rest[end + 1..];
    }
    Some(identifier(rest.trim_start())).filter(|name| !name.is_empty())
}

/// Names of the public inherent methods of `of`, those included that a macro makes from a row of its invocation:
/// `unary_op!(name, …)` inside the `impl`, or `name = Value;` and `name / other = Value;` in a table.
pub fn methods_of(of: &str, folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in sources(folder) {
        for (_, lines) in blocks(&text, |line| implemented(line) == Some(of)) {
            for line in lines {
                let Some(line) = line.strip_prefix("    ") else { continue };
                names.extend(declared(line).map(str::to_owned));
                if let Some((_, arguments)) = line.split_once("op!(") {
                    names.insert(identifier(arguments).to_owned());
                }
            }
        }
        if !text.contains(&format!("=> {{ impl {of} {{")) {
            continue;
        }
        for (_, lines) in blocks(&text, is_invocation) {
            for (row, _) in lines.iter().filter_map(|line| line.trim().split_once(" = ")) {
                names.extend(row.split(" / ").filter(|name| identifier(name) == *name).map(str::to_owned));
            }
        }
    }
    names
}

fn is_invocation(line: &str) -> bool {
    let name = identifier(line);
    !name.is_empty() && line[name.len()..].starts_with('!')
}

/// `module::item` and `module::Type::method` of a crate, by the modules in its root.
pub struct Items(pub BTreeSet<String>);

impl Items {
    pub fn of(folder: &Path) -> Self {
        let mut names = BTreeSet::new();
        for (module, text) in sources(folder) {
            names.extend(text.lines().filter_map(declared).map(|item| format!("{module}::{item}")));
            for (_, lines) in blocks(&text, |line| line.starts_with("pub mod ") && line.ends_with('{')) {
                let items = lines.iter().filter_map(|line| declared(line.strip_prefix("    ")?));
                names.extend(items.map(|item| format!("{module}::{item}")));
            }
            for (head, lines) in blocks(&text, |line| implemented(line).is_some()) {
                let of = implemented(head).unwrap_or_default();
                let methods = lines.iter().filter_map(|line| declared(line.strip_prefix("    ")?));
                names.extend(methods.map(|method| format!("{module}::{of}::{method}")));
            }
        }
        // A module of the root is known by the items in it, and its own name by itself.
        names.retain(|name| !name.starts_with("lib::"));
        Self(names)
    }
}

/// Every word in macros and their invocations.
pub struct Words(BTreeSet<String>);

impl Words {
    pub fn of_macros(folder: &Path) -> Self {
        let mut words = BTreeSet::new();
        for (_, text) in sources(folder) {
            for (head, lines) in blocks(&text, is_invocation) {
                for line in std::iter::once(head).chain(lines) {
                    words.extend(line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
                }
            }
        }
        Self(words)
    }

    pub fn contains(&self, word: &str) -> bool {
        self.0.contains(word)
    }
}
