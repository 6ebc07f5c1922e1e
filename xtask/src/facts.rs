//! The facts of the C interface, and the text in which they are kept.
//!
//! A line is a fact: the releases that have it, its kind, and its content in Rust's notation.
//!
//! ```text
//! 8.1 9.1 fn aclrtFree(devPtr: *mut c_void) -> aclError
//! 9.1 op aclnnRightShift(input: *const aclTensor, shiftBits: *const aclTensor, out: *mut aclTensor)
//! 8.1 9.1 enum aclrtRunMode { ACL_DEVICE = 0, ACL_HOST = 1 }
//! 8.1 9.1 struct aclrtUuid [16] { bytes: [c_char; 16] @ 0 }
//! 9.1 const ACL_EVENT_SYNC = 1
//! 8.1 9.1 type aclrtStream = *mut c_void
//! ```
//!
//! An `op` stands for a pair of functions: what is listed are the parameters of the first phase before `workspaceSize`
//! and `executor`; both of these and the whole second phase are the same for every operator.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A function: name and type of each parameter, type of the result.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Function {
    /// Name and type of each parameter.
    pub params: Vec<(String, String)>,
    /// Type of the result, `()` for none.
    pub returns: String,
}

/// A structure: its size, and name, type and offset of each field.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Struct {
    /// Bytes.
    pub size: usize,
    /// Name, type and offset of each field.
    pub fields: Vec<(String, String, usize)>,
}

/// Interface facts by name: of one release, or as declared.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Functions that are no part of an operator.
    pub functions: BTreeMap<String, Function>,
    /// First phases of operators, without the two last parameters.
    pub operators: BTreeMap<String, Function>,
    /// Enumerations: value by enumerator.
    pub enums: BTreeMap<String, BTreeMap<String, i64>>,
    /// Structures.
    pub structs: BTreeMap<String, Struct>,
    /// Constants of the preprocessor.
    pub constants: BTreeMap<String, i128>,
    /// Scalar types, handles and callbacks.
    pub types: BTreeMap<String, String>,
}

impl Facts {
    /// The facts of `release` in `text`.
    ///
    /// # Errors
    /// A line that cannot be read, with its number.
    pub fn parse(text: &str, release: &str) -> Result<Self> {
        let mut facts = Self::default();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut rest = line;
            let mut here = false;
            while let Some((word, after)) =
                rest.split_once(' ').filter(|(word, _)| word.starts_with(|c: char| c.is_ascii_digit()))
            {
                here |= word == release;
                rest = after;
            }
            if here {
                facts.add(rest).with_context(|| format!("line {}: {line}", number + 1))?;
            }
        }
        Ok(facts)
    }

    fn add(&mut self, fact: &str) -> Result<()> {
        let (kind, rest) = fact.split_once(' ').context("no kind")?;
        match kind {
            "fn" | "op" => {
                let (name, rest) = rest.split_once('(').context("no parameters")?;
                let (params, returns) = match rest.rsplit_once(") -> ") {
                    Some(both) => both,
                    None => (rest.strip_suffix(')').context("parameters do not end")?, ""),
                };
                let pair = |p: &str| {
                    let (name, kind) = p.split_once(": ").context("no type")?;
                    Ok((name.to_owned(), kind.to_owned()))
                };
                let params = list(params).map(pair).collect::<Result<_>>()?;
                // A pair of functions that is an operator always answers with aclnn's status.
                let returns = if kind == "op" { "aclnnStatus" } else { returns }.to_owned();
                let table = if kind == "fn" { &mut self.functions } else { &mut self.operators };
                table.insert(name.to_owned(), Function { params, returns });
            }
            "enum" => {
                let (name, values) = braces(rest)?;
                let pair = |v: &str| {
                    let (name, value) = v.split_once(" = ").context("no value")?;
                    Ok((name.to_owned(), value.parse()?))
                };
                self.enums.insert(name.to_owned(), list(values).map(pair).collect::<Result<_>>()?);
            }
            "struct" => {
                let (head, fields) = braces(rest)?;
                let (name, size) = head.split_once(" [").context("no size")?;
                let field = |f: &str| {
                    let (name, rest) = f.split_once(": ").context("no type")?;
                    let (kind, offset) = rest.rsplit_once(" @ ").context("no offset")?;
                    Ok((name.to_owned(), kind.to_owned(), offset.parse()?))
                };
                let fields = list(fields).map(field).collect::<Result<_>>()?;
                self.structs.insert(name.to_owned(), Struct { size: size.trim_end_matches(']').parse()?, fields });
            }
            "const" => {
                let (name, value) = rest.split_once(" = ").context("no value")?;
                self.constants.insert(name.to_owned(), value.parse()?);
            }
            "type" => {
                let (name, meaning) = rest.split_once(" = ").context("no meaning")?;
                self.types.insert(name.to_owned(), meaning.to_owned());
            }
            other => bail!("unknown kind {other:?}"),
        }
        Ok(())
    }

    /// The facts as lines, without the releases.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let join = |params: &[(String, String)]| {
            params.iter().map(|(name, kind)| format!("{name}: {kind}")).collect::<Vec<_>>().join(", ")
        };
        for (name, meaning) in &self.types {
            lines.push(format!("type {name} = {meaning}"));
        }
        for (name, value) in &self.constants {
            lines.push(format!("const {name} = {value}"));
        }
        for (name, values) in &self.enums {
            // By value, as the headers list them.
            let mut values: Vec<_> = values.iter().collect();
            values.sort_by_key(|(_, value)| **value);
            let values: Vec<_> = values.into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
            lines.push(format!("enum {name} {{ {} }}", values.join(", ")));
        }
        for (name, it) in &self.structs {
            let fields: Vec<_> =
                it.fields.iter().map(|(name, kind, offset)| format!("{name}: {kind} @ {offset}")).collect();
            lines.push(format!("struct {name} [{}] {{ {} }}", it.size, fields.join(", ")));
        }
        for (name, it) in &self.functions {
            lines.push(format!("fn {name}({}) -> {}", join(&it.params), it.returns));
        }
        for (name, it) in &self.operators {
            lines.push(format!("op {name}({})", join(&it.params)));
        }
        lines
    }
}

