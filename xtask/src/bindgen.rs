//! `cargo xtask bindgen`: the declarations against an installed toolkit's own headers.
//!
//! The program `bindgen` is run as a process, so that building this workspace needs no libclang.

use crate::ctype::from_rust;
use crate::declared::Declared;
use crate::facts::{Facts, Function, Struct};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Headers that are read, with the ones of which a release has only some.
const HEADERS: &[&str] = &[
    "acl/acl.h",
    "acl/acl_rt.h",
    "acl/acl_prof.h",
    "aclnn/acl_meta.h",
    "aclnn/aclnn_base.h",
    "hccl/hccl.h",
    "hccl/hccl_comm.h",
];

/// Runs bindgen over the headers below `home` and reports what differs from the declarations.
///
/// # Errors
/// bindgen or the headers are missing, or something differs.
pub fn run(home: &Path) -> Result<()> {
    let include = include_folder(home)?;
    let operators = operator_folder(home, &include)?;
    let out = crate::root().join("target/bindgen");
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let wrapper = out.join("all.h");
    let mut headers: Vec<String> =
        HEADERS.iter().filter(|h| include.join(h).is_file()).map(|h| (*h).to_owned()).collect();
    headers.extend(operator_headers(&operators)?);
    let lines: String = headers.iter().map(|header| format!("#include \"{header}\"\n")).collect();
    fs::write(&wrapper, lines).with_context(|| format!("writing {}", wrapper.display()))?;
    let bindings = out.join("bindings.rs");
    generate(&wrapper, &[&include, &operators], &bindings)?;
    let text = fs::read_to_string(&bindings).with_context(|| format!("reading {}", bindings.display()))?;
    let facts = read(&text);
    println!(
        "{} headers, {} functions, {} structures: {}",
        headers.len(),
        facts.functions.len(),
        facts.structs.len(),
        bindings.display()
    );
    ensure!(
        !facts.functions.is_empty() && !facts.structs.is_empty(),
        "nothing was recognised in {}: bindgen may write another form than this task reads",
        bindings.display()
    );
    let found = report(&facts);
    found.iter().for_each(|line| println!("  {line}"));
    ensure!(found.is_empty(), "{} differences between the declarations and {}", found.len(), include.display());
    println!("no difference in what this release has");
    Ok(())
}

fn include_folder(home: &Path) -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    let folders = [home.join("include"), home.join(format!("{arch}-linux/include")), home.to_owned()];
    let found = folders.iter().find(|folder| folder.join("acl/acl.h").is_file());
    found
        .cloned()
        .with_context(|| format!("no acl/acl.h in any of {folders:?}; name the toolkit's folder by --cann-home"))
}

/// The folder that holds `aclnnop/`: beside the other headers, or in CANN 8 below the operator package.
fn operator_folder(home: &Path, include: &Path) -> Result<PathBuf> {
    let package = "opp/built-in/op_impl/ai_core/tbe/op_api/include";
    let mut folders = vec![include.to_owned()];
    // The headers may have been named by a folder inside the toolkit.
    folders.extend(home.ancestors().take(3).map(|folder| folder.join(package)));
    let found = folders.iter().find(|folder| folder.join("aclnnop").is_dir());
    found.cloned().with_context(|| format!("no aclnnop in any of {folders:?}; install the toolkit's operator headers"))
}

/// The headers that declare the operators of the table.
fn operator_headers(operators: &Path) -> Result<Vec<String>> {
    let folder = operators.join("aclnnop");
    let names: Vec<String> =
        acl_sys::loader::OPERATORS.iter().map(|row| format!("aclnn{}GetWorkspaceSize(", row.name)).collect();
    let mut headers = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        if names.iter().any(|name| text.contains(name)) {
            headers.push(format!("aclnnop/{}", path.file_name().unwrap_or_default().to_string_lossy()));
        }
    }
    headers.sort();
    Ok(headers)
}

fn generate(wrapper: &Path, include: &[&Path], bindings: &Path) -> Result<()> {
    let mut command = Command::new("bindgen");
    command.arg(wrapper).arg("-o").arg(bindings);
    command.args(["--no-prepend-enum-name", "--default-enum-style", "consts", "--formatter", "prettyplease"]);
    command.args(["--allowlist-function", "acl.*|Hccl.*", "--allowlist-type", "acl.*|Hccl.*"]);
    command.args(["--", "-x", "c++", "-std=c++17"]);
    include.iter().for_each(|folder| {
        command.arg("-I").arg(folder);
    });
    match command.stdin(Stdio::null()).status() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "the program bindgen is not installed: cargo install bindgen-cli; it needs libclang (LIBCLANG_PATH names its folder)"
        ),
        Err(error) => bail!("bindgen cannot be run: {error}"),
        Ok(status) if !status.success() => bail!("bindgen failed ({status}); its own message is above"),
        Ok(_) => Ok(()),
    }
}

