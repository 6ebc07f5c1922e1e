//! Facts from JSON: `DIR/<release>/{acl,aclnnop,hccl}.json`, as a parser of CANN's headers wrote them.

use crate::ctype::{from_c, from_rust};
use crate::facts::{Facts, Function, Struct, merge};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Folder of a release, and how the facts name it.
const RELEASES: [(&str, &str); 2] = [("8.1.RC1", "8.1"), ("9.1", "9.1")];

const HEAD: &str = "\
# Facts of CANN's C interface: what the ABI test holds the declarations against.
# Written by `cargo xtask facts`; the notation is described in xtask/src/facts.rs.
";

/// Headers that nothing here declares from: offline models, queues, media, the graph engine's operators, allocator hooks.
const LEFT_OUT: &[&str] = &["acl_tdt", "acl_op.h", "acl_op_compiler", "acl_rt_allocator", "acl_platform", "hccn_rping"];

/// Writes the fact files.
///
/// # Errors
/// A file is missing or has another shape than expected.
pub fn run(from: &Path) -> Result<()> {
    let root = crate::root();
    for (file, target) in [
        ("acl", "acl-sys/tests/facts/acl.txt"),
        ("aclnnop", "acl-sys/tests/facts/aclnnop.txt"),
        ("hccl", "hccl-sys/tests/facts/hccl.txt"),
    ] {
        let mut read = Vec::new();
        for (folder, release) in RELEASES {
            let path = from.join(folder).join(format!("{file}.json"));
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let facts = one_file(&serde_json::from_str(&text)?).with_context(|| format!("in {}", path.display()))?;
            read.push((release, facts));
        }
        let read: Vec<_> = read.iter().map(|(release, facts)| (*release, facts)).collect();
        let target = root.join(target);
        fs::write(&target, format!("{HEAD}{}", merge(&read)))
            .with_context(|| format!("writing {}", target.display()))?;
        println!("wrote {}", target.display());
    }
    Ok(())
}

fn one_file(json: &Value) -> Result<Facts> {
    let mut facts = Facts::default();
    let kind = if json["notation"].is_string() { from_rust } else { from_c };
    for (name, row) in entries(json, "functions") {
        let params = array(&row["params"])
            .iter()
            .map(|p| Ok((text(&p[1])?.trim_end_matches('_').to_owned(), kind(text(&p[0])?))));
        let function = Function { params: params.collect::<Result<_>>()?, returns: kind(text(&row["returns"])?) };
        // Offline models share a header with captured graphs and dumping, which are declared.
        let model = name.starts_with("aclmdl") && !name.starts_with("aclmdlRI") && !name.ends_with("Dump");
        let foreign = function.params.iter().any(|(_, kind)| kind.contains("fn(") || kind.contains("[]"));
        if !model && !foreign {
            facts.functions.insert(name.clone(), function);
        }
    }
    for (name, row) in entries(json, "enums") {
        let values = row["values"].as_object().context("values of an enumeration")?;
        let values = values.iter().map(|(name, value)| Ok((name.clone(), value.as_i64().context("an enumerator")?)));
        facts.enums.insert(name.clone(), values.collect::<Result<_>>()?);
    }
    for (name, row) in entries(json, "structs").filter(|(name, _)| !name.starts_with('(')) {
        let field = |f: &Value| {
            let offset = f[2].as_u64().context("an offset")? as usize;
            Ok((text(&f[0])?.to_owned(), kind(text(&f[1])?), offset))
        };
        let fields = array(&row["fields"]).iter().map(field).collect::<Result<Vec<_>>>()?;
        let size = row["size"].as_u64().context("a size")? as usize;
        if !fields.iter().any(|(_, kind, _)| kind.contains("unnamed")) {
            facts.structs.insert(typedef_of(json, name), Struct { size, fields });
        }
    }
    for (name, value) in entries(json, "constants") {
        if let Some(value) = value.as_i64().map(i128::from).or(value.as_u64().map(i128::from)) {
            facts.constants.insert(name.clone(), value);
        }
    }
    for (name, meaning) in entries(json, "typedefs") {
        let meaning = text(meaning)?;
        if !["enum ", "struct ", "union "].iter().any(|tag| meaning.starts_with(tag)) {
            facts.types.insert(name.clone(), kind(meaning));
        }
    }
    pair_operators(&mut facts)?;
    Ok(facts)
}

/// The entries of a section that come from headers which the declarations cover.
fn entries<'a>(json: &'a Value, section: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let covered =
        |row: &Value| row["header"].as_str().is_none_or(|header| !LEFT_OUT.iter().any(|out| header.contains(out)));
    json[section].as_object().into_iter().flatten().filter(move |(_, row)| covered(row))
}

/// The name by which C refers to `struct tag`.
fn typedef_of(json: &Value, tag: &str) -> String {
    let wanted = format!("struct {tag}");
    let mut names = json["typedefs"].as_object().into_iter().flatten();
    names.find(|(_, meaning)| **meaning == *wanted).map_or(tag, |(name, _)| name.as_str()).to_owned()
}

/// Turns the pairs of functions that are operators into one entry each, checking what all of them share.
fn pair_operators(facts: &mut Facts) -> Result<()> {
    let pairs: Vec<String> =
        facts.functions.keys().filter_map(|n| n.strip_suffix("GetWorkspaceSize")).map(str::to_owned).collect();
    for name in pairs {
        let Some(second) = facts.functions.remove(&name) else { continue };
        let types: Vec<_> = second.params.iter().map(|(_, kind)| kind.as_str()).collect();
        ensure!(
            types == ["*mut c_void", "u64", "*mut aclOpExecutor", "aclrtStream"],
            "second phase of {name}: {types:?}"
        );
        let mut first = facts.functions.remove(&format!("{name}GetWorkspaceSize")).unwrap_or_default();
        let last = first.params.split_off(first.params.len().saturating_sub(2));
        let types: Vec<_> = last.iter().map(|(_, kind)| kind.as_str()).collect();
        ensure!(types == ["*mut u64", "*mut *mut aclOpExecutor"], "first phase of {name} ends in {types:?}");
        ensure!(first.returns == "aclnnStatus" && second.returns == "aclnnStatus", "{name} returns another type");
        facts.operators.insert(name, first);
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