/// The text of the facts of several releases, a line that they share written once.
pub fn merge(releases: &[(&str, &Facts)]) -> String {
    let mut merged: Vec<(String, String)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (release, facts) in releases {
        for line in facts.lines() {
            match places.get(&line) {
                Some(place) => {
                    let _ = write!(merged[*place].0, "{release} ");
                }
                None => {
                    places.insert(line.clone(), merged.len());
                    merged.push((format!("{release} "), line));
                }
            }
        }
    }
    merged.sort_by(|(_, a), (_, b)| a.cmp(b));
    merged.into_iter().map(|(releases, line)| format!("{releases}{line}\n")).collect()
}

/// Parts between commas that are in no bracket.
fn list(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn braces(text: &str) -> Result<(&str, &str)> {
    let (head, rest) = text.split_once('{').context("no braces")?;
    Ok((head.trim(), rest.trim_end().trim_end_matches('}')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# two releases
8.1 9.1 enum E { A = -1, B = 2 }
9.1 struct S [24] { a: [c_char; 16] @ 0, b: *mut c_void @ 16 }
8.1 9.1 fn f(a: *const c_char, b: u64) -> i32
9.1 fn g(a: u8) -> ()
9.1 op aclnnX(x: *const aclTensor)
";

    #[test]
    fn what_is_written_is_read_again() {
        let old = Facts::parse(TEXT, "8.1").expect("readable");
        let new = Facts::parse(TEXT, "9.1").expect("readable");
        assert_eq!(old.structs.len() + old.operators.len(), 0);
        assert_eq!(new.structs["S"].fields[1], ("b".into(), "*mut c_void".into(), 16));
        assert_eq!(new.enums["E"]["A"], -1);
        assert_eq!(new.functions["g"], Function { params: vec![("a".into(), "u8".into())], returns: "()".into() });
        let again = merge(&[("8.1", &old), ("9.1", &new)]);
        assert_eq!(Facts::parse(&again, "8.1").expect("readable"), old);
        assert_eq!(Facts::parse(&again, "9.1").expect("readable"), new);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = Facts::parse("8.1 fn f() -> i32\n8.1 fn g", "8.1").expect_err("no parameters");
        assert!(format!("{error:#}").starts_with("line 2: 8.1 fn g"), "{error:#}");
    }
}