/// The facts in what bindgen wrote: functions, constants of enumerations, sizes and offsets of structures.
pub fn read(bindings: &str) -> Facts {
    let mut facts = Facts::default();
    let text = bindings.split_whitespace().collect::<Vec<_>>().join(" ");
    for declaration in text.split("pub fn ").skip(1) {
        let Some((head, _)) = declaration.split_once(';') else { continue };
        let Some((name, rest)) = head.split_once('(') else { continue };
        let Some((params, returns)) = rest.rsplit_once(')') else { continue };
        // A method of a structure is no function of the interface.
        if params.contains("self") && params.contains('&') || head.contains('{') {
            continue;
        }
        let pair = |p: &str| p.split_once(':').map(|(n, t)| (n.trim().trim_end_matches('_').to_owned(), from_rust(t)));
        let params = params.split(',').filter_map(pair).collect();
        let returns = returns.trim().trim_start_matches("->").trim();
        let returns = if returns.is_empty() { "()".to_owned() } else { from_rust(returns) };
        facts.functions.insert(name.trim().to_owned(), Function { params, returns });
    }
    for constant in text.split("pub const ").skip(1) {
        let Some((name, rest)) = constant.split_once(':') else { continue };
        let Some((_, rest)) = rest.split_once('=') else { continue };
        let value = rest.split(';').next().unwrap_or_default().trim();
        if let Ok(value) = value.parse() {
            facts.constants.insert(name.trim().to_owned(), value);
        }
    }
    for check in text.split("[\"Size of ").skip(1) {
        let (Some((name, _)), Some(size)) = (check.split_once('"'), number(check)) else { continue };
        facts.structs.entry(name.to_owned()).or_default().size = size;
    }
    for check in text.split("[\"Offset of field: ").skip(1) {
        let (Some((field, _)), Some(offset)) = (check.split_once('"'), number(check)) else { continue };
        let Some((name, field)) = field.split_once("::") else { continue };
        let fields = &mut facts.structs.entry(name.to_owned()).or_default().fields;
        fields.push((field.to_owned(), String::new(), offset));
    }
    facts
}

/// The number in bindgen's check `… - 16usize]`.
fn number(check: &str) -> Option<usize> {
    check.split(" - ").nth(1)?.split("usize").next()?.trim().parse().ok()
}

/// How the declarations differ from one release's headers, in what the release has.
pub fn report(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut function = |name: &str, ours: &Function| {
        let Some(theirs) = facts.functions.get(name) else { return };
        let kinds =
            |f: &Function| f.params.iter().map(|(_, kind)| crate::ctype::without_const(kind)).collect::<Vec<_>>();
        if kinds(theirs) != kinds(ours) || theirs.returns != ours.returns {
            found.push(format!("{name}: the header has {theirs:?}, declared is {ours:?}"));
        }
    };
    let tail = [("workspaceSize", "*mut u64"), ("executor", "*mut *mut aclOpExecutor")];
    let tables = [Declared::acl(), Declared::operators(), Declared::hccl()];
    for table in &tables {
        table.facts.functions.iter().for_each(|(name, ours)| function(name, ours));
        for (name, ours) in &table.facts.operators {
            let mut whole = ours.clone();
            whole.params.extend(tail.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
            function(&format!("{name}GetWorkspaceSize"), &whole);
        }
    }
    for table in &tables {
        for (name, value) in table.facts.enums.values().flatten() {
            match facts.constants.get(name) {
                Some(theirs) if *theirs != i128::from(*value) => {
                    found.push(format!("{name}: the header has {theirs}, declared is {value}"));
                }
                _ => {}
            }
        }
        for (name, ours) in &table.facts.structs {
            let Some(theirs) = structure(facts, name) else { continue };
            found.extend(layout(name, ours, theirs));
        }
    }
    found
}

/// bindgen knows a structure by its tag, which ends in `Def` where the typedef does not.
fn structure<'a>(facts: &'a Facts, name: &str) -> Option<&'a Struct> {
    facts.structs.get(name).or_else(|| facts.structs.get(&format!("{name}Def")))
}

fn layout(name: &str, ours: &Struct, theirs: &Struct) -> Vec<String> {
    let mut found = Vec::new();
    for ((field, _, offset), (our_field, _, our_offset)) in theirs.fields.iter().zip(&ours.fields) {
        if offset != our_offset {
            found.push(format!("{name}: the header has {field} at {offset}, declared is {our_field} at {our_offset}"));
        }
    }
    // A release that knows fewer fields has a smaller structure, which callers fill by its version.
    if theirs.fields.len() == ours.fields.len() && theirs.size != ours.size {
        found.push(format!("{name}: {} bytes in the header, declared are {}", theirs.size, ours.size));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDINGS: &str = r#"
        pub type aclError = ::std::os::raw::c_int;
        pub const ACL_HOST: aclrtRunMode = 1;
        extern "C" { #[doc = " a comment"] pub fn aclrtFree(devPtr: *mut ::std::os::raw::c_void) -> aclError; }
        extern "C" { pub fn aclnnAbsGetWorkspaceSize(self_: *const aclTensor, out: *mut aclTensor,
            workspaceSize: *mut u64, executor: *mut *mut aclOpExecutor) -> aclnnStatus; }
        const _: () = { ["Size of aclrtUuid"][::std::mem::size_of::<aclrtUuid>() - 16usize];
            ["Offset of field: aclrtUuid::bytes"][::std::mem::offset_of!(aclrtUuid, bytes) - 0usize]; };
    "#;

    #[test]
    fn bindings_are_read() {
        let facts = read(BINDINGS);
        assert_eq!(facts.functions["aclrtFree"].params, [("devPtr".to_owned(), "*mut c_void".to_owned())]);
        assert_eq!(facts.constants["ACL_HOST"], 1);
        assert_eq!(facts.structs["aclrtUuid"], Struct { size: 16, fields: vec![("bytes".into(), String::new(), 0)] });
        assert_eq!(report(&facts), Vec::<String>::new());
    }

    #[test]
    fn a_header_that_differs_is_reported() {
        let changed = BINDINGS.replace("devPtr: *mut ::std::os::raw::c_void", "devPtr: u64").replace("= 1;", "= 3;");
        let changed = changed.replace("out: *mut aclTensor,", "").replace("16usize", "24usize");
        let found = report(&read(&changed));
        for name in ["aclrtFree", "ACL_HOST", "aclnnAbsGetWorkspaceSize", "aclrtUuid"] {
            assert!(found.iter().any(|line| line.starts_with(name)), "{name} in {found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }
}
